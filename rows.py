"""Rows of the page's tables, each of a log record or an exchange: plain values, long text cut, secrets left out."""

import re
import time
from functools import lru_cache
from itertools import chain

from exchange import Exchange, Fields
from log import MAX_URL, without_user
from record import Record
from requestlog import media_type
from snapshot import Row

MAX_TEXT = 300  # characters of a value
MAX_FIELDS = 40  # of a head
# Characters of a head's fields. In HTTP/2, a field of any size costs its sender one octet: without this limit, 300 rows
# were 90 MB of JSON, and held everybody up for half a second each time somebody looked.
MAX_HEAD = 4096

_SMALL = 4096  # octets of an exchange's heads

# Fields whose values may be credentials. Only their names and the lengths of the values are shown.
_SECRET = re.compile(
    rb"auth|cookie|token|secret|key|pass|session|sign|credential|csrf|xsrf|jwt|assertion|otp", re.IGNORECASE
)


def shorten(record: Record) -> None:
    """Cut or drop from a record what its row would not show, before it is kept for that."""
    record.user, record.target, record.sni = _cut(record.user), _cut(record.target), _cut(record.sni)
    record.detail, record.remark = _cut(record.detail), _cut(record.remark)
    record.method = record.url = None  # no row has them
    record.referer = record.user_agent = ""


def of_record(record: Record, key: str, started: float, ended: float | None) -> Row:
    """The row of a tunnel or plain-HTTP request; ``ended`` is None while it is open. Times are since the epoch."""
    octets = record.progress or record
    return {
        "key": key,
        "kind": record.kind,
        "client": record.client,
        "user": _cut(record.user),
        "target": _cut(record.target),
        "sni": _cut(record.sni),
        "context": record.context,
        "client_tls": record.client_tls,
        "client_alpn": record.client_alpn,
        "origin_tls": record.origin_tls,
        "origin_alpn": record.origin_alpn,
        "status": record.status,
        "sent": octets.sent,
        "received": octets.received,
        "started": started,
        "ended": ended,
        "outcome": None if ended is None else record.outcome,
        "detail": _cut(record.detail),
        "note": _cut(record.remark),
        "refused": record.refused,
    }


def is_small(exchange: Exchange) -> bool:
    """Whether it may be kept until somebody asks for its row. Otherwise the row, which is bounded, is kept instead."""
    if exchange.request_body is not None:
        return False
    fields = chain(exchange.request_fields, exchange.response_fields, exchange.trailers)
    lines = len(exchange.method) + len(exchange.authority) + len(exchange.target) + len(exchange.reason)
    lines += len(exchange.upgrade or "")  # in HTTP/2, no field holds it
    return lines + sum([len(name) + len(value) for name, value in fields]) <= _SMALL


def of_exchange(exchange: Exchange, key: str) -> Row:
    """The row of an HTTP transaction that has ended."""
    began = exchange.began
    lasted = (exchange.ended or time.monotonic()) - began
    return {
        "key": key,
        "client": exchange.connection.client,
        "origin": exchange.connection.origin,
        "method": exchange.method[:32],
        "url": _cut(without_user(exchange.url), MAX_URL),
        "version": exchange.version,
        "status": exchange.status,
        "reason": _cut(exchange.reason),
        "type": _cut(media_type(exchange)),
        "sent": exchange.request_octets,
        "received": exchange.response_octets,
        "started": exchange.started,
        "ended": exchange.started + lasted,
        "first": None if exchange.first_byte is None else exchange.first_byte - began,
        "upgrade": _cut(exchange.upgrade),
        "pushed": exchange.pushed,
        "error": _cut(exchange.error),
        "request_fields": _shown(exchange.request_fields),
        "response_fields": _shown(exchange.response_fields),
    }


def _shown(fields: Fields) -> list[tuple[str, str]]:
    shown: list[tuple[str, str]] = []
    room = MAX_HEAD
    for raw, content in fields[:MAX_FIELDS]:
        name, secret = _name(raw[:MAX_TEXT])
        if secret:
            text = f"({len(content)} octets, not shown)"
        else:
            text = content.decode("latin-1") if len(content) <= MAX_TEXT else f"{content[:MAX_TEXT].decode('latin-1')}…"
        room -= len(name) + len(text)
        if room < 0:
            break
        shown.append((name, text))
    return shown


@lru_cache(maxsize=512)  # the same names recur: this saves a third of a row's cost
def _name(raw: bytes) -> tuple[str, bool]:
    """A field's name as text, and whether its value may be a credential."""
    return raw.decode("latin-1"), _SECRET.search(raw) is not None


def _cut(text: str | None, most: int = MAX_TEXT) -> str | None:
    return text if text is None or len(text) <= most else f"{text[:most]}…"
