"""Peers that ask for key updates or renegotiation in the middle of a tunnel, and may not read the answers."""

import fcntl
import socket
import ssl
import struct
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import gevent
import pytest
import rawtls
from lab import WAIT, BioClient, Origin, Program, read_reply, secure_tunnel, strict_context, tunnel
from tlslite.api import X509, HandshakeSettings, TLSConnection, X509CertChain, parsePEMKey
from tlslite.messages import ClientHello, HelloRequest

import sockets
import tls
from answering import explain
from errors import OriginTimeout
from meter import Meter
from streams import BROKEN, PlainStream
from tlsconfig import server_context
from tunnel import Tunnel

TLS_1_2, TLS_1_3 = (3, 3), (3, 4)
MOST = 8192  # octets of unsent answers; TIMES of them exceed this and the kernel's buffers
TIMES = 1500
CHANGES = 3000  # key updates, 27 octets each


def test_an_origin_that_closes_in_order_when_it_may_not_renegotiate(program: Program, certificate: Path) -> None:
    """The origin says nothing else, so the client is told why, as it is when the origin breaks off."""
    pem = certificate.read_text()
    chain = X509CertChain([X509().parse(pem)])

    def asks(sock: socket.socket) -> None:
        settings = HandshakeSettings()
        settings.maxVersion = TLS_1_2
        connection = TLSConnection(sock)
        connection.handshakeServer(certChain=chain, privateKey=parsePEMKey(pem, private=True), settings=settings)
        connection.read(max=4096, min=1)
        list(connection._sendMsg(HelloRequest().create()))
        assert sock.recv(4096)
        connection.close()

    with Origin(asks) as origin, secure_tunnel(program, f"localhost:{origin.port}") as secure:
        secure.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert read_reply(secure).reason == "Origin wants to renegotiate TLS"


def test_an_origin_that_says_nothing_did_not_want_to_renegotiate(program: Program, certificate: Path) -> None:
    """The client has nothing more to say, and hears the origin's end."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate)

    def listens(sock: socket.socket) -> None:
        while sock.recv(4096):
            pass

    with Origin(listens, context) as origin, tunnel(program.address, f"localhost:{origin.port}") as sock:
        client = BioClient(sock, strict_context(program.ca), "localhost")
        client.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        client.close_notify()
        assert client.read() == b""


@pytest.mark.skipif(sys.platform != "linux", reason="how much a socket buffers")
def test_who_breaks_a_handshake_and_does_not_read() -> None:
    """The alert can't be sent, and is given up at the deadline of the handshake."""
    ours, theirs = socket.socketpair()
    with ours, theirs, gevent.Timeout(WAIT):
        stream = tls.TlsStream(ours, ssl._create_unverified_context(), [], server_hostname="localhost")
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)  # the kernel's minimum
        while sockets.send_now(ours, b"x"):
            pass
        theirs.recv(1)  # makes room for the ClientHello, which may exceed it, and for nothing else
        theirs.sendall(rawtls.records(rawtls.HANDSHAKE, rawtls.message(rawtls.SERVER_HELLO_DONE, b"")))
        with pytest.raises((ssl.SSLError, TimeoutError)):
            stream.handshake(time.monotonic() + 0.3)
        assert not sockets.send_now(ours, b"x")


class Asking:
    """A TLS client, and a tunnel from it to a sink that reads everything and sends nothing."""

    def __init__(self, certificate: Path, version: tuple[int, int]) -> None:
        self.sock, sock = socket.socketpair()
        above, self._sink = socket.socketpair()
        self._all = self.sock, sock, above, self._sink
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)  # the kernel's minimum
        self.stream = tls.TlsStream(sock, server_context(certificate.read_bytes()), [])
        self.tunnel = Tunnel(self.stream, PlainStream(above), 60.0, Meter())
        self._running = gevent.spawn(self._run)
        self._taking = gevent.spawn(self._take)
        settings = HandshakeSettings()
        settings.minVersion = settings.maxVersion = version
        self.connection = TLSConnection(self.sock)
        self.connection.handshakeClientCert(settings=settings)

    def ask(self) -> None:
        """Ask for a key update or, in TLS 1.2, to renegotiate."""
        connection = self.connection
        if connection.version == TLS_1_3:
            list(connection.send_keyupdate_request(1))
            connection.write(b"x")  # OpenSSL itself refuses many key updates in a row
        else:
            list(connection._sendMsg(ClientHello().create(TLS_1_2, bytearray(32), bytearray(), [0xC02B])))
        gevent.sleep(0)

    def _run(self) -> None:
        self.stream.handshake(time.monotonic() + WAIT)
        self.tunnel.run()

    def _take(self) -> None:
        while self._sink.recv(65_536):
            pass

    def end_origin(self) -> None:
        self._sink.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        gevent.killall([self._running, self._taking])
        for sock in self._all:
            sock.close()


