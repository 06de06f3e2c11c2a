"""The relay between two ends: it counts, keeps early data for refused clients, and passes on how each end closes."""

import errno
import fcntl
import gc
import os
import socket
import ssl
import sys
import termios
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

import gevent
import pytest
from gevent.event import Event
from gevent.queue import Queue
from lab import WAIT, BioClient, Origin, Program, no_memory, read_reply, secure_tunnel, strict_context, tunnel, until

import sockets
from meter import Meter
from streams import ORDERLY, RESET, PlainStream
from tls import TlsStream
from tlsconfig import server_context
from tunnel import Tunnel

IDLE = 60.0  # seconds: no test waits for that


class Ends:
    """The two sockets of a tunnel, and their peers."""

    def __init__(self) -> None:
        (self.client, self.client_end), (self.origin, self.origin_end) = socket.socketpair(), socket.socketpair()

    def tunnel(self, idle: float = 60.0, early: bytes = b"", kind: type[Tunnel] = Tunnel) -> Tunnel:
        return kind(PlainStream(self.client, early), PlainStream(self.origin), idle, Meter())


class Apart(Tunnel):
    """Each direction has a greenlet of its own, as if one side were slow to read."""

    _acts = True


@contextmanager
def joined() -> Iterator[Ends]:
    ends = Ends()
    with ends.client, ends.client_end, ends.origin, ends.origin_end, gevent.Timeout(WAIT):
        yield ends


@pytest.fixture
def ends() -> Iterator[Ends]:
    with joined() as found:
        yield found


@pytest.mark.parametrize("kind", [Tunnel, Apart])
@pytest.mark.parametrize(("one_way", "idle", "least", "most"), [(True, 6.0, 0.4, 5.0), (False, 0.6, 0.5, WAIT)])
def test_an_idle_tunnel_ends(
    ends: Ends, kind: type[Tunnel], one_way: bool, idle: float, least: float, most: float
) -> None:
    """Once one direction has ended, a single tick without data suffices."""
    if one_way:
        ends.client_end.shutdown(socket.SHUT_WR)
    tunnel = ends.tunnel(idle, kind=kind)
    start = time.monotonic()
    tunnel.run()
    assert tunnel.outcome == "idle"
    assert least < time.monotonic() - start < most


@pytest.mark.parametrize("apart", [False, True])
def test_who_answers_the_end_of_a_request_has_a_whole_tick_for_that(ends: Ends, apart: bool) -> None:
    """However long nothing had passed before that end."""
    tunnel = ends.tunnel(idle=10_000.0)  # the ticks are ours
    tunnel._acts = apart  # each direction in a greenlet of its own
    running = gevent.spawn(tunnel.run)
    tunnel._watch()
    ends.client_end.shutdown(socket.SHUT_WR)
    assert ends.origin_end.recv(1) == b""
    tunnel._watch()
    ends.origin_end.sendall(b"answer")
    assert ends.client_end.recv(100) == b"answer"
    tunnel._watch()
    assert tunnel.outcome == "closed"
    tunnel._watch()
    running.get()
    assert tunnel.outcome == "idle"


def test_a_tunnel_relays_what_was_read_before_and_counts(ends: Ends) -> None:
    ends.origin_end.sendall(b"answer")
    for end in (ends.client_end, ends.origin_end):
        end.shutdown(socket.SHUT_WR)
    tunnel = ends.tunnel(early=b"early")
    tunnel.run()
    assert (tunnel.sent, tunnel.received, tunnel.outcome) == (5, 6, "closed")
    assert ends.origin_end.recv(100) == b"early"
    assert ends.client_end.recv(100) == b"answer"


def test_nothing_is_left_of_a_tunnel_that_has_ended(ends: Ends) -> None:
    """A timer left behind would shut down a file descriptor that belongs to someone else by then."""
    tunnel = ends.tunnel()
    for end in (ends.client_end, ends.origin_end):
        end.shutdown(socket.SHUT_WR)
    tunnel.run()
    left = weakref.ref(tunnel)
    del tunnel
    gc.collect()
    assert left() is None


@pytest.mark.parametrize("upload", [True, False])
def test_deadlines_from_before_a_tunnel_do_not_end_it(ends: Ends, upload: bool) -> None:
    """Its sockets may still have those of a hello or a handshake. The first read would end it here."""
    speaker, listener = (ends.client_end, ends.origin_end) if upload else (ends.origin_end, ends.client_end)
    for ours in (ends.client, ends.origin):
        ours.settimeout(0)
    running = gevent.spawn(ends.tunnel().run)
    listener.shutdown(socket.SHUT_WR)
    assert speaker.recv(1) == b""
    speaker.sendall(b"x")
    assert listener.recv(1) == b"x"
    speaker.shutdown(socket.SHUT_WR)
    running.get()


