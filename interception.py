"""``Interception``: a tunnel from its first byte to its end: hello, context, TLS on both sides, relay.

Steps 5 to 9 of the way that ARCHITECTURE.md draws. The sockets stay their owner's to close. A ``CertifierError`` that
leaves here came before a byte of TLS went to the client: it can still be told by an alert.
"""

import logging
import socket
import time
from dataclasses import dataclass

import pages
import sockets
from contexts import ContextCache
from errors import CertifierError, HelloTimeout, NoSharedProtocol, OriginError, Refused
from head import HeadReader
from hello import HANDSHAKE, ClientHello, HelloReader
from log import Record
from names import Target
from policy import Policy
from tls import PlainStream, Stream, TlsStream
from tunnel import Tunnel
from upstream import Upstream

HELLO_SECONDS = 10.0  # for the first bytes in a tunnel, of either side
TLS_SECONDS = 10.0  # for each of the two handshakes
REQUEST_SECONDS = 10.0  # for a request inside TLS that we answer ourselves
_RECV = 16_384
_HTTP = b"http/1.1"

log = logging.getLogger("certifier.interception")


@dataclass(frozen=True, slots=True)
class Redirect:
    """Where the decrypted bytes of every tunnel go instead of to its own target."""

    target: Target
    tls: bool  # encrypted again, verified for the target's host


class Interception:
    """Intercepts tunnels, by the policy and with the contexts and origins of one proxy."""

    def __init__(self, contexts: ContextCache, upstream: Upstream, policy: Policy, redirect: Redirect | None) -> None:
        self._contexts = contexts
        self._upstream = upstream
        self._policy = policy
        self._redirect = redirect

    def run(self, client: socket.socket, origin: socket.socket, data: bytes, host: str, record: Record) -> None:
        """A CONNECT tunnel to ``host`` whose origin was dialled; ``data`` came behind the CONNECT.

        What is not TLS, or where the origin speaks first, is relayed untouched.
        """
        hello, data = read_hello(client, origin, data)
        if hello is None:
            self._relay(PlainStream(client, data), PlainStream(origin), record)
        else:
            self.intercept(client, origin, hello, data, host, record)

    def intercept(
        self,
        client: socket.socket,
        origin: socket.socket | OriginError,
        hello: ClientHello,
        data: bytes,
        host: str,
        record: Record,
    ) -> None:
        """End the client's TLS with a certificate for its name, and relay; or relay untouched where we have none.

        ``origin`` is a dialled socket, or why there is none: then the client is told so inside TLS.
        """
        record.sni = hello.server_name
        name = self._policy.name_for(hello, host)
        context = self._contexts.find(name)
        retrieval = None
        if context is not None:
            record.context = "memory"
        else:
            retrieval = self._contexts.start(name)
            # Before a byte of our own TLS goes to the origin we must know that we will intercept.
            if not self._contexts.generates and retrieval.wait() is None:
                self._untouched(client, origin, data, record)
                return
        upstream: Stream | OriginError
        try:
            upstream = origin if isinstance(origin, OriginError) else self._secure(origin, name, hello)
        except OriginError as error:
            upstream = error
        if context is None:
            assert retrieval is not None
            context = retrieval.wait()
            assert context is not None  # there is a context for every name, or it was waited for above
            record.context = context.source
        alpn = _client_alpn(hello, upstream)
        stream = TlsStream(client, context.ssl, alpn, received=data)
        try:
            stream.handshake(time.monotonic() + TLS_SECONDS)
        except OSError as error:
            record.outcome = "client-tls-failed"
            record.detail = getattr(error, "reason", None) or str(error)
            return
        record.client_tls, record.client_alpn = stream.version, stream.alpn
        if isinstance(upstream, OriginError):
            record.fail(upstream)
            record.status = upstream.status
            _explain(stream, upstream)
        else:
            record.origin_tls, record.origin_alpn = upstream.version, upstream.alpn
            self._relay(stream, upstream, record)

    def _secure(self, origin: socket.socket, name: str, hello: ClientHello) -> Stream:
        """Our own TLS to the origin, or to a redirect that wants it."""
        redirect = self._redirect
        if redirect is not None and not redirect.tls:
            return PlainStream(origin)
        verified = name if redirect is None else redirect.target.host
        return self._upstream.secure(origin, verified, hello.alpn_protocols, time.monotonic() + TLS_SECONDS)

    def _untouched(
        self, client: socket.socket, origin: socket.socket | OriginError, data: bytes, record: Record
    ) -> None:
        if self._redirect is not None:
            raise Refused("no certificate for this name, and a redirect takes decrypted tunnels only")
        if isinstance(origin, OriginError):
            raise origin
        self._relay(PlainStream(client, data), PlainStream(origin), record)

    def _relay(self, client: Stream, origin: Stream, record: Record) -> None:
        if isinstance(client, PlainStream):
            record.context = "untouched"
        tunnel = Tunnel(client, origin)
        try:
            tunnel.run()
        finally:
            record.sent, record.received, record.outcome = tunnel.sent, tunnel.received, tunnel.outcome


def read_hello(client: socket.socket, origin: socket.socket | None, data: bytes) -> tuple[ClientHello | None, bytes]:
    """The ClientHello, and all bytes received with it. None: the client does not speak TLS, or the origin spoke first.

    Without an origin there is only the client to wait for. Raises ``HelloError``, or ``HelloTimeout`` when neither side
    has said enough in time.
    """
    try:
        return _read_hello(client, origin, data)
    except TimeoutError as error:
        raise HelloTimeout(f"no complete ClientHello within {HELLO_SECONDS:.0f} s") from error


def _read_hello(client: socket.socket, origin: socket.socket | None, data: bytes) -> tuple[ClientHello | None, bytes]:
    deadline = time.monotonic() + HELLO_SECONDS
    reader = HelloReader()
    while True:
        if data:
            if not reader.wire and data[0] != HANDSHAKE:
                return None, data
            hello = reader.receive(data)
            if hello is not None:
                return hello, bytes(reader.wire)
        if origin is not None and sockets.first_readable(client, origin, deadline) is origin:
            return None, bytes(reader.wire)
        sockets.arm(client, deadline)
        data = client.recv(_RECV)
        if not data:
            return None, bytes(reader.wire)


def _client_alpn(hello: ClientHello, upstream: Stream | OriginError) -> list[str]:
    """The protocol to select for the client: what the origin selected; HTTP/1.1 where we or a plain redirect answer."""
    if isinstance(upstream, TlsStream):
        return [upstream.alpn] if upstream.alpn is not None else []
    if not hello.alpn_protocols:
        return []
    if _HTTP not in hello.alpn_protocols:
        raise NoSharedProtocol("the client does not offer http/1.1, which alone can be spoken here")
    return [_HTTP.decode("ascii")]


def _explain(stream: TlsStream, error: OriginError) -> None:
    """Answer the client's request, inside TLS, with the reply that the error deserves."""
    deadline = time.monotonic() + REQUEST_SECONDS
    reader = HeadReader()
    head = None
    try:
        while head is None and stream.ended is None:
            while data := stream.decrypt():
                head = head or reader.receive(bytes(data))
            if head is None and stream.ended is None:
                sockets.arm(stream.sock, deadline)
                stream.fill()
    except (CertifierError, TimeoutError) as problem:
        log.debug("no request to answer: %s", problem)  # it is told all the same
    with_body = head is None or head.method != "HEAD"
    try:
        stream.encrypt(pages.for_error(error, head_only=not with_body))
        stream.close_notify()
    except OSError as gone:
        log.debug("client left: %s", gone)
    sockets.last_word(stream.sock, b"")
