"""The rows of the table: what is measured of one proxy in one round, and how.

Three starts per round: one for memory, which earlier work would distort, and two for new names, each with no more of
them than certifier allows in a burst (four seconds of its rate): beyond that, a limit would be measured, not a cost.
"""

import hashlib
import math
import threading
import time
from collections.abc import Callable

from bench.client import Client
from bench.cores import Cores
from bench.crew import Crew, Gate
from bench.figures import Figure, Figures, figure
from bench.lab import Lab
from bench.peers import Peer
from bench.plan import Plan, crowd_name, new_name, warm_name
from bench.running import Running
from bench.tunnels import idle

_ALONE = 0.95  # share of the CPU from which on a process counts as the only one


def measure(peer: Peer, lab: Lab) -> Figures:
    """Measure one round of one proxy."""
    plan = lab.plan
    found: Figures = {}
    with lab.start(peer) as proxy:
        found |= idle(proxy, plan)
    with lab.start(peer) as proxy:
        found["startup"] = Figure(proxy.startup * 1000)
        found["rss"] = Figure(proxy.rss_at_start / 1024)
        found |= warm(proxy, plan)
        found |= latencies(proxy, "warm", [warm_name(0)] * plan.latencies, plan.latency_seconds)
        found |= small(proxy, plan)
        found |= bulk(proxy, plan)
        found |= new(proxy, plan)
    with lab.start(peer) as proxy:
        names = [new_name(number) for number in range(plan.new_names, plan.new_names + plan.new_latencies)]
        found |= latencies(proxy, "new", names)
        found |= crowd(proxy, plan)
    return found


def warm(proxy: Running, plan: Plan) -> Figures:
    """CPU of a complete connection for a name in memory: tunnel, both handshakes, a small request, an orderly close."""
    with warm_crew([proxy.client], proxy.where, plan) as crew, proxy.window() as window:
        count = sum(crew.go())
    found = {"warm": figure(window, window.cpu / count * 1000)}
    if window.busiest < _ALONE:
        found["warm_busiest"] = Figure(window.busiest * 100)
    return found


def warm_crew(clients: list[Client], where: Cores, plan: Plan) -> Crew[int]:
    """A crew that makes such connections and counts them; the workers take the clients in turn."""

    def job(client: Client, name: str) -> Callable[[Gate], int]:
        def run(gate: Gate) -> int:
            for _ in range(5):
                client.exchange(name)
            gate.wait()
            return repeat(lambda: client.exchange(name), plan.warm_seconds)

        return run

    return Crew(where, [job(clients[number % len(clients)], warm_name(number)) for number in range(plan.clients)])


def latencies(proxy: Running, key: str, names: list[str], seconds: float = math.inf) -> Figures:
    """Latency from connect() to the reply's last octet, one connection at a time, for at most ``seconds``."""
    client = proxy.client

    def run(gate: Gate) -> list[float]:
        gate.wait()
        end = time.monotonic() + seconds
        return [timed(client, name) for name in names if time.monotonic() < end]

    with Crew(proxy.where, [run]) as crew:
        found = crew.go()[0]
    wanted = {"p50": 0.5, "p90": 0.9, "p99": 0.99} if key == "warm" else {"p50": 0.5, "p99": 0.99}
    return {f"{key}_{word}": Figure(quantile(found, share) * 1000) for word, share in wanted.items()}


def timed(client: Client, name: str) -> float:
    """Seconds from connect() to the reply's last octet; the connection is then closed."""
    began = time.monotonic()
    with client.open(name) as secure:
        client.ask(secure, name)
        took = time.monotonic() - began
        client.leave(secure)
    return took


def quantile(values: list[float], share: float) -> float:
    """The smallest of the values that at least this share of them does not exceed."""
    return sorted(values)[max(0, math.ceil(len(values) * share) - 1)]


def small(proxy: Running, plan: Plan) -> Figures:
    """CPU of a request of about a hundred octets and its reply, on tunnels kept open."""
    client = proxy.client

    def job(name: str) -> Callable[[Gate], int]:
        def run(gate: Gate) -> int:
            with client.open(name) as secure:
                client.ask(secure, name)
                gate.wait()
                return repeat(lambda: client.ask(secure, name), plan.small_seconds)

        return run

    with (
        Crew(proxy.where, [job(warm_name(number)) for number in range(plan.clients)]) as crew,
        proxy.window() as window,
    ):
        count = sum(crew.go())
    return {"small": figure(window, window.cpu / count * 1_000_000)}


def bulk(proxy: Running, plan: Plan) -> Figures:
    """CPU of downloads, one tunnel at a time, each long enough that its handshakes are negligible."""
    client, name = proxy.client, warm_name(0)

    def run(gate: Gate) -> int:
        size, took = plan.bulk_start // 2, 0.0
        while took < 0.5:
            size *= 2
            began = time.monotonic()
            client.download(name, size)
            took = time.monotonic() - began
        gate.wait()
        return size * repeat(lambda: client.download(name, size), plan.bulk_seconds)

    with Crew(proxy.where, [run]) as crew, proxy.window() as window:
        octets = sum(crew.go())
    return {"bulk": figure(window, window.cpu / octets * 10**9)}


def new(proxy: Running, plan: Plan) -> Figures:
    """CPU of a complete connection, the first one for its name."""
    client = proxy.client
    share = plan.new_names // plan.clients

    def job(start: int) -> Callable[[Gate], None]:
        def run(gate: Gate) -> None:
            gate.wait()
            for number in range(start, start + share):
                client.exchange(new_name(number))

        return run

    with Crew(proxy.where, [job(number * share) for number in range(plan.clients)]) as crew, proxy.window() as window:
        crew.go()
    return {"new": figure(window, window.cpu / (share * plan.clients) * 1000)}


def crowd(proxy: Running, plan: Plan) -> Figures:
    """Many clients at once ask for one new name: the time until the last is served, and the number of certificates."""
    client = proxy.client

    def run(gate: Gate) -> tuple[float, int]:
        start = threading.Barrier(plan.crowd + 1)
        seen: list[bytes] = []

        def one() -> None:
            start.wait()
            with client.open(crowd_name()) as secure:
                client.ask(secure, crowd_name())
                seen.append(hashlib.sha256(secure.getpeercert(binary_form=True) or b"").digest())

        threads = [threading.Thread(target=one) for _ in range(plan.crowd)]
        for thread in threads:
            thread.start()
        gate.wait()
        began = time.monotonic()
        start.wait()
        for thread in threads:
            thread.join()
        took = time.monotonic() - began
        if len(seen) < plan.crowd:
            raise RuntimeError(f"{plan.crowd - len(seen)} of {plan.crowd} clients were not served")
        return took, len(set(seen))

    with Crew(proxy.where, [run]) as crew:
        took, certificates = crew.go()[0]
    return {"crowd": Figure(took * 1000), "crowd_certificates": Figure(certificates)}


def repeat(work: Callable[[], object], seconds: float) -> int:
    """Repeat ``work`` for that time, at least once; return how often."""
    end = time.monotonic() + seconds
    count = 0
    while count == 0 or time.monotonic() < end:
        work()
        count += 1
    return count
