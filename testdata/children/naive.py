"""A handler as people write them: it knows nothing of signals.

LISTEN is host:port. It answers ms (of the query) later with the body that
came. RECORD is a file that gets a line of JSON per request.
"""
import json
import os
import threading
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

LOCK = threading.Lock()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        with LOCK, open(os.environ["RECORD"], "a", encoding="ascii") as record:
            record.write(json.dumps({"ID": self.headers.get("X-Id", "")}) + "\n")
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
        time.sleep(int(query.get("ms", ["0"])[0]) / 1000)
        body = body or b"slow"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = answer

    def log_message(self, *args):
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 512
    daemon_threads = True


host, port = os.environ["LISTEN"].rsplit(":", 1)
Server((host, int(port)), Handler).serve_forever()
