"""``Record``: what one line of the log says about a connection, in three formats."""

import json
import time
from dataclasses import dataclass, field
from typing import Protocol

from errors import CertifierError
from log import MAX_URL, brief, combined_line, cut, escape, quotable, utc, without_user


class Progress(Protocol):
    """Counts a connection's octets while it is relayed."""

    sent: int
    received: int


@dataclass(slots=True, eq=False)
class Record:
    """What is logged about one connection or, for plain HTTP, one exchange. As text, None is ``-`` or left out.

    ``kind`` is ``tunnel``, ``request``, or ``page`` for a request to the proxy itself.
    """

    client: str
    kind: str = "tunnel"
    target: str | None = None
    method: str | None = None  # of the request, if it is not a tunnel
    url: str | None = None  # as requested: absolute, or the path of a page
    version: str = "1.1"  # of HTTP, and the next two: of the request or the CONNECT
    referer: str = ""
    user_agent: str = ""
    sni: str | None = None
    context: str | None = None  # where it came from: memory, disk, made; or untouched, bypassed
    client_tls: str | None = None
    client_alpn: str | None = None
    origin_tls: str | None = None
    origin_alpn: str | None = None
    status: int | None = None
    established: bool = False  # a tunnel: its CONNECT got a 200, or it was relayed
    sent: int = 0
    received: int = 0
    outcome: str = "failed"  # stays so only after a bug
    detail: str | None = None
    user: str | None = None  # who authenticated
    remark: str | None = None  # what else the operator should know
    refused: str | None = None  # by which rule (errors.py), or ``certificate``: the client rejected ours
    progress: Progress | None = None  # set once it is relayed
    told: bool = False  # logged already, by the line of its HTTP request
    started: float = field(default_factory=time.monotonic)

    def fail(self, error: CertifierError) -> None:
        """Set the outcome from an error."""
        self.outcome, self.detail = error.outcome or error.proxy_status, str(error)
        self.refused = error.refusal or None

    def answered(self, error: CertifierError) -> None:
        """The same, and the client got the error's reply."""
        self.fail(error)
        self.status = error.status

    def note(self, remark: str) -> None:
        """Add a remark for the operator."""
        self.remark = remark if self.remark is None else f"{self.remark}; {remark}"

    @property
    def seconds(self) -> float:
        """How long it has taken so far."""
        return time.monotonic() - self.started

    def text(self) -> str:
        """``key=value`` words. ``sent`` and ``received`` are octets of plaintext from and to the client."""
        line = (
            f"{utc(time.time())} {self.kind} client={self.client} target={escape(self.target or '-')}"
            f" sni={escape(self.sni or '-')} context={self.context or '-'} client_tls={self.client_tls or '-'}"
            f" origin_tls={self.origin_tls or '-'} client_alpn={escape(self.client_alpn or '-')}"
            f" origin_alpn={escape(self.origin_alpn or '-')} sent={self.sent} received={self.received}"
            f" ms={self.seconds * 1000:.1f}"
        )
        if self.url is not None:
            line += f" method={escape(self.method)} url={escape(without_user(self.url), MAX_URL)}"
        if self.status is not None:
            line += f" status={self.status}"
        line += f" outcome={self.outcome}"
        for key, value in (("detail", self.detail), ("user", self.user), ("note", self.remark)):
            if value is not None:
                line += f" {key}={escape(value)}"
        return line

    def as_json(self) -> str:
        """A JSON object with the same keys, all of them always present."""
        return json.dumps(
            {
                "time": utc(time.time()),
                "kind": self.kind,
                "client": self.client,
                "target": brief(self.target),
                "sni": brief(self.sni),
                "context": self.context,
                "client_tls": self.client_tls,
                "origin_tls": self.origin_tls,
                "client_alpn": brief(self.client_alpn),
                "origin_alpn": brief(self.origin_alpn),
                "sent": self.sent,
                "received": self.received,
                "ms": round(self.seconds * 1000, 1),
                "method": brief(self.method),
                "url": None if self.url is None else cut(without_user(self.url), MAX_URL),
                "status": self.status,
                "outcome": self.outcome,
                "detail": brief(self.detail),
                "user": brief(self.user),
                "note": brief(self.remark),
            }
        )

    def combined(self) -> str:
        """A line of the combined log format, as other proxies write it for a CONNECT, whether there was one or not."""
        method = "CONNECT" if self.kind == "tunnel" else self.method or "-"
        said = quotable(self.target or "-") if self.url is None else quotable(without_user(self.url), MAX_URL)
        asked = f"{quotable(method)} {said} HTTP/{self.version}"
        status, began = self.status or (200 if self.established else "000"), time.time() - self.seconds
        return combined_line(self.client, self.user, began, asked, status, self.received, self.referer, self.user_agent)
