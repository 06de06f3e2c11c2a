"""certifier's own HTTP replies: their form, and those for errors."""

import secrets
from email.utils import formatdate

import hpack

from errors import CertifierError
from frames import ACK, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, SETTINGS

ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"
NAME = "certifier"  # our name in Proxy-Status
VIA = f"{NAME}-{secrets.token_hex(4)}"  # our pseudonym in Via (RFC 9110 §7.6.3); each certifier has another


def for_error(error: CertifierError, head_only: bool = False) -> bytes:
    """The reply for an error, with its cause in the reason phrase, in Proxy-Status (RFC 9209) and in the body."""
    return reply(error.status, error.reason, _body(error), "text/plain", head_only, _fields(error))


def for_error_2(error: CertifierError, stream: int, head_only: bool) -> bytes:
    """The same for a request on an HTTP/2 stream, with everything that we send on its connection (RFC 9113).

    Stream 0: there is no request. GOAWAY tells the client that requests on later streams were not seen.
    """
    body = _body(error)
    frames = _frame(SETTINGS, 0, 0, b"")
    if stream:
        length = {"Content-Length": str(len(body))}
        fields = {":status": str(error.status), **_common("text/plain", {**length, **_fields(error)})}
        encoder = hpack.Encoder()
        encoder.header_table_size = 0  # the client's SETTINGS may allow no more (RFC 7541 §4.2)
        block = encoder.encode([(name.lower(), value) for name, value in fields.items()])
        frames += _frame(SETTINGS, ACK, 0, b"")  # the client's came before its request
        frames += _frame(HEADERS, END_HEADERS | (END_STREAM if head_only else 0), stream, block)
        if not head_only:
            frames += _frame(DATA, END_STREAM, stream, body)
    return frames + _frame(GOAWAY, 0, 0, stream.to_bytes(4) + bytes(4))


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3) + bytes((kind, flags)) + stream.to_bytes(4) + payload


def _body(error: CertifierError) -> bytes:
    text = "".join(c if c.isprintable() else "?" for c in str(error))  # terminals interpret control characters
    return f"{NAME}: {text}\n".encode()


def _fields(error: CertifierError) -> dict[str, str]:
    details = "".join(c if c.isprintable() and c.isascii() and c not in '"\\' else "?" for c in str(error)[:300])
    return {"Proxy-Status": f'{NAME}; error={error.proxy_status}; details="{details}"', **error.fields}


def reply(
    status: int, reason: str, body: bytes, kind: str, head_only: bool, fields: dict[str, str] | None = None
) -> bytes:
    """A response that ends its connection. ``kind`` is the media type; ``head_only`` keeps only the body's length."""
    begin = head(status, reason, kind, {"Content-Length": str(len(body)), **(fields or {})})
    return begin if head_only else begin + body


def head(status: int, reason: str, kind: str, fields: dict[str, str]) -> bytes:
    """The head of a response whose body ends with the connection, unless a field gives its length."""
    lines = {**_common(kind, fields), "Connection": "close"}
    text = f"HTTP/1.1 {status} {reason}\r\n" + "".join(f"{k}: {v}\r\n" for k, v in lines.items())
    return text.encode("ascii") + b"\r\n"


def _common(kind: str, fields: dict[str, str]) -> dict[str, str]:
    if kind.startswith("text/") and ";" not in kind:
        kind += "; charset=utf-8"
    return {
        "Date": formatdate(usegmt=True),
        "Content-Type": kind,
        "X-Content-Type-Options": "nosniff",  # browsers must not take a message for a page of the origin's
        "Cache-Control": "no-store",
        **fields,
    }
