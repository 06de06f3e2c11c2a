import time
from functools import partial
from itertools import pairwise

import hpack
import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.settings import SettingCodes
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PriorityFrame,
    PushPromiseFrame,
    RstStreamFrame,
    SettingsFrame,
)  # fmt: skip
from hypothesis import given, settings
from hypothesis import strategies as st
from watching import CLIENT, ORIGIN, Conversation, Seen, kept, play, summary, watched, watched_in_pieces

from exchange import MAX_FIELDS
from headerblocks import MAX_LIST, MAX_TABLE
from http2 import PREFACE, Http2
from openstreams import MAX_STREAMS
from recorder import FIELD, LITTLE_HELD, MAX_HELD, NO_ROOM

Pairs = list[tuple[str, str]]

ASK: Pairs = [(":method", "GET"), (":scheme", "https"), (":authority", "a.example"), (":path", "/x"), ("accept", "*/*")]
ANSWER: Pairs = [(":status", "200"), ("content-type", "text/plain")]


class Pair:
    """A client and a server of the h2 library, and all that they send to each other."""

    def __init__(self) -> None:
        self.said: Conversation = []
        self.client = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        self.server = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        self.client.initiate_connection()
        self.server.initiate_connection()
        self.settle()

    def settle(self) -> None:
        while True:
            for who, end, other in ((CLIENT, self.client, self.server), (ORIGIN, self.server, self.client)):
                if data := end.data_to_send():
                    self.said.append((who, data))
                    other.receive_data(data)
                    break
            else:
                return

    def ask(self, headers: Pairs = ASK, body: bytes | None = None, trailers: Pairs | None = None) -> int:
        stream = self.client.get_next_available_stream_id()
        self._say(self.client, stream, headers, body, trailers)
        return stream

    def answer(
        self, stream: int, headers: Pairs = ANSWER, body: bytes | None = b"", trailers: Pairs | None = None
    ) -> None:
        self._say(self.server, stream, headers, body, trailers)

    def _say(self, end: H2Connection, stream: int, headers: Pairs, body: bytes | None, trailers: Pairs | None) -> None:
        end.send_headers(stream, headers, end_stream=body is None)
        if body is not None:
            for start in range(0, len(body), 10):
                end.send_data(stream, body[start : start + 10], pad_length=start % 3 or None)
            if trailers is None:
                end.end_stream(stream)
            else:
                end.send_headers(stream, trailers, end_stream=True)
        self.settle()


watch = partial(watched, Http2)
whole_and_in_pieces = partial(watched_in_pieces, Http2)


def test_one_exchange() -> None:
    pair = Pair()
    pair.answer(pair.ask(), [*ANSWER, ("x", "y")], b"hello")
    seen = whole_and_in_pieces(pair.said)
    [exchange] = seen.done
    assert (exchange.method, exchange.url, exchange.version) == ("GET", "https://a.example/x", "2")
    assert exchange.request_fields == [(b"accept", b"*/*")]
    assert (exchange.status, exchange.reason, exchange.content_type) == (200, "", "text/plain")
    assert exchange.response_fields == [(b"content-type", b"text/plain"), (b"x", b"y")]
    assert (exchange.request_octets, exchange.response_octets, kept(exchange.response_body)) == (0, 5, b"hello")
    assert exchange.error is None
    assert not seen.notes


def test_streams_side_by_side_and_bodies_both_ways() -> None:
    pair = Pair()
    streams = [pair.ask([*ASK[:3], (":path", f"/{n}")], b"u" * n) for n in range(5)]
    for n, stream in reversed(list(enumerate(streams))):
        pair.answer(stream, body=b"d" * n * 30)
    seen = whole_and_in_pieces(pair.said)
    assert [(e.target, e.request_octets, e.response_octets) for e in seen.done] == [
        (f"/{n}", n, n * 30) for n in (4, 3, 2, 1, 0)
    ]


def test_interim_responses_and_no_body() -> None:
    pair = Pair()
    stream = pair.ask()
    for status in ("100", "103"):
        pair.server.send_headers(stream, [(":status", status)])
    pair.answer(stream, [(":status", "204")], None)
    [exchange] = whole_and_in_pieces(pair.said).done
    assert (exchange.status, exchange.response_octets) == (204, 0)


def test_grpc_with_trailers_both_ways() -> None:
    pair = Pair()
    ask = [*ASK[1:], ("content-type", "application/grpc"), ("te", "trailers")]
    stream = pair.ask([(":method", "POST"), *ask], b"\0\0\0\0\2ab", [("x-up", "1")])
    pair.answer(
        stream, [(":status", "200"), ("content-type", "application/grpc")], b"\0\0\0\0\1c", [("grpc-status", "0")]
    )
    only_trailers = pair.ask([(":method", "POST"), *ask], b"")
    pair.answer(only_trailers, [(":status", "200"), ("content-type", "application/grpc"), ("grpc-status", "5")], None)
    first, second = whole_and_in_pieces(pair.said).done
    assert (first.request_octets, first.response_octets) == (7, 6)
    assert first.trailers == [(b"grpc-status", b"0")]
    assert (second.trailers, second.response_fields[1]) == ([], (b"grpc-status", b"5"))


