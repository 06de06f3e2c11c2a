"""A small HTTP server that logs the requests it gets, with their heads and bodies, and answers each of them.

A stand-in for your own filter or recorder behind ``certifier.py --redirect``. Standard library only; any free port.
"""

import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def escaped(text: str) -> str:
    """The text without line breaks and what else a terminal obeys."""
    return text.encode("unicode_escape").decode("ascii")


class LoggingHandler(BaseHTTPRequestHandler):
    """Logs a request and answers it."""

    protocol_version = "HTTP/1.1"

    def read_body(self) -> bytes:
        if "Transfer-Encoding" not in self.headers:
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""  # chunked: from clients that stream it
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass  # trailers
        return body

    def answer(self) -> None:
        body = self.read_body()
        # Escaped: a client must not be able to forge log lines, nor a field by folding its line.
        head = "".join(f"  {escaped(f'{name}: {value}')}\n" for name, value in self.headers.items())
        print(f"{escaped(self.requestline)}\n{head}  body: {body!r}", flush=True)
        text = f"seen: {self.command} {self.headers.get('Host')}{self.path}\n".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(b"" if self.command == "HEAD" else text)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = answer

    def log_message(self, *_: object) -> None:
        """Suppress the base class's own log."""


with ThreadingHTTPServer(("127.0.0.1", 0), LoggingHandler) as server:
    print(f"logging on 127.0.0.1:{server.server_address[1]}", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        sys.exit(0)
