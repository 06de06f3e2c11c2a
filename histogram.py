"""``Histogram``: how often a duration fell between which bounds, and their sum. Counting costs half a microsecond."""

from bisect import bisect_left
from typing import TypedDict

# Seconds. A leaf is read in under a millisecond and made in two; a dial takes what the network does, up to a timeout.
BOUNDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


class HistogramData(TypedDict):
    """A histogram as plain values: ``counts`` has one more than ``bounds``, for what is above the last of them."""

    bounds: list[float]
    counts: list[int]
    sum: float


class Histogram:
    """Counts values by ``BOUNDS``; one that equals a bound falls below it."""

    __slots__ = ("_counts", "_sum")

    def __init__(self) -> None:
        self._counts = [0] * (len(BOUNDS) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self._counts[bisect_left(BOUNDS, value)] += 1
        self._sum += value

    def add(self, data: HistogramData) -> None:
        """Count what another one has counted."""
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
