"""Idle tunnels: their memory, and what they cost while nothing passes."""

import resource
import select
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack

from bench.crew import Crew, Gate
from bench.figures import Figure, Figures
from bench.plan import Plan, warm_name
from bench.running import Running

_SPARE = 300  # descriptors for all else
_WORKERS = 16  # that open tunnels: some proxies let each wait
_FIRST = 20  # connections before anything is counted: what they allocate stays


def most() -> int:
    """How many tunnels the descriptor limit allows, two descriptors each; the soft limit is raised to the hard one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return (hard - _SPARE) // 2


def opened(proxy: Running, steps: Iterable[int]) -> Iterator[tuple[int, Callable[[], int]]]:
    """Open tunnels until there are as many as each step says, and let one small request pass in each.

    Yields the step, and what tells how many of them the proxy has not closed. The end of the iteration closes them.
    """
    client = proxy.client

    def job(count: int) -> Callable[[Gate], int]:
        def run(gate: Gate) -> int:
            gate.wait()
            tunnels = []
            watch = select.poll()
            for _ in range(count):
                tunnels.append(client.open(warm_name(0)))
                client.ask(tunnels[-1], warm_name(0))
                watch.register(tunnels[-1], select.POLLRDHUP)
            gate.hold(lambda: count - len(watch.poll(0)))

        return run

    there = 0
    crews: list[Crew[int]] = []
    with ExitStack() as held:
        for step in steps:
            share, rest = divmod(step - there, _WORKERS)
            crew = Crew(proxy.where, [job(share + (number < rest)) for number in range(_WORKERS)])
            crews.append(held.enter_context(crew))
            crew.go()
            there = step
            yield step, lambda: sum(sum(crew.go()) for crew in crews)


def idle(proxy: Running, plan: Plan) -> Figures:
    """What a tunnel holds after one small request, and what many of them cost while nothing passes.

    There is no figure where the proxy did not keep them: some close what is idle for ten seconds.
    """
    found: Figures = {}
    for _ in range(_FIRST):
        proxy.client.exchange(warm_name(0))
    before = proxy.rss()
    few, many = plan.tunnels
    for count, kept in opened(proxy, plan.tunnels):
        memory = Figure((proxy.rss() - before) / count)
        cpu = Figure(idle_cpu(proxy, plan.idle_seconds)) if count == many else None
        if kept() < count:
            break
        found["idle_few" if count == few else "idle"] = memory
        if cpu is not None:
            found["idle_cpu"] = cpu
    return found


def idle_cpu(proxy: Running, seconds: float) -> float:
    """Milliseconds of CPU a second that the proxy uses when left alone."""
    before = proxy.cpu()
    time.sleep(seconds)
    return (proxy.cpu() - before) / seconds * 1000