def test_of_a_long_upload_only_the_beginning_is_kept(ends: Ends) -> None:
    uploaded(ends, ends.tunnel())


def uploaded(ends: Ends, tunnel: Tunnel) -> None:
    """Upload more than is kept for a client that may have to be told why there is no answer; an answer frees it."""
    running = gevent.spawn(tunnel.run)
    uploading = gevent.spawn(ends.client_end.sendall, bytes(3_000_000))
    left = 3_000_000
    while left:
        left -= len(ends.origin_end.recv(65_536))
    uploading.get()
    assert tunnel.sent == 3_000_000
    assert 16_384 <= len(tunnel.early) < 200_000
    ends.origin_end.sendall(b"x")
    assert ends.client_end.recv(1) == b"x"
    assert not tunnel.early
    ends.client_end.sendall(b"more")
    assert ends.origin_end.recv(100) == b"more"
    assert not tunnel.early  # nobody needs it any more
    running.kill()


def test_a_pump_lets_others_run() -> None:
    """Even if neither side ever makes it wait: the whole upload has arrived, and the receiver has room for it."""
    with connected() as (client, client_end), connected() as (origin, origin_end):
        client_end.sendall(bytes(1 << 20))
        client_end.shutdown(socket.SHUT_WR)
        origin_end.shutdown(socket.SHUT_WR)
        looks = seen_of(Tunnel(PlainStream(client), PlainStream(origin), IDLE, Meter()))
    assert looks[-1] == 1 << 20
    assert len(looks) >= 6  # of eight batches


def test_a_pump_of_tiny_records_lets_others_run(certificate: Path) -> None:
    """Each costs as much as a large one, so octets are no measure."""
    careless = ssl._create_unverified_context()
    with connected() as (client, client_end), connected() as (origin, origin_end):
        upward = TlsStream(client, server_context(certificate.read_bytes()), [])
        shaking = gevent.spawn(upward.handshake, time.monotonic() + WAIT)
        with careless.wrap_socket(client_end, server_hostname="localhost") as secure:
            shaking.get()
            for _ in range(5000):
                secure.sendall(b"x")
            secure.shutdown(socket.SHUT_WR)
            origin_end.shutdown(socket.SHUT_WR)
            looks = seen_of(Tunnel(upward, PlainStream(origin), IDLE, Meter()))
    assert looks[-1] == 5000
    assert len(looks) >= 10  # of fourteen batches of 8 KiB


@pytest.mark.skipif(sys.platform != "linux", reason="TCP_INFO")
@pytest.mark.parametrize(("apart", "expected"), [(False, 1), (True, 2)])
def test_close_notify_and_fin_go_in_one_segment(certificate: Path, apart: bool, expected: int) -> None:
    """With the last data, if that is still to be sent."""
    careless = ssl._create_unverified_context()
    with connected() as (ours, theirs), gevent.Timeout(WAIT):
        sockets.tune(ours)
        stream = TlsStream(ours, server_context(certificate.read_bytes()), [])
        shaking = gevent.spawn(stream.handshake, time.monotonic() + WAIT)
        with careless.wrap_socket(theirs, server_hostname="localhost", suppress_ragged_eofs=False) as secure:
            shaking.get()
            before = segments_to(secure)
            stream.encrypt(b"x")
            if apart:
                stream.flush()
            else:
                stream.finish(at_once=True)
                assert stream.flush_now()
            stream.end(ORDERLY)
            assert secure.recv(9) == b"x"
            assert secure.recv(9) == b""  # close_notify: a FIN alone would raise
            assert segments_to(secure) == before + expected


def segments_to(sock: socket.socket) -> int:
    """How many a TCP socket has received, by the kernel's ``struct tcp_info``."""
    information = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 144)
    return int.from_bytes(information[140:], sys.byteorder)


def seen_of(tunnel: Tunnel) -> list[int]:
    """The counts that another greenlet sees whenever it runs beside the tunnel, and the final one."""
    seen = set()

    def look() -> None:
        while True:
            seen.add(tunnel.sent)
            gevent.sleep(0)

    with gevent.Timeout(WAIT):
        looking = gevent.spawn(look)
        tunnel.run()
        looking.kill()
    return sorted({*seen, tunnel.sent})


