import time
import timeit

import hpack
import pytest
from hyperframe.frame import ContinuationFrame, DataFrame, HeadersFrame, SettingsFrame
from hypothesis import given, settings
from hypothesis import strategies as st
from test_frames import wire
from test_http1 import GET, OK, SWITCH, UPGRADE
from test_http2 import Pair
from watching import CLIENT, ORIGIN, Conversation, Seen, connection, kept, play, summary

import log
from exchange import Exchange
from framing import MAX_HEAD
from http2 import PREFACE
from recorder import Capture
from watcher import MAX_EARLY, Watcher


def watch(conversation: Conversation, alpn: str | None = None, size: int = 1 << 20, strict: bool = False) -> Seen:
    seen = Seen()
    watcher = Watcher(connection(), seen, alpn, Capture(1000), strict)
    play(watcher, conversation, size)
    watcher.closed()
    assert not watcher.watching
    assert len(seen.done) == len(seen.begun)
    return seen


def http2() -> Conversation:
    pair = Pair()
    pair.answer(pair.ask(), body=b"hello")
    return pair.said


@pytest.mark.parametrize("size", [1, 5, 24, 1 << 20])
@pytest.mark.parametrize("alpn", [None, "http/1.1"])
@pytest.mark.parametrize("before", [b"", b"\r\n"])
def test_http1(alpn: str | None, size: int, before: bytes) -> None:
    seen = watch([(CLIENT, before + GET), (ORIGIN, OK), (CLIENT, GET), (ORIGIN, OK)], alpn, size)
    assert [(e.version, e.url, kept(e.response_body)) for e in seen.done] == [("1.1", "https://a.example/x", b"hi")] * 2
    assert not seen.notes


@pytest.mark.parametrize("size", [1, 5, 24, 1 << 20])
@pytest.mark.parametrize("alpn", [None, "h2"])
@pytest.mark.parametrize("origin_first", [False, True])
def test_http2_by_alpn_and_by_its_preface(alpn: str | None, size: int, origin_first: bool) -> None:
    said = http2()
    if origin_first:  # its SETTINGS may come before the client's preface
        first = next(part for part in said if part[0] == ORIGIN)
        said = [first, *[part for part in said if part is not first]]
    seen = watch(said, alpn, size)
    assert [(e.version, e.url, kept(e.response_body)) for e in seen.done] == [("2", "https://a.example/x", b"hello")]
    assert not seen.notes


@pytest.mark.parametrize("alpn", [None, "h2"])
def test_how_much_is_content_is_known_ahead(alpn: str | None) -> None:
    watcher = Watcher(connection(), Seen(), alpn)
    assert watcher.ahead(sent=True) == 0
    if alpn is None:
        watcher.sent(GET.replace(b"\r\n\r\n", b"\r\nContent-Length: 9\r\n\r\nab"))
    else:
        watcher.sent(PREFACE + b"\0\0\x09\0\0\0\0\0\x01ab")
    assert (watcher.ahead(sent=True), watcher.ahead(sent=False)) == (7, 0)
    watcher.sent(b"cdefghi")
    assert watcher.ahead(sent=True) == 0


@pytest.mark.parametrize("size", [1, 1 << 20])
@pytest.mark.parametrize(
    "conversation",
    [
        [(CLIENT, b"\x16\3\1\2\0\1")],
        [(CLIENT, b"SSH-2.0-OpenSSH_9.2\r\n")],
        [(ORIGIN, b"220 mail.example ESMTP\r\n"), (CLIENT, b"EHLO a.example\r\n")],
        [(ORIGIN, b"220 mail.example ESMTP\r\n")],
        [(CLIENT, b"G" * 40)],
        [(ORIGIN, bytes(MAX_EARLY + 1))],
        [(CLIENT, PREFACE[:5])],
    ],
)
def test_what_is_not_http_is_noted_once(conversation: Conversation, size: int) -> None:
    seen = watch([*conversation], None, size)
    assert seen.notes == ["not HTTP"]
    assert not seen.begun


