"""Modules whose tests are small enough to share a file: log, pages, policy, the resolver and who asks it."""

import errno
import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import gevent
import h11
import pytest
from gevent.monkey import get_original
from hypothesis import given
from hypothesis import strategies as st
from lab import WAIT, Vanishing, no_garbage, no_memory, until
from test_asking import unread
from test_hello import message, records, server_name
from test_upstream import soon

import errors
import pages
import proxy
import resolver
from access import Access
from board import Board
from dialing import Dialer
from door import Client, Door
from errors import CertifierError, LoopDetected, UnknownName
from greeting import read_hello
from head import HeadReader
from hello import ClientHello
from interception import Interception
from limits import Limits
from localaddress import same_endpoint
from log import MAX_VALUE, escape
from meter import Meter
from names import Target
from plain import PlainHttp
from policy import Policy, Rules
from record import Record
from relaying import Relaying, Way
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


@pytest.mark.parametrize("form", [Record.text, Record.as_json, Record.combined])
def test_a_record_has_no_long_values(form: Callable[[Record], str]) -> None:
    long = "\xff" * 100_000
    record = Record("127.0.0.1:1", target=long, sni=long, client_alpn=long, method=long, detail=long, user=long)
    record.referer = record.user_agent = long
    record.note(long)
    assert len(form(record)) < 7 * 8 * MAX_VALUE


def test_a_record_is_one_line() -> None:
    record = Record("127.0.0.1:1", target="a:443", sni="a\r\nb", sent=1, outcome="closed", detail="x y")
    stamp, _, line = record.text().partition(" ")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", stamp)
    assert line.startswith('tunnel client=127.0.0.1:1 target=a:443 sni="a\\r\\nb" context=- ')
    assert line.endswith('outcome=closed detail="x y"')
    told = json.loads(record.as_json())
    assert (told["sni"], told["sent"], told["status"], told["detail"]) == ("a\r\nb", 1, None, "x y")
    record.user, record.target, record.established = 'a "b', "a\nb:443", True
    record.referer, record.user_agent = "http://u:p@a/", 'c"d\n'
    assert re.fullmatch(
        r'127.0.0.1 - a%20\\"b \[\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d \+0000\]'
        r' "CONNECT a\\nb:443 HTTP/1.1" 200 - "http://a/" "c\\"d\\n"',
        record.combined(),
    )


def test_a_record_of_which_little_is_known() -> None:
    """It took a minute: its date is that of its end, or in the combined format that of its beginning."""
    record = Record("[::1]:9", started=time.monotonic() - 60)
    stamp, _, line = record.text().partition(" ")
    assert datetime.fromisoformat(stamp).timestamp() > time.time() - 50
    assert re.fullmatch(
        r"tunnel client=\[::1\]:9 target=- sni=- context=- client_tls=- origin_tls=- client_alpn=- origin_alpn=-"
        r" sent=0 received=0 ms=6\d{4}\.\d outcome=failed",
        line,
    )
    told = json.loads(record.as_json())
    assert (told["target"], told["sni"], told["outcome"]) == (None, None, "failed")
    assert 60_000 <= told["ms"] < 70_000
    found = re.fullmatch(r'::1 - - \[(.*)\] "CONNECT - HTTP/1.1" 000 - "-" "-"', record.combined())
    assert found
    assert datetime.strptime(found[1], "%d/%b/%Y:%H:%M:%S %z").timestamp() < time.time() - 50


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
    policy = Policy(Rules(), same_endpoint)
    for sent, host, name in [
        ("WWW.Example.com", "10.0.0.1", "www.example.com"),
        (None, "10.0.0.1", "10.0.0.1"),
        ("../x", "a.example", "a.example"),
        ("10.0.0.1", "::1", "::1"),
    ]:
        assert policy.name_for(sent, host) == name
    for sent in (None, "10.0.0.1", "a b"):
        with pytest.raises(UnknownName):
            policy.name_for(sent, None)


