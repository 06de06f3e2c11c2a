"""What it costs to share a port: one worker and several in turn, on the same cores and under the same load."""

from dataclasses import dataclass, field, replace

from bench.lab import Lab
from bench.peers.certifier import Certifier
from bench.rows import warm_load


@dataclass(slots=True)
class Workers:
    """So many workers, a value a round."""

    count: int
    cpu: list[float] = field(default_factory=list)  # ms a warm connection
    busiest: list[float] = field(default_factory=list)  # % of that which the busiest process used
    rate: list[float] = field(default_factory=list)  # warm connections a second


def measure(certifier: Certifier, lab: Lab) -> list[Workers]:
    """One worker and two, as often as there are rounds."""
    found = [Workers(1), Workers(2)]
    for _ in range(lab.plan.rounds):
        for workers in found:
            peer = replace(certifier, extra=(*certifier.extra, f"--workers={workers.count}"))
            with lab.start(peer) as proxy:
                warm_load(proxy, replace(lab.plan, warm_seconds=lab.plan.warm_seconds / 4))  # names into memory
                window, count = warm_load(proxy, lab.plan)
            workers.cpu.append(window.cpu / count * 1000)
            workers.busiest.append(window.busiest * 100)
            workers.rate.append(count / window.wall)
    return found
