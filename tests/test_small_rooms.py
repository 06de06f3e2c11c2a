"""What is small enough to share a file: log, pages, policy, sockets, upstream, tunnel's deadline."""

import errno
import json
import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import gevent
import pytest
from gevent.monkey import get_original
from hypothesis import given
from hypothesis import strategies as st
from lab import Origin, echo, no_garbage

import errors
import pages
import resolver
import sockets
import upstream
from errors import CertifierError, LoopDetected, OriginRefused, OriginTimeout, UnknownName
from hello import ClientHello
from log import MAX_VALUE, escape
from names import Target
from policy import Policy, Rules
from record import Record
from streams import PlainStream
from tunnel import Tunnel
from upstream import Upstream

# log


@pytest.mark.parametrize(
    ("value", "word"),
    [
        ("www.example.com", "www.example.com"),
        ("", '""'),
        ("a b", '"a b"'),
        ("a=b", '"a=b"'),
        ('a"b', '"a\\"b"'),
        ("a\nb\x1b[0m", '"a\\nb\\x1b[0m"'),
        ("é\u2028", '"\\xe9\\u2028"'),
        ("a\\b", '"a\\\\b"'),
    ],
)
def test_escaped_words(value: str, word: str) -> None:
    assert escape(value) == word


@given(st.text())
def test_no_value_breaks_a_line(value: str) -> None:
    word = escape(value)
    assert word.isascii()
    assert word.isprintable()
    assert len(word) < 12 * MAX_VALUE


def test_a_record_is_one_line() -> None:
    record = Record("127.0.0.1:1", target="a:443", sni="a\r\nb", sent=1, outcome="closed", detail="x y")
    stamp, _, line = record.text().partition(" ")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", stamp)
    assert line.startswith('tunnel client=127.0.0.1:1 target=a:443 sni="a\\r\\nb" context=- ')
    assert line.endswith('outcome=closed detail="x y"')
    told = json.loads(record.as_json())
    assert (told["sni"], told["sent"], told["status"], told["detail"]) == ("a\r\nb", 1, None, "x y")
    record.user, record.target = 'a "b', "a\nb:443"
    assert re.fullmatch(
        r'127.0.0.1 - a%20\\"b \[\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d \+0000\]'
        r' "CONNECT a\\nb:443 HTTP/1.1" 200 - "-" "-"',
        record.combined(),
    )


# errors and pages


def leaf_errors(kind: type[CertifierError] = CertifierError) -> list[type[CertifierError]]:
    return [kind, *(leaf for sub in kind.__subclasses__() for leaf in leaf_errors(sub))]


@pytest.mark.parametrize("kind", leaf_errors())
def test_every_error_has_its_reply(kind: type[CertifierError]) -> None:
    reply = pages.for_error(kind('what "happened"\r\nX: injected é'))
    head, _, body = reply.partition(b"\r\n\r\n")
    line, *fields = head.decode("ascii").split("\r\n")
    assert line == f"HTTP/1.1 {kind.status} {kind.reason}"
    assert 400 <= kind.status < 600
    assert kind.reason
    assert not [field for field in fields if field.startswith("X:")]
    assert f'Proxy-Status: certifier; error={kind.proxy_status}; details="what ?happened???X: injected ?"' in fields
    assert f"Content-Length: {len(body)}" in fields
    assert "Connection: close" in fields
    assert pages.for_error(kind("x"), head_only=True).endswith(b"\r\n\r\n")


def test_alerts_are_those_of_the_rfc() -> None:
    assert (errors.ACCESS_DENIED, errors.DECODE_ERROR, errors.INTERNAL_ERROR) == (49, 50, 80)
    assert (errors.UNRECOGNIZED_NAME, errors.NO_APPLICATION_PROTOCOL) == (112, 120)


# policy