@pytest.mark.parametrize("size", [1, 1 << 20])
@pytest.mark.parametrize(
    "data",
    [
        b"GET /\r\n",
        b"GET / HTTP/3.0\r\n",
        b"GET  / HTTP/1.1\r\n",
        b"BREW  / HTTP/1.1\r\n",
        b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
        b"GET /" + b"a" * MAX_HEAD + b" HTTP/1.1\r\n",
    ],
)
def test_what_a_lenient_origin_might_take_for_http_is_told_apart(data: bytes, size: int) -> None:
    seen = watch([(CLIENT, data)], None, size)
    assert seen.notes == ["malformed request"]
    assert not seen.begun


def test_empty_lines_before_a_request_hide_nothing_however_many() -> None:
    seen = watch([(CLIENT, b"\r\n" * MAX_HEAD), (CLIENT, GET), (ORIGIN, OK)], None, 1 << 20)
    assert [exchange.method for exchange in seen.done] == ["GET"]
    assert not seen.notes


def test_another_protocol_by_alpn() -> None:
    assert watch([(CLIENT, GET), (ORIGIN, OK)], "acme-tls/1").notes == ["not HTTP"]


def test_another_protocol_by_alpn_may_be_http_where_requests_count() -> None:
    said: Conversation = [(CLIENT, GET), (ORIGIN, OK)]
    assert [exchange.status for exchange in watch(said, "acme-tls/1", strict=True).done] == [200]
    assert watch([(CLIENT, b"GET /x\r\n")], "http/0.9", strict=True).notes == ["malformed request"]
    assert watch([(CLIENT, b"\0\1\2")], "grpc-exp", strict=True).notes == ["not HTTP"]


def test_nothing_at_all_is_nothing_to_note() -> None:
    assert watch([]).notes == []


def test_it_says_when_nothing_more_is_of_interest() -> None:
    seen = Seen()
    watcher = Watcher(connection(), seen)
    for who, data, watching in [
        (CLIENT, GET, True),
        (ORIGIN, OK, True),
        (CLIENT, UPGRADE, True),
        (ORIGIN, SWITCH, False),
    ]:
        play(watcher, [(who, data)])
        assert watcher.watching == watching
    assert seen.notes == ["upgraded to websocket"]
    watcher.sent(GET)
    watcher.closed()
    assert (len(seen.begun), len(seen.notes)) == (2, 1)


@pytest.mark.parametrize("alpn", [None, "http/1.1"])
def test_what_the_origin_says_before_the_protocol_is_known_counts(alpn: str | None) -> None:
    for size in range(1, len(OK)):
        for begun in (b"", GET[:3]):
            early: Conversation = [
                (CLIENT, begun),
                (ORIGIN, OK[:size]),
                (CLIENT, GET[len(begun) :]),
                (ORIGIN, OK[size:]),
            ]
            seen = watch(early, alpn)
            assert ([exchange.status for exchange in seen.done], seen.notes) == ([200], [])


def test_what_is_over_stays_over() -> None:
    """A tunnel may go on for long behind what is not HTTP, or is malformed."""
    said: Conversation
    for said, begun, note in [
        ([(CLIENT, b"hello\r\n")], 0, "not HTTP"),
        ([(ORIGIN, bytes(MAX_EARLY)), (ORIGIN, b"\0")], 0, "not HTTP"),
        ([(CLIENT, GET + b"x\r\n\r\n")], 1, "malformed request head"),
        ([(CLIENT, GET), (CLIENT, b"x\r\n\r\n")], 1, "malformed request head"),
        ([(CLIENT, GET + GET[:-1]), (ORIGIN, b"x\r\n\r\n")], 1, "malformed response head"),
    ]:
        seen = Seen()
        watcher = Watcher(connection(), seen)
        for piece in said:
            assert watcher.watching
            play(watcher, [piece])
        assert not watcher.watching
        play(watcher, [(CLIENT, GET), (ORIGIN, bytes(MAX_EARLY + 1))])
        watcher.origin_ended()
        watcher.closed()
        assert (seen.notes, len(seen.begun)) == ([note], begun)


