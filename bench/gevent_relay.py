"""A relay as one would first write it: gevent's own sockets and server, and two greenlets per connection that pump.

It does as little as ``bench/relay.py``, in the usual way. Not for real use: anything unexpected ends or hangs it.

``python -m gevent.monkey --module bench.gevent_relay <host> <port> <roots.pem>`` patches what it imports; ``ca.crt``
and ``ca.key`` are in the working directory.
"""

import socket
import ssl
import sys
from contextlib import suppress

import gevent
from gevent.server import StreamServer

from bench.relay import Contexts, server_name

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
        """Send pending ciphertext."""
        if self.outgoing.pending:
            self.sock.sendall(self.outgoing.read())

    def pump(self, sink: "End") -> None:
        """Pass all that arrives, and its end, on to ``sink``."""
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
    """Handles connections."""

    def __init__(self, roots: str) -> None:
        self._contexts = Contexts(roots)

    def handle(self, client: socket.socket, _: object) -> None:
        """CONNECT, dial, ClientHello, both handshakes, relay."""
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        host, _, port = client.recv(_RECV).split(b" ", 2)[1].decode().partition(":")
        with socket.create_connection((host, int(port))) as origin:
            origin.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            hello = client.recv(_RECV)
            name = server_name(hello)
            upper = End(origin, self._contexts.origins, name)
            lower = End(client, self._contexts.of(name), None, hello)
            upward = gevent.spawn(lower.pump, upper)
            upper.pump(lower)
            upward.get()


if __name__ == "__main__":
    host, port, roots = sys.argv[1:]
    StreamServer((host, int(port)), Relay(roots).handle, backlog=1024).serve_forever()
