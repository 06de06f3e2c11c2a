"""``Proxy``: one connection from accept to close. It decides the order of the steps; other modules do the work.

``Proxy.handle`` follows the diagram in ARCHITECTURE.md top to bottom: head, policy, dial, what ``interception.py`` does
with the tunnel, and the log line. Its caller, the ``Acceptor``, owns the client's socket and closes it.
"""

import logging
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import gevent

import pages
import sockets
import tls
from accesslog import AccessLog
from admission import Admission
from board import Board
from dialing import Dialer
from door import Client, Door
from errors import CertifierError, HelloTimeout, NotTls, OriginError, RequestTimeout
from greeting import read_hello
from head import HeadReader, RequestHead
from hello import HANDSHAKE
from interception import Interception
from limits import Limits
from names import Endpoint, Target
from names import target as parse_target
from plain import PlainHttp
from policy import Policy
from record import Record
from relaying import Way

KEEP_ALIVE_SECONDS = 60.0  # wait for the next request on a plain-HTTP connection; nginx waits 75 s
TOLD_SECONDS = 1.0  # wait for the request head on a connection that exceeds a limit, to send the refusal
SILENT_SECONDS = 1.0  # wait for a connection's first octet once certifier is told to stop
_RECV = 16_384

log = logging.getLogger("certifier.proxy")


