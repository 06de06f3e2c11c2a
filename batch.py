"""``Batch``: what several threads want at once, had by one of them for all: ten then cost no more syncs than one.

For pool threads alone: greenlets of one thread would wait for each other for ever.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from gevent.monkey import get_original

T = TypeVar("T")

_new_lock = get_original("_thread", "allocate_lock")  # for pool threads, where gevent's own is not to be used


class _Order(Generic[T]):
    """What a thread waits for."""

    __slots__ = ("outcome",)

    def __init__(self) -> None:
        self.outcome: tuple[T] | Exception | None = None


class Batch(Generic[T]):
    """Gives each caller one of what ``supply(count, notes)`` returns so many of.

    Whoever comes while another thread is being supplied waits, and the first of them is supplied with all others.
    """

    def __init__(self, supply: Callable[[int, list[str]], Sequence[T]]) -> None:
        self._supply = supply
        self._supplying = _new_lock()
        self._orders: deque[_Order[T]] = deque()  # its append and popleft are atomic

    def take(self, notes: list[str]) -> T:
        """One for the caller alone; or what ``supply`` raised, to all that it was to supply. Its notes go to one."""
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
        except Exception as error:  # the top of this work: whoever waits must hear of it
            for order in orders:
                order.outcome = error
