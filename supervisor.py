"""``Supervisor``: runs worker processes on shared addresses, replaces those that die, and passes signals on.

The supervisor only waits: it has no greenlets and no threads, so that a worker forked from it starts clean. It holds
all listeners, so connections queued for a worker that died go to its successor. If none accepts, or not soon, that
worker's listeners stop listening until one does, as the kernel would go on giving them connections. All are closed
before the workers let their tunnels finish, so that new connections are refused at once.
"""

import atexit
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

GRACE_SECONDS = 5.0  # after the time for tunnels to finish, before a worker is killed
_SIGNALS = (*HANDLED, *ENDING, signal.SIGCHLD)
_LOOK_SECONDS = 0.1  # between two checks for a signal while a worker starts
_SHORT_LIFE = 5.0  # seconds: a worker that dies sooner is not replaced at once
_MAX_PAUSE = 30.0
MAX_WAIT = 2.0  # seconds for which connections queue for a successor: the other workers could accept them at once

_fork: Callable[[], int] = get_original("os", "fork")  # gevent's has a hub watch the child, and none runs here
_close: Callable[[int], None] = get_original("os", "close")  # gevent's waits for the hub, which does not run here
_poll: Callable[[], "select.poll"] = get_original("select", "poll")  # select(2) can't take descriptors above 1023
_waitpid: Callable[[int, int], tuple[int, int]] = get_original("os", "waitpid")
_set_handler: Callable[[int, signal.Handlers], object] = get_original("signal", "signal")  # gevent's would ask the hub
log = logging.getLogger("certifier.supervisor")

# A worker's body: (number, pipe to report on that it accepts, pipe at EOF once the supervisor is gone) -> exit status.
Work = Callable[[int, int, int], int]


@dataclass(frozen=True, slots=True)
class _Worker:
    """A worker process. On the pipe ``told`` it reports that it accepts connections."""

    number: int
    started: float
    told: int

    def accepts(self, seconds: float = 0.0) -> bool | None:
        """True once it has reported, even if it has died since; False if it ended before that; None if neither yet."""
        waiting = _poll()
        waiting.register(self.told, select.POLLIN)
        for _, event in waiting.poll(1000 * seconds):
            return bool(event & select.POLLIN)  # the report is never read; EOF without one is POLLHUP alone
        return None


