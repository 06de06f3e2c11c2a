"""Passive decoding of HTTP/2 (RFC 9113): both directions of a connection, without taking part in it.

The h2 library does not do: its connections are endpoints, which respond, and reject what an endpoint is not sent.
"""

import struct
import time

import ambiguity
from exchange import MAX_FIELDS, Exchange, Fields, Unreadable
from frames import ACK, DATA, END_STREAM, GOAWAY, HEADERS, PUSH_PROMISE, RST_STREAM, SETTINGS, Frames, error_name
from headerblocks import HeaderBlocks
from recorder import NO_ROOM, Malformed, Recorder

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"  # RFC 9113 §3.4
MAX_STREAMS = 1000  # open at once; endpoints allow about 100, some gRPC servers any number

_ANY = 1 << 64  # octets: no body is longer
_OTHER_LENGTH = "a body of another length than was declared"
_TABLE_SIZE, _ENABLE_PUSH = 1, 2  # SETTINGS_HEADER_TABLE_SIZE, SETTINGS_ENABLE_PUSH


class _Side:
    """One direction: its frames, and the header blocks in them."""

    __slots__ = ("blocks", "frames", "name", "time")

    def __init__(self, name: str) -> None:
        self.name = name
        self.frames = Frames()
        self.blocks = HeaderBlocks()
        self.time = 0.0  # when the latest HEADERS frame began


