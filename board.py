"""``Board``: what this process is doing and did lately, for the page and the metrics: counts, samples, latest rows.

In memory and bounded. Counting costs some microseconds per tunnel, and no timer: a second is sampled at the first event
after it, or when somebody asks; if nothing happens and nobody looks, nothing runs. Everything runs on the hub's thread,
so counting needs no lock. Times are seconds since the epoch.
"""

import secrets
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from itertools import count, islice

import rows
from exchange import Exchange
from histogram import Histogram
from history import History, Sums
from meter import Meter
from record import Record
from recorder import Observer
from snapshot import LATE_SECONDS, MAX_OPEN, MAX_ROWS, Counts, Cursor, Kept, Row, Sample

LOOKED_SECONDS = 10.0  # a viewer last seen this long ago may be between two requests, and still there
MAX_LABELS = 64  # per count: more than there should ever be, lest a bug become a leak
_METHODS = frozenset(("CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"))

Latest = deque[tuple[int, Callable[[], Row]]]  # rows to be made, each with the number of its event


class Board(Observer):
    """The board of one process, which is identified by ``name``. As an ``Observer`` it counts exchanges.

    ``kept`` is what the process whose place this one takes had counted. ``stirred`` is called whenever something is
    counted. Those who relay add to ``meter``.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.time,
        name: str | None = None,
        kept: Kept | None = None,
        stirred: Callable[[], object] | None = None,
    ) -> None:
        self.name = name or secrets.token_hex(4)
        self.events = 0  # number of the latest one
        self.meter = Meter()
        self.histograms = {"retrieval": Histogram(), "dial": Histogram(), "first_byte": Histogram()}
        self._clock = clock
        self._stirred = stirred
        self._started = clock()
        self._cpu = 0.0  # seconds used by the processes before this one, in its place
        self._counts: Counts = {
            "connections": {"accepted": 0}, "tunnels": {}, "plain": {},
            "retrievals": {}, "refusals": {}, "requests": {}, "lost": {}, "reloads": {}, "taps": {},
        }  # fmt: skip
        if kept is not None:
            self._inherit(kept)
        self._number = count(1)
        self._open: dict[int, Record] = {}
        self._tunnels: Latest = deque(maxlen=MAX_ROWS)
        self._requests: Latest = deque(maxlen=MAX_ROWS)
        self._refusals: Latest = deque(maxlen=MAX_ROWS)
        self._history = History(int(clock()), self._sums())
        self._looked = 0.0

    def _inherit(self, kept: Kept) -> None:
        self._started, self._cpu = kept["started"], kept["cpu_seconds"]
        for kind, counts in self._counts.items():
            counts |= kept["counts"][kind]
        self.meter.sent, self.meter.received = kept["counts"]["octets"]["sent"], kept["counts"]["octets"]["received"]
        for name, histogram in self.histograms.items():
            histogram.add(kept["histograms"][name])

    def connected(self) -> None:
        """Count an accepted connection."""
        self._stir(self._clock())
        self._counts["connections"]["accepted"] += 1

    def opened(self, record: Record) -> int:
        """Note that a tunnel or request begins; the number to be given to ``closed``."""
        number = next(self._number)
        self._open[number] = record
        return number

    def closed(self, number: int) -> None:
        """Note that it has ended, and that its record is complete."""
        record = self._open.pop(number)
        if record.kind == "page":
            return
        now = self._clock()
        self._stir(now)
        self._count("tunnels" if record.kind == "tunnel" else "plain", record.outcome)
        record.progress = None
        self.events += 1
        rows.shorten(record)  # its row is made when somebody looks at it, which is seldom
        entry = self.events, partial(rows.of_record, record, f"{self.name}-{number}", now - _age(record), now)
        self._tunnels.append(entry)
        if record.refused is not None:
            self._count("refusals", record.refused)
            self._refusals.append(entry)

    def refused_unheard(self, rule: str) -> None:
        """Count a connection that was closed at once, without a reply or a record."""
        self._stir(self._clock())
        self._count("refusals", rule)

    def dialled(self, seconds: float) -> None:
        """Count the look-up and dialling of an origin."""
        self._stir(self._clock())
        self.histograms["dial"].observe(seconds)

    def retrieved(self, source: str, seconds: float | None = None) -> None:
        """Count a context: ``memory``, ``disk``, ``made``, ``renewed``, ``none`` or ``failed``; and the time taken."""
        self._stir(self._clock())
        self._count("retrievals", source)
        if seconds is not None:
            self.histograms["retrieval"].observe(seconds)

    def lost(self, file: str, number: int) -> None:
        """Count lines, exchanges or packets that a ``file`` did not take: ``log``, ``har``, ``pcap``, ``keylog``."""
        self._stir(self._clock())
        self._count("lost", file, number)

    def reloaded(self, outcome: str) -> None:
        """Count a reading of the files anew: ``done`` or ``failed``."""
        self._stir(self._clock())
        self._count("reloads", outcome)

    def tap_failed(self, hook: str) -> None:
        """Count a call of a tap's function that failed."""
        self._stir(self._clock())
        self._count("taps", hook)

    def ended(self, exchange: Exchange) -> None:
        """Count an exchange that has ended."""
        method = exchange.method if exchange.method in _METHODS else "other"
        status = exchange.status if exchange.status is not None and 100 <= exchange.status < 600 else None
        self._stir(self._clock())
        self._count("requests", f"{method} {f'{status // 100}xx' if status else 'none'}")
        if exchange.first_byte is not None:
            self.histograms["first_byte"].observe(exchange.first_byte - exchange.began)
        self.events += 1
        row = partial(rows.of_exchange, exchange, f"{self.name}-r{exchange.id}")
        if not rows.is_small(exchange):
            row = partial(dict, row())
        self._requests.append((self.events, row))

    @property
    def tunnels(self) -> int:
        """How many are open."""
        return sum(record.kind == "tunnel" for record in self._open.values())

    @property
    def looked_at(self) -> bool:
        """Whether somebody is looking at rows, so that it is worth observing the requests in tunnels."""
        return 0 <= self._clock() - self._looked < LOOKED_SECONDS

    def kept(self) -> Kept:
        """All that was counted."""
        return {
            "started": self._started,
            "cpu_seconds": self._cpu + time.process_time(),
            "counts": {kind: dict(counts) for kind, counts in self._counts.items()}
            | {"octets": {"sent": self.meter.sent, "received": self.meter.received}},
            "histograms": {name: histogram.data() for name, histogram in self.histograms.items()},
        }

    def history(self, since: Cursor) -> list[Sample]:
        """The samples of the last minutes that are new, or that other processes may still add to."""
        self._history.sample(int(self._clock()), self._sums())
        return self._history.after(since.at - LATE_SECONDS)

    def under_way(self) -> list[Row]:
        """The newest open tunnels, the oldest of them first."""
        now = self._clock()
        newest = islice(((n, r) for n, r in reversed(self._open.items()) if r.target and r.kind != "page"), MAX_OPEN)
        return [rows.of_record(r, f"{self.name}-{n}", now - _age(r), None) for n, r in newest][::-1]

    def latest(self, since: Cursor) -> dict[str, list[Row]]:
        """The latest rows that are new, the oldest first."""
        self._looked = self._clock()
        seen = dict(since.seen).get(self.name, 0)
        kinds = {"tunnels": self._tunnels, "requests": self._requests, "refusals": self._refusals}
        return {kind: _after(latest, seen) for kind, latest in kinds.items()}

    def _count(self, kind: str, label: str, number: int = 1) -> None:
        counts = self._counts[kind]
        if label not in counts and len(counts) >= MAX_LABELS:
            label = "other"
        counts[label] = counts.get(label, 0) + number

    def _stir(self, now: float) -> None:
        """To be called before something is counted: the seconds before it are sampled first."""
        if int(now) != self._history.second:
            self._history.sample(int(now), self._sums())
        if self._stirred is not None:
            self._stirred()

    def _sums(self) -> Sums:
        retrievals = self._counts["retrievals"]
        return Sums(
            self._counts["connections"]["accepted"],
            self.meter.sent,
            self.meter.received,
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
        found.append(row())
    return found[::-1]


def _age(record: Record) -> float:
    return time.monotonic() - record.started
