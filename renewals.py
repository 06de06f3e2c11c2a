"""``Renewals``: names whose contexts are due for renewal, renewed in the background, one after the other."""

from collections.abc import Callable

import gevent

_MOST = 1000  # names in the queue; one that finds it full is tried again at a later use


class Renewals:
    """Renews one name at a time: after a long stop many are due at once, and would keep all threads from new names.

    ``renew`` is called with a name, and must not raise.
    """

    def __init__(self, renew: Callable[[str], None]) -> None:
        self._renew = renew
        self._due: dict[str, None] = {}  # the first of them is being renewed
        self._runner: gevent.Greenlet[[], None] | None = None

    def soon(self, name: str) -> None:
        """Renew a name when its turn comes: once, however often that is asked for until it is done."""
        if len(self._due) < _MOST:
            if self._runner is None or self._runner.ready():  # one that had no memory to begin left its names behind
                self._runner = gevent.spawn(self._run)
            self._due[name] = None

    def _run(self) -> None:
        while self._due:
            name = next(iter(self._due))
            try:
                self._renew(name)
            finally:
                del self._due[name]
