"""``Overview``: puts together what each part of one process knows, as a ``Snapshot``."""

import os
import time

from admission import Admission
from board import Board
from context import Context
from contexts import ContextCache
from feed import Feed
from issuance import Issuance
from refusals import Refusals
from snapshot import MAX_HELD, Cursor, Held, Snapshot

_LEARNED = 100  # pairs that are shown


class Overview:
    """The overview of one process, one of ``workers``."""

    def __init__(
        self,
        board: Board,
        feed: Feed,
        contexts: ContextCache,
        admission: Admission,
        refused: Refusals,
        issuance: Issuance,
        version: str,
        workers: int,
    ) -> None:
        self._board = board
        self._feed = feed
        self._contexts = contexts
        self._admission = admission
        self._refused = refused
        self._issuance = issuance
        self._version = version
        self._workers = workers

    def snapshot(self, since: Cursor | None) -> Snapshot:
        """A snapshot, with the rows and samples that are new to a viewer at this cursor; for None, without any."""
        board = self._board
        latest = {"tunnels": [], "requests": [], "refusals": []} if since is None else board.latest(since)
        learned = self._refused.learned()
        authority = self._issuance.authority
        return {
            **board.kept(),
            "now": time.time(),
            "seen": {board.name: board.events},
            "facts": {
                "version": self._version,
                "workers": self._workers,
                "ca_ends": None if authority is None else authority.files.certificate.not_valid_after_utc.timestamp(),
            },
            "gauges": {
                "workers": 1,
                "connections": self._admission.count,
                "connections_max": self._admission.most,
                "tunnels": board.tunnels,
                "contexts": len(self._contexts),
                "contexts_max": self._contexts.capacity,
                "onlookers": self._feed.onlookers,
                "learned": len(learned),
                "memory_bytes": _resident(),
            },
            "history": [] if since is None else board.history(since),
            "open": [] if since is None else board.under_way(),
            "tunnels": latest["tunnels"],
            "requests": latest["requests"],
            "refusals": latest["refusals"],
            "held": [] if since is None else [_held(*entry) for entry in self._contexts.held(MAX_HELD)],
            "learned": [
                {"client": pair.client, "name": pair.name, "seconds": seconds} for pair, seconds in learned[:_LEARNED]
            ],
        }


def _held(name: str, context: Context) -> Held:
    return {
        "name": name,
        "serial": f"{context.serial:X}",
        "not_after": context.not_after,
        "used": context.used,
        "source": context.source,
        "ours": context.ours,
    }


def _resident() -> int:
    """Octets of resident memory; 0 on a system without /proc."""
    try:
        with open("/proc/self/statm", "rb", buffering=0) as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
