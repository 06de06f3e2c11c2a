"""``ContextCache``: a name's ``SSLContext``, from memory, the store or the signer. One retrieval for all who wait.

``get(name)`` goes down this list:

1. in the LRU and valid: returned, moved to the head; no lock, no thread, no wait. Past its renewal, or when its files
   were not looked at for some seconds, it is returned as well, and refreshed in the background;
2. a retrieval for the name is under way: wait on its Event; its result or its error reaches all who wait;
3. else a greenlet leads one: the slow work (``Leaves.retrieve``) on the pool's threads, then the context, the LRU, the
   Event, the log;
4. neither stored nor generated: None, a *won't do*, remembered for some seconds.

Nothing that waits can be evicted, and no error is cached.
"""

import logging
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import gevent
from gevent.event import Event

from admission import Turnstile
from errors import CertifierError, RetrievalError
from leaf import Leaf, Unsettled
from leaves import Leaves
from limits import Limits
from log import background
from lru import LRU
from store import Stamp
from tlsconfig import server_context
from workers import Workers

WONT_DO_SECONDS = 5.0  # an operator who places a certificate waits no longer than this for it to be seen
_WONT_DO_NAMES = 10_000  # names so remembered; a miss costs a look at the disk
LOOK_SECONDS = 5.0  # between two looks at the files of a name in use: an operator's new file counts after that
_SETTLE_SECONDS = 0.25  # between two looks at a file that an operator seems to be placing
RETRIEVAL_SECONDS = 30.0  # a disk or lock that takes longer has failed
_RETRY_SECONDS = 60.0  # between two attempts to renew a leaf that is still good

log = logging.getLogger("certifier.contexts")


@dataclass(slots=True)
class Context:
    """A TLS server context for one name, and where it came from at first."""

    ssl: ssl.SSLContext
    serial: int
    renew_at: float  # seconds since the epoch
    not_after: float
    source: str  # "disk" or "made"
    ours: bool  # its certificate is of certifier's making
    stamp: Stamp  # of the files it was looked up in
    look_at: float  # when to look at them again


class Retrieval:
    """One retrieval under way: an Event to wait on, then a context, None (*won't do*) or an error."""

    __slots__ = ("_done", "_error", "context")

    def __init__(self) -> None:
        self._done = Event()
        self._error: CertifierError | None = None
        self.context: Context | None = None

    def wait(self) -> Context | None:
        """The result, as soon as it is there. Raises the ``CertifierError`` of the retrieval."""
        if not self._done.wait(RETRIEVAL_SECONDS):
            raise RetrievalError("no certificate in time: the store's disk does not answer")
        if self._error is not None:
            raise type(self._error)(*self._error.args)  # each waiter its own: a traceback grows where it is raised
        return self.context

    def finish(self, context: Context | None = None, error: CertifierError | None = None) -> None:
        """Wake all who wait."""
        self.context, self._error = context, error
        self._done.set()


