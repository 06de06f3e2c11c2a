"""Origins: which of their addresses is dialled, how a failed dial is reported, what they are offered."""

import errno
import os
import socket
import time
from pathlib import Path

import gevent
import pytest
from gevent.event import Event
from lab import WAIT, Origin, echo, no_memory, until
from test_sockets import full_listener

import errors
import resolver
import sockets
import upstream
from board import Board
from dialing import Dialer
from errors import OriginRefused, OriginTimeout
from limits import Limits
from localaddress import same_endpoint
from names import Endpoint, Target
from policy import Policy, Rules
from upstream import Upstream

TARGET = Target("x", 1)


def soon() -> float:
    return time.monotonic() + WAIT


def test_an_attempt_without_memory_to_begin_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    addresses = [("127.0.0.1", 1), ("127.0.0.1", 2)]
    dialling = gevent.spawn(Upstream().dial, addresses, TARGET, soon())
    spawn = gevent.spawn
    monkeypatch.setattr(gevent, "spawn", lambda *_: spawn(no_memory))
    with pytest.raises(MemoryError):
        dialling.get(timeout=WAIT)


def test_the_next_address_is_tried() -> None:
    with full_listener() as silent, Origin(echo) as server:
        good = ("127.0.0.1", server.port)
        start = time.monotonic()
        with Upstream().dial([silent, good], TARGET, start + WAIT) as sock:
            assert sock.getpeername() == good
        assert 0.2 < time.monotonic() - start < 2
        for addresses in ([silent], [silent] * 2):
            with pytest.raises(OriginTimeout):
                Upstream().dial(addresses, TARGET, time.monotonic() + 0.5)
        for addresses in ([("127.0.0.1", 1)], [("127.0.0.1", 1), ("::1", 1)]):
            with pytest.raises(OriginRefused):
                Upstream().dial(addresses, TARGET, soon())


def test_a_dialled_socket_sends_at_once_and_is_kept_alive() -> None:
    with Origin(echo) as server, Upstream().dial([("127.0.0.1", server.port)], TARGET, soon()) as sock:
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


def test_the_next_address_is_tried_at_once_where_one_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream, "ATTEMPT_SECONDS", 2 * WAIT)
    with Origin(echo) as server:
        good = ("127.0.0.1", server.port)
        start = time.monotonic()
        with Upstream().dial([("127.0.0.1", 1), good], TARGET, start + 3 * WAIT) as sock:
            assert sock.getpeername() == good
        assert time.monotonic() - start < WAIT


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """All addresses are tried at the same time."""
    monkeypatch.setattr(upstream, "ATTEMPT_SECONDS", 0.001)


@pytest.mark.usefixtures("at_once")
def test_of_two_that_answer_at_the_same_time_one_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    go_on, made = Event(), list[socket.socket]()

    def connect(sock: socket.socket, *_: object) -> None:
        made.append(sock)
        go_on.wait()

    monkeypatch.setattr(sockets, "connect", connect)
    dial = gevent.spawn(Upstream().dial, [("192.0.2.1", 1), ("192.0.2.2", 1)], TARGET, soon())
    until(lambda: len(made) == 2)
    go_on.set()
    with dial.get(timeout=WAIT) as winner:
        assert winner.fileno() >= 0
        assert [sock.fileno() for sock in made if sock is not winner] == [-1]


@pytest.mark.usefixtures("at_once")
def test_one_that_fails_while_another_answers_does_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    go_on, waiting = Event(), list[Endpoint]()

    def connect(_: socket.socket, address: Endpoint, __: float) -> None:
        waiting.append(address)
        go_on.wait()
        if address[1] == 2:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "refused")

    monkeypatch.setattr(sockets, "connect", connect)
    dial = gevent.spawn(Upstream().dial, [("192.0.2.1", 1), ("192.0.2.1", 2)], TARGET, soon())
    until(lambda: len(waiting) == 2)
    go_on.set()
    with dial.get(timeout=WAIT) as winner:
        assert winner.fileno() >= 0


@pytest.mark.parametrize("as_proxy", [False, True])
@pytest.mark.usefixtures("at_once")
def test_one_client_can_not_use_up_the_descriptors_by_names_with_many_addresses(
    monkeypatch: pytest.MonkeyPatch, as_proxy: bool
) -> None:
    go_on, made = Event(), list[Endpoint]()
    found = [f"192.0.2.{n}" for n in range(1, upstream._MOST_ADDRESSES + 1)]

    def connect(_: socket.socket, address: Endpoint, __: float) -> None:
        made.append(address)
        go_on.wait()

    def dial(number: int, client: str) -> "gevent.Greenlet[..., socket.socket]":
        if as_proxy:
            return gevent.spawn(dialer.own, Target("many.example", number), client)
        return gevent.spawn(origins.dial, [(ip, number) for ip in found], TARGET, soon(), client)

    monkeypatch.setattr(sockets, "connect", connect)
    monkeypatch.setattr(
        resolver, "_getaddrinfo", lambda *_, **__: [(socket.AF_INET, 0, 0, "", (ip, 0)) for ip in found]
    )
    origins = Upstream()
    dialer = Dialer(origins, Policy(Rules(), same_endpoint), None, Limits(), Board())
    dials = [dial(number, "a") for number in range(1, 41)]
    most = len(dials) + upstream._SHARE
    until(lambda: len(made) == most)
    dials.append(dial(50, "b"))  # another client has turns of its own
    until(lambda: [port for _, port in made].count(50) == upstream._MOST_ADDRESSES)
    assert len(made) == most + upstream._MOST_ADDRESSES
    go_on.set()
    for each in dials:
        each.get(timeout=WAIT).close()
    go_on.clear()
    again = dial(51, "a")  # has them all again
    until(lambda: [port for _, port in made].count(51) == upstream._MOST_ADDRESSES)
    go_on.set()
    again.get(timeout=WAIT).close()


