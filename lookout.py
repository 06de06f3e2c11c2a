"""``Lookout``: whether anything is stored for a name, looked up for many names by one job on a pool thread.

For a burst of new names, most of which will have to wait for their turn or be refused: a hop to a thread and back for
each would cost more than the rest of its refusal, and slow down the connections that are served.
"""

import logging
from collections.abc import Callable, Collection
from functools import partial

import gevent
from gevent.event import Event

from errors import CertifierError, RetrievalError
from workers import Workers

GATHER_SECONDS = 0.01  # how long names are collected for one lookup

log = logging.getLogger("certifier.lookout")


class _Look:
    """Names looked up together, and the outcome."""

    __slots__ = ("done", "error", "found", "names")

    def __init__(self) -> None:
        self.names: list[str] = []
        self.found: Collection[str] = ()
        self.error: CertifierError | None = None
        self.done = Event()


class Lookout:
    """``stored`` runs on a pool thread, for at most ``seconds``, and returns the names that have something stored."""

    def __init__(self, workers: Workers, stored: Callable[[list[str]], Collection[str]], seconds: float) -> None:
        self._workers = workers
        self._stored = stored
        self._seconds = seconds
        self._next: _Look | None = None

    def sees(self, name: str) -> bool:
        """Whether something is stored for a name. Waits; raises the ``CertifierError`` of the lookup."""
        look = self._next
        if look is None:
            look = _Look()
            leader = gevent.spawn(self._lead, look)  # first: if this raises, nobody must wait for the lookup
            leader.rawlink(partial(self._end, look))
            self._next = look
        look.names.append(name)
        look.done.wait()
        if look.error is not None:
            raise look.error.again()
        return name in look.found

    def _lead(self, look: _Look) -> None:
        gevent.sleep(GATHER_SECONDS)
        self._next = None
        try:
            with gevent.Timeout(self._seconds, RetrievalError("the store's disk does not answer in time")):
                look.found = self._workers.run(self._stored, look.names)
        except CertifierError as error:
            look.error = error.again()
        except Exception:  # the top of this greenlet: every waiter must get an error
            look.error = RetrievalError("a bug in certifier, see its log")
            log.exception("what is stored can't be looked up")

    def _end(self, look: _Look, _: object) -> None:
        """End a lookup, even one whose greenlet did not reach its first line: no memory for it, as its log says."""
        if self._next is look:
            self._next = None
            look.error = RetrievalError("what is stored can't be looked up: the lookup could not begin")
        look.done.set()
