"""What certifier itself says in HTTP: error replies, and the few pages of the proxy's own."""

from email.utils import formatdate

from errors import CertifierError

ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"
NAME = "certifier"  # our pseudonym in Via (RFC 9110 §7.6.3) and Proxy-Status

_ABOUT = """certifier: a TLS-intercepting forward proxy.

This address is a proxy: give it to your client, for example
  curl -x http://{host} https://www.example.com/

Clients see certificates signed by this proxy's own CA, and must trust it first.
{ca}
"""
_TAKES_CA = """Its certificate: http://{host}/ca.crt, for example
  curl http://{host}/ca.crt -o ca.crt
  curl -x http://{host} --cacert ca.crt https://www.example.com/"""
_NO_CA = "It has no CA: only names whose certificate is in its store are intercepted."


def for_error(error: CertifierError, head_only: bool = False) -> bytes:
    """The reply that an error deserves: its cause in the reason phrase, in Proxy-Status (RFC 9209) and in the body."""
    details = "".join(c if c.isprintable() and c.isascii() and c not in '"\\' else "?" for c in str(error)[:300])
    fields = {"Proxy-Status": f'{NAME}; error={error.proxy_status}; details="{details}"'}
    return _reply(error.status, error.reason, f"{NAME}: {error}\n".encode(), "text/plain", head_only, fields)


def own(method: str, path: str, host: str, ca: bytes | None) -> tuple[int, bytes]:
    """Status and reply for a request to the proxy itself. ``host`` is where the client reached us, ``ca`` a PEM."""
    path = path.partition("?")[0]
    head_only = method == "HEAD"
    if path not in ("/", "/ca.crt") or (path == "/ca.crt" and ca is None):
        text = "certifier has no CA here.\n" if path == "/ca.crt" else "certifier has no such page.\n"
        return 404, _reply(404, "Not Found", text.encode(), "text/plain", head_only)
    if method not in ("GET", "HEAD"):
        return 405, _reply(405, "Method Not Allowed", b"GET only.\n", "text/plain", head_only, {"Allow": "GET, HEAD"})
    if path == "/ca.crt":
        assert ca is not None
        fields = {"Content-Disposition": 'attachment; filename="certifier-ca.crt"'}
        return 200, _reply(200, "OK", ca, "application/x-x509-ca-cert", head_only, fields)
    about = _ABOUT.format(host=host, ca=(_NO_CA if ca is None else _TAKES_CA.format(host=host)))
    return 200, _reply(200, "OK", about.encode(), "text/plain", head_only)


def _reply(
    status: int, reason: str, body: bytes, kind: str, head_only: bool, fields: dict[str, str] | None = None
) -> bytes:
    if kind.startswith("text/"):
        kind += "; charset=utf-8"
    lines = {
        "Date": formatdate(usegmt=True),
        "Content-Type": kind,
        "Content-Length": str(len(body)),
        "X-Content-Type-Options": "nosniff",  # no browser shall take a message for a page of the origin's
        "Cache-Control": "no-store",
        **(fields or {}),
        "Connection": "close",
    }
    head = f"HTTP/1.1 {status} {reason}\r\n" + "".join(f"{k}: {v}\r\n" for k, v in lines.items())
    return head.encode("ascii") + b"\r\n" + (b"" if head_only else body)
