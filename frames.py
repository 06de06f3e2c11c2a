"""HTTP/2 frames (RFC 9113 §4 and §6) of one direction, without copying the content of DATA frames.

The 9 octets of a frame's header are read here: hyperframe would build objects, and copy each DATA frame.
"""

import struct

from exchange import Unreadable

DATA, HEADERS, RST_STREAM, SETTINGS, PUSH_PROMISE, GOAWAY, CONTINUATION = 0, 1, 3, 4, 5, 7, 9
END_STREAM = ACK = 0x1
END_HEADERS, PADDED, PRIORITY = 0x4, 0x8, 0x20
MAX_PAYLOAD = 65_536  # octets of a frame that is kept whole; endpoints accept 16,384 unless they announce more
MAX_BLOCK = 65_536  # octets of a header block on the wire
MAX_FRAMES = 2 * MAX_BLOCK  # the same with its frames' headers: a block cut into tiny frames is abuse

_ERRORS = (
    "NO_ERROR", "PROTOCOL_ERROR", "INTERNAL_ERROR", "FLOW_CONTROL_ERROR", "SETTINGS_TIMEOUT", "STREAM_CLOSED",
    "FRAME_SIZE_ERROR", "REFUSED_STREAM", "CANCEL", "COMPRESSION_ERROR", "CONNECT_ERROR", "ENHANCE_YOUR_CALM",
    "INADEQUATE_SECURITY", "HTTP_1_1_REQUIRED",
)  # fmt: skip
_BLOCKS = {HEADERS, PUSH_PROMISE}
_KEPT = {HEADERS, RST_STREAM, SETTINGS, PUSH_PROMISE, GOAWAY}  # whole; the others are passed over
_HEADER = struct.Struct(">HBBBL")


class Frames:
    """Parses one frame at a time, which the attributes describe. A CONTINUATION is part of the frame it continues.

    ``Unreadable`` is raised for what is malformed or too large.
    """

    __slots__ = (
        "_block", "_buffer", "_framed", "_padding", "content", "continued", "flags", "inside", "kind", "left", "stream",
    )  # fmt: skip

    def __init__(self) -> None:
        self.inside = False  # the header is known, and the frame has not ended
        self.continued = False  # by the next frame, which must be a CONTINUATION
        self.kind = self.flags = self.stream = 0
        self.left = 0  # octets of the payload yet to come
        self.content = 0  # the same without a DATA frame's padding
        self._padding = False  # the next octet is the padding's length
        self._framed = 0  # octets of the header block under way, with its frames' headers
        self._buffer = bytearray()  # an incomplete frame header, or the payload of a frame that is kept
        self._block = bytearray()  # the payloads that the current frame continues

    @property
    def kept(self) -> bool:
        """Whether this frame is to be kept whole."""
        return self.kind in _KEPT

    @property
    def incomplete(self) -> int:
        """Octets received of a header block that has not ended, all its frames included, or of a frame's header."""
        return self._framed + (0 if self.inside else len(self._buffer))

    def enter(self, data: bytes, at: int) -> int:
        """Read a frame header from ``data[at:]``; return where to continue. ``inside`` says whether it is complete."""
        if self._buffer or len(data) - at < 9:
            piece = data[at : at + 9 - len(self._buffer)]
            self._buffer += piece
            at += len(piece)
            if len(self._buffer) < 9:
                return at
            high, low, kind, flags, stream = _HEADER.unpack(self._buffer)
            self._buffer.clear()
        else:
            high, low, kind, flags, stream = _HEADER.unpack_from(data, at)
            at += 9
        stream &= 0x7FFFFFFF
        if self.continued:  # nothing else may come in between, RFC 9113 §4.3
            if kind != CONTINUATION or stream != self.stream:
                raise Unreadable("a header block is not continued")
            self.flags |= flags & END_HEADERS
        elif kind == CONTINUATION:
            raise Unreadable("a continuation of nothing")
        else:
            self.kind, self.flags, self.stream = kind, flags, stream
        self.inside = True
        self.left = self.content = (high << 8) + low
        if self.kind in _BLOCKS:
            self._framed += _HEADER.size
        self._padding = kind == DATA and bool(flags & PADDED)
        if self.left > MAX_PAYLOAD and self.kind in _KEPT:
            raise Unreadable(f"a frame of more than {MAX_PAYLOAD} octets")
        return at

    def skip(self, data: bytes, at: int) -> tuple[int, int, int]:
        """Pass over what is available of a frame: ``(start, end, next)``; of DATA, ``data[start:end]`` is content."""
        if self._padding and self.left and at < len(data):
            self._padding = False
            self.left -= 1
            self.content = self.left - data[at]
            at += 1
            if self.content < 0:
                raise Unreadable("more padding than payload")
        start = at
        at = min(len(data), at + self.left)
        self.left -= at - start
        end = min(at, start + self.content)
        self.content -= end - start
        return start, end, at

    def keep(self, data: bytes, at: int) -> int:
        """Buffer what is available of a frame to be kept whole; return where to continue."""
        piece = data[at : at + self.left]
        self._buffer += piece
        self.left -= len(piece)
        if self.kind in _BLOCKS:
            self._framed += len(piece)
            if self._framed > MAX_FRAMES:
                raise Unreadable(f"a header block in frames of more than {MAX_FRAMES} octets")
        return at + len(piece)

    def payload(self) -> bytes | None:
        """The payload of a kept frame that is complete, without padding and priority; None if it is to be continued."""
        payload = bytes(self._buffer)
        self._buffer.clear()
        if self.kind not in _BLOCKS:
            return payload
        if not self.continued:
            payload = self._bare(payload)
        self.continued = not self.flags & END_HEADERS
        if self.continued or self._block:
            self._block += payload
            if len(self._block) > MAX_BLOCK:
                raise Unreadable(f"a header block of more than {MAX_BLOCK} octets")
            if self.continued:
                return None
            payload = bytes(self._block)
            self._block.clear()
        self._framed = 0
        return payload

    def _bare(self, payload: bytes) -> bytes:
        start, end = 0, len(payload)
        if self.flags & PADDED:
            start, end = 1, end - (payload[0] if payload else 0)
        if self.flags & PRIORITY and self.kind == HEADERS:
            start += 5
        if start > end:
            raise Unreadable("more padding than payload")
        return payload[start:end]


def error_name(code: int) -> str:
    """The name of an error code, RFC 9113 §7; the number if it has none."""
    return _ERRORS[code] if code < len(_ERRORS) else str(code)
