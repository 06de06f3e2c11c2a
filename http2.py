"""Passive decoding of HTTP/2 (RFC 9113): both directions of a connection, without taking part in it.

The h2 library does not do: its connections are endpoints, which respond, and reject what an endpoint is not sent.
"""

import struct
import time

from exchange import Unreadable
from frames import ACK, DATA, END_STREAM, GOAWAY, HEADERS, PUSH_PROMISE, RST_STREAM, SETTINGS, Frames
from headerblocks import HeaderBlocks
from openstreams import OpenStreams
from recorder import Malformed, Recorder

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"  # RFC 9113 §3.4

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
    """

    __slots__ = (
        "_down", "_last", "_preface", "_pushes", "_recorder", "_streams", "_up", "watching",
    )  # fmt: skip

    def __init__(self, recorder: Recorder, strict: bool = False) -> None:
        self.watching = True
        self._recorder = recorder
        self._up = _Side("client")
        self._down = _Side("origin")
        self._preface = PREFACE  # what is still missing of it
        self._streams = OpenStreams(recorder, strict)
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
        self._streams.close(error)

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
                if end > start and frames.kind == DATA:
                    self._streams.content(frames.stream, side is self._up, data, start, end)
            if frames.left:
                return
            frames.inside = False
            if frames.kept:
                payload = frames.payload()
                if payload is not None:
                    self._frame(side, frames, payload)
            elif frames.kind == DATA and frames.flags & END_STREAM:
                self._streams.ended(frames.stream, side is self._up)

    def _frame(self, side: _Side, frames: Frames, payload: bytes) -> None:
        """Handle a frame that was kept; a header block includes its CONTINUATION frames."""
        kind, stream = frames.kind, frames.stream
        if kind == HEADERS:
            self._headers(side, stream, payload)
            if frames.flags & END_STREAM:
                self._streams.ended(stream, side is self._up)
        elif kind == PUSH_PROMISE:
            # Only servers push (RFC 9113 §8.4). Where the client takes none, it is no request either, but a forged one.
            if side is self._up or not self._pushes:
                raise Unreadable("a promise")
            promised = _stream(payload[:4])
            self._streams.request(promised, *side.blocks.parts(payload[4:]), len(payload), pushed=True)
            self._streams.ended(promised, sent=True)
        elif kind == SETTINGS and not frames.flags & ACK:
            self._settings(side, payload)
        elif kind == RST_STREAM:
            self._streams.reset(stream, int.from_bytes(payload[:4]), side.name)
        elif kind == GOAWAY and side is self._down:
            self._streams.unseen(_stream(payload[:4]), int.from_bytes(payload[4:8]))

    def _headers(self, side: _Side, stream: int, block: bytes) -> None:
        special, fields = side.blocks.parts(block)
        if side is self._down:
            self._streams.response(stream, special, fields, side.time, len(block))
        elif stream > self._last:
            self._last = stream
            self._streams.request(stream, special, fields, len(block))
        elif special:  # trailers have no pseudo-fields, RFC 9113 §8.1
            raise Unreadable("a request on a stream that is not new")
        else:
            self._streams.trailers(fields)

    def _settings(self, side: _Side, payload: bytes) -> None:
        if len(payload) % 6:
            raise Unreadable("malformed SETTINGS")
        other = self._down if side is self._up else self._up
        for name, size in struct.iter_unpack(">HL", payload):
            if name == _TABLE_SIZE:
                other.blocks.allow(size)  # the blocks sent to this side
            elif name == _ENABLE_PUSH and side is self._up:
                self._pushes = bool(size) or (self._pushes and self._last > 0)  # later on, one may be on its way


def _stream(octets: bytes) -> int:
    return int.from_bytes(octets) & 0x7FFFFFFF  # the first bit is reserved
