"""Requests that are judged: no other recipient may find more requests in what passes."""

import time
from array import array
from collections.abc import Callable

import gevent
import pytest
from lab import WAIT
from watching import Seen

from errors import Refused
from exchange import MAX_FIELDS, Exchange
from rewriting import Rewriter
from taps import Answer

GET = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"


def allow(_: Exchange) -> Answer | None:
    return None


def mark(exchange: Exchange) -> Answer | None:
    exchange.request_fields.append((b"X-Mark", b"1"))
    return None


def passed(rewriter: Rewriter, data: bytes) -> bytes:
    return b"".join(rewriter.forward(data))


def behind_another(rewriter: Rewriter, request: bytes) -> "gevent.Greenlet[..., list[bytes]]":
    """A request that waits for the response to the one before it, which has passed."""
    pieces = rewriter.forward(GET + request)
    assert next(pieces) == GET
    waiting = gevent.spawn(list, pieces)
    gevent.idle()
    assert not waiting.ready()
    return waiting


@pytest.mark.parametrize("decide", [allow, mark])
@pytest.mark.parametrize(
    "request_",
    [
        b"POST / HTTP/1.1\r\nHost: a\r\n" + b"a: b\r\n" * (MAX_FIELDS - 1) + b"Content-Length: 4\r\n\r\nbody",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2;\nhi\r\n0\r\n\r\n",
        b"no request\r\n\r\n",
        b"GET / HTTP/1.2\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\nHost: a\n\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b: c\r\n\r\n",
    ],
)
def test_what_others_may_read_otherwise_is_refused(decide: Callable[[Exchange], None], request_: bytes) -> None:
    with pytest.raises(Refused):
        passed(Rewriter(Seen().recorder(), decide), request_)


def test_a_head_in_pieces_is_judged_as_a_whole() -> None:
    rewriter = Rewriter(Seen().recorder(), mark)
    assert passed(rewriter, GET[:10]) == b""
    assert passed(rewriter, GET[10:]) == GET[:-2] + b"X-Mark: 1\r\n\r\n"


def test_a_head_that_no_tap_changed_passes_as_it_is() -> None:
    head = b"GET /a HTTP/1.1\r\nhost:a\r\nX:   b \r\n\r\n"
    assert passed(Rewriter(Seen().recorder(), allow), head) == head


def test_many_tiny_chunks_pass_as_one_piece() -> None:
    """And what follows the body as another."""
    head = b"POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n"
    body = b"1\r\na\r\n" * 1000 + b"0\r\n\r\n"
    seen = Seen()
    rewriter = Rewriter(seen.recorder(), allow)
    pieces = rewriter.forward(head + body + GET)
    assert [next(pieces), next(pieces)] == [head, body]
    rewriter.received(OK)
    assert list(pieces) == [GET]
    assert seen.begun[0].request_octets == 1000
    assert seen.done == seen.begun[:1]


def test_a_chunk_that_not_everyone_can_count_is_refused() -> None:
    """Java's HttpServer counts with 32 bits, one of them for the sign."""
    assert passed(Rewriter(Seen().recorder(), allow), CHUNKED + b"7fffffff\r\n") == CHUNKED + b"7fffffff\r\n"
    with pytest.raises(Refused, match="not everyone can count"):
        passed(Rewriter(Seen().recorder(), allow), CHUNKED + b"80000000\r\n")


def test_as_many_fields_as_can_be_shown_pass() -> None:
    request = b"POST / HTTP/1.1\r\nHost: a\r\n" + b"a: b\r\n" * (MAX_FIELDS - 2) + b"Content-Length: 4\r\n\r\nbody"
    assert passed(Rewriter(Seen().recorder(), allow), request) == request


@pytest.mark.parametrize("head", [b"GET /a HTTP/1.0\r\n", b"GET /a HTTP/1.0\r\nHost: a\r\n", GET[:-2]])
def test_a_changed_request_keeps_its_version(head: bytes) -> None:
    assert passed(Rewriter(Seen().recorder(), mark), head + b"\r\n") == head + b"X-Mark: 1\r\n\r\n"


@pytest.mark.parametrize(
    ("attribute", "value"),
    [("method", None), ("method", 7), ("target", "/a b"), ("target", None), ("request_fields", None),
     ("request_fields", {"Host": "a"}), ("request_fields", [(b"Host",)]), ("request_fields", [(b"Host", 1)])],
)  # fmt: skip
def test_a_request_that_is_none_is_refused_and_told_as_the_client_made_it(attribute: str, value: object) -> None:
    seen = Seen()
    rewriter = Rewriter(seen.recorder(), lambda exchange: setattr(exchange, attribute, value))
    with pytest.raises(Refused, match="a tap made an invalid request"):
        passed(rewriter, GET)
    rewriter.closed("refused")
    (exchange,) = seen.done
    assert (exchange.method, exchange.target, exchange.request_fields) == ("GET", "/a", [(b"Host", b"a")])


