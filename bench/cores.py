"""``Cores``: which processes run on which cores, and how busy the cores were.

The proxy has cores of its own; the origin, the load clients and the leading process share the others. On a machine with
one core they all share it: CPU figures are still the proxy's own, latencies are not.
"""

import os
from collections.abc import Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass

_TICKS = os.sysconf("SC_CLK_TCK")  # per second


@dataclass(frozen=True, slots=True)
class Cores:
    """Core numbers, as ``sched_setaffinity`` takes them."""

    proxy: frozenset[int]
    load: frozenset[int]

    @property
    def shared(self) -> bool:
        """Whether there are too few cores to keep both sides apart."""
        return bool(self.proxy & self.load)


def divide(for_proxy: int = 1) -> Cores:
    """Give the first cores that this process may use to the proxy, the rest to the load."""
    usable = sorted(os.sched_getaffinity(0))
    proxy = frozenset(usable[:for_proxy])
    return Cores(proxy, frozenset(usable[for_proxy:]) or proxy)


@contextmanager
def on(cores: Set[int]) -> Iterator[None]:
    """Run this process, and what it starts meanwhile, on these cores; children stay there."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def busy_seconds(cores: Set[int]) -> float:
    """Total busy time of the cores since boot in seconds, whoever used them. Resolution: 10 ms."""
    wanted = {f"cpu{core}" for core in cores}
    total = 0
    with open("/proc/stat", encoding="ascii") as file:
        for line in file:
            name, *fields = line.split()
            if name in wanted:
                user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields[:8])
                total += user + nice + system + irq + softirq + steal
    return total / _TICKS
