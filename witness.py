"""``Witness``: those who look at one tunnel's plaintext as it passes, and those who act on it.

It is told each piece before that goes on; what it gives back goes on. It never fails: who looks is never in the way.
Only who acts, and the guard of ``--mismatch``, may raise ``Refused``.
"""

import sys
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext

from gevent.lock import RLock

from guard import Guard
from pcap import Flow, PcapFile
from rewriting import Rewriter
from taps import HOOKS, Passage, Taps
from watcher import Watcher

_NOBODY_WAITS = nullcontext()


class Witness:
    """Those who look at one tunnel."""

    def __init__(
        self,
        guard: Guard,
        watcher: Watcher | None,
        rewriter: Rewriter | None,
        passage: Passage,
        taps: Taps,
        flow: Flow | None,
        pcap: PcapFile | None,
    ) -> None:
        self._guard = guard
        self._watcher = watcher
        self._rewriter = rewriter
        self._passage = passage
        self._taps = taps
        self._sees_data = taps.wants("data")
        self._flow = flow
        self._pcap = pcap
        self._held = b""  # the beginning of a head
        # A tap may wait: the other direction's bytes wait for it, to stay in their order.
        self._turn: AbstractContextManager[object] = RLock() if taps.wants(*HOOKS) else _NOBODY_WAITS

    @property
    def acts(self) -> bool:
        """Whether there may be answers of its own."""
        return self._rewriter is not None

    @property
    def ends(self) -> bool:
        """Whether the tunnel is over after the answer."""
        return self._rewriter is not None and self._rewriter.closing

    @property
    def quiet(self) -> bool:
        """Whether a client that is refused can be told in the place of a response; to be asked at once."""
        return self._guard.quiet

    def opened(self) -> None:
        """The tunnel begins."""
        if self._pcap is not None and self._flow is not None:
            self._pcap.write(self._flow.opened(self._passage.name))
        self._taps.opened(self._passage)

    def ahead(self, sent: bool) -> int:
        """How many octets to come, of the client's or the origin's, are looked at as fast as one: a body's, mostly."""
        decoder = self._watcher or self._rewriter
        return decoder.ahead(sent) if decoder is not None and decoder.watching else sys.maxsize

    def sent(self, data: bytes) -> bytes:
        """What the client sent, where nobody ``acts``: what goes on of it. Raises ``Refused``."""
        with self._turn:
            if self._watcher is not None:
                self._watcher.sent(data)
                data = self._judged(data)
                if not self._watcher.watching:
                    self._watcher = None
            if data:
                self._look("sent", data)
        return data

    def forward(self, data: bytes) -> Iterable[bytes]:
        """The same where somebody does, piece by piece; empty where there is an ``answer`` to be sent."""
        assert self._rewriter is not None
        for piece in self._rewriter.forward(data):
            self._guard.check()
            if piece:
                with self._turn:
                    self._look("sent", piece)
            yield piece

    def rest(self) -> bytes:
        """What was held back of the client's, and goes on now that it has ended. Raises ``Refused``."""
        with self._turn:
            data = b""
            if self._watcher is not None and (self._watcher.ended() or self._held):
                data = self._judged(b"")
            if data:
                self._look("sent", data)
            return data

    def _judged(self, data: bytes) -> bytes:
        """What goes on, ``data`` behind what was held back before. Raises ``Refused``.

        A head is judged as a whole: origins act on part of one when the connection ends there.
        """
        assert self._watcher is not None
        self._guard.check()
        if self._held:
            data, self._held = self._held + data, b""
        held = self._watcher.held
        if held:
            self._held = data[-held:]
            data = data[:-held]
        return data

    def received(self, data: bytes) -> int:
        """What the origin sent; how many octets of it go on. Where that is not all, nothing may follow.

        No wait behind the rewriter's look: what it lets go on must not overtake this.
        """
        with self._turn:
            self._look("received", data)
            if self._watcher is not None:
                self._watcher.received(data)
            elif self._rewriter is not None:
                self._rewriter.received(data)
                return len(data) - self._rewriter.unasked
        return len(data)

    def answer(self) -> bytes:
        """What the client is to be sent in the origin's stead."""
        return self._rewriter.take_answer() if self._rewriter is not None else b""

    def origin_ended(self, how: str) -> None:
        """The origin sends no more: ``closed``, or how that was not orderly. Nobody shall wait for it."""
        if self._rewriter is not None:
            self._rewriter.closed(_error(how))
        elif self._watcher is not None and _error(how) is None:
            self._watcher.origin_ended()

    def client_gone(self) -> None:
        """The client takes no more: nobody shall wait for what it was to get."""
        if self._rewriter is not None:
            self._rewriter.closed("client-reset")

    def closed(self, outcome: str) -> None:
        """The tunnel has ended, ``closed`` or how it was not orderly."""
        error = _error(outcome)
        for decoder in (self._watcher, self._rewriter):
            if decoder is not None:
                decoder.closed(error)
        if self._pcap is not None and self._flow is not None:
            self._pcap.write(self._flow.closed(cut=error is not None))
        self._passage.outcome = outcome
        self._taps.closed(self._passage)

    def _look(self, direction: str, data: bytes) -> None:
        if self._pcap is not None and self._flow is not None:
            self._pcap.write(self._flow.sent(data) if direction == "sent" else self._flow.received(data))
        if self._sees_data:
            self._taps.data(self._passage, direction, data)


def _error(outcome: str) -> str | None:
    return None if outcome == "closed" else outcome
