"""The log: one line a connection on stderr, ``key=value`` words, nothing from a peer unescaped."""

import logging
import os
import re
import select
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import TracebackType

from gevent.hub import get_hub
from gevent.monkey import get_original

from errors import CertifierError

MAX_VALUE = 300  # characters of a value, unless set_up is told another number

_PLAIN = re.compile(r"[!#-<>-\[\]-~]+\Z")  # printable ASCII but space, quote, equals and backslash

log = logging.getLogger("certifier")

_most = MAX_VALUE


def escape(value: object) -> str:
    """A value as one word of a log line: quoted where it is not plain, control characters as ``\\xNN``, cut if long."""
    text = str(value)
    if len(text) > _most:
        text = text[:_most] + "..."
    if _PLAIN.match(text):
        return text
    quoted = text.encode("unicode_escape").decode("ascii").replace('"', '\\"')
    return f'"{quoted}"'


@dataclass(slots=True)
class Record:
    """What is told of one connection or, on the plain-HTTP path, of one exchange. None is told as ``-``."""

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
    started: float = field(default_factory=time.monotonic)

    def fail(self, error: CertifierError) -> None:
        """Let an error be the outcome."""
        self.outcome, self.detail = error.outcome or error.proxy_status, str(error)

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


@contextmanager
def background(consequence: str, level: int = logging.WARNING) -> Iterator[None]:
    """Work that nobody waits for: what goes wrong with it is told, and ends it alone."""
    try:
        yield
    except (CertifierError, OSError) as error:
        log.log(level, "%s: %s", consequence, error)
    except Exception:  # the top of such work, as of a connection
        log.exception("%s", consequence)


class _Formatter(logging.Formatter):
    """UTC, milliseconds, the level where it is not INFO; every line of a traceback belongs to its message."""

    converter = time.gmtime  # type: ignore[assignment]  # as the standard library's own documentation has it

    def format(self, record: logging.LogRecord) -> str:
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        text = f"{self.formatTime(record, '%Y-%m-%dT%H:%M:%S')}.{int(record.msecs):03d}Z {level}{record.getMessage()}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


class _Handler(logging.Handler):
    """Writes lines to a descriptor as far as that needs no wait: with the hub, all connections would stand still.

    What can't be written, since nobody reads a pipe's other end or a disk is full, is lost, and counted.
    """

    def __init__(self, fd: int) -> None:
        super().__init__()
        self._fd = fd
        self._poll = get_original("select", "poll")()
        self._poll.register(fd, select.POLLOUT)
        self._lost = 0
        self._torn = False  # the last line was written in part

    def emit(self, record: logging.LogRecord) -> None:
        if self._lost:
            told = log.makeRecord(log.name, logging.WARNING, "", 0, "%d log lines were lost", (self._lost,), None)
            if self._write(self.format(told)):
                self._lost = 0
        self.say(self.format(record))

    def say(self, line: str) -> None:
        """Write a line that is no entry of the log."""
        if not self._write(line):
            self._lost += 1

    def _write(self, line: str) -> bool:
        rest = ("\n" * self._torn + line + "\n").encode("utf-8", "backslashreplace")
        with suppress(OSError):
            while rest and self._poll.poll(0):
                # So many a pipe takes at once when it takes any.
                rest = rest[os.write(self._fd, rest[: select.PIPE_BUF]) :]
                self._torn = bool(rest)
        return not rest


def set_up(most: int = MAX_VALUE) -> None:
    """Log to stderr, values of at most so many characters. What is written was escaped, or is our own text."""
    global _most
    _most = most
    handler = _Handler(sys.stderr.fileno())
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
