"""``HarQueue``: exchanges that have ended, on their way to a HAR file: written by a pool thread, several at once."""

import logging
import time
from collections import deque
from itertools import islice

import gevent

from exchange import Connection, Exchange
from har import HarFile
from log import background
from workers import Workers

MAX_OCTETS = 134_217_728  # of bodies that wait for the disk; what comes beyond is lost, and told
MAX_EXCHANGES = 10_000
_BATCH = 100  # exchanges written at once, at most
_QUIET_SECONDS = 1.0  # between two warnings while there is more to write

log = logging.getLogger("certifier.har")


class HarQueue:
    """An ``Observer``: what ends is queued."""

    def __init__(self, file: HarFile, workers: Workers) -> None:
        self._file = file
        self._workers = workers
        self._waiting: deque[Exchange] = deque()
        self._octets = 0
        self._lost = 0
        self._writer: gevent.Greenlet[[], None] | None = None

    def request(self, exchange: Exchange) -> None:
        """Nothing is written before it has ended."""

    def ended(self, exchange: Exchange) -> None:
        """Queue it."""
        if len(self._waiting) >= MAX_EXCHANGES or self._octets + exchange.captured > MAX_OCTETS:
            self._lost += 1
            return
        self._waiting.append(exchange)
        self._octets += exchange.captured
        if self._writer is None:
            self._writer = gevent.spawn(self._write)

    def noted(self, connection: Connection, what: str) -> None:
        """That is told in the log."""

    def close(self) -> None:
        """Write what is waiting, and end."""
        if self._writer is not None:
            self._writer.join()
        self._workers.run(self._file.close)

    def _write(self) -> None:
        try:
            quiet_until = time.monotonic() + _QUIET_SECONDS
            while self._waiting:
                batch = list(islice(self._waiting, _BATCH))
                done = lost = len(batch)
                with background("can't write the HAR file"):
                    done, lost = self._workers.run(self._file.append, *batch), 0
                self._lost += lost
                for _ in range(done):
                    self._octets -= self._waiting.popleft().captured
                if time.monotonic() > quiet_until:
                    quiet_until = time.monotonic() + _QUIET_SECONDS
                    self._tell_lost()
            self._tell_lost()
        finally:
            self._writer = None

    def _tell_lost(self) -> None:
        if self._lost:
            lost, self._lost = self._lost, 0
            log.warning("%d exchanges are not in the HAR file: the disk is too slow, or fails", lost)
