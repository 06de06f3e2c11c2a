"""A bare relay: the least that intercepting costs in Python with gevent and ``MemoryBIO``s, to measure certifier by.

It does what a connection of the benchmark needs, and nothing else: no store, no limits, no policy, no deadlines, no
log, nothing of HTTP, and none of gevent's sockets: a greenlet a connection, and a watcher a socket that lasts.
Never to be used: what is unexpected ends or hangs it.

``python -m bench.relay <host> <port> <roots.pem>``; ``ca.crt`` and ``ca.key`` are in the working directory.
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
_WIRE = memoryview(bytearray(_RECV))  # shared, as the next one: nothing switches while they are used
_PLAIN = memoryview(bytearray(16_384))
_HUB = get_hub()


class Socket:
    """A socket that does not block. Its watcher runs until something comes that nobody waits for."""

    __slots__ = ("_reader", "_runs", "_sock", "waits")

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sock = sock
        self._reader = _HUB.loop.io(sock.fileno(), _READ)
        self._runs = False
        self.waits: greenlet | None = None

    def watch(self) -> None:
        """Switch to the present greenlet, with this socket, when it can be read."""
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
        """To an address."""
        with suppress(BlockingIOError):
            self._sock.connect(address)
        self._wait_to_write()

    def receive(self) -> memoryview:
        """What is there now; nothing at the end."""
        try:
            return _WIRE[: self._sock.recv_into(_WIRE)]
        except ConnectionError:
            return _WIRE[:0]

    def send(self, data: bytes) -> None:
        """All of it."""
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
        """Nothing more is sent."""
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Both ways."""
        self._reader.stop()
        self._reader.close()
        self._sock.close()


def wait(*sockets: Socket) -> Socket:
    """The one of them that can be read."""
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
        """Send what was encrypted."""
        if self.outgoing.pending:
            self.sock.send(self.outgoing.read())

    def pump(self, sink: "End") -> bool:
        """Give what has come to another end; whether it was the last."""
        ended = False
        try:
            while count := int(self.tls.read(16_384, _PLAIN)):  # an int, with a buffer
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
        except OSError:  # it has left
            pass
        if ended:
            sink.sock.end()
        return ended


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

    def serve(self, listener: socket.socket) -> None:
        """Accept what there is."""
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
        name = _server_name(hello)
        upper = End(origin, self._origins, name)
        lower = End(client, self._contexts.get(name) or self._new(name), None, hello)
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
    with socket.create_server((host, int(port)), backlog=1024) as listener:
        listener.setblocking(False)
        accepting = _HUB.loop.io(listener.fileno(), _READ)
        accepting.start(Relay(roots).serve, listener)
        _HUB.join()
