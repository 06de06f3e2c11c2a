"""``Interception``: a tunnel from its first byte to its end: hello, context, TLS on both sides, relay.

Steps 5 to 9 of the way that ARCHITECTURE.md draws. The client's socket stays its owner's to close. A ``CertifierError``
that leaves here came before a byte of TLS went to the client: it can still be told by an alert.
"""

import logging
import socket
import time
from dataclasses import dataclass

import names
import pages
import refusals
import sockets
from contexts import ContextCache
from dialing import Dialer, Redirect
from errors import CertifierError, HelloTimeout, NoSharedProtocol, NotTls, OriginError, Refused
from head import HeadReader
from hello import ClientHello, HelloReader
from limits import Limits
from log import Record
from names import Target
from policy import Policy
from refusals import Pair, Refusals
from tls import PlainStream, Stream, TlsStream
from tunnel import Tunnel
from upstream import Upstream
from wire import HANDSHAKE

REQUEST_SECONDS = 10.0  # for a request inside TLS that we answer ourselves
_GONE_SECONDS = 1.0  # after an origin closed at once: a client that begins TLS so soon can be told of it in a page
_RECV = 16_384
_HTTP = b"http/1.1"
_H2 = "h2"
# SETTINGS, and GOAWAY with HTTP_1_1_REQUIRED (RFC 9113 §6.8 and §7): the client comes back, and can be told why.
_COME_BACK = bytes.fromhex("000000040000000000000008070000000000000000000000000d")

log = logging.getLogger("certifier.interception")


@dataclass(frozen=True, slots=True)
class Way:
    """A tunnel that was asked for: whose, where to, and what its line in the log shall say."""

    client: socket.socket
    ip: str  # the client's
    target: Target
    record: Record
    user_agent: str = ""  # what the client said of itself in its CONNECT