def test_the_name_to_intercept_for() -> None:
    policy = Policy(Rules(), sockets.same_endpoint)
    for sent, host, name in [
        ("WWW.Example.com", "10.0.0.1", "www.example.com"),
        (None, "10.0.0.1", "10.0.0.1"),
        ("../x", "a.example", "a.example"),
        ("10.0.0.1", "::1", "::1"),
    ]:
        assert policy.name_for(ClientHello(sent, (), ()), host) == name
    for sent in (None, "10.0.0.1", "a b"):
        with pytest.raises(UnknownName):
            policy.name_for(ClientHello(sent, (), ()), None)


def test_loops() -> None:
    policy = Policy(Rules(), sockets.same_endpoint)
    policy.listeners += [("127.0.0.1", 8080), ("0.0.0.0", 8081), ("::", 8082)]
    for ip, port in [
        ("127.0.0.1", 8080),
        ("127.0.0.1", 8081),
        ("127.9.9.9", 8081),
        ("::1", 8082),
        ("0.0.0.0", 8080),
        ("::", 8082),
    ]:
        with pytest.raises(LoopDetected):
            policy.permitted(Target("x", port), [("192.0.2.1", 1), (ip, port)])
    others = [("127.0.0.2", 8080), ("198.51.100.1", 8081), ("127.0.0.1", 80), ("127.0.0.1", 8082), ("::1", 8081)]
    assert policy.permitted(Target("x", 8080), others) == others


# sockets


def test_two_sockets_are_watched_together() -> None:
    one, one_end = socket.socketpair()
    two, two_end = socket.socketpair()
    with one, one_end, two, two_end:
        soon = time.monotonic() + 5
        with pytest.raises(TimeoutError):
            sockets.either(one, two, time.monotonic() + 0.01)
        two_end.sendall(b"x")
        assert sockets.either(one, two, soon) == 1
        assert sockets.either(one, two) == 1  # it was not read
        two.recv(1)
        one_end.close()
        assert sockets.either(one, two, soon) == 0


def test_shut_by_ourselves_a_socket_that_is_watched_has_ended() -> None:
    one, one_end = socket.socketpair()
    two, two_end = socket.socketpair()
    with one, one_end, two, two_end:
        watching = gevent.spawn(sockets.either, one, two, time.monotonic() + 5)
        gevent.sleep(0)
        sockets.shut(two)
        assert watching.get() == 1


def test_a_socket_is_waited_for() -> None:
    one, other = socket.socketpair()
    with one, other:
        soon = time.monotonic() + 5
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


def test_connecting() -> None:
    soon = time.monotonic() + 5
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as sock:
        sockets.connect(sock, listener.getsockname(), soon)
        accepted, _ = listener.accept()
        with accepted:
            accepted.sendall(b"x")
            assert sock.recv(1) == b"x"  # it blocks again
        address = listener.getsockname()
    with socket.socket() as sock, pytest.raises(ConnectionRefusedError):
        sockets.connect(sock, address, soon)
    with full_listener() as address, socket.socket() as sock, pytest.raises(TimeoutError):
        sockets.connect(sock, address, time.monotonic() + 0.05)


@contextmanager
def full_listener() -> Iterator[tuple[str, int]]:
    """A listener that takes no more connections: its queue is full, and who comes waits for an answer."""
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


def test_the_last_word_arrives_though_the_peer_still_sends() -> None:
    """Closed with input unread, the kernel's reset would take the reply with it."""

    def answer(sock: socket.socket) -> None:
        sock.recv(1)
        sockets.last_word(sock, b"reply")

    for _ in range(20):
        with Origin(answer) as server, socket.create_connection(("127.0.0.1", server.port), timeout=5) as sock:
            sock.sendall(bytes(200_000))
            assert sock.recv(100) == b"reply"


# upstream


def soon() -> float:
    return time.monotonic() + 5