def test_a_response_before_the_request_is_complete() -> None:
    pair = Pair()
    stream = pair.client.get_next_available_stream_id()
    pair.client.send_headers(stream, ASK)
    pair.settle()
    pair.answer(stream)
    seen = Seen()
    decoder = Http2(seen.recorder())
    play(decoder, pair.said)
    assert seen.done == []
    reset = RstStreamFrame(stream, error_code=0).serialize()
    decoder.received(reset)
    assert [(e.status, e.error) for e in seen.done] == [(200, None)]
    assert whole_and_in_pieces(pair.said).done[0].error == "the request was cut off"
    cancelled = whole_and_in_pieces([*pair.said, (CLIENT, RstStreamFrame(stream, error_code=8).serialize())])
    assert cancelled.done[0].error == "reset by the client: CANCEL"


@pytest.mark.parametrize(
    ("code", "length", "error"),
    [
        (0, "5", None),  # as Node.js ends some of its responses
        (0, "6", "reset by the origin: NO_ERROR"),
        (0, "", "reset by the origin: NO_ERROR"),
        (2, "5", "reset by the origin: INTERNAL_ERROR"),
        (13, "5", "reset by the origin: HTTP_1_1_REQUIRED"),
        (14, "5", "reset by the origin: 14"),  # the first without a name
        (1 << 31, "5", "reset by the origin: 2147483648"),  # an error code has 32 bits, a stream identifier only 31
    ],
)
def test_a_reset_in_place_of_the_end(code: int, length: str, error: str | None) -> None:
    pair = Pair()
    stream = pair.ask(body=None)
    pair.server.send_headers(stream, [*ANSWER, *([("content-length", length)] if length else [])])
    pair.server.send_data(stream, b"whole")
    pair.server.reset_stream(stream, code)
    pair.settle()
    (exchange,) = whole_and_in_pieces(pair.said).done
    assert (exchange.status, exchange.response_octets, exchange.error) == (200, 5, error)


@pytest.mark.parametrize(
    ("method", "status", "length", "error"),
    [
        ("GET", "200", "5", None),
        ("GET", "200", "005", None),
        ("GET", "200", "6", "a response with a body of another length than was declared"),
        ("GET", "200", "4", "a response with a body of another length than was declared"),
        ("HEAD", "200", "6", None),
        ("GET", "304", "6", None),
    ],
)
def test_a_response_has_the_length_that_it_declares(method: str, status: str, length: str, error: str | None) -> None:
    body = [] if method == "HEAD" or status == "304" else [DataFrame(1, b"whole")]
    head = HeadersFrame(1, block([(":status", status), ("content-length", length)]), flags=["END_HEADERS"])
    end = DataFrame(1, b"", flags=["END_STREAM"])
    said = [(CLIENT, PREFACE + wire(asked(1, [(":method", method), *ASK[1:]]))), (ORIGIN, wire(head, *body, end))]
    (exchange,) = whole_and_in_pieces(said).done
    assert (exchange.status, exchange.error) == (int(status), error)


def test_resets_and_what_is_cut_off() -> None:
    pair = Pair()
    streams = [pair.ask() for _ in range(4)]
    pair.client.reset_stream(streams[0], 8)
    pair.server.reset_stream(streams[1], 7)
    pair.server.send_headers(streams[2], ANSWER)
    pair.settle()
    pair.server.reset_stream(streams[2], 99)
    pair.server.send_headers(streams[3], ANSWER)
    pair.settle()
    seen = whole_and_in_pieces(pair.said)
    assert [exchange.error for exchange in seen.done] == [
        "reset by the client: CANCEL",
        "reset by the origin: REFUSED_STREAM",
        "reset by the origin: 99",
        "the response was cut off",
    ]
    assert whole_and_in_pieces(pair.said, error="origin-reset").done[3].error == "origin-reset"


def test_goaway_ends_what_the_origin_will_not_do() -> None:
    pair = Pair()
    first, second = pair.ask(), pair.ask()
    goaway = (ORIGIN, GoAwayFrame(0, last_stream_id=first, error_code=0, additional_data=b"bye").serialize())
    pair.said.append(goaway)
    pair.answer(first)
    seen = whole_and_in_pieces(pair.said)
    assert second > first
    assert [exchange.error for exchange in seen.done] == ["the origin goes away: NO_ERROR", None]


def test_goaway_ends_only_what_its_receiver_asked_for() -> None:
    """RFC 9113 §6.8: not what the origin pushes, and nothing if it is the client that goes away."""
    promise = wire(PushPromiseFrame(1, 2, block(ASK), flags=["END_HEADERS"]))
    went = wire(GoAwayFrame(0, last_stream_id=0, error_code=0))
    last = wire(GoAwayFrame(0, last_stream_id=1, error_code=0)).replace(b"\0\0\0\1", b"\x80\0\0\1")  # a reserved bit
    answers = wire(*[HeadersFrame(n, block(ANSWER), flags=["END_HEADERS", "END_STREAM"]) for n in (1, 2)])
    said = [(CLIENT, PREFACE + wire(asked(1))), (ORIGIN, promise), (CLIENT, went), (ORIGIN, last + answers)]
    assert [(e.pushed, e.error) for e in whole_and_in_pieces(said).done] == [(False, None), (True, None)]
    said = [(CLIENT, PREFACE + wire(asked(1), asked(3))), (ORIGIN, last)]
    assert [e.error for e in whole_and_in_pieces(said).done] == ["the origin goes away: NO_ERROR", "no response"]