@pytest.mark.usefixtures("at_once")
def test_who_is_late_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its socket is closed: otherwise, hundreds of dials a second would each leave one until its own deadline."""
    late = list[socket.socket]()

    def connect(sock: socket.socket, address: Endpoint, _: float) -> None:
        if address[1] == 1:
            late.append(sock)
            gevent.sleep(2 * WAIT)

    monkeypatch.setattr(sockets, "connect", connect)
    Upstream().dial([("192.0.2.1", 1), ("192.0.2.1", 2)], TARGET, soon()).close()
    assert [sock.fileno() for sock in late] == [-1]


def test_of_many_addresses_some_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each attempt takes a descriptor, and a name server decides how many addresses there are."""
    tried = list[Endpoint]()

    def connect(_: socket.socket, address: Endpoint, __: float) -> None:
        tried.append(address)
        raise ConnectionRefusedError(errno.ECONNREFUSED, "refused")

    monkeypatch.setattr(sockets, "connect", connect)
    with pytest.raises(OriginRefused):
        Upstream().dial([("192.0.2.1", port) for port in range(1, 100)], TARGET, soon())
    assert tried == [("192.0.2.1", port) for port in range(1, 9)]


def test_a_bug_in_a_dial_is_told_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(sockets, "connect", connect)
    with pytest.raises(ZeroDivisionError):
        Upstream().dial([("192.0.2.1", 1), ("192.0.2.2", 1)], TARGET, soon())


@pytest.mark.parametrize(
    ("first", "numbers", "kind"),
    [
        # The second address is an IPv6 one, and the machine may have none.
        ("192.0.2.1", [errno.ECONNREFUSED, errno.EADDRNOTAVAIL], OriginRefused),
        ("fe80::1", [errno.ECONNREFUSED, errno.EADDRNOTAVAIL], OriginRefused),
        ("192.0.2.1", [errno.EADDRNOTAVAIL], errors.OutOfResources),
        ("192.0.2.1", [errno.ECONNREFUSED, errno.EMFILE], errors.OutOfResources),
        ("192.0.2.1", [errno.EHOSTUNREACH, errno.EADDRNOTAVAIL], errors.OriginError),
    ],
)
def test_what_tells_most_about_a_dial_that_failed(first: str, numbers: list[int], kind: type[Exception]) -> None:
    failures = [OSError(number, os.strerror(number)) for number in numbers]
    assert type(upstream._dial_error(Target("a", 1), [(first, 1), ("2001:db8::1", 1)], failures)) is kind


@pytest.mark.parametrize(
    ("ips", "kind"),
    [
        (["fe80::1"], errors.OriginError),  # link-local without a zone: no route from anywhere
        (["fe80::1", "fe80::2"], errors.OriginError),
        (["::1"], errors.OutOfResources),  # there is a route, so the ports have run out
        (["192.0.2.1"], errors.OutOfResources),
        (["2001:db8::1", "192.0.2.1"], errors.OutOfResources),
    ],
)
def test_a_machine_without_ipv6_is_not_out_of_resources(
    monkeypatch: pytest.MonkeyPatch, ips: list[str], kind: type[errors.CertifierError]
) -> None:
    def connect(*_: object) -> None:
        raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))

    monkeypatch.setattr(sockets, "connect", connect)
    with pytest.raises(kind) as failure:
        Upstream().dial([(ip, 443) for ip in ips], TARGET, soon())
    assert failure.type is kind


def test_roots_that_cannot_be_read_are_told_of(tmp_path: Path) -> None:
    with pytest.raises(errors.UsageError):
        Upstream(str(tmp_path / "none"))


def test_of_a_handshake_that_succeeded_nothing_is_kept(certificate: Path, roots: Path) -> None:
    up = Upstream(str(roots))
    with Origin(echo, certificate) as origin, up.dial([("127.0.0.1", origin.port)], TARGET, soon()) as sock:
        stream = up.secure(sock, "localhost", [b"\xff\xff", b"http/1.1"], soon())  # the first is GREASE: not offered
        assert not stream.flight