@pytest.mark.parametrize(
    ("alpn", "said", "ended"),
    [
        (None, [(CLIENT, GET), (ORIGIN, b"HTTP/1.0 200 OK\r\n\r\nsome")], 1),
        (None, [(CLIENT, GET), (ORIGIN, OK[:-1])], 0),
        (None, [], 0),
        ("h2", http2()[:-1], 0),
    ],
)
def test_the_end_of_the_origin_ends_what_has_no_other(alpn: str | None, said: Conversation, ended: int) -> None:
    seen = Seen()
    watcher = Watcher(connection(), seen, alpn)
    play(watcher, said)
    watcher.origin_ended()
    assert (watcher.watching, len(seen.done), seen.notes) == (True, ended, [])


class Faulty(Seen):
    """An observer with a bug."""

    def request(self, exchange: Exchange) -> None:
        super().request(exchange)
        if exchange.target == "/bug":
            raise ZeroDivisionError

    def ended(self, exchange: Exchange) -> None:
        super().ended(exchange)
        if exchange.target == "/late":
            raise ZeroDivisionError


def test_a_bug_is_told_once_and_never_raised(capfd: pytest.CaptureFixture[str]) -> None:
    log.set_up()
    seen, capture = Faulty(), Capture(10)
    room = capture.left
    watcher = Watcher(connection(), seen, None, capture)
    bug = GET.replace(b"/x", b"/bug")
    play(watcher, [(CLIENT, GET + GET), (ORIGIN, OK[:-1]), (CLIENT, bug), (ORIGIN, b"i"), (CLIENT, GET)])
    watcher.closed()
    err = capfd.readouterr().err
    assert err.count("a bug in watching connection") == err.count("Traceback") == 1
    assert [e.error for e in seen.done] == ["no longer watched"] * 2
    assert capture.left == room
    assert not watcher.watching


@pytest.mark.parametrize("strict", [False, True])
def test_behind_a_bug_nothing_passes_that_is_to_be_judged(strict: bool) -> None:
    seen = Faulty()
    watcher = Watcher(connection(), seen, None, strict=strict)
    watcher.sent(GET.replace(b"/x", b"/bug"))
    assert (watcher.watching, seen.notes) == (False, ["malformed, or a bug"] * strict)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("response", [OK, OK[:-1], b"HTTP/1.0 200 OK\r\n\r\nsome"])
def test_a_bug_behind_a_response_is_told_as_well(
    capfd: pytest.CaptureFixture[str], response: bytes, strict: bool
) -> None:
    log.set_up()
    seen = Faulty()
    watcher = Watcher(connection(), seen, None, strict=strict)
    play(watcher, [(CLIENT, GET.replace(b"/x", b"/late")), (ORIGIN, response)])
    watcher.origin_ended()
    watcher.closed()
    assert capfd.readouterr().err.count("a bug in watching connection") == 1
    assert (watcher.watching, seen.notes) == (False, ["malformed, or a bug"] * strict)


@given(st.lists(st.tuples(st.sampled_from([CLIENT, ORIGIN]), st.binary(max_size=50)), max_size=8), st.integers(1, 60))
@settings(max_examples=200)
def test_garbage_is_the_same_whatever_the_segments(said: Conversation, size: int) -> None:
    for start in ([], [(CLIENT, GET[:20])], [(CLIENT, PREFACE[:20])]):
        whole, cut = watch([*start, *said]), watch([*start, *said], None, size)
        assert (summary(whole), whole.notes) == (summary(cut), cut.notes)


