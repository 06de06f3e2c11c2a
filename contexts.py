"""``ContextCache``: a name's ``SSLContext``, from memory, the store or the signer, retrieved once for all waiters.

``get(name)`` goes through these steps; ``find`` is the first one alone, ``start`` the others:

1. It is in the LRU and valid: move it to the head and return it, without a lock, a thread or a wait. If its files have
   not been checked for ``LOOK_SECONDS``, check them in the background, or renew it there if that is due.
2. A retrieval for the name is under way: wait on its Event. Its result or error reaches all waiters.
3. Otherwise a new greenlet runs one: the slow work (``Leaves.retrieve``) on pool threads, then the context, the LRU
   and the Event.
4. Neither stored nor generated: None, a *won't do*, remembered for ``WONT_DO_SECONDS``.

A retrieval under way can't be evicted, and no error is cached.
"""

import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from itertools import islice

import gevent

import sockets
from admission import Turnstile
from board import Board
from context import Context
from errors import CertifierError, NotServable, RetrievalError
from keylog import KeyLog
from leaves import SERVED, Leaves, Wanted
from limits import Limits
from log import background
from lru import LRU
from renewals import Renewals
from retrieval import Retrieval, Retriever
from tlsconfig import server_context
from workers import Workers

WONT_DO_SECONDS = 5.0  # the longest that a certificate newly placed by an operator goes unnoticed
MOST_SESSIONS = 100  # TLS 1.2 sessions that a context may hold: 150 KB
_WONT_DO_NAMES = 10_000  # names remembered as *won't do*; a miss costs a disk lookup
LOOK_SECONDS = 5.0  # between two checks of the files of a name in use: an operator's new file is noticed after that
_LOT = 30  # contexts freed before other greenlets may run
_RETRY_SECONDS = 60.0  # between two attempts to renew a leaf that is still good

log = logging.getLogger("certifier.contexts")


