"""What it costs to share a port: one worker, two, and two programs with a port each, in turn, on the same cores.

The last is the measure for the second: two processes that share nothing cost more than one, too, where they have one
core between them.
"""

from contextlib import ExitStack
from dataclasses import dataclass, field, replace

from bench.lab import Lab
from bench.peers.certifier import Certifier
from bench.rows import warm_crew


@dataclass(slots=True)
class Way:
    """Of running on several cores; a value a round."""

    title: str
    programs: int
    workers: int  # of each
    cpu: list[float] = field(default_factory=list)  # ms a warm connection
    busiest: list[float] = field(default_factory=list)  # % of that which the busiest process used
    rate: list[float] = field(default_factory=list)  # warm connections a second


def measure(certifier: Certifier, lab: Lab) -> list[Way]:
    """All ways, as often as there are rounds, all under the load of as many clients."""
    found = [Way("one worker", 1, 1), Way("two workers", 1, 2), Way("two programs, a port each", 2, 1)]
    for _ in range(lab.plan.rounds):
        for way in found:
            _round(way, replace(certifier, extra=(*certifier.extra, f"--workers={way.workers}")), lab)
    return found


def _round(way: Way, peer: Certifier, lab: Lab) -> None:
    with ExitStack() as running:
        proxies = [running.enter_context(lab.start(peer)) for _ in range(way.programs)]
        crew = running.enter_context(warm_crew([proxy.client for proxy in proxies], lab.where, lab.plan))
        with ExitStack() as measured:
            windows = [measured.enter_context(proxy.window()) for proxy in proxies]
            count = sum(crew.go())
    cpu = [window.cpu for window in windows]
    way.cpu.append(sum(cpu) / count * 1000)
    way.busiest.append(max(window.busiest * window.cpu for window in windows) / sum(cpu) * 100)
    way.rate.append(count / windows[-1].wall)  # the others hold this one, and what comes behind it
