"""One HTTP transaction as a value, and the three events by which a decoder tells of it.

A decoder (``http1.py``, ``http2.py``, or whoever speaks HTTP itself) has a ``Recorder`` for its connection, which makes
each ``Exchange``, counts its octets, keeps what is wanted of its bodies and tells one ``Observer``. Nothing here does
I/O or switches greenlets; of observers only taps may, so that what is told is no shared buffer.
"""

import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import count
from typing import Protocol

import bodies

MAX_FIELDS = 256  # of a head that are kept; Apache stops at 100
MAX_CONTENT = 67_108_864  # octets that a body's content coding may hide
# Beyond so many, no more than so many times its own: 2 KB of zstd for 64 MB held up everyone for 0.2 s.
LITTLE_CONTENT, RATIO = 1_048_576, 100
MAX_HELD = 4_194_304  # octets that heads of one connection take while their exchanges are under way, see ``hold``
MAX_ALL_HELD = 134_217_728  # those of all connections; beyond, one that has more than LITTLE_HELD gets no more
LITTLE_HELD = 196_608  # the largest head that there is, or forty requests of a browser
FIELD = 200  # octets that a field counts there, beside the wire's: one of these may stand for a field of any size
NO_ROOM = "heads of requests under way take too much memory"
MAX_CAPTURED = 67_108_864  # octets of bodies of all exchanges under way; what comes beyond is counted, not kept

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
    authority: str  # where a request names none
    user: str | None = None  # who authenticated to the proxy
    id: int = field(default_factory=_connections.__next__)


@dataclass(slots=True, eq=False)
class Exchange:
    """One request and the response to it. Text from a peer is Latin-1, as it was sent: escape it before it is shown.

    Octets are those of the content: without framing, with its content coding. Times but ``started`` are
    ``time.monotonic()``.
    """

    connection: Connection
    method: str
    authority: str
    target: str  # as sent: origin-form, mostly
    version: str  # of HTTP: 1.1, 2
    request_fields: Fields  # names in the case they were sent in, without HTTP/2's pseudo-fields
    started: float  # seconds since the epoch
    began: float
    id: int = field(default_factory=_exchanges.__next__)
    status: int | None = None
    reason: str = ""
    response_fields: Fields = field(default_factory=list)
    trailers: Fields = field(default_factory=list)  # of the response
    request_octets: int = 0
    response_octets: int = 0
    request_body: bytearray | None = None  # None: not wanted; shorter than the octets: cut
    response_body: bytearray | None = None
    request_ended: float | None = None
    first_byte: float | None = None  # of the response's head; interim responses don't count
    ended: float | None = None
    upgrade: str | None = None  # the protocol that goes on where this exchange ends
    pushed: bool = False  # HTTP/2: the origin answers what nobody asked
    error: str | None = None  # why it is not complete
    held: int = 0  # octets that its heads count for, until it ends

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
        """Of the response; empty if it names none."""
        return header(self.response_fields, b"content-type")

    @property
    def request_content(self) -> bytes:
        """What was kept of the request's body, its content coding undone where it can be."""
        return _content(self.request_body or b"", self.request_fields)

    @property
    def response_content(self) -> bytes:
        """The same of the response's."""
        return _content(self.response_body or b"", self.response_fields)

    @property
    def captured(self) -> int:
        """Octets of bodies that it holds."""
        return len(self.request_body or b"") + len(self.response_body or b"")


def header(fields: Iterable[tuple[bytes, bytes]], name: bytes) -> str:
    """The lines of a field (its name in lower case) as one value, RFC 9110 §5.3; empty if there is none."""
    return ", ".join([content.decode("latin-1") for key, content in fields if key.lower() == name])


def authority_of(target: str) -> str:
    """That of a target which has one, and counts before any Host (RFC 9112 §3.2.2); empty if it has none."""
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
    """These bytes are not what they should be. Raised and caught within a decoder; the text is our own, no peer's."""


class Observer(Protocol):
    """Whoever wants to know. It is called between two writes of the tunnel, and only a tap may wait then."""

    def request(self, exchange: Exchange) -> None:
        """The request's head is known, and nothing else yet."""

    def ended(self, exchange: Exchange) -> None:
        """Request and response are complete, or it was broken off (``error``). It changes no more."""

    def noted(self, connection: Connection, what: str) -> None:
        """The connection's bytes are not looked at from here on, and why; at most once a connection."""


class Capture:
    """How much of bodies is kept: ``limit`` octets of each one, ``total`` of all exchanges under way that share it.

    An ended exchange counts no more: an observer that keeps it answers for its memory.
    """

    __slots__ = ("left", "limit")

    def __init__(self, limit: int, total: int = MAX_CAPTURED) -> None:
        self.limit = limit
        self.left = total

    def keep(self, body: bytearray, data: Octets) -> None:
        """Append what there is room for."""
        size = len(body)
        body += data[: max(0, min(self.limit - size, self.left))]
        self.left -= len(body) - size


class Recorder:
    """Makes and ends the exchanges of one connection, for one observer."""

    __slots__ = ("_capture", "_held", "_observer", "connection")

    _all_held = 0  # by all of them

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
        exchange.first_byte = max(first_byte, exchange.began)  # an origin may begin before it is asked
        exchange.response_fields = fields[:MAX_FIELDS]

    def hold(self, exchange: Exchange, fields: Fields, octets: int) -> bool:
        """Count a head of an exchange, and so many octets of text, until that ends; whether there is room for them."""
        octets += FIELD * len(fields)
        exchange.held += octets
        self._held += octets
        Recorder._all_held += octets
        return self._held <= (MAX_HELD if Recorder._all_held <= MAX_ALL_HELD else LITTLE_HELD)

    def upload(self, exchange: Exchange, data: Octets, start: int, end: int) -> None:
        """Content of the request: ``data[start:end]``. Not copied unless it is wanted."""
        body = exchange.request_body
        if body is not None and self._capture is not None and len(body) == exchange.request_octets:
            self._capture.keep(body, data[start:end])
        exchange.request_octets += end - start

    def download(self, exchange: Exchange, data: Octets, start: int, end: int) -> None:
        """Content of the response, likewise."""
        body = exchange.response_body
        if body is not None and self._capture is not None and len(body) == exchange.response_octets:
            self._capture.keep(body, data[start:end])
        exchange.response_octets += end - start

    def end(self, exchange: Exchange, error: str | None = None) -> None:
        """It is over, whole or, with an error, not."""
        exchange.ended = time.monotonic()
        exchange.error = error
        self._held -= exchange.held
        Recorder._all_held -= exchange.held
        exchange.held = 0
        if self._capture is not None:
            self._capture.left += exchange.captured
        self._observer.ended(exchange)

    def note(self, what: str) -> None:
        """The connection's bytes are not looked at any more."""
        self._observer.noted(self.connection, what)
