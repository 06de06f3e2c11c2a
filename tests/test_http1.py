import time
from functools import partial
from itertools import pairwise

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from watching import CLIENT, ORIGIN, Conversation, Seen, kept, play, summary, watched, watched_in_pieces

from exchange import MAX_FIELDS
from framing import MAX_HEAD
from http1 import MAX_INTERIM, MAX_WAITING, Http1
from recorder import FIELD, MAX_HELD, NO_ROOM

GET = b"GET /x HTTP/1.1\r\nHost: a.example\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
BAD = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"

watch = partial(watched, Http1)
whole_and_in_pieces = partial(watched_in_pieces, Http1)


def test_heads_of_requests_that_wait_are_bounded_in_octets() -> None:
    """Fields of a few octets take sixteen times as much memory as on the wire."""
    ask = GET[:-2] + b"a:\r\n" * (MAX_FIELDS - 1) + b"\r\n"
    seen = watch([(CLIENT, ask * MAX_WAITING)])
    assert len(seen.begun) - 1 == MAX_HELD // (FIELD * MAX_FIELDS + len(ask))
    assert {exchange.error for exchange in seen.done} == {f"malformed request: {NO_ROOM}"}
    answered = watch([(CLIENT, ask), (ORIGIN, OK)] * MAX_WAITING)
    assert {exchange.error for exchange in answered.done} == {None}


def test_one_exchange() -> None:
    request = b"GET /x?y HTTP/1.1\r\nHost: a.example\r\nX-Y: Z\r\n\r\n"
    response = b"HTTP/1.1 404 Not Found\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nno"
    [exchange] = whole_and_in_pieces([(CLIENT, request), (ORIGIN, response)]).done
    assert (exchange.method, exchange.url, exchange.version) == ("GET", "https://a.example/x?y", "1.1")
    assert exchange.request_fields == [(b"Host", b"a.example"), (b"X-Y", b"Z")]
    assert (exchange.status, exchange.reason, exchange.content_type) == (404, "Not Found", "text/plain")
    assert (exchange.request_octets, exchange.response_octets, kept(exchange.response_body)) == (0, 2, b"no")
    assert exchange.error is None


def test_the_request_is_told_before_the_response_and_the_end_at_once() -> None:
    seen = Seen()
    decoder = Http1(seen.recorder())
    decoder.sent(GET)
    assert [exchange.url for exchange in seen.begun] == ["https://a.example/x"]
    decoder.received(OK[:-1])
    assert (seen.begun[0].status, seen.done) == (200, [])
    decoder.received(OK[-1:])
    assert seen.done == seen.begun


