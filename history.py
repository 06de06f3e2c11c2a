"""``History``: what happened in each of the last seconds, from sums that only grow."""

from collections import deque
from typing import NamedTuple

from snapshot import HISTORY_SECONDS, Sample


class Sums(NamedTuple):
    """Totals; the samples are their differences."""

    connections: int = 0
    sent: int = 0
    received: int = 0
    memory: int = 0
    disk: int = 0
    made: int = 0
    requests: int = 0


class History:
    """The history of one process from ``second`` (since the epoch) on, with the sums at its beginning.

    ``second`` is the first one not sampled yet. In each second, ``sample`` must be called before anything is counted,
    except octets.
    """

    def __init__(self, second: int, sums: Sums) -> None:
        self.second = second
        self._before = sums
        self._samples: deque[Sample] = deque(maxlen=HISTORY_SECONDS)

    def sample(self, second: int, sums: Sums) -> None:
        """Sample the seconds before this one that are not sampled yet.

        All that was counted since the last call happened in the first of them. When octets passed is not known: while
        somebody looks, there is only one second; otherwise they are spread evenly.
        """
        first, self.second = self.second, second
        while self._samples and self._samples[-1]["at"] > second:  # the clock was set back: it lies in the future
            self._samples.pop()
        if second <= first:
            return
        grown = Sums(*(new - old for new, old in zip(sums, self._before, strict=True)))
        self._before = sums
        for at in range(max(first, second - HISTORY_SECONDS), second):
            counted = grown if at == first else Sums()
            self._samples.append(
                {
                    "at": at + 1,
                    "connections": counted.connections,
                    "sent": _share(grown.sent, at - first, second - first),
                    "received": _share(grown.received, at - first, second - first),
                    "memory": counted.memory,
                    "disk": counted.disk,
                    "made": counted.made,
                    "requests": counted.requests,
                }
            )

    def after(self, at: int) -> list[Sample]:
        """The samples later than ``at``."""
        return [sample for sample in self._samples if sample["at"] > at]


def _share(whole: int, number: int, parts: int) -> int:
    """The part with this number, of a whole that is divided into ``parts`` as evenly as possible."""
    return whole * (number + 1) // parts - whole * number // parts
