"""The fields of forwarded plain-HTTP messages (RFC 9110 §7.6): hop-by-hop ones are dropped, Via is added."""

from collections.abc import Set
from email.utils import formatdate
from http import HTTPStatus

import h11

from exchange import Fields
from head import RequestHead
from names import Target
from pages import VIA

# The fields addressed to the proxy, and the hop-by-hop ones of RFC 9110 §7.6.1.
_OURS = {b"proxy-connection", b"proxy-authorization"}
_HOP_BY_HOP = {
    *_OURS, b"connection", b"keep-alive", b"proxy-authenticate", b"te", b"transfer-encoding", b"upgrade",
}  # fmt: skip
# Kept even if Connection names them: without them the message would mean something else (RFC 9110 §7.6.1).
_END_TO_END = {b"content-length", b"host"}
# Framing, routing, authentication and content format: recipients that merge trailers into heads would obey them.
_OF_HEADS = {
    b"content-length", b"content-encoding", b"content-type", b"content-range", b"trailer", b"host", b"authorization",
    b"www-authenticate", b"cookie", b"set-cookie", b"max-forwards", b"via",
}  # fmt: skip
_LENGTH = {b"content-length"}
_DIGITS = 9  # at most, in a Max-Forwards that is decremented


def addressed(fields: Fields, target: Target) -> Fields:
    """A request's fields, with the target as Host, whatever the client's Host was (RFC 9112 §3.2.2)."""
    return [_host(target), *((key, value) for key, value in fields if key.lower() != b"host")]


def for_origin(head: RequestHead) -> Fields:
    """A request's fields for the origin."""
    passed = []
    left = forwards_left(head)
    for key, value in _end_to_end(head.headers):
        if key.lower() == b"max-forwards" and left is not None:
            value = b"%d" % max(0, left - 1)
        passed.append((key, value))
    if head.header(b"transfer-encoding"):
        passed.append((b"Transfer-Encoding", b"chunked"))
    passed.append((b"Via", f"{head.http_version} {VIA}".encode("ascii")))
    if not head.has_body:  # with ``close``, Node.js cuts off an upload that it has answered
        passed.append((b"Connection", b"close"))
    return passed


def forwards_left(head: RequestHead) -> int | None:
    """How many times a request may still be forwarded (RFC 9110 §7.6.2); None if there is no limit."""
    if head.method not in ("TRACE", "OPTIONS"):
        return None
    said = head.header(b"max-forwards")
    return int(said) if said.isascii() and said.isdigit() and len(said) <= _DIGITS else None


def for_judges(head: RequestHead, target: Target) -> Fields:
    """A request's fields for taps that may change it: Host is the target's, what Connection names is gone."""
    framing = [(key, value) for key, value in head.headers if key.lower() == b"transfer-encoding"]
    return addressed([*_end_to_end(head.headers), *framing], target)


def without_ours(fields: Fields) -> Fields:
    """A request's fields for observers, without the proxy credentials, which are not meant for the origin."""
    return [(key, value) for key, value in fields if key.lower() not in _OURS]


def for_client(response: h11.Response, closing: bool) -> Fields:
    """A response's fields for the client; ``closing``: the connection ends after it."""
    chunked = any(key == b"transfer-encoding" for key, _ in response.headers)
    # Chunked overrides a Content-Length (RFC 9112 §6.3), which may be false and must not stay behind alone. A 204 must
    # have none (RFC 9110 §8.6): a client might wait for that content.
    lengthless = chunked or response.status_code == HTTPStatus.NO_CONTENT
    passed = _end_to_end(response.headers.raw_items(), but=_LENGTH if lengthless else frozenset())
    if not any(key.lower() == b"date" for key, _ in passed):  # RFC 9110 §6.6.1: a recipient with a clock adds it
        passed.append((b"Date", formatdate(usegmt=True).encode("ascii")))
    passed.append((b"Via", f"{response.http_version.decode('ascii')} {VIA}".encode("ascii")))
    if closing:
        passed.append((b"Connection", b"close"))
    return passed


def interim(response: h11.InformationalResponse) -> Fields:
    """The fields of a 1xx response, which has no content (RFC 9110 §8.6)."""
    return _end_to_end(response.headers.raw_items(), but=_LENGTH)


def trailers(end: h11.EndOfMessage) -> Fields:
    """The trailers of a chunked message, without fields allowed in heads only (RFC 9110 §6.5.1)."""
    return _end_to_end(end.headers.raw_items(), but=_OF_HEADS)


def connection_options(fields: Fields) -> set[bytes]:
    """The options in Connection (RFC 9110 §7.6.1), in lower case."""
    lines = [value for key, value in fields if key.lower() == b"connection"]
    return {option.strip().lower() for line in lines for option in line.split(b",")}


def _host(target: Target) -> tuple[bytes, bytes]:
    host = str(target) if target.port != 80 else str(target).removesuffix(":80")
    return b"Host", host.encode("ascii")


def _end_to_end(fields: Fields, but: Set[bytes] = frozenset()) -> Fields:
    """The end-to-end fields: without those of RFC 9110 §7.6.1, those that Connection names, and those in ``but``."""
    dropped = _HOP_BY_HOP | (connection_options(fields) - _END_TO_END) | but
    return [(key, value) for key, value in fields if key.lower() not in dropped]
