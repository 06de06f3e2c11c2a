"""``Health``: whether CA and store are able to serve certificates now; checked every few seconds at most."""

import time
from collections.abc import Callable
from datetime import UTC, datetime

import gevent

from errors import OutOfResources
from files import LOCK_SECONDS
from issuance import Issuance
from workers import Workers

LOOK_SECONDS = 2.0  # between two checks, however many ask
ANSWER_SECONDS = LOCK_SECONDS + 1  # a disk that takes longer has failed; a lock that is held has been told of by then


class Health:
    """The health of one proxy. ``clock`` gives seconds since the epoch."""

    def __init__(self, issuance: Issuance, workers: Workers, clock: Callable[[], float] = time.time) -> None:
        self._issuance = issuance
        self._workers = workers
        self._clock = clock
        self._look: gevent.Greenlet[[], str | None] | None = None
        self._looked = 0.0

    def fault(self) -> str | None:
        """What is wrong, as a sentence; None if nothing is. Waits."""
        look = self._look
        if look is None or (look.ready() and not 0 <= self._clock() - self._looked < LOOK_SECONDS):
            look = self._look = gevent.spawn(self._probe)
            self._looked = self._clock()
        look.join(ANSWER_SECONDS)
        return look.get() if look.ready() else "the store's disk does not answer"

    def _probe(self) -> str | None:
        try:
            return self._workers.run(self._issuance.fault, datetime.fromtimestamp(self._clock(), UTC))
        except OutOfResources as error:
            return str(error)
