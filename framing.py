"""Splits one direction of an HTTP/1 connection into heads and bodies (RFC 9112 §6), without copying bodies.

Each reader is given a buffer and an offset into it. A body's ``take(data, at)`` returns ``(start, end, next, done)``:
``data[start:end]`` is content, reading continues at ``next``, and ``done`` says that the body ends there. However the
data is segmented, each octet is examined once. ``Unreadable`` is raised for what is malformed or too large.
"""

import re
import sys
from enum import Enum, auto
from typing import Protocol

import ambiguity
from exchange import MAX_FIELDS, Fields, Unreadable
from heads import TCHAR

MAX_HEAD = 65_536  # octets of a head, or of trailers; browsers and servers stop at 8 to 64 KiB
MAX_LINE = 4096  # octets of a chunk's size and its extensions
MAX_CHUNK = (1 << 31) - 1  # octets of a chunk where requests are judged: to Java's HttpServer, 2**32 + 1 is 1

_END = re.compile(rb"\n\r?\n")  # a recipient may accept a bare LF as a line terminator, RFC 9112 §2.2
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(?:;[^\r\n]*)?\r?\n\Z")
_EMPTY = (b"\r\n", b"\n")
_BLANK = re.compile(rb"[\r\n]*")
_LINE = re.compile(TCHAR + rb"++ [!-~]++ HTTP/[0-9]\.[0-9]\r\n")
_CONTROL = re.compile(rb"[\0-\x08\x0b\x0c\x0e-\x1f\x7f]")
_LENIENT = re.compile(rb"(?<!\r)\n|\n[ \t]")  # a bare LF, a folded line: recipients parse them differently

Span = tuple[int, int, int, bool]


class Heads:
    """Collects one head after another. Empty lines before a head are skipped (RFC 9112 §2.2).

    With ``strict``, what two recipients may parse differently is ``Unreadable``, and so is what does not begin with a
    request line, as soon as that is seen: of another protocol, the end of a head may never come.
    """

    __slots__ = ("_begun", "_blank", "_buffer", "_strict")

    def __init__(self, strict: bool = False) -> None:
        self._buffer = bytearray()
        self._strict = strict
        self._begun = False  # its first line is known to be a request line
        self._blank = 0  # how many octets of empty lines it begins with

    def __len__(self) -> int:
        """How many octets of an incomplete head are buffered."""
        return len(self._buffer)

    @property
    def unfinished(self) -> bool:
        """Whether something of an incomplete head has come besides empty lines."""
        return bool(self._buffer.strip(b"\r\n"))

    def take(self, data: bytes, at: int, may_switch: bool = False) -> tuple[bytes | None, int]:
        """The next head, or None if it is incomplete, and the offset to continue at.

        If the connection ``may_switch`` to another protocol, an incomplete head may be the beginning of that.
        """
        buffer = self._buffer
        while True:
            seen = len(buffer)
            if seen:
                buffer += data[at : at + MAX_HEAD + 1 - seen]
                found = _END.search(buffer, max(0, seen - 2), MAX_HEAD)
            else:
                found = _END.search(data, at, at + MAX_HEAD)
                if found is None:
                    buffer += data[at : at + MAX_HEAD + 1]
            if found is None:
                if len(buffer) > MAX_HEAD:
                    raise Unreadable(f"a head larger than {MAX_HEAD} octets")
                if self._strict and not may_switch:
                    self._check_begun(data, at)
                return None, len(data)
            if seen:
                head = bytes(buffer[: found.end()])
                at += found.end() - seen
                buffer.clear()
                self._begun, self._blank = False, 0
            else:
                head = data[at : found.end()]
                at = found.end()
            head = head.lstrip(b"\r\n")
            if self._strict and _LENIENT.search(head):
                raise Unreadable("a line that ends with a bare LF, or is folded")
            if head:
                return head, at

    def _check_begun(self, data: bytes, at: int) -> None:
        """Check the first line of an incomplete head, to which the data was added."""
        if self._begun:
            return
        self._blank = _BLANK.match(self._buffer, self._blank).end()  # type: ignore[union-attr]  # it matches anything
        if self._buffer.find(b"\n", self._blank) < 0:
            wrong = _CONTROL.search(data, at) is not None
        else:
            self._begun = True
            wrong = not _LINE.match(self._buffer, self._blank)
        if wrong:
            raise Unreadable("it does not begin with a request line of HTTP/1")