@contextmanager
def connected() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a TCP connection, which buffers some megabytes of unread data."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as theirs,
        server.accept()[0] as ours,
    ):
        yield ours, theirs


@pytest.mark.parametrize("phase", ["both ways", "one way", "a client that does not read"])
def test_what_idles_out_without_tls_does_not_look_complete(tmp_path: Path, phase: str) -> None:
    """Where a FIN alone marks the end, half a response, or half an upload, would pass for the whole."""
    heard: Queue[str] = Queue()
    over = Event()

    def stall(sock: socket.socket) -> None:
        try:
            sock.sendall(b"half" if phase != "a client that does not read" else bytes(100_000_000))
            if phase == "one way":
                assert sock.recv(1) == b""
                assert over.wait(WAIT)
                while True:  # until it is refused
                    sock.sendall(b"rest")
            heard.put("more" if sock.recv(1) else "complete")
        except (ConnectionResetError, BrokenPipeError):
            heard.put("cut off")

    with (
        Origin(stall) as plain,
        Program(tmp_path, "--store=certs", "--max=9", "--idle-timeout=1", "--hello-timeout=9") as running,
        tunnel(running.address, f"localhost:{plain.port}") as sock,
    ):
        if phase == "one way":
            sock.shutdown(socket.SHUT_WR)
        if phase == "a client that does not read":
            running.wait_for("outcome=idle")
        with pytest.raises(ConnectionResetError):
            list(iter(lambda: sock.recv(65_536), b""))
        over.set()
        assert heard.get(timeout=WAIT) == "cut off"
        assert "outcome=idle" in running.tunnels(1)[0]


def test_a_client_that_ended_tls_and_does_not_read_is_let_go(certificate: Path) -> None:
    with connected() as (client, client_end), connected() as (origin, origin_end), gevent.Timeout(WAIT):
        stream, peer = in_tls(client, client_end, certificate)
        peer.close_notify()
        tunnel = Tunnel(stream, PlainStream(origin), 0.6, Meter())
        pouring = gevent.spawn(origin_end.sendall, bytes(100_000_000))
        tunnel.run()
        pouring.kill()
    assert tunnel.outcome == "idle"


def test_what_was_whole_in_tls_arrives_though_the_connection_is_given_up(certificate: Path) -> None:
    """Its client is slow to read."""
    whole = bytes(150_000)
    with connected() as (ours, theirs), gevent.Timeout(WAIT):
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * len(whole))
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32_768)
        stream, peer = in_tls(ours, theirs, certificate)
        stream.encrypt(whole)
        assert stream.flush_now()
        stream.end(ORDERLY)
        stream.abort()
        ours.close()
        assert b"".join(iter(peer.read, b"")) == whole


def in_tls(ours: socket.socket, theirs: socket.socket, certificate: Path) -> tuple[TlsStream, BioClient]:
    """A server and its client, who have completed their handshake."""
    stream = TlsStream(ours, server_context(certificate.read_bytes()), [])
    shaking = gevent.spawn(stream.handshake, time.monotonic() + WAIT)
    peer = BioClient(theirs, ssl._create_unverified_context(), "localhost")
    shaking.get()
    return stream, peer


def test_what_is_cut_off_while_its_reader_pauses_gets_no_fin() -> None:
    """A FIN comes behind what the kernel still has: if the client reads on just then, before the reset."""
    with connected() as (client, client_end), connected() as (origin, origin_end), gevent.Timeout(WAIT):
        tunnel = Tunnel(PlainStream(client), PlainStream(origin), 0.6, Meter())
        pouring = gevent.spawn(origin_end.sendall, bytes(100_000_000))
        tunnel.run()
        assert tunnel.outcome == "idle"
        while sockets.has_input(client_end) or _unsent(client):
            assert client_end.recv(65_536), "a FIN"
        client.close()
        with pytest.raises(ConnectionResetError):
            client_end.recv(1)
        pouring.kill()


def _unsent(sock: socket.socket) -> int:
    """Octets that the peer has not acknowledged, and a FIN."""
    return int.from_bytes(fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)), sys.byteorder)


