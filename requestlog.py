"""Lines of the request log: one per exchange, as ``text``, ``json`` or ``combined``.

The time is when the request came. Octets are those of the contents, without heads. The only header fields logged are
the content type and, in ``combined``, Referer and User-Agent; user information is removed from URLs, queries are not.
Everything from a peer is escaped, so that it can't forge lines or values, and truncated if it is long.
"""

import json
from collections.abc import Callable

from exchange import Exchange, header
from log import MAX_URL, brief, combined_line, cut, escape, quotable, utc, without_user


def text(exchange: Exchange) -> str:
    """``key=value`` words, as in the log of tunnels; ``-`` is None."""
    line = (
        f"{utc(exchange.started)} request client={exchange.connection.client} method={escape(exchange.method)}"
        f" url={escape(without_user(exchange.url), MAX_URL)} http={exchange.version} status={exchange.status or '-'}"
        f" sent={exchange.request_octets} received={exchange.response_octets}"
        f" first_ms={_ms(exchange, exchange.first_byte) or '-'} ms={_ms(exchange, exchange.ended) or '-'}"
        f" type={escape(media_type(exchange) or '-')}"
    )
    if exchange.upgrade is not None:
        line += f" upgrade={escape(exchange.upgrade)}"
    if exchange.pushed:
        line += " pushed=yes"
    if exchange.connection.user is not None:
        line += f" user={escape(exchange.connection.user)}"
    if exchange.error is not None:
        line += f" error={escape(exchange.error)}"
    if exchange.note is not None:
        line += f" note={escape(exchange.note)}"
    return line


def as_json(exchange: Exchange) -> str:
    """A JSON object with the same keys, all of them always present."""
    first, whole = _ms(exchange, exchange.first_byte), _ms(exchange, exchange.ended)
    return json.dumps(
        {
            "time": utc(exchange.started),
            "kind": "request",
            "client": exchange.connection.client,
            "method": cut(exchange.method),
            "url": cut(without_user(exchange.url), MAX_URL),
            "http": exchange.version,
            "status": exchange.status,
            "sent": exchange.request_octets,
            "received": exchange.response_octets,
            "first_ms": first and float(first),
            "ms": whole and float(whole),
            "type": cut(media_type(exchange)) or None,
            "upgrade": brief(exchange.upgrade),
            "pushed": exchange.pushed,
            "user": brief(exchange.connection.user),
            "error": brief(exchange.error),
            "note": brief(exchange.note),
        }
    )


def combined(exchange: Exchange) -> str:
    """The combined log format, with absolute URLs, as forward proxies log."""
    # HTTP/2 would let spaces through, or no method at all: more or fewer words than log analysers expect.
    method, url = (said.replace(" ", "%20") for said in (exchange.method or "-", without_user(exchange.url)))
    version = "2.0" if exchange.version == "2" else exchange.version
    asked = f"{quotable(method)} {quotable(url, MAX_URL)} HTTP/{version}"
    referer, agent = (header(exchange.request_fields, name) for name in (b"referer", b"user-agent"))
    user, began, octets = exchange.connection.user, exchange.started, exchange.response_octets
    return combined_line(
        exchange.connection.client, user, began, asked, exchange.status or "000", octets, referer, agent
    )


FORMATS: dict[str, Callable[[Exchange], str]] = {"text": text, "json": as_json, "combined": combined}


def media_type(exchange: Exchange) -> str:
    """The response's media type, without parameters; empty if it names none."""
    return exchange.content_type.partition(";")[0].strip()


def _ms(exchange: Exchange, moment: float | None) -> str | None:
    return None if moment is None else f"{(moment - exchange.began) * 1000:.1f}"
