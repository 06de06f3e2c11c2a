"""``Proxy``: one connection from accept to close. It knows the way, others do the work.

``Proxy.handle`` reads top to bottom as ARCHITECTURE.md draws it: head, policy, dial, then what ``interception.py`` does
with the tunnel, and the log line. Its caller, the ``Acceptor``, owns the client's socket and closes it.
"""

import logging
import socket
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace

import gevent

import names
import pages
import sockets
import tls
from access import Access
from accesslog import AccessLog
from admission import Admission
from board import Board
from dialing import Dialer
from errors import (
    CertifierError,
    ClientError,
    HelloTimeout,
    LoopDetected,
    NotTls,
    OriginError,
    RequestTimeout,
)
from forward import Forwarding
from head import HeadReader, RequestHead, http_target
from interception import Interception, Way
from limits import Limits
from log import Record
from names import Target
from names import target as parse_target
from onlookers import Visit
from policy import Policy
from sight import Sight
from website import Website
from wire import HANDSHAKE

KEEP_ALIVE_SECONDS = 60.0  # for the next request on a plain-HTTP connection
STREAM_SECONDS = 30.0  # for a client to take the next piece of live data
_RECV = 16_384

log = logging.getLogger("certifier.proxy")


@dataclass(frozen=True, slots=True)
class Client:
    """Who connected."""

    sock: socket.socket
    ip: str
    who: str  # address and port
    refusal: CertifierError | None  # why there is nothing for it but that, past a limit of connections