def test_what_was_whole_before_it_idled_out_arrives(tmp_path: Path) -> None:
    """The kernel still has it for a slow client when one direction has ended and the other one is idle."""
    whole = bytes(500_000)
    over = Event()

    def answer(sock: socket.socket) -> None:
        sock.sendall(whole)
        sock.shutdown(socket.SHUT_WR)
        over.wait(WAIT)

    with (
        Origin(answer) as plain,
        Program(tmp_path, "--store=certs", "--max=9", "--idle-timeout=1", "--hello-timeout=9") as running,
        socket.socket() as sock,
    ):
        sock.settimeout(WAIT)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
        sock.connect(running.address)
        sock.sendall(f"CONNECT localhost:{plain.port} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        assert read_reply(sock).status == 200
        assert f"received={len(whole)} " in running.wait_for("outcome=idle")
        assert b"".join(iter(lambda: sock.recv(65_536), b"")) == whole
        over.set()


@pytest.mark.parametrize(("reset", "ended"), [(True, RESET), (False, ORDERLY)])
@pytest.mark.parametrize("send", [PlainStream.flush, PlainStream.flush_now])
def test_a_reset_that_a_write_was_told_of_ends_reading_as_one(
    send: Callable[[PlainStream], object], reset: bool, ended: str
) -> None:
    """The kernel tells it once: what reads next finds the end of a connection that was closed in order."""
    with connected() as (ours, theirs):
        theirs.sendall(b"half")
        if reset:
            sockets.reset(theirs)
        theirs.close()
        stream = PlainStream(ours)
        if not reset:
            stream.encrypt(b"more")
            send(stream)  # draws a reset, behind the FIN
        stream.encrypt(b"more")
        with pytest.raises(ConnectionResetError if reset else BrokenPipeError):
            send(stream)
        assert stream.fill() == 4
        assert bytes(stream.decrypt()) == b"half"
        assert stream.fill() == 0
        assert stream.ended == ended


@pytest.mark.parametrize(
    ("number", "ended"),
    [*((number, RESET) for number in (errno.ETIMEDOUT, errno.ECONNREFUSED, errno.EACCES)), (errno.EPIPE, ORDERLY)],
)
@pytest.mark.parametrize("send", [PlainStream.flush, PlainStream.flush_now])
def test_whatever_made_a_write_fail_ends_reading_as_a_reset(
    monkeypatch: pytest.MonkeyPatch, send: Callable[[PlainStream], object], number: int, ended: str
) -> None:
    """Silence, or what an ICMP error is told as (port unreachable; prohibited, in IPv6); but not the peer's own end."""

    def fail(*_: object) -> NoReturn:
        raise OSError(number, "why")

    with connected() as (ours, theirs):
        theirs.close()
        stream = PlainStream(ours)
        stream.encrypt(b"more")
        with monkeypatch.context() as patch:
            patch.setattr(sockets, "send", fail)
            patch.setattr(sockets, "send_now", fail)
            with pytest.raises(OSError, match="why"):
                send(stream)
        assert stream.fill() == 0
        assert stream.ended == ended


def test_what_a_reader_adds_while_a_slow_peer_is_sent_data_follows_that_data(ends: Ends) -> None:
    """Such as the answer to a key update: the peer may wait for it before it says more."""
    stream = PlainStream(ends.client)
    stream.encrypt(bytes(3_000_000))
    flushing = gevent.spawn(stream.flush)
    sockets.give_way()  # it waits from now on
    heard = bytearray(ends.client_end.recv(1 << 20))  # there is room again, which it has not seen yet
    stream.encrypt(b"added")
    stream.push()
    while len(heard) < 3_000_005:
        heard += ends.client_end.recv(65_536)
    assert heard == bytes(3_000_000) + b"added"
    flushing.get()


@pytest.mark.parametrize("reset", [True, False])
def test_what_an_origin_cut_off_does_not_look_complete_to_a_client_that_uploads(tmp_path: Path, reset: bool) -> None:
    """After a FIN, a write fails in another way than after a reset alone."""

    def cut(sock: socket.socket) -> None:
        sock.sendall(b"half")
        sock.recv(65_536)
        if reset:
            sockets.reset(sock)
        else:
            sock.shutdown(socket.SHUT_WR)
            list(iter(lambda: sock.recv(65_536), b""))

    with (
        Origin(cut) as plain,
        Program(tmp_path, "--store=certs", "--max=9", "--hello-timeout=9") as running,
        tunnel(running.address, f"localhost:{plain.port}") as sock,
    ):
        assert sock.recv(4) == b"half"
        if reset:
            with pytest.raises(ConnectionResetError):
                sock.sendall(bytes(100_000_000))
        else:
            sock.sendall(bytes(1_000_000))
            assert sock.recv(1) == b""
            sock.shutdown(socket.SHUT_WR)
        assert f"outcome={'origin-reset' if reset else 'closed'}" in running.tunnels(1)[0]


@pytest.mark.parametrize("reset", [True, False])
def test_nor_does_it_in_tls(program: Program, certificate: Path, reset: bool) -> None:
    """Many clients do not mind that there is no close_notify."""

    def cut(sock: socket.socket) -> None:
        sock.sendall(b"half")
        sock.recv(65_536)
        if reset:
            sockets.reset(sock)
            raise ConnectionAbortedError  # closed without a close_notify

    with Origin(cut, certificate) as server, tunnel(program.address, f"localhost:{server.port}") as sock:
        client = BioClient(sock, strict_context(program.ca), "localhost")
        assert client.read() == b"half"
        if reset:
            with pytest.raises(ConnectionResetError):  # after a FIN, it would be another error
                client.send(bytes(100_000_000))
        else:
            client.send(bytes(100_000))
            assert client.read() == b""


def test_an_answer_arrives_though_its_origin_refused_an_upload() -> None:
    """The client is slow to read it, and what it still uploads is read: otherwise, closing would be a reset."""
    answer = bytes(150_000)
    with connected() as (client, client_end), connected() as (origin, origin_end), gevent.Timeout(WAIT):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * len(answer))
        client_end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        tunnel = Tunnel(PlainStream(client), PlainStream(origin), IDLE, Meter())
        running = gevent.spawn(tunnel.run)
        origin_end.sendall(answer)
        origin_end.shutdown(socket.SHUT_WR)
        until(lambda: tunnel.client_ended_first is False)
        client_end.sendall(b"x")
        sockets.wait(origin_end, time.monotonic() + WAIT)
        origin_end.close()  # with an octet unread: a reset
        client_end.sendall(bytes(100_000))
        client_end.shutdown(socket.SHUT_WR)
        running.get()
        client.close()
        assert b"".join(iter(lambda: client_end.recv(65_536), b"")) == answer


