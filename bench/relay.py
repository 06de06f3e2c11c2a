"""A bare relay: the least that interception costs in Python with gevent and ``MemoryBIO``s, to compare certifier with.

It does what the benchmark's connections need, and nothing else: no store, no limits, no policy, no deadlines, no log,
no HTTP beyond CONNECT, and no gevent sockets: one greenlet per connection, and one lasting watcher per socket.
Not for real use: anything unexpected ends or hangs it.

``python -m bench.relay <host> <port> <roots.pem>``, with ``ca.crt`` and ``ca.key`` in the working directory.
"""

import socket
import ssl
import sys
from contextlib import suppress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from gevent.hub import get_hub
from greenlet import getcurrent, greenlet

from bench import pki
from bench.origin import ZONE

_RECV = 131_072
_READ, _WRITE = 1, 2
_WIRE = memoryview(bytearray(_RECV))  # shared by all, like _PLAIN: no greenlet switches while using them
_PLAIN = memoryview(bytearray(16_384))
_HUB = get_hub()


class Socket:
    """A non-blocking socket. Its watcher runs until it becomes readable while no greenlet waits for it."""

    __slots__ = ("_reader", "_runs", "_sock", "waits")

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sock = sock
        self._reader = _HUB.loop.io(sock.fileno(), _READ)
        self._runs = False
        self.waits: greenlet | None = None

    def watch(self) -> None:
        """When this socket becomes readable, switch to the current greenlet with it."""
        self.waits = getcurrent()
        if not self._runs:
            self._runs = True
            self._reader.start(self._can_be_read)

    def _can_be_read(self) -> None:
        if self.waits is not None:
            self.waits.switch(self)
        else:
            self._runs = False
            self._reader.stop()

    def connect(self, address: tuple[str, int]) -> None:
        """Connect to an address."""
        with suppress(BlockingIOError):
            self._sock.connect(address)
        self._wait_to_write()

    def receive(self) -> memoryview:
        """The data available now; empty at EOF or after a reset."""
        try:
            return _WIRE[: self._sock.recv_into(_WIRE)]
        except ConnectionError:
            return _WIRE[:0]

    def send(self, data: bytes) -> None:
        """Send all of the data."""
        while data:
            try:
                data = data[self._sock.send(data) :]
            except BlockingIOError:
                self._wait_to_write()

    def _wait_to_write(self) -> None:
        writer = _HUB.loop.io(self._sock.fileno(), _WRITE)
        writer.start(getcurrent().switch)
        _HUB.switch()
        writer.stop()
        writer.close()

    def end(self) -> None:
        """Half-close: send a FIN."""
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close the socket and its watcher."""
        self._reader.stop()
        self._reader.close()
        self._sock.close()


def wait(*sockets: Socket) -> Socket:
    """Wait until one of the sockets is readable, and return it."""
    for each in sockets:
        each.watch()
    found: Socket = _HUB.switch()
    for each in sockets:
        each.waits = None
    return found


class End:
    """TLS over a socket."""

    __slots__ = ("incoming", "outgoing", "sock", "tls")

    def __init__(self, sock: Socket, context: ssl.SSLContext, name: str | None, received: bytes = b"") -> None:
        self.sock = sock
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.incoming.write(received)
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_side=name is None, server_hostname=name)
        while not self._step():
            wait(sock)
            self.incoming.write(sock.receive() or b"closed")

    def _step(self) -> bool:
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        finally:
            self.flush()
        return True

    def flush(self) -> None:
        """Send pending ciphertext."""
        if self.outgoing.pending:
            self.sock.send(self.outgoing.read())

    def pump(self, sink: "End") -> bool:
        """Pass what has arrived on to ``sink``; return whether this direction has ended."""
        ended = False
        try:
            while count := int(self.tls.read(16_384, _PLAIN)):  # an int, given a buffer
                sink.tls.write(_PLAIN[:count])
            ended = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError:  # the peer's close_notify, before or after ours
            ended = True
        if ended:
            with suppress(ssl.SSLError):
                sink.tls.unwrap()
        try:
            sink.flush()
        except OSError:  # the sink's peer is gone
            pass
        if ended:
            sink.sock.end()
        return ended


class Contexts:
    """A context per name, made when first asked for, and one for all origins."""

    def __init__(self, roots: str) -> None:
        key = load_pem_private_key(Path("ca.key").read_bytes(), None)
        assert isinstance(key, pki.Key)
        self._authority = pki.Authority(x509.load_pem_x509_certificate(Path("ca.crt").read_bytes()), key)
        self._contexts: dict[str, ssl.SSLContext] = {}
        self.origins = ssl.create_default_context()
        self.origins.load_verify_locations(roots)
        self.origins.verify_flags |= ssl.VERIFY_X509_STRICT

    def of(self, name: str) -> ssl.SSLContext:
        """The context for a name."""
        return self._contexts.get(name) or self._new(name)

    def _new(self, name: str) -> ssl.SSLContext:
        key = pki.new_key()
        context = self._contexts[name] = pki.server_context(pki.leaf(self._authority, key, name), key)
        return context


class Relay:
    """Handles connections."""

    def __init__(self, roots: str) -> None:
        self._contexts = Contexts(roots)

    def serve(self, listener: socket.socket) -> None:
        """Accept all pending connections."""
        with suppress(BlockingIOError):
            while True:
                greenlet(self._handle, _HUB).switch(Socket(listener.accept()[0]))

    def _handle(self, client: Socket) -> None:
        """CONNECT, dial, ClientHello, both handshakes, relay."""
        origin = Socket(socket.socket())
        with suppress(OSError, ValueError):
            self._relay(client, origin)
        client.close()
        origin.close()

    def _relay(self, client: Socket, origin: Socket) -> None:
        wait(client)
        host, _, port = bytes(client.receive()).split(b" ", 2)[1].decode().partition(":")
        origin.connect((host, int(port)))
        client.send(b"HTTP/1.1 200 OK\r\n\r\n")
        wait(client)
        hello = bytes(client.receive())
        name = server_name(hello)
        upper = End(origin, self._contexts.origins, name)
        lower = End(client, self._contexts.of(name), None, hello)
        open_ends = {client: (lower, upper), origin: (upper, lower)}
        if lower.pump(upper):
            del open_ends[client]
        while open_ends:
            ready = wait(*open_ends)
            source, sink = open_ends[ready]
            if data := ready.receive():
                source.incoming.write(data)
            else:
                source.incoming.write_eof()
            if source.pump(sink):
                del open_ends[ready]


def server_name(hello: bytes) -> str:
    """The server_name, found by searching for ``ZONE``, which works for the benchmark's names only."""
    end = hello.index(f".{ZONE}".encode())
    start = end
    while hello[start - 1 : start].isalnum():
        start -= 1
    return hello[start:end].decode() + f".{ZONE}"


if __name__ == "__main__":
    host, port, roots = sys.argv[1:]
    with socket.create_server((host, int(port)), backlog=1024) as listener:
        listener.setblocking(False)
        accepting = _HUB.loop.io(listener.fileno(), _READ)
        accepting.start(Relay(roots).serve, listener)
        _HUB.join()