def test_look_up() -> None:
    up = Upstream()
    assert up.resolve(Target("::1", 5), soon()) == [("::1", 5)]
    assert ("127.0.0.1", 6) in up.resolve(Target("localhost", 6), soon())
    assert ("127.0.0.1", 7) in up.resolve(Target("localhost", 7), time.monotonic() - 1)  # remembered
    with pytest.raises(errors.OriginNotFound):
        up.resolve(Target("no-such-host.invalid", 1), soon())


def test_address_families_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    ips = ["::1", "::2", "::3", "10.0.0.1", "::1"]
    monkeypatch.setattr(resolver, "_getaddrinfo", lambda *_, **__: [(0, 0, 0, "", (ip, 0)) for ip in ips])
    found = Upstream().resolve(Target("many.example", 1), soon())
    assert [ip for ip, _ in found] == ["::1", "10.0.0.1", "::2", "::3"]


@pytest.fixture
def silent() -> "socket.socket":
    """A listener whose queue is full: it neither accepts nor refuses."""
    return socket.create_server(("127.0.0.1", 0), backlog=0)


def test_the_next_address_is_tried(silent: socket.socket) -> None:
    fillers = []
    with silent, Origin(echo) as server:
        silent_port = silent.getsockname()[1]
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", silent_port))
            fillers.append(filler)
        good = ("127.0.0.1", server.port)
        target = Target("x", 1)
        start = time.monotonic()
        with Upstream().dial([("127.0.0.1", silent_port), good], target, soon()) as sock:
            assert sock.getpeername() == good
        assert 0.2 < time.monotonic() - start < 2
        start = time.monotonic()
        with Upstream().dial([("127.0.0.1", 1), good], target, soon()) as sock:
            assert sock.getpeername() == good
        assert time.monotonic() - start < 0.2
        for addresses in ([("127.0.0.1", silent_port)], [("127.0.0.1", silent_port)] * 2):
            with pytest.raises(OriginTimeout):
                Upstream().dial(addresses, target, time.monotonic() + 0.5)
        for addresses in ([("127.0.0.1", 1)], [("127.0.0.1", 1), ("::1", 1)]):
            with pytest.raises(OriginRefused):
                Upstream().dial(addresses, target, soon())
        for filler in fillers:
            filler.close()


@pytest.mark.parametrize(
    ("numbers", "kind"),
    [
        (
            [errno.ECONNREFUSED, errno.EADDRNOTAVAIL],
            OriginRefused,
        ),  # the second address is an IPv6 one, and there is none
        ([errno.EADDRNOTAVAIL], errors.OutOfResources),
        ([errno.ECONNREFUSED, errno.EMFILE], errors.OutOfResources),
        ([errno.EHOSTUNREACH, errno.EADDRNOTAVAIL], errors.OriginError),
    ],
)
def test_what_tells_most_about_a_dial_that_failed(numbers: list[int], kind: type[Exception]) -> None:
    failures = [OSError(number, os.strerror(number)) for number in numbers]
    assert type(upstream._dial_error(Target("a", 1), failures)) is kind


