"""One HTTP transaction as a value, and the three events by which a decoder reports it.

A decoder (``http1.py``, ``http2.py``, or code that speaks HTTP itself) has a ``Recorder`` for its connection, which
makes each ``Exchange``, counts its octets, captures its bodies if wanted and notifies one ``Observer``. Nothing here
does I/O or switches greenlets. Among the observers only taps may, so none of them is given a shared buffer.
"""

import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import count
from typing import Protocol

import bodies

MAX_FIELDS = 256  # of a head that are kept; Apache accepts 100
MAX_CONTENT = 67_108_864  # octets that a body may decode to
# Above LITTLE_CONTENT, no more than RATIO times the coded size: 2 KB of zstd for 64 MB blocked the hub for 0.2 s.
LITTLE_CONTENT, RATIO = 1_048_576, 100
MAX_HELD = 4_194_304  # octets that the heads of one connection's exchanges under way may take, see hold()
MAX_ALL_HELD = 134_217_728  # the same for all connections; above it, none gets more than LITTLE_HELD
LITTLE_HELD = 196_608  # enough for the largest possible head, or for forty requests of a browser
FIELD = 200  # octets counted for each field beside those on the wire: in HPACK, one may stand for a field of any size
NO_ROOM = "heads of requests under way take too much memory"
MAX_CAPTURED = 67_108_864  # octets of the bodies of all exchanges under way; any more are counted, but not kept

_DEFAULT_PORTS = {"http": ":80", "https": ":443"}

Fields = list[tuple[bytes, bytes]]
Octets = bytes | memoryview

_connections = count(1)
_exchanges = count(1)


@dataclass(frozen=True, slots=True)
class Connection:
    """What the exchanges of one connection have in common."""

    client: str  # address:port
    origin: str  # address:port, as dialled
    scheme: str
    authority: str  # for requests that name none
    user: str | None = None  # who authenticated to the proxy
    id: int = field(default_factory=_connections.__next__)


@dataclass(slots=True, eq=False)
class Exchange:
    """One request and its response. Text from a peer is Latin-1, and unescaped: escape it before showing it.

    Octets are those of the content, without framing but with its content coding. All times except ``started`` are
    ``time.monotonic()``.
    """

    connection: Connection
    method: str
    authority: str
    target: str  # as sent: usually in origin-form
    version: str  # of HTTP: 1.1, 2
    request_fields: Fields  # names in their original case; no HTTP/2 pseudo-fields
    started: float  # seconds since the epoch
    began: float
    id: int = field(default_factory=_exchanges.__next__)
    status: int | None = None
    reason: str = ""
    response_fields: Fields = field(default_factory=list)
    trailers: Fields = field(default_factory=list)  # of the response
    request_octets: int = 0
    response_octets: int = 0
    request_body: bytearray | None = None  # None: not wanted; shorter than ``request_octets``: truncated
    response_body: bytearray | None = None
    request_ended: float | None = None
    first_byte: float | None = None  # of the response's head; interim responses don't count
    ended: float | None = None
    upgrade: str | None = None  # the protocol that takes over when this exchange ends
    pushed: bool = False  # by server push of HTTP/2
    error: str | None = None  # why it is incomplete
    held: int = 0  # octets that are counted for its heads until it ends

    @property
    def url(self) -> str:
        """The target URI (RFC 9110 §7.1), scheme and host normalized (§4.2.3); of a CONNECT, its authority."""
        if self.target.startswith("/"):
            return _origin(self.connection.scheme, self.authority) + self.target
        if self.target == "*":
            return _origin(self.connection.scheme, self.authority)
        scheme, absolute, rest = self.target.partition("://")
        if not absolute:
            return self.target
        authority = authority_of(self.target)
        return _origin(scheme, authority) + rest[len(authority) :]

    @property
    def content_type(self) -> str:
        """The response's content type; empty if it names none."""
        return header(self.response_fields, b"content-type")

    @property
    def request_content(self) -> bytes:
        """What was captured of the request's body, its content coding undone if possible."""
        return _content(self.request_body or b"", self.request_fields)

    @property
    def response_content(self) -> bytes:
        """The same of the response's body."""
        return _content(self.response_body or b"", self.response_fields)

    @property
    def captured(self) -> int:
        """How many octets of bodies were captured."""
        return len(self.request_body or b"") + len(self.response_body or b"")