class Proxy:
    """Serves connections."""

    def __init__(
        self,
        interception: Interception,
        plain: PlainHttp,
        dialer: Dialer,
        policy: Policy,
        door: Door,
        admission: Admission,
        limits: Limits,
        access_log: AccessLog,
        board: Board,
    ) -> None:
        self._interception = interception
        self._plain = plain
        self._dialer = dialer
        self._policy = policy
        self._door = door
        self._admission = admission
        self._limits = limits
        self._access_log = access_log
        self._board = board
        self._between: set[socket.socket] = set()  # keep-alive connections between two requests
        self._silent: set[socket.socket] = set()  # nothing received yet: browsers open spare connections
        self._ends = False

    def let_go(self) -> None:
        """Stop waiting for further requests on keep-alive connections, for shutdown; those received are still served.

        New connections still get ``SILENT_SECONDS`` to send their first octet.
        """
        self._ends = True
        _end_reading(self._between)
        gevent.spawn_later(SILENT_SECONDS, _end_reading, self._silent)

    def handle(self, sock: socket.socket, address: Endpoint) -> None:
        """Serve one accepted connection until it ends."""
        ip = address[0]
        self._board.connected()
        refusal = self._admission.enter(ip)
        client = Client(sock, ip, str(Target(ip, address[1])), refusal)
        deadline = time.monotonic() + (self._limits.head_timeout if refusal is None else TOLD_SECONDS)
        try:
            if refusal is not None and not self._admission.hears(ip):
                log.debug("%s closed unheard: %s", client.who, refusal)
                self._board.refused_unheard(refusal.refusal)
                return
            sockets.arm(sock, deadline)
            self._silent.add(sock)
            try:
                data = sock.recv(_RECV)
            finally:
                self._silent.remove(sock)
            if data[:1] == bytes((HANDSHAKE,)):
                self._direct(client, data)
            elif data:
                self._http(client, data, deadline)
        except OSError as error:
            log.debug("%s left: %s", client.who, error)
        except Exception:  # the top of a connection's stack: a bug ends only this one
            log.exception("connection of %s failed", client.who)
        finally:
            self._admission.leave(ip, refused=refusal is not None)

    def _http(self, client: Client, data: bytes, deadline: float) -> None:
        """Serve HTTP requests until a CONNECT takes over the connection or a request ends it."""
        while data:
            rest: bytes | None = None
            record = Record(client.who, kind="request")
            with self._logged(record):
                head = None
                try:
                    head, behind = self._read_head(client, data, deadline)
                    record.version, record.user_agent = head.http_version, head.header(b"user-agent")
                    if head.method == "CONNECT":
                        record.kind = "tunnel"
                        self._connect(client, head, behind, record)
                    else:
                        record.method, record.url, record.referer = head.method, head.target, head.header(b"referer")
                        rest = self._plain.serve(client, head, behind, record)
                except CertifierError as error:
                    record.answered(error)
                    head_only = head is not None and head.method == "HEAD"
                    sockets.last_word(client.sock, pages.for_error(error, head_only))
            if rest is None:
                return
            self._between.add(client.sock)
            try:
                data = _next_request(client.sock, rest, waits=not self._ends)
            finally:
                self._between.remove(client.sock)
            deadline = time.monotonic() + self._limits.head_timeout

    def _connect(self, client: Client, head: RequestHead, data: bytes, record: Record) -> None:
        target = parse_target(head.target)
        record.target = str(target)
        self._door.admit(client, head, record)
        redirected = self._dialer.redirects(target)
        way = Way(client.sock, client.ip, target, record, redirected)
        with self._dialer.tunnel(target, client.ip, redirected) as origin:
            sockets.arm(client.sock, time.monotonic() + self._limits.head_timeout)
            sockets.send(client.sock, pages.ESTABLISHED)
            record.established = True
            try:
                self._interception.run(way, origin, data)
            except CertifierError as error:
                _refuse_by_alert(client.sock, record, error)

    def _direct(self, client: Client, data: bytes) -> None:
        """TLS without a CONNECT: the origin is the server_name's port 443."""
        record = Record(client.who)
        with self._logged(record):
            try:
                self._direct_tunnel(client, data, record)
            except CertifierError as error:
                _refuse_by_alert(client.sock, record, error)

    def _direct_tunnel(self, client: Client, data: bytes, record: Record) -> None:
        if client.refusal is not None:
            raise client.refusal.again()
        hello, data = read_hello(client.sock, None, data, self._limits)
        assert hello is not None  # the data starts as TLS does, and there is no origin to speak first
        record.sni = hello.server_name
        target = Target(self._policy.name_for(hello.server_name, None), 443)
        record.target = str(target)
        self._door.admit(client, None, record)
        redirected = self._dialer.redirects(target)
        way = Way(client.sock, client.ip, target, record, redirected)
        try:
            origin = self._dialer.tunnel(target, client.ip, redirected)
        except OriginError as error:
            self._interception.intercept(way, error, hello, data)
        else:
            with origin:
                self._interception.intercept(way, origin, hello, data)

    @contextmanager
    def _logged(self, record: Record) -> Iterator[None]:
        """Log the record, whatever happens. That its client has disconnected is reported nowhere else."""
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

    def _read_head(self, client: Client, data: bytes, deadline: float) -> tuple[RequestHead, bytes]:
        """Read the request head that begins with ``data``; return it and what was received after it."""
        reader = HeadReader(self._limits.head)
        while (head := reader.receive(data)) is None:
            try:
                sockets.arm(client.sock, deadline)
                data = client.sock.recv(_RECV)
            except TimeoutError as error:
                if client.refusal is not None:  # waited for no longer than ``TOLD_SECONDS``
                    raise client.refusal.again() from error
                seconds = self._limits.head_timeout
                raise RequestTimeout(f"no complete request head within {seconds:.0f} s") from error
            if not data:
                raise ConnectionAbortedError("closed in the request head")
        return head, bytes(reader.rest)


def _next_request(sock: socket.socket, data: bytes, waits: bool) -> bytes:
    """The first bytes of the next request on a keep-alive connection, without empty lines before it; empty at the end.

    Read even if not ``waits``: closing with unread input makes the kernel send a reset, which can lose the last reply.
    """
    deadline = time.monotonic() + KEEP_ALIVE_SECONDS
    while not data.strip(b"\r\n"):
        if data:
            sockets.give_way()  # a client may send empty lines forever
        if waits:
            sockets.arm(sock, deadline)
        else:
            sock.settimeout(0)
        data = sock.recv(_RECV)
        if not data:
            break
    return data.lstrip(b"\r\n")


def _end_reading(waiting: Iterable[socket.socket]) -> None:
    """Wake those who wait for a client that has sent nothing; what has been received is about to be read."""
    for sock in list(waiting):
        if not sockets.has_input(sock):
            sockets.shut(sock, socket.SHUT_RD)


def _refuse_by_alert(sock: socket.socket, record: Record, error: CertifierError) -> None:
    """Refuse a tunnel in which TLS has not begun: send an alert, or nothing to a client that has not spoken TLS."""
    record.fail(error)
    if not isinstance(error, (HelloTimeout, NotTls)):
        sockets.last_word(sock, tls.alert(error.alert))
