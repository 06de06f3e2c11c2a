"""One HTTP transaction as a value: what decoders make (``recorder.py``) and observers get."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import count

import bodies

MAX_FIELDS = 256  # of a head that are kept; Apache accepts 100
MAX_CONTENT = 67_108_864  # octets that a body may decode to
# Above LITTLE_CONTENT, no more than RATIO times the coded size: 2 KB of zstd for 64 MB blocked the hub for 0.2 s.
LITTLE_CONTENT, RATIO = 1_048_576, 100

_DEFAULT_PORTS = {"http": ":80", "https": ":443"}

Fields = list[tuple[bytes, bytes]]

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
    version: str  # of HTTP in the request: 1.1, 2
    request_fields: Fields  # names in their original case; no HTTP/2 pseudo-fields
    started: float  # seconds since the epoch
    began: float
    id: int = field(default_factory=_exchanges.__next__)
    status: int | None = None
    reason: str = ""
    response_version: str | None = None  # of HTTP, which may be lower; None: the request's
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
    note: str | None = None  # what else the operator should know
    unkept: int = 0  # fields of its heads beyond MAX_FIELDS
    held: int = 0  # octets that are counted for its heads until it ends

    @property
    def url(self) -> str:
        """The target URI (RFC 9110 §7.1), scheme and host normalized (§4.2.3); of a CONNECT, its authority."""
        if self.target.startswith("/"):
            return _origin(self.connection.scheme, self.authority) + self.target
        if self.target == "*":
            return _origin(self.connection.scheme, self.authority)
        if self.version == "2" and (self.method, self.target) != ("CONNECT", self.authority):
            # RFC 9113 §8.3.1: its path never names an authority, even if it looks as if it did.
            return f"{_origin(self.connection.scheme, self.authority)}/{self.target}"
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
    return f"{scheme}://{authority.lower().removesuffix(_DEFAULT_PORTS.get(scheme, '')).removesuffix(':')}"


def _content(body: bytes | bytearray, fields: Fields) -> bytes:
    most = min(MAX_CONTENT, max(LITTLE_CONTENT, RATIO * len(body)))
    return bodies.decode(body, header(fields, b"content-encoding"), most).octets


class Unreadable(Exception):
    """Malformed or unacceptable bytes. Raised and caught within a decoder; the message never quotes a peer."""
