"""A tunnel with a witness: others run while it looks, and nothing that passes is lost or changed."""

import fcntl
import socket
import ssl
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import accumulate
from pathlib import Path
from types import SimpleNamespace

import gevent
import pytest
from gevent.event import Event
from lab import WAIT, BioServer, Origin, Program, secure_tunnel
from test_policy import policy
from test_tunnel import Ends, connected, joined, uploaded
from watching import Seen

from board import Board
from errors import Misdirected, Refused
from exchange import Exchange
from meter import Meter
from observed import ObservedTunnel
from policy import Mismatch
from record import Record
from recorder import Observer
from sight import Sight
from sockets import give_way
from streams import PlainStream, Stream
from taps import Answer, Tap, Taps
from tls import TlsStream
from tlsconfig import server_context
from tunnel import Tunnel

SIOCOUTQNSD = 0x894B  # Linux: how many octets of a TCP socket's queue have not been sent yet

GET = b"GET /%04d HTTP/1.1\r\nHost: a.example\r\nA: " + b"a" * 900 + b"\r\n\r\n"
OK = b"HTTP/1.1 204 No Content\r\n\r\n"
UPGRADE = b"Connection: upgrade\r\nUpgrade: a\r\n\r\n"
ASK_UPGRADE = b"GET / HTTP/1.1\r\nHost: a.example\r\n" + UPGRADE
UPGRADED = b"HTTP/1.1 101 Switching\r\n" + UPGRADE
REFUSAL = Answer(403, b"no").written("GET", closing=False)


class Slow(Seen):
    """Burns some CPU time for each request."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds

    def request(self, exchange: Exchange) -> None:
        super().request(exchange)
        until = time.monotonic() + self._seconds
        while time.monotonic() < until:
            pass


@pytest.mark.parametrize(
    ("upload", "seconds", "least", "most"),
    [(0, 0.002, 60, 100), (1 << 20, 0.002, 20, 100), (0, 0.0004, 8, 100), (0, 0.0, 0, 10)],
)
def test_others_run_while_many_small_requests_are_looked_at(upload: int, seconds: float, least: int, most: int) -> None:
    """Also behind a large upload, which takes no time. If none of them takes time, nobody yields for it."""
    seen = Slow(seconds)
    sight = Sight(policy(), [seen], Taps([]), None, None, Board())
    record = Record("127.0.0.1:1", target="a.example:443")
    (client, client_end), (origin, origin_end) = socket.socketpair(), socket.socketpair()
    with client, client_end, origin, origin_end, gevent.Timeout(WAIT):
        witness = sight.witness(record, "a.example", "127.0.0.1:2", "http/1.1")
        asked = b"".join(GET % number for number in range(99))
        before = b"POST /upload HTTP/1.1\r\nHost: a.example\r\nContent-Length: %d\r\n\r\n" % upload + bytes(upload)
        met = set()  # how many requests had been looked at when somebody else ran

        def count() -> None:
            while True:
                gevent.sleep(0)
                met.add(len(seen.begun))

        counting = gevent.spawn(count)
        tunnel = ObservedTunnel(PlainStream(client), PlainStream(origin), witness, 60.0, Meter())
        running = gevent.spawn(tunnel.run)
        gevent.spawn(client_end.sendall, before)
        heard = 0
        while heard < len(before):
            heard += len(origin_end.recv(len(before) - heard))
        client_end.sendall(asked)
        client_end.shutdown(socket.SHUT_WR)
        got = b""
        while len(got) < len(asked):
            got += origin_end.recv(65_536)
        counting.kill()
        origin_end.sendall(OK * 100)
        origin_end.shutdown(socket.SHUT_WR)
        running.get()
    relayed = len(before + asked), 100 * len(OK)
    assert (got, tunnel.outcome, tunnel.sent, tunnel.received) == (asked, "closed", *relayed)
    assert [exchange.target for exchange in seen.done] == ["/upload", *(f"/{number:04}" for number in range(99))]
    assert least <= len(met) <= most


@pytest.mark.parametrize("acts", [False, True])
def test_what_came_in_several_records_goes_on_so(roots: Path, certificate: Path, tmp_path: Path, acts: bool) -> None:
    """Clients may take a record at once: curl 7.88 forgets a response that is in one record with a reset behind it.

    A tap that acts may have one split, but not joined with the next.
    """
    head, full = b"HTTP/1.1 200 OK\r\n\r\n", 16_384
    records = [head + b"a" * 9_000, b"b", b"c" * 3_000, b"d" * full, b"e" * full, b"f" * 12_000, b"g"]

    def answer(sock: socket.socket) -> None:
        sock.recv(100)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)  # in as few segments as possible
        for record in records:
            sock.sendall(record)

    (tmp_path / "tap.py").write_text("REWRITE = True\ndef request(exchange): pass")
    words = [
        "--store=certs",
        "--max=9",
        "--ca=ca",
        f"--upstream-ca={roots}",
        "--log-requests",
        *["--tap=tap.py"] * acts,
    ]
    with Origin(answer, certificate) as server, Program(tmp_path, *words) as program:
        with secure_tunnel(program, f"localhost:{server.port}") as secure:
            secure.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            heard = []
            while data := secure.recv(65_536):
                heard.append(data)
    if not acts:
        assert heard == records
    assert b"".join(heard) == b"".join(records)
    assert set(accumulate(map(len, heard))) >= set(accumulate(map(len, records)))


def before(
    taps: Taps, observers: list[Observer], client: Stream, origin: Stream, mismatch: Mismatch = Mismatch.ALLOW
) -> Tunnel:
    """A tunnel with observers and taps."""
    sight = Sight(policy(mismatch=mismatch), observers, taps, None, None, Board())
    witness = sight.witness(Record("127.0.0.1:1"), "a.example", "127.0.0.1:2", None)
    return ObservedTunnel(client, origin, witness, 3600.0, Meter())


def heard_by(end: socket.socket, octets: int) -> bytes:
    """Read from a socket until so many octets have arrived."""
    heard = b""
    while len(heard) < octets:
        data = end.recv(65_536)
        assert data, heard
        heard += data
    return heard


@pytest.fixture
def ends() -> Iterator[Ends]:
    with joined() as found:
        yield found


@pytest.fixture
def signals(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A module that taps import: to say that they have begun, and to wait until they may go on."""
    found = SimpleNamespace(begun=Event(), go=Event())
    monkeypatch.setitem(sys.modules, "signals", found)
    return found


