"""``Watcher``: decodes the decrypted bytes of one connection, and reports the HTTP exchanges in them.

Watching never breaks or alters the traffic: nothing is raised, nothing is written, memory is bounded, and what is not
HTTP, is malformed or switches to another protocol is noted once and costs nothing afterwards.
"""

import logging
import re
from contextlib import suppress

from exchange import Connection
from framing import MAX_HEAD
from heads import TCHAR
from http1 import Http1
from http2 import PREFACE, Http2
from recorder import Capture, Malformed, Observer, Recorder

MAX_EARLY = 16_384  # octets that an origin may send before the protocol is known: in HTTP/2, its SETTINGS

_METHOD = re.compile(TCHAR + rb"{1,32}(?: |\Z)")
_METHODS = (b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"CONNECT", b"TRACE")
_KNOWN = rb"(?:" + b"|".join(_METHODS) + rb")"
_COMMON = re.compile(_KNOWN + rb"\s")
# What some origins accept as a request line nevertheless: Python's http.server splits it at any whitespace of
# Latin-1, skips that before the method, and requires no version.
_SPACE = rb"[\t-\r\x1c- \x85\xa0]"
_BEGUN = re.compile(_SPACE + rb"*(" + TCHAR + rb"*)(" + _SPACE + rb"[^\n]*)?\Z")
_LEADING = re.compile(_SPACE + rb"+")
_MORE = re.compile(TCHAR + rb"+")
_NO_END = re.compile(rb"[^\n]*")
_MEANT = re.compile(  # waitress requires no version either, with any method; Node.js and aiohttp accept RTSP's
    rb"(?i:HTTP/)|(?:\A|%s)%s%s+[!-~]|\A%s*%s+%s+(?:/|\* |[A-Za-z][A-Za-z0-9+.-]*://)"
    % (_SPACE, _KNOWN, _SPACE, _SPACE, TCHAR, _SPACE)
)
# Held back until it is judged, since http.server acts on half a head. It knows these methods; holding back whatever
# may begin with any other would stall protocols that are not HTTP.
_PREFIXES = b"|".join(method[:end] for method in _METHODS for end in range(1, len(method) + 1))
_COMING = re.compile(_SPACE + rb"*(?:" + _KNOWN + _SPACE + rb"|(?:" + _PREFIXES + rb")\Z)")
_VERSION = re.compile(rb"HTTP/", re.IGNORECASE)  # in a line with any other method; without it, half a line is nothing
_LINE = re.compile(TCHAR + rb"{1,32} [^ \r\n]+ HTTP/1\.[01]\r?\n")
_OF_HTTP = (None, "h2", "http/1.1", "http/1.0")  # results of ALPN with which HTTP may be spoken

log = logging.getLogger("certifier.watcher")


