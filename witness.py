"""``Witness``: shows one tunnel's plaintext, as it passes, to those who observe it and those who act on it.

It gets each piece before that is forwarded, and returns what to forward. Mere observers never make it fail: only those
who act, and the guard of ``--mismatch``, may raise ``Refused``.
"""

import sys
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext

from gevent.lock import RLock

from guard import Guard
from packets import Flow
from pcap import PcapFile
from rewriting import Rewriter
from taps import HOOKS, Passage, Taps
from watcher import Watcher

_NOBODY_WAITS = nullcontext()


class Witness:
    """Those who observe one tunnel, or act on it."""

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
        self._held = b""  # the beginning of a request head
        # A tap may block; the other direction then waits for it, so that taps see all bytes in order.
        self._turn: AbstractContextManager[object] = RLock() if taps.wants(*HOOKS) else _NOBODY_WAITS

    @property
    def acts(self) -> bool:
        """Whether it may answer the client in the origin's stead."""
        return self._rewriter is not None

    @property
    def ends(self) -> bool:
        """Whether the tunnel ends after the answer."""
        return self._rewriter is not None and self._rewriter.closing

    @property
    def waits(self) -> bool:
        """Whether it may hold up what passes for as long as it likes."""
        return self._turn is not _NOBODY_WAITS

    def opened(self) -> None:
        """The tunnel begins."""
        if self._pcap is not None and self._flow is not None:
            self._pcap.write(self._flow.opened(self._passage.name))
        self._taps.opened(self._passage)

    def ahead(self, sent: bool) -> int:
        """How many of the next octets, from the client (``sent``) or the origin, are cheap to pass at once: content."""
        decoder = self._watcher or self._rewriter
        return decoder.ahead(sent) if decoder is not None and decoder.watching else sys.maxsize

    def sent(self, data: bytes) -> bytes:
        """Take what the client sent, if nothing ``acts``; return what to forward. Raises ``Refused``."""
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
        """The same if something ``acts``, piece by piece: an empty one means that there is an ``answer`` to send."""
        assert self._rewriter is not None
        for piece in self._rewriter.forward(data):
            self._guard.check()
            if piece:
                with self._turn:
                    self._look("sent", piece)
            yield piece

    def rest(self) -> bytes:
        """What was held back of the client's data, to be forwarded now that it has ended. Raises ``Refused``."""
        with self._turn:
            data = b""
            if self._watcher is not None and (self._watcher.ended() or self._held):
                data = self._judged(b"")
            if data:
                self._look("sent", data)
            return data

    def released(self) -> bytes:
        """What was held back of the client's data, to be forwarded now that the origin has agreed to an upgrade."""
        if not self._held:  # as nearly always; once an upgrade is agreed to, nothing more is
            return b""
        with self._turn:
            watcher = self._watcher
            if not self._held or watcher is None or watcher.watching or self._guard.refusal is not None:
                return b""
            data = self._judged(b"")
            self._look("sent", data)
            return data

    def _judged(self, data: bytes) -> bytes:
        """What may be forwarded of ``data`` and what was held back before it. Raises ``Refused``.

        An incomplete head is held back: some origins act on one when the connection ends there.
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
        """Take what the origin sent; return how many octets to forward. If that is not all, nothing may follow them.

        Nothing may block after the rewriter's turn: what it releases, such as the next answer, must not overtake this.
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
        """Take what to send the client in the origin's stead."""
        return self._rewriter.take_answer() if self._rewriter is not None else b""

    def origin_ended(self, outcome: str, orderly: bool) -> None:
        """The origin sends no more; ``outcome`` is the tunnel's so far. Release whatever waits for it."""
        decoder = self._watcher or self._rewriter
        if decoder is not None and orderly:
            decoder.origin_ended()
        if self._rewriter is not None:
            self._rewriter.closed(_error(outcome))

    def client_gone(self, how: str) -> None:
        """The client takes no more; ``how`` it ended. Release whatever waits for a response to it."""
        if self._rewriter is not None:
            self._rewriter.closed(how)

    @property
    def head_only(self) -> bool:
        """Whether a reply in place of a response has no content."""
        return self._guard.head_only

    def refused(self, status: int) -> bool:
        """Nothing more may pass. Return whether a reply with that status can be sent in place of a response.

        Never in HTTP/2, where other streams may be under way. Called before the tunnel ends, which ends the exchanges.
        """
        if (self._watcher is not None and self._watcher.is_http_2) or not self._guard.answerable:
            return False
        self._guard.answered(status)
        return True

    def closed(self, outcome: str, origin_left: bool = False) -> None:
        """The tunnel has ended; ``outcome`` is ``closed`` if it ended cleanly.

        If the ``origin_left`` first, and cleanly, then whatever response is missing was not cut off by the client.
        """
        error = _error(outcome)
        for decoder in (self._watcher, self._rewriter):
            if decoder is not None:
                decoder.closed(None if origin_left else error)
        if self._pcap is not None and self._flow is not None:
            self._pcap.write(self._flow.closed(cut=error is not None, by_client=outcome.startswith("client-")))
        self._passage.outcome = outcome
        self._taps.closed(self._passage)

    def _look(self, direction: str, data: bytes) -> None:
        if self._pcap is not None and self._flow is not None:
            self._pcap.write(self._flow.sent(data) if direction == "sent" else self._flow.received(data))
        if self._sees_data:
            self._taps.data(self._passage, direction, data)


def _error(outcome: str) -> str | None:
    return None if outcome == "closed" else outcome
