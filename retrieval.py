"""``Retrieval``: the retrieval of one name, which others can wait for. ``Retriever``: gets leaves, on pool threads."""

import logging
from collections.abc import Callable
from datetime import UTC, datetime

import gevent
from gevent.event import Event

from admission import Turnstile
from context import Context
from errors import CertifierError, RetrievalError
from leaf import Leaf, Unsettled
from leaves import Leaves, Wanted
from log import background
from lookout import Lookout
from store import Stamp
from workers import Workers

RETRIEVAL_SECONDS = 30.0  # a disk or lock that takes longer has failed
_AGAIN_SECONDS = 0.25  # between two attempts while an operator seems to be placing a file

log = logging.getLogger("certifier.retrieval")


class Retrieval:
    """One retrieval under way: an Event to wait on, then a context, None (*won't do*) or an error."""

    __slots__ = ("_context", "_done", "_error")

    def __init__(self) -> None:
        self._done = Event()
        self._error: CertifierError | None = None
        self._context: Context | None = None

    def wait(self) -> Context | None:
        """Wait for the result. Raises the retrieval's ``CertifierError``, or ``RetrievalError`` after too long."""
        if not self._done.wait(RETRIEVAL_SECONDS):
            raise RetrievalError("no certificate in time: the store's disk does not answer")
        if self._error is not None:
            raise self._error.again()
        return self._context

    def finish(self, context: Context | None = None, error: CertifierError | None = None) -> None:
        """Set the outcome, and wake all waiters."""
        self._context, self._error = context, error
        self._done.set()


class Retriever:
    """Gets leaves from a store or a CA, and tidies up afterwards. ``clock`` gives seconds since the epoch."""

    def __init__(self, leaves: Leaves, workers: Workers, turnstile: Turnstile, clock: Callable[[], float]) -> None:
        self._leaves = leaves
        self._workers = workers
        self._turnstile = turnstile
        self._clock = clock
        self._lookout = Lookout(workers, leaves.stored, RETRIEVAL_SECONDS)
        self._made = 0
        self._tidying = False  # one at a time

    @property
    def generates(self) -> bool:
        """Whether a leaf can be made for any name, so that none is a *won't do*."""
        return self._leaves.generates

    def crowded(self, client: str) -> bool:
        """Whether a new name that this client asks for would have to wait."""
        return self._turnstile.crowded(client)

    def admit(self, name: str, client: str) -> None:
        """Raise ``TooManyNames`` if ``retrieve`` would, but at hardly any cost."""
        if self.generates and self._turnstile.is_full(client) and not self._lookout.sees(name):
            raise self._turnstile.refusal(client)

    def retrieve(self, name: str, client: str, wanted: Wanted) -> Leaf | None:
        """The leaf, or None (*won't do*). One that has to be made waits for its turn, a stored one does not."""
        notes: list[str] = []
        passed = wanted.renew or self._turnstile.at_once(client)
        leaf = None
        try:
            if passed or not self.generates or self._lookout.sees(name):
                leaf = self._on_thread(name, notes, wanted._replace(make=passed))
            if leaf is None and not passed and self.generates:
                self._turnstile.wait(client)
                leaf = self._on_thread(name, notes, wanted)
            elif passed and not wanted.renew and (leaf is None or leaf.source != "made"):
                self._turnstile.give_back(client)
        finally:
            for note in notes:
                log.warning("%s", note)
        if leaf is not None and leaf.source == "made":
            self._made += 1
            if not self._leaves.is_tidy:
                gevent.spawn(self.tidy)
        return leaf

    def look(self, name: str, context: Context) -> Stamp | None:
        """Check the files of a name in use; see ``Leaves.look``."""
        return self._workers.run(self._leaves.look, name, context.stamp, context.ours, self._clock())

    def tidy(self) -> None:
        """Do what is due periodically and after leaves were made. Takes a while; does nothing if already under way."""
        if self._tidying:
            return  # the call under way sees what was made meanwhile
        self._tidying = True
        try:
            with background("the store can't be tidied"):
                done = -1
                while done != self._made:
                    done = self._made
                    for note in self._workers.run(self._leaves.tidy, self._now()):
                        log.info("%s", note)
        finally:
            self._tidying = False

    def _on_thread(self, name: str, notes: list[str], wanted: Wanted) -> Leaf | None:
        def retrieve() -> Leaf | None:
            return self._leaves.retrieve(name, self._now(), notes, wanted)  # the time once a thread is free

        def attempt() -> Leaf | None:
            return self._workers.run(retrieve)

        return settled(attempt)

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)


def settled(attempt: Callable[[], Leaf | None]) -> Leaf | None:
    """The result of ``attempt``, which is repeated while an operator seems to be placing a file for the name."""
    while True:
        try:
            return attempt()
        except Unsettled:
            gevent.sleep(_AGAIN_SECONDS)