@pytest.fixture(params=[TLS_1_2, TLS_1_3])
def asking(request: pytest.FixtureRequest, certificate: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Asking]:
    monkeypatch.setattr(tls, "_UNSAID", MOST)
    found = Asking(certificate, request.param)
    yield found
    found.close()


def test_who_asks_on_and_on_and_does_not_read(asking: Asking) -> None:
    """The answers would pile up in memory, more with each request."""
    for _ in range(TIMES):
        asking.ask()
        if asking.stream.ended is not None:
            break
    assert asking.stream.ended is BROKEN


def test_who_asks_on_and_on_and_reads(asking: Asking) -> None:
    answers = bytearray()

    def read() -> None:
        while True:
            answers.extend(asking.sock.recv(65_536))

    reading = gevent.spawn(read)
    for _ in range(TIMES):
        asking.ask()
    reading.kill()
    assert asking.stream.ended is None
    assert len(answers) > 2 * MOST


def unread(sock: socket.socket) -> int:
    """The octets in a socket's receive buffer."""
    (count,) = struct.unpack("i", fcntl.ioctl(sock, termios.FIONREAD, bytes(4)))
    return int(count)


@pytest.mark.parametrize("asking", [TLS_1_3], indirect=True)
@pytest.mark.parametrize("when", ["with the handshake", "later", "when the origin has ended"])
def test_others_run_while_keys_change_on_and_on(asking: Asking, when: str) -> None:
    """Records without content cost more than those with content."""
    connection = asking.connection
    with gevent.Timeout(WAIT):
        if when != "with the handshake":
            connection.write(b"x")
            while not asking.tunnel.sent:
                gevent.sleep(0)
        if when == "when the origin has ended":
            before = unread(asking.sock)
            asking.end_origin()
            while unread(asking.sock) == before:  # a close_notify, which tlslite must not read: it would stop writing
                gevent.sleep(0)
    assert len(left_when_others_ran(connection, asking.stream.sock)) > 3
    assert asking.stream.ended is None


def test_others_run_while_keys_change_where_a_request_is_awaited(certificate: Path) -> None:
    """The request is awaited in order to answer that its origin can't be reached in time."""
    sock, ours = socket.socketpair()
    with sock, ours, gevent.Timeout(WAIT):
        stream = tls.TlsStream(ours, server_context(certificate.read_bytes()), [])

        def run() -> None:
            stream.handshake(time.monotonic() + WAIT)
            explain(stream, OriginTimeout("a.example is slow"))

        running = gevent.spawn(run)
        connection = TLSConnection(sock)
        connection.handshakeClientCert()
        while stream.version is None or unread(ours):
            gevent.sleep(0)
        assert len(left_when_others_ran(connection, ours)) > 3
        connection.write(b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n")
        connection.sock.flush()
        assert connection.read(1000, 12)[:12] == b"HTTP/1.1 504"
        connection.close()
        running.get()


def left_when_others_ran(connection: TLSConnection, sock: socket.socket) -> set[int]:
    """Flood a socket with key updates; return how much was left each time somebody else ran."""
    connection.sock.buffer_writes = True
    for _ in range(CHANGES):
        list(connection.send_keyupdate_request(0))
    met = set()

    def look() -> None:
        while True:
            gevent.sleep(0)
            met.add(unread(sock))

    with gevent.Timeout(WAIT):
        looking = gevent.spawn(look)
        connection.sock.flush()
        while unread(sock):
            gevent.sleep(0)
        looking.kill()
    return met
