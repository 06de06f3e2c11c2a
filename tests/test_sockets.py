"""Sockets: waiting for one or two at once, connecting, and closing after a last word."""

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

import gevent
import pytest
from gevent.monkey import get_original
from lab import WAIT, Origin, reserved_port

import sockets


def test_two_sockets_are_watched_together() -> None:
    one, one_end = socket.socketpair()
    two, two_end = socket.socketpair()
    with one, one_end, two, two_end:
        soon = time.monotonic() + WAIT
        with pytest.raises(TimeoutError):
            sockets.either(one, two, time.monotonic() + 0.01)
        two_end.sendall(b"x")
        assert sockets.either(one, two, soon) == 1
        assert sockets.either(one, two) == 1  # the octet is still unread
        two.recv(1)
        one_end.close()
        assert sockets.either(one, two, soon) == 0


def test_shut_by_ourselves_a_socket_that_is_watched_has_ended() -> None:
    one, one_end = socket.socketpair()
    two, two_end = socket.socketpair()
    with one, one_end, two, two_end:
        watching = gevent.spawn(sockets.either, one, two, time.monotonic() + WAIT)
        gevent.sleep(0)
        sockets.shut(two)
        assert watching.get() == 1


def test_what_has_been_received_is_input_and_so_is_the_peers_end() -> None:
    one, other = socket.socketpair()
    with one, other:
        assert not sockets.has_input(one)
        other.sendall(b"x")
        assert sockets.has_input(one)
        assert one.recv(1) == b"x"
        assert not sockets.has_input(one)
        other.close()
        assert sockets.has_input(one)
    assert sockets.has_input(one)  # its next read would fail at once


def test_a_socket_is_waited_for() -> None:
    one, other = socket.socketpair()
    with one, other:
        soon = time.monotonic() + WAIT
        with pytest.raises(TimeoutError):
            sockets.wait(one, time.monotonic() + 0.01)
        with pytest.raises(TimeoutError):
            sockets.wait(one, time.monotonic() - 1)
        sockets.wait(one, soon, sockets.WRITE)
        other.sendall(b"x")
        sockets.wait(one, soon)
        one.settimeout(0.01)  # gevent's own waits go on as before
        assert one.recv(1) == b"x"
        with pytest.raises(TimeoutError):
            one.recv(1)
        other.close()
        sockets.wait(one, soon)


@pytest.mark.parametrize("reset", [False, True])
def test_whether_a_peer_has_ended(reset: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as sock:
        accepted, _ = listener.accept()
        with accepted:
            assert not sockets.has_ended(sock)
            accepted.sendall(b"x")
            if reset:
                sockets.reset(accepted)
        assert not sockets.has_ended(sock)
        assert sock.recv(1) == b"x"
        sockets.wait(sock, time.monotonic() + WAIT)
        assert sockets.has_ended(sock)
        assert sockets.has_ended(sock)  # it is so from now on
        assert sock.gettimeout() is None


def test_connecting() -> None:
    soon = time.monotonic() + WAIT
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as sock:
        sockets.connect(sock, listener.getsockname(), soon)
        assert sock.gettimeout() is None
        accepted, _ = listener.accept()
        with accepted:
            accepted.sendall(b"x")
            assert sock.recv(1) == b"x"  # it is blocking again
    with reserved_port() as port, socket.socket() as sock, pytest.raises(ConnectionRefusedError):
        sockets.connect(sock, ("127.0.0.1", port), soon)
    with full_listener() as address, socket.socket() as sock, pytest.raises(TimeoutError):
        sockets.connect(sock, address, time.monotonic() + 0.05)


@contextmanager
def full_listener() -> Iterator[tuple[str, int]]:
    """A listener that takes no more connections: its accept queue is full, and clients wait for an answer."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener, ExitStack() as waiting:
        for _ in range(2):
            sock = waiting.enter_context(socket.socket())
            sock.settimeout(0.0)
            with suppress(BlockingIOError):
                sock.connect(listener.getsockname())
        yield listener.getsockname()


def test_a_deadline_that_has_passed() -> None:
    one, two = socket.socketpair()
    with one, two, pytest.raises(TimeoutError):
        sockets.arm(one, time.monotonic() - 1)


def test_a_deadline_counts_from_when_it_is_set() -> None:
    """Not from when the hub last looked at the clock, which can be long ago if this very greenlet has held it."""
    end, ours = socket.socketpair()

    def late() -> None:
        ours.recv(1)
        get_original("time", "sleep")(0.3)
        deadline = time.monotonic() + 0.2
        with pytest.raises(TimeoutError, match="deadline passed"):
            sockets.wait(ours, deadline)
        assert time.monotonic() > deadline - 0.01

    with end, ours, gevent.Timeout(WAIT):
        waiting = gevent.spawn(late)
        gevent.sleep(0)
        end.sendall(b"x")
        waiting.get()


def test_the_last_word_arrives_though_the_peer_still_sends() -> None:
    """Closing with input unread makes the kernel send a reset, which would destroy the reply."""

    def answer(sock: socket.socket) -> None:
        sock.recv(1)
        sockets.last_word(sock, b"reply")

    for _ in range(20):
        with Origin(answer) as server, socket.create_connection(("127.0.0.1", server.port), timeout=WAIT) as sock:
            sock.sendall(bytes(200_000))
            assert sock.recv(100) == b"reply"


def test_after_the_last_word_all_is_read_until_the_peer_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """And no longer: its end can be read again and again."""
    monkeypatch.setattr(sockets, "LINGER_SECONDS", 2 * WAIT)
    one, other = socket.socketpair()
    with one, other, gevent.Timeout(WAIT):
        speaking = gevent.spawn(sockets.last_word, one, b"reply")
        other.sendall(bytes(1_000_000))  # more than is buffered
        assert other.recv(100) == b"reply"
        other.shutdown(socket.SHUT_WR)
        speaking.get()


def says_nothing(_: socket.socket) -> None: ...


def trickles(sock: socket.socket) -> None:
    while True:
        sock.sendall(b"x")
        gevent.sleep(0.02)


def floods(sock: socket.socket) -> None:
    while True:
        sock.sendall(bytes(65_536))


@pytest.mark.parametrize(
    ("peer", "reply", "seconds", "octets"),
    [
        (says_nothing, b"reply", 0.1, 1 << 20),
        (says_nothing, bytes(10_000_000), 0.1, 1 << 20),  # and does not read either
        (trickles, b"reply", 0.1, 1 << 20),
        (floods, b"reply", 2 * WAIT, 500_000),
    ],
)
def test_the_last_word_waits_so_long_and_reads_so_much_only(
    monkeypatch: pytest.MonkeyPatch, peer: Callable[[socket.socket], None], reply: bytes, seconds: float, octets: int
) -> None:
    monkeypatch.setattr(sockets, "LINGER_SECONDS", seconds)
    monkeypatch.setattr(sockets, "LINGER_OCTETS", octets)
    one, other = socket.socketpair()

    def run() -> None:
        with suppress(OSError):
            peer(other)

    with one, other, gevent.Timeout(WAIT):
        running = gevent.spawn(run)
        sockets.last_word(one, reply)
        running.kill()
        assert other.recv(100) == reply[:100]


def test_who_gives_way_lets_sockets_be_looked_at() -> None:
    """At once, not only after fifty turns as with gevent's ``sleep(0)``."""
    one, other = socket.socketpair()
    with one, other:
        reader = gevent.spawn(other.recv, 1)
        sockets.give_way()  # the reader waits now
        one.send(b"x")
        turns = 0
        while not reader.ready():
            sockets.give_way()
            turns += 1
        assert turns <= 3