def test_the_times_of_an_exchange() -> None:
    """The first octet of a response's HEADERS counts, not that of an interim one, nor of a CONTINUATION."""
    decoder, marks = Http2((seen := Seen()).recorder()), []
    head = wire(HeadersFrame(1, block(ANSWER)[:1]), ContinuationFrame(1, block(ANSWER)[1:], flags=["END_HEADERS"]))
    for say, data in (
        (decoder.sent, PREFACE + wire(HeadersFrame(1, block(ASK), flags=["END_HEADERS"]))),
        (decoder.sent, wire(DataFrame(1, b"x", flags=["END_STREAM"]))),
        (decoder.received, wire(HeadersFrame(1, block([(":status", "103")]), flags=["END_HEADERS"]))),
        (decoder.received, head[:10]),
        (decoder.received, head[10:]),
        (decoder.received, wire(DataFrame(1, b"y", flags=["END_STREAM"]))),
    ):
        marks.append(time.monotonic())
        say(data)
    [post] = seen.done
    assert post.request_ended is not None
    assert post.first_byte is not None
    assert post.ended is not None
    assert marks[0] <= post.began <= marks[1] <= post.request_ended <= marks[2]
    assert marks[3] <= post.first_byte <= marks[4] < marks[5] <= post.ended


def test_a_continuation_does_not_end_a_request() -> None:
    """It has no END_STREAM (RFC 9113 §6.10): what follows is the request's body."""
    ask = wire(HeadersFrame(1, b""), ContinuationFrame(1, block(ASK), flags=["END_HEADERS"])).replace(
        b"\x09\x04", b"\x09\x05"
    )
    answer = wire(HeadersFrame(1, block(ANSWER), flags=["END_HEADERS", "END_STREAM"]))
    seen = watch([(CLIENT, PREFACE + ask), (ORIGIN, answer), (CLIENT, wire(DataFrame(1, b"x", flags=["END_STREAM"])))])
    assert [(e.request_octets, e.error) for e in seen.done] == [(1, None)]


def test_push() -> None:
    pair = Pair()
    stream = pair.ask()
    pair.server.push_stream(stream, 2, [*ASK[:3], (":path", "/pushed")])
    pair.answer(stream)
    pair.answer(2, body=b"pushed")
    seen = whole_and_in_pieces(pair.said)
    assert [(e.target, e.pushed, e.response_octets) for e in seen.done] == [("/x", False, 0), ("/pushed", True, 6)]


@pytest.mark.parametrize(
    ("first", "later", "pushed"),
    [({2: 0}, None, False), ({2: 0}, {2: 1}, True), ({2: 1}, {2: 0}, True), ({1: 0}, None, True)],
)
def test_a_promise_to_a_client_that_takes_none_is_no_request(
    first: dict[int, int], later: dict[int, int] | None, pushed: bool
) -> None:
    """RFC 9113 §6.6. Otherwise an origin could have any request logged as the client's."""
    seen = Seen()
    said = [PREFACE, wire(SettingsFrame(0, settings=first)), wire(HeadersFrame(1, block(ASK), flags=["END_HEADERS"]))]
    if later is not None:
        said.append(wire(SettingsFrame(0, settings=later)))
    promise = wire(PushPromiseFrame(1, 2, block(ASK), flags=["END_HEADERS"]))
    play(Http2(seen.recorder()), [(CLIENT, b"".join(said)), (ORIGIN, promise)])
    assert [exchange.pushed for exchange in seen.begun] == [False] + [True] * pushed
    assert seen.notes == ["malformed HTTP/2 from the origin: a promise"] * (not pushed)


def test_websocket_by_extended_connect() -> None:
    pair = Pair()
    pair.server.update_settings({SettingCodes.ENABLE_CONNECT_PROTOCOL: 1})
    pair.settle()
    connect = [(":method", "CONNECT"), (":protocol", "websocket"), *ASK[1:4]]
    refused = pair.ask(connect, b"")
    pair.answer(refused, [(":status", "403")])
    stream = pair.client.get_next_available_stream_id()
    pair.client.send_headers(stream, connect)
    pair.settle()
    pair.server.send_headers(stream, ANSWER)
    pair.settle()
    pair.client.send_data(stream, b"\x81\0")
    pair.settle()
    seen = Seen()
    decoder = Http2(seen.recorder())
    play(decoder, pair.said)
    assert [(e.url, e.status, e.upgrade, e.request_octets) for e in seen.done] == [
        ("https://a.example/x", 403, None, 0),
        ("https://a.example/x", 200, "websocket", 0),
    ]
    assert decoder.watching


def test_a_websocket_that_is_never_agreed_to_is_not_told_to_go_on() -> None:
    ask = HeadersFrame(1, block([(":method", "CONNECT"), (":protocol", "websocket"), *ASK[1:4]]), flags=["END_HEADERS"])
    seen = watch([(CLIENT, PREFACE + wire(ask)), (ORIGIN, wire(RstStreamFrame(1, error_code=7)))])
    assert [(e.upgrade, e.error) for e in seen.done] == [(None, "reset by the origin: REFUSED_STREAM")]


