"""A handler that uses things up, as people write them.

LISTEN is host:port. /take?mib=50&ms=500 takes that much for that long.
/fds?n=1&ms=20 opens descriptors that it never closes.
"""
import os
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

LEAKED = []


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        parts = urllib.parse.urlsplit(self.path)
        query = {k: int(v) for k, v in urllib.parse.parse_qsl(parts.query)}
        pause = query.get("ms", 0) / 1000
        status, body = 200, b"taken"
        if parts.path == "/take":
            taken = bytearray(query.get("mib", 0) << 20)
            taken[::4096] = b"x" * len(taken[::4096])
            time.sleep(pause)
            del taken
        elif parts.path == "/fds":
            try:
                LEAKED.extend(os.open("/dev/null", os.O_RDONLY) for _ in range(query.get("n", 0)))
                body = b"leaked"
            except OSError as err:
                status, body = 500, str(err).encode()
            time.sleep(pause)
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 512
    daemon_threads = True


host, port = os.environ["LISTEN"].rsplit(":", 1)
Server((host, int(port)), Handler).serve_forever()
