"""``OpenStreams``: the exchanges on the open streams of an HTTP/2 connection (RFC 9113 §5.1), each until it ends."""

import time

import ambiguity
from exchange import MAX_FIELDS, Exchange, Fields, Unreadable
from frames import error_name
from recorder import NO_ROOM, Recorder

MAX_STREAMS = 1000  # open at once; endpoints allow about 100, some gRPC servers any number

_ANY = 1 << 64  # octets: no body is longer
_OTHER_LENGTH = "a body of another length than was declared"


class OpenStreams:
    """Those of one connection. If ``strict``, what a request may not be raises ``Unreadable``.

    A stream that becomes a tunnel (RFC 8441, RFC 9113 §8.5) ends its exchange there.
    """

    __slots__ = ("_answered", "_exchanges", "_lengths", "_recorder", "_strict")

    def __init__(self, recorder: Recorder, strict: bool) -> None:
        self._recorder = recorder
        self._strict = strict
        self._exchanges: dict[int, Exchange] = {}
        self._answered: set[int] = set()  # streams whose response is complete, but not their request
        self._lengths: dict[int, int] = {}  # declared, of request bodies under way; only if ``strict``

    def request(self, stream: int, special: dict[bytes, str], fields: Fields, size: int, pushed: bool = False) -> None:
        """A head of ``size`` octets, decoded, opens the stream."""
        if stream in self._exchanges:
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
        if len(self._exchanges) >= MAX_STREAMS:
            self._recorder.end(exchange, f"not watched: more than {MAX_STREAMS} streams at once")
            self._check_unwatched(stream)
        else:
            self._exchanges[stream] = exchange
            # Fields are in the decoder's table or were counted on the wire; these are copies.
            copies = (exchange.method, exchange.authority, exchange.target, exchange.upgrade or "")
            self._hold(stream, exchange.request_fields, size + sum(map(len, copies)))

    def trailers(self, fields: Fields) -> None:
        """A request's, which an HTTP/1 server behind its origin may take for another request."""
        if self._strict and fields:
            raise Unreadable(ambiguity.TRAILERS)

    def response(self, stream: int, special: dict[bytes, str], fields: Fields, began: float, size: int) -> None:
        """A head of ``size`` octets, decoded, or trailers; it ``began`` at that time."""
        exchange = self._exchanges.get(stream)
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

    def content(self, stream: int, sent: bool, data: bytes, start: int, end: int) -> None:
        """Content that the client (``sent``) or the origin sends: ``data[start:end]``."""
        exchange = self._exchanges.get(stream)
        if exchange is None:
            return
        count = self._recorder.upload if sent else self._recorder.download
        count(exchange, data, start, end)
        if self._lengths and exchange.request_octets > self._lengths.get(stream, _ANY):
            raise Unreadable(_OTHER_LENGTH)

    def ended(self, stream: int, sent: bool) -> None:
        """The client (``sent``) or the origin has said all that it says on the stream."""
        exchange = self._exchanges.get(stream)
        if exchange is None:
            return
        if sent:
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

    def reset(self, stream: int, code: int, who: str) -> None:
        """The stream is reset by one side, with this error code."""
        exchange = self._exchanges.get(stream)
        if exchange is None:
            return
        # RFC 9113 §8.1: the rest of the request is not needed. Node.js sends this instead of END_STREAM.
        done = code == 0 and (stream in self._answered or _declared(exchange) == _came(exchange))
        self._end(stream, None if done else f"reset by the {who}: {error_name(code)}")

    def unseen(self, last: int, code: int) -> None:
        """The origin goes away, with this error code; it has not looked at the client's streams after ``last``."""
        for stream in [stream for stream in self._exchanges if stream > last and stream % 2]:
            self._end(stream, f"the origin goes away: {error_name(code)}")

    def close(self, error: str | None) -> None:
        """The connection is over; ``error`` says how, unless it ended cleanly."""
        for stream, exchange in list(self._exchanges.items()):
            cut = "the request" if stream in self._answered else "the response"
            self._end(stream, error or ("no response" if exchange.status is None else f"{cut} was cut off"))

    def _hold(self, stream: int, fields: Fields, octets: int) -> bool:
        """Count a head of an open stream; return False, and stop watching the stream, if that is too much."""
        if self._recorder.hold(self._exchanges[stream], fields, octets):
            return True
        self._check_unwatched(stream)
        self._end(stream, f"not watched: {NO_ROOM}")
        return False

    def _check_unwatched(self, stream: int) -> None:
        if stream in self._lengths:
            raise Unreadable("a body whose length can't be watched")

    def _end(self, stream: int, error: str | None = None) -> None:
        exchange = self._exchanges.pop(stream, None)
        self._answered.discard(stream)
        self._lengths.pop(stream, None)
        if exchange is not None:
            self._recorder.end(exchange, error)


def _declared(exchange: Exchange) -> set[bytes]:
    """The lengths in the response's Content-Length fields, without leading zeros, which are of no account."""
    return {value.lstrip(b"0") or b"0" for name, value in exchange.response_fields if name == b"content-length"}


def _came(exchange: Exchange) -> set[bytes]:
    return {b"%d" % exchange.response_octets}
