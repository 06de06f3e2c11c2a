"""``Snapshot``: what certifier is doing and did lately, as plain values for JSON; ``merge`` combines several.

Each process of a proxy answers for itself (``Overview.snapshot``), and the one that is asked merges the answers of all.
What a process has counted, its ``Kept``, may outlive it (``Peers``).
A ``Cursor`` tells what a viewer has seen, and so what is new to it: no state is kept per viewer.

Times are seconds since the epoch, durations seconds, sizes octets.
"""

import json
import re
from collections.abc import Iterable
from typing import Any, NamedTuple, Self, TypedDict

from histogram import HistogramData, merged

HISTORY_SECONDS = 300  # what plots show
MAX_ROWS = 300  # kept of tunnels, of requests and of refusals: more than anybody reads, a few hundred kilobytes
MAX_OPEN = 100  # open tunnels that are shown, the newest
MAX_HELD = 200  # certificates in memory that are shown, the last used
LATE_SECONDS = 5  # samples this recent are sent again: some processes may have added to them late

Row = dict[str, Any]  # of a table: ``rows.py``
Counts = dict[str, dict[str, int]]  # by what is counted, then by a label with few values

# A time, and an event of each process: of as many as ``--workers`` allows.
_CURSOR = re.compile(r"[0-9]{1,12}(;[0-9a-z]{1,16}=[0-9]{1,15}){0,256}\Z")


class Sample(TypedDict):
    """What happened in the second before ``at``."""

    at: int
    connections: int
    sent: int
    received: int
    memory: int
    disk: int
    made: int
    requests: int


class Held(TypedDict):
    """A certificate in memory."""

    name: str
    serial: str  # hexadecimal
    not_after: float
    used: float
    source: str  # disk or made
    ours: bool


class Learned(TypedDict):
    """A client whose tunnels for a name pass untouched for ``seconds`` more."""

    client: str
    name: str
    seconds: float


class Kept(TypedDict):
    """Totals since ``started``, which only grow."""

    started: float
    cpu_seconds: float
    counts: Counts
    histograms: dict[str, HistogramData]


class Snapshot(Kept):
    """All that the page and the metrics show.

    ``seen`` has the number of each process's latest event. Gauges, counts and histograms are complete; rows and samples
    may be only those that are new.
    """

    now: float
    seen: dict[str, int]
    facts: dict[str, Any]  # what is the same in all processes
    gauges: dict[str, float]
    history: list[Sample]
    open: list[Row]
    tunnels: list[Row]
    requests: list[Row]
    refusals: list[Row]
    held: list[Held]
    learned: list[Learned]


class Cursor(NamedTuple):
    """What a viewer has seen: up to when, and up to which event of each process."""

    at: int = 0
    seen: tuple[tuple[str, int], ...] = ()

    @classmethod
    def of(cls, snapshot: Snapshot) -> Self:
        """The cursor of a viewer that has seen this snapshot."""
        return cls(int(snapshot["now"]), tuple(snapshot["seen"].items()))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse what ``str`` returned, as a client sends it back; anything else is a viewer that has seen nothing."""
        if not _CURSOR.match(text):
            return cls()
        at, *pairs = text.split(";")
        return cls(int(at), tuple((name, int(number)) for name, _, number in (pair.partition("=") for pair in pairs)))

    def __str__(self) -> str:
        return ";".join([str(self.at), *(f"{name}={number}" for name, number in self.seen)])


def written(snapshot: Snapshot) -> bytes:
    """As JSON on one line, in UTF-8: escaped, text from a peer could be three times as long."""
    # Where the operator's paths are not UTF-8, a backslash escape is JSON's own.
    return json.dumps(snapshot, ensure_ascii=False).encode("utf-8", "backslashreplace")


def kept_of(snapshot: Kept) -> Kept:
    """The totals in a snapshot."""
    return {
        "started": snapshot["started"],
        "cpu_seconds": snapshot["cpu_seconds"],
        "counts": snapshot["counts"],
        "histograms": snapshot["histograms"],
    }


def merge(snapshots: list[Snapshot], silent: Iterable[Kept] = ()) -> Snapshot:
    """Merge the snapshots of several processes, at least one: sums, and the latest rows of all.

    Of processes that did not answer, only the totals are known (``silent``).
    """
    gauges: dict[str, float] = {}
    for snapshot in snapshots:
        _add(gauges, snapshot["gauges"])
    now = max(s["now"] for s in snapshots)
    held: dict[str, Held] = {}
    for entry in sorted((entry for s in snapshots for entry in s["held"]), key=lambda entry: -entry["used"]):
        held.setdefault(entry["name"], entry)
    return {
        **_sum([*snapshots, *silent]),
        "now": min(s["now"] for s in snapshots),
        "seen": {name: number for s in snapshots for name, number in s["seen"].items()},
        "facts": snapshots[0]["facts"],
        "gauges": gauges,
        "history": _history(sample for s in snapshots for sample in s["history"]),
        "open": _latest((row for s in snapshots for row in s["open"]), "started", now, MAX_OPEN),
        "tunnels": _latest((row for s in snapshots for row in s["tunnels"]), "ended", now),
        "requests": _latest((row for s in snapshots for row in s["requests"]), "ended", now),
        "refusals": _latest((row for s in snapshots for row in s["refusals"]), "ended", now),
        "held": list(held.values())[:MAX_HELD],
        "learned": _learned(entry for s in snapshots for entry in s["learned"]),
    }


def _sum(several: list[Kept]) -> Kept:
    counts: Counts = {}
    for one in several:
        for kind, by_label in one["counts"].items():
            _add(counts.setdefault(kind, {}), by_label)
    return {
        "started": min(one["started"] for one in several),
        "cpu_seconds": sum(one["cpu_seconds"] for one in several),
        "counts": counts,
        "histograms": {name: merged([one["histograms"][name] for one in several]) for name in several[0]["histograms"]},
    }


def _add(sums: dict[str, Any], values: dict[str, Any]) -> None:
    for label, value in values.items():
        sums[label] = sums.get(label, 0) + value


def _learned(entries: Iterable[Learned]) -> list[Learned]:
    """Each pair once, with the most time that any process has left for it: each learns for itself."""
    longest: dict[tuple[str, str], Learned] = {}
    for entry in sorted(entries, key=lambda entry: entry["seconds"]):
        longest[entry["client"], entry["name"]] = entry
    return list(longest.values())


def _history(samples: Iterable[Sample]) -> list[Sample]:
    """The samples of each second added up, the oldest first."""
    seconds: dict[int, Any] = {}
    for sample in samples:
        _add(seconds.setdefault(sample["at"], {}), {**sample, "at": 0})
    for at, added in seconds.items():
        added["at"] = at
    return [seconds[at] for at in sorted(seconds)]


def _latest(rows: Iterable[Row], moment: str, now: float, most: int = MAX_ROWS) -> list[Row]:
    """The latest of the rows, the oldest first. Those in the future were dated by a clock that was ahead: they are old.

    Not so a little after ``now``: the end of an exchange is dated by its start and how long it took.
    """
    return sorted(rows, key=lambda row: (row[moment] - now <= LATE_SECONDS, row[moment]))[-most:]
