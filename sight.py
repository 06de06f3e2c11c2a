"""``Sight``: what observes a proxy's traffic. It makes a ``Witness`` for each tunnel that is observed."""

from collections.abc import Sequence

from accesslog import AccessLog
from answer import Answer
from board import Board
from exchange import Connection, Exchange
from guard import Guard
from packets import Flow
from pcap import PcapFile
from policy import Policy
from record import Record
from recorder import Capture, Malformed, Observer, Recorder
from rewriting import Rewriter
from taps import HOOKS, Passage, Taps
from watcher import Watcher
from witness import Witness


class Chorus(Observer):
    """Several observers as one."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = observers

    def request(self, exchange: Exchange) -> None:
        """The request's head is known."""
        for observer in self._observers:
            observer.request(exchange)

    def ended(self, exchange: Exchange) -> None:
        """The exchange is over."""
        for observer in self._observers:
            observer.ended(exchange)

    def noted(self, connection: Connection, what: str, malformed: Malformed | None) -> None:
        """The connection is no longer decoded."""
        for observer in self._observers:
            observer.noted(connection, what, malformed)


class Sight:
    """All that observes one proxy's traffic: observers of exchanges, taps, a packet file, the policy's guard."""

    def __init__(
        self,
        policy: Policy,
        observers: Sequence[Observer],
        taps: Taps,
        capture: Capture | None,
        pcap: PcapFile | None,
        board: Board,
    ) -> None:
        self._board = board
        self._policy = policy
        self._observers = observers
        self._taps = taps
        self._capture = capture
        self._pcap = pcap
        self._always = bool(observers) or pcap is not None or taps.wants(*HOOKS)

    @property
    def looks(self) -> bool:
        """Whether anything observes tunnels."""
        return self._always or self._policy.minds_mismatch or self._board.looked_at

    @property
    def logs(self) -> bool:
        """Whether each exchange has a line in the log."""
        return any(isinstance(observer, AccessLog) for observer in self._observers)

    @property
    def rewrites(self) -> bool:
        """Whether a tap acts on requests, so that only HTTP/1.1 may be negotiated."""
        return self._taps.rewrites

    def witness(self, record: Record, name: str, origin: str, alpn: str | None) -> Witness:
        """Make the witness of an intercepted tunnel. ``origin`` is the address:port dialled, or empty."""
        connection = Connection(record.client, origin, "https", _authority(name, record.target), record.user)
        guard = Guard(self._policy, name, record)
        chorus = Chorus([guard, *self._observers, self._board, self._taps])
        rewriter = watcher = None
        if self.rewrites:
            rewriter = Rewriter(Recorder(connection, chorus, self._capture), self._taps.decide)
        elif self._policy.minds_mismatch or self._reads:
            watcher = Watcher(connection, chorus, alpn, self._capture, strict=self._policy.denies_mismatch)
        target = record.target or ""
        passage = Passage(connection.id, record.client, origin, target, name, record.user, alpn)
        flow = Flow(record.client, origin) if self._pcap is not None and origin else None
        return Witness(guard, watcher, rewriter, passage, self._taps, flow, self._pcap)

    @property
    def _reads(self) -> bool:
        """Whether anything needs decoded exchanges; the page does only while somebody is looking at it."""
        return self._board.looked_at or bool(self._observers) or self._taps.wants("request", "response")

    def recorder(self, record: Record, origin: str) -> Recorder:
        """Make the recorder of a plain-HTTP exchange, which is decoded for forwarding even if nothing observes it."""
        authority = (record.target or "").removesuffix(":80")
        connection = Connection(record.client, origin, "http", authority, record.user)
        if not self._reads:
            return Recorder(connection, Chorus(()))
        return Recorder(connection, Chorus([*self._observers, self._board, self._taps]), self._capture)

    def decide(self, exchange: Exchange) -> Answer | None:
        """Let the taps that act change or answer a plain-HTTP request."""
        return self._taps.decide(exchange)


def _authority(name: str, target: str | None) -> str:
    port = (target or "").rpartition(":")[2]
    host = f"[{name}]" if ":" in name else name
    return host if port in ("", "443") else f"{host}:{port}"
