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
import os
import ssl
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

import gevent
from gevent.event import Event

from errors import CertifierError, RetrievalError
from leaves import Leaves
from lru import LRU
from store import Stamp
from workers import Workers

WONT_DO_SECONDS = 5.0  # an operator who places a certificate waits no longer than this for it to be seen
_WONT_DO_NAMES = 10_000  # names so remembered; a miss costs a look at the disk
LOOK_SECONDS = 5.0  # between two looks at the files of a name in use: an operator's new file counts after that
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
        self._done.wait()
        if self._error is not None:
            raise type(self._error)(*self._error.args)  # each waiter its own: a traceback grows where it is raised
        return self.context

    def finish(self, context: Context | None = None, error: CertifierError | None = None) -> None:
        """Wake all who wait."""
        self.context, self._error = context, error
        self._done.set()


class ContextCache:
    """At most ``capacity`` names in memory. ``clock`` gives seconds since the epoch."""

    def __init__(self, capacity: int, leaves: Leaves, workers: Workers, clock: Callable[[], float] = time.time) -> None:
        self._contexts: LRU[str, Context] = LRU(capacity)
        self._wont_do: LRU[str, float] = LRU(_WONT_DO_NAMES)
        self._retrievals: dict[str, Retrieval] = {}
        self._leaves = leaves
        self._workers = workers
        self._clock = clock

    @property
    def generates(self) -> bool:
        """Whether no name is ever a *won't do*."""
        return self._leaves.generates

    def clear(self) -> None:
        """Forget all names: each is looked up anew at its next use. Connections that have a context keep it."""
        self._contexts = LRU(self._contexts.capacity)
        self._wont_do = LRU(_WONT_DO_NAMES)

    def get(self, name: str) -> Context | None:
        """The context for a canonical name, or None: *won't do*. Waits; raises ``CertifierError``."""
        return self.find(name) or self.start(name).wait()

    def find(self, name: str) -> Context | None:
        """The context if it is in memory and valid: step 1 alone, without a wait."""
        context = self._contexts.get(name)
        if context is None:
            return None
        now = self._clock()
        if now >= context.not_after:
            return None
        if now >= context.look_at or now >= context.renew_at:
            context.look_at = now + LOOK_SECONDS
            due = now >= context.renew_at
            if due:
                context.renew_at = now + _RETRY_SECONDS
            gevent.spawn(self._refresh, name, context, due)
        return context

    def start(self, name: str) -> Retrieval:
        """Steps 2 to 4, to be waited for by whoever called."""
        retrieval = self._retrievals.get(name)
        if retrieval is not None:
            return retrieval
        retrieval = Retrieval()
        until = self._wont_do.get(name)
        if until is not None and self._clock() < until:
            retrieval.finish()
            return retrieval
        self._retrievals[name] = retrieval
        # A greenlet of its own: the client that asked first may leave, the others stay.
        gevent.spawn(self._lead, name, retrieval)
        return retrieval

    def _lead(self, name: str, retrieval: Retrieval) -> None:
        context, error = None, None
        try:
            context = self._retrieve(name)
        except CertifierError as failure:
            error = failure
            log.error("%s", failure)
        except Exception:  # the top of this greenlet: whoever waits must hear of it
            error = RetrievalError(f"no certificate for {name}: a bug in certifier, see its log")
            log.exception("retrieval of %s failed", name)
        finally:
            del self._retrievals[name]
            retrieval.finish(context, error or (None if context or not self.generates else _interrupted(name)))

    def _retrieve(self, name: str, renew: bool = False) -> Context | None:
        now = self._clock()
        contexts = self._contexts
        outcome = self._workers.run(self._leaves.retrieve, name, datetime.fromtimestamp(now, UTC), renew)
        if contexts is not self._contexts:  # cleared meanwhile: the outcome may be another CA's
            return self._retrieve(name, renew)
        if outcome is None:
            self._contexts.pop(name)
            self._wont_do.put(name, now + WONT_DO_SECONDS)
            return None
        for note in outcome.notes:
            log.warning("%s", note)
        self._wont_do.pop(name)
        context = Context(
            server_context(outcome.pem),
            outcome.serial,
            outcome.renew_at.timestamp(),
            outcome.not_after.timestamp(),
            outcome.source,
            outcome.stamp,
            now + LOOK_SECONDS,
        )
        self._contexts.put(name, context)
        if context.source == "made":
            gevent.spawn(self._workers.run, self._leaves.restock)
        return context

    def _refresh(self, name: str, context: Context, due: bool) -> None:
        """Look whether there is a better leaf for a name that is being served; what goes wrong changes nothing."""
        try:
            if due or self._workers.run(self._leaves.changed, name, context.stamp):
                self._retrieve(name, renew=True)
        except CertifierError as failure:
            log.warning("the present certificate stays in use: %s", failure)


def _interrupted(name: str) -> RetrievalError:
    return RetrievalError(f"no certificate for {name}: certifier is shutting down")


def server_context(pem: bytes) -> ssl.SSLContext:
    """The context that serves one certificate; TLS 1.2 and 1.3. Raises ``RetrievalError`` if OpenSSL refuses it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.num_tickets = 1  # OpenSSL makes two: saves 0.03 ms a connection
    try:
        with _as_file(pem) as path:
            context.load_cert_chain(path, password="")  # without a password, OpenSSL asks the terminal for one
    except (ssl.SSLError, OSError) as error:
        raise RetrievalError(f"OpenSSL refuses the certificate: {error}") from error
    return context


@contextmanager
def _as_file(pem: bytes) -> Iterator[str]:
    """A path, which is all that OpenSSL loads a chain from, to the very bytes that were checked."""
    if hasattr(os, "memfd_create"):
        with open(os.memfd_create("certificate", os.MFD_CLOEXEC), "wb", buffering=0) as file:
            file.write(pem)
            yield f"/proc/self/fd/{file.fileno()}"
    else:  # macOS; a NamedTemporaryFile has mode 0600
        with tempfile.NamedTemporaryFile(buffering=0) as temporary:
            temporary.write(pem)
            yield temporary.name
