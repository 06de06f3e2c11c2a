"""``Staff``: greenlets that serve one connection after another.

A new greenlet for each would add 50 µs, a twentieth of a connection's CPU time: Python maps memory for its frames.
"""

from collections.abc import Callable
from typing import Any

from gevent.hub import Waiter, get_hub
from gevent.pool import Group

KEPT = 100  # idle greenlets at most: 2 MB

Work = tuple[Callable[..., object], tuple[Any, ...]]


class Staff:
    """At most ``most`` busy greenlets; its length is how many are busy."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept = KEPT
        self._all = Group()
        self._idle: list[Waiter[Work | None]] = []  # last in, first out

    def __len__(self) -> int:
        return len(self._all) - len(self._idle)

    @property
    def is_full(self) -> bool:
        """Whether no greenlet may take more work."""
        return len(self) >= self._most

    def spawn(self, do: Callable[..., object], *arguments: Any) -> None:
        """Call ``do`` in an idle greenlet or a new one. Like ``gevent.spawn``, does not wait for it."""
        if self._idle:
            get_hub().loop.run_callback(self._idle.pop().switch, (do, arguments))
        else:
            self._all.spawn(self._serve, [(do, arguments)])

    def join(self, timeout: float) -> None:
        """Wait until all work is done, at most ``timeout`` seconds. Nothing may be spawned after this."""
        self._kept = 0
        while self._idle:
            get_hub().loop.run_callback(self._idle.pop().switch, None)
        self._all.join(timeout)

    def kill(self, timeout: float) -> None:
        """Kill the greenlets that are left, and wait for their end, at most ``timeout`` seconds."""
        self._all.kill(timeout=timeout)

    def _serve(self, first: list[Work]) -> None:
        work: Work | None = first.pop()  # popped, as a greenlet holds its arguments until it ends
        while work is not None:
            do, arguments = work
            do(*arguments)
            del work, do, arguments  # what they refer to must not live on while this is idle
            if len(self._idle) >= self._kept:
                return
            waiter: Waiter[Work | None] = Waiter()
            self._idle.append(waiter)
            work = waiter.get()