class Body(Protocol):
    """A body with some framing. The next ``left`` octets are all content."""

    left: int
    trailers: Fields

    def take(self, data: bytes, at: int) -> Span:
        """The next span."""


class Counted:
    """A body of a known length, more than 0."""

    __slots__ = ("left", "trailers")

    def __init__(self, length: int) -> None:
        self.left = length
        self.trailers: Fields = []

    def take(self, data: bytes, at: int) -> Span:
        """The rest of the body, or of the data."""
        end = min(len(data), at + self.left)
        self.left -= end - at
        return at, end, end, not self.left


class UntilClose:
    """A response's body that ends with the connection."""

    __slots__ = ("left", "trailers")

    def __init__(self) -> None:
        self.left = sys.maxsize
        self.trailers: Fields = []

    def take(self, data: bytes, at: int) -> Span:
        """Everything."""
        return at, len(data), len(data), False


class _Line(Enum):
    """What a line of a chunked body's framing is."""

    SIZE = auto()
    END_OF_CHUNK = auto()
    TRAILER = auto()  # or the empty line that ends the body


class Chunked:
    """A chunked body (RFC 9112 §7.1) and its ``trailers``. ``strict`` refuses bare LFs and trailers.

    Java's HttpServer and Cheroot read no trailers: they take ``A: /b HTTP/1.1`` for a request. WEBrick adds them to the
    fields of the head.
    """

    __slots__ = ("_line", "_most", "_next", "_room", "_strict", "left", "trailers")

    def __init__(self, strict: bool = False, most: int = sys.maxsize) -> None:
        self._strict = strict
        self._most = most  # octets of a chunk
        self.trailers: Fields = []
        self.left = 0  # octets of the current chunk
        self._line = bytearray()  # an incomplete line
        self._next = _Line.SIZE
        self._room = MAX_HEAD  # octets left for trailers

    @property
    def at_trailers(self) -> bool:
        """Whether the last chunk has come: what follows are trailers, if any, and an empty line."""
        return self._next is _Line.TRAILER

    def take(self, data: bytes, at: int) -> Span:
        """What is available of a chunk, or an empty span for a line of the framing."""
        if self.left:
            end = min(len(data), at + self.left)
            self.left -= end - at
            return at, end, end, False
        end = data.find(b"\n", at) + 1
        seen = len(self._line) + (end or len(data)) - at
        if seen > (MAX_HEAD if self._next is _Line.TRAILER else MAX_LINE):
            raise Unreadable("a chunk's size, or a trailer, is too long")
        if not end:
            self._line += data[at:]
            if self._strict and self._next is _Line.TRAILER and self._line != b"\r":
                raise Unreadable(ambiguity.TRAILERS)  # half of one is too much: the connection may end there
            return len(data), len(data), len(data), False
        line = data[at:end]
        if self._line:
            line = bytes(self._line) + line
            self._line.clear()
        if self._strict and not line.endswith(b"\r\n"):
            raise Unreadable("a line of a chunked body that ends with a bare LF")
        return end, end, end, self._ends(line)

    def _ends(self, line: bytes) -> bool:
        """Take a line of the framing; return whether the body ends with it."""
        match self._next:
            case _Line.SIZE:
                self._size(line)
            case _Line.END_OF_CHUNK:
                if line not in _EMPTY:
                    raise Unreadable("a chunk longer than its size")
                self._next = _Line.SIZE
            case _Line.TRAILER:
                if line in _EMPTY:
                    return True
                self._trailer(line)
        return False

    def _size(self, line: bytes) -> None:
        found = _CHUNK.match(line)
        if found is None:
            raise Unreadable("a malformed chunk size")
        self.left = int(found[1], 16)
        if self.left > self._most:
            raise Unreadable("a chunk of a size that not everyone can count")
        self._next = _Line.END_OF_CHUNK if self.left else _Line.TRAILER

    def _trailer(self, line: bytes) -> None:
        if self._strict:
            raise Unreadable(ambiguity.TRAILERS)
        self._room -= len(line)
        name, colon, content = line.partition(b":")
        if not colon or self._room < 0:
            raise Unreadable("malformed or too many trailers")
        if len(self.trailers) < MAX_FIELDS:  # each takes a hundred octets of memory for as few as three on the wire
            self.trailers.append((name.rstrip(b" \t"), content.strip()))  # as in a response's head: ``heads.unspaced``
