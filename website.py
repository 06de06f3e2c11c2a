"""``Website``: what the proxy's own address serves: the page, the CA, live data, metrics, health."""

from collections.abc import Callable, Generator
from dataclasses import dataclass

import metrics
from assets import Asset, Assets, asset
from downloads import Downloads
from errors import AuthenticationRequired, CertifierError, RetrievalError, TooManyOnlookers
from feed import Feed
from health import Health
from onlookers import Onlookers, Visit
from pages import head, reply
from snapshot import Cursor, Snapshot, written
from sockets import Gaps

_ABOUT = """certifier: a TLS-intercepting forward proxy.

This address is a proxy: give it to your client, for example
  curl -x http://{host} {user}{cacert}https://www.example.com/

{ca}

In a browser, this address shows what passes. For programs: /metrics, /healthz.
"""
_TAKES_CA = """Clients see certificates signed by this proxy's own CA, and must trust it. Get its certificate first:
  curl http://{host}/ca.crt -o certifier-ca.crt
Its SHA-256 fingerprint:
  {fingerprint}"""
_NO_CA = "It has no CA: only names whose certificate is in its store are intercepted."

MAX_TOLD = 16  # snapshots being sent at once: each may have megabytes, and a client that does not read takes 30 s

_CHECKED = {"Cache-Control": "no-cache"}  # cached, but always revalidated by its ETag
# Only our own scripts, styles and data; and no script may turn text into markup.
_SECURE = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';"
    " img-src 'self'; form-action 'none'; frame-ancestors 'none'; base-uri 'none';"
    " require-trusted-types-for 'script'; trusted-types 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",  # for browsers that don't know frame-ancestors
}

# Media type, name and content of the CA in its forms.
_FORMS: dict[str, tuple[str, str, Callable[[Downloads], bytes]]] = {
    "/ca.crt": ("application/x-x509-ca-cert", "certifier-ca.crt", lambda ca: ca.pem),
    "/ca.der": ("application/x-x509-ca-cert", "certifier-ca.cer", lambda ca: ca.der),
    "/ca.mobileconfig": ("application/x-apple-aspen-config", "certifier-ca.mobileconfig", lambda ca: ca.profile),
    "/ca.crl": ("application/pkix-crl", "certifier-ca.crl", lambda ca: ca.revocation_list()),
}


@dataclass(frozen=True, slots=True)
class Page:
    """Status and reply; if there is a stream, the reply is only its beginning, and ``stream`` yields the rest."""

    status: int
    reply: bytes
    stream: Generator[bytes] | None = None


