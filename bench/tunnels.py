"""Idle tunnels: their memory, and their CPU while nothing passes."""

import resource
import select
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack

from bench.crew import Crew, Gate
from bench.figures import Figure, Figures
from bench.plan import Plan, warm_name
from bench.running import Running

_SPARE = 300  # file descriptors for everything else
_WORKERS = 16  # that open tunnels in parallel: some proxies make each new connection wait
_FIRST = 20  # connections before anything is measured: what they allocate stays


def most() -> int:
    """How many tunnels the descriptor limit allows, at two each; raises the soft limit to the hard one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return (hard - _SPARE) // 2


def opened(proxy: Running, steps: Iterable[int]) -> Iterator[tuple[int, Callable[[], int]]]:
    """Open tunnels up to the number of each step, and make one small request in each.

    Yields the step, and a function that counts those the proxy has not closed. The end of the iteration closes them.
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
    """The memory of a tunnel after one small request, and the CPU of many while nothing passes.

    There are no figures if the proxy has closed any of them: some close connections idle for ten seconds.
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
    """Milliseconds of CPU per second that the proxy uses when left alone."""
    before = proxy.cpu()
    time.sleep(seconds)
    return (proxy.cpu() - before) / seconds * 1000