def test_what_a_tap_changes_is_told_as_what_an_exchange_is_made_of() -> None:
    def change(exchange: Exchange) -> None:
        exchange.method, exchange.target = b"PUT", b"/b"  # type: ignore[assignment]  # it is not checked by mypy
        exchange.request_fields.append(("X-Mark", "1"))  # type: ignore[arg-type]

    seen = Seen()
    assert passed(Rewriter(seen.recorder(), change), GET) == b"PUT /b HTTP/1.1\r\nHost: a\r\nX-Mark: 1\r\n\r\n"
    (exchange,) = seen.begun
    assert (exchange.method, exchange.target) == ("PUT", "/b")
    assert exchange.request_fields == [(b"Host", b"a"), (b"X-Mark", b"1")]


def test_an_answer_is_to_what_the_client_asked() -> None:
    """An answer to HEAD must have no body: it would be taken for the next response."""

    def answer(exchange: Exchange) -> Answer:
        exchange.method = "GET"
        return Answer(403, b"no")

    rewriter = Rewriter(Seen().recorder(), answer)
    assert passed(rewriter, GET.replace(b"GET", b"HEAD")) == b""
    assert rewriter.take_answer().endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    ("request_", "closing"),
    [
        (GET, False),
        (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: x, Close\r\n\r\n", True),
        (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: x\r\nconnection: close\r\n\r\n", True),
        (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\nX: close\r\n\r\n", False),
        (b"GET / HTTP/1.0\r\nHost: a\r\n\r\n", True),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 64\r\n\r\n", True),  # the client may await a 100
    ],
)
def test_an_answer_is_the_last_where_the_client_wants_no_other(request_: bytes, closing: bool) -> None:
    def answer(exchange: Exchange) -> Answer:
        exchange.request_fields.clear()  # the client's own fields count
        return Answer(403, b"no")

    seen = Seen()
    rewriter = Rewriter(seen.recorder(), answer)
    assert passed(rewriter, request_ + GET) == b""
    assert (rewriter.closing, len(seen.begun)) == (closing, 1 if closing else 2)
    assert (b"\r\nConnection: close\r\n" in rewriter.take_answer()) == closing


def test_an_answer_is_sent_as_it_was_judged() -> None:
    """Other kinds of sequences than an answer is declared to hold: they are not checked by mypy."""
    fields = (field for field in [("X-A", "1")])
    answer = Answer(200, array("I", [1, 2]), fields)  # type: ignore[arg-type]
    rewriter = Rewriter(Seen().recorder(), lambda _: answer)
    assert passed(rewriter, GET) == b""
    head, _, body = rewriter.take_answer().partition(b"\r\n\r\n")
    assert head == b"HTTP/1.1 200 OK\r\nX-A: 1\r\nContent-Length: %d" % len(body)


@pytest.mark.parametrize("body", ["no", 2, None, [1, 2]])
def test_a_body_that_is_none_is_refused_where_it_would_not_be_sent_as_well(body: object) -> None:
    answer = Answer(200, body)  # type: ignore[arg-type]
    with pytest.raises(Refused, match="a tap made an invalid answer"):
        passed(Rewriter(Seen().recorder(), lambda _: answer), GET.replace(b"GET", b"HEAD"))


@pytest.mark.parametrize("reason", ["\n", b"no", ["no"]])
def test_an_answer_that_is_none_is_refused(reason: object) -> None:
    answer = Answer(403, reason=reason)  # type: ignore[arg-type]  # it is not checked by mypy
    with pytest.raises(Refused, match="a tap made an invalid answer"):
        passed(Rewriter(Seen().recorder(), lambda _: answer), GET)


@pytest.mark.parametrize(("option", "closing"), [("x, Close", True), ("keep-alive", False)])
def test_an_answer_that_says_so_is_the_last(option: str, closing: bool) -> None:
    """What a client pipelined behind it must not go on (RFC 9112 §9.6)."""
    answers = iter([Answer(403, b"no", (("Connection", option),))])
    rewriter = Rewriter(Seen().recorder(), lambda _: next(answers, None))
    assert passed(rewriter, GET + GET) == (b"" if closing else GET)
    assert rewriter.closing == closing


def test_an_answer_takes_the_place_of_a_response_and_not_of_the_next_one() -> None:
    seen = Seen()
    rewriter = Rewriter(seen.recorder(), lambda exchange: Answer(403, b"no") if exchange.method == "PUT" else None)
    pieces = rewriter.forward(GET.replace(b"GET", b"PUT") + GET)
    assert next(pieces) == b""
    assert rewriter.take_answer().startswith(b"HTTP/1.1 403 ")  # before the next one is looked at
    assert list(pieces) == [GET]
    rewriter.received(OK)
    told = [(exchange.method, exchange.status, exchange.response_octets) for exchange in seen.done]
    assert (told, rewriter.unasked) == ([("PUT", 403, 2), ("GET", 200, 2)], 0)


@pytest.mark.parametrize(
    ("before", "after"),
    [("GET", "HEAD"), ("HEAD", "GET"), ("GET", "CONNECT")],
)
def test_a_tap_may_not_change_how_the_response_is_read(before: str, after: str) -> None:
    rewriter = Rewriter(Seen().recorder(), lambda exchange: setattr(exchange, "method", after))
    with pytest.raises(Refused, match="read as another's"):
        passed(rewriter, GET.replace(b"GET", before.encode()))


POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n"


CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("head", "fields"),
    [
        (POST, []),
        (POST, [(b"content-length", b"5")]),
        (POST, [(b"Transfer-Encoding", b"chunked")]),
        (CHUNKED, []),
        (CHUNKED, [(b"Content-Length", b"4")]),
        (GET, [(b"Content-Length", b"4")]),
        (GET, [(b"Transfer-Encoding", b"chunked")]),
    ],
)
def test_a_tap_may_not_change_where_a_request_ends(head: bytes, fields: list[tuple[bytes, bytes]]) -> None:
    asked = [(b"Host", b"a"), *fields]
    rewriter = Rewriter(Seen().recorder(), lambda exchange: setattr(exchange, "request_fields", asked))
    with pytest.raises(Refused, match="changed the framing"):
        passed(rewriter, head)


@pytest.mark.parametrize("named", [b"X-Mark", b"close, x-mark", b"x-a", b"host"])
def test_a_field_that_connection_names_is_refused(named: bytes) -> None:
    """A proxy before the origin drops it, whether the client sent it or a tap has added it."""
    head = b"GET /a HTTP/1.1\r\nHost: a\r\nX-A: 1\r\nConnection: " + named + b"\r\n\r\n"
    with pytest.raises(Refused, match="Connection names one of its fields"):
        passed(Rewriter(Seen().recorder(), mark), head)
    if b"ark" not in named:
        with pytest.raises(Refused, match="Connection names one of its fields"):
            passed(Rewriter(Seen().recorder(), allow), head)
    else:
        assert passed(Rewriter(Seen().recorder(), allow), head) == head


@pytest.mark.parametrize(
    "fields",
    [
        b"Connection: close\r\n",
        b"Connection: Keep-Alive\r\nKeep-Alive: 9\r\n",
        b"Connection: TE\r\nTE: trailers\r\n",
        b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n",
        b"Connection: x-b\r\n",
    ],
)
def test_what_clients_name_in_connection_passes(fields: bytes) -> None:
    head = b"GET /a HTTP/1.1\r\nHost: a\r\n" + fields + b"\r\n"
    assert passed(Rewriter(Seen().recorder(), allow), head) == head
    marked = passed(Rewriter(Seen().recorder(), mark), head)
    assert marked == head.removesuffix(b"\r\n") + b"X-Mark: 1\r\n\r\n"


def test_a_tap_may_write_the_length_of_a_body_otherwise() -> None:
    fields = [(b"content-length", b"4"), (b"Host", b"a")]
    rewriter = Rewriter(Seen().recorder(), lambda exchange: setattr(exchange, "request_fields", fields))
    assert passed(rewriter, POST + b"body") == b"POST / HTTP/1.1\r\ncontent-length: 4\r\nHost: a\r\n\r\nbody"


@pytest.mark.parametrize(
    "response",
    [
        b"HTTP/1.1 200 OK\r\nX Odd: 1\r\nContent-Length: 2\r\n\r\nhi",
        OK + b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: a\r\n\r\n",  # not asked for
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70_000 + b"\r\n\r\n",
    ],
)
def test_behind_a_malformed_response_nothing_is_judged_and_nothing_passes(response: bytes) -> None:
    rewriter = Rewriter(Seen().recorder(), allow)
    assert passed(rewriter, GET) == GET
    rewriter.received(response)
    with pytest.raises(Refused, match="previous response is malformed"):
        passed(rewriter, GET)


def test_a_request_that_waits_for_a_response_is_refused_if_that_is_malformed() -> None:
    rewriter = Rewriter(Seen().recorder(), allow)
    waiting = behind_another(rewriter, GET)
    rewriter.received(b"HTTP/1.1 200 OK\r\nX Odd: 1\r\n\r\n")
    with pytest.raises(Refused, match="previous response is malformed"):
        waiting.get(timeout=WAIT)


def test_a_refusal_comes_after_the_response_to_the_request_before() -> None:
    rewriter = Rewriter(Seen().recorder(), allow)
    waiting = behind_another(rewriter, GET.replace(b"\r\n", b"\n"))
    rewriter.received(OK)
    with pytest.raises(Refused, match="bare LF"):
        waiting.get(timeout=WAIT)


def test_behind_a_response_with_white_space_before_a_colon_requests_are_judged() -> None:
    rewriter = Rewriter(Seen().recorder(), mark)
    for _ in range(2):
        assert passed(rewriter, GET) == GET[:-2] + b"X-Mark: 1\r\n\r\n"
        rewriter.received(OK.replace(b"\r\n", b"\r\nServer : x\r\n", 1))


def test_a_body_passes_to_its_end_behind_a_malformed_response() -> None:
    seen = Seen()
    rewriter = Rewriter(seen.recorder(), allow)
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\n"
    assert passed(rewriter, head + b"abc") == head + b"abc"
    rewriter.received(b"HTTP/1.1 200 OK\r\nX Odd: 1\r\n\r\n")
    assert passed(rewriter, b"def") == b"def"
    with pytest.raises(Refused):
        passed(rewriter, GET)
    assert [exchange.error for exchange in seen.done] == ["malformed response head"]


def test_a_second_response_to_a_request_that_is_not_complete_is_nobodys() -> None:
    rewriter = Rewriter(Seen().recorder(), allow)
    assert passed(rewriter, POST + b"bo") == POST + b"bo"
    rewriter.received(OK)
    assert rewriter.unasked == 0
    rewriter.received(OK)
    assert rewriter.unasked == len(OK)
    assert passed(rewriter, b"dy") == b"dy"
    with pytest.raises(Refused, match="previous response is malformed"):
        passed(rewriter, GET)


UPGRADE = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: b\r\n\r\n"
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: b\r\n\r\n"


# As HTTP, these are no head, half a head, or empty lines.
@pytest.mark.parametrize("early", [b"EARLY-", b"\r\n\nEARLY", b"EAR\n\nLY", b"EA\r\n\r\nRLY", b"x" * 70_000])
def test_behind_an_upgrade_everything_passes_and_what_was_sent_before_it_too(early: bytes) -> None:
    rewriter = Rewriter(Seen().recorder(), allow)
    pieces = rewriter.forward(UPGRADE + early)
    assert next(pieces) == UPGRADE
    waiting = gevent.spawn(next, pieces)
    gevent.idle()
    assert not waiting.ready()
    rewriter.received(SWITCH)
    assert waiting.get(timeout=WAIT) == early
    assert list(pieces) == []
    assert passed(rewriter, b"\0\n\n") == b"\0\n\n"


def test_behind_an_upgrade_that_is_not_agreed_to_requests_are_judged() -> None:
    rewriter = Rewriter(Seen().recorder(), allow)
    pieces = rewriter.forward(UPGRADE + GET + b"no request\n\n")
    assert next(pieces) == UPGRADE
    rewriter.received(OK)
    assert next(pieces) == GET
    rewriter.received(OK)
    with pytest.raises(Refused):
        next(pieces)


def test_behind_the_end_of_the_origin_nothing_is_judged() -> None:
    """Nor is a body taken for a head."""
    rewriter = Rewriter(Seen().recorder(), allow)
    assert passed(rewriter, GET) == GET
    rewriter.received(OK)
    rewriter.closed()
    assert passed(rewriter, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 20\r\n\r\nbody\n\nGET / HTTP") == b""
    assert passed(rewriter, b"/1.1\n\n" + GET) == b""


def test_the_end_of_the_origin_releases_a_request_that_waits_and_it_does_not_pass() -> None:
    rewriter = Rewriter(Seen().recorder(), allow)
    waiting = behind_another(rewriter, GET)
    rewriter.received(OK[:-1])
    gevent.idle()
    assert not waiting.ready()
    rewriter.closed()
    assert waiting.get(timeout=WAIT) == []


def test_a_response_may_take_as_long_as_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rewriting.WAIT_SECONDS", 1.0)
    rewriter = Rewriter(Seen().recorder(), allow)
    assert passed(rewriter, GET) == GET
    began = time.monotonic()
    waiting = gevent.spawn(passed, rewriter, GET)
    rewriter.received(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n")
    while time.monotonic() - began < 1.5:
        rewriter.received(b"")
        rewriter.received(b"x")
        gevent.sleep(0.1)
    assert not waiting.ready()
    with pytest.raises(Refused, match="the response to the previous request did not come"):
        waiting.get(timeout=WAIT)


@pytest.mark.parametrize("data", [b"\x81\x02hi", b"GET /b"])
def test_behind_a_101_that_is_no_upgrade_whatever_comes_is_refused(data: bytes) -> None:
    rewriter = Rewriter(Seen().recorder(), allow)
    asks = b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"
    assert passed(rewriter, asks) == asks
    rewriter.received(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n")
    with pytest.raises(Refused):
        passed(rewriter, data)
