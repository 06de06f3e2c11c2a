"""Logging to stderr, and the formatting of log values: nothing from a peer is written unescaped."""

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

MAX_VALUE = 300  # characters of a value, unless set_up() is given another limit
MAX_URL = 2000  # characters of a URL; about the length that all browsers and search engines handle

_USER = re.compile(r"((?:[A-Za-z][A-Za-z0-9+.-]*://)?)[^/?#]*@")  # RFC 3986 §3.2.1
_CONTROL = re.compile(r"[\0-\x1f\x7f]")  # terminals and line breaks; ``LineFile`` escapes those outside of ASCII
_PLAIN = re.compile(r"[!#-<>-\[\]-~]+\Z")  # printable ASCII except space, quote, equals sign and backslash

log = logging.getLogger("certifier")

_most = MAX_VALUE


def escape(value: object, limit: int = 0) -> str:
    """A value as one word of a log line, truncated if long; quoted and escaped as in a Python string unless plain."""
    text = cut(str(value), limit)
    return text if _PLAIN.match(text) else f'"{quotable(text, limit)}"'


def cut(text: str, limit: int = 0) -> str:
    """A text, truncated if it is long."""
    limit = limit or _most
    return f"{text[:limit]}..." if len(text) > limit else text


def brief(text: str | None) -> str | None:
    """The same for a text that may be None, which JSON has as ``null``."""
    return None if text is None else cut(text)


def counted(number: int, what: str) -> str:
    """The number and the noun, in the plural unless it is one."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


@contextmanager
def background(consequence: str, level: int = logging.WARNING) -> Iterator[None]:
    """Run work that nobody waits for: an error in it is logged with its consequence, and ends only that work."""
    try:
        yield
    except (CertifierError, OSError) as error:
        log.log(level, "%s: %s", consequence, error)
    except Exception:  # a bug: this is the outermost handler of background work
        log.exception("%s", consequence)


def quotable(text: str, limit: int = 0) -> str:
    """A peer's text, escaped for use between quotes and truncated if long."""
    return cut(text, limit).encode("unicode_escape").decode("ascii").replace('"', '\\"')


def without_user(url: str) -> str:
    """The URL without user information, which holds passwords (RFC 3986 §3.2.1)."""
    return _USER.sub(r"\1", url, count=1) if "@" in url and _USER.match(url) else url


def utc(moment: float) -> str:
    """Seconds since the epoch, as ISO 8601 with milliseconds."""
    return f"{_second(int(moment))}.{int(moment % 1 * 1000):03d}Z"


@lru_cache(maxsize=16)  # most lines share their second with others, and strftime is a tenth of a line's cost
def _second(moment: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(moment))


def combined_line(
    client: str, user: str | None, began: float, asked: str, status: object, octets: int, referer: str, agent: str
) -> str:
    """A line of the combined log format of NCSA and Apache, escaped as Apache does; ``asked`` is so already."""
    ip, word = client.rpartition(":")[0].strip("[]"), quotable(user).replace(" ", "%20") if user else "-"
    referer, agent = quotable(without_user(referer)) or "-", quotable(agent) or "-"
    return f'{ip} - {word} [{_date(int(began))}] "{asked}" {status} {octets or "-"} "{referer}" "{agent}"'


@lru_cache(maxsize=16)
def _date(moment: int) -> str:
    return time.strftime("%d/%b/%Y:%H:%M:%S +0000", time.gmtime(moment))


class _Formatter(logging.Formatter):
    """UTC with milliseconds, the level unless it is INFO, the message, and any traceback on the lines below it.

    These are indented: an exception's text may be a peer's, as a tap's may be a body, and must not pass for an entry.
    """

    def format(self, record: logging.LogRecord) -> str:
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        text = f"{utc(record.created)} {level}{_visible(record.getMessage())}"
        trace = self.formatException(record.exc_info).split("\n") if record.exc_info else []
        return "\n".join([text, *(f"  {_visible(line)}" for line in trace)])


def _visible(text: str) -> str:
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


class _Handler(logging.Handler):
    """Writes to stderr through a ``LineFile``."""

    def __init__(self) -> None:
        super().__init__()
        self._file = LineFile(None)

    def emit(self, record: logging.LogRecord) -> None:
        self.say(self.format(record))

    def say(self, line: str) -> None:
        """Write a line that is not a log entry."""
        self._file.write(line)


def set_up(most: int = MAX_VALUE) -> None:
    """Log to stderr, with values of at most ``most`` characters. Callers escape whatever is not our own text."""
    global _most
    _most = most
    handler = _Handler()
    handler.setFormatter(_Formatter())
    log.handlers = [handler]
    log.setLevel(logging.INFO)
    log.propagate = False
    # gevent would print uncaught exceptions itself: in another format, and ending the hub if stderr can't be written.
    get_hub().print_exception = _tell_uncaught  # type: ignore[method-assign]


def say(line: str) -> None:
    """Tell the operator something that is not a log entry."""
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
