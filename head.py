"""The head of an HTTP/1 request, sans-IO: bytes go in; a ``RequestHead``, "need more" or an error comes out.

h11 parses; checked here is what it accepts and a proxy must not (RFC 9112 §2.2, §5.2, §6.1 and §6.3): a bare LF, a
folded line, Content-Length with Transfer-Encoding or of too many digits, a CONNECT with a body, a version other than
1.x, and a head that is too large but arrives in one piece.
"""

import re
from dataclasses import dataclass

import h11

import heads
import names
from errors import ClientError, HeadTooLarge
from exchange import Fields, header
from names import Target

MAX_HEAD = 32_768  # octets; browsers and servers stop at 8 to 64 KiB

_QUOTE = re.compile(r":? (?:bytearray\(|b['\"])")
_BARE_LF = re.compile(rb"(?<!\r)\n")
_SOCKS = (b"\4", b"\5")  # its versions: a SOCKS client sends a few octets, then waits for an answer
_BODY_HEADERS = {b"content-length", b"transfer-encoding"}


@dataclass(frozen=True, slots=True)
class RequestHead:
    """One request head. ``connection`` is the h11 server connection that has read it; a CONNECT needs none."""

    method: str
    target: str
    headers: Fields  # names in the case they were sent in
    http_version: str
    has_body: bool  # RFC 9112 §6.3: with Content-Length or Transfer-Encoding
    connection: h11.Connection | None

    def header(self, name: bytes) -> str:
        """A field's value, as by ``exchange.header``."""
        return header(self.headers, name)


class HeadReader:
    """Reads one head; each byte is examined once. ``rest`` holds what was received after it."""

    __slots__ = ("_most", "_seen", "_skipped", "rest")

    def __init__(self, most: int = MAX_HEAD) -> None:
        self._most = most
        self.rest = bytearray()
        self._seen = 0
        self._skipped = False

    def receive(self, data: bytes) -> RequestHead | None:
        """Take more bytes; return the head once it is complete, None while more is needed.

        Raises ``ClientError`` if it is malformed, ``HeadTooLarge`` if it exceeds ``most`` octets.
        """
        buffer = self.rest
        buffer += data
        if not self._skipped and buffer.startswith(b"\r\n"):
            self._skipped = True
            del buffer[:2]  # one empty line before the request line is to be ignored, RFC 9112 §2.2
        end = buffer.find(b"\r\n\r\n", max(0, self._seen - 3))
        limit = end + 4 if end >= 0 else len(buffer)
        if _BARE_LF.search(buffer, self._seen, limit):
            raise ClientError("a line of the request head ends with a bare LF")
        if limit > self._most:
            raise HeadTooLarge(f"the request head is larger than {self._most} octets")
        if end < 0:
            if buffer.startswith(_SOCKS):
                raise ClientError("this is an HTTP proxy, not SOCKS: give clients its address as http://")
            self._seen = len(buffer) - buffer.endswith(b"\r")
            return None
        head = bytes(buffer[:limit])
        del buffer[:limit]
        return _connect(head) or _parse(head)


def _connect(head: bytes) -> RequestHead | None:
    """Parse an ordinary CONNECT; None if ``_parse`` must read the head."""
    found = heads.usual_request(head) if head.startswith(b"CONNECT ") else None
    if found is None or _BODY_HEADERS.intersection([name.lower() for name, _ in found.fields]):
        return None
    return RequestHead(
        "CONNECT", found.target.decode("ascii"), found.fields, found.version.decode("ascii"), False, None
    )


def _parse(head: bytes) -> RequestHead:
    if b"\n " in head or b"\n\t" in head:
        raise ClientError("a line of the request head is folded")
    connection = h11.Connection(h11.SERVER)
    try:
        connection.receive_data(heads.escaped(head))
        request = connection.next_event()
    except h11.RemoteProtocolError as error:
        error.__traceback__ = None  # h11's refers to the error itself: a cycle
        raise ClientError(f"malformed request head: {without_quote(error)}") from error
    if not isinstance(request, h11.Request):
        raise ClientError("malformed request head")
    if not request.http_version.startswith(b"1."):  # a higher minor version is read as 1.1 (RFC 9110 §2.5)
        raise ClientError("HTTP versions other than 1.x are not spoken here")
    body = _BODY_HEADERS.intersection(key for key, _ in request.headers)
    if len(body) == 2:
        raise ClientError("Content-Length beside Transfer-Encoding")
    if any(key == b"content-length" and int(value) > heads.MAX_LENGTH for key, value in request.headers):
        raise ClientError("a Content-Length that not everyone can count")
    if request.http_version == b"1.0" and b"transfer-encoding" in body:
        raise ClientError("Transfer-Encoding in HTTP/1.0")
    # "Content-Length: 0" declares none; Windows' own HTTP clients and Mojolicious send it.
    if request.method == b"CONNECT" and any(key in body and value != b"0" for key, value in request.headers):
        raise ClientError("a CONNECT with a body")
    return RequestHead(
        request.method.decode("ascii"),
        request.target.decode("ascii"),
        request.headers.raw_items(),
        request.http_version.decode("ascii"),
        bool(body),
        connection,
    )


def without_quote(error: object) -> str:
    """The text of an error, of h11's or another, without the line that it quotes, which may hold a secret."""
    return _QUOTE.split(str(error), maxsplit=1)[0]


def http_target(target: str, method: str = "GET") -> tuple[Target, str]:
    """Split an absolute-form ``http`` URI into its authority and its origin-form (RFC 9112 §3.2.1, RFC 9110 §4.2.1).

    Raises ``ClientError`` for another scheme, user information or a malformed authority.
    """
    scheme, _, rest = target.partition("://")
    if scheme.lower() != "http":
        raise ClientError("only http:// is forwarded; for https:// use CONNECT")
    authority, path = re.match(r"([^/?#]*)([^#]*)", rest).groups()  # type: ignore[union-attr]  # matches anything
    if "@" in authority:
        raise ClientError("user information in a request target")
    if not path and method == "OPTIONS":
        path = "*"  # RFC 9112 §3.2.4
    elif not path.startswith("/"):
        path = f"/{path}"
    return names.target(authority, default_port=80), path
