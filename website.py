"""``Website``: what the proxy's own address serves to whoever asks it for a page: what it is, and its CA."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from errors import RetrievalError
from pages import reply
from signer import Authority
from workers import Workers

_CRL_SECONDS = 3600.0  # a CRL is signed at most so often, whoever asks

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


@dataclass(frozen=True, slots=True)
class _Page:
    kind: str
    body: bytes
    fields: dict[str, str]


class Website:
    """The pages of one proxy. ``use`` says what CA it has. ``clock`` gives seconds since the epoch."""

    def __init__(self, workers: Workers, clock: Callable[[], float] = time.time) -> None:
        self._workers = workers
        self._clock = clock
        self._ca: bytes | None = None
        self._authority: Authority | None = None
        self._crl: tuple[float, bytes] | None = None

    def use(self, ca: bytes | None, authority: Authority | None) -> None:
        """Show this CA from now on: its certificate as PEM, and what signs its CRL."""
        self._ca, self._authority, self._crl = ca, authority, None

    def answer(self, method: str, target: str, host: str) -> tuple[int, bytes]:
        """Status and reply. ``target`` is in origin-form; ``host`` is where the client reached us."""
        path = target.partition("?")[0]
        head_only = method == "HEAD"
        page: _Page | None = None
        text = "certifier has no such page.\n"
        if path == "/":
            page = self._about(host)
        elif path in ("/ca.crt", "/ca.crl"):
            text = "certifier has no CA here.\n"
            try:
                page = self._certificate() if path == "/ca.crt" else self._revocation_list()
            except RetrievalError as error:
                text = f"{error}\n"
        if page is None:
            return 404, reply(404, "Not Found", text.encode(), "text/plain", head_only)
        if method not in ("GET", "HEAD"):
            allow = {"Allow": "GET, HEAD"}
            return 405, reply(405, "Method Not Allowed", b"GET only.\n", "text/plain", head_only, allow)
        return 200, reply(200, "OK", page.body, page.kind, head_only, page.fields)

    def _about(self, host: str) -> _Page:
        about = _ABOUT.format(host=host, ca=(_NO_CA if self._ca is None else _TAKES_CA.format(host=host)))
        return _Page("text/plain", about.encode(), {})

    def _certificate(self) -> _Page | None:
        fields = {"Content-Disposition": 'attachment; filename="certifier-ca.crt"'}
        return None if self._ca is None else _Page("application/x-x509-ca-cert", self._ca, fields)

    def _revocation_list(self) -> _Page | None:
        now = self._clock()
        if self._authority is None:
            return None
        if self._crl is None or now >= self._crl[0]:
            crl = self._workers.run(self._authority.revocation_list, datetime.fromtimestamp(now, UTC))
            self._crl = now + _CRL_SECONDS, crl
        return _Page("application/pkix-crl", self._crl[1], {})