class Watcher:
    """Takes each piece of both directions as it passes, those of a request no later than those of its response.

    ``alpn`` is what was negotiated: ``h2``, ``http/1.1``, or None to let the first bytes decide. Once ``watching`` is
    False, further calls do nothing. With ``strict``, a request that another recipient may parse differently is
    malformed.
    """

    __slots__ = ("_decoder", "_early", "_first", "_is_http", "_meant", "_more", "_recorder", "_strict", "watching")

    def __init__(
        self,
        connection: Connection,
        observer: Observer,
        alpn: str | None = None,
        capture: Capture | None = None,
        strict: bool = False,
    ) -> None:
        self.watching = True
        self._strict = strict
        self._more: re.Pattern[bytes] | None = None  # matches what merely continues the first line
        self._meant = False  # the first line is not complete, but has a version of HTTP
        self._is_http = strict and alpn == "http/1.1"  # as both sides agreed by ALPN
        self._recorder = Recorder(connection, observer, capture)
        self._decoder: Http1 | Http2 | None = Http2(self._recorder, strict) if alpn == "h2" else None
        self._first = bytearray()  # from the client while the protocol is unknown
        self._early = bytearray()  # the same from the origin
        if not strict and alpn not in _OF_HTTP:  # if strict: a lenient origin may speak HTTP nevertheless
            self._not_http()

    def sent(self, data: bytes) -> None:
        """What the client sent next."""
        if not self.watching:
            return
        try:
            if self._decoder is None:
                self._sniff(data)
            else:
                self._decoder.sent(data)
                self.watching = self._decoder.watching
        except Exception:
            self._give_up()

    def received(self, data: bytes) -> None:
        """What the origin sent next."""
        if not self.watching:
            return
        try:
            if self._decoder is None:
                self._early += data
                if len(self._early) > MAX_EARLY:
                    self._not_http()
            else:
                self._decoder.received(data)
                self.watching = self._decoder.watching
        except Exception:
            self._give_up()

    def origin_ended(self) -> None:
        """The origin has ended its direction in an orderly way; the client may still send."""
        if not self.watching or not isinstance(self._decoder, Http1):
            return
        try:
            self._decoder.origin_ended()
        except Exception:
            self._give_up()

    def closed(self, error: str | None = None) -> None:
        """The connection is over; ``error`` says how, unless it ended cleanly."""
        if not self.watching:
            return
        try:
            if self._decoder is not None:
                if self._decoder.unfinished:
                    self._recorder.note("an incomplete request")  # a lenient origin may act on it, or log it
                self._decoder.closed(error)
            elif self._first or self._early:
                self._not_http()
        except Exception:
            self._give_up()
        self.watching = False

    def ahead(self, sent: bool) -> int:
        """The decoder's ``ahead``, or 0 while there is none."""
        return self._decoder.ahead(sent) if self._decoder is not None else 0

    @property
    def held(self) -> int:
        """Octets at the end of what the client sent that can't be judged yet; 0 unless ``strict``."""
        if not self._strict or not self.watching:
            return 0
        if self._decoder is not None:
            return self._decoder.held
        return len(self._first) if self._meant or _COMING.match(self._first) else 0

    @property
    def is_http_2(self) -> bool:
        """Whether the connection is known to be HTTP/2, by ALPN or by its first bytes."""
        return isinstance(self._decoder, Http2)

    def ended(self) -> bool:
        """The client sends no more: judge an incomplete first line as it is; return whether there was one."""
        if not self.watching or self._decoder is not None or not self._first:
            return False
        self._not_http()
        return True

    def _sniff(self, data: bytes) -> None:
        """Choose the decoder as soon as the client's first bytes decide it."""
        more = self._more is not None and self._more.fullmatch(data)
        if more and len(self._first) + len(data) < MAX_HEAD:
            self._first += data  # decides nothing new: a line sent octet by octet is not matched each time
            since = max(0, len(self._first) - len(data) - len(b"HTTP"))
            self._meant = self._meant or _VERSION.search(self._first, since) is not None
            return
        self._first = (self._first + data).lstrip(b"\r\n")  # RFC 9112 §2.2; a lenient origin skips any number
        if self._strict and (leading := _LEADING.match(self._first)):  # waitress skips that too; it may never end
            self._first[: leading.end()] = b" "
        first = self._first[:MAX_HEAD]
        full = len(self._first) >= MAX_HEAD
        if first.startswith(PREFACE):
            decoder: Http1 | Http2 = Http2(self._recorder, self._strict)
        elif _LINE.match(first):
            decoder = Http1(self._recorder, self._strict)
        elif not full and (PREFACE.startswith(first) or (b"\n" not in first and self._may_be_http(first))):
            self._meant = _VERSION.search(first) is not None
            return
        else:
            self._not_http()
            return
        self._decoder = decoder
        decoder.sent(bytes(self._first))
        if self._early:
            decoder.received(bytes(self._early))
        self._first, self._early = bytearray(), bytearray()
        self.watching = decoder.watching

    def _may_be_http(self, first: bytes | bytearray) -> bool:
        """Whether an incomplete first line may become one of HTTP."""
        if not self._strict:
            known = _METHOD.match(first)
            if known is not None and known[0].endswith(b" "):
                self._more = _NO_END
            return known is not None
        begun = _BEGUN.match(first)
        if begun is not None:
            self._more = _NO_END if begun[2] is not None else _MORE if begun[1] else None
            return True
        self._more = _NO_END  # forwarded, but gevent, Java and others accept any method: the line's end decides
        return not self._is_http

    def _not_http(self) -> None:
        self.watching = False
        # A lenient origin may read it as HTTP nevertheless.
        line = self._first.partition(b"\n")[0]
        if self._strict:
            endless = len(line) >= MAX_HEAD and _BEGUN.match(line)  # Go reads up to a megabyte
            meant = self._is_http or bool(_MEANT.search(line) or endless)
        else:
            meant = bool(_COMMON.match(line) or (_METHOD.match(line) and b" HTTP/" in line))
        self._first, self._early = bytearray(), bytearray()
        if meant:
            self._recorder.note("malformed request", Malformed.CLIENT)
        else:
            self._recorder.note("not HTTP")

    def _give_up(self) -> None:
        """Log a bug, ours or an observer's, and stop watching; the traffic goes on unless it must be judged."""
        self.watching = False
        log.exception("a bug in watching connection %d, which is not looked at any more", self._recorder.connection.id)
        if self._decoder is not None:
            with suppress(Exception):
                self._decoder.closed("no longer watched")
        if self._strict:
            with suppress(Exception):
                self._recorder.note("malformed, or a bug", Malformed.CLIENT)
