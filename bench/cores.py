"""``Cores``: who runs on which core, and how busy cores were.

The proxy has cores of its own; the origin, the load clients and the leading process share the others. On a machine with
one core all share it: CPU figures are still the proxy's own, latencies are not.
"""

import os
from collections.abc import Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass

_TICKS = os.sysconf("SC_CLK_TCK")  # a second


@dataclass(frozen=True, slots=True)
class Cores:
    """Core numbers, as ``sched_setaffinity`` has them."""

    proxy: frozenset[int]
    load: frozenset[int]

    @property
    def shared(self) -> bool:
        """Whether there are too few for both sides."""
        return bool(self.proxy & self.load)


def divide(for_proxy: int = 1) -> Cores:
    """The first cores that this process may use for the proxy, the rest for the load."""
    usable = sorted(os.sched_getaffinity(0))
    proxy = frozenset(usable[:for_proxy])
    return Cores(proxy, frozenset(usable[for_proxy:]) or proxy)


@contextmanager
def on(cores: Set[int]) -> Iterator[None]:
    """What this process does and starts meanwhile runs on these cores; children stay there."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def busy_seconds(cores: Set[int]) -> float:
    """Seconds that the cores were at work since boot, by anyone, added up. Resolution: 10 ms."""
    wanted = {f"cpu{core}" for core in cores}
    total = 0
    with open("/proc/stat", encoding="ascii") as file:
        for line in file:
            name, *fields = line.split()
            if name in wanted:
                user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields[:8])
                total += user + nice + system + irq + softirq + steal
    return total / _TICKS
