"""``Feed``: wakes the viewers of live data, once a second. Their number is bounded, and nobody waits for a slow one.

No data passes here: each viewer asks for what is new to it, and one that is late finds only the latest rows.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from gevent.event import Event

from errors import TooManyOnlookers

MAX_ONLOOKERS = 16  # each costs a connection, and some milliseconds of CPU a second


class Feed:
    """The ticks of one process, each a little after a second of the ``clock`` has ended and can be reported."""

    def __init__(self, most: int = MAX_ONLOOKERS, clock: Callable[[], float] = time.time) -> None:
        self._most = most
        self._clock = clock
        self._closed = Event()
        self.onlookers = 0

    @contextmanager
    def look(self) -> Iterator[Iterator[None]]:
        """Yields an iterator that gives one item at once, and then waits for a tick before each further one.

        Raises ``TooManyOnlookers``.
        """
        if self.onlookers >= self._most:
            raise TooManyOnlookers(f"{self._most} clients are watching already")
        self.onlookers += 1
        try:
            yield self._ticks()
        finally:
            self.onlookers -= 1

    def close(self) -> None:
        """Stop ticking: the iterators of all viewers end."""
        self._closed.set()

    def _ticks(self) -> Iterator[None]:
        while not self._closed.is_set():
            yield
            self._closed.wait(1.01 - self._clock() % 1)