@pytest.fixture
def begun(signals: SimpleNamespace) -> Event:
    return signals.begun  # type: ignore[no-any-return]


@pytest.fixture
def go(signals: SimpleNamespace) -> Event:
    return signals.go  # type: ignore[no-any-return]


@pytest.fixture
def acting(tmp_path: Path) -> Taps:
    """With a tap that acts, each direction has a greenlet of its own."""
    (tmp_path / "tap.py").write_text("REWRITE = True\ndef request(exchange): pass")
    return Taps([Tap(tmp_path / "tap.py")])


def test_of_a_long_upload_only_the_beginning_is_kept(ends: Ends) -> None:
    uploaded(ends, before(Taps([]), [Seen()], PlainStream(ends.client), PlainStream(ends.origin)))


@pytest.mark.parametrize("acts", [False, True])
def test_what_is_refused_with_the_handshakes_ends_the_tunnel(ends: Ends, acting: Taps, acts: bool) -> None:
    """Neither side says more: who waits for an answer gets it now."""
    said = b"" if acts else b"GET /evil HTTP/1.1\r\nHost: b.example\r\n\r\n"
    client, origin = PlainStream(ends.client, said), PlainStream(ends.origin, OK if acts else b"")
    tunnel = before(acting if acts else Taps([]), [], client, origin, Mismatch.DENY)
    tunnel.run()
    assert isinstance(tunnel.refusal, Refused if acts else Misdirected)


def test_a_bug_in_one_direction_does_not_leave_the_other_waiting(ends: Ends, acting: Taps) -> None:
    class Broken(PlainStream):
        def encrypt(self, data: memoryview | bytes) -> None:
            raise ZeroDivisionError

    ends.client_end.sendall(GET % 1)
    with pytest.raises(ZeroDivisionError):
        before(acting, [], PlainStream(ends.client), Broken(ends.origin)).run()


