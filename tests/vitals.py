"""What a running certifier holds: memory, threads, greenlets, file descriptors; and the CPU time it has used."""

import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import NamedTuple

import gevent
from lab import WAIT, Program

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")

# Log lines begin with a timestamp and are printable ASCII; a few others are printed at the start and by watched.py.
_OURS = re.compile(
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (warning: |error: )?[ -~]+"
    r"|listening on [0-9.:]+|CA certificate: [ -~]+|try: curl [ -~]+|see: http://[0-9.:]+/ in a browser"
    r"|greenlets \d+ blocks \d+ malloc \d+"
)


class Vitals(NamedTuple):
    resident: int  # resident set size, KiB
    malloc: int  # allocated by malloc, KiB
    blocks: int  # allocated by Python's own allocator
    threads: int
    greenlets: int
    descriptors: int

    def within(self, most: "Vitals") -> bool:
        return all(held <= allowed for held, allowed in zip(self, most, strict=True))

    def and_growth(self) -> "Vitals":
        return Vitals(*map(sum, zip(self, GROWTH, strict=True)))

    def __str__(self) -> str:
        return " ".join(f"{key} {value}" for key, value in self._asdict().items())


# What a load may leave behind: cache entries, and fragmented pages in the allocators; but no thread, greenlet
# or file descriptor.
GROWTH = Vitals(32_768, 2048, 8000, 0, 0, 0)


class Watched(Program):
    """A certifier that reports its greenlets, without the spare ones that wait for a connection."""

    @staticmethod
    def command() -> list[str]:
        return [sys.executable, str(Path(__file__).with_name("watched.py"))]

    def vitals(self) -> Vitals:
        before = len(self.lines)
        self.process.send_signal(signal.SIGUSR2)
        greenlets, blocks, malloc = map(int, self.wait_for("^greenlets ", before).split()[1::2])
        proc = Path(f"/proc/{self.process.pid}")
        resident = int((proc / "statm").read_text().split()[1]) * _PAGE // 1024
        threads, descriptors = len(os.listdir(proc / "task")), len(os.listdir(proc / "fd"))
        return Vitals(resident, malloc // 1024, blocks, threads, greenlets, descriptors)

    def cpu(self) -> float:
        """Seconds of CPU time used so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def settled(self, before: Vitals) -> Vitals:
        """Wait until no more is held than before plus ``GROWTH``."""
        deadline = time.monotonic() + WAIT
        most = before.and_growth()
        while not (vitals := self.vitals()).within(most):
            assert time.monotonic() < deadline, f"{vitals} is more than {most}"
            gevent.sleep(0.1)
        return vitals

    def check_log(self) -> None:
        """Assert that all lines are of the known forms: no peer has injected one, and no bug has printed one."""
        strange = [line for line in self.lines if not _OURS.fullmatch(line)]
        assert not strange, strange[:20]
