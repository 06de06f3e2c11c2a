"""A bare relay: the least that intercepting costs in Python with gevent and ``MemoryBIO``s, to measure certifier by.

It does what a warm connection of the benchmark needs, and nothing else: no store, no limits, no policy, no deadlines,
no log, nothing of HTTP, no greenlet but the two that pump. Never to be used: what is unexpected ends or hangs it.

``python -m gevent.monkey --module bench.relay <host> <port> <roots.pem>`` patches what it imports; ``ca.crt`` and
``ca.key`` are in the working directory.
"""

import socket
import ssl
import sys
from contextlib import suppress
from pathlib import Path

import gevent
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from gevent.server import StreamServer

from bench import pki
from bench.origin import ZONE

_RECV = 131_072


class End:
    """TLS over a socket."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, name: str | None, received: bytes = b"") -> None:
        self.sock = sock
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.incoming.write(received)
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_side=name is None, server_hostname=name)
        self._handshake()

    def _handshake(self) -> None:
        done = False
        while not done:
            try:
                self.tls.do_handshake()
                done = True
            except ssl.SSLWantReadError:
                pass
            self.flush()
            if not done:
                self.incoming.write(self.sock.recv(_RECV) or b"closed")

    def flush(self) -> None:
        """Send what was encrypted."""
        if self.outgoing.pending:
            self.sock.sendall(self.outgoing.read())

    def pump(self, sink: "End") -> None:
        """Give all that comes, and its end, to another end."""
        plain = bytearray(16_384)
        view = memoryview(plain)
        ended = False
        while not ended:
            try:
                while count := int(self.tls.read(16_384, plain)):  # an int, with a buffer
                    sink.tls.write(view[:count])
                ended = True
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError:  # the peer's close_notify, before or after ours
                ended = True
            sink.flush()
            if not ended:
                data = self.sock.recv(_RECV)
                self.incoming.write(data)
                ended = not data
        with suppress(OSError):
            with suppress(ssl.SSLError):
                sink.tls.unwrap()
            sink.flush()
            sink.sock.shutdown(socket.SHUT_WR)


class Relay:
    """Names to contexts, and what is done with a connection."""

    def __init__(self, roots: str) -> None:
        key = load_pem_private_key(Path("ca.key").read_bytes(), None)
        assert isinstance(key, pki.Key)
        self._authority = pki.Authority(x509.load_pem_x509_certificate(Path("ca.crt").read_bytes()), key)
        self._contexts: dict[str, ssl.SSLContext] = {}
        self._origins = ssl.create_default_context()
        self._origins.load_verify_locations(roots)
        self._origins.verify_flags |= ssl.VERIFY_X509_STRICT

    def handle(self, client: socket.socket, _: object) -> None:
        """CONNECT, dial, ClientHello, both handshakes, relay."""
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        host, _, port = client.recv(_RECV).split(b" ", 2)[1].decode().partition(":")
        with socket.create_connection((host, int(port))) as origin:
            origin.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            hello = client.recv(_RECV)
            name = _server_name(hello)
            upper = End(origin, self._origins, name)
            lower = End(client, self._contexts.get(name) or self._new(name), None, hello)
            upward = gevent.spawn(lower.pump, upper)
            upper.pump(lower)
            upward.get()

    def _new(self, name: str) -> ssl.SSLContext:
        key = pki.new_key()
        context = self._contexts[name] = pki.server_context(pki.leaf(self._authority, key, name), key)
        return context


def _server_name(hello: bytes) -> str:
    """Of the benchmark's names, found by their look, as no proxy could."""
    end = hello.index(f".{ZONE}".encode())
    start = end
    while hello[start - 1 : start].isalnum():
        start -= 1
    return hello[start:end].decode() + f".{ZONE}"


if __name__ == "__main__":
    host, port, roots = sys.argv[1:]
    StreamServer((host, int(port)), Relay(roots).handle, backlog=1024).serve_forever()