def test_nobody_reads_from_the_client_behind_an_alert_of_the_origin(ends: Ends, acting: Taps) -> None:
    """Whoever tells the client why has the socket to itself."""
    origin = PlainStream(ends.origin)
    origin.reason = "TLSV13_ALERT_CERTIFICATE_REQUIRED"
    ends.origin_end.shutdown(socket.SHUT_WR)
    tunnel = before(acting, [], PlainStream(ends.client), origin)
    tunnel.run()
    assert tunnel.alert == origin.reason
    ends.client_end.sendall(b"x")
    for _ in range(3):
        give_way()
    ends.client.settimeout(WAIT)
    assert ends.client.recv(1) == b"x"


def test_both_directions_at_once_are_whole_though_a_tap_waits(ends: Ends, tmp_path: Path) -> None:
    """From its next piece on, each direction takes as much at once as the other one found right."""
    (tmp_path / "tap.py").write_text(
        "REWRITE = True\nimport gevent\ndef request(_): pass\ndef data(*_): gevent.sleep(0.003)\n"
    )
    taps = Taps([Tap(tmp_path / "tap.py")])
    up, down = (b"".join(b"%07d," % number for number in range(start, start + 25_000)) for start in (0, 5_000_000))
    asked = b"POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 200000\r\n\r\n" + up
    answered = b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n" + down
    running = gevent.spawn(before(taps, [], PlainStream(ends.client), PlainStream(ends.origin)).run)
    gevent.spawn(ends.client_end.sendall, asked)
    heard = [ends.origin_end.recv(100)]
    gevent.spawn(ends.origin_end.sendall, answered)

    def hear(end: socket.socket, most: int) -> bytes:
        got = b""
        while len(got) < most:
            got += end.recv(65_536)
        return got

    sent = gevent.spawn(hear, ends.origin_end, len(asked) - len(heard[0]))
    received = hear(ends.client_end, len(answered))
    assert (heard[0] + sent.get() == asked, received == answered) == (True, True)
    running.kill()


@pytest.mark.parametrize("acts", [False, True])
@pytest.mark.parametrize("held", ["sent", "received"])
def test_a_tap_that_waits_with_data_is_shown_no_other_meanwhile(
    ends: Ends, tmp_path: Path, signals: SimpleNamespace, held: str, acts: bool
) -> None:
    signals.calls = []
    (tmp_path / "tap.py").write_text(
        f"import signals\nREWRITE = {acts}\ndef request(exchange): pass\n"
        "def data(tunnel, direction, octets):\n"
        "    signals.calls.append(direction)\n"
        f"    if direction == {held!r} and not signals.begun.is_set():\n"
        "        signals.begun.set()\n"
        "        signals.go.wait()\n"
        "    signals.calls.append('done')\n"
    )
    taps = Taps([Tap(tmp_path / "tap.py")])
    running = gevent.spawn(before(taps, [], PlainStream(ends.client), PlainStream(ends.origin)).run)
    asked = b"POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 4\r\n\r\nab"
    ends.client_end.sendall(asked)
    if held == "received":
        assert heard_by(ends.origin_end, len(asked)) == asked
    ends.origin_end.sendall(OK)
    assert signals.begun.wait(WAIT)
    ends.client_end.sendall(b"cd")
    for _ in range(9):
        give_way()
    signals.go.set()
    assert heard_by(ends.origin_end, 2 if held == "received" else len(asked) + 2).endswith(b"cd")
    assert heard_by(ends.client_end, len(OK)) == OK
    assert (set(signals.calls[::2]), set(signals.calls[1::2])) == ({"sent", "received"}, {"done"})
    running.kill()


@pytest.mark.parametrize("direction", ["received", "sent"])
def test_an_answer_stands_behind_the_response_before_it(ends: Ends, tmp_path: Path, direction: str) -> None:
    """Even while a tap holds the last piece of that response."""
    (tmp_path / "tap.py").write_text(
        "REWRITE = True\nimport gevent\nfrom taps import Answer\n"
        "def request(exchange):\n    return Answer(403, b'no') if exchange.target == '/0002' else None\n"
        f"def data(tunnel, direction, octets):\n    gevent.sleep(0.1 if direction == {direction!r} else 0)\n"
    )
    taps = Taps([Tap(tmp_path / "tap.py")])
    running = gevent.spawn(before(taps, [], PlainStream(ends.client), PlainStream(ends.origin)).run)
    ends.client_end.sendall(GET % 1 + GET % 2)
    asked = heard_by(ends.origin_end, len(GET % 1))
    ends.origin_end.sendall(OK)
    heard = b""
    while heard.count(b"\r\n\r\n") < 2:
        heard += ends.client_end.recv(65_536)
    assert (asked, heard.startswith(OK + b"HTTP/1.1 403 ")) == (GET % 1, True)
    running.kill()


