"""``Running``: one proxy on its cores, from its start to its end, and measurement windows."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from bench import accounting, cores
from bench.client import Client
from bench.cores import Cores
from bench.origin import ZONE, Origin
from bench.peers import Peer, Setting

START_SECONDS = 60.0  # for a proxy to serve its first connection
STOP_SECONDS = 3.0  # for it to stop before it is killed: stopping is not measured
_RETRY_SECONDS = 0.005
_SETTLE_SECONDS = 0.1  # a proxy that has used no CPU for this long has finished its work
_SETTLE_MOST = 5.0


@dataclass(slots=True)
class Window:
    """What was used between two moments; filled in at the second."""

    cpu: float = 0.0  # seconds used by the proxy's process tree, until it settled
    wall: float = 0.0
    proxy_busy: float = 0.0  # share of the time in which the proxy's cores were busy
    load_busy: float = 0.0
    busiest: float = 1.0  # largest share of ``cpu`` that a single process of the tree used
    foreign: float = 0.0  # share of the time in which other processes used the proxy's cores

    @property
    def load_limited(self) -> bool:
        """Whether the load side, not the proxy, set the pace."""
        return self.load_busy > 0.9 and self.proxy_busy < 0.9


class Running:
    """A proxy running in ``folder``. ``startup`` is in seconds, ``rss_at_start`` in KiB."""

    def __init__(self, peer: Peer, where: Cores, origin: Origin, folder: Path) -> None:
        self.peer = peer
        self.where = where
        folder.mkdir()
        roots = folder / "roots.pem"
        roots.write_bytes(origin.roots)
        self.setting = Setting(folder, ("127.0.0.1", _free_port()), origin.address, roots)
        self.client = Client(self.setting.listen, origin.address, connect=peer.connect, by_name=peer.by_name)
        self.startup = 0.0
        self.rss_at_start = 0

    def __enter__(self) -> Self:
        self.peer.prepare(self.setting)
        environment = {**os.environ, **self.peer.environment(self.setting)}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # compile once, as for users: saves 0.1 s per start
        with (self.setting.folder / "output").open("wb") as output, cores.on(self.where.proxy):
            started = time.monotonic()
            self._process = subprocess.Popen(
                self.peer.command(self.setting),
                cwd=self.setting.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            self._await_first(started)
            self.rss_at_start = accounting.rss_kib(self._process.pid)
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop()

    def cpu(self) -> float:
        """CPU seconds that the process tree has used."""
        return sum(accounting.cpu_seconds(self._process.pid).values())

    def rss(self) -> int:
        """Resident memory of the process tree in KiB, once it has settled."""
        self.settle()
        return accounting.rss_kib(self._process.pid)

    def settle(self) -> None:
        """Wait until the proxy is idle: it still closes and logs connections after the client has left."""
        end = time.monotonic() + _SETTLE_MOST
        before = self.cpu()
        while time.monotonic() < end:
            time.sleep(_SETTLE_SECONDS)
            now = self.cpu()
            if now - before < _SETTLE_SECONDS / 100:  # below 1 %: timers
                return
            before = now

    @contextmanager
    def window(self, settled: bool = True) -> Iterator[Window]:
        """Measure what happens in the ``with`` block. ``settled=False``: don't wait for idle, another load goes on."""
        window = Window()
        if settled:
            self.settle()
        before, began = accounting.cpu_seconds(self._process.pid), time.monotonic()
        cpu = sum(before.values())
        proxy, load = cores.busy_seconds(self.where.proxy), cores.busy_seconds(self.where.load)
        yield window
        window.wall = time.monotonic() - began
        available = window.wall * len(self.where.proxy)
        used = self.cpu() - cpu
        window.proxy_busy = (cores.busy_seconds(self.where.proxy) - proxy) / available
        window.load_busy = (cores.busy_seconds(self.where.load) - load) / (window.wall * len(self.where.load))
        window.foreign = max(0.0, window.proxy_busy - used / available)
        if settled:
            self.settle()
        after = accounting.cpu_seconds(self._process.pid)
        window.cpu = sum(after.values()) - cpu
        window.busiest = max(used - before.get(pid, 0.0) for pid, used in after.items()) / max(window.cpu, 1e-9)

    def _await_first(self, started: float) -> None:
        while True:
            try:
                if not self.peer.ready(self.setting):
                    raise ConnectionError("not ready")
                self.client.first(f"first.{ZONE}", self.peer.ca(self.setting))
            except OSError as error:  # includes ssl.SSLError
                problem = error
            else:
                self.startup = time.monotonic() - started
                return
            code = self._process.poll()
            if code is not None or time.monotonic() > started + START_SECONDS:
                state = "does not answer" if code is None else f"ended with status {code}"
                raise RuntimeError(f"{self.peer.name} {state}: {problem}\n{self._output()}")
            time.sleep(_RETRY_SECONDS)

    def _output(self) -> str:
        return (self.setting.folder / "output").read_text(errors="replace")[-4000:]

    def _stop(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=STOP_SECONDS)
        with suppress(ProcessLookupError):  # kills what is left of its session
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def _free_port() -> int:
    """A port that was free a moment ago: not every proxy reports the port it got when it binds to port 0."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])
