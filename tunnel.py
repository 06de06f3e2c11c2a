"""``Tunnel``: both directions between a client and an origin, their byte counts, deadlines and ends.

An end is passed on as what it was, a close_notify as such and a truncation as a truncation, and the other
direction goes on. Blocking writes are the back-pressure: a pump does not read while the other side is slow.
"""

import socket

import gevent
from gevent.hub import get_hub

import sockets
from errors import CertifierError
from meter import Meter
from streams import BROKEN, FULL, ORDERLY, RENEGOTIATES, RESET, Stream

BATCH = 131_072  # octets received after which a pump lets others run: gevent's calls switch only if they would block
_RECORDS = 256  # records after which it does so too: a tiny one costs as much as a large one
_TINY = 512  # a record of fewer octets is tiny
_HOLLOW = 24_576  # octets besides content after which it does so as well: an incomplete record and 300 key updates
_SMALL = 8_192  # octets per fill while records are tiny: 350 records of 23 octets
_EARLY = 16_384  # octets from the client that are kept until the origin sends any: a request's head
_TICKS = 12  # checks in the idle time; once one direction has ended, one whole tick without a byte is enough


class Tunnel:
    """Relays between two streams, until both end or neither sends for ``idle`` seconds. Their owner closes the sockets.

    ``sent`` and ``received`` count octets of plaintext from and to the client. ``outcome`` is ``closed``, or what
    went wrong first: ``client-`` or ``origin-`` and how that side ended, or ``idle``; ``detail`` is OpenSSL's name for
    what broke that side's TLS. ``alert`` is why the origin ended its TLS before it had sent a byte: then the client was
    sent nothing, and can still be told why; ``early`` is what the client had sent until then, complete if ``sent`` is
    as large. ``refusal`` is why no more was let pass, and ``answerable`` whether the client can be sent that in place
    of a response, without content if ``head_only``.
    """

    _acts = False  # a witness answers in the origin's stead, and may make one direction wait for the other
    _waits = False  # a witness may take its time before an end is passed on

    def __init__(self, client: Stream, origin: Stream, idle: float, meter: Meter) -> None:
        self.sent = 0
        self.received = 0
        self.outcome = ORDERLY
        self.detail: str | None = None
        self.alert: str | None = None
        self.early = bytearray()
        self.refusal: CertifierError | None = None
        self.answerable = True
        self.head_only = False
        self.client_ended_first: bool | None = None
        self._client = client
        self._origin = origin
        self._tick = idle / _TICKS
        self._one_way = False  # one direction has ended
        self._idle_ticks = 0  # ticks without a byte
        self._seen = 0  # octets at the last tick
        self._meter = meter  # of all tunnels
        self._over = False  # ended by an answer in the origin's stead
        self._cut = False  # ended by ourselves: neither side must take that for an end of the other's
        self._unread = False  # the client may still send, and nobody reads it

    def run(self) -> None:
        """Relay until both directions have ended."""
        self._client.sock.settimeout(None)
        self._origin.sock.settimeout(None)
        # What was received with the handshakes is taken before either pump can end the other side: see tls.py.
        try:
            if not self._acts:  # otherwise it may wait for what the origin's pump delivers
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
                try:
                    self._client.end(ORDERLY)
                except OSError:
                    self._gone(self._client)
            if self._unread and self.alert is None and not self._cut:
                broken = self._origin.ended in (RESET, BROKEN)  # a FIN would look complete, see ``Stream.abort``
                sockets.last_word(self._client.sock, b"", fin=not broken)  # so that the origin's last data arrives
                if broken:
                    self._client.abort()
        finally:
            watchdog.stop()
            watchdog.close()

    def _together(self) -> bool:
        """Relay both directions in one greenlet, the cheapest for an idle tunnel; return whether it ended that way.

        Once a side does not accept the other's data without a wait, each direction needs a greenlet of its own.
        """
        client, origin = self._client, self._origin
        if client.ended is not None or origin.ended is not None:
            return False
        most = [_SMALL, _SMALL]  # until it is known that records are large
        try:
            # An origin gets our Finished now, whether the client has sent anything or not: it may be who speaks first.
            if not origin.flush_now() or (self.received and not client.flush_now()):
                return False
        except OSError:
            return False  # the pumps find out which side
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
                if records and source.ended == ORDERLY:  # otherwise the client may have to be told why
                    sink.finish(at_once=not self._waits)
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
        self._end_direction()
        if self.alert is None:
            self._pump(sink, source)
        return True

    def _apart(self) -> None:
        """Relay each direction in a greenlet of its own."""
        upward = gevent.spawn(self._pump, self._client, self._origin)
        try:
            sockets.give_way()  # it takes what was received with the handshake before the other can end that side
            if upward.ready() and not upward.successful():  # it had no memory to begin: not even its first line has run
                self._give_up("stopped")
                upward.get()
            self._pump(self._origin, self._client)
            if self.alert is None and self.refusal is None:
                upward.get()
        finally:
            upward.kill()

    def _pump(self, source: Stream, sink: Stream) -> None:
        try:
            self._move(source, sink)
        except Exception:  # a bug: the other pump must not wait for this one
            self._give_up("stopped")
            raise
        finally:
            self._end_direction()

    def _end_direction(self) -> None:
        self._one_way, self._idle_ticks = True, -1  # the tick under way began before, and does not count

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
        """Decrypt what was received, and encrypt it for the other side; return the numbers of records and octets.

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
        self.refusal = refusal.again()  # the original's traceback refers to the tunnel: a cycle
        sockets.shut(self._origin.sock)  # wakes the other pump, if that is the one reading there

    def _gone(self, sink: Stream) -> None:
        """Handle a side that accepts no more. What it sent may still be in transit: its own direction finds its end."""
        if not self._cut:  # otherwise a reset follows, and a FIN before it would look orderly
            sockets.shut(sink.sock, socket.SHUT_WR)  # brings that end about if only our own side failed
        self._unread = sink is self._origin
        self._went_wrong(sink, RESET)

    def _went_wrong(self, side: Stream, how: str) -> None:
        if self.outcome == ORDERLY:
            self.outcome = f"{'client' if side is self._client else 'origin'}-{how}"
            self.detail = side.reason

    def _pass_on(self, how: str, source: Stream, sink: Stream) -> None:
        if self.refusal is not None or self._over or self._cut:
            return
        if self.client_ended_first is None:
            self.client_ended_first = source is self._client
        if how != ORDERLY:
            self._went_wrong(source, how)
        # How an origin reacts to the truncation by a client that has left does not matter.
        if source is self._origin and not self.received and self._client.ended in (None, ORDERLY):
            self.alert = source.reason if not source.renegotiates else RENEGOTIATES
            if self.alert is not None:
                return
        if how in (RESET, BROKEN):
            if not self._unread:  # otherwise ``run`` does, when the last data has arrived
                sink.abort()
            return
        try:
            sink.end(how)
        except OSError:  # it is gone: its own pump notices
            pass

    def _watch(self) -> None:
        octets = self.sent + self.received
        self._idle_ticks = self._idle_ticks + 1 if octets == self._seen else 0
        self._seen = octets
        if self._idle_ticks >= (1 if self._one_way else _TICKS):
            self._give_up("idle")

    def _give_up(self, outcome: str) -> None:
        """Cut both sides off, which wakes both pumps, whatever they are waiting for."""
        self.outcome, self.detail = outcome, None
        self._cut = True
        self._client.abort()
        self._origin.abort()


def _most(octets: int, records: int, content: int) -> int:
    """How much to read at once next: little if records are tiny or not content but TLS's own, which cost even more."""
    return _SMALL if records * _TINY > octets or content * 2 < octets else FULL
