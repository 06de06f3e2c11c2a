"""What it costs to share a port: one worker, two, and two programs with a port each, on the same cores.

The last is the measure for the second: two processes that share nothing cost more than one, too, where they have one
core between them, and the more so, the less each finds to do when it gets the core: hence several loads. All ways run
at once and are loaded in turn, in short windows: from one minute to the next a machine differs by more than they do.
Idle, they use no CPU. New processes each round: these differ, too.
"""

from contextlib import ExitStack
from dataclasses import dataclass, field, replace

from bench.lab import Lab
from bench.peers.certifier import Certifier
from bench.plan import Plan
from bench.rows import warm_crew
from bench.running import Running

_TURNS = 4  # windows a round that each way has
_WAYS = (
    ("one worker", 1, 1),
    ("two workers", 1, 2),
    ("two programs, a port each", 2, 1),
)  # as the first of Way's fields


@dataclass(slots=True)
class Way:
    """Of running on several cores; a value a round."""

    title: str
    programs: int
    workers: int  # of each
    cpu: list[float] = field(default_factory=list)  # ms a warm connection
    busiest: list[float] = field(default_factory=list)  # % of that which the busiest process used
    rate: list[float] = field(default_factory=list)  # warm connections a second


@dataclass(slots=True)
class _Sum:
    """Of the windows of a round."""

    count: int = 0
    cpu: float = 0.0  # seconds
    wall: float = 0.0  # seconds
    busiest: float = 0.0  # seconds that the busiest process of each window used

    def add(self, proxies: list[Running], lab: Lab, plan: Plan) -> None:
        """A window under the load of the plan's clients."""
        with warm_crew([proxy.client for proxy in proxies], lab.where, plan) as crew, ExitStack() as measured:
            windows = [measured.enter_context(proxy.window()) for proxy in proxies]
            self.count += sum(crew.go())
        self.cpu += sum(window.cpu for window in windows)
        self.wall += windows[-1].wall  # the others hold this one, and what comes behind it
        self.busiest += max(window.busiest * window.cpu for window in windows)


def measure(certifier: Certifier, lab: Lab) -> dict[int, list[Way]]:
    """All ways, as often as there are rounds, by the number of clients that connect at once to all of a way."""
    found = {clients: [Way(*way) for way in _WAYS] for clients in lab.plan.shared_clients}
    for _ in range(lab.plan.rounds):
        with ExitStack() as running:
            proxies = []
            for _, programs, workers in _WAYS:
                peer = replace(certifier, extra=(*certifier.extra, f"--workers={workers}"))
                proxies.append([running.enter_context(lab.start(peer)) for _ in range(programs)])
            for clients, ways in found.items():
                plan = replace(lab.plan, clients=clients, warm_seconds=lab.plan.warm_seconds / _TURNS)
                _round(ways, proxies, lab, plan)
    return found


def _round(ways: list[Way], proxies: list[list[Running]], lab: Lab, plan: Plan) -> None:
    sums = [(_Sum(), those) for those in proxies]
    for turn in range(_TURNS):
        for summed, those in sums if turn % 2 else reversed(sums):
            summed.add(those, lab, plan)
    for way, (summed, _) in zip(ways, sums, strict=True):
        way.cpu.append(summed.cpu / summed.count * 1000)
        way.busiest.append(summed.busiest / summed.cpu * 100)
        way.rate.append(summed.count / summed.wall)
