"""How cost grows with names in memory, names in the store, open tunnels, and connections served. certifier only."""

import hashlib
import math
import os
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from bench import pki
from bench.client import Client
from bench.crew import Crew, Gate
from bench.lab import Lab, connections
from bench.origin import ZONE
from bench.peers.certifier import Certifier
from bench.plan import warm_name
from bench.rows import latencies, repeat
from bench.tunnels import idle_cpu, most, opened

_UNBOUNDED = ("--new-names=100000", "--client-new-names=100000")  # at the default rate, filling it would take an hour
_EVEN = 0.8  # share of all descriptors to use: tunnels are not spread over the workers exactly evenly
_KEPT = 2.5  # seconds: workers save their totals within two seconds after something was counted
_LINKS = 30_000  # hard links to one file: ext4 allows 65,000


@dataclass(slots=True)
class Curve:
    """Values in several columns as functions of x."""

    title: str
    x: str
    columns: list[str]
    points: list[list[float]] = field(default_factory=list)  # x, then one value per column

    def add(self, *point: float) -> None:
        """Add a point, and print it at once, since the next takes a while."""
        self.points.append([round(value, 3) for value in point])
        told = ", ".join(f"{column} {value:.3g}" for column, value in zip(self.columns, point[1:], strict=True))
        print(f"  {point[0]:>10,.0f} {self.x}: {told}", file=sys.stderr, flush=True)


def names(peer: Certifier, lab: Lab) -> Curve:
    """Names in memory: CPU of a warm connection to any of them, memory per name."""
    plan = lab.plan
    curve = Curve("Names in memory", "names", ["warm connection, CPU ms", "memory a name, KiB"])
    extra = (*peer.extra, *_UNBOUNDED)
    with lab.start(replace(peer, capacity=plan.memory_names[-1] + 100, extra=extra)) as proxy:
        connections(proxy, plan.clients * 10, plan.clients, lambda _: warm_name(0))
        before, there = proxy.rss(), 0
        for count in plan.memory_names:
            connections(proxy, count - there, plan.clients, lambda number, start=there: _name(start + number))  # type: ignore[misc]
            there = count
            rss = proxy.rss()
            job = _any_of(proxy.client, count, plan.warm_seconds)
            with Crew(lab.where, [job] * plan.clients) as crew, proxy.window() as window:
                done = sum(crew.go())
            curve.add(count, window.cpu / done * 1000, (rss - before) / count)
    return curve


def store(peer: Certifier, lab: Lab) -> Curve:
    """Names in the store: start-up time, and first connections to names that are not in it."""
    columns = ["new name, median ms", "new name, p99 ms", "start to first connection served, ms"]
    curve = Curve("Names in the store", "files", columns)
    folder = lab.folder / "stored"
    there = 0
    for step, count in enumerate(lab.plan.store_names):
        _fill(folder, there, count)
        there = count
        with lab.start(replace(peer, store=folder)) as proxy:
            asked = [f"first{step}-{number}.{ZONE}" for number in range(lab.plan.new_latencies)]
            found = latencies(proxy, "new", asked)
            curve.add(count, found["new_p50"].value, found["new_p99"].value, proxy.startup * 1000)
    return curve


def tunnels(peer: Certifier, lab: Lab) -> Curve:
    """Idle tunnels in one process: memory, CPU."""
    return _tunnels("Idle tunnels", peer, lab, [step for step in lab.plan.tunnel_steps if step <= most()])


def shared_tunnels(peer: Certifier, lab: Lab) -> Curve:
    """Idle tunnels over two workers: each has its own descriptors."""
    room = int(2 * most() * _EVEN)
    steps = sorted({min(step, room) for step in lab.plan.shared_steps})
    # Each worker enforces its share. The kernel assigns connections at random: six standard deviations are enough.
    bound = steps[-1] + 6 * math.sqrt(steps[-1])
    words = ("--workers=2", f"--max-connections={bound:.0f}", f"--max-client-connections={bound:.0f}")
    return _tunnels("Idle tunnels over two workers", replace(peer, extra=(*peer.extra, *words)), lab, steps, _KEPT)


def _tunnels(title: str, peer: Certifier, lab: Lab, steps: list[int], rest: float = 0.0) -> Curve:
    """``rest``: seconds to wait before the idle period begins."""
    plan = lab.plan
    curve = Curve(title, "tunnels", ["RSS, MiB", "memory a tunnel, KiB", "CPU a second, ms"])
    with lab.start(peer) as proxy:
        connections(proxy, plan.clients * 10, plan.clients, lambda _: warm_name(0))
        before = proxy.rss()
        for count, _ in opened(proxy, steps):
            rss = proxy.rss()
            time.sleep(rest)
            curve.add(count, rss / 1024, (rss - before) / count, idle_cpu(proxy, plan.idle_seconds))
    return curve


def row(peer: Certifier, lab: Lab) -> Curve:
    """Successive connections to a few names: memory."""
    plan = lab.plan
    curve = Curve("Connections in a row", "connections", ["RSS, MiB"])
    with lab.start(peer) as proxy:
        curve.add(0, proxy.rss() / 1024)
        for done in range(plan.row_step, plan.row + 1, plan.row_step):
            connections(proxy, plan.row_step, plan.clients, lambda number: warm_name(number % 8))
            curve.add(done, proxy.rss() / 1024)
    return curve


def _name(number: int) -> str:
    return f"grown{number}.{ZONE}"


def _any_of(client: Client, count: int, seconds: float) -> Callable[[Gate], int]:
    """A job that makes connections to names chosen at random, and returns how many."""

    def run(gate: Gate) -> int:
        choice = random.Random(os.getpid())
        gate.wait()
        return repeat(lambda: client.exchange(_name(choice.randrange(count))), seconds)

    return run


def _fill(store: Path, start: int, end: int) -> None:
    """Store certificates for unused names, in the layout of the README; most are hard links to one file."""
    authority, key = pki.authority("nobody"), pki.new_key()
    content = pki.leaf(authority, key, f"nobody.{ZONE}") + pki.key_pem(key)
    source = store
    for number in range(start, end):
        name = f"stored{number}.{ZONE}"
        folder = store / hashlib.md5(name.encode(), usedforsecurity=False).hexdigest()[:3]
        path = folder / f"{name}.crt"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if (number - start) % _LINKS == 0:
            source = path
            path.write_bytes(content)
            path.chmod(0o600)
        else:
            os.link(source, path)
