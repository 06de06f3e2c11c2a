"""``Recorder``: reports the exchanges of a connection, by three events, to one ``Observer``.

A decoder (``http1.py``, ``http2.py``, or code that speaks HTTP itself) has one for its connection. It makes each
``Exchange``, counts its octets, captures its bodies if wanted and notifies the observer. Nothing here does I/O or
switches greenlets. Among the observers only taps may, so none of them is given a shared buffer.
"""

import time
from enum import Enum, auto

from exchange import MAX_FIELDS, Connection, Exchange, Fields

MAX_HELD = 4_194_304  # octets that the heads of one connection's exchanges under way may take, see hold()
MAX_ALL_HELD = 134_217_728  # the same for all connections; above it, none gets more than LITTLE_HELD
LITTLE_HELD = 196_608  # enough for the largest possible head, or for forty requests of a browser
FIELD = 200  # octets counted for each field beside those on the wire: in HPACK, one may stand for a field of any size
NO_ROOM = "heads of requests under way take too much memory"
MAX_CAPTURED = 67_108_864  # octets of the bodies of all exchanges under way; any more are counted, but not kept


class Malformed(Enum):
    """Whose octets could not be read as HTTP."""

    CLIENT = auto()
    ORIGIN = auto()


class Observer:
    """Receives the events. It is called between two writes of the tunnel, and only a tap may block then.

    Those who inherit from it may leave out what means nothing to them.
    """

    def request(self, exchange: Exchange) -> None:
        """The request's head is known, and nothing else yet."""

    def ended(self, exchange: Exchange) -> None:
        """Request and response are complete, or were cut off (``error``). The exchange no longer changes."""

    def noted(self, connection: Connection, what: str, malformed: Malformed | None) -> None:
        """The connection is not decoded from here on; ``what`` says why, ``malformed`` whose fault it is, if anyone's.

        At most once per connection.
        """


class Capture:
    """How much of bodies is kept: ``limit`` octets of each, ``total`` of all exchanges under way that share this.

    An exchange that has ended no longer counts: an observer that keeps it must bound that memory itself.
    """

    __slots__ = ("left", "limit")

    def __init__(self, limit: int, total: int = MAX_CAPTURED) -> None:
        self.limit = limit
        self.left = total

    def keep(self, body: bytearray, data: bytes) -> None:
        """Append as much as there is room for."""
        size = len(body)
        body += data[: max(0, min(self.limit - size, self.left))]
        self.left -= len(body) - size


class Recorder:
    """Makes and ends the exchanges of one connection, for one observer."""

    __slots__ = ("_capture", "_held", "_observer", "connection")

    _all_held = 0  # by all recorders

    def __init__(self, connection: Connection, observer: Observer, capture: Capture | None = None) -> None:
        self.connection = connection
        self._observer = observer
        self._capture = capture
        self._held = 0

    def request(
        self,
        method: str,
        authority: str,
        target: str,
        version: str,
        fields: Fields,
        upgrade: str | None = None,
        pushed: bool = False,
    ) -> Exchange:
        """A new exchange, whose request head is complete."""
        exchange = Exchange(
            self.connection,
            method,
            authority or self.connection.authority,
            target,
            version,
            fields[:MAX_FIELDS],
            time.time(),
            time.monotonic(),
        )
        exchange.upgrade, exchange.pushed = upgrade, pushed
        exchange.unkept = max(0, len(fields) - MAX_FIELDS)
        if self._capture is not None:
            exchange.request_body, exchange.response_body = bytearray(), bytearray()
        self._observer.request(exchange)
        return exchange

    def response(
        self,
        exchange: Exchange,
        status: int,
        reason: str,
        fields: Fields,
        first_byte: float,
        version: str | None = None,
    ) -> None:
        """The head of its final response is complete. ``version`` is None if it is the request's."""
        exchange.status, exchange.reason, exchange.response_version = status, reason, version
        exchange.first_byte = max(first_byte, exchange.began)  # an origin may respond before the request's head ends
        exchange.response_fields = fields[:MAX_FIELDS]
        exchange.unkept += max(0, len(fields) - MAX_FIELDS)

    def hold(self, exchange: Exchange, fields: Fields, octets: int) -> bool:
        """Count a head with ``octets`` of text until its exchange ends; return whether there is room for it."""
        octets += FIELD * len(fields)
        exchange.held += octets
        self._held += octets
        Recorder._all_held += octets
        return self._held <= (MAX_HELD if Recorder._all_held <= MAX_ALL_HELD else LITTLE_HELD)

    def upload(self, exchange: Exchange, data: bytes, start: int, end: int) -> None:
        """Count ``data[start:end]`` as content of the request; copied only if bodies are wanted."""
        body = exchange.request_body
        if body is not None and self._capture is not None and len(body) == exchange.request_octets:
            self._capture.keep(body, data[start:end])
        exchange.request_octets += end - start

    def download(self, exchange: Exchange, data: bytes, start: int, end: int) -> None:
        """The same for the response."""
        body = exchange.response_body
        if body is not None and self._capture is not None and len(body) == exchange.response_octets:
            self._capture.keep(body, data[start:end])
        exchange.response_octets += end - start

    def end(self, exchange: Exchange, error: str | None = None) -> None:
        """End an exchange; ``error`` says why it is incomplete, if it is."""
        exchange.ended = time.monotonic()
        exchange.error = error
        if error is not None:  # what was asked for, or agreed to, does not follow
            exchange.upgrade = None
        self._held -= exchange.held
        Recorder._all_held -= exchange.held
        exchange.held = 0
        if self._capture is not None:
            self._capture.left += exchange.captured
        self._observer.ended(exchange)

    def note(self, what: str, malformed: Malformed | None = None) -> None:
        """The connection is no longer decoded: see ``Observer.noted``."""
        self._observer.noted(self.connection, what, malformed)