def test_loops() -> None:
    policy = Policy(Rules(), same_endpoint)
    policy.listeners += [("127.0.0.1", 8080), ("0.0.0.0", 8081), ("::", 8082), ("192.0.2.1", 8083)]
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
    others.append(("0.0.0.0", 8083))  # reaches loopback, where nobody listens
    assert policy.permitted(Target("x", 8080), others) == others


@pytest.mark.skipif(sys.platform != "linux", reason="IP_FREEBIND")
def test_an_address_that_can_be_bound_is_not_ours_for_that(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for all of a machine's sockets with ``net.ipv4.ip_nonlocal_bind``."""

    class Free(socket.socket):
        def bind(self, address: object) -> None:
            self.setsockopt(socket.SOL_IP, 15, 1)  # IP_FREEBIND
            super().bind(address)  # type: ignore[arg-type]

    with Free(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("198.51.100.1", 0))
    monkeypatch.setattr(socket, "socket", Free)
    assert not same_endpoint(("198.51.100.1", 8080), ("0.0.0.0", 8080))
    assert same_endpoint(("127.9.9.9", 8080), ("0.0.0.0", 8080))


# resolver


def test_look_up() -> None:
    up = Upstream()
    assert up.resolve(Target("::1", 5), soon()) == [("::1", 5)]
    assert ("127.0.0.1", 6) in up.resolve(Target("localhost", 6), soon())
    assert ("127.0.0.1", 7) in up.resolve(Target("localhost", 7), time.monotonic() - 1)  # remembered
    with pytest.raises(errors.OriginNotFound):
        up.resolve(Target("no-such-host.invalid", 1), soon())


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (socket.EAI_NONAME, "Origin name not found"),
        (socket.EAI_AGAIN, "Origin name lookup failed"),
        (socket.EAI_FAIL, "Origin name lookup failed"),
    ],
)
def test_name_servers_that_fail_are_no_name_that_is_missing(
    monkeypatch: pytest.MonkeyPatch, number: int, reason: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(number, "why")

    monkeypatch.setattr(resolver, "_getaddrinfo", fail)
    up = Upstream()
    for _ in range(2):  # the second time from memory
        with pytest.raises(errors.OriginNotFound, match=r"dead\.example: why") as failure:
            up.resolve(Target("dead.example", 1), soon())
        assert (failure.value.status, failure.value.reason, failure.value.proxy_status) == (502, reason, "dns_error")


@pytest.mark.parametrize("error", [socket.gaierror(socket.EAI_MEMORY, "why"), OSError(errno.EMFILE, "why")])
def test_a_look_up_without_memory_tells_nothing_of_the_name(monkeypatch: pytest.MonkeyPatch, error: OSError) -> None:
    def fail(*_: object, **__: object) -> NoReturn:
        raise error

    names = resolver.Resolver()
    with monkeypatch.context() as patch:
        patch.setattr(resolver, "_getaddrinfo", fail)
        with pytest.raises(errors.OutOfResources, match="localhost can't be looked up: why"):
            names.look_up("localhost", soon())
    assert "127.0.0.1" in names.look_up("localhost", soon())  # it is not remembered


def test_a_look_up_without_memory_to_begin_is_no_look_up_under_way() -> None:
    names = resolver.Resolver()
    for _ in range(resolver._SHARE + 1):  # its turn is given back, too
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(names, "_lead", no_memory)
            with pytest.raises(errors.OutOfResources):
                names.look_up("localhost", soon(), "a")
    assert "127.0.0.1" in names.look_up("localhost", soon(), "a")
    assert not names._turns._users


def test_a_look_up_outlives_a_lost_packet() -> None:
    """The C library asks again, or the next name server, after 5 s; with ``options timeout:`` it may be sooner."""
    assert 5.0 + 1.0 < resolver.LOOK_UP_SECONDS < Limits().dial_timeout - 1.0


def test_a_look_up_imports_nothing() -> None:
    """Threads that wait for gevent's lock of an import, as several first look-ups at once did, make a hub each."""
    program = (
        "from gevent import monkey; monkey.patch_all()\n"
        "import sys, time, resolver\n"
        "before = set(sys.modules)\n"
        "print(resolver.Resolver().look_up('localhost', time.monotonic() + 5)[:1], sorted(set(sys.modules) - before))"
    )
    folder = Path(resolver.__file__).parent
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, timeout=WAIT)
    assert re.fullmatch(r"\['(127\.0\.0\.1|::1)'\] \[\]\n", done.stdout), done


