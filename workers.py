"""``Workers``: the pool of threads for what would stall the hub: disk, keys, signatures, PEM.

Work gets plain values and returns plain values: no gevent object, no logging, no ``threading`` object on its thread.
"""

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from gevent.threadpool import ThreadPool

from errors import OutOfResources

P = ParamSpec("P")
R = TypeVar("R")


class Workers:
    """At most ``threads`` pieces of work at once; more wait their turn."""

    def __init__(self, threads: int = 4) -> None:
        self._pool = ThreadPool(threads)

    def run(self, work: Callable[P, R], *arguments: P.args, **keywords: P.kwargs) -> R:
        """Do it on a thread while other greenlets go on; its result or its exception.

        Raises ``OutOfResources`` where the system gives no thread.
        """
        try:
            outcome: R | Exception = self._pool.apply(_outcome, (work, arguments, keywords))
        except RuntimeError as error:  # as threads are started on demand
            raise OutOfResources(f"certifier can't start a thread: {error}") from error
        if isinstance(outcome, Exception):
            try:
                raise outcome
            finally:
                del outcome  # its traceback holds this frame
        return outcome


def _outcome(work: Callable[..., R], arguments: tuple[object, ...], keywords: dict[str, object]) -> R | Exception:
    """The exception as a value: gevent's pool prints those that are raised."""
    try:
        return work(*arguments, **keywords)
    except Exception as error:  # the top of this thread's work
        return error
