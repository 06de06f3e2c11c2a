"""What sharing a port costs: one worker, two workers, and two programs with a port each, on the same cores.

The last is the reference for the second: on one core, even two processes that share nothing cost more than one, the
more so the less work each finds when it gets the core; hence several loads. All ways run at once and are loaded in
turn, in short windows: a machine varies more from one minute to the next than they differ. Idle, they use no CPU.
Each round starts new processes, since these vary as well.
"""

from contextlib import ExitStack
from dataclasses import dataclass, field, replace

from bench.lab import Lab
from bench.peers.certifier import Certifier
from bench.plan import Plan
from bench.rows import warm_crew
from bench.running import Running

_TURNS = 4  # windows of each way per round
_WAYS = (
    ("one worker", 1, 1),
    ("two workers", 1, 2),
    ("two programs, a port each", 2, 1),
)  # Way's first fields


@dataclass(slots=True)
class Way:
    """A way of running; one value per round."""

    title: str
    programs: int
    workers: int  # of each
    cpu: list[float] = field(default_factory=list)  # ms per warm connection
    busiest: list[float] = field(default_factory=list)  # % of that used by the busiest process
    rate: list[float] = field(default_factory=list)  # warm connections per second


@dataclass(slots=True)
class _Sum:
    """Totals over the windows of a round."""

    count: int = 0
    cpu: float = 0.0  # seconds
    wall: float = 0.0  # seconds
    busiest: float = 0.0  # seconds that the busiest process of each window used

    def add(self, proxies: list[Running], lab: Lab, plan: Plan) -> None:
        """Add a window under the load of the plan's clients."""
        with warm_crew([proxy.client for proxy in proxies], lab.where, plan) as crew, ExitStack() as measured:
            windows = [measured.enter_context(proxy.window()) for proxy in proxies]
            self.count += sum(crew.go())
        self.cpu += sum(window.cpu for window in windows)
        self.wall += windows[-1].wall  # the innermost; the others also span its settling
        self.busiest += max(window.busiest * window.cpu for window in windows)


def measure(certifier: Certifier, lab: Lab) -> dict[int, list[Way]]:
    """Measure all ways in each round; the results by the number of concurrent clients per way."""
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