class Http2:
    """Decodes one connection. It notes anything malformed, and ignores whatever follows.

    Bytes may come in any segments, the client's with its preface, but a request's no later than those of its response.
    A stream that becomes a tunnel (RFC 8441, RFC 9113 §8.5) ends its exchange there.
    """

    __slots__ = (
        "_answered", "_down", "_last", "_lengths", "_preface", "_pushes", "_recorder", "_streams", "_strict", "_up",
        "watching",
    )  # fmt: skip

    def __init__(self, recorder: Recorder, strict: bool = False) -> None:
        self.watching = True
        self._strict = strict
        self._recorder = recorder
        self._up = _Side("client")
        self._down = _Side("origin")
        self._preface = PREFACE  # what is still missing of it
        self._streams: dict[int, Exchange] = {}
        self._answered: set[int] = set()  # streams whose response is complete, but not their request
        self._lengths: dict[int, int] = {}  # declared, of request bodies under way; only if ``strict``
        self._last = 0  # the latest stream that the client opened
        self._pushes = True  # the client takes pushes

    @property
    def held(self) -> int:
        """Octets at the end of what the client sent that can't be judged yet: nginx acts on part of a header block.

        It logs a request, under the name of its authority, as soon as it has read that.
        """
        return self._up.frames.incomplete

    @property
    def unfinished(self) -> bool:
        """Whether a header block of the client's has begun, and not ended."""
        return self.held > 0

    def ahead(self, sent: bool) -> int:
        """How many of the next octets, from the client (``sent``) or the origin, are content: cheap to pass at once."""
        frames = (self._up if sent else self._down).frames
        return frames.left if frames.inside and not frames.kept else 0

    def sent(self, data: bytes) -> None:
        """What the client sent next."""
        if not self.watching:
            return
        try:
            at = 0
            if self._preface:
                at = min(len(data), len(self._preface))
                if data[:at] != self._preface[:at]:
                    raise Unreadable("no HTTP/2 preface")
                self._preface = self._preface[at:]
            self._take(self._up, data, at)
        except Unreadable as error:
            self._stop(f"malformed HTTP/2 from the client: {error}", Malformed.CLIENT)

    def received(self, data: bytes) -> None:
        """What the origin sent next."""
        if not self.watching:
            return
        try:
            self._take(self._down, data, 0)
        except Unreadable as error:
            self._stop(f"malformed HTTP/2 from the origin: {error}", Malformed.ORIGIN)

    def closed(self, error: str | None = None) -> None:
        """The connection is over; ``error`` says how, unless it ended cleanly."""
        if not self.watching:
            return
        self.watching = False
        for stream in list(self._streams):
            exchange = self._streams[stream]
            cut = "the request" if stream in self._answered else "the response"
            self._end(stream, error or ("no response" if exchange.status is None else f"{cut} was cut off"))

    def _stop(self, what: str, malformed: Malformed) -> None:
        self._recorder.note(what, malformed)
        self.closed(what)

    def _take(self, side: _Side, data: bytes, at: int) -> None:
        frames = side.frames
        while True:
            if not frames.inside:
                at = frames.enter(data, at)
                if not frames.inside:
                    return
                if frames.kind == HEADERS and not frames.continued:
                    side.time = time.monotonic()
            if frames.kept:
                at = frames.keep(data, at)
            else:
                start, end, at = frames.skip(data, at)
                if end > start and frames.kind == DATA and (exchange := self._streams.get(frames.stream)):
                    count = self._recorder.upload if side is self._up else self._recorder.download
                    count(exchange, data, start, end)
                    if self._lengths and exchange.request_octets > self._lengths.get(frames.stream, _ANY):
                        raise Unreadable(_OTHER_LENGTH)
            if frames.left:
                return
            frames.inside = False
            if frames.kept:
                payload = frames.payload()
                if payload is not None:
                    self._frame(side, frames, payload)
            elif frames.kind == DATA and frames.flags & END_STREAM:
                self._end_stream(side, frames.stream)

    def _frame(self, side: _Side, frames: Frames, payload: bytes) -> None:
        """Handle a frame that was kept; a header block includes its CONTINUATION frames."""
        kind, stream = frames.kind, frames.stream
        if kind == HEADERS:
            self._headers(side, stream, payload)
            if frames.flags & END_STREAM:
                self._end_stream(side, stream)
        elif kind == PUSH_PROMISE:
            # Only servers push (RFC 9113 §8.4). Where the client takes none, it is no request either, but a forged one.
            if side is self._up or not self._pushes:
                raise Unreadable("a promise")
            promised = _stream(payload[:4])
            self._request(promised, *side.blocks.parts(payload[4:]), len(payload), pushed=True)
            self._end_stream(self._up, promised)
        elif kind == SETTINGS and not frames.flags & ACK:
            self._settings(side, payload)
        elif kind == RST_STREAM:
            code = int.from_bytes(payload[:4])
            # RFC 9113 §8.1: the rest of the request is not needed. Node.js sends this instead of END_STREAM.
            done = code == 0 and (stream in self._answered or self._whole(stream))
            self._end(stream, None if done else f"reset by the {side.name}: {error_name(code)}")
        elif kind == GOAWAY and side is self._down:
            last, error = _stream(payload[:4]), error_name(int.from_bytes(payload[4:8]))
            for unseen in [number for number in self._streams if number > last and number % 2]:
                self._end(unseen, f"the origin goes away: {error}")

    def _headers(self, side: _Side, stream: int, block: bytes) -> None:
        special, fields = side.blocks.parts(block)
        if side is self._down:
            self._response(stream, special, fields, side.time, len(block))
        elif stream > self._last:
            self._last = stream
            self._request(stream, special, fields, len(block))
        elif special:  # trailers have no pseudo-fields, RFC 9113 §8.1
            raise Unreadable("a request on a stream that is not new")
        elif self._strict and fields:
            raise Unreadable(ambiguity.TRAILERS)

    def _settings(self, side: _Side, payload: bytes) -> None:
        if len(payload) % 6:
            raise Unreadable("malformed SETTINGS")
        other = self._down if side is self._up else self._up
        for name, size in struct.iter_unpack(">HL", payload):
            if name == _TABLE_SIZE:
                other.blocks.allow(size)  # the blocks sent to this side
            elif name == _ENABLE_PUSH and side is self._up:
                self._pushes = bool(size) or (self._pushes and self._last > 0)  # later on, one may be on its way

    def _request(self, stream: int, special: dict[bytes, str], fields: Fields, size: int, pushed: bool = False) -> None:
        if stream in self._streams:
            raise Unreadable("a stream is opened twice")
        named = [special.get(b":authority"), *(value.decode("latin-1") for name, value in fields if name == b"host")]
        authority = next(filter(None, named), "")
        length = None
        if self._strict:
            ambiguity.check_http2(special, fields)
            ambiguity.check_authority(*filter(None, named))  # RFC 9113 §8.3.1
            length = ambiguity.declared_length(fields)
        method = special.get(b":method", "")
        path = special.get(b":path", authority if method == "CONNECT" else "")
        exchange = self._recorder.request(method, authority, path, "2", fields, special.get(b":protocol"), pushed)
        if length is not None:
            self._lengths[stream] = length
        if len(self._streams) >= MAX_STREAMS:
            self._recorder.end(exchange, f"not watched: more than {MAX_STREAMS} streams at once")
            self._check_unwatched(stream)
        else:
            self._streams[stream] = exchange
            # Fields are in the decoder's table or were counted on the wire; these are copies.
            copies = (exchange.method, exchange.authority, exchange.target, exchange.upgrade or "")
            self._hold(stream, exchange.request_fields, size + sum(map(len, copies)))

    def _response(self, stream: int, special: dict[bytes, str], fields: Fields, began: float, size: int) -> None:
        exchange = self._streams.get(stream)
        if exchange is None:
            return
        if exchange.status is not None:
            exchange.trailers = fields[:MAX_FIELDS]
            self._hold(stream, exchange.trailers, size)
            return
        text = special.get(b":status", "")
        if len(text) != 3 or not (text.isascii() and text.isdigit()):
            self._end(stream, "a response without a status")
            return
        status = int(text)
        if status < 200:
            return
        self._recorder.response(exchange, status, "", fields, began)
        if not self._hold(stream, exchange.response_fields, size):
            return
        if exchange.method == "CONNECT" and status < 300:
            exchange.upgrade = exchange.upgrade or "a tunnel"
            self._end(stream)
        else:
            exchange.upgrade = None

    def _hold(self, stream: int, fields: Fields, octets: int) -> bool:
        """Count a head of an open stream; return False, and stop watching the stream, if that is too much."""
        if self._recorder.hold(self._streams[stream], fields, octets):
            return True
        self._check_unwatched(stream)
        self._end(stream, f"not watched: {NO_ROOM}")
        return False

    def _check_unwatched(self, stream: int) -> None:
        if stream in self._lengths:
            raise Unreadable("a body whose length can't be watched")

    def _whole(self, stream: int) -> bool:
        """Whether as many octets of the response have come as its Content-Length declares."""
        exchange = self._streams.get(stream)
        return exchange is not None and _declared(exchange) == _came(exchange)

    def _end_stream(self, side: _Side, stream: int) -> None:
        exchange = self._streams.get(stream)
        if exchange is None:
            return
        if side is self._up:
            if self._lengths.pop(stream, exchange.request_octets) != exchange.request_octets:
                raise Unreadable(_OTHER_LENGTH)
            exchange.request_ended = time.monotonic()
            if stream in self._answered:
                self._end(stream)
        elif exchange.status is None:
            self._end(stream, "no response")
        elif exchange.method != "HEAD" and exchange.status != 304 and not _declared(exchange) <= _came(exchange):
            self._end(stream, f"a response with {_OTHER_LENGTH}")  # RFC 9113 §8.1.1: clients take none of it
        elif exchange.request_ended is None:
            self._answered.add(stream)
        else:
            self._end(stream)

    def _end(self, stream: int, error: str | None = None) -> None:
        exchange = self._streams.pop(stream, None)
        self._answered.discard(stream)
        self._lengths.pop(stream, None)
        if exchange is not None:
            self._recorder.end(exchange, error)


def _declared(exchange: Exchange) -> set[bytes]:
    """The lengths in the response's Content-Length fields, without leading zeros, which are of no account."""
    return {value.lstrip(b"0") or b"0" for name, value in exchange.response_fields if name == b"content-length"}


def _came(exchange: Exchange) -> set[bytes]:
    return {b"%d" % exchange.response_octets}


def _stream(octets: bytes) -> int:
    return int.from_bytes(octets) & 0x7FFFFFFF  # the first bit is reserved
