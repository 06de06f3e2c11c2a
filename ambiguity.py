"""What recipients read in different ways, so that where requests are judged it does not pass.

Each function raises ``Unreadable``. What is read otherwise was seen with Go, Node.js, Python's http.server or HAProxy.
"""

import re

from exchange import Exchange, Fields, Unreadable, header
from fields import connection_options
from heads import TCHAR

# A path, or a URI whose scheme everyone reads alike; no fragment, which some ignore.
_TARGET = re.compile(rb"(?:/|\*\Z|https://[^/?#]+(?:[/?]|\Z))[^#]*\Z", re.IGNORECASE)
_HTTP = re.compile("(?i)h2c|http|tls")  # RFC 9110 §7.8, RFC 7540 §3.2, RFC 2817: as names of protocols begin

_METHOD = re.compile(TCHAR.decode("ascii") + "+")
_PATH = re.compile(r"/[!-\"$-~]*|\*")  # no fragment, no space
_LENGTH = re.compile(rb"[0-9]{1,18}")
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9a-z-]+")
_ENDS = re.compile(rb"[\0\r\n]")
_OF_HTTP1 = {b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"}


def check_authority(*said: str) -> None:
    """A request that says in two ways whom it is for: RFC 9112 §3.2.2 has the target count, not everyone's routing."""
    if len({name.lower().removesuffix(":443") for name in said}) > 1:
        raise Unreadable("a Host that is not the authority")


def check_target(method: bytes, target: bytes) -> None:
    """An HTTP/1 request with a target that is served as another one, or opens no tunnel where it seems to."""
    if method == b"CONNECT":
        raise Unreadable("a CONNECT inside the tunnel")
    if not _TARGET.match(target):
        raise Unreadable("a target that is neither a path nor an https URI")


def check_upgrade(exchange: Exchange, fields: Fields) -> None:
    """A 101 behind which the origin may read HTTP on, as an application can send any status (RFC 9110 §7.8)."""
    if any(b"upgrade" not in connection_options(said) for said in (exchange.request_fields, fields)):
        raise Unreadable("a 101 that is no upgrade")
    agreed = header(fields, b"upgrade").strip().lower()
    if agreed not in {word.strip().lower() for word in header(exchange.request_fields, b"upgrade").split(",")}:
        raise Unreadable("an upgrade to what was not asked for")
    if _HTTP.match(agreed):
        raise Unreadable("an upgrade to HTTP, whose requests nobody would see")


def check_http2(special: dict[bytes, str], fields: Fields) -> None:
    """An HTTP/2 request that becomes another one in HTTP/1.1: RFC 9113 §8.2.1, §8.2.2 and §8.3.1."""
    if not _METHOD.fullmatch(special.get(b":method", "")) or special.get(b":scheme", "https") not in ("http", "https"):
        raise Unreadable("a malformed method or scheme")
    path = special.get(b":path")
    if path is not None and not _PATH.fullmatch(path):
        raise Unreadable("a malformed path")
    check_http2_fields(fields)


def check_http2_fields(fields: Fields) -> None:
    """The same of its fields or, behind its body, its trailers."""
    for name, value in fields:
        if not _NAME.fullmatch(name) or name in _OF_HTTP1 or _ENDS.search(value):
            raise Unreadable("a malformed field")


def declared_length(fields: Fields) -> int | None:
    """That of an HTTP/2 request's body: in HTTP/1.1, what is beyond is another request (RFC 9113 §8.1.1)."""
    said = {value for name, value in fields if name == b"content-length"}
    if not said:
        return None
    if len(said) > 1 or not all(map(_LENGTH.fullmatch, said)):
        raise Unreadable("a malformed length")
    return int(said.pop())