def test_slow_look_ups_end_and_hold_nobody_else_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread a name, whoever asks; another name is looked up meanwhile, and a failure is not asked for at once."""
    asked: list[str] = []
    go_on: list[bool] = []
    sleep = get_original("time", "sleep")

    def slow(host: str, *_: object, **__: object) -> list[tuple[int, int, int, str, tuple[str, int]]]:
        asked.append(host)
        if host == "dead.example":
            while not go_on:
                sleep(0.005)
            raise socket.gaierror(-2, "Name or service not known")
        return [(0, 0, 0, "", ("10.0.0.1", 0))]

    monkeypatch.setattr(resolver, "_getaddrinfo", slow)
    up = Upstream()
    waiting = [gevent.spawn(up.resolve, Target("dead.example", 1), time.monotonic() + 0.3) for _ in range(40)]
    while not asked:
        gevent.sleep(0)
    start = time.monotonic()
    assert up.resolve(Target("good.example", 2), soon()) == [("10.0.0.1", 2)]
    assert time.monotonic() - start < 0.25
    for greenlet in waiting:
        with pytest.raises(errors.OriginLookupTimeout):
            greenlet.get(timeout=5)
    assert asked.count("dead.example") == 1
    go_on.append(True)
    with pytest.raises(errors.OriginNotFound):
        up.resolve(Target("dead.example", 1), soon())
    with pytest.raises(errors.OriginNotFound):
        up.resolve(Target("dead.example", 1), soon())
    assert asked.count("dead.example") == 1


def test_no_client_takes_all_look_ups(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    go_on: list[bool] = []
    sleep = get_original("time", "sleep")

    def slow(host: str, *_: object, **__: object) -> list[tuple[int, int, int, str, tuple[str, int]]]:
        asked.append(host)
        while host.startswith("dead") and not go_on:
            sleep(0.005)
        return [(0, 0, 0, "", ("10.0.0.1", 0))]

    monkeypatch.setattr(resolver, "_getaddrinfo", slow)
    names = resolver.Resolver()
    asking = [gevent.spawn(names.look_up, f"dead{n}.example", time.monotonic() + 2, "a") for n in range(100)]
    while names._turns._users.get("a", 0) < 100 or len(asked) < resolver._SHARE:
        gevent.sleep(0)
    start = time.monotonic()
    assert names.look_up("good.example", soon(), "b") == ["10.0.0.1"]
    assert len(asked) == resolver._SHARE + 1
    with pytest.raises(errors.OriginLookupTimeout, match="too many look-ups"):
        names.look_up("good2.example", time.monotonic() + 0.1, "a")
    assert time.monotonic() - start < 1
    go_on.append(True)  # who has waited gets his turn
    assert all(greenlet.get(timeout=5) == ["10.0.0.1"] for greenlet in asking)
    assert not names._turns._shares
    assert not names._turns._users


def test_a_look_up_that_fails_leaves_no_work_for_the_collector(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(resolver, "_getaddrinfo", fail)
    names = resolver.Resolver()
    with no_garbage(errors.OriginNotFound):
        with pytest.raises(errors.OriginNotFound):
            names.look_up("dead.example", soon())
        assert names._answers.pop("dead.example")  # as when it falls out


def test_bad_roots(tmp_path: Path) -> None:
    with pytest.raises(errors.UsageError):
        Upstream(str(tmp_path / "none"))


# tunnel


def test_an_idle_tunnel_ends() -> None:
    (client, client_end), (origin, origin_end) = socket.socketpair(), socket.socketpair()
    with client, client_end, origin, origin_end:
        client_end.shutdown(socket.SHUT_WR)  # one direction has ended: a tick without a byte is enough
        tunnel = Tunnel(PlainStream(client), PlainStream(origin), idle=1.2)
        tunnel.run()
        assert tunnel.outcome == "idle"


def test_a_tunnel_relays_what_was_read_before_and_counts() -> None:
    (client, client_end), (origin, origin_end) = socket.socketpair(), socket.socketpair()
    with client, client_end, origin, origin_end:
        origin_end.sendall(b"answer")
        for end in (client_end, origin_end):
            end.shutdown(socket.SHUT_WR)
        tunnel = Tunnel(PlainStream(client, b"early"), PlainStream(origin))
        tunnel.run()
        assert (tunnel.sent, tunnel.received, tunnel.outcome) == (5, 6, "closed")
        assert origin_end.recv(100) == b"early"
        assert client_end.recv(100) == b"answer"


def test_who_gives_way_lets_sockets_be_looked_at() -> None:
    """Not after fifty turns only, as gevent does with ``sleep(0)``."""
    one, other = socket.socketpair()
    with one, other:
        reader = gevent.spawn(other.recv, 1)
        sockets.give_way()  # it waits now
        one.send(b"x")
        turns = 0
        while not reader.ready():
            sockets.give_way()
            turns += 1
        assert turns <= 3
