"""``Staff``: greenlets that serve one connection after another.

A greenlet for each would cost 50 µs more, a twentieth of a connection: Python maps memory for its frames each time.
"""

from collections.abc import Callable
from typing import Any

from gevent.hub import Waiter, get_hub
from gevent.pool import Group

KEPT = 100  # that may wait for something to do: 2 MB

Work = tuple[Callable[..., object], tuple[Any, ...]]


class Staff:
    """At most ``most`` greenlets that are at work; how many there are is its length."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept = KEPT
        self._all = Group()
        self._idle: list[Waiter[Work | None]] = []  # who was at work last is the first to be so again

    def __len__(self) -> int:
        return len(self._all) - len(self._idle)

    @property
    def is_full(self) -> bool:
        """Whether there is nobody for more work."""
        return len(self) >= self._most

    def spawn(self, do: Callable[..., object], *arguments: Any) -> None:
        """Have something done; as ``gevent.spawn``, this does not wait for it."""
        if self._idle:
            get_hub().loop.run_callback(self._idle.pop().switch, (do, arguments))
        else:
            self._all.spawn(self._serve, [(do, arguments)])

    def join(self, timeout: float) -> None:
        """Wait until all work is done, not longer than so many seconds. There must not be any more."""
        self._kept = 0
        while self._idle:
            get_hub().loop.run_callback(self._idle.pop().switch, None)
        self._all.join(timeout)

    def kill(self, timeout: float) -> None:
        """End what is not done; wait for that, not longer than so many seconds."""
        self._all.kill(timeout=timeout)

    def _serve(self, first: list[Work]) -> None:
        work: Work | None = first.pop()  # a greenlet holds its arguments until it ends
        while work is not None:
            do, arguments = work
            do(*arguments)
            del work, do, arguments  # what they hold must not live until there is more to do
            if len(self._idle) >= self._kept:
                return
            waiter: Waiter[Work | None] = Waiter()
            self._idle.append(waiter)
            work = waiter.get()