@pytest.mark.parametrize("sizes", [[0], [100], [0, 4096], [65_536], [65_536, 0, 200]])
def test_header_tables_follow_the_settings_of_the_other_side(sizes: list[int]) -> None:
    pair = Pair()
    for count, size in enumerate([4096, *sizes]):
        for end in (pair.client, pair.server):
            if count:
                end.update_settings({SettingCodes.HEADER_TABLE_SIZE: size})
        for n in range(8):  # in flight together with the SETTINGS, then after their ACK
            stream = pair.ask([*ASK, (f"x-{n}", "v" * 60), ("y", str(size))])
            pair.answer(stream, [*ANSWER, (f"z-{n}", "w" * 60)])
    seen = whole_and_in_pieces(pair.said)
    assert not seen.notes
    assert [e.request_fields[-1] for e in seen.done] == [
        (b"y", str(size).encode()) for size in [4096, *sizes] for _ in range(8)
    ]


def block(pairs: Pairs, encoder: hpack.Encoder | None = None) -> bytes:
    return (encoder or hpack.Encoder()).encode(pairs)


def wire(*frames: Frame) -> bytes:
    return b"".join(frame.serialize() for frame in frames)


def asked(stream: int = 1, fields: Pairs = ASK) -> HeadersFrame:
    return HeadersFrame(stream, block(fields), flags=["END_HEADERS", "END_STREAM"])


@pytest.mark.parametrize("size", [8192, MAX_TABLE, MAX_TABLE + 1])
def test_a_larger_table_is_used_only_if_it_was_allowed_and_not_too_large(size: int) -> None:
    encoder = hpack.Encoder()
    encoder.header_table_size = size
    headers = wire(HeadersFrame(1, block(ASK, encoder), flags=["END_HEADERS", "END_STREAM"]))
    assert watch([(CLIENT, PREFACE + headers)]).notes == [
        "malformed HTTP/2 from the client: a header block that can't be decoded"
    ]
    allowed = wire(SettingsFrame(0, {1: size}))
    assert bool(watch([(CLIENT, PREFACE), (ORIGIN, allowed), (CLIENT, headers)]).notes) == (size > MAX_TABLE)
    assert watch([(CLIENT, PREFACE + allowed + headers)]).notes  # that setting is for the origin's encoder


def test_a_table_may_change_its_size_several_times_before_a_block() -> None:
    ask = wire(HeadersFrame(1, b"\x20\x3f\xe1\x1f" * 49 + block(ASK), flags=["END_HEADERS", "END_STREAM"]))
    assert [exchange.url for exchange in watch([(CLIENT, PREFACE + ask)]).done] == ["https://a.example/x"]


def test_padding_priority_and_continuations() -> None:
    data = block(ASK)
    ask = wire(
        SettingsFrame(0), PriorityFrame(1, depends_on=3),
        HeadersFrame(1, data[:3], flags=["PADDED", "PRIORITY", "END_STREAM"], pad_length=7, stream_weight=9),
        ContinuationFrame(1, data[3:5]), ContinuationFrame(1, data[5:], flags=["END_HEADERS"]),
    )  # fmt: skip
    answer = wire(
        HeadersFrame(1, block(ANSWER), flags=["END_HEADERS"]),
        DataFrame(1, b"ab", flags=["PADDED"], pad_length=200),
        DataFrame(1, b"c", flags=["PADDED", "END_STREAM"]),
    )
    [exchange] = whole_and_in_pieces([(CLIENT, PREFACE + ask), (ORIGIN, answer)]).done
    assert (exchange.url, kept(exchange.response_body), exchange.error) == ("https://a.example/x", b"abc", None)


@pytest.mark.parametrize(
    ("asks", "url"),
    [
        ([*ASK[:3], (":path", "https://b.example/x")], "https://a.example/https://b.example/x"),
        ([*ASK[:3], (":path", "")], "https://a.example/"),
        (ASK[:3], "https://a.example/"),
        ([(":method", "CONNECT"), (":authority", "b.example:1")], "b.example:1"),
    ],
)
def test_only_the_authority_names_one(asks: Pairs, url: str) -> None:
    ask = wire(HeadersFrame(1, block(asks), flags=["END_HEADERS", "END_STREAM"]))
    assert [exchange.url for exchange in watch([(CLIENT, PREFACE + ask)]).done] == [url]


