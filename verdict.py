"""Verdicts of taps on HTTP requests: a tap answers one, changes it, or lets it pass; whatever it says is checked."""

import time
from collections.abc import Callable

import h11

from answer import Answer
from errors import Refused
from exchange import MAX_FIELDS, Exchange, Fields
from fields import connection_options
from head import without_quote
from recorder import Recorder

_FRAMING = {b"content-length", b"transfer-encoding"}
_HOP_BY_HOP = {b"http2-settings", b"keep-alive", b"te", b"upgrade"}  # fields that clients name in Connection

Decide = Callable[[Exchange], Answer | None]


def check_fields(count: int) -> None:
    """Raise ``Refused`` for a request with more fields than an exchange keeps: it can't be judged."""
    if count > MAX_FIELDS:
        raise Refused(f"a request that can't be judged: it has more than {MAX_FIELDS} fields")


def judge(exchange: Exchange, decide: Decide, hops: bool = False) -> tuple[Answer | None, h11.Request | None]:
    """Return a tap's answer, or the request if a tap changed it.

    Raises ``Refused`` if that is invalid, or framed differently, or if a tap failed that fails closed. The client gets
    its text, which quotes no field: a tap's may hold a credential that the client must not see. The exchange must have
    all fields of its request. It is left as forwarded or, if it is not, as the client sent it: whatever a tap assigned,
    other observers rely on the types of an exchange. ``hops``: hop-by-hop fields are forwarded, too.
    """
    asked = exchange.method, exchange.target, list(exchange.request_fields)
    version = exchange.version.encode("ascii")  # the origin must not answer in a later version than the client's
    try:
        answer = decide(exchange)
    finally:
        method, target, fields = wanted = exchange.method, exchange.target, exchange.request_fields
        exchange.method, exchange.target, exchange.request_fields = asked
    if answer is not None:
        try:
            # A generator's fields could be read once only, and an array's len() does not count octets.
            octets = bytes(memoryview(answer.body))
            answer = Answer(answer.status, octets, tuple(answer.fields), answer.reason)
            answer.written(exchange.method)
        except (h11.LocalProtocolError, AttributeError, TypeError, ValueError) as error:
            raise Refused(f"a tap made an invalid answer: {without_quote(error)}") from error
        return answer, None
    if wanted == asked:
        if hops:
            _check_connection(fields)
        return None, None
    try:
        changed = h11.Request(method=method, target=target, headers=fields, http_version=version)
    except (h11.LocalProtocolError, TypeError, ValueError) as error:
        raise Refused(f"a tap made an invalid request: {without_quote(error)}") from error
    fields = changed.headers.raw_items()
    if (exchange.method == "HEAD") != (changed.method == b"HEAD") or changed.method == b"CONNECT":
        raise Refused("a tap changed a request to or from HEAD, or to CONNECT: the response would be read as another's")
    if _framing(exchange.request_fields) != _framing(fields):
        raise Refused("a tap changed the framing of a request")
    if hops:
        _check_connection(fields)
    exchange.method, exchange.target = changed.method.decode("ascii"), changed.target.decode("ascii")
    exchange.request_fields = fields
    return None, changed


def record_answer(recorder: Recorder, exchange: Exchange, answer: Answer, closing: bool) -> None:
    """Record the answer that an exchange got in the origin's stead."""
    response = answer.head(closing)
    body = answer.content(exchange.method)
    reason, fields = response.reason.decode("latin-1"), response.headers.raw_items()
    recorder.response(exchange, answer.status, reason, fields, time.monotonic())
    recorder.download(exchange, body, 0, len(body))
    recorder.end(exchange)


def _check_connection(fields: Fields) -> None:
    """Raise ``Refused`` if Connection names one of the fields: whoever forwards the request drops that, as Go does.

    Otherwise a client could name what a tap adds, or requires.
    """
    present = {name.lower() for name, _ in fields} - _HOP_BY_HOP
    if not present.isdisjoint(connection_options(fields)):
        raise Refused("a request that can't be judged: Connection names one of its fields")


def _framing(fields: Fields) -> Fields:
    return [(name.lower(), value) for name, value in fields if name.lower() in _FRAMING]
