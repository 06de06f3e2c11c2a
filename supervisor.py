"""``Supervisor``: several worker processes on the same listeners; one that dies is replaced, signals are passed on.

The supervisor does nothing but wait: no greenlets, no threads, so that a worker forked from it starts clean. It holds
all listeners, so connections that wait for a worker that died wait for the next one. If that does not come to accept
any, or not soon, its listeners rest until one does, as the kernel would go on giving them their share. All are closed
before the workers let their tunnels finish, so that whoever comes then is refused at once.
"""

import logging
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from gevent.monkey import get_original

import listening
from process import ENDING, HANDLED
from serving import DRAIN_SECONDS

GRACE_SECONDS = 5.0  # beyond what tunnels have to finish in, before a worker is killed
_SIGNALS = (*HANDLED, *ENDING, signal.SIGCHLD)
_LOOK_SECONDS = 0.1  # between two looks for a signal while a worker starts
_SHORT_LIFE = 5.0  # seconds: a worker that dies sooner is not replaced at once
_MAX_PAUSE = 30.0
_MAX_WAIT = 2.0  # seconds that connections wait for a successor: the other workers would have them at once

_fork: Callable[[], int] = get_original("os", "fork")  # gevent's has a hub look after the child, and none runs here
_close: Callable[[int], None] = get_original("os", "close")  # gevent's waits for a hub that does not run here
_poll: Callable[[], "select.poll"] = get_original("select", "poll")  # select(2) knows no descriptor past 1023
_waitpid: Callable[[int, int], tuple[int, int]] = get_original("os", "waitpid")
_set_handler: Callable[[int, signal.Handlers], object] = get_original("signal", "signal")  # gevent's would ask the hub
log = logging.getLogger("certifier.supervisor")

# What a worker does: number, the pipe on which it says that it accepts, and the one that ends with the supervisor.
Work = Callable[[int, int, int], int]


@dataclass(frozen=True, slots=True)
class _Worker:
    """A process in one of the places. On ``told`` it says that it accepts connections."""

    number: int
    started: float
    told: int

    def accepts(self, seconds: float = 0.0) -> bool | None:
        """Whether it has said so: True from then on, though it died; False if it ended before; None if neither yet."""
        waiting = _poll()
        waiting.register(self.told, select.POLLIN)
        for _, event in waiting.poll(1000 * seconds):
            return bool(event & select.POLLIN)  # it is never read, and the end of the pipe alone is none
        return None


