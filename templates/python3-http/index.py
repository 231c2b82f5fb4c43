"""Serves function/handler.py on loopback, for fwatchdog in http mode."""

import json
import os
import sys
import traceback
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, unquote, urlsplit

from function import handler


class Event:
    """One request. body is bytes; headers are found in any case; query holds
    the first value of each name."""

    def __init__(self, method, target, headers, body):
        parts = urlsplit(target)
        self.method = method
        self.path = unquote(parts.path)
        self.query = {}
        for name, value in parse_qsl(parts.query, keep_blank_values=True):
            self.query.setdefault(name, value)
        self.headers = headers
        self.body = body


class Context:
    def __init__(self):
        self.hostname = os.getenv("HOSTNAME", "localhost")


class BadBody(Exception):
    """The request's body is not framed as HTTP/1.1 says."""


def read_exactly(stream, count):
    data = stream.read(count)
    if len(data) != count:
        raise BadBody("it ended early")
    return data


def read_line(stream):
    line = stream.readline(LONGEST_LINE + 1)
    if not line.endswith(b"\n"):
        raise BadBody("a line is cut or too long")
    return line.strip()


# Longest line of chunked framing; sizes are a few bytes.
LONGEST_LINE = 8192


def read_chunks(stream):
    chunks = []
    while True:
        digits = read_line(stream).split(b";")[0].strip()
        if not digits or digits.strip(b"0123456789abcdefABCDEF"):
            raise BadBody("a chunk without a size")
        size = int(digits, 16)
        if size == 0:
            break
        chunks.append(read_exactly(stream, size))
        if read_line(stream):
            raise BadBody("a chunk longer than its size")
    while read_line(stream):  # trailers
        pass
    return b"".join(chunks)


def read_body(stream, headers):
    if headers.get("Transfer-Encoding", "").lower() == "chunked":
        return read_chunks(stream)
    length = headers.get("Content-Length", "0")
    if not (length.isascii() and length.isdigit()):
        raise BadBody("Content-Length is no number")
    return read_exactly(stream, int(length))


def answer_of(result):
    """Status, headers and body of what a handler returned: None, a dict with
    statusCode, body and headers, or a body alone."""
    if not (isinstance(result, dict) and result.keys() & {"statusCode", "body", "headers"}):
        result = {"body": result}
    status = int(result.get("statusCode", HTTPStatus.OK))
    if not 200 <= status <= 599:
        raise ValueError(f"statusCode {status} is not from 200 to 599")
    headers = result.get("headers") or {}
    headers = list(headers.items() if isinstance(headers, dict) else headers)
    for name, value in headers:
        if set(f"{name}{value}") & set("\r\n"):
            raise ValueError(f"header {name!r} spans lines")
        f"{name}: {value}".encode("latin-1")  # raises for what no header can hold
    body = result.get("body")
    kind = None
    if body is None:
        body = b""
    elif isinstance(body, (dict, list)):
        body, kind = json.dumps(body).encode(), "application/json"
    elif not isinstance(body, (bytes, bytearray)):
        body, kind = str(body).encode(), "text/plain; charset=utf-8"
    if kind and not any(name.lower() == "content-type" for name, _ in headers):
        headers.append(("Content-Type", kind))
    return status, headers, body


class Server(ThreadingHTTPServer):
    daemon_threads = True
    # Connections that may wait to be accepted; fwatchdog opens one per
    # request in flight.
    request_queue_size = 1024


class Connection(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Head and body leave in one write, and are not held back for an ack.
    wbufsize = -1
    disable_nagle_algorithm = True

    def answer(self):
        try:
            body = read_body(self.rfile, self.headers)
        except BadBody as e:
            self.close_connection = True
            self.send(HTTPStatus.BAD_REQUEST, [], f"request body: {e}\n".encode())
            return
        event = Event(self.command, self.path, self.headers, body)
        try:
            status, headers, body = answer_of(handler.handle(event, Context()))
        except Exception:
            traceback.print_exc(file=sys.stderr)
            status, headers, body = HTTPStatus.INTERNAL_SERVER_ERROR, [], b"the function failed\n"
        self.send(status, headers, body)

    def send(self, status, headers, body):
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        bodyless = status in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED)
        if not bodyless:
            self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD" and not bodyless:
            self.wfile.write(body)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = answer

    def log_message(self, *_):
        pass  # fwatchdog logs each request


if __name__ == "__main__":
    Server(("127.0.0.1", int(os.getenv("http_port", "5000"))), Connection).serve_forever()
