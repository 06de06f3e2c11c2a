"""``HarQueue``: queues exchanges that have ended, which a pool thread writes to a HAR file, several at once."""

import logging
import time
from collections import deque
from collections.abc import Callable
from itertools import islice

import gevent

from exchange import Exchange
from har import HarFile
from log import background, counted
from recorder import Observer
from workers import Workers

MAX_OCTETS = 134_217_728  # of heads and bodies that wait for the disk; exchanges beyond that are lost, with a warning
MAX_EXCHANGES = 10_000
# On exit, for what is waiting, and then for the write under way. Cutting off connections before that takes a second, so
# it is done within the supervisor's GRACE_SECONDS.
CLOSE_SECONDS = 3.0
_LAST_SECONDS = 0.5
_BATCH = 100  # exchanges written at once, at most
_QUIET_SECONDS = 1.0  # between two warnings while there is more to write
_DISK = "the disk is too slow, or fails"
_FIELD = 160  # octets of memory for a field beside its text: a tuple of two bytes objects

log = logging.getLogger("certifier.har")


class HarQueue(Observer):
    """An ``Observer`` that queues exchanges when they end; ``lost`` is called with the number of each loss."""

    def __init__(self, file: HarFile, workers: Workers, lost: Callable[[int], object]) -> None:
        self._file = file
        self._workers = workers
        self._waiting: deque[tuple[Exchange, int]] = deque()  # each with the octets counted for it
        self._octets = 0
        self._lost = 0  # since the last warning
        self._report = lost
        self._failing = False  # the last write failed
        self._until = float("inf")  # when writing stops
        self._writer: gevent.Greenlet[[], None] | None = None

    def ended(self, exchange: Exchange) -> None:
        """Queue it."""
        octets = _held(exchange)
        if len(self._waiting) >= MAX_EXCHANGES or self._octets + octets > MAX_OCTETS:
            self._lose(1)
            return
        self._waiting.append((exchange, octets))
        self._octets += octets
        if self._writer is None or self._writer.ready():  # one that had no memory to begin has written nothing
            self._writer = gevent.spawn(self._write)

    def close(self) -> None:
        """Write what is waiting, for at most ``CLOSE_SECONDS``, and close the file, which is valid in any case."""
        self._until = time.monotonic() + CLOSE_SECONDS
        writer = self._writer
        if writer is not None:
            writer.join(CLOSE_SECONDS + _LAST_SECONDS)
        self._lose(len(self._waiting))
        self._tell_lost("certifier ended before they were written" if self._waiting else _DISK)
        if writer is None or writer.dead:  # else its thread is stuck on the disk, and still uses the file
            with background("the HAR file can't be closed"):
                self._workers.run(self._file.close)

    def _write(self) -> None:
        try:
            quiet_until = time.monotonic() + _QUIET_SECONDS
            while self._waiting and time.monotonic() < self._until:
                batch = [exchange for exchange, _ in islice(self._waiting, _BATCH)]
                done = 0
                with background("an exchange is missing from the HAR file"):
                    try:
                        done = self._workers.run(self._file.append, *batch)
                        self._failing = False
                    except OSError as error:
                        if not self._failing:
                            log.warning("can't write the HAR file: %s; exchanges are lost until it can be", error)
                        self._failing = True
                        self._lose(done := len(batch))
                if not done:  # a bug, or a tap that made of an exchange what none can be
                    self._report(done := 1)
                for _ in range(done):
                    self._octets -= self._waiting.popleft()[1]
                if time.monotonic() > quiet_until and not self._failing:
                    quiet_until = time.monotonic() + _QUIET_SECONDS
                    self._tell_lost()
            if not self._waiting and not self._failing:  # else ``close`` reports them, or the next successful write
                self._tell_lost()
        finally:
            self._writer = None

    def _lose(self, exchanges: int) -> None:
        if exchanges:
            self._lost += exchanges
            self._report(exchanges)

    def _tell_lost(self, why: str = _DISK) -> None:
        if self._lost:
            lost, self._lost = self._lost, 0
            log.warning("%s missing from the HAR file: %s", counted(lost, "exchange"), why)


def _held(exchange: Exchange) -> int:
    """Octets of memory that an exchange takes: its bodies, and whatever else peers can make large."""
    heads = (exchange.request_fields, exchange.response_fields, exchange.trailers)
    fields = sum(len(name) + len(value) + _FIELD for head in heads for name, value in head)
    line = len(exchange.method) + len(exchange.authority) + len(exchange.target) + len(exchange.reason)
    return exchange.captured + fields + line + len(exchange.upgrade or "")