class Interception:
    """Intercepts tunnels, by the policy and with the contexts and origins of one proxy."""

    def __init__(
        self,
        contexts: ContextCache,
        upstream: Upstream,
        dialer: Dialer,
        policy: Policy,
        refused: Refusals,
        redirect: Redirect | None,
        limits: Limits,
    ) -> None:
        self._contexts = contexts
        self._upstream = upstream
        self._dialer = dialer
        self._policy = policy
        self._refusals = refused
        self._redirect = redirect
        self._limits = limits

    def run(self, way: Way, origin: socket.socket, data: bytes) -> None:
        """A CONNECT tunnel whose origin was dialled; ``data`` came behind the CONNECT.

        What is to be bypassed, is not TLS, or where the origin speaks first, is relayed untouched.
        """
        if self._policy.bypasses(way.target, _peer(origin)):
            self._untouched(way, origin, data, "bypassed")
            return
        hello, data = self.read_hello(way.client, origin, data)
        if hello is not None:
            self.intercept(way, origin, hello, data)
        elif self._policy.rules.relays_non_tls:
            self._untouched(way, origin, data)
        else:
            raise NotTls("the tunnel is not TLS, or its origin spoke first (--non-tls=refuse)")

    def intercept(self, way: Way, origin: socket.socket | OriginError, hello: ClientHello, data: bytes) -> None:
        """End the client's TLS with a certificate for its name, and relay; or relay untouched where we have none.

        ``origin`` is a dialled socket, or why there is none: then the client is told so inside TLS.
        """
        record = way.record
        record.sni = hello.server_name
        name = self._policy.name_for(hello, way.target.host)
        if self._passes(way, origin, hello, name):
            self._bypass(way, origin, data)
            return
        context = self._contexts.find(name)
        retrieval = None
        if context is not None:
            record.context = "memory"
        else:
            retrieval = self._contexts.start(name, way.ip)
            # Before a byte of our own TLS goes to the origin we must know that we will intercept.
            if not self._contexts.generates and retrieval.wait() is None:
                self._leave(way, origin, data)
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
        stream = TlsStream(way.client, context.ssl, _client_alpn(hello, upstream), received=data)
        pair = Pair(way.ip, name)
        try:
            stream.handshake(time.monotonic() + self._limits.tls_timeout)
        except OSError as error:
            record.outcome = "client-tls-failed"
            record.detail = getattr(error, "reason", None) or str(error)
            self._refused(way, pair, record.detail, isinstance(error, ConnectionError))
            return
        record.client_tls, record.client_alpn = stream.version, stream.alpn
        if isinstance(upstream, OriginError):
            record.fail(upstream)
            record.status = upstream.status
            _explain(stream, upstream)
            return
        record.origin_tls, record.origin_alpn = upstream.version, upstream.alpn
        began = time.monotonic()
        tunnel = self._relay(way, stream, upstream)
        if tunnel.alert is not None:
            failure = self._upstream.broke(name, tunnel.alert)
            record.fail(failure)
            record.status = failure.status
            _tell(stream, pages.for_error(failure) if stream.alpn != _H2 else _COME_BACK)
        elif tunnel.sent:
            self._refusals.accepted(pair)
        elif tunnel.client_ended_first and not tunnel.received and time.monotonic() - began < refusals.SOON_SECONDS:
            self._refused(way, pair, None, True)

    def read_hello(
        self, client: socket.socket, origin: socket.socket | None, data: bytes
    ) -> tuple[ClientHello | None, bytes]:
        """The ClientHello, and all bytes received with it. None: the client speaks no TLS, or the origin spoke first.

        Without an origin, or with one that has gone, there is only the client to wait for. Raises ``HelloError``, or
        ``HelloTimeout`` when neither side has said enough in time.
        """
        deadline = time.monotonic() + self._limits.hello_timeout
        reader = HelloReader(self._limits.hello)
        gone = False
        try:
            while True:
                if data:
                    if not reader.wire and data[0] != HANDSHAKE:
                        return None, data
                    hello = reader.receive(data)
                    if hello is not None:
                        return hello, bytes(reader.wire)
                watched = None if gone else origin
                if watched is not None and sockets.first_readable(client, watched, deadline) is watched:
                    gone = sockets.has_ended(watched)
                    if not gone:
                        return None, bytes(reader.wire)
                    deadline = min(deadline, time.monotonic() + _GONE_SECONDS)
                sockets.arm(client, deadline)
                data = client.recv(_RECV)
                if not data:
                    return None, bytes(reader.wire)
        except TimeoutError as error:
            if gone:
                return None, bytes(reader.wire)
            raise HelloTimeout(f"no complete ClientHello within {self._limits.hello_timeout:.0f} s") from error

    def _passes(self, way: Way, origin: socket.socket | OriginError, hello: ClientHello, name: str) -> bool:
        """Whether a tunnel passes untouched, now that its name is known. Raises ``Refused`` where it may not pass."""
        if name != way.target.host:
            address = _peer(origin)
            self._policy.check_name(name, way.target, address)
            if not (hello.encrypted_client_hello or self._agree(name, way.target)):
                way.record.note(self._policy.check_mismatch("server name", name, way.target.host))
            if self._policy.bypasses(way.target, address, name):
                return True
        return self._refusals.bypasses(Pair(way.ip, name))

    def _agree(self, name: str, target: Target) -> bool:
        """Whether a server name is that of a CONNECT to an address."""
        if not self._policy.minds_mismatch:
            return True  # saves the look-up
        return names.ip_of(target.host) is not None and self._dialer.is_at(name, target.host)

    def _secure(self, origin: socket.socket, name: str, hello: ClientHello) -> Stream:
        """Our own TLS to the origin, or to a redirect that wants it."""
        redirect = self._redirect
        if redirect is not None and not redirect.tls:
            return PlainStream(origin)
        verified = name if redirect is None else redirect.target.host
        deadline = time.monotonic() + self._limits.tls_timeout
        return self._upstream.secure(origin, verified, hello.alpn_protocols, deadline)

    def _bypass(self, way: Way, origin: socket.socket | OriginError, data: bytes) -> None:
        """Relay to the tunnel's own target, which is not where a redirect was dialled."""
        if self._redirect is None:
            if isinstance(origin, OriginError):
                raise origin
            self._untouched(way, origin, data, "bypassed")
        else:
            with self._dialer.own(way.target) as own:
                self._untouched(way, own, data, "bypassed")

    def _leave(self, way: Way, origin: socket.socket | OriginError, data: bytes) -> None:
        """Relay what we have no certificate for."""
        if self._redirect is not None:
            raise Refused("no certificate for this name, and a redirect takes decrypted tunnels only")
        if isinstance(origin, OriginError):
            raise origin
        self._untouched(way, origin, data)

    def _untouched(self, way: Way, origin: socket.socket, data: bytes, how: str = "untouched") -> None:
        way.record.context = how
        self._relay(way, PlainStream(way.client, data), PlainStream(origin))

    def _relay(self, way: Way, client: Stream, origin: Stream) -> Tunnel:
        """Relay to the end; the tunnel as it was."""
        record = way.record
        tunnel = Tunnel(client, origin, self._limits.idle_timeout)
        try:
            tunnel.run()
        finally:
            record.sent, record.received = tunnel.sent, tunnel.received
        record.outcome = tunnel.outcome
        return tunnel

    def _refused(self, way: Way, pair: Pair, reason: str | None, closed: bool) -> None:
        """Tell what it means that a client did not go on, and count it."""
        meaning = refusals.meaning(reason)
        if meaning is None and not closed:
            return  # something else is wrong with its TLS
        what = meaning or "probably it does not trust the CA, or pins another certificate"
        way.record.note(f"the client refused our certificate: {what}; {refusals.setting(way.user_agent)}")
        if self._refusals.refused(pair):
            log.warning("%s refused certificates for %s: tunnelled untouched for an hour (--learn-bypass)", *pair)


def _peer(origin: socket.socket | OriginError) -> tuple[str, int] | None:
    """The address that was dialled; None where there is no connection, or not any more."""
    if isinstance(origin, OriginError):
        return None
    try:
        host, port, *_ = origin.getpeername()
    except OSError:  # reset as soon as it was made: its next use tells that, and the client can be told then
        return None
    return host, port


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
    _tell(stream, pages.for_error(error, head_only=head is not None and head.method == "HEAD"))


def _tell(stream: TlsStream, reply: bytes) -> None:
    """Send the reply that ends a client's TLS."""
    try:
        stream.sock.settimeout(sockets.LINGER_SECONDS)
        stream.encrypt(reply)
        stream.close_notify()
    except OSError as gone:
        log.debug("client left: %s", gone)
    sockets.last_word(stream.sock, b"")
