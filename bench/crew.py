"""``Crew``: load workers, one forked process each, that start together.

A job is called with its ``Gate``: it prepares, waits at the gate, works, and returns its result, which must be
picklable.
"""

import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Generic, NoReturn, Self, TypeVar

from bench import cores
from bench.cores import Cores

R = TypeVar("R")
PATIENCE = 900.0  # limit in seconds for a job, far longer than any takes


class Gate:
    """A worker's side of the crew."""

    def __init__(self, pipe: "Connection[Any, Any]") -> None:
        self._pipe = pipe

    def wait(self) -> None:
        """Report that this worker is ready, and wait for the gate to open."""
        self._pipe.send("ready")
        self._pipe.recv()

    def hold(self, tell: Callable[[], object]) -> NoReturn:
        """Report the result now and each time the gate opens again, until the crew is dismissed."""
        while True:
            self._pipe.send((tell(), None))
            self._pipe.recv()


Job = Callable[[Gate], R]


class Crew(Generic[R]):
    """Runs each job in a process on the load's cores. Leaving the ``with`` block kills them."""

    def __init__(self, where: Cores, jobs: list[Job[R]]) -> None:
        self._where = where
        self._jobs = jobs
        self._pipes: list[Connection[Any, Any]] = []
        self._processes: list[multiprocessing.process.BaseProcess] = []

    def __enter__(self) -> Self:
        """Return when all are ready."""
        fork = multiprocessing.get_context("fork")
        with cores.on(self._where.load):
            for job in self._jobs:
                ours, theirs = fork.Pipe()
                process = fork.Process(target=_work, args=(job, theirs), daemon=True)
                process.start()
                self._pipes.append(ours)
                self._processes.append(process)
        try:
            for pipe in self._pipes:
                self._receive(pipe)
        except BaseException:
            self._end()
            raise
        return self

    def go(self) -> list[R]:
        """Open the gate and return the results, once all workers have reported."""
        self.begin()
        return self.results()

    def begin(self) -> None:
        """Open the gate."""
        for pipe in self._pipes:
            pipe.send("go")

    def results(self) -> list[R]:
        """The result of each worker. Raises ``RuntimeError`` if a job failed."""
        return [self._receive(pipe)[0] for pipe in self._pipes]

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end()

    def _end(self) -> None:
        for process in self._processes:
            process.kill()
            process.join()
        for pipe in self._pipes:
            pipe.close()

    def _receive(self, pipe: "Connection[Any, Any]") -> Any:
        if not pipe.poll(PATIENCE):
            raise RuntimeError("a load worker is stuck")
        message = pipe.recv()
        if message != "ready" and message[1] is not None:
            raise RuntimeError(f"a load worker failed:\n{message[1]}")
        return message


def _work(job: Job[R], pipe: "Connection[Any, Any]") -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the leading process ends this one
    try:
        pipe.send((job(Gate(pipe)), None))
    except Exception:  # top level of the process: the leader, which waits for a result, must be told
        pipe.send((None, traceback.format_exc()))
    os._exit(0)
