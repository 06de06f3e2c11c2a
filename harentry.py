"""An exchange as an entry of a HAR 1.2 file: a plain value for JSON. Its fields are those of
https://github.com/ahmadnassri/har-spec/blob/master/versions/1.2.md; our own begin with an underscore.

Nothing is redacted: cookies and credentials are included.
"""

import base64
import ipaddress
import re
from contextlib import suppress
from datetime import UTC, datetime
from itertools import pairwise
from urllib.parse import parse_qsl, quote, urlsplit

import bodies
from exchange import Exchange, Fields, header

Value = dict[str, object]

_URI = "%:/?#[]@!$&'()*+,;=-._~"  # RFC 3986 §2: the characters that are not escaped
_ABSOLUTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_STRAY = re.compile(r"%(?![0-9A-Fa-f]{2})")
MAX_PARAMETERS = 1000  # of a query, or cookies of a request, that are listed one by one; if there are more, none is
RARE = 15  # octets of text per control character; with fewer, JSON makes it grow more than base64 does

_CONTROLS = bytes(set(range(32)) - set(b"\b\t\n\f\r"))  # which JSON escapes as six octets each (RFC 8259 §7)


def entry(exchange: Exchange, body_max: int) -> Value:
    """The entry, with at most ``body_max`` decoded octets of each body; ``comment`` says what is missing."""
    timings = _timings(exchange)
    told: Value = {
        "startedDateTime": datetime.fromtimestamp(exchange.started, UTC).isoformat(timespec="milliseconds"),
        "time": round(sum(timings.values()), 3),
        "request": _request(exchange, body_max),
        "response": _response(exchange, body_max),
        "cache": {},
        "timings": timings,
        "connection": str(exchange.connection.id),
        "_client": exchange.connection.client,  # as in the log
    }
    address = exchange.connection.origin.rpartition(":")[0].strip("[]")
    with suppress(ValueError):  # the field is optional
        told["serverIPAddress"] = str(ipaddress.ip_address(address))
    notes = [exchange.error or ""]
    if exchange.upgrade:
        notes.append(f"goes on as {exchange.upgrade}, which is not recorded")
    if exchange.pushed:
        notes.append("pushed by the origin")
    if exchange.unkept:
        notes.append(f"fields left out of the heads: {exchange.unkept}")
    if any(notes):
        told["comment"] = "; ".join(note for note in notes if note)
    return told


def _request(exchange: Exchange, body_max: int) -> Value:
    fields = exchange.request_fields
    url = exchange.url if _ABSOLUTE.match(exchange.url) else f"{exchange.connection.scheme}://{exchange.url}"
    url = _STRAY.sub("%25", quote(url.encode("latin-1", "replace"), safe=_URI))
    told: Value = {
        "method": exchange.method,
        "url": url,
        "httpVersion": f"HTTP/{exchange.version}",
        "cookies": _cookies(_lines(fields, b"cookie")),
        "headers": _headers(fields),
        "queryString": _query(url),
        "headersSize": -1,
        "bodySize": exchange.request_octets,
    }
    if exchange.request_octets:
        body: Value = {"mimeType": header(fields, b"content-type")}
        _tell(body, exchange.request_body, exchange.request_octets, fields, body_max)
        body.pop("size")
        for name in ("encoding", "compression"):  # HAR 1.2 has them for responses only
            if name in body:
                body[f"_{name}"] = body.pop(name)
        told["postData"] = {"text": "", **body}
    return told


def _response(exchange: Exchange, body_max: int) -> Value:
    fields = exchange.response_fields
    content: Value = {"mimeType": exchange.content_type or "x-unknown"}
    _tell(content, exchange.response_body, exchange.response_octets, fields, body_max)
    told: Value = {
        "status": exchange.status or 0,
        "statusText": exchange.reason,
        "httpVersion": f"HTTP/{exchange.response_version or exchange.version}",
        "cookies": [cookie for line in _lines(fields, b"set-cookie") if (cookie := _set_cookie(line))],
        "headers": _headers(fields),
        "content": content,
        "redirectURL": header(fields, b"location"),
        "headersSize": -1,
        "bodySize": exchange.response_octets,
    }
    if exchange.trailers:
        told["_trailers"] = _headers(exchange.trailers)
    return told


def _tell(told: Value, body: bytearray | None, octets: int, fields: Fields, limit: int) -> None:
    """Put a body's size, text, encoding and comment into a value."""
    kept = bytes(body or b"")
    content = bodies.decode(kept, header(fields, b"content-encoding"), limit)
    whole = len(kept) == octets and not content.cut
    told["size"] = len(content.octets) if whole else max(octets, len(content.octets))
    notes = []
    if whole and len(content.octets) != octets:
        told["compression"] = len(content.octets) - octets
    if content.octets:
        text = None if content.coding else bodies.text(content.octets, header(fields, b"content-type"), whole)
        if text is None or _swells(text):
            told["encoding"] = "base64"
            text = base64.b64encode(content.octets).decode("ascii")
        told["text"] = text
    if content.coding:
        notes.append(f"the content coding {content.coding} is still on it")
    if not whole:
        notes.append(f"cut at {len(content.octets)} octets; {octets} were transferred")
    if notes:
        told["comment"] = "; ".join(notes)


def _swells(text: str) -> bool:
    """Whether control characters make a text grow more in JSON, by five octets each, than base64 does, by a third.

    What grows by line ends, quotes or UTF-8 stays text: it is readable, and at most three times as large.
    """
    octets = text.encode("utf-8")
    return (len(octets) - len(octets.translate(None, _CONTROLS))) * RARE > len(octets)


def _timings(exchange: Exchange) -> dict[str, float]:
    """Milliseconds. The response may have begun before the request was complete, or not at all."""
    ended = exchange.ended or exchange.began
    first = exchange.first_byte or ended
    marks = (exchange.began, min(exchange.request_ended or first, first), first, ended)
    return {
        phase: round((to - since) * 1000, 3)
        for phase, (since, to) in zip(("send", "wait", "receive"), pairwise(marks), strict=True)
    }


def _headers(fields: Fields) -> list[Value]:
    return [{"name": name.decode("latin-1"), "value": value.decode("latin-1")} for name, value in fields]


def _lines(fields: Fields, name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in fields if key.lower() == name]


def _pair(text: str) -> Value | None:
    name, equals, value = text.partition("=")
    return {"name": name.strip(), "value": value.strip()} if equals else None


def _cookies(lines: list[str]) -> list[Value]:
    if sum(line.count(";") + 1 for line in lines) > MAX_PARAMETERS:
        return []
    return [cookie for line in lines for cookie in map(_pair, line.split(";")) if cookie]


def _set_cookie(line: str) -> Value | None:
    first, *attributes = line.split(";")
    cookie = _pair(first)
    if cookie is None:
        return None
    given = {name.strip().lower(): value.strip() for name, _, value in (a.partition("=") for a in attributes)}
    cookie.update({key: given[key] for key in ("path", "domain") if key in given})
    cookie.update({"httpOnly": "httponly" in given, "secure": "secure" in given})
    return cookie


def _query(url: str) -> list[Value]:
    try:
        pairs = parse_qsl(urlsplit(url).query, keep_blank_values=True, max_num_fields=MAX_PARAMETERS)
    except ValueError:  # too many, or not a URL
        return []
    return [{"name": name, "value": value} for name, value in pairs]
