"""What certifier itself says in HTTP: the form of its replies, and those that errors deserve."""

import secrets
from email.utils import formatdate

from errors import CertifierError

ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"
NAME = "certifier"  # our name in Proxy-Status
VIA = f"{NAME}-{secrets.token_hex(4)}"  # our pseudonym in Via (RFC 9110 §7.6.3): another certifier is another


def for_error(error: CertifierError, head_only: bool = False) -> bytes:
    """The reply that an error deserves: its cause in the reason phrase, in Proxy-Status (RFC 9209) and in the body."""
    details = "".join(c if c.isprintable() and c.isascii() and c not in '"\\' else "?" for c in str(error)[:300])
    fields = {"Proxy-Status": f'{NAME}; error={error.proxy_status}; details="{details}"', **error.fields}
    return reply(error.status, error.reason, f"{NAME}: {error}\n".encode(), "text/plain", head_only, fields)


def reply(
    status: int, reason: str, body: bytes, kind: str, head_only: bool, fields: dict[str, str] | None = None
) -> bytes:
    """A response that ends its connection. ``kind`` is the media type; with ``head_only`` the body is only measured."""
    head = _head(status, reason, kind, {"Content-Length": str(len(body)), **(fields or {})})
    return head if head_only else head + body


def stream(status: int, reason: str, kind: str, fields: dict[str, str]) -> bytes:
    """The head of a response whose body goes on until the connection ends."""
    return _head(status, reason, kind, fields)


def _head(status: int, reason: str, kind: str, fields: dict[str, str]) -> bytes:
    if kind.startswith("text/") and ";" not in kind:
        kind += "; charset=utf-8"
    lines = {
        "Date": formatdate(usegmt=True),
        "Content-Type": kind,
        "X-Content-Type-Options": "nosniff",  # no browser shall take a message for a page of the origin's
        "Cache-Control": "no-store",
        **fields,
        "Connection": "close",
    }
    head = f"HTTP/1.1 {status} {reason}\r\n" + "".join(f"{k}: {v}\r\n" for k, v in lines.items())
    return head.encode("ascii") + b"\r\n"
