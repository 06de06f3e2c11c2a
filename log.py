"""The log: one line a connection on stderr, ``key=value`` words, nothing from a peer unescaped."""

import logging
import re
import select
import sys
import time
from dataclasses import dataclass, field
from typing import Protocol, TextIO

from gevent.monkey import get_original

from errors import CertifierError

MAX_VALUE = 300  # characters of a value, unless set_up is told another number

_PLAIN = re.compile(r"[!#-<>-\[\]-~]+\Z")  # printable ASCII but space, quote, equals and backslash

log = logging.getLogger("certifier")

_most = MAX_VALUE


def escape(value: object, limit: int | None = None) -> str:
    """A value as one word of a log line: quoted where it is not plain, control characters as ``\\xNN``, cut if long."""
    text = str(value)
    most = _most if limit is None else limit
    if len(text) > most:
        text = text[:most] + "..."
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
    started: float = field(default_factory=time.monotonic)

    def fail(self, error: CertifierError) -> None:
        """Let an error be the outcome."""
        self.outcome, self.detail = error.outcome or error.proxy_status, str(error)
        self.refused = error.refusal or None

    def note(self, remark: str | None) -> None:
        """Add what the operator should know of it, if there is something."""
        if remark is not None:
            self.remark = remark if self.remark is None else f"{self.remark}; {remark}"

    def write(self) -> None:
        """Log the line. ``sent`` and ``received`` are octets of plaintext, as the client sees them."""
        words = [
            f"{self.kind} client={self.client} target={escape(self.target or '-')} sni={escape(self.sni or '-')}"
            f" context={self.context or '-'} client_tls={self.client_tls or '-'} origin_tls={self.origin_tls or '-'}"
            f" client_alpn={escape(self.client_alpn or '-')} origin_alpn={escape(self.origin_alpn or '-')}"
            f" sent={self.sent} received={self.received} ms={(time.monotonic() - self.started) * 1000:.1f}"
        ]
        if self.status is not None:
            words.append(f"status={self.status}")
        words.append(f"outcome={self.outcome}")
        if self.detail is not None:
            words.append(f"detail={escape(self.detail)}")
        if self.user is not None:
            words.append(f"user={escape(self.user)}")
        if self.remark is not None:
            words.append(f"note={escape(self.remark)}")
        log.info("%s", " ".join(words))


class _Formatter(logging.Formatter):
    """UTC, milliseconds, the level where it is not INFO; every line of a traceback belongs to its message."""

    converter = time.gmtime  # type: ignore[assignment]  # as the standard library's own documentation has it

    def format(self, record: logging.LogRecord) -> str:
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        text = f"{self.formatTime(record, '%Y-%m-%dT%H:%M:%S')}.{int(record.msecs):03d}Z {level}{record.getMessage()}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


class _Handler(logging.StreamHandler[TextIO]):
    """Drops lines while the other end of a pipe does not read them: its writer would stand still, and all with it."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._poll = get_original("select", "poll")()
        self._poll.register(stream.fileno(), select.POLLOUT)
        self._dropped = 0

    def emit(self, record: logging.LogRecord) -> None:
        # A pipe is writable while it takes PIPE_BUF octets at once: longer lines, of tracebacks, may still wait.
        if not self._poll.poll(0):
            self._dropped += 1
            return
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            log.warning("%d log lines were lost: nobody read them", dropped)
        super().emit(record)


def set_up(most: int = MAX_VALUE) -> None:
    """Log to stderr, values of at most so many characters. What is written was escaped, or is our own text."""
    global _most
    _most = most
    handler = _Handler(sys.stderr)
    handler.setFormatter(_Formatter())
    log.handlers = [handler]
    log.setLevel(logging.INFO)
    log.propagate = False
    logging.raiseExceptions = False  # a closed stderr must not end connections
