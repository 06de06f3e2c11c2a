"""The request log: one line an exchange, as ``text``, ``json`` or ``combined``, to a file or to stderr.

Times are when the request came. Octets are those of the contents, without heads. Of header fields nothing is told but
the content type and, in ``combined``, Referer and User-Agent; user information is taken out of URLs, their queries are
not. Nothing from a peer goes out unescaped, so that each line is one line, and each value one value. Long ones are cut.
"""

import json
import logging
import os
import re
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from exchange import Exchange, header
from log import escape

MAX_URL = 2000  # characters that are told of a URL; what browsers and search engines take for long

_USER = re.compile(r"((?:[A-Za-z][A-Za-z0-9+.-]*://)?)[^/?#]*@")  # RFC 3986 §3.2.1

log = logging.getLogger("certifier.requestlog")


def text(exchange: Exchange) -> str:
    """``key=value`` words, as the log of tunnels has them; ``-`` is None."""
    line = (
        f"{_utc(exchange.started)} request client={exchange.connection.client} method={escape(exchange.method)}"
        f" url={escape(without_user(exchange.url), MAX_URL)} http={exchange.version} status={exchange.status or '-'}"
        f" sent={exchange.request_octets} received={exchange.response_octets}"
        f" first_ms={_ms(exchange, exchange.first_byte) or '-'} ms={_ms(exchange, exchange.ended) or '-'}"
        f" type={escape(media_type(exchange) or '-')}"
    )
    if exchange.upgrade is not None:
        line += f" upgrade={escape(exchange.upgrade)}"
    if exchange.pushed:
        line += " pushed=yes"
    if exchange.error is not None:
        line += f" error={escape(exchange.error)}"
    return line


def as_json(exchange: Exchange) -> str:
    """An object with the same keys, all of them always there."""
    first, whole = _ms(exchange, exchange.first_byte), _ms(exchange, exchange.ended)
    return json.dumps(
        {
            "time": _utc(exchange.started),
            "client": exchange.connection.client,
            "method": exchange.method,
            "url": without_user(exchange.url)[:MAX_URL],
            "http": exchange.version,
            "status": exchange.status,
            "sent": exchange.request_octets,
            "received": exchange.response_octets,
            "first_ms": first and float(first),
            "ms": whole and float(whole),
            "type": media_type(exchange) or None,
            "upgrade": exchange.upgrade,
            "pushed": exchange.pushed,
            "error": exchange.error,
        }
    )


def combined(exchange: Exchange) -> str:
    """The combined log format of NCSA and Apache, escaped as Apache does; whole URLs, as forward proxies have them."""
    url = without_user(exchange.url).replace(" ", "%20")  # HTTP/2 would let it through
    referer = without_user(header(exchange.request_fields, b"referer"))
    agent = header(exchange.request_fields, b"user-agent")
    client = exchange.connection.client.rpartition(":")[0].strip("[]")
    version = "2.0" if exchange.version == "2" else exchange.version
    return (
        f'{client} - - [{_clf(int(exchange.started))}] "{_quotable(exchange.method)} {_quotable(url)}'
        f' HTTP/{version}" {exchange.status or "000"} {exchange.response_octets or "-"}'
        f' "{_quotable(referer) or "-"}" "{_quotable(agent) or "-"}"'
    )


FORMATS: dict[str, Callable[[Exchange], str]] = {"text": text, "json": as_json, "combined": combined}


class LineFile:
    """A file (0600 if it is made), or stderr, to which each line is appended by one write, whole.

    The constructor raises ``OSError``; later on a file that can't be written loses lines, with one warning.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._fd = 2 if path is None else _open(path)
        self._lost = 0  # lines since one could be written
        self._torn = False  # the last one was written in part

    def write(self, line: str) -> None:
        """Append a line, given without its end, in ASCII."""
        data = f"{line}\n".encode("ascii")
        if self._torn:
            data = b"\n" + data
        try:
            written = os.write(self._fd, data)
        except OSError as error:
            self._lose(error.strerror)
            return
        if written < len(data):  # the disk is full now
            self._torn = written > 0 or self._torn
            self._lose("No space left on device")
            return
        self._torn = False
        if self._lost:
            log.warning("%s can be written again; %d lines were lost", self._path or "stderr", self._lost)
            self._lost = 0

    def reopen(self) -> None:
        """Go on in a new file, the present one being renamed (logrotate); if there can be none, in the present one."""
        if self._path is None:
            return
        try:
            fd = _open(self._path)
        except OSError as error:
            log.warning("can't reopen %s: %s; going on in the file that was open", self._path, error.strerror)
            return
        os.close(self._fd)
        self._fd, self._torn = fd, False

    def close(self) -> None:
        """No more lines come."""
        if self._path is not None:
            os.close(self._fd)

    def _lose(self, reason: str | None) -> None:
        if not self._lost:
            log.warning("can't write %s: %s; lines are lost until it can be", self._path or "stderr", reason)
        self._lost += 1


def _open(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY, 0o600)


def without_user(url: str) -> str:
    """The URL without user information, which holds passwords (RFC 3986 §3.2.1)."""
    return _USER.sub(r"\1", url, count=1) if "@" in url and _USER.match(url) else url


def media_type(exchange: Exchange) -> str:
    """Of the response, without parameters; empty if it names none."""
    return exchange.content_type.partition(";")[0].strip()


def _ms(exchange: Exchange, moment: float | None) -> str | None:
    return None if moment is None else f"{(moment - exchange.began) * 1000:.1f}"


def _quotable(value: str) -> str:
    return value[:MAX_URL].encode("unicode_escape").decode("ascii").replace('"', '\\"')


def _utc(moment: float) -> str:
    return f"{_second(int(moment))}.{int(moment % 1 * 1000):03d}Z"


@lru_cache(maxsize=16)  # most lines fall into the same second, and strftime is a tenth of a line's cost
def _second(moment: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(moment))


@lru_cache(maxsize=16)
def _clf(moment: int) -> str:
    return time.strftime("%d/%b/%Y:%H:%M:%S +0000", time.gmtime(moment))
