"""``Rewriter``: HTTP/1.1 requests whose heads a tap may change, or answer in the origin's stead.

Requests are forwarded one at a time: a pipelined one waits until the previous one is answered, which keeps our own
answers in order. Bodies pass unchanged. What can't be judged does not pass: ``Refused`` is raised for a stream that is
not HTTP/1.1, or is malformed. After an upgrade everything passes.
"""

from collections.abc import Iterator

import h11
from gevent.event import Event
from gevent.lock import RLock

from answer import Answer
from errors import Refused
from exchange import Exchange, Unreadable
from fields import connection_options
from http1 import Http1
from recorder import Malformed, Recorder
from verdict import Decide, check_fields, judge, record_answer

WAIT_SECONDS = 300.0  # for the previous response: as long as a long poll


class Rewriter(Http1):
    """One connection's requests. ``decide`` may change an exchange's request head, or answer it; it may block.

    No recipient may find requests in what passes other than those that were judged: whatever it may parse differently,
    and all that follows an unreadable response, is refused.
    """

    __slots__ = (
        "_answer",
        "_broken",
        "_decide",
        "_heard",
        "_idle",
        "_switched_over",
        "_turn",
        "_unheard",
        "closing",
    )

    def __init__(self, recorder: Recorder, decide: Decide) -> None:
        super().__init__(recorder, strict=True)
        self._decide = decide
        self._turn = RLock()  # held while a request is judged: the origin's data, or its end, waits
        self._idle = Event()  # no response is awaited
        self._idle.set()
        self._switched_over = False
        self._unheard = False  # the origin has ended, and will answer no more
        self._heard = 0  # octets from the origin
        self._broken = False  # a response is malformed: the next one can't be matched to a request
        self._answer = b""
        self.closing = False  # the connection ends after the answer

    def forward(self, data: bytes) -> Iterator[bytes]:
        """Yield what to forward of the client's data, piece by piece; each must be sent before asking for the next.

        An empty piece means that there is an answer to take and send.
        """
        at = 0
        while at < len(data) and not self.closing and not self._unheard:
            if self._switched_over:
                yield data[at:]
                return
            if self._upload is None:
                if self._may_switch():
                    self._wait()
                    continue
                self._check_broken()
                head, at = self._next_head(data, at)
                if head is None:
                    return
                self._wait()
                with self._turn:
                    passed = self._judge(head)
                if self._answer:
                    yield b""  # sent before anything else is looked at
            else:
                begin, done = at, False
                while at < len(data) and not done:  # as one piece: a tiny chunk would be three, each with a write
                    start, end, at, done = self._span(data, at)
                    if end > start and self._uploading is not None:
                        self._recorder.upload(self._uploading, data, start, end)
                passed = data[begin:at]
                if done:
                    self._upload = None
                    if self._uploading is not None:
                        self._request_ended()
            if passed:
                yield passed

    def take_answer(self) -> bytes:
        """Take what to send the client in the origin's stead: whole responses."""
        answer, self._answer = self._answer, b""
        return answer

    def received(self, data: bytes) -> None:
        """What the origin sent next. Blocks while a request is judged, but not after letting the next one go on.

        What answers no request (``unasked``) must not be taken for the response to the next one.
        """
        with self._turn:
            self._heard += len(data)
            super().received(data)
            if not self._asked:
                self._idle.set()

    def origin_ended(self) -> None:
        """The origin has ended its direction in an orderly way. Blocks while a request is judged."""
        with self._turn:
            super().origin_ended()

    def closed(self, error: str | None = None) -> None:
        """The connection is over, or can't be followed any more. Blocks while a request is judged."""
        with self._turn:
            super().closed(error)
            self._idle.set()

    def _stop(self, what: str, malformed: Malformed | None = None) -> None:
        self._broken = True
        super()._stop(what, malformed)

    def _switched(self, what: str) -> None:
        self._switched_over = True
        super()._switched(what)

    def _wait(self) -> None:
        """Wait until no response is awaited. There is no limit while the origin keeps sending."""
        heard = -1
        while heard != self._heard:
            heard = self._heard
            if self._idle.wait(WAIT_SECONDS):
                return
        raise Refused("the response to the previous request did not come")

    def _check_broken(self) -> None:
        if self._broken:
            raise Refused("a request that can't be judged: the previous response is malformed")

    def _next_head(self, data: bytes, at: int) -> tuple[bytes | None, int]:
        try:
            return self._request_heads.take(data, at)
        except Unreadable as error:
            self._wait()  # a refusal must come after the previous response
            raise Refused(f"a request that can't be judged: {error}") from error

    def _span(self, data: bytes, at: int) -> tuple[int, int, int, bool]:
        assert self._upload is not None
        try:
            return self._upload.take(data, at)
        except Unreadable as error:
            raise Refused(f"a request body that can't be read: {error}") from error

    def _judge(self, head: bytes) -> bytes:
        """Judge a request; return its head to forward, empty if it was answered or no origin is left to answer it."""
        self._check_broken()
        if not self.watching:
            self._unheard = True  # drops its body, too, and all that follows
            return b""
        check_fields(head.count(b"\n") - 2)
        try:
            self._request(head)
        except h11.RemoteProtocolError as error:
            raise Refused("a request that can't be judged: it is not HTTP/1.1") from error
        except Unreadable as error:
            raise Refused(f"a request that can't be judged: {error}") from error
        exchange = self._asked[-1]
        last = exchange.version == "1.0" or b"close" in connection_options(exchange.request_fields)
        answer, changed = judge(exchange, self._decide, hops=True)
        if answer is not None:
            self._reply(exchange, answer, last)
            return b""
        self._idle.clear()
        return head if changed is None else _written(changed)

    def _reply(self, exchange: Exchange, answer: Answer, last: bool) -> None:
        """Answer a request; ``last`` if the client wants no further response, or can't ask for one (RFC 9112 §9.3)."""
        self._asked.pop()
        told = b"close" in connection_options(answer.head(closing=False).headers.raw_items())
        # Also before a body: the client may await a 100, or send without end.
        self.closing = last or told or self._upload is not None
        self._answer += answer.written(exchange.method, self.closing)
        record_answer(self._recorder, exchange, answer, self.closing)


def _written(request: h11.Request) -> bytes:
    lines = [b"%s: %s\r\n" % (name, value) for name, value in request.headers.raw_items()]
    return b"%s %s HTTP/%s\r\n%s\r\n" % (request.method, request.target, request.http_version, b"".join(lines))