@pytest.mark.parametrize("size", [1, 1 << 20])
@pytest.mark.parametrize(
    "line",
    [
        b"A" * 33 + b" /1 HTTP/1.1\r\n",  b" GET /\r\n", b"\tGET /\r\n",
        b"\x0bGET /\r\n", b"GET\xa0/3 HTTP/1.1\r\n", b"GET\x1c/4\x1cHTTP/1.1\r\n", b" GET /09\r\n",
        b"\0GET / HTTP/1.1\r\n", b"\xef\xbb\xbfGET / HTTP/1.1\r\n", b"FOO /\r\n", b"\t1GET\x0b/\r\n",
        b"DESCRIBE https://a/x RTSP/1.0\r\n", b"DESCRIBE rtsp://a/ ICE/1.0\r\n", b"PLAY * RTSP/1.0\r\n", b"FOO x-y://a\r\n",
        b" \r\nGET / HTTP/1.1\r\n", b"\r\n\t\n\r\nGET / HTTP/1.1\r\n", b" \n" * 40_000 + b"FOO x HTTP/1.1\r\n",
    ],
)  # fmt: skip
def test_what_may_be_http_to_somebody_is_malformed_where_that_matters(line: bytes, size: int) -> None:
    assert watch([(CLIENT, line + b"Host: b.example\r\n\r\n")], None, size, strict=True).notes == ["malformed request"]


@pytest.mark.parametrize("size", [1, 1 << 20])
def test_a_line_may_be_as_long_as_a_head(size: int) -> None:
    request = GET.replace(b"/x", b"/x" + b"a" * 60_000)
    for strict in (False, True):
        seen = watch([(CLIENT, request), (ORIGIN, OK)], None, size, strict)
        assert ([len(exchange.target) for exchange in seen.done], seen.notes) == ([60_002], [])


@pytest.mark.parametrize("size", [1, 1000, 1 << 20])
@pytest.mark.parametrize("begin", [b"FOO /", b"\tFOO\t/", b"F"])
def test_a_line_that_is_longer_may_be_http_to_somebody_too(begin: bytes, size: int) -> None:
    """Go accepts any method, and up to a megabyte; what proves it to be HTTP comes last."""
    line = begin + b"a" * (MAX_HEAD - len(begin))
    more = b"a HTTP/1.1\r\nHost: b.example\r\n\r\n"
    for strict in (False, True):
        seen = watch([(CLIENT, line), (CLIENT, more)], None, size, strict)
        assert seen.notes == ["malformed request" if strict else "not HTTP"]
    assert watch([(CLIENT, b"\0" + line), (CLIENT, more)], None, size, strict=True).notes == ["not HTTP"]


def test_white_space_costs_what_it_does_however_much_came_before() -> None:
    prices = []
    for many in (1, 60_000):
        watcher = Watcher(connection(), Seen(), None, strict=True)
        watcher.sent(b" " * many)
        timer = timeit.Timer("watcher.sent(b' '), watcher.held", "", time.process_time, {"watcher": watcher})
        prices.append(min(timer.repeat(number=100)))
    assert prices[1] < 20 * prices[0]


@pytest.mark.parametrize("alpn", [None, "http/1.1"])
@pytest.mark.parametrize(
    "first",
    [
        b"AMQP\0\0\x09\1", b"\x10\x10\0\4MQTT", b"SSH-2.0-x\r\n", b"NICK a\r\n",
        b"INVITE sip:a@b SIP/2.0\r\n",
        b"\x0b\x0a\x09Protobuf!",  # its length octet is white space, and the tag of its first field ends a line
    ],
)  # fmt: skip
def test_what_is_no_http_to_anybody(first: bytes, alpn: str | None) -> None:
    """Unless both sides have agreed on it; and if the first octets decide, nothing is held back for more."""
    seen = Seen()
    watcher = Watcher(connection(), seen, alpn, strict=True)
    watcher.sent(first)
    assert watcher.held == 0
    watcher.sent(b"\n")
    assert seen.notes == ["not HTTP" if alpn is None else "malformed request"]
    assert (watcher.watching, watcher.held) == (False, 0)


@pytest.mark.parametrize("strict", [False, True])
def test_the_beginning_of_a_head_is_held_back_where_that_matters(strict: bool) -> None:
    watcher = Watcher(connection(), Seen(), None, strict=strict)
    held = []
    for piece in (b"", b"\r\nG", b"E", b"T", b" / HTTP/1.1\r\nHost: a", b".example\r\n\r\n", GET + b"GET", b" /"):
        watcher.sent(piece)
        held.append(watcher.held)
    assert held == ([0, 1, 2, 3, 23, 0, 3, 5] if strict else [0] * 8)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("size", [1, 3, 100])
