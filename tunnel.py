"""``Tunnel``: the two pumps between a client and an origin, their byte counts, deadlines and ends.

An end is passed on as what it was, a close_notify as such and a truncation as a truncation, and the other
direction goes on. Back-pressure is the blocking write: a pump does not read while the other side is slow.
"""

import socket
from contextlib import suppress

import gevent
from gevent.hub import get_hub

import sockets
from tls import BROKEN, ORDERLY, RESET, Stream

BATCH = 262_144  # octets received after which a pump lets others run: gevent's calls switch only when they would block
_RECORDS = (
    256  # records after which it does so too, and before which a fill of tiny ones must end: they cost as much each
)
_SMALL = 8_192  # octets of a fill while records are tiny: of 23 octets each there are 350 in it
IDLE_SECONDS = 3600.0  # no byte either way for so long (up to a tick more)
_TICKS = 12  # how often in that time it is looked at; with one direction ended, one tick without a byte is enough


class Tunnel:
    """Relays between two streams, whose sockets stay their owner's to close.

    ``sent`` and ``received`` count octets of plaintext from and to the client. ``outcome`` is ``closed``, or what
    went wrong first: ``client-`` or ``origin-`` and how that side ended, or ``idle``. ``alert`` is how the origin
    broke its TLS before it had sent a byte: then the client was told nothing, and can still be told why.
    """

    def __init__(self, client: Stream, origin: Stream, idle: float = IDLE_SECONDS) -> None:
        self.sent = 0
        self.received = 0
        self.outcome = ORDERLY
        self.alert: str | None = None
        self.client_ended_first: bool | None = None
        self._client = client
        self._origin = origin
        self._tick = idle / _TICKS
        self._one_way = False  # one direction has ended
        self._quiet = 0  # ticks without a byte
        self._seen = 0  # octets at the last tick
        self._unread = False  # the client still sends, and nobody takes it

    def run(self) -> None:
        """Relay until both directions have ended."""
        self._client.sock.settimeout(None)
        self._origin.sock.settimeout(None)
        # What was received with the handshakes is taken before either pump can end the other side: see tls.py.
        self._take(self._client, self._origin)
        self._take(self._origin, self._client)
        watchdog = get_hub().loop.timer(self._tick, self._tick)
        upward = gevent.spawn(self._pump, self._client, self._origin)
        try:
            watchdog.start(self._watch)
            self._pump(self._origin, self._client)
            if self.alert is not None:
                return
            upward.get()
            if self._unread:
                sockets.last_word(self._client.sock, b"")  # what the origin said at last must arrive
        finally:
            watchdog.stop()
            watchdog.close()
            upward.kill()

    def _pump(self, source: Stream, sink: Stream) -> None:
        try:
            self._move(source, sink)
        except Exception:  # a bug: the other pump must not wait for this one
            self._give_up()
            raise
        finally:
            self._one_way = True

    def _move(self, source: Stream, sink: Stream) -> None:
        octets = records = 0
        most = 0
        while True:
            try:
                # No switch from fill() on until flush(): the buffers are shared, and unwrap() relies on it.
                taken = self._take(source, sink)
                sink.flush()
            except OSError:
                # The sink is gone. What it said before may still be on its way: the other pump finds its end, which
                # the FIN makes come where only our own side failed.
                sockets.shut(sink.sock, socket.SHUT_WR)
                self._unread = source is self._client
                self._went_wrong(sink, RESET)
                return
            if source.ended is not None:
                break
            records += taken
            if octets >= BATCH or records >= _RECORDS:
                most = _SMALL if records >= _RECORDS and octets < BATCH else 0
                octets = records = 0
                gevent.sleep(0)
            octets += source.fill(most)
        self._pass_on(source.ended, source, sink)

    def _take(self, source: Stream, sink: Stream) -> int:
        """Decrypt what was received, and encrypt it for the other side; how many records there were."""
        octets = records = 0
        while data := source.decrypt():
            octets += len(data)
            records += 1
            sink.encrypt(data)
        if source is self._client:
            self.sent += octets
        else:
            self.received += octets
        return records

    def _pass_on(self, how: str, source: Stream, sink: Stream) -> None:
        if self.client_ended_first is None:
            self.client_ended_first = source is self._client
        if how is not ORDERLY:
            self._went_wrong(source, how)
        told = self.received or self.client_ended_first  # a client that left is not told, nor why the origin then broke
        if how is BROKEN and source is self._origin and not told and source.reason is not None:
            self.alert = source.reason
            return
        if how is RESET or how is BROKEN:
            sink.abort()
            return
        with suppress(OSError):  # it is gone: its own pump finds out
            sink.end(how)

    def _went_wrong(self, side: Stream, how: str) -> None:
        if self.outcome is ORDERLY:
            self.outcome = f"{'client' if side is self._client else 'origin'}-{how}"

    def _watch(self) -> None:
        octets = self.sent + self.received
        self._quiet = self._quiet + 1 if octets == self._seen else 0
        self._seen = octets
        if self._quiet >= (1 if self._one_way else _TICKS):
            self.outcome = "idle"
            self._give_up()

    def _give_up(self) -> None:
        """Wake both pumps, whatever they wait for."""
        sockets.shut(self._client.sock)
        sockets.shut(self._origin.sock)
