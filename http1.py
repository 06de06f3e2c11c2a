"""Passive decoding of HTTP/1.1: both directions of a connection, without taking part in it.

``heads.py`` parses heads, and ``framing.py`` delimits bodies, which h11 would copy. Responses are matched to requests
by their order.
"""

import time
from collections import deque

import h11

import ambiguity
import heads
from exchange import Exchange, Fields, Unreadable, authority_of, header
from framing import MAX_CHUNK, Body, Chunked, Counted, Heads, UntilClose
from recorder import NO_ROOM, Malformed, Recorder

MAX_WAITING = 100  # unanswered requests of a connection; pipelining clients stop at about 10
MAX_INTERIM = 100  # interim responses to one request; an origin that sends more may never stop


class Http1:
    """Decodes one connection. It notes an upgrade, a CONNECT or anything malformed, and ignores whatever follows.

    Bytes may come in any segments, but a request's no later than those of its response. With ``strict``, a request
    that another recipient may parse differently is malformed.
    """

    __slots__ = (
        "_answered", "_asked", "_download", "_first_byte", "_interim", "_recorder", "_request_heads",
        "_response_heads", "_strict", "_upload", "_uploading", "unasked", "watching",
    )  # fmt: skip

    def __init__(self, recorder: Recorder, strict: bool = False) -> None:
        self.watching = True
        self.unasked = 0  # octets at the end of what the origin sent that answer no request
        self._recorder = recorder
        self._strict = strict
        self._request_heads = Heads(strict)
        self._response_heads = Heads()
        self._asked: deque[Exchange] = deque()  # awaiting responses: the first one's comes next, or has begun
        self._uploading: Exchange | None = None  # whose request is not complete yet
        self._answered = False  # its response is complete already
        self._interim = 0  # interim responses since the last final one
        self._upload: Body | None = None
        self._download: Body | None = None
        self._first_byte = 0.0

    @property
    def held(self) -> int:
        """Octets at the end of what the client sent that belong to an incomplete head."""
        return len(self._request_heads)

    @property
    def unfinished(self) -> bool:
        """Whether a request's head has begun, and not ended."""
        return self._request_heads.unfinished

    def ahead(self, sent: bool) -> int:
        """How many of the next octets, from the client (``sent``) or the origin, are content: cheap to pass at once."""
        body = self._upload if sent else self._download
        return body.left if body is not None else 0

    def sent(self, data: bytes) -> None:
        """What the client sent next."""
        if not self.watching:
            return
        try:
            self._sent(data)
        except h11.RemoteProtocolError:  # its message quotes the line, which may contain a secret
            self._stop("malformed request head", Malformed.CLIENT)
        except Unreadable as error:
            self._stop(f"malformed request: {error}", Malformed.CLIENT)

    def received(self, data: bytes) -> None:
        """What the origin sent next."""
        if not self.watching:
            return
        try:
            self._received(data)
        except h11.RemoteProtocolError:
            self._stop("malformed response head", Malformed.ORIGIN)
        except Unreadable as error:
            self._stop(f"malformed response: {error}", Malformed.ORIGIN)

    def origin_ended(self) -> None:
        """The origin has ended its direction in an orderly way, which may end a response (RFC 9112 §6.3)."""
        if self.watching and isinstance(self._download, UntilClose):
            self._response_ended()

    def closed(self, error: str | None = None) -> None:
        """The connection is over; ``error`` says how, unless it ended cleanly."""
        if not self.watching:
            return
        if error is None:
            self.origin_ended()
        self.watching = False
        # Detach all of them before notifying the observer, which may block: none may end twice, and none be added.
        uploading, self._uploading = self._uploading, None
        asked, self._asked = self._asked, deque()
        if self._answered and uploading is not None:
            self._recorder.end(uploading, error or "the request was cut off")
        for exchange in asked:
            cut = "no response" if exchange.status is None else "the response was cut off"
            self._recorder.end(exchange, error or cut)

    def _stop(self, what: str, malformed: Malformed | None = None) -> None:
        if self.watching:
            self._recorder.note(what, malformed)
            self.closed(what)

    def _may_switch(self) -> bool:
        """Whether the client may be about to speak another protocol, which the awaited response decides."""
        return bool(self._asked and header(self._asked[-1].request_fields, b"upgrade"))

    # The client's direction

    def _sent(self, data: bytes) -> None:
        at, size = 0, len(data)
        while at < size:
            if self._upload is None:
                head, at = self._request_heads.take(data, at, self._strict and self._may_switch())
                if head is None:
                    return
                self._request(head)
                continue
            assert self._uploading is not None
            start, end, at, done = self._upload.take(data, at)
            if end > start:
                self._recorder.upload(self._uploading, data, start, end)
            if done:
                self._request_ended()

    def _request(self, head: bytes) -> None:
        found = heads.request(head, self._strict)
        if len(self._asked) >= MAX_WAITING:
            raise Unreadable(f"more than {MAX_WAITING} requests without a response")
        fields = found.fields
        host, framed, length = b"", False, None
        for name, content in fields:
            key = name.lower()
            if key == b"host":
                host = content
            elif key == b"transfer-encoding":
                framed = True
            elif key == b"content-length":
                length = int(content)
        if framed and (length is not None or found.version == b"1.0"):  # RFC 9112 §6.1: an attempt at smuggling
            raise Unreadable("its body is framed in two ways")
        if framed:
            self._upload = Chunked(self._strict, MAX_CHUNK) if self._strict else Chunked()
        elif length:
            self._upload = Counted(length)
        target = found.target.decode("ascii")
        authority = authority_of(target) or host.decode("latin-1")
        if self._strict:
            ambiguity.check_version(found.version)
            ambiguity.check_length(length)
            ambiguity.check_target(found.method, found.target)
            ambiguity.check_authority(authority, host.decode("latin-1"))
        exchange = self._recorder.request(
            found.method.decode("ascii"),
            authority,
            target,
            found.version.decode("ascii"),
            fields,
        )
        self._asked.append(exchange)
        if not self._recorder.hold(exchange, exchange.request_fields, len(head)):
            raise Unreadable(NO_ROOM)
        self._uploading = exchange
        if self._upload is None:
            self._request_ended()

    def _request_ended(self) -> None:
        exchange = self._uploading
        assert exchange is not None
        exchange.request_ended = time.monotonic()
        self._uploading = self._upload = None
        if self._answered:
            self._answered = False
            self._recorder.end(exchange)

    # The origin's direction

    def _received(self, data: bytes) -> None:
        at, size = 0, len(data)
        while at < size and self.watching:
            if self._download is None:
                if not self._asked:
                    if self._answered and not self._strict:
                        return  # for example Node.js's 400 when the rest of a request did not come
                    if data[at:].strip(b"\r\n"):
                        self.unasked = size - at
                        raise Unreadable("a response without a request")
                    return  # empty lines after a response are not part of the next one
                if not self._response_heads:
                    self._first_byte = time.monotonic()
                head, at = self._response_heads.take(data, at)
                if head is None:
                    return
                self._response(head)
                continue
            start, end, at, done = self._download.take(data, at)
            if end > start:
                self._recorder.download(self._asked[0], data, start, end)
            if done:
                self._response_ended()

    def _response(self, head: bytes) -> None:
        found = heads.response(head)
        if found is None:
            self._interim += 1
            if self._interim > MAX_INTERIM:
                raise Unreadable(f"more than {MAX_INTERIM} interim responses")
            return
        self._interim = 0
        exchange = self._asked[0]
        status, reason, version, fields = found
        self._recorder.response(
            exchange, status, reason.decode("latin-1"), fields, self._first_byte, version.decode("ascii")
        )
        if status == 101:
            if not header(exchange.request_fields, b"upgrade"):  # RFC 9110 §7.8
                raise Unreadable("an upgrade that was not asked for")
            exchange.upgrade = header(fields, b"upgrade") or "another protocol"
            if self._strict:
                ambiguity.check_upgrade(exchange, fields)
            self._switched(f"upgraded to {exchange.upgrade}")
        elif exchange.method == "CONNECT" and status < 300:
            self._switched("a CONNECT inside the tunnel")
        elif exchange.method == "HEAD" or status in (204, 304):
            self._response_ended()
        else:
            self._download = _body(fields)
            if self._download is None:
                self._response_ended()

    def _response_ended(self) -> None:
        exchange = self._asked.popleft()
        if self._download is not None:
            exchange.trailers = self._download.trailers
            self._download = None
        if exchange is self._uploading:
            self._answered = True  # early: the client may still send the rest of its request
        else:
            self._recorder.end(exchange)

    def _switched(self, what: str) -> None:
        self._recorder.end(self._asked.popleft())
        self._stop(what)


def _body(fields: Fields) -> Body | None:
    """The body of a response that may have one (RFC 9112 §6.3); None if it is empty."""
    length = None
    for name, content in fields:
        key = name.lower()
        if key == b"transfer-encoding":
            return Chunked()
        if key == b"content-length":
            length = int(content)
    if length is None:
        return UntilClose()
    return Counted(length) if length else None
