"""``Workers``: a pool of threads for work that would stall the hub, such as disk, keys, look-ups or passwords.

Work takes and returns plain values; on its thread it uses no gevent objects, no logging, no ``threading`` objects.
"""

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from gevent.threadpool import ThreadPool

from errors import OutOfResources

P = ParamSpec("P")
R = TypeVar("R")


class Workers:
    """Runs at most ``threads`` pieces of work at once; others wait for their turn."""

    def __init__(self, threads: int = 4) -> None:
        self._pool = ThreadPool(threads)

    def run(self, work: Callable[P, R], *arguments: P.args, **keywords: P.kwargs) -> R:
        """Run ``work`` on a pool thread while other greenlets go on; returns its result or raises its exception.

        Raises ``OutOfResources`` if no thread can be started.
        """
        try:
            outcome: R | Exception = self._pool.apply(_outcome, (work, arguments, keywords))
        except RuntimeError as error:  # threads are started on demand
            raise OutOfResources(f"certifier can't start a thread: {error}") from error
        if isinstance(outcome, Exception):
            try:
                raise outcome
            finally:
                del outcome  # its traceback refers to this frame: a cycle
        return outcome


def _outcome(work: Callable[..., R], arguments: tuple[object, ...], keywords: dict[str, object]) -> R | Exception:
    """The result of the work, or its exception as a value: gevent's pool prints any that is raised."""
    try:
        return work(*arguments, **keywords)
    except Exception as error:  # the top of this thread's work
        return error
