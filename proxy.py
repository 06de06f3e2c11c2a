"""``Proxy``: one connection from accept to close. It knows the way, others do the work.

``Proxy.handle`` reads top to bottom as ARCHITECTURE.md draws it: head, policy, dial, then what ``interception.py`` does
with the tunnel, and the log line. Its caller, the ``StreamServer``, owns the client's socket and closes it.
"""

import logging
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import gevent

import interception
import pages
import sockets
import tls
from errors import CertifierError, ClientError, HelloTimeout, OriginError, RequestTimeout
from forward import Exchange
from head import HeadReader, RequestHead, http_target
from hello import HANDSHAKE
from interception import Interception, Redirect
from log import Record
from names import Target
from names import target as parse_target
from policy import Policy
from upstream import Upstream
from website import Website

HEAD_SECONDS = 10.0  # for a complete request head; browsers send it at once
KEEP_ALIVE_SECONDS = 60.0  # for the next request on a plain-HTTP connection
DIAL_SECONDS = 10.0  # for look-up and TCP to the origin, all its addresses
_RECV = 16_384

log = logging.getLogger("certifier.proxy")


class Proxy:
    """Serves connections."""

    def __init__(
        self,
        interception: Interception,
        upstream: Upstream,
        policy: Policy,
        redirect: Redirect | None,
        website: Website,
    ) -> None:
        self._interception = interception
        self._upstream = upstream
        self._policy = policy
        self._redirect = redirect
        self._website = website

    def handle(self, client: socket.socket, address: tuple[str, int]) -> None:
        """Serve one accepted connection until it ends."""
        who = str(Target(address[0], address[1]))
        try:
            sockets.tune(client)
            sockets.arm(client, time.monotonic() + HEAD_SECONDS)
            data = client.recv(_RECV)
            if data[:1] == bytes((HANDSHAKE,)):
                self._direct(client, Record(who), data)
            elif data:
                self._http(client, who, data)
        except OSError as error:
            log.debug("%s left: %s", who, error)
        except Exception:  # the top of a connection: a bug ends this one alone
            log.exception("connection of %s failed", who)

    def _http(self, client: socket.socket, who: str, data: bytes) -> None:
        """HTTP requests, until a CONNECT takes the connection over or one of them ends it."""
        rest: bytes | None = data
        while rest is not None:
            data, rest = rest, None
            if not data:
                sockets.arm(client, time.monotonic() + KEEP_ALIVE_SECONDS)
                data = client.recv(_RECV)
                if not data:
                    return
            record = Record(who, kind="request")
            with _logged(record):
                try:
                    head, behind = _read_head(client, data)
                    if head.method == "CONNECT":
                        record.kind = "tunnel"
                        self._connect(client, head, behind, record)
                    else:
                        rest = self._request(client, head, behind, record)
                except CertifierError as error:
                    record.fail(error)
                    record.status = error.status
                    sockets.last_word(client, pages.for_error(error))

    def _request(self, client: socket.socket, head: RequestHead, behind: bytes, record: Record) -> bytes | None:
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
            rest = Exchange(client, origin, head, record).run(target, path, behind)
        record.outcome = "closed"
        return rest

    def _own_page(self, client: socket.socket, head: RequestHead, path: str, record: Record) -> None:
        try:  # what the client calls us, which may be another address than ours: a container's published port
            where = parse_target(head.header(b"host"), default_port=80)
        except ClientError:
            where = Target(*client.getsockname()[:2])
        record.status, reply = self._website.answer(head.method, path, str(where))
        record.outcome = "closed"
        sockets.last_word(client, reply)

    def _connect(self, client: socket.socket, head: RequestHead, data: bytes, record: Record) -> None:
        target = parse_target(head.target)
        record.target = str(target)
        with self._dial(target) as origin:
            sockets.arm(client, time.monotonic() + HEAD_SECONDS)
            client.sendall(pages.ESTABLISHED)
            with _refusing_by_alert(client, record):
                self._interception.run(client, origin, data, target.host, record)

    def _direct(self, client: socket.socket, record: Record, data: bytes) -> None:
        """TLS without a CONNECT: the origin is the server_name's port 443."""
        with _logged(record), _refusing_by_alert(client, record):
            hello, data = interception.read_hello(client, None, data)
            if hello is None:
                record.outcome = "client-closed"
                return
            name = self._policy.name_for(hello, None)
            record.target = f"{name}:443"
            try:
                origin = self._dial(Target(name, 443))
            except OriginError as error:
                self._interception.intercept(client, error, hello, data, name, record)
            else:
                with origin:
                    self._interception.intercept(client, origin, hello, data, name, record)

    def _dial(self, target: Target) -> socket.socket:
        """TCP to the target, or to ``--redirect`` in its stead."""
        deadline = time.monotonic() + DIAL_SECONDS
        if self._redirect is not None:
            target = self._redirect.target
        addresses = self._upstream.resolve(target, deadline)
        self._policy.check_addresses(target, addresses)
        return self._upstream.dial(addresses, target, deadline)


def _read_head(client: socket.socket, data: bytes) -> tuple[RequestHead, bytes]:
    """A request head that begins with ``data``, and what came behind it."""
    deadline = time.monotonic() + HEAD_SECONDS
    reader = HeadReader()
    while (head := reader.receive(data)) is None:
        try:
            sockets.arm(client, deadline)
            data = client.recv(_RECV)
        except TimeoutError as error:
            raise RequestTimeout(f"no complete request head within {HEAD_SECONDS:.0f} s") from error
        if not data:
            raise ConnectionAbortedError("closed in the request head")
    return head, bytes(reader.rest)


@contextmanager
def _logged(record: Record) -> Iterator[None]:
    """Write the record, whatever happens. A client that is gone is told there, and nowhere else."""
    try:
        yield
    except OSError as error:
        record.outcome, record.detail = "cut-off", str(error)
    except gevent.GreenletExit:
        record.outcome = "stopped"
        raise
    finally:
        record.write()


@contextmanager
def _refusing_by_alert(client: socket.socket, record: Record) -> Iterator[None]:
    """The reply in a tunnel in which TLS has not begun is an alert; where nobody speaks, the end."""
    try:
        yield
    except HelloTimeout as error:
        record.fail(error)
    except CertifierError as error:
        record.fail(error)
        sockets.last_word(client, tls.alert(error.alert))
