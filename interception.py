"""``Interception``: a tunnel from its first byte to its end: ClientHello, context, TLS on both sides, relay.

Steps 5 to 9 of the diagram in ARCHITECTURE.md. Closing the client's socket is left to its owner. A
``CertifierError`` raised from here precedes any TLS sent to the client, which can therefore still be sent an alert.
"""

import logging
import socket
import time

import greeting
import names
import pages
import refusals
import sockets
from answering import explain, tell
from bypassing import Bypassing
from context import Context
from contexts import ContextCache
from dialing import Redirect
from errors import NO_APPLICATION_PROTOCOL, CertifierError, NoSharedGroup, NoSharedProtocol, NotTls, OriginError
from hello import ClientHello
from limits import Limits
from names import Target
from policy import Policy
from record import Record
from refusals import Pair, Refusals
from relaying import Relaying, Way
from sight import Sight
from streams import BROKEN, PlainStream, Stream
from tls import TlsStream
from tunnel import Tunnel
from upstream import Upstream, broke

_HTTP = b"http/1.1"

log = logging.getLogger("certifier.interception")


class Interception:
    """Intercepts the tunnels of one proxy, with its policy, contexts and origins."""

    def __init__(
        self,
        contexts: ContextCache,
        upstream: Upstream,
        policy: Policy,
        bypassing: Bypassing,
        refused: Refusals,
        redirect: Redirect | None,
        limits: Limits,
        sight: Sight,
        relaying: Relaying,
    ) -> None:
        self._contexts = contexts
        self._upstream = upstream
        self._policy = policy
        self._bypassing = bypassing
        self._refusals = refused
        self._redirect = redirect
        self._limits = limits
        self._sight = sight
        self._relaying = relaying

    def run(self, way: Way, origin: socket.socket, data: bytes) -> None:
        """Run a CONNECT tunnel whose origin was dialled; ``data`` was received after the CONNECT.

        It is relayed untouched if bypassed or, without ``--non-tls=refuse``, if not TLS or if its origin speaks first.
        """
        if self._bypassing.by_rule(way, origin):
            if self._policy.judges_names:
                hello, data = greeting.read_hello(way.client, origin, data, self._limits, patient=True)
                if hello is not None:
                    way.record.sni = hello.server_name
                    self._bypassing.check_name(way, origin, self._policy.name_for(hello.server_name, way.target.host))
                    self._policy.check_unread(hello.server_name, way.target)
            self._relaying.bypass(way, origin, data)
            return
        hello, data = greeting.read_hello(way.client, origin, data, self._limits)
        if hello is not None:
            self.intercept(way, origin, hello, data)
        elif self._policy.rules.relays_non_tls:
            self._relaying.untouched(way, origin, data)
        elif not data and sockets.has_ended(way.client):
            way.record.outcome = "client-closed"
        else:
            raise NotTls("the tunnel is not TLS, or its origin spoke first (--non-tls=refuse)")

    def intercept(self, way: Way, origin: socket.socket | OriginError, hello: ClientHello, data: bytes) -> None:
        """Terminate the client's TLS with a certificate for its name, and relay; or relay untouched if we have none.

        ``origin`` is a dialled socket, or the error that prevented it, which the client is then told inside TLS.
        """
        record = way.record
        record.sni = hello.server_name
        name = self._policy.name_for(hello.server_name, way.target.host)
        if self._bypassing.by_name(way, origin, hello, name):
            self._relaying.bypass(way, origin, data)
            return
        dialled = way.refusal or origin
        context = self._contexts.find(name)
        retrieval = None
        if context is not None:
            record.context = "memory"
        else:
            retrieval = self._contexts.start(name, way.ip)
            # Before we send any TLS of our own to the origin, we must know that we will intercept; and a flood of
            # names, most of which will be refused, must not cost us and the origins a handshake each.
            ahead = self._contexts.generates and not self._contexts.crowded(way.ip)
            if not ahead and retrieval.wait() is None:
                self._policy.check_unread(hello.server_name, way.target)
                self._relaying.leave(way, dialled, data)
                return
        if hello.finite_field:
            raise NoSharedGroup("the client wants a key exchange in a finite field (RFC 7919), not by elliptic curves")
        upstream: Stream | CertifierError
        try:
            upstream = dialled if isinstance(dialled, CertifierError) else self._secure(way, dialled, name, hello)
        except OriginError as error:
            upstream = error.again()  # the traceback of the original refers to this frame: a reference cycle
        if context is None:
            assert retrieval is not None
            if isinstance(upstream, TlsStream):
                upstream.push()  # our Finished: this may take longer than the origin waits for that
            context = retrieval.wait()
            assert context is not None  # either every name has a context, or we waited for it above
            record.context = context.source
        stream = TlsStream(way.client, context.ssl, self._client_alpn(hello, upstream), received=data)
        pair = Pair(way.ip, name)
        try:
            stream.handshake(time.monotonic() + self._limits.tls_timeout)
        except OSError as error:
            record.outcome = "client-tls-failed"
            record.detail = getattr(error, "reason", None) or str(error)
            if isinstance(upstream, CertifierError):
                record.note(str(upstream))
            self._refused(way, pair, context, record.detail, "in" if isinstance(error, ConnectionError) else None)
            return
        record.client_tls, record.client_alpn = stream.version, stream.alpn
        if stream.version == "TLSv1.2":
            self._contexts.relieve(name, context)
        if isinstance(upstream, PlainStream):
            try:
                self._relaying.introduce(way, upstream.sock, _told(hello), stream.version, stream.alpn)
            except OriginError as error:
                upstream = error.again()
        if isinstance(upstream, CertifierError):
            record.answered(upstream)
            explain(stream, upstream)
            return
        began = time.monotonic()
        witness = None
        if self._sight.looks:
            where = sockets.peer(upstream.sock)
            witness = self._sight.witness(record, name, str(Target(*where)) if where else "", stream.alpn)
        self._refusals.opened(pair, record)
        try:
            tunnel = self._relaying.run(way, stream, upstream, witness)
        finally:
            self._refusals.ended(pair, record)
        if self._settle(record, name, stream, tunnel):
            return
        if tunnel.sent:
            self._refusals.accepted(pair)
        elif tunnel.client_ended_first and not tunnel.received and time.monotonic() - began < refusals.SOON_SECONDS:
            self._refused(way, pair, context, stream.reason, None if stream.ended == BROKEN else "right after")

    def _settle(self, record: Record, name: str, stream: TlsStream, tunnel: Tunnel) -> bool:
        """Tell the client, if it still can be told, why its tunnel ended; return whether there was anything to tell."""
        if tunnel.alert is not None:
            failure = broke(self._verified(name), tunnel.alert)
            record.answered(failure)
            explain(stream, failure, bytes(tunnel.early), tunnel.sent == len(tunnel.early))
        elif tunnel.refusal is not None:
            if tunnel.answerable:
                record.answered(tunnel.refusal)
                tell(stream, pages.for_error(tunnel.refusal, tunnel.head_only))
            else:
                record.fail(tunnel.refusal)
                stream.abort()
        return tunnel.alert is not None or tunnel.refusal is not None

    def _secure(self, way: Way, origin: socket.socket, name: str, hello: ClientHello) -> Stream:
        """Our own TLS to the origin, or to a redirect that uses it; else a plain stream to the redirect."""
        redirect = self._redirect
        if redirect is not None and not redirect.tls:
            return PlainStream(origin)
        self._relaying.introduce(way, origin, _told(hello))  # nothing is known of the client's TLS yet
        deadline = time.monotonic() + self._limits.tls_timeout
        offered = hello.alpn_protocols
        if self._sight.rewrites:
            offered = tuple(protocol for protocol in offered if protocol == _HTTP)
        stream = self._upstream.secure(origin, self._verified(name), offered, deadline)
        way.record.origin_tls, way.record.origin_alpn = stream.version, stream.alpn
        return stream

    def _verified(self, name: str) -> str:
        """The name that the other end must prove by its certificate."""
        return name if self._redirect is None else self._redirect.target.host

    def _client_alpn(self, hello: ClientHello, upstream: Stream | CertifierError) -> list[str]:
        """The protocol to select for the client: what the origin selected; HTTP/1.1 if only that can be spoken."""
        if isinstance(upstream, TlsStream) and not self._sight.rewrites:
            return [upstream.alpn] if upstream.alpn is not None else []
        if not hello.alpn_protocols:
            return []
        if _HTTP not in hello.alpn_protocols:
            if isinstance(upstream, CertifierError):
                raise _told_by_alert(upstream)
            raise NoSharedProtocol("the client does not offer http/1.1, the only protocol that works here")
        return [_HTTP.decode("ascii")]

    def _refused(self, way: Way, pair: Pair, context: Context, reason: str | None, left: str | None) -> None:
        """Note why a client gave up or ``left``, if it refused our certificate, and count that."""
        meaning = refusals.meaning(reason)
        if meaning is None and left is None:
            return  # its TLS failed for another reason
        if meaning is None and self._refusals.uses(pair):
            way.record.note(f"the client left {left} the handshake, and uses this name: {refusals.UNNEEDED}")
            return
        way.record.refused = "certificate"
        what = (
            f"refused our certificate: {meaning}"
            if meaning
            else f"left {left} the handshake: probably it does not trust the CA, or pins another certificate"
        )
        advice = refusals.setting(way.record.user_agent) if context.ours else refusals.OPERATORS
        way.record.note(f"the client {what}; {advice}")
        if self._refusals.refused(pair):
            log.warning("%s refused certificates for %s: tunnelled untouched for an hour (--learn-bypass)", *pair)


def _told_by_alert(failure: CertifierError) -> CertifierError:
    """A copy for a client that can't speak HTTP/1.1; the log gets the cause, which that alert can't convey."""
    copy = failure.again()
    copy.alert = NO_APPLICATION_PROTOCOL
    return copy


def _told(hello: ClientHello) -> str | None:
    """The server name for a redirect, which may go by it: None if it is not the one that was judged (``name_for``)."""
    return names.dns_name(hello.server_name or "")