class Proxy:
    """Serves connections."""

    def __init__(
        self,
        interception: Interception,
        dialer: Dialer,
        policy: Policy,
        access: Access,
        admission: Admission,
        limits: Limits,
        website: Website,
        sight: Sight,
        access_log: AccessLog,
        board: Board,
    ) -> None:
        self._interception = interception
        self._dialer = dialer
        self._policy = policy
        self._access = access
        self._admission = admission
        self._limits = limits
        self._website = website
        self._sight = sight
        self._access_log = access_log
        self._board = board

    def handle(self, sock: socket.socket, address: tuple[str, int]) -> None:
        """Serve one accepted connection until it ends."""
        ip = address[0]
        self._board.connected()
        client = Client(sock, ip, str(Target(ip, address[1])), self._admission.enter(ip))
        deadline = time.monotonic() + self._limits.head_timeout
        try:
            sockets.tune(sock)
            sockets.arm(sock, deadline)
            data = sock.recv(_RECV)
            if data[:1] == bytes((HANDSHAKE,)):
                self._direct(client, data)
            elif data:
                self._http(client, data, deadline)
        except OSError as error:
            log.debug("%s left: %s", client.who, error)
        except Exception:  # the top of a connection: a bug ends this one alone
            log.exception("connection of %s failed", client.who)
        finally:
            self._admission.leave(ip)

    def _http(self, client: Client, data: bytes, deadline: float) -> None:
        """HTTP requests, until a CONNECT takes the connection over or one of them ends it."""
        while data:
            rest: bytes | None = None
            record = Record(client.who, kind="request")
            with self._logged(record):
                head = None
                try:
                    head, behind = self._read_head(client.sock, data, deadline)
                    if head.method == "CONNECT":
                        record.kind = "tunnel"
                        self._connect(client, head, behind, record)
                    else:
                        rest = self._request(client, head, behind, record)
                except CertifierError as error:
                    record.fail(error)
                    record.status = error.status
                    head_only = head is not None and head.method == "HEAD"
                    sockets.last_word(client.sock, pages.for_error(error, head_only))
            if rest is None:
                return
            data = _next_request(client.sock, rest)
            deadline = time.monotonic() + self._limits.head_timeout

    def _request(self, client: Client, head: RequestHead, behind: bytes, record: Record) -> bytes | None:
        """A plain-HTTP request: for the proxy itself, or forwarded. What follows it, or None at the end."""
        if head.target.startswith("/") or head.target == "*":
            self._own_page(client, head, head.target, head.header(b"host"), record)
            return None
        target, path = http_target(head.target, head.method)
        record.target = str(target)
        literal = names.ip_of(target.host) is not None or target.host == "localhost"  # asks no DNS for a stranger
        if literal and self._dialer.is_self(target):
            self._own_page(client, head, path, str(target), record)
            return None
        self._admit(client, head, record)
        if (not literal and self._dialer.is_self(target)) or (
            head.method in ("TRACE", "OPTIONS") and head.header(b"max-forwards") == "0"  # RFC 9110 §7.6.2
        ):
            self._own_page(client, head, path, str(target), record)
            return None
        said = head.header(b"host")
        if self._policy.minds_mismatch and said and parse_target(said, default_port=80) != target:
            record.note(self._policy.check_mismatch("Host", said, str(target)))
        with self._dialer.own(target) as origin:
            rest = self._forward(client, origin, head, target, path, behind, record)
        record.outcome = "closed"
        return rest

    def _forward(
        self,
        client: Client,
        origin: socket.socket,
        head: RequestHead,
        target: Target,
        path: str,
        behind: bytes,
        record: Record,
    ) -> bytes | None:
        """Forward a request before those who look, and act; what follows it, or None at the end."""
        recorder = self._sight.recorder(record, str(Target(*origin.getpeername()[:2])))
        if recorder is None:
            return Forwarding(client.sock, origin, head, record).run(target, path, behind)
        record.told = self._sight.logs
        exchange = recorder.request(head.method, str(target), path, head.http_version, head.headers)
        answer = self._sight.decide(exchange)
        if answer is None:
            head = replace(head, method=exchange.method, headers=exchange.request_fields)
            return Forwarding(client.sock, origin, head, record, recorder, exchange).run(
                target, exchange.target, behind
            )
        reply = answer.written(head.method)
        recorder.response(exchange, answer.status, answer.reason, [], time.monotonic())
        recorder.end(exchange)
        record.status = answer.status
        sockets.last_word(client.sock, reply)
        return None

    def _own_page(self, client: Client, head: RequestHead, path: str, called: str, record: Record) -> None:
        record.kind = "page"
        try:  # what the client calls us may be another address than ours: a container's published port
            where = parse_target(called, default_port=80)
        except ClientError:
            where = Target(*client.sock.getsockname()[:2])
        answer = self._website.answer(Visit(head.method, path, client.ip, called, where, head.header))
        record.status, record.outcome = answer.status, "closed"
        if answer.stream is None:
            sockets.last_word(client.sock, answer.reply)
            return
        with closing(answer.stream) as pieces, suppress(OSError):  # whoever looked has left
            client.sock.settimeout(STREAM_SECONDS)
            sockets.send(client.sock, answer.reply)
            for piece in pieces:
                sockets.send(client.sock, piece)
            sockets.last_word(client.sock, b"")

    def _connect(self, client: Client, head: RequestHead, data: bytes, record: Record) -> None:
        target = parse_target(head.target)
        record.target = str(target)
        self._admit(client, head, record)
        way = Way(client.sock, client.ip, target, record, head.header(b"user-agent"))
        with self._dialer.tunnel(target) as origin:
            sockets.arm(client.sock, time.monotonic() + self._limits.head_timeout)
            sockets.send(client.sock, pages.ESTABLISHED)
            with _refusing_by_alert(client.sock, record):
                self._interception.run(way, origin, data)

    def _direct(self, client: Client, data: bytes) -> None:
        """TLS without a CONNECT: the origin is the server_name's port 443."""
        record = Record(client.who)
        with self._logged(record), _refusing_by_alert(client.sock, record):
            hello, data = self._interception.read_hello(client.sock, None, data)
            if hello is None:
                record.outcome = "client-closed"
                return
            target = Target(self._policy.name_for(hello, None), 443)
            record.target, record.sni = str(target), hello.server_name
            if client.refusal is not None:
                raise client.refusal
            self._access.check(client.ip, None)
            way = Way(client.sock, client.ip, target, record)
            try:
                origin = self._dialer.tunnel(target)
            except OriginError as error:
                self._interception.intercept(way, error, hello, data)
            else:
                with origin:
                    self._interception.intercept(way, origin, hello, data)

    def _admit(self, client: Client, head: RequestHead, record: Record) -> None:
        """Raise where the client may not have what it asks for, whatever that is."""
        if client.refusal is not None:
            raise client.refusal
        record.user = self._access.check(client.ip, lambda: head.header(b"proxy-authorization"))
        if pages.VIA in head.header(b"via"):
            raise LoopDetected("the request has been here before, by its Via field")

    @contextmanager
    def _logged(self, record: Record) -> Iterator[None]:
        """Log the record, whatever happens. A client that is gone is told there, and nowhere else."""
        number = self._board.opened(record)
        try:
            yield
        except OSError as error:
            record.outcome, record.detail = "cut-off", str(error)
        except gevent.GreenletExit:
            record.outcome = "stopped"
            raise
        finally:
            if not record.told:
                self._access_log.connection(record)
            self._board.closed(number)

    def _read_head(self, sock: socket.socket, data: bytes, deadline: float) -> tuple[RequestHead, bytes]:
        """A request head that begins with ``data``, and what came behind it."""
        reader = HeadReader(self._limits.head)
        while (head := reader.receive(data)) is None:
            try:
                sockets.arm(sock, deadline)
                data = sock.recv(_RECV)
            except TimeoutError as error:
                seconds = self._limits.head_timeout
                raise RequestTimeout(f"no complete request head within {seconds:.0f} s") from error
            if not data:
                raise ConnectionAbortedError("closed in the request head")
        return head, bytes(reader.rest)


def _next_request(sock: socket.socket, data: bytes) -> bytes:
    """The first bytes of the next request on a kept connection; empty when there is none. Empty lines do not count."""
    deadline = time.monotonic() + KEEP_ALIVE_SECONDS
    while not data.strip(b"\r\n"):
        sockets.arm(sock, deadline)
        data = sock.recv(_RECV)
        if not data:
            break
    return data


@contextmanager
def _refusing_by_alert(sock: socket.socket, record: Record) -> Iterator[None]:
    """The reply in a tunnel in which TLS has not begun is an alert; where there is none, the end."""
    try:
        yield
    except (HelloTimeout, NotTls) as error:
        record.fail(error)
    except CertifierError as error:
        record.fail(error)
        sockets.last_word(sock, tls.alert(error.alert))