def test_address_families_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    ips = ["::1", "::2", "::3", "10.0.0.1", "::1"]
    monkeypatch.setattr(resolver, "_getaddrinfo", lambda *_, **__: [(0, 0, 0, "", (ip, 0)) for ip in ips])
    found = Upstream().resolve(Target("many.example", 1), soon())
    assert [ip for ip, _ in found] == ["::1", "10.0.0.1", "::2", "::3"]


def test_addresses_with_a_zone_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    ips = ["fe80::1%eth0", "10.0.0.1"]
    monkeypatch.setattr(resolver, "_getaddrinfo", lambda *_, **__: [(0, 0, 0, "", (ip, 0)) for ip in ips])
    assert resolver.Resolver().look_up("a.example", soon()) == ["10.0.0.1"]
    del ips[1]
    with pytest.raises(errors.OriginNotFound, match=r"a\.example has no usable address"):
        resolver.Resolver().look_up("a.example", soon())


@pytest.mark.parametrize("seconds", [0.0, WAIT])
def test_an_answer_and_a_failure_are_kept_for_so_long(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    asked: list[str] = []

    def ask(host: str, *_: object, **__: object) -> list[tuple[int, int, int, str, tuple[str, int]]]:
        asked.append(host)
        if host == "dead.example":
            raise socket.gaierror(-2, "Name or service not known")
        return [(0, 0, 0, "", ("10.0.0.1", 0))]

    monkeypatch.setattr(resolver, "_getaddrinfo", ask)
    monkeypatch.setattr(resolver, "_GOOD_SECONDS", seconds)
    monkeypatch.setattr(resolver, "_BAD_SECONDS", seconds)
    names = resolver.Resolver()
    for host in ("good.example", "dead.example") * 2:
        with suppress(errors.OriginNotFound):
            assert names.look_up(host, soon()) == ["10.0.0.1"]
    assert asked == ["good.example", "dead.example"] * (1 if seconds else 2)


def test_a_name_of_thousands_of_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a hostile name server may return, to make the rules check each of them for each connection."""
    ips = [f"192.0.{n // 250}.{n % 250}" for n in range(4000)] + ["2001:db8::1"]
    monkeypatch.setattr(resolver, "_getaddrinfo", lambda *_, **__: [(0, 0, 0, "", (ip, 0)) for ip in ips])
    assert resolver.Resolver().look_up("a.example", time.monotonic() + 2) == [ips[0], ips[-1], *ips[1:99]]


def test_slow_look_ups_end_and_hold_nobody_else_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread per name, whoever asks; other names are looked up meanwhile, and a failure is not retried at once."""
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
    monkeypatch.setattr(resolver, "_BAD_SECONDS", WAIT)
    up = Upstream()
    dead = Target("dead.example", 1)
    hasty = [gevent.spawn(up.resolve, dead, time.monotonic() + 0.1) for _ in range(20)]
    waiting = [gevent.spawn(up.resolve, dead, soon()) for _ in range(20)]
    for greenlet in hasty:
        with pytest.raises(errors.OriginLookupTimeout):
            greenlet.get(timeout=WAIT)
    assert up.resolve(Target("good.example", 2), soon()) == [("10.0.0.1", 2)]
    assert not any(greenlet.ready() for greenlet in waiting)
    go_on.append(True)
    for greenlet in [*waiting, gevent.spawn(up.resolve, dead, soon())]:
        with pytest.raises(errors.OriginNotFound):
            greenlet.get(timeout=WAIT)
    with pytest.raises(errors.OriginNotFound):
        up.resolve(dead, soon())
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
    asking = [gevent.spawn(names.look_up, f"dead{n}.example", soon(), "a") for n in range(100)]
    while names._turns._users.get("a", 0) < 100 or len(asked) < resolver._SHARE:
        gevent.sleep(0)
    assert names.look_up("good.example", soon(), "b") == ["10.0.0.1"]
    assert len(asked) == resolver._SHARE + 1
    with pytest.raises(errors.OriginLookupTimeout, match="too many look-ups"):
        names.look_up("good2.example", time.monotonic() + 0.1, "a")
    assert not any(greenlet.ready() for greenlet in asking)
    go_on.append(True)  # those that waited get their turn
    assert all(greenlet.get(timeout=WAIT) == ["10.0.0.1"] for greenlet in asking)
    assert not names._turns._shares
    assert not names._turns._users


@pytest.mark.parametrize(
    "ask",
    [
        lambda dialer, host, client: dialer.tunnel(Target(host, 1), client, False),
        lambda dialer, host, client: dialer.own(Target(host, 1), client),
        lambda dialer, host, client: dialer.is_self(Target(host, 1), client),
        lambda dialer, host, client: dialer.is_at(host, "192.0.2.1", client),
    ],
    ids=["tunnel", "own", "is_self", "is_at"],
)
def test_whoever_dials_looks_names_up_as_the_client(
    monkeypatch: pytest.MonkeyPatch, ask: Callable[[Dialer, str, str], object]
) -> None:
    asked, go_on = list[str](), list[bool]()
    sleep = get_original("time", "sleep")

    def slow(host: str, *_: object, **__: object) -> NoReturn:
        asked.append(host)
        while not go_on:
            sleep(0.005)
        raise socket.gaierror(-2, "Name or service not known")

    def tried(host: str, client: str) -> None:
        with suppress(errors.OriginNotFound):
            ask(dialer, host, client)

    monkeypatch.setattr(resolver, "_getaddrinfo", slow)
    dialer = Dialer(Upstream(), Policy(Rules(), same_endpoint), None, Limits(), Board())
    asking = [gevent.spawn(tried, f"dead{n}.example", "a") for n in range(resolver._SHARE + 1)]
    try:
        until(lambda: len(asked) == resolver._SHARE)
        asking.append(gevent.spawn(tried, "another.example", "b"))
        until(lambda: "another.example" in asked)
        assert len(asked) == resolver._SHARE + 1
    finally:
        go_on.append(True)
        for each in asking:
            each.get(timeout=WAIT)


def test_without_a_tunnel_too_look_up_and_dial_share_a_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    late, clock = [0.0], time.monotonic

    def slow(*_: object, **__: object) -> list[tuple[int, int, int, str, tuple[str, int]]]:
        late[0] = Limits().dial_timeout
        return [(0, 0, 0, "", ("127.0.0.1", 0))]

    monkeypatch.setattr(resolver, "_getaddrinfo", slow)
    monkeypatch.setattr(time, "monotonic", lambda: clock() + late[0])
    policy = Policy(Rules(), same_endpoint)
    dialer = Dialer(Upstream(), policy, None, Limits(), Board())
    nobody: Any = None  # not reached
    requests = PlainHttp(dialer, policy, Door(Access(policy, None)), nobody, nobody, Meter())
    with socket.create_server(("127.0.0.1", 0)) as origin, socket.socket() as sock, gevent.Timeout(WAIT):
        head = HeadReader().receive(b"GET http://a.example:%d/ HTTP/1.1\r\nHost: a\r\n\r\n" % origin.getsockname()[1])
        assert head is not None
        client = Client(sock, "192.0.2.1", "192.0.2.1:1", None)
        with pytest.raises(errors.OriginTimeout, match=r"a\.example:\d+ did not answer in time"):
            requests.serve(client, head, b"", Record(client.who, kind="request"))


def test_a_look_up_that_fails_leaves_no_work_for_the_collector(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(resolver, "_getaddrinfo", fail)
    names = resolver.Resolver()
    with no_garbage(errors.OriginNotFound):
        with pytest.raises(errors.OriginNotFound):
            names.look_up("dead.example", soon())
        assert names._answers.pop("dead.example")  # as when it is evicted


# Who comes in


def test_a_refused_client_leaves_no_cycle() -> None:
    """A flood of them would pile up until the garbage collector runs."""
    door = Door(Access(Policy(Rules(), same_endpoint), None))
    with no_garbage(Client, errors.TooManyConnections), socket.socket() as sock:
        client = Client(sock, "192.0.2.1", "192.0.2.1:1", errors.TooManyConnections("all are in use"))
        with pytest.raises(errors.TooManyConnections, match="all are in use"):
            door.admit(client, None, Record(client.who))
        del client


def test_an_origin_that_could_not_be_reached_leaves_no_cycle() -> None:
    dialer = Dialer(Upstream(), Policy(Rules(), same_endpoint), None, Limits(), Board())
    relaying = Relaying(dialer, None, Limits(), Meter())
    for relay in (relaying.leave, relaying.bypass):
        with no_garbage(errors.OriginRefused), socket.socket() as sock:
            way = Way(sock, "192.0.2.1", Target("a.example", 443), Record("192.0.2.1:1"))
            with pytest.raises(errors.OriginRefused, match="it refuses"):
                relay(way, errors.OriginRefused("it refuses"), b"")


def test_a_malformed_request_leaves_no_cycle() -> None:
    with no_garbage(h11.RemoteProtocolError, errors.ClientError):
        with pytest.raises(errors.ClientError, match="malformed request head"):
            HeadReader().receive(b"GET\r\n\r\n")


def test_a_client_that_can_only_be_sent_an_alert_leaves_no_cycle() -> None:
    hello = ClientHello(None, (b"h2",), ())
    with no_garbage(errors.OriginRefused):
        with pytest.raises(errors.OriginRefused, match="it refuses") as raised:
            Interception._client_alpn(None, hello, errors.OriginRefused("it refuses"))  # type: ignore[arg-type]
        assert raised.value.alert == errors.NO_APPLICATION_PROTOCOL
        del raised


# The first bytes of a tunnel


def test_a_client_that_vanished_was_not_too_slow() -> None:
    """The system's time-out is no deadline of ours. A client that is there, and says nothing, meets one."""
    limits = Limits(hello_timeout=0.1)
    peer, end = gevent.socket.socketpair()
    with peer, Vanishing(fileno=end.detach()) as client, gevent.Timeout(WAIT):
        with pytest.raises(errors.HelloTimeout):
            read_hello(client, None, b"", limits)
        peer.close()
        with pytest.raises(TimeoutError, match="Connection timed out"):
            read_hello(client, None, b"", limits)


def test_who_may_take_its_time_and_has_spoken_already_is_not_waited_for() -> None:
    whole = records(message(server_name(b"a.example")))
    end, ours = socket.socketpair()
    origin, theirs = socket.socketpair()
    with end, ours, origin, theirs, gevent.Timeout(WAIT):
        hello, data = read_hello(ours, origin, whole, Limits(), patient=True)
    assert hello is not None
    assert (hello.server_name, data) == ("a.example", whole)


# Between two requests


def test_others_run_while_empty_lines_come_without_end() -> None:
    end, ours = socket.socketpair()
    with end, ours, gevent.Timeout(WAIT):
        end.sendall(b"\r\n" * 40_000)
        met = set()  # how much was left when somebody else ran

        def look() -> None:
            while True:
                gevent.sleep(0)
                met.add(unread(ours))

        looking = gevent.spawn(look)
        following = gevent.spawn(proxy._next_request, ours, b"", True)
        while unread(ours):
            gevent.sleep(0)
        looking.kill()
        end.sendall(b"GET")
        assert following.get() == b"GET"
    assert len(met) > 3


@pytest.mark.parametrize("received", [b"GET", b""])
def test_what_has_been_received_when_certifier_ends_is_read(received: bytes) -> None:
    """Though whoever reads it has not run since then: with many connections, or long work, that takes a while."""
    end, ours = socket.socketpair()
    with end, ours, gevent.Timeout(WAIT):
        following = gevent.spawn(proxy._next_request, ours, b"", True)
        gevent.sleep(0)
        end.sendall(received)
        proxy._end_reading([ours])
        if received:
            assert following.get() == received
        else:
            with pytest.raises(OSError, match="closed in another greenlet"):
                following.get()
