"""``Batch``: what several threads want at once, fetched by one of them for all: ten then cost no more syncs than one.

For pool threads only: greenlets on one thread would deadlock.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from gevent.monkey import get_original

T = TypeVar("T")

_new_lock = get_original("_thread", "allocate_lock")  # for pool threads, where gevent's must not be used


class _Order(Generic[T]):
    """What a thread waits for."""

    __slots__ = ("outcome",)

    def __init__(self) -> None:
        self.outcome: tuple[T] | Exception | None = None


class Batch(Generic[T]):
    """Gives each caller one of the ``count`` items that ``supply(count, notes)`` returns.

    Threads that arrive while ``supply`` runs wait; the first of them to go on then calls it for all of them.
    """

    def __init__(self, supply: Callable[[int, list[str]], Sequence[T]]) -> None:
        self._supply = supply
        self._supplying = _new_lock()
        self._orders: deque[_Order[T]] = deque()  # its append and popleft are atomic

    def take(self, notes: list[str]) -> T:
        """An item for this caller alone. What ``supply`` raises reaches all it was called for; its notes, only one."""
        order = _Order[T]()
        self._orders.append(order)
        with self._supplying:
            if order.outcome is None:
                self._serve([self._orders.popleft() for _ in range(len(self._orders))], notes)
        if isinstance(order.outcome, tuple):
            return order.outcome[0]
        assert order.outcome is not None  # it was among those that were served
        raise order.outcome

    def _serve(self, orders: list[_Order[T]], notes: list[str]) -> None:
        try:
            for order, one in zip(orders, self._supply(len(orders), notes), strict=True):
                order.outcome = (one,)
        except Exception as error:  # the top of this work: every waiting thread must get it
            for order in orders:
                order.outcome = error
