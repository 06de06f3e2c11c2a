"""``ResponseReader``: what an origin answers to one request, as events of h11; sans-IO.

h11 gets whole heads and trailers, without what it refuses though a proxy has to accept it: see ``heads.unspaced``. It
would not tell where trailers begin, so it sees no chunk but the last.
"""

import h11

import heads
from exchange import Unreadable
from framing import Chunked, Heads

_LAST = b"0\r\n"  # the chunk before the trailers
_SPACE = 0x20  # octets up to this one are control characters, line ends and white space


class ResponseReader:
    """Reads the response for the ``connection`` that sends the request."""

    def __init__(self, connection: h11.Connection) -> None:
        self._connection = connection
        self._heads = Heads()  # the next head; or the trailers, begun by the last chunk
        self._chunked = False  # chunks come next
        self._chunks: Chunked | None = None  # they have begun
        self._coming = b""  # what came last
        self._at = 0  # where that begins which is not read yet
        self.began = False  # the head of the final response has come
        self.closed = False  # and nothing more will come

    def receive(self, data: bytes) -> None:
        """What came next, after ``next_event`` has returned ``NEED_DATA``; ``b""`` is the end."""
        self._coming, self._at = data, 0
        if not data:
            self.closed = True
            self._connection.receive_data(b"")

    def next_event(self) -> h11.Event | type[h11.NEED_DATA | h11.PAUSED]:
        """As h11's. Raises ``h11.RemoteProtocolError`` or ``Unreadable``."""
        while True:
            if self._chunks is not None and self._at < len(self._coming):
                start, end, self._at, _ = self._chunks.take(self._coming, self._at)
                if end > start:
                    return h11.Data(data=self._coming[start:end])
                if self._chunks.at_trailers:
                    self._chunks = None
                    self._heads.take(_LAST, 0)
                continue
            event = self._connection.next_event()
            if event is not h11.NEED_DATA or self._at == len(self._coming):
                break
            if self._chunked:  # and has content: a response to HEAD has none
                self._chunked = False
                self._chunks = Chunked(strict=True)
            elif self.began and not self._heads:
                self._connection.receive_data(self._coming[self._at :])
                self._at = len(self._coming)
            else:
                # h11 would say so, too; ``Heads`` would wait for more
                if not self._heads and self._coming[self._at] <= _SPACE:
                    raise Unreadable("no status line")
                head, self._at = self._heads.take(self._coming, self._at)
                if head is not None:
                    self._connection.receive_data(heads.unspaced(head))
        if isinstance(event, h11.Response):
            self.began = True
            self._chunked = any(key == b"transfer-encoding" for key, _ in event.headers)
        return event
