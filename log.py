"""The log: where its lines go, and their words: nothing from a peer goes out unescaped."""

import logging
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from types import TracebackType

from gevent.hub import get_hub

from errors import CertifierError
from linefile import LineFile

MAX_VALUE = 300  # characters of a value, unless set_up is told another number
MAX_URL = 2000  # characters that are told of a URL; what browsers and search engines take for long

_USER = re.compile(r"((?:[A-Za-z][A-Za-z0-9+.-]*://)?)[^/?#]*@")  # RFC 3986 §3.2.1
_PLAIN = re.compile(r"[!#-<>-\[\]-~]+\Z")  # printable ASCII but space, quote, equals and backslash

log = logging.getLogger("certifier")

_most = MAX_VALUE


def escape(value: object, limit: int = 0) -> str:
    """A value as one word of a log line: quoted where it is not plain, control characters as ``\\xNN``, cut if long."""
    text = cut(str(value), limit)
    return text if _PLAIN.match(text) else f'"{quotable(text, limit)}"'


def cut(text: str, limit: int = 0) -> str:
    """A text, cut if it is long."""
    limit = limit or _most
    return f"{text[:limit]}..." if len(text) > limit else text


def brief(text: str | None) -> str | None:
    """The same where there may be none, as JSON has it."""
    return None if text is None else cut(text)


@contextmanager
def background(consequence: str, level: int = logging.WARNING) -> Iterator[None]:
    """Work that nobody waits for: what goes wrong with it is told, and ends it alone."""
    try:
        yield
    except (CertifierError, OSError) as error:
        log.log(level, "%s: %s", consequence, error)
    except Exception:  # the top of such work, as of a connection
        log.exception("%s", consequence)


def quotable(text: str, limit: int = 0) -> str:
    """A peer's text for a place between quotes, cut if long."""
    return cut(text, limit).encode("unicode_escape").decode("ascii").replace('"', '\\"')


def user_word(user: str | None) -> str:
    """Who asked, as the combined log format has it."""
    return quotable(user).replace(" ", "%20") if user else "-"


def without_user(url: str) -> str:
    """The URL without user information, which holds passwords (RFC 3986 §3.2.1)."""
    return _USER.sub(r"\1", url, count=1) if "@" in url and _USER.match(url) else url


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
