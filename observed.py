"""``ObservedTunnel``: a tunnel whose plaintext is shown to a witness, which may act on it."""

import time
from collections import deque
from collections.abc import Iterator

from gevent.lock import BoundedSemaphore

import sockets
from errors import CertifierError, Refused
from meter import Meter
from streams import BROKEN, ORDERLY, RESET, TRUNCATED, Stream
from tunnel import Tunnel
from witness import Witness

_LEAST, _MOST = 1_024, 4_096  # octets that a witness is given at once, after content that it expects
_RECORD = 16_384  # octets of plaintext in a full record, at which TLS splits what is longer (RFC 8446 §5.1)
_LONG = 0.002  # seconds that a witness may look at data before others run


class ObservedTunnel(Tunnel):
    """Gives the witness copies: it may wait, and the buffers are shared."""

    def __init__(self, client: Stream, origin: Stream, witness: Witness, idle: float, meter: Meter) -> None:
        super().__init__(client, origin, idle, meter)
        self._witness = witness
        self._acts, self._waits = witness.acts, witness.waits
        self._writing = BoundedSemaphore()  # if the witness acts, the pump that reads the client also writes to it
        self._most = _MOST

    def _take(self, source: Stream, sink: Stream) -> tuple[int, int]:
        records = []
        while data := source.decrypt():
            records.append(bytes(data))
        octets = b"".join(records)
        if octets:
            if self._keeps_early(source):
                self.early += octets
            self._count(source, len(octets))
        if source is self._origin:
            self._pass_down(records, octets, sink)
            # Its pump may wait for more of the client's data, which may wait for an answer to this.
            if self._client.ended is None and source.ended is None and (released := self._witness.released()):
                source.encrypt(released)
                source.push()
        else:
            for piece in self._pieces(octets, sent=True):
                self._pass_up(piece, sink)
        if source is self._client and source.ended in (ORDERLY, TRUNCATED) and (rest := self._witness.rest()):
            sink.encrypt(rest)
        return len(records), len(octets)

    def _pieces(self, octets: bytes, sent: bool) -> Iterator[bytes]:
        """Split into pieces that take the witness only a moment, after which others may run.

        A frame of a few octets costs as much as a large one: a whole fill of them would stall everyone for 0.3 s.
        However fast earlier pieces were, ``_MOST`` is the limit: small frames may follow large ones.
        """
        at = 0
        began = since = time.monotonic()  # of this piece; when others last ran
        while at < len(octets):
            most = self._most if len(octets) - at <= self._most else self._witness.ahead(sent) + self._most
            piece = octets[at : at + most]
            at += len(piece)  # before others run: the other direction may change the size
            yield piece
            now = time.monotonic()
            took, began = now - began, now
            if took > _LONG:
                self._most = max(_LEAST, self._most // 2)
            elif took * 8 < _LONG:
                self._most = min(_MOST, self._most * 2)
            if now - since > _LONG:
                sockets.give_way()
                began = since = time.monotonic()

    def _pass_down(self, records: list[bytes], octets: bytes, sink: Stream) -> None:
        """Show the witness the ``octets`` of the origin's ``records``, and forward them in as many records.

        A client may process a record as a whole: curl 7.88 loses a response if a reset follows in the same record.
        """
        if not self._acts:  # nothing else is written to the client, so that each can go on whole
            for piece in self._pieces(octets, sent=False):
                self._witness.received(piece)
            start = end = 0
            for record in records:
                end += len(record)
                if len(record) < _RECORD or end == len(octets):  # full ones stay so in one call
                    sink.encrypt(octets[start:end])
                    start = end
            return
        sizes = deque(map(len, records))
        for piece in self._pieces(octets, sent=False):
            most = self._witness.received(piece)
            for part in _records(piece[:most], sizes):
                sink.encrypt(part)
            if most < len(piece):
                self._flush(sink)
                raise Refused("a response that nobody asked for")

    def _pass_up(self, piece: bytes, sink: Stream) -> None:
        if not self._acts:
            if passed := self._witness.sent(piece):
                sink.encrypt(passed)
            return
        for passed in self._witness.forward(piece):
            self._answer()
            if passed:
                sink.encrypt(passed)
                sink.flush()
        self._answer()
        if self._witness.ends:
            self._over = self._unread = True

    def _answer(self) -> None:
        """Send the client the witness's answer in the origin's stead."""
        if answer := self._witness.answer():
            self._count(self._origin, len(answer))
            try:
                self._client.encrypt(answer)
                self._flush(self._client)
            except OSError:
                self._gone(self._client)

    def _flush(self, sink: Stream) -> None:
        if self._acts and sink is self._client:
            with self._writing:
                sink.flush()
        else:
            sink.flush()

    def _refuse(self, refusal: CertifierError) -> None:
        self.answerable, self.head_only = self._witness.refused(refusal.status), self._witness.head_only
        super()._refuse(refusal)

    def _gone(self, sink: Stream) -> None:
        if sink is self._client:
            self._witness.client_gone(self.outcome if self._cut else f"client-{RESET}")
        super()._gone(sink)

    def _pass_on(self, how: str, source: Stream, sink: Stream) -> None:
        if source is self._origin and self.refusal is None and not self._over:
            ours = self._cut or self._client.ended in (RESET, BROKEN)  # cut by us, which reads as a FIN without TLS
            outcome = self.outcome  # what went wrong first: some origins answer a client's truncation by their own
            if outcome == ORDERLY and how != ORDERLY and not ours:
                outcome = f"origin-{how}"
            self._witness.origin_ended(outcome, orderly=how == ORDERLY and not ours)
        if sink is self._client:
            with self._writing:  # an answer may be being sent
                super()._pass_on(how, source, sink)
        else:
            super()._pass_on(how, source, sink)


def _records(piece: bytes, sizes: deque[int]) -> Iterator[memoryview]:
    """The piece split into the records that it arrived in; ``sizes`` are of those that are left."""
    left = memoryview(piece)
    while left:
        record, left = left[: sizes[0]], left[sizes[0] :]
        sizes[0] -= len(record)
        if not sizes[0]:
            sizes.popleft()
        yield record