@pytest.mark.parametrize(
    ("client", "origin", "note"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", b"", "the client: no HTTP/2 preface"),
        (PREFACE + wire(HeadersFrame(1, b"\xff\xff\xff\xff\xff\xff\xff", flags=["END_HEADERS"])), b"",
         "the client: a header block that can't be decoded"),
        (PREFACE + wire(HeadersFrame(1, b"\x82" * (MAX_LIST // 30), flags=["END_HEADERS"])), b"",
         "the client: a header block that decodes to more than 65536 octets"),
        (PREFACE + wire(HeadersFrame(1, b"\x20\x3f\xe1\x1f" * 50 + block(ASK), flags=["END_HEADERS"])), b"",
         "the client: a header block that changes the table's size without end"),
        (PREFACE, wire(ContinuationFrame(1, b"")), "the origin: a continuation of nothing"),
        (PREFACE + wire(PushPromiseFrame(1, 2, block(ASK), flags=["END_HEADERS"])), b"", "the client: a promise"),
        (PREFACE, wire(*[PushPromiseFrame(1, 2, b"\x82", flags=["END_HEADERS"])] * 2),
         "the origin: a stream is opened twice"),
        (PREFACE + wire(asked(9), asked(3)), b"", "the client: a request on a stream that is not new"),
        (PREFACE + wire(asked(1)).replace(b"\0\0\0\1", bytes(4), 1), b"",
         "the client: a request on a stream that is not new"),
        (PREFACE + wire(HeadersFrame(1, block(ASK), flags=["END_HEADERS"]), asked(1)), b"",
         "the client: a request on a stream that is not new"),
        (PREFACE, b"\0\0\5\4\0\0\0\0\0abcde", "the origin: malformed SETTINGS"),
        (PREFACE + wire(HeadersFrame(1, block([*ASK[:4], (":path", "/y")]), flags=["END_HEADERS"])), b"",
         "the client: a pseudo-field twice, or behind others"),
        (PREFACE + wire(HeadersFrame(1, block([*ASK, (":path", "/y")]), flags=["END_HEADERS"])), b"",
         "the client: a pseudo-field twice, or behind others"),
    ],
)  # fmt: skip
def test_malformed_is_noted_once_and_then_ignored(client: bytes, origin: bytes, note: str) -> None:
    seen = whole_and_in_pieces([(CLIENT, client), (ORIGIN, origin), (CLIENT, wire(asked(9)))])
    assert seen.notes == [f"malformed HTTP/2 from {note}"]
    assert all(exchange.error == seen.notes[0] for exchange in seen.done)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (wire(HeadersFrame(1, block([("a", "b")]), flags=["END_HEADERS"])), "a response without a status"),
        (wire(HeadersFrame(1, block([(":status", "2000")]), flags=["END_HEADERS"])), "a response without a status"),
        (wire(HeadersFrame(1, b"\x08\x03\xb2\xb2\xb2", flags=["END_HEADERS"])), "a response without a status"),  # ²²²
        (wire(HeadersFrame(1, block([(":status", "2OO")]), flags=["END_HEADERS"])), "a response without a status"),
        (wire(DataFrame(1, b"x", flags=["END_STREAM"])), "no response"),
    ],
)
def test_what_is_wrong_with_one_stream_spares_the_others(answer: bytes, error: str) -> None:
    good = wire(HeadersFrame(3, block(ANSWER), flags=["END_HEADERS", "END_STREAM"]))
    seen = whole_and_in_pieces([(CLIENT, PREFACE + wire(asked(1), asked(3))), (ORIGIN, answer + good)])
    assert [e.error for e in seen.done] == [error, None]
    assert not seen.notes


def test_streams_beyond_the_limit_are_told_and_not_watched() -> None:
    ask = wire(*[asked(2 * n + 1) for n in range(MAX_STREAMS + 1)])
    answer = wire(HeadersFrame(2 * MAX_STREAMS + 1, block(ANSWER), flags=["END_HEADERS", "END_STREAM"]))
    seen = watch([(CLIENT, PREFACE + ask), (ORIGIN, answer)])
    assert seen.done[0] is seen.begun[-1]
    assert seen.done[0].error == f"not watched: more than {MAX_STREAMS} streams at once"
    assert not seen.notes


def test_a_host_that_is_the_authority_in_other_words_is_well_formed() -> None:
    ask = wire(HeadersFrame(1, block([*ASK, ("host", "A.example:443")]), flags=["END_HEADERS", "END_STREAM"]))
    seen = watch([(CLIENT, PREFACE + ask)])
    assert [e.authority for e in seen.done] == ["a.example"]
    assert not seen.notes


def test_fields_beyond_the_limit_are_not_held() -> None:
    """An octet on the wire may stand for a field of any size (RFC 7541 §6.1)."""
    many = MAX_HELD // (MAX_FIELDS * (FIELD + 1))
    ask = wire(*[HeadersFrame(2 * n + 1, b"\x90" * MAX_FIELDS, flags=["END_HEADERS"]) for n in range(many + 2)])
    answer = wire(HeadersFrame(1, b"\x88" + b"\x90" * MAX_FIELDS, flags=["END_HEADERS", "END_STREAM"]))
    seen = watch([(CLIENT, PREFACE + ask), (ORIGIN, answer), (CLIENT, wire(asked(9999)))])
    told = f"not watched: {NO_ROOM}"
    assert [e.error for e in seen.done[:4]] == [told, told, told, "no response"]
    assert seen.done[:2] == seen.begun[many : many + 2]
    assert seen.done[2] is seen.begun[0]
    assert not seen.notes


def test_trailers_are_counted_too_and_cut() -> None:
    ask = wire(*[asked(2 * n + 1) for n in range(100)])
    answer = wire(*[HeadersFrame(2 * n + 1, block(ANSWER), flags=["END_HEADERS"]) for n in range(100)])
    trailers = wire(*[HeadersFrame(2 * n + 1, b"\x90" * 300, flags=["END_HEADERS"]) for n in range(100)])
    seen = watch([(CLIENT, PREFACE + ask), (ORIGIN, answer + trailers)])
    assert {len(e.trailers) for e in seen.done} == {MAX_FIELDS}
    told = f"not watched: {NO_ROOM}"
    assert 15 < sum(e.error == told for e in seen.done) < 25


@pytest.mark.parametrize("asks", [
    [*ASK[:3], (":path", "/" + "x" * 60_000)],
    [*ASK[:2], (":path", "/"), (":authority", "x" * 60_000)],
    [*ASK[:2], (":path", "/"), ("host", "x" * 60_000)],
])  # fmt: skip
def test_texts_that_stand_in_the_table_are_not_held_without_end(asks: Pairs) -> None:
    """Each request holds a copy of its own for one octet on the wire (RFC 7541 §6.1)."""
    encoder = hpack.Encoder()
    encoder.header_table_size = MAX_TABLE
    heads = [block(asks, encoder) for _ in range(200)]
    ask = wire(*[HeadersFrame(2 * n + 1, head, flags=["END_HEADERS", "END_STREAM"]) for n, head in enumerate(heads)])
    assert len(ask) < 80_000
    seen = watch([(CLIENT, PREFACE), (ORIGIN, wire(SettingsFrame(0, {1: MAX_TABLE}))), (CLIENT, ask)], limit=None)
    told = f"not watched: {NO_ROOM}"
    held = [exchange for exchange in seen.done if exchange.error == "no response"]
    assert [exchange.error for exchange in seen.done] == [told] * (200 - len(held)) + ["no response"] * len(held)
    assert 50 < len(held) <= MAX_HELD // 60_000
    assert not seen.notes


def test_heads_are_counted_while_their_streams_are_open() -> None:
    long = block([*ANSWER, ("x", "~" * 16_000)])
    many = MAX_HELD // len(long) + 2
    ask = wire(*[asked(2 * n + 1) for n in range(many)])
    whole = wire(*[HeadersFrame(2 * n + 1, long, flags=["END_HEADERS", "END_STREAM"]) for n in range(many)])
    begun = wire(*[HeadersFrame(2 * n + 1, long, flags=["END_HEADERS"]) for n in range(many)])
    assert {exchange.error for exchange in watch([(CLIENT, PREFACE + ask), (ORIGIN, whole)]).done} == {None}
    errors = [exchange.error for exchange in watch([(CLIENT, PREFACE + ask), (ORIGIN, begun)]).done]
    told = f"not watched: {NO_ROOM}"
    assert 0 < errors.count(told) < many // 2
    assert errors.count("the response was cut off") == many - errors.count(told)


def test_heads_of_all_connections_together_are_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise thousands of connections could each use the full limit. On any of them, a few requests are watched."""
    monkeypatch.setattr("recorder.MAX_ALL_HELD", MAX_HELD)
    monkeypatch.setattr("recorder.Recorder._all_held", 0)  # other tests leave connections open
    many = MAX_HELD // (MAX_FIELDS * (FIELD + 1))
    ask = PREFACE + wire(*[HeadersFrame(2 * n + 1, b"\x90" * MAX_FIELDS, flags=["END_HEADERS"]) for n in range(many)])
    first, second, third = Seen(), Seen(), Seen()
    full, late, after = (Http2(seen.recorder()) for seen in (first, second, third))
    full.sent(ask)
    late.sent(ask)
    assert not first.done
    assert {exchange.error for exchange in second.done} == {f"not watched: {NO_ROOM}"}
    assert 0 < LITTLE_HELD - (many - len(second.done)) * MAX_FIELDS * FIELD < MAX_FIELDS * (FIELD + 1)
    full.closed()
    late.closed()
    after.sent(ask)
    assert not third.done
    after.closed()


TURNS = st.lists(
    st.tuples(
        st.text("abc", max_size=5),
        st.none() | st.binary(max_size=60),
        st.none() | st.binary(max_size=60),
        st.booleans(),
    ),
    min_size=1,
    max_size=4,
)


@given(TURNS, st.data())
@settings(max_examples=100)
def test_what_two_real_ends_say_is_seen_whatever_the_segments(
    turns: list[tuple[str, bytes | None, bytes | None, bool]], data: st.DataObject
) -> None:
    pair = Pair()
    for word, upload, download, ends in turns:
        trailers = [("t", word)] if ends and download is not None else None
        pair.answer(pair.ask([*ASK, ("word", word)], upload), [*ANSWER, ("word", word)], download, trailers)
    seen = watch(pair.said)
    assert not seen.notes
    assert [
        (e.request_fields[-1][1], kept(e.request_body), kept(e.response_body), e.error, bool(e.trailers))
        for e in seen.done
    ] == [(word.encode(), up or b"", down or b"", None, ends and down is not None) for word, up, down, ends in turns]
    cut = []
    for who, octets in pair.said:
        edges = sorted({0, len(octets), *data.draw(st.lists(st.integers(0, len(octets)), max_size=4))})
        cut += [(who, octets[a:b]) for a, b in pairwise(edges)]
    assert summary(watch(cut)) == summary(seen)


FRAMES = st.sampled_from(
    [
        wire(asked(1)), wire(asked(3)), wire(HeadersFrame(1, block(ANSWER), flags=["END_HEADERS"])),
        wire(HeadersFrame(5, b"\x82", flags=["PADDED"], pad_length=2)), wire(ContinuationFrame(5, b"\x84")),
        wire(ContinuationFrame(5, b"", flags=["END_HEADERS"])),
        wire(DataFrame(1, b"abc", flags=["PADDED"], pad_length=2)),
        wire(DataFrame(3, b"", flags=["END_STREAM"])), wire(SettingsFrame(0, {1: 0})), wire(RstStreamFrame(1, 0)),
        wire(PushPromiseFrame(1, 2, block(ASK), flags=["END_HEADERS"])), wire(GoAwayFrame(0, 1, 0, b"x")), PREFACE,
        b"\0\0\0\3\0\0\0\0\1", b"\0\0\0\7\0\0\0\0\0", b"\0\0\0\5\4\0\0\0\1", b"\0\0\2\1\4\0\0\0\7\x3f\xe1",
    ]
)  # fmt: skip


@given(st.lists(st.tuples(st.sampled_from([CLIENT, ORIGIN]), st.one_of(FRAMES, st.binary(max_size=40))), max_size=14))
@settings(max_examples=400)
def test_garbage_never_raises_and_is_the_same_whatever_the_segments(said: Conversation) -> None:
    for conversation in (said, [(CLIENT, PREFACE), *said]):
        seen = watch(conversation)
        again = watch(conversation, 1)
        assert summary(again) == summary(seen)
        assert again.notes == seen.notes


@given(st.binary(max_size=80))
@settings(max_examples=400)
def test_garbage_as_a_header_block_never_raises(octets: bytes) -> None:
    headers = HeadersFrame(1, octets, flags=["END_HEADERS"])
    again = HeadersFrame(3, octets, flags=["END_HEADERS", "END_STREAM"])
    watch([(CLIENT, PREFACE + wire(headers, again)), (ORIGIN, wire(headers, again))])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (b":path", b"http://evil.example/p"), (b":path", b"x"), (b":path", b"/a b"), (b":path", b"/a#b"),
        (b":method", b"GET / HTTP/1.1"), (b":scheme", b"https://evil.example/?"), (b"a", b"b\r\nc: d"), (b"a", b"\0"),
        (b"A", b"b"), (b"a b", b"c"), (b"transfer-encoding", b"chunked"), (b"connection", b"x"),
        (b"keep-alive", b"timeout=5"), (b"proxy-connection", b"close"), (b"upgrade", b"h2c"),
    ],
)  # fmt: skip
def test_what_becomes_something_else_in_http_1_is_malformed_where_that_matters(name: bytes, value: bytes) -> None:
    asks = {b":method": b"GET", b":scheme": b"https", b":authority": b"a.example", b":path": b"/x"} | {name: value}
    block = hpack.Encoder().encode(list(asks.items()))
    frame = HeadersFrame(1, block, flags=["END_HEADERS", "END_STREAM"]).serialize()
    for strict in (False, True):
        seen = Seen()
        play(Http2(seen.recorder(), strict), [(CLIENT, PREFACE + SettingsFrame(0).serialize() + frame)])
        assert [note.startswith("malformed HTTP/2 from the client: a malf") for note in seen.notes] == [True] * strict


@pytest.mark.parametrize(
    ("protocol", "why"),
    [
        (None, "a CONNECT inside the tunnel"), ("h2c", "an upgrade to HTTP"), ("HTTP/1.1", "an upgrade to HTTP"),
        ("TLS/1.2", "an upgrade to HTTP"), ("websocket", ""),
    ],
)  # fmt: skip
def test_a_tunnel_for_requests_that_nobody_would_see_is_malformed_where_that_matters(
    protocol: str | None, why: str
) -> None:
    connect = [(":method", "CONNECT"), (":authority", "a.example:443")]
    if protocol is not None:
        connect = [(":method", "CONNECT"), (":protocol", protocol), *ASK[1:4]]
    for strict in (False, True):
        seen = Seen()
        frame = HeadersFrame(1, block(connect), flags=["END_HEADERS"])
        play(Http2(seen.recorder(), strict), [(CLIENT, PREFACE + wire(frame))])
        refused = [f"malformed HTTP/2 from the client: {why}"] * (strict and bool(why))
        assert [note.partition(",")[0] for note in seen.notes] == refused
        assert len(seen.begun) == 1 - len(refused)


@pytest.mark.parametrize("fields", [[], [(b"a", b"/b HTTP/1.1")], [(b"grpc-status", b"0")], [(b"a b", b"c")]])
def test_trailers_are_malformed_where_that_matters(fields: list[tuple[bytes, bytes]]) -> None:
    """HAProxy passes them on in HTTP/1.1, where Java's HttpServer and Cheroot take them for the next request."""
    trailers = HeadersFrame(1, hpack.Encoder().encode(fields), flags=["END_HEADERS", "END_STREAM"])
    ask = HeadersFrame(1, block(ASK), flags=["END_HEADERS"])
    for strict in (False, True):
        seen = Seen()
        play(Http2(seen.recorder(), strict), [(CLIENT, PREFACE + wire(ask, DataFrame(1, b"x"), trailers))])
        assert [note.partition(",")[0] for note in seen.notes] == ["malformed HTTP/2 from the client: trailers"] * (
            strict and bool(fields)
        )


@pytest.mark.parametrize(
    ("asks", "authority"),
    [
        ([*ASK, ("host", "b.example")], "a.example"),
        ([*ASK, ("host", "a.example:8443")], "a.example"),
        ([*ASK[:2], ASK[3], ("host", "a.example"), ("host", "b.example")], "a.example"),
    ],
)
def test_a_host_beside_another_authority_is_malformed_where_that_matters(asks: Pairs, authority: str) -> None:
    """Where it doesn't, origins go on with the connection and so does certifier: the authority counts."""
    frame = HeadersFrame(1, block(asks), flags=["END_HEADERS", "END_STREAM"])
    for strict in (False, True):
        seen = Seen()
        play(Http2(seen.recorder(), strict), [(CLIENT, PREFACE + wire(frame))])
        assert [exchange.authority for exchange in seen.begun] == [authority] * (not strict)
        assert seen.notes == ["malformed HTTP/2 from the client: a Host that is not the authority"] * strict


HIDDEN = b"GET /hidden HTTP/1.1\r\nHost: b.example\r\n\r\n"


@pytest.mark.parametrize(
    ("lengths", "body"),
    [
        (["0"], HIDDEN),
        (["5"], b"hello" + HIDDEN),
        (["9"], b"x"),
        (["9"], b""),
    ],
)
def test_a_body_of_another_length_than_declared_is_malformed_where_that_matters(
    lengths: list[str], body: bytes
) -> None:
    """A gateway to HTTP/1.1 that trusts the length would forward two requests (RFC 9113 §8.1.1)."""
    ask = HeadersFrame(1, block([*ASK, *(("content-length", length) for length in lengths)]), flags=["END_HEADERS"])
    for strict in (False, True):
        seen = Seen()
        data = DataFrame(1, body, flags=["END_STREAM"])
        play(Http2(seen.recorder(), strict), [(CLIENT, PREFACE + wire(ask, data))])
        assert [" length" in note for note in seen.notes] == [True] * strict
        assert len(seen.done) == len(seen.begun) * strict


@pytest.mark.parametrize("lengths", [["5", "0"], ["+5"]])
def test_a_length_that_is_none_is_malformed_where_that_matters(lengths: list[str]) -> None:
    ask = HeadersFrame(1, block([*ASK, *(("content-length", length) for length in lengths)]), flags=["END_HEADERS"])
    for strict in (False, True):
        seen = Seen()
        play(Http2(seen.recorder(), strict), [(CLIENT, PREFACE + wire(ask, DataFrame(1, b"hello")))])
        assert seen.notes == ["malformed HTTP/2 from the client: a malformed length"] * strict


def test_more_than_the_declared_length_is_seen_before_the_body_ends() -> None:
    ask = HeadersFrame(1, block([*ASK, ("content-length", "1")]), flags=["END_HEADERS"])
    seen = Seen()
    http2 = Http2(seen.recorder(), strict=True)
    http2.sent(PREFACE + wire(ask, DataFrame(1, b"x")))
    assert http2.watching
    http2.sent(wire(DataFrame(1, b"y")))
    assert not http2.watching


def test_a_length_that_cannot_be_watched_is_malformed_where_that_matters() -> None:
    encoder = hpack.Encoder()
    asks = [
        HeadersFrame(2 * number + 1, encoder.encode([*ASK, *length]), flags=["END_HEADERS"])
        for number in range(MAX_STREAMS + 1)
        for length in [[("content-length", "1")] if number == MAX_STREAMS else []]
    ]
    for strict in (False, True):
        seen = Seen()
        play(Http2(seen.recorder(), strict), [(CLIENT, PREFACE + wire(*asks))])
        assert ["can't be watched" in note for note in seen.notes] == [True] * strict


def test_a_length_without_room_for_its_head_is_malformed_where_that_matters() -> None:
    many = MAX_HELD // (MAX_FIELDS * (FIELD + 1))
    full = [HeadersFrame(2 * n + 1, block(ASK) + b"\x90" * 250, flags=["END_HEADERS"]) for n in range(many + 20)]
    last = block([*ASK, ("content-length", "1")]) + b"\x90" * 250
    ask = wire(*full, HeadersFrame(9999, last, flags=["END_HEADERS"]))
    for strict in (False, True):
        seen = Seen()
        play(Http2(seen.recorder(), strict), [(CLIENT, PREFACE + ask)])
        assert seen.done[0].error == f"not watched: {NO_ROOM}"
        assert ["can't be watched" in note for note in seen.notes] == [True] * strict


def test_what_clients_say_is_not_malformed() -> None:
    pair = Pair()
    pair.answer(pair.ask([*ASK, ("content-length", "25")], body=b"x" * 25), body=b"early")
    pair.answer(pair.ask([*ASK, ("content-length", "0")]))
    pair.answer(pair.ask([*ASK, ("te", "trailers"), ("cookie", "a=b; c"), ("x", "")]), body=b"hello")
    pair.answer(pair.ask(body=b"x"))
    pair.answer(pair.ask([(":method", "OPTIONS"), (":scheme", "https"), (":authority", "a.example"), (":path", "*")]))
    seen = Seen()
    play(Http2(seen.recorder(), strict=True), pair.said)
    assert ([exchange.status for exchange in seen.done], seen.notes) == ([200] * 5, [])
