"""``Board``: what this process does now and did lately, for the page and the metrics: counts, samples, latest rows.

In memory and bounded. Counting costs some microseconds a tunnel, and no timer; what can be summed up when somebody
asks, is. Everything runs on the hub, so counting needs no lock. Moments are seconds since the epoch.
"""

import secrets
import time
from collections import deque
from collections.abc import Callable
from itertools import count, islice
from typing import NamedTuple

import rows
from exchange import Connection, Exchange
from histogram import Histogram
from log import Record
from snapshot import HISTORY_SECONDS, LATE_SECONDS, MAX_OPEN, MAX_ROWS, Counts, Cursor, Row, Sample

LOOKED_SECONDS = 10.0  # somebody who looked so long ago may be between two pages, and still there
MAX_LABELS = 64  # of one count: what is counted by has fewer, and a slip must not become a leak
_METHODS = frozenset(("CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"))

Latest = deque[tuple[int, Row]]  # rows, each with the number of the event that it came by


class Totals(NamedTuple):
    """What only grows, and samples are the differences of."""

    connections: int = 0
    sent: int = 0
    received: int = 0
    memory: int = 0
    disk: int = 0
    made: int = 0
    requests: int = 0


class Board:
    """Of one process, which ``name`` tells from the others. It is an ``exchange.Observer``, too."""

    def __init__(self, clock: Callable[[], float] = time.time, name: str | None = None) -> None:
        self.name = name or secrets.token_hex(4)
        self.started = clock()
        self.events = 0  # number of the latest
        self.histograms = {"retrieval": Histogram(), "dial": Histogram(), "first_byte": Histogram()}
        self._clock = clock
        self._connections = 0
        self._sent = self._received = 0  # of what has ended
        self._counts: Counts = {"tunnels": {}, "plain": {}, "retrievals": {}, "refusals": {}, "requests": {}}
        self._number = count(1)
        self._open: dict[int, Record] = {}
        self._tunnels: Latest = deque(maxlen=MAX_ROWS)
        self._requests: Latest = deque(maxlen=MAX_ROWS)
        self._refusals: Latest = deque(maxlen=MAX_ROWS)
        self._samples: deque[Sample] = deque(maxlen=HISTORY_SECONDS)
        self._looked = 0.0
        self._before = Totals()

    def connected(self) -> None:
        """A connection was accepted."""
        self._connections += 1

    def opened(self, record: Record) -> int:
        """A tunnel or request begins; the number to say that it is over by."""
        number = next(self._number)
        self._open[number] = record
        return number

    def closed(self, number: int) -> None:
        """It is over, and its record is written."""
        record = self._open.pop(number)
        self._sent += record.sent
        self._received += record.received
        if record.kind == "page":
            return
        self._count("tunnels" if record.kind == "tunnel" else "plain", record.outcome)
        record.progress = None
        self.events += 1
        now = self._clock()
        entry = self.events, rows.of_record(record, f"{self.name}-{number}", now - _age(record), now)
        self._tunnels.append(entry)
        if record.refused is not None:
            self._count("refusals", record.refused)
            self._refusals.append(entry)

    def dialled(self, seconds: float) -> None:
        """An origin was looked up and dialled."""
        self.histograms["dial"].observe(seconds)

    def retrieved(self, source: str, seconds: float | None = None) -> None:
        """A context came from ``memory``, ``disk``, was ``made``, ``renewed``, is ``none``, or ``failed``; how fast."""
        self._count("retrievals", source)
        if seconds is not None:
            self.histograms["retrieval"].observe(seconds)

    def request(self, exchange: Exchange) -> None:
        """Nothing is told of an exchange before its end."""

    def ended(self, exchange: Exchange) -> None:
        """An exchange is over."""
        method = exchange.method if exchange.method in _METHODS else "other"
        status = exchange.status if exchange.status is not None and 100 <= exchange.status < 600 else None
        self._count("requests", f"{method} {f'{status // 100}xx' if status else 'none'}")
        if exchange.first_byte is not None:
            self.histograms["first_byte"].observe(exchange.first_byte - exchange.began)
        self.events += 1
        self._requests.append((self.events, rows.of_exchange(exchange, f"{self.name}-r{exchange.id}")))

    def noted(self, connection: Connection, what: str) -> None:
        """That a connection is not looked at any more is for the log."""

    def tick(self) -> None:
        """Once a second: sample what happened since the last time."""
        now = self._totals()
        grown = Totals(*(new - old for new, old in zip(now, self._before, strict=True)))
        self._before = now
        self._samples.append(
            {
                "at": round(self._clock()),
                "connections": grown.connections,
                "sent": grown.sent,
                "received": grown.received,
                "memory": grown.memory,
                "disk": grown.disk,
                "made": grown.made,
                "requests": grown.requests,
                "tunnels": self.tunnels,
            }
        )

    @property
    def tunnels(self) -> int:
        """How many are open."""
        return sum(record.kind == "tunnel" for record in self._open.values())

    @property
    def looked_at(self) -> bool:
        """Whether somebody looks at rows: then it is worth to look into tunnels for requests."""
        return 0 <= self._clock() - self._looked < LOOKED_SECONDS

    def counts(self) -> Counts:
        """All counts."""
        totals = self._totals()
        octets = {"sent": totals.sent, "received": totals.received}
        return {"connections": {"accepted": totals.connections}, "octets": octets} | {
            kind: dict(counts) for kind, counts in self._counts.items()
        }

    def history(self, since: Cursor) -> list[Sample]:
        """The samples of the last minutes that are news, or that others may still add to."""
        return [sample for sample in self._samples if sample["at"] > since.at - LATE_SECONDS]

    def under_way(self) -> list[Row]:
        """The newest open tunnels, the oldest of them first."""
        now = self._clock()
        newest = islice(((n, r) for n, r in reversed(self._open.items()) if r.target and r.kind != "page"), MAX_OPEN)
        return [rows.of_record(r, f"{self.name}-{n}", now - _age(r), None) for n, r in newest][::-1]

    def latest(self, since: Cursor) -> dict[str, list[Row]]:
        """The latest rows that are news, the oldest first."""
        self._looked = self._clock()
        seen = dict(since.seen).get(self.name, 0)
        kinds = {"tunnels": self._tunnels, "requests": self._requests, "refusals": self._refusals}
        return {kind: _after(latest, seen) for kind, latest in kinds.items()}

    def _count(self, kind: str, label: str) -> None:
        counts = self._counts[kind]
        if label not in counts and len(counts) >= MAX_LABELS:
            label = "other"
        counts[label] = counts.get(label, 0) + 1

    def _totals(self) -> Totals:
        sent, received = self._sent, self._received
        for record in self._open.values():
            octets = record.progress or record
            sent += octets.sent
            received += octets.received
        retrievals = self._counts["retrievals"]
        return Totals(
            self._connections,
            sent,
            received,
            retrievals.get("memory", 0),
            retrievals.get("disk", 0),
            retrievals.get("made", 0),
            sum(self._counts["requests"].values()),
        )


def _after(latest: Latest, seen: int) -> list[Row]:
    found = []
    for number, row in reversed(latest):
        if number <= seen:
            break
        found.append(row)
    return found[::-1]


def _age(record: Record) -> float:
    return time.monotonic() - record.started
