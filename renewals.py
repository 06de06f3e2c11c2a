"""``Renewals``: names whose context is due to be made anew, in the background and one after the other."""

from collections.abc import Callable

import gevent

_MOST = 1000  # names that wait; what is due beyond them is so at its next use, too


class Renewals:
    """After a long stop many are due at once: together they would keep all threads from new names.

    ``renew`` is called with a name, and raises nothing.
    """

    def __init__(self, renew: Callable[[str], None]) -> None:
        self._renew = renew
        self._due: dict[str, None] = {}  # the first of them is being renewed

    def soon(self, name: str) -> None:
        """Renew it when its turn comes; once, however often that is asked for meanwhile."""
        if len(self._due) < _MOST:
            if not self._due:
                gevent.spawn(self._run)
            self._due[name] = None

    def _run(self) -> None:
        while self._due:
            name = next(iter(self._due))
            try:
                self._renew(name)
            finally:
                del self._due[name]
