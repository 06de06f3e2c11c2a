"""``Proxy``: one connection from accept to close. The only orchestrator: it knows the way, others do the work.

``Proxy.handle`` reads top to bottom as ARCHITECTURE.md draws it: head, policy, dial, hello, context, origin TLS,
client TLS, relay, log. Its caller, the ``StreamServer``, owns the client's socket and closes it.
"""

import logging
import socket
import time
from dataclasses import dataclass

import gevent

import pages
import sockets
import tls
from contexts import ContextCache
from errors import CertifierError, NoSharedProtocol, OriginError, Refused, RequestTimeout
from forward import Exchange
from head import HeadReader, RequestHead, http_target
from hello import HANDSHAKE, ClientHello, HelloReader
from log import Record
from names import Target
from names import target as parse_target
from policy import Policy
from tls import PlainStream, Stream, TlsStream
from tunnel import Tunnel
from upstream import Upstream

HEAD_SECONDS = 10.0  # for a complete request head; browsers send it at once
KEEP_ALIVE_SECONDS = 60.0  # for the next request on a plain-HTTP connection
DIAL_SECONDS = 10.0  # for look-up and TCP to the origin, all its addresses
HELLO_SECONDS = 10.0  # for the first bytes in a tunnel, of either side
TLS_SECONDS = 10.0  # for each of the two handshakes
_RECV = 16_384
_HTTP = b"http/1.1"

log = logging.getLogger("certifier.proxy")


@dataclass(frozen=True, slots=True)
class Redirect:
    """Where the decrypted bytes of every tunnel go instead of to its own target."""

    target: Target
    tls: bool  # encrypted again, verified for the target's host


