"""``PlainHttp``: requests without a tunnel: for the proxy itself, or for an ``http://`` origin."""

import socket
from contextlib import closing, suppress
from dataclasses import replace

import fields
import names
import sockets
from dialing import Dialer
from door import Client, Door
from errors import ClientError, OriginGone, Refused
from forward import Forwarding
from head import RequestHead, http_target
from meter import Meter
from names import Target
from names import target as parse_target
from onlookers import Visit
from policy import Policy
from record import Record
from sight import Sight
from verdict import check_fields, judge, record_answer
from website import Website

STREAM_SECONDS = 30.0  # for a client to take a page, or the next piece of live data


class PlainHttp:
    """Serves plain-HTTP requests."""

    def __init__(
        self, dialer: Dialer, policy: Policy, door: Door, website: Website, sight: Sight, meter: Meter
    ) -> None:
        self._dialer = dialer
        self._policy = policy
        self._door = door
        self._website = website
        self._sight = sight
        self._meter = meter

    def serve(self, client: Client, head: RequestHead, behind: bytes, record: Record) -> bytes | None:
        """Serve a request to the proxy itself, or forward it; return what was received after it, or None at the end."""
        if head.target.startswith("/") or head.target == "*":
            self._own_page(client, head, head.target, head.header(b"host"), record)
            return None
        target, path = http_target(head.target, head.method)
        record.target = str(target)
        literal = names.ip_of(target.host) is not None or target.host == "localhost"  # no DNS query before admission
        if literal and self._dialer.is_self(target, client.ip):
            self._own_page(client, head, path, str(target), record)
            return None
        self._door.admit(client, head, record)
        self._policy.check_target(target)  # first: otherwise refused names would leak in DNS queries
        # In this order: what must not be forwarded need not have a name that resolves (RFC 9110 §7.6.2).
        deadline = self._dialer.deadline()
        if fields.forwards_left(head) == 0 or (not literal and self._dialer.is_self(target, client.ip, deadline)):
            self._own_page(client, head, path, str(target), record)
            return None
        said = head.header(b"host")
        if self._policy.minds_mismatch and said and not _names(said, target):
            record.note(self._policy.check_mismatch("Host", said, str(target)))
        with self._dialer.own(target, client.ip, deadline) as origin:
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
        """Forward a request past observers and taps; return what was received after it, or None at the end."""
        where = sockets.peer(origin)
        if where is None:
            raise OriginGone(f"{target} closed the connection")
        recorder = self._sight.recorder(record, str(Target(*where)))
        if self._sight.rewrites:
            check_fields(len(head.headers))
            seen = fields.for_judges(head, target)
            head = replace(head, headers=seen)
        else:
            seen = fields.without_ours(head.headers)
        exchange = recorder.request(head.method, str(target), path, head.http_version, seen)
        exchange.note = record.remark
        record.told = self._sight.logs
        try:
            answer, changed = judge(exchange, self._sight.decide)
        except Refused as refusal:
            exchange.status = refusal.status
            recorder.end(exchange, str(refusal))
            raise
        except BaseException:  # certifier stops while a tap waits
            recorder.end(exchange, "cut off")
            raise
        if answer is None:
            if changed is not None:
                head = replace(head, method=exchange.method, headers=exchange.request_fields)
            if changed is None or not head.header(b"host"):  # a Host that a tap sets counts
                head = replace(head, headers=fields.addressed(head.headers, target))
            judged = self._sight.rewrites or self._policy.denies_mismatch
            forwarding = Forwarding(client.sock, origin, head, record, recorder, exchange, self._meter, judged)
            return forwarding.run(target, exchange.target, behind)
        record_answer(recorder, exchange, answer, closing=True)
        record.status = answer.status
        client.sock.settimeout(STREAM_SECONDS)
        sockets.send(client.sock, answer.written(head.method))  # may be large: ``last_word`` has one second
        sockets.last_word(client.sock, b"")
        return None

    def _own_page(self, client: Client, head: RequestHead, path: str, called: str, record: Record) -> None:
        record.kind = "page"
        try:  # the client may know us by another address than ours: a container's published port
            where = parse_target(called, default_port=80)
        except ClientError:
            where = Target(*client.sock.getsockname()[:2])
        visit = Visit(head.method, path, client.ip, called, where, head.header)
        page = self._website.page(visit)
        record.status, record.outcome, record.user = page.status, "closed", visit.user or record.user
        if page.stream is None:
            client.sock.settimeout(STREAM_SECONDS)
            sockets.send(client.sock, page.reply)  # may be large: ``last_word`` has one second
            sockets.last_word(client.sock, b"")
            return
        with closing(page.stream) as pieces, suppress(OSError):  # the viewer has left
            client.sock.settimeout(STREAM_SECONDS)
            sockets.send(client.sock, page.reply)
            for piece in pieces:
                sockets.send(client.sock, piece)
            sockets.last_word(client.sock, b"")


def _names(said: str, target: Target) -> bool:
    """Whether a Host field names the target."""
    try:
        return parse_target(said, default_port=80) == target
    except ClientError:
        return False