class Website:
    """The pages of one proxy. ``collect`` returns a snapshot of all its processes, as ``Overview.snapshot`` of one."""

    def __init__(
        self,
        assets: Assets,
        onlookers: Onlookers,
        health: Health,
        feed: Feed,
        collect: Callable[[Cursor | None], Snapshot],
    ) -> None:
        self._assets = assets
        self._onlookers = onlookers
        self._health = health
        self._feed = feed
        self._being_told = 0
        self._collect = collect
        self._gaps = Gaps()  # all viewers wake at the same time, and each snapshot takes some milliseconds
        self._ca: Downloads | None = None
        self._pages: dict[str, Callable[[Visit], Page]] = {
            "/": self._home,
            **dict.fromkeys(_FORMS, self._certificate),
            "/events": self._events,
            "/healthz": self._healthz,
            "/metrics": self._metrics,
            "/sign-in": self._sign_in,
            "/state": self._state,
        }

    def use(self, ca: Downloads) -> None:
        """Offer this CA from now on."""
        self._ca = ca

    def page(self, visit: Visit) -> Page:
        """The answer to a visit. May wait for a signature, a password check or the disk."""
        allowed = {"Allow": "GET, HEAD, OPTIONS"}
        if visit.method == "OPTIONS":  # of whatever: by Max-Forwards, we may be the last recipient (RFC 9110 §7.6.2)
            return _said(visit, 200, "OK", "This is certifier, a proxy.", allowed)
        path = visit.target.partition("?")[0]
        page = self._pages.get(path)
        file = self._assets.find(path)
        if page is None and file is None:
            return _said(visit, 404, "Not Found", "certifier has no such page.")
        if visit.method not in ("GET", "HEAD"):
            return _said(visit, 405, "Method Not Allowed", "GET only.", allowed)
        if page is not None:
            return page(visit)
        assert file is not None
        return _file(visit, file, _SECURE)

    def _home(self, visit: Visit) -> Page:
        """HTML for browsers, text for clients that did not ask for HTML."""
        ca = self._ca
        said = {"host": str(visit.where), "hostname": visit.where.host, "port": str(visit.where.port)}
        users = self._onlookers.has_users
        said |= {
            "user": "--proxy-user NAME " if users else "",
            "login": "NAME:PASSWORD@" if users else "",
            "cacert": "--cacert certifier-ca.crt " if ca is not None else "",
        }
        if ca is not None:
            said |= {"fingerprint": ca.fingerprint, "thumbprint": ca.thumbprint}
            said |= {"name": ca.name, "ends": f"{ca.ends:%Y-%m-%d}"}
        if "text/html" in visit.header(b"accept"):
            said["live"], said["why"] = self._live(visit)
            page = self._assets.index(said, trust=ca is not None)
        else:
            about = _NO_CA if ca is None else _TAKES_CA.format(**said)
            page = asset("text/plain", _ABOUT.format(**said, ca=about).encode())
        return _file(visit, page, {**_SECURE, "Vary": "Accept"})

    def _live(self, visit: Visit) -> tuple[str, str]:
        """Whether the page may show live data: ``yes``, ``sign-in`` or ``no``; and why not."""
        try:
            self._onlookers.check_client(visit)
        except AuthenticationRequired as error:
            return "sign-in", str(error)
        except CertifierError as error:
            return "no", str(error)
        return "yes", ""

    def _certificate(self, visit: Visit) -> Page:
        ca = self._ca
        if ca is None:
            return _said(visit, 404, "Not Found", "certifier has no CA here.")
        kind, name, form = _FORMS[visit.target.partition("?")[0]]
        try:
            body = form(ca)
        except RetrievalError as error:
            return _said(visit, 404, "Not Found", str(error))
        return _file(visit, asset(kind, body), {"Content-Disposition": f'attachment; filename="{name}"'})

    def _healthz(self, visit: Visit) -> Page:
        fault = self._health.fault()
        return _said(visit, 200, "OK", "ok") if fault is None else _said(visit, 503, "Not Ready", fault)

    def _sign_in(self, visit: Visit) -> Page:
        """The page, for which a browser asks for name and password, and sends them with everything else from then on.

        No redirect: Chromium would request its target without them.
        """
        return self._refusal(visit, challenge=True) or self._home(visit)

    def _metrics(self, visit: Visit) -> Page:
        if refused := self._refusal(visit, challenge=True):
            return refused
        kind, body = metrics.expose(self._gather(None), self._health.fault() is None, visit.header(b"accept"))
        return Page(200, reply(200, "OK", body, kind, visit.method == "HEAD"))

    def _state(self, visit: Visit) -> Page:
        if refused := self._refusal(visit):
            return refused
        told = self._told(_cursor(visit))
        try:
            body = next(told)
        except CertifierError as error:
            return _failed(visit, error)
        return Page(200, reply(200, "OK", body, "application/json", visit.method == "HEAD", _SECURE), told)

    def _told(self, since: Cursor) -> Generator[bytes]:
        """Yields one snapshot, which counts until it has been sent and the next one is asked for."""
        if self._being_told >= MAX_TOLD:
            raise TooManyOnlookers(f"{MAX_TOLD} clients are being sent the state already")
        self._being_told += 1
        try:
            yield written(self._gather(since))
        finally:
            self._being_told -= 1

    def _events(self, visit: Visit) -> Page:
        """Server-sent events: what is new, once per tick."""
        if refused := self._refusal(visit):
            return refused
        begin = head(200, "OK", "text/event-stream", _SECURE)
        if visit.method == "HEAD":
            return Page(200, begin)
        news = self._news(_cursor(visit))
        try:
            return Page(200, begin + next(news, b""), news)  # nothing if certifier is shutting down
        except CertifierError as error:
            return _failed(visit, error)

    def _news(self, cursor: Cursor) -> Generator[bytes]:
        with self._feed.look() as ticks:
            for _ in ticks:
                snapshot = self._gather(cursor)
                cursor = Cursor.of(snapshot)
                yield b"id: %b\ndata: %b\n\n" % (str(cursor).encode(), written(snapshot))

    def _gather(self, since: Cursor | None) -> Snapshot:
        self._gaps.wait()
        return self._collect(since)

    def _refusal(self, visit: Visit, challenge: bool = False) -> Page | None:
        """The refusal if a visit may not see live data, else None; with a challenge, browsers ask for a password."""
        try:
            self._onlookers.check(visit)
        except AuthenticationRequired as error:
            if challenge:
                fields = {"WWW-Authenticate": 'Basic realm="certifier", charset="UTF-8"'}
                return _said(visit, 401, "Unauthorized", str(error), fields)
            return _said(visit, 403, "Sign In First", f"{error}: see /sign-in")
        except CertifierError as error:
            return _failed(visit, error)
        return None


def _cursor(visit: Visit) -> Cursor:
    """What the client says it has seen: in Last-Event-ID, after a reconnection, or in ``?since=``."""
    _, _, since = visit.target.partition("?since=")
    return Cursor.parse(visit.header(b"last-event-id") or since)


def _said(visit: Visit, status: int, reason: str, text: str, fields: dict[str, str] | None = None) -> Page:
    body = f"{text}\n".encode("utf-8", "backslashreplace")  # it may contain a path, which may be any octets
    return Page(status, reply(status, reason, body, "text/plain", visit.method == "HEAD", fields))


def _failed(visit: Visit, error: CertifierError) -> Page:
    return _said(visit, error.status, error.reason, str(error), error.fields)


def _file(visit: Visit, found: Asset, fields: dict[str, str]) -> Page:
    """The file, or 304 if the client has it already (RFC 9110 §13.1.2)."""
    fields = {"ETag": found.tag, **_CHECKED, **fields}
    known = [tag.strip().removeprefix("W/") for tag in visit.header(b"if-none-match").split(",")]
    if found.tag in known or "*" in known:
        return Page(304, reply(304, "Not Modified", found.body, found.kind, True, fields))
    return Page(200, reply(200, "OK", found.body, found.kind, visit.method == "HEAD", fields))
