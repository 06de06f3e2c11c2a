"""``Upload``: the body of one plain-HTTP request, from a client's socket to an origin's; and how either is read."""

import socket
import time
from collections.abc import Callable

import h11

import fields
import sockets
from errors import ClientError, RequestTimeout
from exchange import Exchange
from head import without_quote
from meter import Meter
from record import Record
from recorder import Recorder

QUIET_SECONDS = 300.0  # how long either side may be silent while we wait for it: long polls end sooner
_CHUNK = 65_536
_EVENTS = 64  # after which others may run: gevent's calls switch only if they would block, and each event costs time
_MANY = 256  # fields in one event, after which others may run, too: 16,000, as many as a head may have, take 20 ms


class Upload:
    """Passes a request's body on as it arrives. While it runs, nobody else writes to the origin.

    ``whole``: all of the request was read and passed on. ``fault``: the client's, whose request broke off. ``lost``:
    what a write to the origin failed with, if no read will be told of that: see ``sockets.is_lost``. Where requests are
    ``judged``, their trailers stay behind.
    """

    def __init__(
        self,
        client: socket.socket,
        origin: socket.socket,
        to_client: h11.Connection,
        to_origin: h11.Connection,
        record: Record,
        recorder: Recorder,
        exchange: Exchange,
        meter: Meter,
        judged: bool,
    ) -> None:
        self.whole = False
        self.fault: ClientError | None = None
        self.lost: OSError | None = None
        self._client = client
        self._origin = origin
        self._to_client = to_client
        self._to_origin = to_origin
        self._record = record
        self._recorder = recorder
        self._exchange = exchange
        self._meter = meter
        self._judged = judged

    def run(self) -> None:
        """Pass on the body, to its end or until either side fails, which is not raised."""
        events = 0
        try:
            while not self.whole:
                event = self._to_client.next_event()
                events += 1
                if takes_long(event, events):
                    sockets.give_way()
                if event is h11.NEED_DATA:
                    data = receive(self._client, lambda: self._record.received)
                    if not data:
                        raise ClientError("the request ended in its body")
                    self._to_client.receive_data(data)
                elif isinstance(event, h11.Data | h11.EndOfMessage):
                    if not self._pass_on(event):
                        return
                else:
                    return
        except (h11.ProtocolError, ClientError, OSError) as error:
            error.__traceback__ = None  # h11's refers to the error itself: a cycle
            if sockets.ran_out(error):
                self.fault = RequestTimeout(f"nothing of the request's body for {QUIET_SECONDS:.0f} s")
            else:
                self.fault = ClientError(f"the request's body could not be read: {without_quote(error)}")
            sockets.shut(self._origin)  # the origin must not take half a request for a whole one

    def _pass_on(self, event: h11.Data | h11.EndOfMessage) -> bool:
        """Pass on content or the end; return whether the origin took it."""
        if isinstance(event, h11.Data):
            octets = len(event.data)
            self._record.sent += octets
            self._meter.sent += octets
            self._recorder.upload(self._exchange, event.data, 0, octets)
            out = self._to_origin.send(event)
        else:
            self._exchange.request_ended = time.monotonic()
            trailers = fields.trailers(event) if not self._judged else []
            out = self._to_origin.send(h11.EndOfMessage(headers=trailers))
        try:
            if out:
                self._origin.sendall(out)
        except OSError as error:
            # The origin has closed, perhaps after answering; if not, the FIN ends its wait.
            if sockets.is_lost(error):
                error.__traceback__ = None  # it refers to this object: a cycle
                self.lost = error
            sockets.shut(self._origin, socket.SHUT_WR)
            return False
        self.whole = isinstance(event, h11.EndOfMessage)
        return True


def takes_long(event: h11.Event | type[h11.NEED_DATA | h11.PAUSED], number: int) -> bool:
    """Whether an event, or the latest ones together, took so long that others may run now."""
    if isinstance(event, h11.Response | h11.InformationalResponse | h11.EndOfMessage) and len(event.headers) > _MANY:
        return True
    return number % _EVENTS == 0


def receive(sock: socket.socket, moved: Callable[[], int]) -> bytes:
    """Receive from one side, which may be silent while the other one is not: ``moved`` counts the other's octets."""
    while True:
        before = moved()
        try:
            return sock.recv(_CHUNK)
        except TimeoutError as error:
            if moved() == before or not sockets.ran_out(error):  # the next read would find an end that looks orderly
                raise
