"""Answers a client's first request, inside its TLS, when its origin can't or must not.

In HTTP/1 or HTTP/2: if HTTP/2 was selected before its origin turns out to refuse us, the client accepts nothing else,
and few clients retry with HTTP/1 when told to.
"""

import logging
import time
from typing import NamedTuple

import pages
import sockets
from errors import CertifierError, ClientError
from exchange import Unreadable
from frames import HEADERS, Frames
from head import HeadReader, RequestHead
from headerblocks import HeaderBlocks
from http2 import PREFACE
from tls import TlsStream

_FILL = 8_192  # octets per read, after which others may run: data that is no request may never end
REQUEST_SECONDS = 10.0  # for a request inside TLS that we answer ourselves
_HTTP_2 = "h2"

log = logging.getLogger("certifier.answering")


def explain(stream: TlsStream, error: CertifierError, said: bytes = b"", follows: bool = True) -> None:
    """Answer the client's request with the reply for the error.

    ``said`` is the part of it read before; ``follows``: what is read next continues it without a gap.
    """
    reader = Http2Reader() if stream.alpn == _HTTP_2 else HeadReader()
    deadline = time.monotonic() + REQUEST_SECONDS
    request: RequestHead | Http2Request | None = None
    try:
        request = reader.receive(said)
        while follows and request is None and stream.ended is None:
            while data := stream.decrypt():
                request = request or reader.receive(bytes(data))
            stream.answer()
            if request is None and stream.ended is None:
                sockets.give_way()
                sockets.arm(stream.sock, deadline)
                stream.fill(_FILL)
    except (CertifierError, TimeoutError) as problem:
        log.debug("no request to answer: %s", problem)  # the client is sent the error all the same
    head_only = request is not None and request.method == "HEAD"
    if isinstance(reader, Http2Reader):
        number = request.stream if isinstance(request, Http2Request) else 0
        reply = pages.for_error_2(error, number, head_only)
    else:
        reply = pages.for_error(error, head_only)
    tell(stream, reply)


def tell(stream: TlsStream, reply: bytes) -> None:
    """Send the reply that ends a client's TLS."""
    try:
        stream.sock.settimeout(sockets.LINGER_SECONDS)
        stream.encrypt(reply)
        stream.close_notify()
    except OSError as gone:
        log.debug("client left: %s", gone)
    sockets.last_word(stream.sock, b"")


class Http2Request(NamedTuple):
    """What is needed to answer a request; ``stream`` is the stream for the answer."""

    stream: int
    method: str


class Http2Reader:
    """Reads a client's half of an HTTP/2 connection (RFC 9113) up to its first request."""

    def __init__(self) -> None:
        self._preface = PREFACE  # the part not received yet
        self._frames = Frames()

    def receive(self, data: bytes) -> Http2Request | None:
        """Take more bytes; return the request once its head is complete, until then None. Raises ``ClientError``."""
        count = min(len(data), len(self._preface))
        if data[:count] != self._preface[:count]:
            raise ClientError("no HTTP/2 preface")
        self._preface = self._preface[count:]
        try:
            return self._read(data, count)
        except Unreadable as error:
            raise ClientError(f"malformed HTTP/2: {error}") from error

    def _read(self, data: bytes, at: int) -> Http2Request | None:
        frames = self._frames
        while True:
            if not frames.inside:
                at = frames.enter(data, at)
                if not frames.inside:
                    return None
            at = frames.keep(data, at) if frames.kept else frames.skip(data, at)[2]
            if frames.left:
                return None
            frames.inside = False
            payload = frames.payload() if frames.kept else None
            if payload is not None and frames.kind == HEADERS:
                fields = dict(HeaderBlocks().decode(payload))
                return Http2Request(frames.stream, fields.get(b":method", b"").decode("latin-1"))
