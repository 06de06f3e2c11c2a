"""Greenlets that serve one connection after another: which of them work, wait, and end."""

import gc
import os
import resource
import socket
import weakref
from collections.abc import Iterator
from contextlib import ExitStack

import gevent
import pytest
from gevent.event import Event
from lab import until

import staff as rooms
from acceptor import Acceptor
from staff import Staff


class Thing:
    """What a greenlet could hold on to."""


@pytest.fixture
def staff() -> Iterator[Staff]:
    made = Staff(3)
    yield made
    made.kill(timeout=1)


def served_by(staff: Staff) -> object:
    """The greenlet that does the next piece of work."""
    found: list[object] = []
    staff.spawn(lambda: found.append(gevent.getcurrent()))
    gevent.idle()
    return found[0]


def test_the_same_greenlet_serves_again_what_comes_later(staff: Staff) -> None:
    first = served_by(staff)
    assert len(staff) == 0
    assert served_by(staff) is first


def test_what_comes_at_the_same_time_is_served_by_others(staff: Staff) -> None:
    go = Event()
    seen = []

    def work(number: int) -> None:
        seen.append((number, gevent.getcurrent()))
        go.wait()

    served_by(staff)  # this leaves an idle greenlet
    for number in range(3):
        staff.spawn(work, number)
    assert len(staff) == 3  # before any of them has begun
    assert staff.is_full
    gevent.idle()
    assert [number for number, _ in seen] == [0, 1, 2]
    assert len({greenlet for _, greenlet in seen}) == 3
    go.set()
    gevent.idle()
    assert not staff.is_full
    assert len(staff) == 0


def test_work_that_fails_is_told_and_ends_its_greenlet_alone(staff: Staff, capfd: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise ZeroDivisionError("a bug")

    before = served_by(staff)
    staff.spawn(fail)
    gevent.idle()
    assert "a bug" in capfd.readouterr().err
    assert len(staff) == 0
    assert served_by(staff) is not before


def test_who_waits_holds_nothing_of_what_it_served(staff: Staff) -> None:
    thing = Thing()
    gone = weakref.ref(thing)
    staff.spawn(lambda _: None, thing)
    gevent.idle()
    del thing
    gc.collect()
    assert gone() is None


def test_no_more_wait_than_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rooms, "KEPT", 2)
    staff = Staff(5)
    go = Event()
    greenlets = []

    def work() -> None:
        greenlets.append(gevent.getcurrent())
        go.wait()

    for _ in range(5):
        staff.spawn(work)
    gevent.idle()
    go.set()
    gevent.idle()
    assert sum(not greenlet.dead for greenlet in greenlets) == 2
    assert len(staff) == 0
    staff.kill(timeout=1)


def test_join_waits_for_those_at_work_and_ends_those_who_wait(staff: Staff) -> None:
    waits = served_by(staff)
    go = Event()
    done = []

    def work() -> None:
        go.wait()
        done.append(True)

    staff.spawn(lambda: None)  # done by the idle greenlet
    staff.spawn(work)
    gevent.idle()
    gevent.spawn_later(0.01, go.set)
    staff.join(timeout=5)
    assert done
    assert len(staff) == 0
    assert isinstance(waits, gevent.Greenlet)
    assert waits.dead


def test_join_does_not_wait_longer_and_kill_ends_what_is_left(staff: Staff) -> None:
    ended = []

    def work() -> None:
        try:
            Event().wait()
        finally:
            ended.append(True)

    staff.spawn(work)
    gevent.idle()
    staff.join(timeout=0.01)
    assert len(staff) == 1
    assert not ended
    staff.kill(timeout=5)
    assert len(staff) == 0
    assert ended


def test_a_connection_for_which_there_is_nobody_waits_and_is_served(capfd: pytest.CaptureFixture[str]) -> None:
    staff = Staff(1)
    go = Event()

    def handle(sock: socket.socket, _: object) -> None:
        sock.sendall(b"here")
        go.wait()

    listener = socket.create_server(("127.0.0.1", 0))
    server = Acceptor(listener, handle, staff)
    server.start()
    try:
        with socket.create_connection(listener.getsockname(), 5) as first:
            assert first.recv(10) == b"here"
            with socket.create_connection(listener.getsockname(), 5) as second:
                second.settimeout(0.1)
                with pytest.raises(TimeoutError):
                    second.recv(10)
                go.set()
                second.settimeout(5)
                assert second.recv(10) == b"here"
    finally:
        server.close()
        staff.kill(timeout=1)
    assert capfd.readouterr().err == ""  # it is no error


def here(sock: socket.socket, _: object) -> None:
    sock.sendall(b"here")
    sock.close()


def test_those_who_wait_as_the_end_comes_are_served() -> None:
    """Closing the listener would reset their connections."""
    staff = Staff(2)
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        server = Acceptor(listener, here, staff)
        server.init_socket()
        address = listener.getsockname()
        clients = [stack.enter_context(socket.create_connection(address, 5)) for _ in range(4)]
        server.take_queued(1)
        assert len(staff) == 1
        server.take_queued(9)  # for whom there is somebody
        assert len(staff) == 2
        assert [client.recv(10) for client in clients[:2]] == [b"here", b"here"]
        staff.join(timeout=5)
        server.take_queued(9)  # of whom there are only two
        assert [client.recv(10) for client in clients[2:]] == [b"here", b"here"]


def test_without_descriptors_one_line_tells_it_and_who_waits_is_served_later(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    staff = Staff(2)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        server = Acceptor(listener, here, staff)
        client = stack.enter_context(socket.create_connection(listener.getsockname(), 5))
        free = os.dup(client.fileno())
        os.close(free)
        server.start()
        stack.callback(server.close)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
        until(lambda: server.delay == server.max_delay)  # it has tried several times
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert client.recv(10) == b"here"
    assert caplog.messages == ["can't accept connections for now: Too many open files"]
    assert (
        "Traceback" not in capfd.readouterr().err
    )  # the line itself may be there: earlier tests may have set up the log
