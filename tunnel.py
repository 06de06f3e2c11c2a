"""``Tunnel``: both directions between a client and an origin, their byte counts, deadlines and ends.

An end is passed on as what it was, a close_notify as such and a truncation as a truncation, and the other
direction goes on. Back-pressure is the blocking write: a pump does not read while the other side is slow.
"""

import socket

import gevent
from gevent.hub import get_hub

import sockets
from errors import CertifierError
from meter import Meter
from streams import BROKEN, FULL, ORDERLY, RENEGOTIATES, RESET, Stream

BATCH = 131_072  # octets received after which a pump lets others run: gevent's calls switch only when they would block
_RECORDS = 256  # records after which it does so too: tiny ones cost as much each as large ones
_TINY = 512  # octets of a record below which it is tiny
_HOLLOW = 24_576  # octets without content after which it does so as well: a record that has begun, 300 key updates
_SMALL = 8_192  # octets of a fill while records are tiny: of 23 octets each there are 350 in it
_EARLY = 16_384  # octets of the client's that are kept until the origin says something: a request's head
IDLE_SECONDS = 3600.0  # no byte either way for so long (up to a tick more)
_TICKS = 12  # how often in that time it is looked at; with one direction ended, one tick without a byte is enough


class Tunnel:
    """Relays between two streams, whose sockets stay their owner's to close.

    ``sent`` and ``received`` count octets of plaintext from and to the client. ``outcome`` is ``closed``, or what
    went wrong first: ``client-`` or ``origin-`` and how that side ended, or ``idle``. ``alert`` is why the origin
    ended its TLS before it had sent a byte: then the client was told nothing, and can still be told why; ``early`` is
    what it had said until then, all of it where ``sent`` is as long. ``refusal`` is why no more was let pass, and
    ``quiet`` whether the client can be told in the place of a response.
    """

    _acts = False  # something answers the client in the origin's stead, and may wait in one direction for the other

    def __init__(self, client: Stream, origin: Stream, idle: float = IDLE_SECONDS, meter: Meter | None = None) -> None:
        self.sent = 0
        self.received = 0
        self.outcome = ORDERLY
        self.alert: str | None = None
        self.early = bytearray()
        self.refusal: CertifierError | None = None
        self.quiet = True
        self.client_ended_first: bool | None = None
        self._client = client
        self._origin = origin
        self._tick = idle / _TICKS
        self._one_way = False  # one direction has ended
        self._quiet = 0  # ticks without a byte
        self._seen = 0  # octets at the last tick
        self._meter = meter or Meter()  # of all tunnels
        self._over = False  # after an answer in the origin's stead
        self._unread = False  # the client still sends, and nobody takes it

    def run(self) -> None:
        """Relay until both directions have ended."""
        self._client.sock.settimeout(None)
        self._origin.sock.settimeout(None)
        # What was received with the handshakes is taken before either pump can end the other side: see streams.py.
        try:
            if not self._acts:  # else that may wait for what the origin's pump brings
                self._take(self._client, self._origin)
            self._take(self._origin, self._client)
        except CertifierError as refusal:
            self._refuse(refusal)
            return
        watchdog = get_hub().loop.timer(self._tick, self._tick)
        try:
            watchdog.start(self._watch)
            if self._acts or not self._together():
                self._apart()
            if self._over:
                self._client.end(ORDERLY)
            if self._unread and self.refusal is None and self.alert is None:
                sockets.last_word(self._client.sock, b"")  # what the origin said at last must arrive
        finally:
            watchdog.stop()
            watchdog.close()

    def _together(self) -> bool:
        """Both directions in one greenlet, which is what an idle tunnel costs least in; whether that did to the end.

        As soon as one side does not take at once what the other one sent, each direction needs its own.
        """
        client, origin = self._client, self._origin
        if client.ended is not None or origin.ended is not None:
            return False
        most = [_SMALL, _SMALL]  # until it is known that records are large
        try:
            if (self.sent and not origin.flush_now()) or (self.received and not client.flush_now()):
                return False
        except OSError:
            return False  # the pumps find out which
        while True:
            side = sockets.either(client.sock, origin.sock)
            source, sink = (origin, client) if side else (client, origin)
            # No switch from here on until flush_now(): the buffers are shared, and unwrap() relies on it.
            octets = source.fill_now(most[side])
            if octets is None:
                continue
            try:
                records, content = self._take(source, sink)
                most[side] = _most(octets, records, content)
                source.answer()
                if records and source.ended is ORDERLY:  # else the client may yet have to be told why
                    sink.finish()
                if not sink.flush_now():
                    return False
            except CertifierError as refusal:
                self._refuse(refusal)
                return True
            except OSError:
                self._gone(sink)
                break
            if source.ended is not None:
                self._pass_on(source.ended, source, sink)
                break
        self._one_way = True
        if self.alert is None:
            self._pump(sink, source)
        return True

    def _apart(self) -> None:
        """Each direction in a greenlet of its own."""
        upward = gevent.spawn(self._pump, self._client, self._origin)
        try:
            sockets.give_way()  # it takes what was received with the handshake before the other one can end its side
            self._pump(self._origin, self._client)
            if self.alert is None and self.refusal is None:
                upward.get()
        finally:
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
        octets = records = content = 0
        most = _SMALL  # until it is known that records are large
        while True:
            try:
                # No switch from fill() on until flush(): the buffers are shared, and unwrap() relies on it.
                taken, passed = self._take(source, sink)
                source.answer()
                self._flush(sink)
            except CertifierError as refusal:
                self._refuse(refusal)
                return
            except OSError:
                self._gone(sink)
                return
            if self._over:
                sockets.shut(self._origin.sock)  # wakes the other pump
                return
            if source.ended is not None:
                break
            records += taken
            content += passed
            if octets >= BATCH or records >= _RECORDS or octets - content > _HOLLOW:
                most = _most(octets, records, content)
                octets = records = content = 0
                sockets.give_way()
            octets += source.fill(most)
        self._pass_on(source.ended, source, sink)

    def _take(self, source: Stream, sink: Stream) -> tuple[int, int]:
        """Decrypt what was received, and encrypt it for the other side; how many records that were, and octets.

        Raises ``CertifierError`` for what may not pass.
        """
        octets = records = 0
        keeps = self._keeps_early(source)
        while data := source.decrypt():
            octets += len(data)
            records += 1
            if keeps:
                self.early += data
            sink.encrypt(data)
        if octets:
            self._count(source, octets)
        return records, octets

    def _keeps_early(self, source: Stream) -> bool:
        return source is self._client and not self.received and len(self.early) < _EARLY

    def _count(self, source: Stream, octets: int) -> None:
        if source is self._client:
            self.sent += octets
            self._meter.sent += octets
        else:
            self.received += octets
            self._meter.received += octets
            self.early.clear()

    def _flush(self, sink: Stream) -> None:
        sink.flush()

    def _refuse(self, refusal: CertifierError) -> None:
        self.refusal = refusal.again()  # what was raised holds the frames that hold the tunnel
        sockets.shut(self._origin.sock)  # wakes the other pump, if it is that which reads there

    def _gone(self, sink: Stream) -> None:
        """An end that takes no more. What it said before may still be on its way: its own direction finds its end."""
        sockets.shut(sink.sock, socket.SHUT_WR)  # makes that come where only our own side failed
        self._unread = sink is self._origin
        self._went_wrong(sink, RESET)

    def _went_wrong(self, side: Stream, how: str) -> None:
        if self.outcome is ORDERLY:
            self.outcome = f"{'client' if side is self._client else 'origin'}-{how}"

    def _pass_on(self, how: str, source: Stream, sink: Stream) -> None:
        if self.refusal is not None or self._over:
            return
        if self.client_ended_first is None:
            self.client_ended_first = source is self._client
        if how is not ORDERLY:
            self._went_wrong(source, how)
        # What an origin says to the truncation of a client that has left is no news.
        if source is self._origin and not self.received and self._client.ended in (None, ORDERLY):
            self.alert = source.reason if not source.renegotiates else RENEGOTIATES
            if self.alert is not None:
                return
        if how is RESET or how is BROKEN:
            sink.abort()
            return
        try:
            sink.end(how)
        except OSError:  # it is gone: its own pump finds out
            pass

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


def _most(octets: int, records: int, content: int) -> int:
    """How much to take at once behind so much: little where records are tiny, or TLS's own, which cost more still."""
    return _SMALL if records * _TINY > octets or content * 2 < octets else FULL