def test_a_line_with_a_version_is_held_back_whatever_its_method(size: int, strict: bool) -> None:
    watcher = Watcher(connection(), Seen(), None, strict=strict)
    line = b"FOO / HTTP/1.1"
    for start in range(0, len(line), size):
        watcher.sent(line[start : start + size])
        said = line[: start + size]
        assert watcher.held == (len(said) if strict and b"HTTP/" in said else 0)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("alpn", ["h2", None])
def test_the_beginning_of_a_header_block_is_held_back_where_that_matters(alpn: str | None, strict: bool) -> None:
    watcher = Watcher(connection(), Seen(), alpn, strict=strict)
    block = hpack.Encoder().encode([(":method", "GET"), (":scheme", "https"), (":authority", "a"), (":path", "/")])
    head = wire(
        HeadersFrame(1, block[:3], flags=["END_STREAM"]), ContinuationFrame(1, block[3:], flags=["END_HEADERS"])
    )
    held = []
    for piece in (PREFACE + wire(SettingsFrame(0)), head[:4], head[4:11], head[11:16], head[16:-1], head[-1:]):
        watcher.sent(piece)
        held.append(watcher.held)
    watcher.sent(wire(DataFrame(3, b"abc"))[:-1])
    assert (held, watcher.held) == ([0, 4, 11, 16, len(head) - 1, 0] if strict else [0] * 6, 0)


@pytest.mark.parametrize(
    ("said", "noted"),
    [
        ([(CLIENT, GET + GET[:-1])], True),
        ([(CLIENT, GET + b"G")], True),
        ([(CLIENT, GET + b"\r\n"), (ORIGIN, OK)], False),
        (
            [(CLIENT, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nab")],
            False,
        ),  # that its body is incomplete is told with the exchange
        ([(CLIENT, GET), (ORIGIN, OK[:10])], False),
        (http2()[:-1], False),
        ([(CLIENT, PREFACE + wire(HeadersFrame(1, b"a", flags=["END_HEADERS"]))[:-1])], True),
        ([(CLIENT, PREFACE + wire(HeadersFrame(1, b"")))], True),
    ],
)
@pytest.mark.parametrize("size", [1, 1 << 20])
def test_a_request_that_ends_in_its_head_is_noted(said: Conversation, noted: bool, size: int) -> None:
    """An origin may log or answer it nevertheless."""
    assert watch(said, size=size).notes == ["an incomplete request"] * noted


def test_what_has_come_when_the_client_ends_is_judged_as_it_is() -> None:
    for said, held, notes in [(b"GET /", 5, ["malformed request"]), (b"hello", 0, ["not HTTP"]), (b"", 0, [])]:
        seen = Seen()
        watcher = Watcher(connection(), seen, None if said else "http/1.1", strict=True)
        watcher.sent(said)
        assert (watcher.held, seen.notes) == (held, [])
        assert watcher.ended() == bool(said)
        assert (watcher.held, seen.notes) == (0, notes)


@pytest.mark.parametrize(
    "first",
    [
        bytes.fromhex("300c020101600702010304008000"),  # LDAP: an anonymous bind
        b"83 <34>1 2003-10-11T22:14:15.003Z a.example su - ID47 - failed",  # syslog, RFC 5425
        b"\x20\x01\0\0" + bytes(284),  # MongoDB
        b"get key\r\n",  # memcached
        b"CONNECT\naccept-version:1.2\nhost:a\n\n\0",  # STOMP
        b"HELLO",
    ],
)
def test_nothing_is_held_of_protocols_whose_client_waits_for_an_answer(first: bytes) -> None:
    seen = Seen()
    watcher = Watcher(connection(), seen, None, strict=True)
    watcher.sent(first)
    assert (watcher.held, "malformed request" in seen.notes) == (0, False)