def test_the_times_of_an_exchange() -> None:
    """The first octet of the response's head counts, not that of an interim one, nor the end of the head."""
    decoder, marks = Http1((seen := Seen()).recorder()), []
    for say, data in (
        (decoder.sent, b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\na"),
        (decoder.sent, b"b"),
        (decoder.received, b"HTTP/1.1 100 Continue\r\n\r\n"),
        (decoder.received, OK[:1]),
        (decoder.received, OK[1:]),
    ):
        marks.append(time.monotonic())
        say(data)
    [put] = seen.done
    assert put.request_ended is not None
    assert put.first_byte is not None
    assert put.ended is not None
    assert marks[0] <= put.began <= marks[1] <= put.request_ended <= marks[2]
    assert marks[3] <= put.first_byte <= marks[4] <= put.ended


def test_pipelining() -> None:
    two, three = GET.replace(b"/x", b"/2"), GET.replace(b"/x", b"/3")
    seen = whole_and_in_pieces([(CLIENT, GET + two + three), (ORIGIN, OK * 2 + OK.replace(b"200", b"404"))])
    assert [(e.target, e.status) for e in seen.done] == [("/x", 200), ("/2", 200), ("/3", 404)]


@pytest.mark.parametrize(
    ("request_", "response", "octets"),
    [
        (GET.replace(b"GET", b"HEAD"), b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n", 0),
        (GET, b"HTTP/1.1 204 No Content\r\n\r\n", 0),
        (GET, b"HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\n\r\n", 0),
        (GET, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 0),
        (GET, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nA: b\r\n\r\n", 3),
        (GET, b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n", 1),
        (GET, b"HTTP/1.1 200\r\nContent-Length: 1\r\n\r\na", 1),
        (GET, b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + OK, 2),
        (GET, OK.replace(b"\r\n", b"\n"), 2),
    ],
)
def test_where_a_response_ends(request_: bytes, response: bytes, octets: int) -> None:
    [only] = whole_and_in_pieces([(CLIENT, request_), (ORIGIN, response)]).done
    assert (only.response_octets, only.error) == (octets, None)  # it needs nothing behind it
    seen = whole_and_in_pieces([(CLIENT, request_), (ORIGIN, response), (CLIENT, GET), (ORIGIN, OK)])
    assert [(e.response_octets, e.error) for e in seen.done] == [(octets, None), (2, None)]
    assert not seen.notes


def test_trailers() -> None:
    response = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA: b\r\nC\t : d\r\n\r\n"
    [exchange] = whole_and_in_pieces([(CLIENT, GET), (ORIGIN, response)]).done
    assert exchange.trailers == [(b"A", b"b"), (b"C", b"d")]


def test_until_close() -> None:
    conversation = [(CLIENT, GET), (ORIGIN, b"HTTP/1.0 200 OK\r\n\r\nsome"), (ORIGIN, b" text")]
    [exchange] = whole_and_in_pieces(conversation).done
    assert (kept(exchange.response_body), exchange.error) == (b"some text", None)
    [exchange] = whole_and_in_pieces(conversation, error="origin-truncated").done
    assert (kept(exchange.response_body), exchange.error) == (b"some text", "origin-truncated")


def test_the_origin_ends_before_the_client() -> None:
    seen = Seen()
    decoder = Http1(seen.recorder(100))
    play(decoder, [(CLIENT, GET), (ORIGIN, b"HTTP/1.0 200 OK\r\n\r\nsome")])
    assert not seen.done
    decoder.origin_ended()
    [exchange] = seen.done
    decoder.closed("client-truncated")
    assert (kept(exchange.response_body), exchange.error) == (b"some", None)


def test_the_end_of_the_origin_ends_no_other_response() -> None:
    seen = Seen()
    decoder = Http1(seen.recorder(100))
    play(decoder, [(CLIENT, GET), (ORIGIN, OK[:-1])])
    decoder.origin_ended()
    decoder.closed()
    assert [exchange.error for exchange in seen.done] == ["the response was cut off"]


def test_an_end_behind_the_end_changes_nothing() -> None:
    seen = Seen()
    decoder = Http1(seen.recorder(100))
    play(decoder, [(CLIENT, GET), (ORIGIN, b"HTTP/1.0 200 OK\r\n\r\nsome")])
    decoder.closed("client-truncated")
    decoder.origin_ended()
    decoder.closed()
    assert [exchange.error for exchange in seen.done] == ["client-truncated"]


def test_a_target_outside_of_ascii_is_told_escaped_and_malformed_where_it_counts() -> None:
    request = GET.replace(b"/x", "/café".encode())
    [exchange] = whole_and_in_pieces([(CLIENT, request), (ORIGIN, OK)]).done
    assert exchange.target == "/caf%C3%A9"
    seen = Seen()
    Http1(seen.recorder(), strict=True).sent(request)
    assert (seen.begun, seen.notes) == ([], ["malformed request head"])
    assert watch([(CLIENT, request.replace(b"GET", b"G\xc9T"))]).notes == ["malformed request head"]


@pytest.mark.parametrize("more", [b"\r\n", b"\n\n", b"\r"])
def test_an_empty_line_behind_a_response_does_not_begin_the_next_one(more: bytes) -> None:
    seen = Seen()
    decoder = Http1(seen.recorder())
    play(decoder, [(CLIENT, GET), (ORIGIN, OK + more), (CLIENT, GET)])
    asked = time.monotonic()
    play(decoder, [(ORIGIN, b"\n" + OK)])
    assert [exchange.status for exchange in seen.done] == [200, 200]
    for exchange in seen.done:
        assert exchange.first_byte is not None
        assert exchange.first_byte >= exchange.began
    assert seen.done[1].first_byte is not None
    assert seen.done[1].first_byte >= asked


@pytest.mark.parametrize(
    ("conversation", "error"),
    [
        ([(CLIENT, GET)], "no response"),
        ([(CLIENT, GET), (ORIGIN, OK[:20])], "no response"),
        ([(CLIENT, GET), (ORIGIN, OK[:-1])], "the response was cut off"),
        (
            [(CLIENT, b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nab"), (ORIGIN, OK)],
            "the request was cut off",
        ),
        (
            [(CLIENT, b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nab"), (ORIGIN, OK), (ORIGIN, BAD)],
            "the request was cut off",
        ),
    ],
)
def test_cut_off(conversation: Conversation, error: str) -> None:
    assert [exchange.error for exchange in whole_and_in_pieces(conversation).done] == [error]
    assert [exchange.error for exchange in whole_and_in_pieces(conversation, error="reset").done] == ["reset"]


def test_a_response_before_the_request_is_complete() -> None:
    put = b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n"
    early = [(CLIENT, put + b"ab"), (ORIGIN, OK), (CLIENT, b"cd" + GET), (ORIGIN, OK)]
    seen = whole_and_in_pieces(early)
    assert [(e.method, e.request_octets, e.status, e.error) for e in seen.done] == [
        ("PUT", 4, 200, None),
        ("GET", 0, 200, None),
    ]


def test_expect_100_continue() -> None:
    put = b"PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n"
    seen = whole_and_in_pieces(
        [(CLIENT, put), (ORIGIN, b"HTTP/1.1 100 Continue\r\n\r\n"), (CLIENT, b"abcd"), (ORIGIN, OK)]
    )
    assert [(kept(e.request_body), e.status) for e in seen.done] == [(b"abcd", 200)]


UPGRADE = b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"


def test_an_upgrade_is_noted_once_and_then_ignored() -> None:
    seen = whole_and_in_pieces(
        [(CLIENT, GET), (ORIGIN, OK), (CLIENT, UPGRADE), (ORIGIN, SWITCH + b"\x81\0"), (CLIENT, b"\x81\0")]
    )
    assert [(e.status, e.upgrade, e.error) for e in seen.done] == [(200, None, None), (101, "websocket", None)]
    assert seen.notes == ["upgraded to websocket"]


@pytest.mark.parametrize("strict", [False, True])
def test_what_comes_with_the_agreement_to_an_upgrade_answers_no_request_and_needs_none(strict: bool) -> None:
    decoder = Http1(Seen().recorder(), strict)
    play(decoder, [(CLIENT, UPGRADE), (ORIGIN, SWITCH + b"\x81\0")])
    assert decoder.unasked == 0


def test_what_answers_no_request_is_counted() -> None:
    decoder = Http1(Seen().recorder())
    play(decoder, [(CLIENT, GET), (ORIGIN, OK + BAD)])
    assert decoder.unasked == len(BAD)


def test_an_upgrade_that_does_not_say_to_what() -> None:
    assert watch([(CLIENT, UPGRADE), (ORIGIN, b"HTTP/1.1 101 Odd\r\n\r\n")]).notes == ["upgraded to another protocol"]


def test_as_many_requests_as_may_wait_are_seen() -> None:
    seen = watch([(CLIENT, GET * MAX_WAITING)])
    assert (len(seen.begun), seen.notes) == (MAX_WAITING, [])
    seen = watch([(CLIENT, GET * (MAX_WAITING + 1))])
    assert (len(seen.begun), len(seen.notes)) == (MAX_WAITING, 1)


def test_an_upgrade_that_is_refused() -> None:
    seen = whole_and_in_pieces([(CLIENT, UPGRADE), (ORIGIN, OK), (CLIENT, GET), (ORIGIN, OK)])
    assert [(e.status, e.upgrade) for e in seen.done] == [(200, None), (200, None)]
    assert not seen.notes


def test_a_connect_inside() -> None:
    connect = b"CONNECT b:1 HTTP/1.1\r\nHost: b:1\r\n\r\n"
    seen = whole_and_in_pieces([(CLIENT, connect), (ORIGIN, b"HTTP/1.1 200 OK\r\n\r\n\x16\3\1"), (CLIENT, b"\x16\3")])
    assert [(e.url, e.status, e.error) for e in seen.done] == [("b:1", 200, None)]
    assert seen.notes == ["a CONNECT inside the tunnel"]
    for status in (b"300 Multiple Choices", b"403 No"):
        refused = OK.replace(b"200 OK", status)
        assert not whole_and_in_pieces([(CLIENT, connect), (ORIGIN, refused), (CLIENT, GET), (ORIGIN, OK)]).notes


@pytest.mark.parametrize(
    ("conversation", "note"),
    [
        ([(CLIENT, b"\x16\3\1\2\0\r\n\r\n")], "malformed request head"),
        ([(CLIENT, b"GET / HTTP/1.1\r\n\r\n")], "malformed request head"),
        ([(CLIENT, b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n")], "malformed request head"),
        ([(CLIENT, b"GET / HTTP/1.1\r\nHost: a\r\nPassword : secret\r\n\r\n")], "malformed request head"),
        ([(CLIENT, b"x" * (MAX_HEAD + 1))], f"malformed request: a head larger than {MAX_HEAD} octets"),
        ([(CLIENT, b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n")],
         "malformed request: a malformed chunk size"),
        ([(CLIENT, GET * (MAX_WAITING + 1))],
         f"malformed request: more than {MAX_WAITING} requests without a response"),
        ([(CLIENT, b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n")],
         "malformed request: its body is framed in two ways"),
        ([(CLIENT, b"PUT / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")],
         "malformed request: its body is framed in two ways"),
        ([(CLIENT, GET), (ORIGIN, b"HTTP/1.1 101 Other\r\nUpgrade: a\r\n\r\n")],
         "malformed response: an upgrade that was not asked for"),
        ([(ORIGIN, OK)], "malformed response: a response without a request"),
        ([(CLIENT, GET), (ORIGIN, OK * 2)], "malformed response: a response without a request"),
        ([(CLIENT, GET), (ORIGIN, b"ICY 200 OK\r\n\r\n")], "malformed response head"),
        ([(CLIENT, GET), (ORIGIN, b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n")],
         "malformed response head"),
    ],
)  # fmt: skip
def test_malformed_is_noted_once_and_then_ignored(conversation: Conversation, note: str) -> None:
    seen = whole_and_in_pieces([*conversation, (CLIENT, GET), (ORIGIN, OK)])
    assert seen.notes == [note]
    assert all(exchange.error == note for exchange in seen.done if exchange.status is None)


@pytest.mark.parametrize(
    ("target", "authority"),
    [
        ("https://b.example/x", "b.example"),
        ("HTTPS://b.example:444?y", "b.example:444"),
        ("b.example:444", "b.example:444"),
        ("/https://b.example/", "a.example"),
        ("*", "a.example"),
    ],
)
def test_the_authority_of_a_target_counts_before_host(target: str, authority: str) -> None:
    """RFC 9112 §3.2.2."""
    seen = watch([(CLIENT, GET.replace(b"/x", target.encode())), (ORIGIN, OK)])
    assert [exchange.authority for exchange in seen.done] == [authority]


@pytest.mark.parametrize(
    "request_",
    [
        b"GET / HTTP/1.1\nHost: a\n\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b: c\r\n\r\n",
        b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2;\nhi\r\n0\r\n\r\n",
        b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\n0\r\n\r\n",
        b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\na: b\n\r\n",
        b"GET https://a/ HTTP/1.1\r\nHost: b\r\n\r\n",
        b"GET https://a/ HTTP/1.1\r\nHost:\r\n\r\n",
        b"GET x-y://a.example/admin HTTP/1.1\r\nHost: a.example\r\n\r\n",
        b"GET http://a.example/admin HTTP/1.1\r\nHost: a.example\r\n\r\n",
        b"GET https:/admin HTTP/1.1\r\nHost: https:\r\n\r\n",
        b"GET admin HTTP/1.1\r\nHost: admin\r\n\r\n",
        b"GET /admin#x HTTP/1.1\r\nHost: a.example\r\n\r\n",
        b"POST / HTTP/1.2\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n9 ;/x HTTP/1.1\r\nHost: b\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n100000001\r\nx\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n080000000\r\n",
        b"GET / HTTP/0.9\r\nHost: a\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551617\r\n\r\nxGET / HTTP/1.1\r\nHost: b\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000000000000\r\n\r\n",
        b"GET / HTTP/2.0\r\nHost: a\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA: b\r\nGET /x?: HTTP/1.1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA: b\r\n c: d\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA: b\rc: d\r\n\r\n",
    ],
)
def test_what_others_may_read_otherwise_is_malformed_where_it_counts(request_: bytes) -> None:
    for strict in (False, True):
        seen = Seen()
        play(Http1(seen.recorder(), strict), [(CLIENT, request_), (ORIGIN, OK)], 3)
        assert [note.startswith("malformed request: ") for note in seen.notes] == [True] * strict


def test_the_greatest_length_that_everyone_can_count_is_well_formed_where_it_counts() -> None:
    seen = Seen()
    decoder = Http1(seen.recorder(), strict=True)
    play(decoder, [(CLIENT, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 999999999999999999\r\n\r\n")])
    assert (decoder.ahead(sent=True), seen.notes) == (999999999999999999, [])


@pytest.mark.parametrize("target", ["https://a.example/x", "HTTPS://A.example:443/x"])
def test_a_target_whose_authority_is_the_host_is_well_formed_where_it_counts(target: str) -> None:
    seen = Seen()
    play(Http1(seen.recorder(), strict=True), [(CLIENT, GET.replace(b"/x", target.encode())), (ORIGIN, OK)], 3)
    assert ([exchange.status for exchange in seen.done], seen.notes) == ([200], [])


@pytest.mark.parametrize("protocol", [b"h2c", b"HTTP/2.0", b"TLS/1.0"])
def test_an_upgrade_to_http_is_refused_where_requests_count(protocol: bytes) -> None:
    for strict in (False, True):
        seen = Seen()
        said = [(CLIENT, UPGRADE), (ORIGIN, SWITCH), (CLIENT, b"\0\1\2")]
        play(Http1(seen.recorder(), strict), [(who, data.replace(b"websocket", protocol)) for who, data in said], 3)
        what = "malformed response: an upgrade to HTTP, whose" if strict else f"upgraded to {protocol.decode()}"
        assert [note.startswith(what) for note in seen.notes] == [True]
        assert [exchange.upgrade for exchange in seen.done] == [None if strict else protocol.decode()]


@pytest.mark.parametrize("more", [0, 1])
def test_interim_responses_without_end(more: int) -> None:
    interim = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * MAX_INTERIM
    seen = watch(
        [(CLIENT, GET * 2), (ORIGIN, interim + OK + interim + interim[: len(interim) // MAX_INTERIM * more] + OK)]
    )
    assert [exchange.error is None for exchange in seen.done] == [True, not more]
    assert seen.notes == ["malformed response: more than 100 interim responses"] * more


def test_white_space_before_a_colon_in_a_response() -> None:
    """RFC 9112 §5.1. Where a field decides what follows, recipients disagree on whether it counts."""
    spaced = OK.replace(b"\r\n", b"\r\nServer : x\r\nX-A\t: b : c\r\n", 1)
    seen = whole_and_in_pieces([(CLIENT, GET), (ORIGIN, spaced), (CLIENT, GET), (ORIGIN, OK)])
    assert seen.done[0].response_fields == [(b"Server", b"x"), (b"X-A", b"b : c"), (b"Content-Length", b"2")]
    assert [exchange.error for exchange in seen.done] == [None, None]
    bare = OK.replace(b"Content-Length: 2\r\n", b"")
    for field in (b"content-length : 2", b"Transfer-Encoding : chunked", b"Connection : close", b"UPGRADE : x"):
        seen = whole_and_in_pieces([(CLIENT, GET), (ORIGIN, bare.replace(b"\r\n", b"\r\n%b\r\n" % field, 1))])
        assert seen.notes == ["malformed response head"]


def test_bodies_are_not_kept_unless_asked_for() -> None:
    [exchange] = watch([(CLIENT, GET), (ORIGIN, OK)], limit=None).done
    assert (kept(exchange.request_body), kept(exchange.response_body), exchange.response_octets) == (None, None, 2)
    [exchange] = watch([(CLIENT, GET), (ORIGIN, OK)], limit=1).done
    assert (kept(exchange.response_body), exchange.response_octets) == (b"h", 2)


def test_a_large_body_is_counted() -> None:
    seen = Seen()
    decoder = Http1(seen.recorder())
    decoder.sent(GET)
    decoder.received(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (16_384 * 50_000))
    piece = bytes(16_384)
    for _ in range(50_000):
        decoder.received(piece)
    assert [e.response_octets for e in seen.done] == [16_384 * 50_000]


# Against a client and a server of h11


TEXT = st.text("abcXYZ09-_", min_size=1, max_size=10)
BODY = st.one_of(st.none(), st.tuples(st.booleans(), st.lists(st.binary(min_size=1, max_size=40), max_size=4)))
EXCHANGES = st.lists(
    st.fixed_dictionaries(
        {
            "method": st.sampled_from(["GET", "HEAD", "POST", "DELETE"]),
            "path": TEXT,
            "upload": BODY,
            "interim": st.lists(st.sampled_from([100, 102, 103]), max_size=2),
            "status": st.sampled_from([200, 204, 304, 404]),
            "download": BODY,
            "field": TEXT,
        }
    ),
    min_size=1,
    max_size=4,
)


def framing(body: tuple[bool, list[bytes]] | None) -> list[tuple[str, str]]:
    if body is None:
        return [("Content-Length", "0")]
    chunked, pieces = body
    return [("Transfer-Encoding", "chunked")] if chunked else [("Content-Length", str(sum(map(len, pieces))))]


def say(end: h11.Connection, *events: h11.Event) -> bytes:
    return b"".join(end.send(event) or b"" for event in events)


def converse(plan: list[dict]) -> tuple[Conversation, list[tuple]]:  # type: ignore[type-arg]
    """What a real h11 client and server send for a plan, and what should be seen of it."""
    client, server = h11.Connection(h11.CLIENT), h11.Connection(h11.SERVER)
    said, expected = [], []
    for turn in plan:
        bodies = [b"".join(turn[way][1]) if turn[way] else b"" for way in ("upload", "download")]
        request = h11.Request(
            method=turn["method"], target="/" + turn["path"], headers=[("Host", "a.example"), *framing(turn["upload"])]
        )
        pieces = [h11.Data(data=piece) for piece in (turn["upload"] or (0, []))[1]]
        data = say(client, request, *pieces, h11.EndOfMessage())
        said.append((CLIENT, data))
        server.receive_data(data)
        while type(server.next_event()) is not h11.EndOfMessage:
            pass
        interim = [h11.InformationalResponse(status_code=code, headers=[]) for code in turn["interim"]]
        head = h11.Response(
            status_code=turn["status"], headers=[("X-Field", turn["field"]), *framing(turn["download"])]
        )
        empty = turn["method"] == "HEAD" or turn["status"] in (204, 304)
        pieces = [] if empty else [h11.Data(data=piece) for piece in (turn["download"] or (0, []))[1]]
        data = say(server, *interim, head, *pieces, h11.EndOfMessage())
        said.append((ORIGIN, data))
        client.receive_data(data)
        while type(client.next_event()) is not h11.EndOfMessage:
            pass
        client.start_next_cycle()
        server.start_next_cycle()
        expected.append((turn["method"], "/" + turn["path"], bodies[0], turn["status"], b"" if empty else bodies[1]))
    return said, expected


@given(EXCHANGES, st.data())
@settings(max_examples=150)
def test_what_two_real_ends_say_is_seen_whatever_the_segments(plan: list[dict], data: st.DataObject) -> None:  # type: ignore[type-arg]
    said, expected = converse(plan)
    seen = watch(said, limit=1000)
    found = [(e.method, e.target, kept(e.request_body), e.status, kept(e.response_body)) for e in seen.done]
    assert found == expected
    assert not seen.notes
    assert all(exchange.error is None for exchange in seen.done)
    cut = [
        (who, piece)
        for who, octets in said
        for piece in pieces_of(octets, data.draw(st.lists(st.integers(0, len(octets)), max_size=6)))
    ]
    assert summary(watch(cut, limit=1000)) == summary(seen)
    assert summary(watch(said, 1, limit=1000)) == summary(seen)


def pieces_of(octets: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({0, len(octets), *cuts})
    return [octets[a:b] for a, b in pairwise(edges)]


@given(st.lists(st.tuples(st.sampled_from([CLIENT, ORIGIN]), st.one_of(
    st.binary(max_size=60),
    st.sampled_from([GET, OK, UPGRADE, SWITCH, b"\r\n\r\n", b"HTTP/1.1 ", b"Content-Length: 5\r\n", b"5\r\n",
                     b"0\r\n\r\n",
                     b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", b"HTTP/1.1 100 x\r\n\r\n"]),
)), max_size=12))  # fmt: skip
@settings(max_examples=300)
def test_garbage_never_raises_and_is_the_same_whatever_the_segments(said: Conversation) -> None:
    seen = watch(said)
    again = watch(said, 1)
    assert summary(again) == summary(seen)
    assert again.notes == seen.notes


@pytest.mark.parametrize("target", [b"/", b"b.example:443"])
def test_a_connect_is_malformed_where_it_counts(target: bytes) -> None:
    """An origin may treat it as an ordinary request, which opens no tunnel."""
    for strict in (False, True):
        seen = Seen()
        play(Http1(seen.recorder(), strict), [(CLIENT, b"CONNECT %b HTTP/1.1\r\nHost: b.example\r\n\r\n" % target)])
        assert seen.notes == ["malformed request: a CONNECT inside the tunnel"] * strict


@pytest.mark.parametrize(
    ("asks", "says"),
    [
        (b"Upgrade: x\r\nConnection: upgrade\r\n", b"X: y\r\n"),
        (b"Upgrade: x\r\nConnection: upgrade\r\n", b"Upgrade: x\r\n"),
        (b"Upgrade: x\r\nConnection: upgrade\r\n", b"Connection: upgrade\r\n"),
        (b"Upgrade: x\r\nConnection: upgrade\r\n", b"Upgrade: y\r\nConnection: upgrade\r\n"),
        (b"Upgrade: x\r\n", b"Upgrade: x\r\nConnection: upgrade\r\n"),
    ],
)
def test_a_101_that_is_no_upgrade(asks: bytes, says: bytes) -> None:
    """Only the application sent that status; its server goes on reading HTTP."""
    request = b"GET / HTTP/1.1\r\nHost: a.example\r\n" + asks + b"\r\n"
    for strict in (False, True):
        seen = Seen()
        said = [(CLIENT, request), (ORIGIN, b"HTTP/1.1 101 Switching Protocols\r\n" + says + b"\r\n")]
        play(Http1(seen.recorder(), strict), said, 7)
        (note,) = seen.notes
        assert note.startswith("malformed response") == strict or (not says.startswith(b"U") and b"on" not in says)
