"""``Lab``: what every measurement needs: cores, an origin, a plan, and proxies started in folders of their own."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from bench.cores import Cores
from bench.crew import Crew, Gate
from bench.origin import Origin
from bench.peers import Peer
from bench.plan import Plan
from bench.running import Running


@dataclass(slots=True)
class Lab:
    """``folder`` exists, and every user may enter it: some proxies switch to a user of their own."""

    where: Cores
    origin: Origin
    plan: Plan
    folder: Path
    _number: Iterator[int] = field(default_factory=count)

    def start(self, peer: Peer) -> Running:
        """A proxy in a new folder, to be started by ``with``."""
        return Running(peer, self.where, self.origin, self.folder / str(next(self._number)))


def connections(proxy: Running, count: int, clients: int, name: Callable[[int], str]) -> None:
    """Make ``count`` complete connections, each to the name that ``name`` returns for its number."""

    def job(start: int) -> Callable[[Gate], None]:
        def run(gate: Gate) -> None:
            gate.wait()
            for number in range(start, count, clients):
                proxy.client.exchange(name(number))

        return run

    with Crew(proxy.where, [job(number) for number in range(clients)]) as crew:
        crew.go()