class Supervisor:
    """Runs ``work`` in so many processes, each with ``listeners`` of its own."""

    def __init__(self, count: int, work: Work, listeners: Sequence[Sequence[socket.socket]]) -> None:
        self._count = count
        self._work = work
        self._listeners = listeners
        self._workers: dict[int, _Worker] = {}  # by process
        self._due: list[tuple[float, int]] = []  # when to replace whom
        self._pause = 1.0
        self._told_to_end = False  # before all had started
        self._lifeline = os.pipe()

    def run(self, ready: Callable[[], None]) -> int:
        """Until a signal comes; the exit status. ``ready`` is called when all accept.

        A first worker that can't start has said why, and its status is ours.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        _set_handler(signal.SIGCHLD, signal.SIG_DFL)  # ignored, as some start us, it never comes, nor do we hear how
        for number in range(self._count):
            if not self._start(number, wait=True):
                status = self._reap_all(signal.SIGTERM)
                return 0 if self._told_to_end else status or 1
        ready()
        while True:
            found = self._wait()
            if found in ENDING:
                for listeners in self._listeners:
                    listening.close(listeners)
                self._reap_all(signal.SIGTERM)
                return 0
            if found in HANDLED:
                self._signal(found)
            self._replace()

    def _start(self, number: int, wait: bool = False) -> bool:
        """Fork a worker; whether that could be done, and with ``wait``, whether it came to accept connections."""
        try:
            process, told = self._forked(number)
        except OSError as error:  # no descriptor, process or memory for it: the other workers can do without
            log.error("worker %d can't be started: %s", number, error.strerror)
            return False
        worker = self._workers[process] = _Worker(number, time.monotonic(), told)
        return not wait or self._comes_to_accept(worker)

    def _forked(self, number: int) -> tuple[int, int]:
        """A worker's process, and the pipe on which it says that it accepts connections. Raises ``OSError``."""
        told, tells = os.pipe()
        try:
            process = _fork()
        except OSError:
            _close(told)
            _close(tells)
            raise
        if process == 0:
            try:
                _close(told)
                for worker in self._workers.values():
                    _close(worker.told)
                _close(self._lifeline[1])
                signal.pthread_sigmask(signal.SIG_UNBLOCK, (*ENDING, signal.SIGCHLD))  # the rest: who handles them
                os._exit(self._work(number, tells, self._lifeline[0]))
            finally:
                os._exit(70)  # an exception has been told by then, or never will be
        _close(tells)
        return process, told

    def _comes_to_accept(self, worker: _Worker) -> bool:
        """Wait until a worker accepts connections; False when it ends before that, or we shall."""
        accepts = None
        while accepts is None and not self._told_to_end:
            accepts = worker.accepts(_LOOK_SECONDS)
            self._told_to_end = signal.sigtimedwait(ENDING, 0) is not None
        return bool(accepts) and not self._told_to_end

    def _wait(self) -> int | None:
        """The next signal; None when a worker is due to be replaced."""
        left = min((when for when, _ in self._due), default=None)
        if left is None:
            return signal.sigwait(_SIGNALS)
        found = signal.sigtimedwait(_SIGNALS, max(0.0, left - time.monotonic()))
        return None if found is None else found.si_signo

    def _replace(self) -> None:
        """See who has died, and start those that are due."""
        for process, worker, status in self._dead():
            number = worker.number
            accepted = worker.accepts()
            _close(worker.told)
            lived = time.monotonic() - worker.started
            self._pause = min(2 * self._pause, _MAX_PAUSE) if lived < _SHORT_LIFE else 1.0
            pause = 0.0 if lived >= _SHORT_LIFE else self._pause
            if not accepted or pause > _MAX_WAIT:
                listening.rest(self._listeners[number])
            log.error("worker %d (process %d) died: %s; it is replaced%s", number, process, _how(status), _in(pause))
            self._due.append((time.monotonic() + pause, number))
        now = time.monotonic()
        due = [number for when, number in self._due if when <= now]
        self._due = [(when, number) for when, number in self._due if when > now]
        for number in due:
            if not self._start(number):
                listening.rest(self._listeners[number])
                self._pause = min(2 * self._pause, _MAX_PAUSE)
                self._due.append((time.monotonic() + self._pause, number))

    def _dead(self) -> list[tuple[int, _Worker, int]]:
        """Workers that have ended, and how. The first process of a container is given others' children to bury too."""
        found = []
        with suppress(ChildProcessError):  # there are none any more
            while (ended := _waitpid(-1, os.WNOHANG))[0]:
                if worker := self._workers.pop(ended[0], None):
                    found.append((ended[0], worker, os.waitstatus_to_exitcode(ended[1])))
        return found

    def _signal(self, number: int) -> None:
        for process in self._workers:
            os.kill(process, number)

    def _reap_all(self, number: int) -> int:
        """Let the workers finish, then end those that don't; the first exit status that is not 0, signals aside."""
        self._signal(number)
        first = 0
        deadline = time.monotonic() + DRAIN_SECONDS + GRACE_SECONDS
        while self._workers:
            for process, worker, status in self._dead():
                first = first or max(0, status)
                if status < 0 and -status not in ENDING:  # what it had yet to write is lost
                    log.error("worker %d (process %d) died: %s", worker.number, process, _how(status))
            left = deadline - time.monotonic()
            if left <= 0:
                self._signal(signal.SIGKILL)
            if self._workers:
                found = signal.sigtimedwait((signal.SIGCHLD, signal.SIGINT), max(0.1, left))
                if found is not None and found.si_signo == signal.SIGINT:  # a second one: not everybody has a terminal
                    self._signal(signal.SIGINT)
        return first


def _how(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:  # of those for real time, most have no name
        return f"signal {-status}"


def _in(pause: float) -> str:
    return f" in {pause:.0f} s" if pause else ""
