"""``Histogram``: the number of durations between bounds, and their sum. Counting one costs half a microsecond."""

from bisect import bisect_left
from typing import TypedDict

# Seconds. A leaf is read in under a millisecond and made in two; a dial takes what the network does, up to a timeout.
BOUNDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


class HistogramData(TypedDict):
    """A histogram as plain values: ``counts`` has one more than ``bounds``, for values above the last bound."""

    bounds: list[float]
    counts: list[int]
    sum: float


class Histogram:
    """Counts values by ``BOUNDS``; one equal to a bound counts as below it."""

    __slots__ = ("_counts", "_sum")

    def __init__(self) -> None:
        self._counts = [0] * (len(BOUNDS) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self._counts[bisect_left(BOUNDS, value)] += 1
        self._sum += value

    def add(self, data: HistogramData) -> None:
        """Add the counts of another histogram."""
        self._counts = [sum(pair) for pair in zip(self._counts, data["counts"], strict=True)]
        self._sum += data["sum"]

    def data(self) -> HistogramData:
        """What was counted."""
        return {"bounds": list(BOUNDS), "counts": list(self._counts), "sum": self._sum}


def merged(several: list[HistogramData]) -> HistogramData:
    """The sum of histograms."""
    return {
        "bounds": several[0]["bounds"],
        "counts": [sum(counts) for counts in zip(*(data["counts"] for data in several), strict=True)],
        "sum": sum(data["sum"] for data in several),
    }