class Supervisor:
    """Runs ``work`` in ``count`` processes, each on its own item of ``listeners``."""

    def __init__(self, count: int, work: Work, listeners: Sequence[Sequence[socket.socket]]) -> None:
        self._count = count
        self._work = work
        self._listeners = listeners
        self._workers: dict[int, _Worker] = {}  # by process ID
        self._due: list[tuple[float, int]] = []  # when to start a successor, and for which number
        self._pauses = [1.0] * count  # by number: before the next successor of one that dies soon
        self._told_to_end = False  # while workers were still starting
        self._lifeline = os.pipe()

    def run(self, ready: Callable[[], None]) -> int:
        """Run until a signal comes, and return the exit status. ``ready`` is called once all workers accept.

        A worker that fails at this first start has printed why, and its status is returned.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        _set_handler(signal.SIGCHLD, signal.SIG_DFL)  # if inherited as ignored, it never comes and statuses are lost
        for number in range(self._count):
            if not self._start(number, wait=True):
                status = self._reap_all()
                return 0 if self._told_to_end else status or 1
        ready()
        while True:
            found = self._wait()
            if found in ENDING:
                for listeners in self._listeners:
                    listening.close(listeners)
                self._reap_all()
                return 0
            if found in HANDLED:
                self._signal(found)
            self._replace()

    def _start(self, number: int, wait: bool = False) -> bool:
        """Fork a worker. Return whether that worked and, with ``wait``, whether the worker accepts connections."""
        try:
            process, told = self._forked(number)
        except OSError as error:  # no descriptor, process or memory left: the other workers go on
            log.error("worker %d can't be started: %s", number, error.strerror)
            return False
        worker = self._workers[process] = _Worker(number, time.monotonic(), told)
        return not wait or self._comes_to_accept(worker)

    def _forked(self, number: int) -> tuple[int, int]:
        """Fork a worker: its process ID, and the pipe on which it reports that it accepts. Raises ``OSError``."""
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
                signal.pthread_sigmask(signal.SIG_UNBLOCK, (*ENDING, signal.SIGCHLD))  # serve() unblocks the rest
                status = self._work(number, tells, self._lifeline[0])
                atexit._run_exitfuncs()  # those of taps: os._exit() runs none
                os._exit(status)
            finally:
                os._exit(70)  # an exception was reported before, or can't be
        _close(tells)
        return process, told

    def _comes_to_accept(self, worker: _Worker) -> bool:
        """Wait until a worker accepts connections; False if it ends before that, or we are told to end."""
        accepts = None
        while accepts is None and not self._told_to_end:
            accepts = worker.accepts(_LOOK_SECONDS)
            self._told_to_end = signal.sigtimedwait(ENDING, 0) is not None
        return bool(accepts) and not self._told_to_end

    def _wait(self) -> int | None:
        """Wait for the next signal; None when a worker is due to be replaced."""
        left = min((when for when, _ in self._due), default=None)
        if left is None:
            return signal.sigwait(_SIGNALS)
        found = signal.sigtimedwait(_SIGNALS, max(0.0, left - time.monotonic()))
        return None if found is None else found.si_signo

    def _replace(self) -> None:
        """Reap workers that have died, and start the successors that are due."""
        for process, worker, status in self._dead():
            number = worker.number
            accepted = worker.accepts()
            _close(worker.told)
            lived = time.monotonic() - worker.started
            if lived < _SHORT_LIFE:
                pause = self._longer_pause(number)
            else:
                pause, self._pauses[number] = 0.0, 1.0
            if not accepted or pause > MAX_WAIT:
                listening.rest(self._listeners[number])
            log.error("worker %d (process %d) died: %s; it is replaced%s", number, process, _how(status), _in(pause))
            self._due.append((time.monotonic() + pause, number))
        now = time.monotonic()
        due = [number for when, number in self._due if when <= now]
        self._due = [(when, number) for when, number in self._due if when > now]
        for number in due:
            if not self._start(number):
                listening.rest(self._listeners[number])
                self._due.append((time.monotonic() + self._longer_pause(number), number))

    def _longer_pause(self, number: int) -> float:
        """Double a worker's pause, and return it."""
        self._pauses[number] = min(2 * self._pauses[number], _MAX_PAUSE)
        return self._pauses[number]

    def _dead(self) -> list[tuple[int, _Worker, int]]:
        """Reap ended children, which PID 1 of a container also inherits; the workers among them, with their status."""
        found = []
        with suppress(ChildProcessError):  # no children are left
            while (ended := _waitpid(-1, os.WNOHANG))[0]:
                if worker := self._workers.pop(ended[0], None):
                    found.append((ended[0], worker, os.waitstatus_to_exitcode(ended[1])))
        return found

    def _signal(self, number: int) -> None:
        for process in self._workers:
            os.kill(process, number)

    def _reap_all(self) -> int:
        """Let the workers finish, then kill the rest. Return the first non-zero exit status, deaths by signal aside."""
        self._signal(signal.SIGTERM)
        first = 0
        deadline = time.monotonic() + DRAIN_SECONDS + GRACE_SECONDS
        while self._workers:
            for process, worker, status in self._dead():
                first = first or max(0, status)
                if status < 0 and -status not in ENDING:  # what it had not written yet is lost
                    log.error("worker %d (process %d) died: %s", worker.number, process, _how(status))
            left = deadline - time.monotonic()
            if left <= 0:
                self._signal(signal.SIGKILL)
            if self._workers:
                found = signal.sigtimedwait((signal.SIGCHLD, signal.SIGINT), max(0.1, left))
                if found is not None and found.si_signo == signal.SIGINT:  # only a terminal sends it to workers
                    self._signal(signal.SIGINT)
        return first


def _how(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:  # most real-time signals have no name
        return f"signal {-status}"


def _in(pause: float) -> str:
    return f" in {pause:.0f} s" if pause else ""
