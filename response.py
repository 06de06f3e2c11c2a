"""``ResponseReader``: what an origin answers to one request, as events of h11; sans-IO.

h11 gets whole heads, without what it refuses though a proxy has to accept it: see ``heads.unspaced``.
"""

import h11

import heads
from exchange import Unreadable
from framing import Heads

_SPACE = 0x20  # octets up to this one are control characters, line ends and white space


class ResponseReader:
    """Reads the response for the ``connection`` that sends the request."""

    def __init__(self, connection: h11.Connection) -> None:
        self._connection = connection
        self._heads = Heads()
        self._coming = b""  # not read yet
        self.began = False  # the head of the final response has come
        self.closed = False  # and nothing more will come

    def receive(self, data: bytes) -> None:
        """What came next, after ``next_event`` has returned ``NEED_DATA``; ``b""`` is the end."""
        self._coming = data
        if not data:
            self.closed = True
            self._connection.receive_data(b"")

    def next_event(self) -> h11.Event | type[h11.NEED_DATA | h11.PAUSED]:
        """As h11's. Raises ``h11.RemoteProtocolError`` or ``Unreadable``."""
        while (event := self._connection.next_event()) is h11.NEED_DATA and self._coming:
            if self.began:
                self._connection.receive_data(self._coming)
                self._coming = b""
                continue
            if not self._heads and self._coming[0] <= _SPACE:  # h11 would say so, too; ``Heads`` would wait for more
                raise Unreadable("no status line")
            head, at = self._heads.take(self._coming, 0)
            self._coming = self._coming[at:]
            if head is not None:
                self._connection.receive_data(heads.unspaced(head))
        if isinstance(event, h11.Response):
            self.began = True
        return event
