"""The sample function of ../hello in Python: the same routes, and no more
knowledge of signals than any script has."""

import os
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit


def number(query, name, fallback):
    text = query.get(name, [""])[0]
    return int(text) if text.isascii() and text.isdigit() else fallback


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True

    def route(self):
        parts = urlsplit(self.path)
        query = parse_qs(parts.query)
        if parts.path == "/sse":
            self.body()
            self.events(number(query, "n", 5))
            return
        status, kind, answer = self.answer(parts.path, query)
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = route

    def answer(self, path, query):
        body = self.body()
        if path == "/slow":
            time.sleep(number(query, "ms", 250) / 1000)
        if path in ("/", "/slow"):
            return 200, "text/plain", b"Hello from Python\n"
        if path == "/echo":
            return 200, self.headers.get("Content-Type", "application/octet-stream"), body
        if path == "/env":
            lines = sorted(f"{name}={value}\n" for name, value in os.environ.items())
            return 200, "text/plain", "".join(lines).encode()
        return 404, "text/plain", b"404\n"

    def body(self):
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", "0")))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return b"".join(chunks)

    def events(self, count):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")  # its end is the stream's end
        self.end_headers()
        for i in range(count):
            if i:
                time.sleep(0.1)
            self.wfile.write(f"id: {i}\ndata: {time.time()}\n\n".encode())
            self.wfile.flush()

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024  # connections that may wait to be accepted


if __name__ == "__main__":
    Server(("127.0.0.1", int(os.getenv("http_port", "5000"))), Handler).serve_forever()
