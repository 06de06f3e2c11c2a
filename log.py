"""The log: what one line tells of a connection, in which formats; nothing from a peer goes out unescaped."""

import json
import logging
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from types import TracebackType
from typing import Protocol

from gevent.hub import get_hub

from errors import CertifierError
from linefile import LineFile

MAX_VALUE = 300  # characters of a value, unless set_up is told another number

_PLAIN = re.compile(r"[!#-<>-\[\]-~]+\Z")  # printable ASCII but space, quote, equals and backslash

log = logging.getLogger("certifier")

_most = MAX_VALUE


def escape(value: object, limit: int = 0) -> str:
    """A value as one word of a log line: quoted where it is not plain, control characters as ``\\xNN``, cut if long."""
    text = str(value)
    limit = limit or _most
    if len(text) > limit:
        text = text[:limit] + "..."
    if _PLAIN.match(text):
        return text
    quoted = text.encode("unicode_escape").decode("ascii").replace('"', '\\"')
    return f'"{quoted}"'


class Progress(Protocol):
    """What has a connection's octets so far."""

    sent: int
    received: int


@dataclass(slots=True)
class Record:
    """What is told of one connection or, on the plain-HTTP path, of one exchange. None is told as ``-``.

    ``kind`` is ``tunnel``, ``request``, or ``page`` for what the proxy's own address served.
    """

    client: str
    kind: str = "tunnel"
    target: str | None = None
    sni: str | None = None
    context: str | None = None  # memory, disk, made; untouched where there is none
    client_tls: str | None = None
    client_alpn: str | None = None
    origin_tls: str | None = None
    origin_alpn: str | None = None
    status: int | None = None
    sent: int = 0
    received: int = 0
    outcome: str = "failed"  # by a bug, unless something else is said
    detail: str | None = None
    user: str | None = None  # who authenticated
    remark: str | None = None  # what the operator should know of it
    refused: str | None = None  # by which rule (``errors``), or ``certificate``: the client refused ours
    progress: Progress | None = None  # while it is relayed
    told: bool = False  # by the line of an HTTP request
    started: float = field(default_factory=time.monotonic)

    def fail(self, error: CertifierError) -> None:
        """Let an error be the outcome."""
        self.outcome, self.detail = error.outcome or error.proxy_status, str(error)
        self.refused = error.refusal or None

    def note(self, remark: str | None) -> None:
        """Add what the operator should know of it, if there is something."""
        if remark is not None:
            self.remark = remark if self.remark is None else f"{self.remark}; {remark}"

    @property
    def seconds(self) -> float:
        """How long it has taken until now."""
        return time.monotonic() - self.started

    def text(self) -> str:
        """``key=value`` words. ``sent`` and ``received`` are octets of plaintext, as the client sees them."""
        line = (
            f"{utc(time.time())} {self.kind} client={self.client} target={escape(self.target or '-')}"
            f" sni={escape(self.sni or '-')} context={self.context or '-'} client_tls={self.client_tls or '-'}"
            f" origin_tls={self.origin_tls or '-'} client_alpn={escape(self.client_alpn or '-')}"
            f" origin_alpn={escape(self.origin_alpn or '-')} sent={self.sent} received={self.received}"
            f" ms={self.seconds * 1000:.1f}"
        )
        if self.status is not None:
            line += f" status={self.status}"
        line += f" outcome={self.outcome}"
        for key, value in (("detail", self.detail), ("user", self.user), ("note", self.remark)):
            if value is not None:
                line += f" {key}={escape(value)}"
        return line

    def as_json(self) -> str:
        """An object with the same keys, all of them always there."""
        return json.dumps(
            {
                "time": utc(time.time()),
                "kind": self.kind,
                "client": self.client,
                "target": self.target,
                "sni": self.sni,
                "context": self.context,
                "client_tls": self.client_tls,
                "origin_tls": self.origin_tls,
                "client_alpn": self.client_alpn,
                "origin_alpn": self.origin_alpn,
                "sent": self.sent,
                "received": self.received,
                "ms": round(self.seconds * 1000, 1),
                "status": self.status,
                "outcome": self.outcome,
                "detail": self.detail,
                "user": self.user,
                "note": self.remark,
            }
        )

    def combined(self) -> str:
        """A line of the combined log format, as other proxies write one for a CONNECT."""
        ip = self.client.rpartition(":")[0].strip("[]")
        began = int(time.time() - self.seconds)
        user = quotable(self.user).replace(" ", "%20") if self.user else "-"
        status = self.status or (200 if self.kind == "tunnel" else "000")
        method = "CONNECT" if self.kind == "tunnel" else "-"
        return (
            f'{ip} - {user} [{clf(began)}] "{method} {quotable(self.target or "-")} HTTP/1.1" {status}'
            f' {self.received or "-"} "-" "-"'
        )


@contextmanager
def background(consequence: str, level: int = logging.WARNING) -> Iterator[None]:
    """Work that nobody waits for: what goes wrong with it is told, and ends it alone."""
    try:
        yield
    except (CertifierError, OSError) as error:
        log.log(level, "%s: %s", consequence, error)
    except Exception:  # the top of such work, as of a connection
        log.exception("%s", consequence)


def quotable(text: str) -> str:
    """A peer's text for a place between quotes, cut if long."""
    return text[:_most].encode("unicode_escape").decode("ascii").replace('"', '\\"')


def utc(moment: float) -> str:
    """Seconds since the epoch, as ISO 8601 in milliseconds."""
    return f"{_second(int(moment))}.{int(moment % 1 * 1000):03d}Z"


@lru_cache(maxsize=16)  # most lines fall into the same second, and strftime is a tenth of a line's cost
def _second(moment: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(moment))


@lru_cache(maxsize=16)
def clf(moment: int) -> str:
    """Seconds since the epoch, as the common log format has them."""
    return time.strftime("%d/%b/%Y:%H:%M:%S +0000", time.gmtime(moment))


class _Formatter(logging.Formatter):
    """UTC, milliseconds, the level where it is not INFO; every line of a traceback belongs to its message."""

    def format(self, record: logging.LogRecord) -> str:
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        text = f"{utc(record.created)} {level}{record.getMessage()}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


class _Handler(logging.Handler):
    """Writes to stderr as ``LineFile`` does."""

    def __init__(self) -> None:
        super().__init__()
        self._file = LineFile(None)

    def emit(self, record: logging.LogRecord) -> None:
        self.say(self.format(record))

    def say(self, line: str) -> None:
        """Write a line that is no entry of the log."""
        self._file.write(line)


def set_up(most: int = MAX_VALUE) -> None:
    """Log to stderr, values of at most so many characters. What is written was escaped, or is our own text."""
    global _most
    _most = most
    handler = _Handler()
    handler.setFormatter(_Formatter())
    log.handlers = [handler]
    log.setLevel(logging.INFO)
    log.propagate = False
    # What nobody caught, gevent would print itself: without our form, and ending the hub where stderr can't be written.
    get_hub().print_exception = _tell_uncaught  # type: ignore[method-assign]


def say(line: str) -> None:
    """Tell the operator something that is no entry of the log."""
    for handler in log.handlers:
        if isinstance(handler, _Handler):
            handler.say(line)


def _tell_uncaught(
    context: object,  # noqa: ARG001
    t: type[BaseException] | None,
    v: BaseException | str | None,
    tb: TracebackType | None,
) -> None:
    trace = (t, v, tb) if t is not None and isinstance(v, BaseException) else None
    log.error("an error that nobody caught: %s", v, exc_info=trace)