class ContextCache:
    """At most ``capacity`` names in memory. ``clock`` gives seconds since the epoch."""

    def __init__(
        self,
        capacity: int,
        leaves: Leaves,
        workers: Workers,
        clock: Callable[[], float] = time.time,
        turnstile: Turnstile | None = None,
    ) -> None:
        self._turnstile = turnstile or Turnstile(Limits())
        self._contexts: LRU[str, Context] = LRU(capacity)
        self._wont_do: LRU[str, float] = LRU(_WONT_DO_NAMES)
        self._retrievals: dict[str, Retrieval] = {}
        self._leaves = leaves
        self._workers = workers
        self._clock = clock
        self._made = 0
        self._tidying = False  # one at a time

    @property
    def generates(self) -> bool:
        """Whether no name is ever a *won't do*."""
        return self._leaves.generates

    def clear(self) -> None:
        """Forget all names: each is looked up anew at its next use. Connections that have a context keep it."""
        self._contexts = LRU(self._contexts.capacity)
        self._wont_do = LRU(_WONT_DO_NAMES)

    def get(self, name: str, client: str = "") -> Context | None:
        """The context for a canonical name, or None: *won't do*. Waits; raises ``CertifierError``."""
        return self.find(name) or self.start(name, client).wait()

    def find(self, name: str) -> Context | None:
        """The context if it is in memory and valid: step 1 alone, without a wait."""
        context = self._contexts.get(name)
        if context is None:
            return None
        now = self._clock()
        if now >= context.not_after:
            return None
        if now >= context.look_at or now >= context.renew_at:
            gevent.spawn(self._refresh, name, context, self._is_due(context, now))
        return context

    def renew(self) -> None:
        """Renew what is due among the names in memory, used or not: so no connection waits for that. Takes a while."""
        for name in list(self._contexts):
            context = self._contexts.peek(name)
            if context is not None and self._is_due(context, self._clock()):
                self._refresh(name, context, due=True)

    def tidy(self) -> None:
        """Do what is due after leaves were made; at start, once. Takes a while."""
        self._tidying = True
        try:
            with background("the store can't be tidied"):
                done = -1
                while done != self._made:
                    done = self._made
                    for note in self._workers.run(self._leaves.tidy, datetime.fromtimestamp(self._clock(), UTC)):
                        log.info("%s", note)
        finally:
            self._tidying = False

    def _is_due(self, context: Context, now: float) -> bool:
        """Whether to renew it now; the next look and attempt are put off."""
        context.look_at = now + LOOK_SECONDS
        due = now >= context.renew_at
        if due:
            context.renew_at = now + _RETRY_SECONDS
        return due

    def start(self, name: str, client: str = "") -> Retrieval:
        """Steps 2 to 4, to be waited for by whoever called. ``client`` is whose turn it is to have a new name made."""
        retrieval = self._retrievals.get(name)
        if retrieval is not None:
            return retrieval
        retrieval = Retrieval()
        until = self._wont_do.get(name)
        if until is not None and self._clock() < until:
            retrieval.finish()
            return retrieval
        # A greenlet of its own: the client that asked first may leave, the others stay.
        gevent.spawn(self._lead, name, client, retrieval)  # before others can wait for what fails to begin
        self._retrievals[name] = retrieval
        return retrieval

    def _lead(self, name: str, client: str, retrieval: Retrieval) -> None:
        context, error = None, None
        try:
            context = self._retrieve(name, client)
        except CertifierError as failure:
            error = failure
            if isinstance(failure, RetrievalError):  # what is the client's fault is told in its own line
                log.error("%s", failure)
        except Exception:  # the top of this greenlet: whoever waits must hear of it
            error = RetrievalError(f"no certificate for {name}: a bug in certifier, see its log")
            log.exception("retrieval of %s failed", name)
        finally:
            del self._retrievals[name]
            retrieval.finish(context, error or (None if context or not self.generates else _interrupted(name)))

    def _retrieve(self, name: str, client: str, renew: bool = False) -> Context | None:
        now = self._clock()
        contexts = self._contexts
        outcome = self._slow_half(name, client, renew)
        if contexts is not self._contexts:  # cleared meanwhile: the outcome may be another CA's
            return self._retrieve(name, client, renew)
        if outcome is None:
            self._contexts.pop(name)
            self._wont_do.put(name, now + WONT_DO_SECONDS)
            return None
        self._wont_do.pop(name)
        context = Context(
            server_context(outcome.pem),
            outcome.serial,
            max(outcome.renew_at.timestamp(), now + _RETRY_SECONDS),  # it is as new as can be had: a CA that ends
            outcome.not_after.timestamp(),
            outcome.source,
            outcome.ours,
            outcome.stamp,
            now + LOOK_SECONDS,
        )
        if renew:
            self._contexts.replace(name, context)  # a renewal is no use; and what fell out meanwhile stays out
        else:
            self._contexts.put(name, context)
        if context.source == "made":
            self._made += 1
            if not self._tidying:
                gevent.spawn(self.tidy)
        return context

    def _on_thread(self, name: str, notes: list[str], renew: bool, make: bool) -> Leaf | None:
        while True:
            when = datetime.fromtimestamp(self._clock(), UTC)
            try:
                return self._workers.run(self._leaves.retrieve, name, when, notes, renew, make)
            except Unsettled:
                gevent.sleep(_SETTLE_SECONDS)

    def _slow_half(self, name: str, client: str, renew: bool) -> Leaf | None:
        """The leaf, by a pool thread. One that is to be made waits for its turn, one that is stored does not."""
        notes: list[str] = []
        passed = renew or self._turnstile.at_once(client)
        try:
            leaf = self._on_thread(name, notes, renew, passed)
            if leaf is None and not passed and self.generates:
                self._turnstile.wait(client)
                leaf = self._on_thread(name, notes, renew, True)
            elif passed and not renew and (leaf is None or leaf.source != "made"):
                self._turnstile.give_back(client)
        finally:
            for note in notes:
                log.warning("%s", note)
        return leaf

    def _refresh(self, name: str, context: Context, due: bool) -> None:
        """Look whether there is a better leaf for a name that is being served; what goes wrong changes nothing."""
        with background(f"the present certificate for {name} stays in use"):
            stamp = None
            if not due:
                stamp = self._workers.run(self._leaves.look, name, context.stamp, context.ours, self._clock())
            if stamp is None:
                self._retrieve(name, "", renew=True)
            else:
                context.stamp = stamp


def _interrupted(name: str) -> RetrievalError:
    return RetrievalError(f"no certificate for {name}: certifier is shutting down")