def header(fields: Iterable[tuple[bytes, bytes]], name: bytes) -> str:
    """All lines of a field (its name in lower case) combined into one value, RFC 9110 §5.3; empty if there is none."""
    return ", ".join([content.decode("latin-1") for key, content in fields if key.lower() == name])


def authority_of(target: str) -> str:
    """The authority in a request target, which takes precedence over Host (RFC 9112 §3.2.2); empty if it has none."""
    if target.startswith("/") or target == "*":
        return ""
    _, absolute, rest = target.partition("://")
    return re.split("[/?#]", rest if absolute else target, maxsplit=1)[0]


def _origin(scheme: str, authority: str) -> str:
    scheme = scheme.lower()
    return f"{scheme}://{authority.lower().removesuffix(_DEFAULT_PORTS.get(scheme, ''))}"


def _content(body: bytes | bytearray, fields: Fields) -> bytes:
    most = min(MAX_CONTENT, max(LITTLE_CONTENT, RATIO * len(body)))
    return bodies.decode(body, header(fields, b"content-encoding"), most).octets


class Unreadable(Exception):
    """Malformed or unacceptable bytes. Raised and caught within a decoder; the message never quotes a peer."""


class Observer(Protocol):
    """Receives the events. It is called between two writes of the tunnel, and only a tap may block then."""

    def request(self, exchange: Exchange) -> None:
        """The request's head is known, and nothing else yet."""

    def ended(self, exchange: Exchange) -> None:
        """Request and response are complete, or were cut off (``error``). The exchange no longer changes."""

    def noted(self, connection: Connection, what: str) -> None:
        """The connection is not decoded from here on; ``what`` says why. At most once per connection."""


class Capture:
    """How much of bodies is kept: ``limit`` octets of each, ``total`` of all exchanges under way that share this.

    An exchange that has ended no longer counts: an observer that keeps it must bound that memory itself.
    """

    __slots__ = ("left", "limit")

    def __init__(self, limit: int, total: int = MAX_CAPTURED) -> None:
        self.limit = limit
        self.left = total

    def keep(self, body: bytearray, data: Octets) -> None:
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
        if self._capture is not None:
            exchange.request_body, exchange.response_body = bytearray(), bytearray()
        self._observer.request(exchange)
        return exchange

    def response(self, exchange: Exchange, status: int, reason: str, fields: Fields, first_byte: float) -> None:
        """The head of its final response is complete."""
        exchange.status, exchange.reason = status, reason
        exchange.first_byte = max(first_byte, exchange.began)  # an origin may respond before the request's head ends
        exchange.response_fields = fields[:MAX_FIELDS]

    def hold(self, exchange: Exchange, fields: Fields, octets: int) -> bool:
        """Count a head with ``octets`` of text until its exchange ends; return whether there is room for it."""
        octets += FIELD * len(fields)
        exchange.held += octets
        self._held += octets
        Recorder._all_held += octets
        return self._held <= (MAX_HELD if Recorder._all_held <= MAX_ALL_HELD else LITTLE_HELD)

    def upload(self, exchange: Exchange, data: Octets, start: int, end: int) -> None:
        """Count ``data[start:end]`` as content of the request; copied only if bodies are wanted."""
        body = exchange.request_body
        if body is not None and self._capture is not None and len(body) == exchange.request_octets:
            self._capture.keep(body, data[start:end])
        exchange.request_octets += end - start

    def download(self, exchange: Exchange, data: Octets, start: int, end: int) -> None:
        """The same for the response."""
        body = exchange.response_body
        if body is not None and self._capture is not None and len(body) == exchange.response_octets:
            self._capture.keep(body, data[start:end])
        exchange.response_octets += end - start

    def end(self, exchange: Exchange, error: str | None = None) -> None:
        """End an exchange; ``error`` says why it is incomplete, if it is."""
        exchange.ended = time.monotonic()
        exchange.error = error
        self._held -= exchange.held
        Recorder._all_held -= exchange.held
        exchange.held = 0
        if self._capture is not None:
            self._capture.left += exchange.captured
        self._observer.ended(exchange)

    def note(self, what: str) -> None:
        """The connection is no longer decoded; ``what`` says why."""
        self._observer.noted(self.connection, what)
