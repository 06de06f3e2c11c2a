"""Parses HTTP/1 heads: those in their usual form by one regular expression each, the others by h11.

h11 would give the same result in five times the time; what it might read differently, or refuse, is left to it. Hence
the usual form: one field per line, in printable ASCII; one Host; unambiguous framing of the body; versions 1.0 and 1.1.
"""

import re
from collections.abc import Set
from typing import NamedTuple

import h11

from exchange import Fields, Unreadable

TCHAR = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]"  # of a token, such as a method or a field's name: RFC 9110 §5.6.2
MAX_LENGTH = 10**18 - 1  # octets of a request's body: to HAProxy 2.6, a Content-Length of 2**64 + 1 is 1
LENGTH = re.compile(rb"[0-9]{1,18}")  # up to that

_TOKEN = TCHAR + rb"++"
_FIELDS = rb"((?:" + _TOKEN + rb":[ \t]*+(?:[!-~]++(?:[ \t]+[!-~]++)*+)?[ \t]*+\r\n)*+)\r\n"
_REQUEST = re.compile(rb"(" + _TOKEN + rb") ([!-~]++) HTTP/(1\.[01])\r\n" + _FIELDS)
_RESPONSE = re.compile(rb"HTTP/(1\.[01]) ([2-5][0-9][0-9])(?: ([ !-~]*+))?\r\n" + _FIELDS)
_OUTSIDE = re.compile(rb"[\x80-\xff]")
_SPACED = re.compile(rb"^(" + _TOKEN + rb")[ \t]+:", re.MULTILINE)
_SIZES = {len("host"), len("content-length"), len("transfer-encoding")}

# A response's fields that decide where it ends and what follows. With white space before the colon, not every recipient
# obeys them.
_DECISIVE = {b"content-length", b"transfer-encoding", b"connection", b"upgrade"}

# h11 accepts interim responses only after a request, and a 101 only after one that asks for an upgrade.
_ASKING = h11.Request(method="GET", target="/", headers=[("Host", "a"), ("Connection", "upgrade"), ("Upgrade", "a")])


class Request(NamedTuple):
    """The head of a request; field names in the case they were sent in, values without surrounding whitespace."""

    method: bytes
    target: bytes
    version: bytes
    fields: Fields


class Response(NamedTuple):
    """The head of a final response, or of a 101."""

    status: int
    reason: bytes
    version: bytes
    fields: Fields


def request(head: bytes, strict: bool = False) -> Request:
    """Parse a complete head; unless ``strict``, octets in its target that are not ASCII are percent-encoded.

    Raises ``Unreadable`` or, if it is malformed, ``h11.RemoteProtocolError``, whose message quotes it.
    """
    found = usual_request(head)
    if found is not None:
        return found
    connection = h11.Connection(h11.SERVER)  # a fresh one: it would want to answer
    connection.receive_data(head if strict else escaped(head))
    event = connection.next_event()
    if not isinstance(event, h11.Request):
        raise Unreadable("not a request head")
    return Request(event.method, event.target, event.http_version, event.headers.raw_items())


def usual_request(head: bytes) -> Request | None:
    """The same; None if h11 must parse it."""
    match = _REQUEST.fullmatch(head)
    if match is None:
        return None
    method, target, version, block = match.groups()
    fields = _fields(block, version, needs_host=True)
    return None if fields is None else Request(method, target, version, fields)


def response(head: bytes) -> Response | None:
    """Parse a complete head; None if it is of an interim response. Raises as ``request`` does."""
    found = usual_response(head)
    if found is not None:
        return found
    connection = h11.Connection(h11.CLIENT)
    if head[9:10] == b"1":
        connection.send(_ASKING)
    connection.receive_data(unspaced(head, but=_DECISIVE))
    event = connection.next_event()
    if isinstance(event, h11.InformationalResponse) and event.status_code != 101:
        return None
    if not isinstance(event, h11.Response | h11.InformationalResponse):
        raise Unreadable("not a response head")
    return Response(event.status_code, event.reason, event.http_version, event.headers.raw_items())


def usual_response(head: bytes) -> Response | None:
    """The same; None if h11 must parse it."""
    match = _RESPONSE.fullmatch(head)
    if match is None:
        return None
    version, status, reason, block = match.groups()
    fields = _fields(block, version, needs_host=False)
    return None if fields is None else Response(int(status), reason or b"", version, fields)


def escaped(head: bytes) -> bytes:
    """The head of a request with non-ASCII octets in its target percent-encoded (RFC 3986 §2.1), as is proper."""
    line, end, fields = head.partition(b"\n")
    method, space, target = line.partition(b" ")
    return method + space + _OUTSIDE.sub(lambda octet: b"%%%02X" % ord(octet[0]), target) + end + fields


def unspaced(head: bytes, but: Set[bytes] = frozenset()) -> bytes:
    """The head of a response without white space between a field's name and its colon (RFC 9112 §5.1).

    It stays in the fields whose names, in lower case, are in ``but``: recipients disagree on whether it counts.
    """
    if b" :" not in head and b"\t:" not in head:
        return head  # nearly all; the search takes ten times as long
    return _SPACED.sub(lambda found: found[0] if found[1].lower() in but else found[1] + b":", head)


def _fields(block: bytes, version: bytes, needs_host: bool) -> Fields | None:
    found: Fields = []
    hosts = framings = 0
    usual = True
    for line in block.split(b"\r\n")[:-1]:
        name, _, value = line.partition(b":")
        value = value.strip(b" \t")
        found.append((name, value))
        if len(name) in _SIZES:  # otherwise it is none of the names of interest
            key = name.lower()
            if key == b"host":
                hosts += 1
            elif key == b"content-length":
                framings += 1
                usual = usual and LENGTH.fullmatch(value) is not None
            elif key == b"transfer-encoding":
                framings += 1
                usual = usual and value == b"chunked" and version == b"1.1"
    return found if usual and framings <= 1 and (hosts == 1 or not needs_host) else None