@pytest.mark.parametrize("early", [b"EARLY", b"EARLY\r\n", b"\x81\x85\0\1\2\3"])
@pytest.mark.parametrize("acts", [False, True])
def test_what_came_with_the_request_for_an_upgrade_passes_once_that_is_agreed_to(
    ends: Ends, tmp_path: Path, signals: SimpleNamespace, acts: bool, early: bytes
) -> None:
    """It might have been a request, and was held back until then; the client may wait for that. Taps see it then."""
    signals.sent = bytearray()
    (tmp_path / "tap.py").write_text(
        f"import signals\nREWRITE = {acts}\ndef request(exchange): pass\n"
        "def data(tunnel, direction, octets):\n"
        "    if direction == 'sent':\n"
        "        signals.sent += octets\n"
    )
    taps, mismatch = Taps([Tap(tmp_path / "tap.py")]), Mismatch.ALLOW if acts else Mismatch.DENY
    tunnel = before(taps, [], PlainStream(ends.client), PlainStream(ends.origin), mismatch)
    running = gevent.spawn(tunnel.run)
    ends.client_end.sendall(ASK_UPGRADE + early)
    assert heard_by(ends.origin_end, len(ASK_UPGRADE)) == ASK_UPGRADE
    ends.origin_end.sendall(UPGRADED)
    assert heard_by(ends.client_end, len(UPGRADED)) == UPGRADED
    assert heard_by(ends.origin_end, len(early)) == early
    ends.client_end.sendall(b"LATER")
    assert heard_by(ends.origin_end, 5) == b"LATER"
    ends.client_end.shutdown(socket.SHUT_WR)
    ends.origin_end.close()
    running.get()
    assert (tunnel.outcome, tunnel.refusal) == ("closed", None)
    assert signals.sent == ASK_UPGRADE + early + b"LATER"


