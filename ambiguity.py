"""Rejects what recipients parse differently, for connections whose requests must be judged before they pass.

Each function raises ``Unreadable``. The differences were observed in Go, Node.js, Python's http.server, HAProxy or
waitress.
"""

import re

from exchange import Exchange, Fields, Unreadable, header
from fields import connection_options
from heads import LENGTH, MAX_LENGTH, TCHAR

TRAILERS = "trailers, which may be read as another request"  # why they are refused
_VERSIONS = (b"1.0", b"1.1")
# A path, or a URI whose scheme everyone treats alike; no fragment, which some ignore.
_TARGET = re.compile(rb"(?:/|\*\Z|https://[^/?#]+(?:[/?]|\Z))[^#]*\Z", re.IGNORECASE)
_HTTP = re.compile("(?i)h2c|http|tls")  # protocol names that begin so: RFC 9110 §7.8, RFC 7540 §3.2, RFC 2817

_METHOD = re.compile(TCHAR.decode("ascii") + "+")
_PATH = re.compile(r"/[!-\"$-~]*|\*")  # no fragment, no space
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9a-z-]+")
_ENDS = re.compile(rb"[\0\r\n]")
_OF_HTTP1 = {b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"}


def check_version(version: bytes) -> None:
    """Reject an HTTP/1 request in another version than 1.0 and 1.1: waitress would ignore its Transfer-Encoding."""
    if version not in _VERSIONS:
        raise Unreadable("it is not HTTP/1.1")


def check_length(length: int | None) -> None:
    """Reject an HTTP/1 request with a length that not everyone can count."""
    if length is not None and length > MAX_LENGTH:
        raise Unreadable("a malformed length")


def check_authority(*said: str) -> None:
    """Reject a request with two authorities: by RFC 9112 §3.2.2 the target's counts, but not everyone routes by it."""
    if len({name.lower().removesuffix(":443") for name in said}) > 1:
        raise Unreadable("a Host that is not the authority")


def check_target(method: bytes, target: bytes) -> None:
    """Reject an HTTP/1 target that may be served as another one, and a CONNECT, which need not open a tunnel."""
    if method == b"CONNECT":
        raise Unreadable("a CONNECT inside the tunnel")
    if not _TARGET.match(target):
        raise Unreadable("a target that is neither a path nor an https URI")


def check_upgrade(exchange: Exchange, fields: Fields) -> None:
    """Reject a 101 after which the origin may still read HTTP: an application can send any status (RFC 9110 §7.8)."""
    if any(b"upgrade" not in connection_options(said) for said in (exchange.request_fields, fields)):
        raise Unreadable("a 101 that is no upgrade")
    agreed = header(fields, b"upgrade").strip().lower()
    if agreed not in {word.strip().lower() for word in header(exchange.request_fields, b"upgrade").split(",")}:
        raise Unreadable("an upgrade to what was not asked for")
    if _HTTP.match(agreed):
        raise Unreadable("an upgrade to HTTP, whose requests nobody would see")


def check_http2(special: dict[bytes, str], fields: Fields) -> None:
    """Reject an HTTP/2 request that would be another one in HTTP/1.1: RFC 9113 §8.2.1, §8.2.2 and §8.3.1.

    And what ``check_target`` and ``check_upgrade`` reject, in the form that it has here: RFC 9113 §8.5, RFC 8441 §4.
    """
    protocol = special.get(b":protocol")
    if protocol is None and special.get(b":method") == "CONNECT":
        raise Unreadable("a CONNECT inside the tunnel")
    if protocol is not None and _HTTP.match(protocol):
        raise Unreadable("an upgrade to HTTP, whose requests nobody would see")
    if not _METHOD.fullmatch(special.get(b":method", "")) or special.get(b":scheme", "https") not in ("http", "https"):
        raise Unreadable("a malformed method or scheme")
    path = special.get(b":path")
    if path is not None and not _PATH.fullmatch(path):
        raise Unreadable("a malformed path")
    for name, value in fields:
        if not _NAME.fullmatch(name) or name in _OF_HTTP1 or _ENDS.search(value):
            raise Unreadable("a malformed field")


def declared_length(fields: Fields) -> int | None:
    """An HTTP/2 request's Content-Length: in HTTP/1.1, whatever exceeds it is another request (RFC 9113 §8.1.1)."""
    said = {value for name, value in fields if name == b"content-length"}
    if not said:
        return None
    if len(said) > 1 or not all(map(LENGTH.fullmatch, said)):
        raise Unreadable("a malformed length")
    return int(said.pop())