def test_what_an_origin_sent_before_a_reset_arrives_and_does_not_look_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reset is first met by an upload. The client is slow to read, and sends nothing that would draw a reset."""
    monkeypatch.setattr(sockets, "LINGER_SECONDS", WAIT)
    with connected() as (client, client_end), connected() as (origin, origin_end), gevent.Timeout(WAIT):
        client_end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        origin_end.sendall(bytes(50_000))
        sockets.reset(origin_end)
        origin_end.close()
        tunnel = Tunnel(PlainStream(client, b"upload"), PlainStream(origin), IDLE, Meter())

        def run() -> None:
            tunnel.run()
            client.close()

        running = gevent.spawn(run)
        left = 50_000
        while left:
            left -= len(client_end.recv(1000))
            sockets.give_way()
        client_end.shutdown(socket.SHUT_WR)
        with pytest.raises(ConnectionResetError):
            client_end.recv(1)
        running.get()
    assert tunnel.outcome == "origin-reset"


def test_a_side_that_can_not_be_written_to_is_told_the_end(ends: Ends) -> None:
    """It is our own end that fails: otherwise both sides would wait. What that side still says arrives."""

    class Failing(PlainStream):
        def encrypt(self, data: memoryview | bytes) -> None:
            raise OSError("no memory")

    running = gevent.spawn(Tunnel(PlainStream(ends.client), Failing(ends.origin), IDLE, Meter()).run)
    ends.client_end.sendall(b"x")
    assert ends.origin_end.recv(1) == b""
    ends.origin_end.sendall(b"last")
    ends.origin_end.close()
    assert ends.client_end.recv(100) == b"last"
    ends.client_end.close()
    running.get()


def test_a_direction_without_memory_to_begin_ends_both(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    tunnel = ends.tunnel(kind=Apart)
    running = gevent.spawn(tunnel.run)
    spawn = gevent.spawn
    monkeypatch.setattr(gevent, "spawn", lambda *_: spawn(no_memory))
    with pytest.raises(MemoryError):
        running.get(timeout=WAIT)
    assert tunnel.outcome == "stopped"


@pytest.mark.parametrize("acts", [False, True])
def test_a_response_that_idles_out_is_not_logged_as_complete(tmp_path: Path, acts: bool) -> None:
    """From a plaintext redirect, where the end of the connection may be its end."""

    def stall(sock: socket.socket) -> None:
        asked = sock.recv(65_536)
        sock.sendall(b"HTTP/1.1 200 OK\r\n\r\nhalf")
        if b"/half" in asked:
            with suppress(ConnectionResetError):
                sock.recv(1)

    (tmp_path / "tap.py").write_text("REWRITE = True\ndef request(exchange): pass\n")
    words = ["--store=certs", "--max=9", "--ca=ca", "--idle-timeout=1", "--log-requests", *["--tap=tap.py"] * acts]
    with Origin(stall) as plain, Program(tmp_path, *words, f"--redirect=127.0.0.1:{plain.port}") as running:
        for path, told in (("/half", "error=idle"), ("/whole", "type=-")):
            with secure_tunnel(running, "a.example:443") as secure:
                secure.sendall(f"GET {path} HTTP/1.1\r\nHost: a.example\r\n\r\n".encode())
                assert running.wait_for(path).endswith(told)


@pytest.mark.parametrize("acts", [False, True])
def test_a_response_that_idles_out_as_its_client_does_not_read_is_logged_so(tmp_path: Path, acts: bool) -> None:
    """It was not the client who cut it off, though sending to it failed then."""

    def answer(sock: socket.socket) -> None:
        sock.recv(65_536)
        with suppress(OSError):
            sock.sendall(b"HTTP/1.1 200 OK\r\n\r\n" + bytes(100_000_000))

    (tmp_path / "tap.py").write_text("REWRITE = True\ndef request(exchange): pass\n")
    words = ["--store=certs", "--max=9", "--ca=ca", "--idle-timeout=1", "--log-requests", *["--tap=tap.py"] * acts]
    with (
        Origin(answer) as plain,
        Program(tmp_path, *words, f"--redirect=127.0.0.1:{plain.port}") as running,
        secure_tunnel(running, "a.example:443") as secure,
    ):
        secure.sendall(b"GET /much HTTP/1.1\r\nHost: a.example\r\n\r\n")
        assert running.wait_for("/much").endswith("error=idle")


@pytest.mark.parametrize("acts", [False, True])
@pytest.mark.parametrize("outcome", ["client-reset", "client-tls-error"])
def test_a_response_that_its_client_cut_off_is_not_logged_as_complete(tmp_path: Path, acts: bool, outcome: str) -> None:
    """From a plaintext redirect, where the end of the connection may be its end: that is then our doing."""

    def stall(sock: socket.socket) -> None:
        sock.recv(65_536)
        sock.sendall(b"HTTP/1.1 200 OK\r\n\r\nhalf")
        with suppress(ConnectionResetError):
            sock.recv(1)

    (tmp_path / "tap.py").write_text("REWRITE = True\ndef request(exchange): pass\n")
    words = ["--store=certs", "--max=9", "--ca=ca", "--log-requests", *["--tap=tap.py"] * acts]
    with Origin(stall) as plain, Program(tmp_path, *words, f"--redirect=127.0.0.1:{plain.port}") as running:
        with secure_tunnel(running, "a.example:443") as secure:
            secure.sendall(b"GET /half HTTP/1.1\r\nHost: a.example\r\n\r\n")
            while not secure.recv(65_536).endswith(b"half"):
                pass
            if outcome == "client-reset":
                sockets.reset(secure)
            else:
                os.write(secure.fileno(), b"no record of TLS")
        assert running.wait_for("/half").endswith(f"error={outcome}")


def test_what_a_client_cut_off_does_not_look_complete(tmp_path: Path) -> None:
    """On a plaintext redirect, where a FIN alone marks the end, half an upload would pass for the whole."""
    heard: Queue[str] = Queue()

    def upload(sock: socket.socket) -> None:
        heard.put(sock.recv(4).decode())
        try:
            heard.put("more" if sock.recv(1) else "complete")
        except ConnectionResetError:
            heard.put("cut off")

    with (
        Origin(upload) as plain,
        Program(tmp_path, "--store=certs", "--max=9", "--ca=ca", f"--redirect=127.0.0.1:{plain.port}") as running,
    ):
        for outcome, told in [("client-reset", "cut off"), ("client-tls-error", "cut off"), ("closed", "complete")]:
            with secure_tunnel(running, "a.example:443") as secure:
                secure.sendall(b"half")
                assert heard.get(timeout=WAIT) == "half"
                if outcome == "client-reset":
                    sockets.reset(secure)
                elif outcome == "client-tls-error":
                    os.write(secure.fileno(), b"no record of TLS")
                else:
                    secure.unwrap()
            assert heard.get(timeout=WAIT) == told
            running.wait_for(f"outcome={outcome}")