class ContextCache:
    """At most ``capacity`` names in memory. ``clock`` gives seconds since the epoch."""

    def __init__(
        self,
        capacity: int,
        leaves: Leaves,
        workers: Workers,
        clock: Callable[[], float] = time.time,
        turnstile: Turnstile | None = None,
        keylog: KeyLog | None = None,
        board: Board | None = None,
    ) -> None:
        self._board = board or Board(clock)
        self._keylog = keylog
        self._retriever = Retriever(leaves, workers, turnstile or Turnstile(Limits()), clock)
        self._contexts: LRU[str, Context] = LRU(capacity)
        self._wont_do: LRU[str, float] = LRU(_WONT_DO_NAMES)
        self._retrievals: dict[str, Retrieval] = {}
        self._renewals = Renewals(self._renew)
        self._clock = clock

    @property
    def generates(self) -> bool:
        """Whether a leaf can be made for any name, so that none is a *won't do*."""
        return self._retriever.generates

    @property
    def capacity(self) -> int:
        """The most names held in memory."""
        return self._contexts.capacity

    def crowded(self, client: str) -> bool:
        """Whether a new name that this client asks for would have to wait."""
        return self._retriever.crowded(client)

    def __len__(self) -> int:
        return len(self._contexts)

    def held(self, most: int) -> list[tuple[str, Context]]:
        """Up to ``most`` names in memory with their contexts, most recently used first."""
        return [
            (name, context)
            for name in islice(self._contexts, most)
            if (context := self._contexts.peek(name)) is not None
        ]

    def clear(self) -> None:
        """Forget all names: each is retrieved anew at its next use. Open connections keep their contexts."""
        gevent.spawn(_free, self._contexts)
        self._contexts = LRU(self._contexts.capacity)
        self._wont_do = LRU(_WONT_DO_NAMES)

    def get(self, name: str, client: str = "") -> Context | None:
        """The context for a canonical name, or None (*won't do*). May wait; raises ``CertifierError``."""
        return self.find(name) or self.start(name, client).wait()

    def find(self, name: str) -> Context | None:
        """The context if it is in memory and valid: step 1 alone, which never waits."""
        context = self._contexts.get(name)
        if context is None:
            return None
        now = self._clock()
        if not context.not_before <= now < context.not_after:
            return None
        context.used = now
        self._board.retrieved("memory")
        if not (0 <= now - context.looked < LOOK_SECONDS or context.refreshing):
            if self._is_due(context, now):
                self._renewals.soon(name)
            else:
                refresh = gevent.spawn(self._refresh, name, context)
                context.refreshing = True  # only now: if the spawn had failed, nothing would reset it
                refresh.rawlink(context.refreshed)
        return context

    def relieve(self, name: str, context: Context) -> None:
        """After a TLS 1.2 handshake, replace a name's context if OpenSSL has cached many sessions in it.

        For clients without tickets it caches up to 20,480 for two hours, 1.5 KB each, which ``ssl`` can't turn off.
        """
        if context.ssl.session_stats()["number"] > MOST_SESSIONS and self._contexts.peek(name) is context:
            self._renewals.soon(name)

    def renew(self) -> None:
        """Renew all names in memory that are due, used or not, so that no connection waits for it. Takes a while."""
        for name in list(self._contexts):
            context = self._contexts.peek(name)
            if context is not None and self._is_due(context, self._clock()):
                self._renew(name, used=False)

    def tidy(self) -> None:
        """See ``Retriever.tidy``."""
        self._retriever.tidy()

    def _is_due(self, context: Context, now: float) -> bool:
        """Whether to renew it now. Notes the time of this check, and of the attempt that follows if it is due."""
        context.looked = now
        due = now >= context.renew_at and not 0 <= now - context.tried < _RETRY_SECONDS
        if due:
            context.tried = now
        return due

    def start(self, name: str, client: str = "") -> Retrieval:
        """Steps 2 to 4: return a retrieval for the caller to wait on. A new name waits for the turn of ``client``.

        Raises ``TooManyNames`` if that turn would come too late.
        """
        retrieval = self._retrievals.get(name)
        if retrieval is not None:
            return retrieval
        retrieval = Retrieval()
        since = self._wont_do.get(name)
        if since is not None and 0 <= self._clock() - since < WONT_DO_SECONDS:
            retrieval.finish()
            return retrieval
        self._retriever.admit(name, client)
        if name in self._retrievals:  # another greenlet has started one meanwhile
            return self._retrievals[name]
        # In a greenlet of its own: the client that asked first may leave while others still wait.
        # First: if this raises, nobody must wait for the retrieval.
        leader = gevent.spawn(self._lead, name, client, retrieval)
        leader.rawlink(lambda _: self._end(name, retrieval))
        self._retrievals[name] = retrieval
        return retrieval

    def _lead(self, name: str, client: str, retrieval: Retrieval) -> None:
        context, error = None, None
        began = time.monotonic()
        try:
            context = self._retrieve(name, client)
        except CertifierError as failure:
            error = failure.again()
            if isinstance(failure, RetrievalError):  # other faults are the client's, and go into its line of the log
                log.error("%s", failure)
        except Exception:  # the top of this greenlet: every waiter must get an error
            error = RetrievalError(f"no certificate for {name}: a bug in certifier, see its log")
            log.exception("retrieval of %s failed", name)
        finally:
            del self._retrievals[name]
            if context is not None:
                self._board.retrieved(context.source, time.monotonic() - began)
            else:
                self._board.retrieved("failed" if error else "none")
            retrieval.finish(context, error or (None if context or not self.generates else _interrupted(name)))

    def _end(self, name: str, retrieval: Retrieval) -> None:
        """End a retrieval whose greenlet did not get as far as its first line: no memory for it, as its log says."""
        if self._retrievals.get(name) is retrieval:
            del self._retrievals[name]
            self._board.retrieved("failed")
            retrieval.finish(error=RetrievalError(f"no certificate for {name}: its retrieval could not begin"))

    def _retrieve(self, name: str, client: str, wanted: Wanted = SERVED) -> Context | None:
        now = self._clock()
        contexts = self._contexts
        outcome = self._retriever.retrieve(name, client, wanted)
        if contexts is not self._contexts:  # cleared meanwhile: the leaf may be from the former CA
            return self._retrieve(name, client, wanted._replace(refused=None))
        if outcome is None:
            self._contexts.pop(name)
            self._wont_do.put(name, now)
            return None
        self._wont_do.pop(name)
        try:
            served = server_context(outcome.pem, self._keylog)
        except NotServable as error:
            if wanted.refused is not None or outcome.source != "disk":
                raise
            return self._retrieve(name, client, wanted._replace(refused=(outcome.pem, str(error))))
        context = Context(
            served,
            outcome.serial,
            outcome.not_before.timestamp(),
            outcome.not_after.timestamp(),
            outcome.renew_at.timestamp(),
            outcome.source,
            outcome.ours,
            outcome.stamp,
            looked=now,
            tried=now,  # it is as new as it gets, even if due (its CA may end soon); or it is renewed below
            used=now,
        )
        if wanted.renew:
            before = self._contexts.peek(name)
            if before is not None:  # an entry evicted meanwhile stays out; a renewal does not count as use
                context.used = before.used
                self._contexts.replace(name, context)
        else:
            self._contexts.put(name, context)
            if context.source == "disk" and self.generates and now >= context.renew_at:
                self._renewals.soon(name)
        return context

    def _refresh(self, name: str, context: Context) -> None:
        """Check the files of a name in use, and retrieve its leaf anew if they have changed. An error changes nothing.

        One at a time per context: on a disk that hangs, they would pile up.
        """
        with _spared(name):
            stamp = self._retriever.look(name, context)
            if stamp is None:
                self._renew(name)
            else:
                context.stamp = stamp

    def _renew(self, name: str, used: bool = True) -> None:
        with _spared(name):
            context = self._retrieve(name, "", Wanted(renew=True, used=used))
            self._board.retrieved("renewed")
            if context is not None and context.source == "made":
                log.info("renewed the certificate for %s", name)


def _free(dropped: LRU[str, Context]) -> None:
    """Free contexts a few at a time: OpenSSL takes 0.03 ms for each, so that thousands would stall the hub."""
    for count, name in enumerate(list(dropped)):
        dropped.pop(name)
        if count % _LOT == 0:
            sockets.give_way()


def _spared(name: str) -> AbstractContextManager[None]:
    """Run work whose failure is logged and changes nothing."""
    return background(f"the present certificate for {name} stays in use")


def _interrupted(name: str) -> RetrievalError:
    return RetrievalError(f"no certificate for {name}: certifier is shutting down")
