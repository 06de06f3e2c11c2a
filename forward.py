"""Plain HTTP: one request forwarded to its origin, and the response brought back; h11 speaks HTTP/1 on both sides.

Each exchange has its own connection to the origin, so no request is sent on one that is being closed.
"""

import errno
import socket
import time

import gevent
import h11

import fields
import sockets
import upload
from errors import CertifierError, OriginError, OriginGone, OriginProtocolError, OriginSilent
from exchange import MAX_FIELDS, Exchange, Unreadable
from head import RequestHead, without_quote
from http1 import MAX_INTERIM
from meter import Meter
from names import Target
from record import Record
from recorder import Recorder
from response import ResponseReader

LINGER_SECONDS = 5.0  # how long an upload that was already answered may pause, as in nginx
_CHUNK = 65_536


class Forwarding:
    """One request from a client's socket to an origin's, and the response back.

    Both are reported to the ``recorder`` as ``exchange``; their octets are added to the ``meter`` of all connections.
    Where requests are ``judged``, their trailers, which nobody has seen, stay behind: see ``framing.Chunked``.
    """

    def __init__(
        self,
        client: socket.socket,
        origin: socket.socket,
        head: RequestHead,
        record: Record,
        recorder: Recorder,
        exchange: Exchange,
        meter: Meter,
        judged: bool = False,
    ) -> None:
        self._recorder = recorder
        self._exchange = exchange
        self._meter = meter
        self._client = client
        self._origin = origin
        self._head = head
        assert head.connection is not None  # a CONNECT is not forwarded
        self._to_client = head.connection
        self._to_origin = h11.Connection(h11.CLIENT)  # gets heads and trailers whole, so its limit on them never counts
        self._record = record
        to_client, to_origin = self._to_client, self._to_origin
        self._upload = upload.Upload(client, origin, to_client, to_origin, record, recorder, exchange, meter, judged)
        self._out = bytearray()  # pending for the client: small pieces are sent together

    def run(self, target: Target, path: str, rest: bytes) -> bytes | None:
        """Run the exchange; ``rest`` is what was received after the head.

        Returns what was received after the whole request if the connection can serve another one, else None. Raises
        ``CertifierError`` if the client can still be sent the error's reply, ``OSError`` if it is cut off instead.
        """
        error: str | None = "cut off"
        try:
            following = self._run(target, path, rest)
            error = None
            return following
        except (CertifierError, OSError) as failure:
            error = str(failure)
            if self._exchange.status is None and isinstance(failure, CertifierError):
                self._exchange.status = failure.status  # of the reply that the client gets
            raise
        finally:
            if error is not None and self._exchange.first_byte is not None and self._head.http_version == "1.0":
                sockets.reset(self._client)  # it would take a FIN for the end of the body
            if error is None and not self._upload.whole:
                error = "the request was cut off"  # though it was answered
            self._recorder.end(self._exchange, error)

    def _run(self, target: Target, path: str, rest: bytes) -> bytes | None:
        for sock in (self._client, self._origin):
            sock.settimeout(upload.QUIET_SECONDS)
        if rest:  # to h11, b"" is the end
            self._to_client.receive_data(rest)
        request = h11.Request(method=self._head.method, target=path, headers=fields.for_origin(self._head))
        try:
            self._origin.sendall(self._to_origin.send(request) or b"")
        except OSError as error:
            raise OriginGone(f"{target} closed the connection") from error
        if self._head.has_body:
            uploading = gevent.spawn(self._upload.run)
            sockets.give_way()  # its timeout starts first: if both sides stay silent, the client is at fault
            try:
                self._download(target)
                self._linger(uploading)
            finally:
                uploading.kill()
        else:
            self._upload.run()  # only the request's end, already here: no wait, and done before the response
            self._download(target)
        if (
            not self._upload.whole
            or self._to_client.our_state is not h11.DONE
            or self._to_client.their_state is not h11.DONE
        ):
            sockets.last_word(self._client, b"")
            return None
        return self._to_client.trailing_data[0]

    def _linger(self, uploading: "gevent.Greenlet[[], None]") -> None:
        """Let an upload that was answered early go on as long as it makes progress.

        An origin may answer at once and keep reading, and many clients send everything before they read.
        """
        if self._to_client.our_state is not h11.DONE:
            sockets.shut(self._client, socket.SHUT_WR)  # the connection is closing, which may mark the response's end
        sent = -1
        while not uploading.ready() and sent != self._record.sent:
            sent = self._record.sent
            uploading.join(LINGER_SECONDS)

    def _download(self, target: Target) -> None:
        """Pass on the response as it arrives, and interim ones (RFC 9110 §15.2) before it."""
        reader = ResponseReader(self._to_origin)
        events = interim = 0
        while True:
            try:
                event = reader.next_event()
                events += 1
                if upload.takes_long(event, events):
                    sockets.give_way()
                if event is h11.NEED_DATA:
                    self._flush()
                    reader.receive(self._receive())
                    continue
            except (h11.RemoteProtocolError, Unreadable, _OriginLost) as error:
                error.__traceback__ = None  # h11's refers to the error itself: a cycle
                failure = self._upload.fault or _origin_error(target, error, reader.closed)
                if reader.began:
                    self._flush()
                    raise ConnectionAbortedError(str(failure)) from error
                raise failure.again() from error
            if isinstance(event, h11.InformationalResponse):
                interim += 1
                if interim > MAX_INTERIM:
                    raise OriginProtocolError(f"{target} sent more than {MAX_INTERIM} interim responses")
                if self._head.http_version != "1.0":
                    passed = fields.interim(event)
                    status, phrase = event.status_code, event.reason
                    self._send(h11.InformationalResponse(status_code=status, reason=phrase, headers=passed))
                    self._flush()
            elif isinstance(event, h11.Response):
                self._record.status = event.status_code
                reason, version = event.reason.decode("latin-1"), event.http_version.decode("ascii")
                told, now = event.headers.raw_items(), time.monotonic()
                self._recorder.response(self._exchange, event.status_code, reason, told, now, version)
                headers = fields.for_client(event, closing=not self._upload.whole and self._ends_by(event))
                self._send(h11.Response(status_code=event.status_code, reason=event.reason, headers=headers))
            elif isinstance(event, h11.Data):
                self._record.received += len(event.data)
                self._meter.received += len(event.data)
                self._recorder.download(self._exchange, event.data, 0, len(event.data))
                self._send(event)
            else:
                assert isinstance(event, h11.EndOfMessage)  # h11 refuses an upgrade, and a premature end
                self._exchange.trailers = event.headers.raw_items()[:MAX_FIELDS]
                trailers = fields.trailers(event) if self._head.http_version != "1.0" else []
                self._send(h11.EndOfMessage(headers=trailers))
                self._flush()
                return

    def _ends_by(self, response: h11.Response) -> bool:
        """Whether the rest of an upload is not needed after this response: told of the close, curl stops sending."""
        return (
            self._to_client.they_are_waiting_for_100_continue
            or response.http_version < b"1.1"
            or b"close" in fields.connection_options(response.headers.raw_items())
        )

    def _receive(self) -> bytes:
        try:
            data = upload.receive(self._origin, lambda: self._record.sent)
        except OSError as error:
            raise _OriginLost from error
        lost = self._upload.lost
        if not data and (self._upload.fault or lost):  # we shut it, or it was reset: no end of a response
            raise _OriginLost from lost
        return data

    def _send(self, event: h11.Event) -> None:
        self._out += self._to_client.send(event) or b""
        if len(self._out) >= _CHUNK:
            self._flush()

    def _flush(self) -> None:
        if self._out:
            out, self._out = self._out, bytearray()
            self._client.sendall(out)


class _OriginLost(Exception):
    """The connection to the origin is lost: by an ``OSError``, the cause (none of the client's), or we shut it down."""


def _origin_error(target: Target, error: Exception, closed: bool) -> OriginError:
    cause = error.__cause__ if isinstance(error, _OriginLost) else None
    if sockets.ran_out(cause):
        return OriginSilent(f"{target} sent nothing for {upload.QUIET_SECONDS:.0f} s")
    if isinstance(cause, OSError) and cause.errno != errno.ECONNRESET:
        return OriginGone(f"{target} was lost before it had answered in full: {cause.strerror}")
    if closed or cause is not None:
        return OriginGone(f"{target} closed the connection before it had answered in full")
    return OriginProtocolError(f"{target} sent a malformed response: {without_quote(error)}")
