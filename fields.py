"""The fields of plain-HTTP messages that pass us, by RFC 9110 §7.6: what is hop by hop stays behind, Via is added."""

from collections.abc import Set
from email.utils import formatdate

import h11

from head import RequestHead
from heads import Fields
from names import Target
from pages import VIA

# The fields that were meant for us, and those of RFC 9110 §7.6.1.
_OURS = {b"proxy-connection", b"proxy-authorization"}
_HOP_BY_HOP = {
    *_OURS, b"connection", b"keep-alive", b"proxy-authenticate", b"te", b"transfer-encoding", b"upgrade",
}  # fmt: skip
# Connection must not name these: without them the message would be another one (RFC 9110 §7.6.1).
_END_TO_END = {b"content-length", b"host"}
# About framing, routing, who asks, and how content is to be read: recipients that merge trailers would believe them.
_OF_HEADS = {
    b"content-length", b"content-encoding", b"content-type", b"content-range", b"trailer", b"host", b"authorization",
    b"www-authenticate", b"cookie", b"set-cookie", b"max-forwards", b"via",
}  # fmt: skip
_LENGTH = {b"content-length"}
_DIGITS = 9  # of a Max-Forwards that is counted down


def addressed(fields: Fields, target: Target) -> Fields:
    """Those of a request; Host is the target's, whatever the client's said (RFC 9112 §3.2.2)."""
    return [_host(target), *((key, value) for key, value in fields if key.lower() != b"host")]


def for_origin(head: RequestHead) -> Fields:
    """Of a request."""
    passed = []
    left = forwards_left(head)
    for key, value in _end_to_end(head.headers):
        if key.lower() == b"max-forwards" and left is not None:
            value = b"%d" % max(0, left - 1)
        passed.append((key, value))
    if head.header(b"transfer-encoding"):
        passed.append((b"Transfer-Encoding", b"chunked"))
    passed.append((b"Via", f"{head.http_version} {VIA}".encode("ascii")))
    if not head.has_body:  # where the connection ends, Node.js cuts off an upload that it has answered
        passed.append((b"Connection", b"close"))
    return passed


def forwards_left(head: RequestHead) -> int | None:
    """How often a request may still be forwarded (RFC 9110 §7.6.2); None where that is not counted."""
    if head.method not in ("TRACE", "OPTIONS"):
        return None
    said = head.header(b"max-forwards")
    return int(said) if said.isascii() and said.isdigit() and len(said) <= _DIGITS else None


def for_judges(head: RequestHead, target: Target) -> Fields:
    """Of a request, for who may refuse or change it: Host is the target's, and Connection takes nothing away later."""
    framing = [(key, value) for key, value in head.headers if key.lower() == b"transfer-encoding"]
    return addressed([*_end_to_end(head.headers), *framing], target)


def without_ours(fields: Fields) -> Fields:
    """Of a request, for who looks: the client's password to the proxy is no part of what it says to the origin."""
    return [(key, value) for key, value in fields if key.lower() not in _OURS]


def for_client(response: h11.Response, closing: bool) -> Fields:
    """Of a response; ``closing``: the connection ends behind it."""
    chunked = any(key == b"transfer-encoding" for key, _ in response.headers)
    # Chunked overrides a Content-Length (RFC 9112 §6.3), which would be false without it.
    passed = _end_to_end(response.headers.raw_items(), but=_LENGTH if chunked else frozenset())
    if not any(key.lower() == b"date" for key, _ in passed):  # RFC 9110 §6.6.1: who has a clock adds it
        passed.append((b"Date", formatdate(usegmt=True).encode("ascii")))
    passed.append((b"Via", f"{response.http_version.decode('ascii')} {VIA}".encode("ascii")))
    if closing:
        passed.append((b"Connection", b"close"))
    return passed


def interim(response: h11.InformationalResponse) -> Fields:
    """Of a 1xx response, which has no content (RFC 9110 §8.6)."""
    return _end_to_end(response.headers.raw_items(), but=_LENGTH)


def trailers(end: h11.EndOfMessage) -> Fields:
    """Of a chunked message: none that a head alone may have (RFC 9110 §6.5.1)."""
    return _end_to_end(end.headers.raw_items(), but=_OF_HEADS)


def connection_options(fields: Fields) -> set[bytes]:
    """The options in Connection (RFC 9110 §7.6.1), in lower case."""
    lines = [value for key, value in fields if key.lower() == b"connection"]
    return {option.strip().lower() for line in lines for option in line.split(b",")}


def _host(target: Target) -> tuple[bytes, bytes]:
    host = str(target) if target.port != 80 else str(target).removesuffix(":80")
    return b"Host", host.encode("ascii")


def _end_to_end(fields: Fields, but: Set[bytes] = frozenset()) -> Fields:
    """The fields that are not hop by hop: neither those of RFC 9110 §7.6.1 nor those that Connection names; nor
    ``but`` these.
    """
    dropped = _HOP_BY_HOP | (connection_options(fields) - _END_TO_END) | but
    return [(key, value) for key, value in fields if key.lower() not in dropped]
