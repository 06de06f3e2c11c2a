"""``Feed``: wakes those who look at live data, once a second. At most so many, and nobody waits for a slow one.

No data passes here: each asks for what is news to it, and who comes late finds only the latest rows.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from gevent.event import Event

from errors import TooManyOnlookers

MAX_ONLOOKERS = 16  # each costs a connection, and some milliseconds of CPU a second


class Feed:
    """The ticks of one process: each a little after a second of the ``clock`` begins, and can be told."""

    def __init__(self, most: int = MAX_ONLOOKERS, clock: Callable[[], float] = time.time) -> None:
        self._most = most
        self._clock = clock
        self._closed = Event()
        self.onlookers = 0

    @contextmanager
    def look(self) -> Iterator[Iterator[None]]:
        """Yields an iterator that gives one item at once, and one after each tick that it waited for.

        Raises ``TooManyOnlookers``.
        """
        if self.onlookers >= self._most:
            raise TooManyOnlookers(f"{self._most} are watching already")
        self.onlookers += 1
        try:
            yield self._ticks()
        finally:
            self.onlookers -= 1

    def close(self) -> None:
        """There will be no more: whoever looks comes to an end."""
        self._closed.set()

    def _ticks(self) -> Iterator[None]:
        while not self._closed.is_set():
            yield
            self._closed.wait(1.01 - self._clock() % 1)
