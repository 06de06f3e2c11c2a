"""``Lookout``: whether anything is stored for a name, looked up for many names by one piece of work on a thread.

For a crowd of names of which most will have to wait for their turn, or be refused: a hop to a thread and back for each
would cost more than all the rest of its refusal, and the connections that are served their pace.
"""

import logging
from collections.abc import Callable, Collection

import gevent
from gevent.event import Event

from errors import CertifierError, RetrievalError
from workers import Workers

GATHER_SECONDS = 0.01  # how long names are gathered

log = logging.getLogger("certifier.lookout")


class _Look:
    """Names that are looked up together."""

    __slots__ = ("done", "error", "found", "names")

    def __init__(self) -> None:
        self.names: list[str] = []
        self.found: Collection[str] = ()
        self.error: CertifierError | None = None
        self.done = Event()


class Lookout:
    """``stored`` tells, on a thread, which of some names may have something stored for them: in so many seconds."""

    def __init__(self, workers: Workers, stored: Callable[[list[str]], Collection[str]], seconds: float) -> None:
        self._workers = workers
        self._stored = stored
        self._seconds = seconds
        self._next: _Look | None = None

    def sees(self, name: str) -> bool:
        """Whether something may be stored for a name. Waits; raises the ``CertifierError`` of the look."""
        look = self._next
        if look is None:
            look = _Look()
            gevent.spawn(self._lead, look)  # before others can wait for what fails to begin
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
        except Exception:  # the top of this work: whoever waits must hear of it
            look.error = RetrievalError("a bug in certifier, see its log")
            log.exception("what is stored can't be looked up")
        finally:
            look.done.set()
