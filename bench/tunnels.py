"""Idle tunnels: their memory, and what they cost while nothing passes."""

import resource
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack

from bench.crew import Crew, Gate
from bench.figures import Figure, Figures
from bench.plan import Plan, warm_name
from bench.running import Running

_SPARE = 300  # descriptors for all else
_WORKERS = 4  # that open tunnels
_FIRST = 20  # connections before anything is counted: what they allocate stays


def most() -> int:
    """How many tunnels the descriptor limit allows, two descriptors each; the soft limit is raised to the hard one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return (hard - _SPARE) // 2


def opened(proxy: Running, steps: Iterable[int]) -> Iterator[int]:
    """Open tunnels until there are as many as each step says; the step, once they are there.

    One small request passes in each. They are closed at the end of the iteration.
    """
    client = proxy.client

    def job(count: int) -> Callable[[Gate], None]:
        def run(gate: Gate) -> None:
            gate.wait()
            tunnels = []
            for _ in range(count):
                tunnels.append(client.open(warm_name(0)))
                client.ask(tunnels[-1], warm_name(0))
            gate.hold(len(tunnels))

        return run

    there = 0
    with ExitStack() as held:
        for step in steps:
            share, rest = divmod(step - there, _WORKERS)
            crew = Crew(proxy.where, [job(share + (number < rest)) for number in range(_WORKERS)])
            held.enter_context(crew).go()
            there = step
            yield step


def idle(proxy: Running, plan: Plan) -> Figures:
    """What a tunnel holds after one small request, and what many of them cost while nothing passes."""
    found: Figures = {}
    for _ in range(_FIRST):
        proxy.client.exchange(warm_name(0))
    before = proxy.rss()
    few, many = plan.tunnels
    for count in opened(proxy, plan.tunnels):
        found["idle_few" if count == few else "idle"] = Figure((proxy.rss() - before) / count)
        if count == many:
            found["idle_cpu"] = Figure(idle_cpu(proxy, plan.idle_seconds))
    return found


def idle_cpu(proxy: Running, seconds: float) -> float:
    """Milliseconds of CPU a second that the proxy uses when left alone."""
    before = proxy.cpu()
    time.sleep(seconds)
    return (proxy.cpu() - before) / seconds * 1000