@pytest.mark.parametrize("early", [b"EARLY", b"EARLY\r\n", b"\x81\x85\0\1\2\3"])
@pytest.mark.parametrize(
    "agreed", [UPGRADED.replace(b"Upgrade: a", b"Upgrade: b"), b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"]
)
def test_what_came_with_the_request_for_an_upgrade_is_held_back_unless_that_is_agreed_to(
    ends: Ends, agreed: bytes, early: bytes
) -> None:
    tunnel = before(Taps([]), [], PlainStream(ends.client), PlainStream(ends.origin), Mismatch.DENY)
    running = gevent.spawn(tunnel.run)
    ends.client_end.sendall(ASK_UPGRADE + early)
    assert heard_by(ends.origin_end, len(ASK_UPGRADE)) == ASK_UPGRADE
    ends.origin_end.sendall(agreed)
    assert heard_by(ends.client_end, len(agreed)) == agreed
    ends.origin_end.shutdown(socket.SHUT_WR)
    assert ends.client_end.recv(1) == b""  # all that the origin sent was looked at
    ends.client_end.close()
    assert ends.origin_end.recv(65_536) == b""
    running.get()


def test_a_request_held_back_does_not_outlive_its_client(ends: Ends, acting: Taps) -> None:
    """It waits for a response that nobody reads any more."""
    tunnel = before(acting, [], PlainStream(ends.client), PlainStream(ends.origin))
    running = gevent.spawn(tunnel.run)
    ends.client_end.sendall(GET % 1 + GET % 2)
    asked = heard_by(ends.origin_end, len(GET % 1))
    ends.client_end.close()
    ends.origin_end.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9000000\r\n\r\n" + bytes(100_000))
    heard = b"more"
    while heard:
        heard = ends.origin_end.recv(65_536)
    ends.origin_end.close()
    running.get()
    assert (asked, tunnel.outcome) == (GET % 1, "client-reset")


@pytest.mark.skipif(sys.platform != "linux", reason="SIOCOUTQNSD")
def test_the_end_of_a_response_is_on_its_way_before_a_tap_takes_its_time(
    certificate: Path, tmp_path: Path, signals: SimpleNamespace
) -> None:
    """And not held back until a FIN follows, which waits for the tap."""
    signals.unsent = []
    (tmp_path / "tap.py").write_text("import signals\ndef response(exchange): signals.look()\n")
    careless = ssl._create_unverified_context()
    with connected() as (ours, theirs), connected() as (to_origin, origin_end), gevent.Timeout(WAIT):
        client = TlsStream(ours, server_context(certificate.read_bytes()), [])
        origin = TlsStream(to_origin, careless, [], server_hostname="localhost")
        server = BioServer(origin_end, certificate)
        shaking = [gevent.spawn(end.handshake, time.monotonic() + WAIT) for end in (client, origin)]
        with careless.wrap_socket(theirs, server_hostname="localhost", suppress_ragged_eofs=False) as secure:
            origin_end.sendall(server.flight())
            gevent.joinall(shaking, raise_error=True)
            signals.look = lambda: signals.unsent.append(fcntl.ioctl(ours.fileno(), SIOCOUTQNSD, bytes(4)))
            running = gevent.spawn(before(Taps([Tap(tmp_path / "tap.py")]), [], client, origin).run)
            secure.sendall(GET % 1)
            server.complete()
            while not server.came.pending:  # the request may come after the Finished
                server.came.write(origin_end.recv(65_536))
            assert server.tls.read(4096) == GET % 1
            server.tls.write(b"HTTP/1.1 200 OK\r\n\r\nrest")
            with suppress(ssl.SSLWantReadError):
                server.tls.unwrap()
            origin_end.sendall(server.goes.read())  # the data and its end at once
            heard = b""
            while data := secure.recv(65_536):
                heard += data
        origin_end.close()
        running.get()
    assert (heard[-4:], signals.unsent) == (b"rest", [bytes(4)])


def test_an_answer_that_is_on_its_way_arrives_though_the_origin_ends(ends: Ends, tmp_path: Path) -> None:
    """A client that is slow to read it gets all of it, and then the end."""
    (tmp_path / "tap.py").write_text(
        "REWRITE = True\nfrom taps import Answer\n"
        "def request(exchange): return Answer(403, bytes(5_000_000)) if exchange.target == '/0002' else None\n"
    )
    taps = Taps([Tap(tmp_path / "tap.py")])
    tunnel = before(taps, [], PlainStream(ends.client), PlainStream(ends.origin))
    running = gevent.spawn(tunnel.run)
    ends.client_end.sendall(GET % 1 + GET % 2)
    assert heard_by(ends.origin_end, len(GET % 1)) == GET % 1
    ends.origin_end.sendall(OK)
    while tunnel.received < 5_000_000:
        gevent.sleep(0)
    ends.origin_end.close()
    for _ in range(10):
        give_way()  # to those that must notice the close
    heard = b""
    while data := ends.client_end.recv(1 << 20):
        heard += data
    assert (heard.startswith(OK + b"HTTP/1.1 403 "), len(heard)) == (True, tunnel.received)
    ends.client_end.close()
    running.get()
    assert tunnel.outcome == "closed"


def test_an_answer_that_ends_the_connection_is_not_cut_off_by_the_origin(
    ends: Ends, begun: Event, go: Event, tmp_path: Path
) -> None:
    """Which was reset while a tap judged, and the client is slow to read."""
    (tmp_path / "tap.py").write_text(
        "REWRITE = True\nfrom signals import begun, go\nfrom taps import Answer\n"
        "def request(_):\n    begun.set()\n    go.wait()\n    return Answer(403, bytes(5_000_000))\n"
    )
    tunnel = before(Taps([Tap(tmp_path / "tap.py")]), [], PlainStream(ends.client), PlainStream(ends.origin))
    ends.origin.sendall(b"x")
    running = gevent.spawn(tunnel.run)
    ends.client_end.sendall((GET % 2).replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    assert begun.wait(WAIT)
    ends.origin_end.close()  # with an octet unread, which makes it a reset
    for _ in range(10):
        give_way()  # to those that must notice it
    go.set()
    while not tunnel.received:
        gevent.sleep(0)
    heard = b""
    while data := ends.client_end.recv(1 << 20):
        heard += data
    assert (heard.startswith(b"HTTP/1.1 403 "), len(heard)) == (True, tunnel.received)
    ends.client_end.close()
    running.get()
    assert tunnel.outcome == "closed"


def test_an_answer_that_ends_the_connection_arrives_whatever_the_origin_says(
    begun: Event, go: Event, tmp_path: Path
) -> None:
    """It says something unasked while a tap judges; the client is slow to read, and its request has a body."""
    (tmp_path / "tap.py").write_text(
        "REWRITE = True\nfrom signals import begun, go\nfrom taps import Answer\n"
        "def request(_):\n    begun.set()\n    go.wait()\n    return Answer(403, bytes(150_000))\n"
    )
    with connected() as (client, client_end), connected() as (origin, origin_end), gevent.Timeout(WAIT):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 600_000)
        client_end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        tunnel = before(Taps([Tap(tmp_path / "tap.py")]), [], PlainStream(client), PlainStream(origin))
        running = gevent.spawn(tunnel.run)
        client_end.sendall(b"POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 100000\r\n\r\n" + bytes(100_000))
        assert begun.wait(WAIT)
        origin_end.sendall(OK)
        for _ in range(10):
            give_way()  # to those that must notice it
        go.set()
        client_end.shutdown(socket.SHUT_WR)
        running.get()
        client.close()
        heard = b"".join(iter(lambda: client_end.recv(65_536), b""))
    assert heard == Answer(403, bytes(150_000)).written("POST", closing=True)
    assert str(tunnel.refusal) == "a response that nobody asked for"


def test_an_answer_that_ends_the_connection_ends_both_sides(ends: Ends, tmp_path: Path) -> None:
    """The origin, which has not been asked for anything, keeps its end open."""
    (tmp_path / "tap.py").write_text(ANSWERS)
    tunnel = before(Taps([Tap(tmp_path / "tap.py")]), [], PlainStream(ends.client), PlainStream(ends.origin))
    running = gevent.spawn(tunnel.run)
    ends.client_end.sendall((GET % 2).replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    heard = b""
    while data := ends.client_end.recv(65_536):
        heard += data
    assert heard == Answer(403, b"no").written("GET", closing=True)
    ends.client_end.close()
    assert ends.origin_end.recv(65_536) == b""
    running.get()
    assert tunnel.outcome == "closed"


def test_an_answer_that_ends_the_connection_ends_tls_in_order(ends: Ends, certificate: Path, tmp_path: Path) -> None:
    (tmp_path / "tap.py").write_text(ANSWERS)
    client = TlsStream(ends.client, server_context(certificate.read_bytes()), [])
    shaking = gevent.spawn(client.handshake, time.monotonic() + WAIT)
    careless = ssl._create_unverified_context()
    with careless.wrap_socket(ends.client_end.dup(), server_hostname="a", suppress_ragged_eofs=False) as secure:
        shaking.get()
        tunnel = before(Taps([Tap(tmp_path / "tap.py")]), [], client, PlainStream(ends.origin))
        running = gevent.spawn(tunnel.run)
        secure.sendall((GET % 2).replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        heard = b""
        while data := secure.recv(65_536):  # raises what a truncation is
            heard += data
        ends.client_end.close()
    running.get()
    assert heard == Answer(403, b"no").written("GET", closing=True)


@pytest.mark.parametrize(
    ("verdict", "said"),
    [
        ("Answer(403, b'no')", b""),
        ("Answer(403, b'no')", OK),
        ("None", b""),
        ("None", OK),
    ],
)
def test_what_an_origin_does_while_a_request_is_judged_waits_for_the_verdict(
    ends: Ends, tmp_path: Path, begun: Event, go: Event, verdict: str, said: bytes
) -> None:
    """It says that it timed out waiting for a request, or just closes, as servers do with idle connections."""
    (tmp_path / "tap.py").write_text(
        "REWRITE = True\nfrom signals import begun, go\nfrom taps import Answer\n"
        "def request(exchange):\n    if exchange.target == '/0002':\n        begun.set()\n        go.wait()\n"
        f"        return {verdict}\n"
    )
    tunnel = before(Taps([Tap(tmp_path / "tap.py")]), [], PlainStream(ends.client), PlainStream(ends.origin))
    running = gevent.spawn(tunnel.run)
    ends.client_end.sendall(GET % 1 + GET % 2)
    asked = heard_by(ends.origin_end, len(GET % 1))
    ends.origin_end.sendall(OK)
    assert begun.wait(WAIT)
    ends.origin_end.sendall(said)
    ends.origin_end.shutdown(socket.SHUT_WR)
    for _ in range(10):
        give_way()  # to whatever must still wait
    go.set()
    answered = verdict != "None"
    answer = REFUSAL if answered else b""
    heard = b""
    while len(heard) < len(OK + answer + (b"" if answered else said)):
        heard += ends.client_end.recv(65_536)
    ends.client_end.shutdown(socket.SHUT_WR)
    while data := ends.origin_end.recv(65_536):
        asked += data
    running.get()
    assert heard == OK + answer + (b"" if answered else said)  # an unsolicited response answers no request
    assert (tunnel.refusal is not None, tunnel.answerable) == ((True, False) if answered and said else (False, True))
    assert (asked, tunnel.outcome) == (GET % 1 if answered else GET % 1 + GET % 2, "closed")


ANSWERS = (
    "REWRITE = True\nfrom taps import Answer\n"
    "def request(exchange): return Answer(403, b'no') if exchange.target == '/0002' else None\n"
)


@pytest.mark.parametrize(("third", "refused"), [(GET % 3, False), (b"GET /\n\n", True)])
def test_an_answer_goes_out_before_what_stands_behind_it_is_judged(
    ends: Ends, tmp_path: Path, third: bytes, refused: bool
) -> None:
    (tmp_path / "tap.py").write_text(ANSWERS)
    tunnel = before(Taps([Tap(tmp_path / "tap.py")]), [], PlainStream(ends.client), PlainStream(ends.origin))
    running = gevent.spawn(tunnel.run)
    ends.client_end.sendall(GET % 1 + GET % 2 + third)
    assert heard_by(ends.origin_end, len(GET % 1)) == GET % 1
    ends.origin_end.sendall(OK)
    heard = b""
    while len(heard) < len(OK + REFUSAL):
        heard += ends.client_end.recv(65_536)
    assert heard == OK + REFUSAL
    if refused:
        running.get()
        assert (str(tunnel.refusal)[:33], tunnel.answerable) == ("a request that can't be judged: a", True)
    else:
        assert ends.origin_end.recv(65_536) == GET % 3
        running.kill()


@pytest.mark.parametrize(("begun", "answerable"), [(b"", True), (b"HTTP/1.1 200 OK\r\n\r\nhalf", False)])
def test_nobody_is_told_in_the_middle_of_a_response(ends: Ends, acting: Taps, begun: bytes, answerable: bool) -> None:
    """The request's body can't be read, and the response may be under way."""
    tunnel = before(acting, [], PlainStream(ends.client), PlainStream(ends.origin))
    running = gevent.spawn(tunnel.run)
    head = b"POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n"
    ends.client_end.sendall(head)
    assert ends.origin_end.recv(65_536) == head
    if begun:
        ends.origin_end.sendall(begun)
        assert ends.client_end.recv(65_536) == begun
    ends.client_end.sendall(b"no size\r\n")
    running.get()
    assert (str(tunnel.refusal), tunnel.answerable) == (
        "a request body that can't be read: a malformed chunk size",
        answerable,
    )


def test_an_exchange_ends_once_though_a_hook_waits_with_its_end(
    ends: Ends, tmp_path: Path, begun: Event, go: Event
) -> None:
    """An early response to an upload, the rest of which arrives while a hook handles the origin's end."""
    (tmp_path / "tap.py").write_text(
        "REWRITE = True\nfrom signals import begun, go\ndef request(_): pass\n"
        "def response(_):\n    begun.set()\n    go.wait()\n"
    )
    seen = Seen()
    taps = Taps([Tap(tmp_path / "tap.py")])
    tunnel = before(taps, [seen], PlainStream(ends.client), PlainStream(ends.origin))
    running = gevent.spawn(tunnel.run)
    ends.client_end.sendall(b"POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 8\r\n\r\nhalf")
    asked = b""
    while not asked.endswith(b"half"):
        asked += ends.origin_end.recv(65_536)
    answer = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n"
    ends.origin_end.sendall(answer)
    assert ends.client_end.recv(65_536) == answer
    ends.origin_end.shutdown(socket.SHUT_WR)
    assert begun.wait(WAIT)
    ends.client_end.sendall(b"rest")
    assert ends.origin_end.recv(65_536) == b"rest"
    go.set()
    ends.client_end.shutdown(socket.SHUT_WR)
    running.get()
    assert [(exchange.error, exchange.request_octets) for exchange in seen.done] == [("the request was cut off", 4)]


def test_the_response_does_not_wait_for_an_origin_to_take_the_end_of_the_request(
    ends: Ends, acting: Taps, go: Event
) -> None:
    """An origin that reads on only once its response is read."""

    class Stuck(PlainStream):
        def end(self, how: str) -> None:
            go.wait()

    running = gevent.spawn(before(acting, [], PlainStream(ends.client), Stuck(ends.origin)).run)
    ends.client_end.sendall(GET % 1)
    ends.client_end.shutdown(socket.SHUT_WR)
    assert ends.origin_end.recv(65_536) == GET % 1
    for _ in range(5):
        give_way()
    ends.origin_end.sendall(OK)
    assert ends.client_end.recv(65_536) == OK
    go.set()
    running.kill()


@pytest.mark.parametrize(
    ("said", "passed", "refused"),
    [
        (GET % 1, GET % 1, False),
        (GET % 1 + b"GET /evil HTTP/1.1\r\nHost: b.example\r\n", GET % 1, False),
        (b"GET /evil HTTP/1.1\r\nHost: b.example\r\n", b"", False),
        (b"GET /evil HTTP/1.1\r\nHost: b.example\r\n\r\n", b"", True),
        (b" GET /evil", b"", True),
        (b"hello", b"hello", False),
        (b"\r\nhello\nworld", b"\r\nhello\nworld", False),
        (b"DELE", b"DELE", False),
        (b"FOO /evil", b"FOO /evil", True),
    ],
)
def test_a_head_is_judged_before_any_of_it_passes(
    ends: Ends, tmp_path: Path, signals: SimpleNamespace, said: bytes, passed: bytes, refused: bool
) -> None:
    """Origins act on half a head when the connection ends there. Taps see what passes."""
    signals.seen = b""
    (tmp_path / "tap.py").write_text("import signals\ndef data(tunnel, direction, octets): signals.seen += octets")
    taps = Taps([Tap(tmp_path / "tap.py")])
    tunnel = before(taps, [], PlainStream(ends.client), PlainStream(ends.origin), Mismatch.DENY)
    running = gevent.spawn(tunnel.run)
    for octet in said:
        ends.client_end.sendall(bytes((octet,)))
        give_way()
    ends.client_end.shutdown(socket.SHUT_WR)
    heard = b""
    while data := ends.origin_end.recv(65_536):
        heard += data
    ends.origin_end.close()
    running.get()
    assert (heard, signals.seen, tunnel.refusal is not None) == (passed, passed, refused)


def test_a_request_to_another_host_does_not_pass_beside_a_tap_that_acts(ends: Ends, acting: Taps) -> None:
    tunnel = before(acting, [], PlainStream(ends.client), PlainStream(ends.origin), Mismatch.DENY)
    running = gevent.spawn(tunnel.run)
    ends.client_end.sendall(b"GET /evil HTTP/1.1\r\nHost: b.example\r\n\r\n")
    ends.client_end.shutdown(socket.SHUT_WR)
    assert ends.origin_end.recv(100) == b""
    ends.origin_end.close()
    running.get()
    assert isinstance(tunnel.refusal, Misdirected)


@pytest.mark.parametrize("more", [b"", b"HTTP/1.1 200 OK\r\nX: y", OK])
def test_what_answers_no_request_is_not_taken_for_the_next_answer(ends: Ends, acting: Taps, more: bytes) -> None:
    tunnel = before(acting, [], PlainStream(ends.client), PlainStream(ends.origin))
    running = gevent.spawn(tunnel.run)
    ends.client_end.sendall(GET % 1)
    assert ends.origin_end.recv(65_536) == GET % 1
    ends.origin_end.sendall(OK + b"\r\n" + more)
    heard = b""
    while len(heard) < len(OK):
        heard += ends.client_end.recv(65_536)
    if more:
        running.get()
        assert (heard.rstrip(), str(tunnel.refusal), tunnel.answerable) == (
            OK.rstrip(),
            "a response that nobody asked for",
            False,
        )
    else:
        ends.client_end.sendall(GET % 2)
        assert ends.origin_end.recv(65_536) == GET % 2
        running.kill()