class Proxy:
    """Serves connections. ``ca`` is the PEM of the CA certificate that clients shall trust, None if there is none."""

    def __init__(
        self, contexts: ContextCache, upstream: Upstream, policy: Policy, redirect: Redirect | None, ca: bytes | None
    ) -> None:
        self._contexts = contexts
        self._upstream = upstream
        self._policy = policy
        self._redirect = redirect
        self._ca = ca

    def handle(self, client: socket.socket, address: tuple[str, int]) -> None:
        """Serve one accepted connection until it ends."""
        who = str(Target(address[0], address[1]))
        try:
            sockets.tune(client)
            sockets.arm(client, time.monotonic() + HEAD_SECONDS)
            data = client.recv(_RECV)
            if data[:1] == bytes((HANDSHAKE,)):
                self._direct(client, who, data)
            elif data:
                self._http(client, who, data)
        except OSError as error:
            log.debug("%s left: %s", who, error)
        except Exception:  # the top of a connection: a bug ends this one alone
            log.exception("connection of %s failed", who)

    def _http(self, client: socket.socket, who: str, data: bytes) -> None:
        """HTTP requests, until a CONNECT takes the connection over or one of them ends it."""
        while True:
            reader = HeadReader()
            record = Record(who, kind="request")
            rest: bytes | None = None
            try:
                head = _read_head(client, reader, data)
                if head is None:
                    return
                if head.method == "CONNECT":
                    record.kind = "tunnel"
                    self._connect(client, head, bytes(reader.rest), record)
                else:
                    rest = self._request(client, head, bytes(reader.rest), record)
            except CertifierError as error:
                _note(record, error, error.status)
                sockets.last_word(client, pages.for_error(error))
            except OSError as error:
                record.outcome, record.detail = "cut-off", str(error)
            except gevent.GreenletExit:
                record.outcome = "stopped"
                raise
            finally:
                record.write()
            if rest is None:
                return
            data = rest

    def _request(self, client: socket.socket, head: RequestHead, rest: bytes, record: Record) -> bytes | None:
        """A plain-HTTP request: for the proxy itself, or forwarded. What follows it, or None at the end."""
        deadline = time.monotonic() + DIAL_SECONDS
        if head.target.startswith("/") or head.target == "*":
            self._own_page(client, head, head.target, record)
            return None
        target, path = http_target(head.target)
        record.target = str(target)
        addresses = self._upstream.resolve(target, deadline)
        if self._policy.is_self(addresses) or (
            head.method in ("TRACE", "OPTIONS") and head.header(b"max-forwards") == "0"  # RFC 9110 §7.6.2
        ):
            self._own_page(client, head, path, record)
            return None
        with self._upstream.dial(addresses, target, deadline) as origin:
            return Exchange(client, origin, head, record).run(target, path, rest)

    def _own_page(self, client: socket.socket, head: RequestHead, path: str, record: Record) -> None:
        host, port = client.getsockname()[:2]
        record.status, reply = pages.own(head.method, path, str(Target(host, port)), self._ca)
        sockets.last_word(client, reply)

    def _connect(self, client: socket.socket, head: RequestHead, data: bytes, record: Record) -> None:
        target = parse_target(head.target)
        record.target = str(target)
        with self._dial(target) as origin:
            client.settimeout(HELLO_SECONDS)
            client.sendall(pages.ESTABLISHED)
            try:
                hello, data = _read_hello(client, origin, data)
                if hello is None:
                    self._relay(PlainStream(client, data), PlainStream(origin), record)
                else:
                    self._intercept(client, origin, hello, data, target.host, record)
            except CertifierError as error:
                _refuse(client, error, record)
            except TimeoutError:
                record.outcome = "hello-timeout"

    def _direct(self, client: socket.socket, who: str, data: bytes) -> None:
        """TLS without a CONNECT: the origin is the server_name's port 443."""
        record = Record(who)
        origin: socket.socket | OriginError
        try:
            hello, data = _read_hello(client, None, data)
            if hello is None:
                record.outcome = "client-closed"
                return
            name = self._policy.name_for(hello, None)
            record.target = f"{name}:443"
            try:
                origin = self._dial(Target(name, 443))
            except OriginError as error:
                self._intercept(client, error, hello, data, name, record)
            else:
                with origin:
                    self._intercept(client, origin, hello, data, name, record)
        except CertifierError as error:
            _refuse(client, error, record)
        except TimeoutError:
            record.outcome = "hello-timeout"
        except OSError as error:
            record.outcome, record.detail = "cut-off", str(error)
        except gevent.GreenletExit:
            record.outcome = "stopped"
            raise
        finally:
            record.write()

    def _dial(self, target: Target) -> socket.socket:
        """TCP to the target, or to ``--redirect`` in its stead."""
        deadline = time.monotonic() + DIAL_SECONDS
        if self._redirect is not None:
            target = self._redirect.target
        addresses = self._upstream.resolve(target, deadline)
        self._policy.check_addresses(target, addresses)
        return self._upstream.dial(addresses, target, deadline)

    def _intercept(
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
        record.context = "memory"
        retrieval = None
        if context is None:
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
            _note(record, upstream, upstream.status)
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


def _read_head(client: socket.socket, reader: HeadReader, data: bytes) -> RequestHead | None:
    """A request head from a client; None if it closes, or sends nothing, where one could begin."""
    if not data:
        sockets.arm(client, time.monotonic() + KEEP_ALIVE_SECONDS)
        data = client.recv(_RECV)
    deadline = time.monotonic() + HEAD_SECONDS
    while data:
        head = reader.receive(data)
        if head is not None:
            return head
        try:
            sockets.arm(client, deadline)
            data = client.recv(_RECV)
        except TimeoutError as error:
            raise RequestTimeout(f"no complete request head within {HEAD_SECONDS:.0f} s") from error
    return None


def _read_hello(client: socket.socket, origin: socket.socket | None, data: bytes) -> tuple[ClientHello | None, bytes]:
    """The ClientHello, and all bytes received with it. None: the client does not speak TLS, or the origin spoke first.

    Raises ``HelloError``, or ``TimeoutError`` when neither side has said enough in time.
    """
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
    deadline = time.monotonic() + HEAD_SECONDS
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


def _refuse(client: socket.socket, error: CertifierError, record: Record) -> None:
    """The reply in a tunnel in which TLS has not begun: an alert."""
    _note(record, error, None)
    sockets.last_word(client, tls.alert(error.alert))


def _note(record: Record, error: CertifierError, status: int | None) -> None:
    record.outcome, record.detail = error.proxy_status, str(error)
    record.status = status
