"""Latency of warm connections under mixed load: beside a flood of new names, and beside one download at full speed.

Each round starts a proxy and measures first without, then with the other load.
"""

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from bench.crew import Crew, Gate, Job
from bench.flood import flood as run_flood
from bench.lab import Lab, connections
from bench.peers.certifier import Certifier
from bench.plan import warm_name
from bench.rows import quantile, repeat, timed
from bench.running import Running

_LEAD = 1.0  # seconds that the other load runs alone before anything is measured
_BEHIND = 15  # niceness of the other load: where both share a core, only the proxy is to delay the measured one
_BULK = 1 << 40  # octets: more than any run downloads


@dataclass(slots=True)
class Mixed:
    """Milliseconds, one value per round."""

    title: str
    quiet_p50: list[float] = field(default_factory=list)
    quiet_p99: list[float] = field(default_factory=list)
    loaded_p50: list[float] = field(default_factory=list)
    loaded_p99: list[float] = field(default_factory=list)
    load_busy: list[float] = field(default_factory=list)  # share of the time in which the load's cores were busy
    facts: list[str] = field(default_factory=list)  # what the other load did, one line per round

    @property
    def times(self) -> float:
        """Ratio of the loaded p99 to the quiet one."""
        return median(self.loaded_p99) / median(self.quiet_p99)


def flood(peer: Certifier, lab: Lab) -> Mixed:
    """Beside a flood of new names."""
    plan = lab.plan

    def job(proxy: Running) -> Job[Any]:
        def run(gate: Gate) -> dict[str, int]:
            gate.wait()
            os.nice(_BEHIND)
            return asdict(run_flood(proxy.client, plan.flood_rate, _LEAD + plan.mixed_seconds, "flood"))

        return run

    return _mixed(peer, lab, f"beside a flood of {plan.flood_rate:,} new names a second", job)


def bulk(peer: Certifier, lab: Lab) -> Mixed:
    """Beside one download at full speed."""
    seconds = _LEAD + lab.plan.mixed_seconds

    def job(proxy: Running) -> Job[Any]:
        def run(gate: Gate) -> dict[str, int]:
            gate.wait()
            os.nice(_BEHIND)
            octets = proxy.client.download(warm_name(1), _BULK, seconds)
            return {"MB a second": round(octets / seconds / 1e6)}

        return run

    return _mixed(peer, lab, "beside one download at full speed", job)


def _mixed(peer: Certifier, lab: Lab, title: str, other: Callable[[Running], Job[Any]]) -> Mixed:
    found = Mixed(title)
    for _ in range(lab.plan.rounds):
        with lab.start(peer) as proxy:
            connections(proxy, 50, 1, lambda _: warm_name(0))
            quiet = _latencies(proxy, 0.0, lab.plan.mixed_seconds)
            found.quiet_p50.append(quantile(quiet, 0.5))
            found.quiet_p99.append(quantile(quiet, 0.99))
            with Crew(lab.where, [other(proxy)]) as crew:
                crew.begin()
                with proxy.window(settled=False) as window:
                    loaded = _latencies(proxy, _LEAD, lab.plan.mixed_seconds)
                facts = crew.results()[0]
            found.loaded_p50.append(quantile(loaded, 0.5))
            found.loaded_p99.append(quantile(loaded, 0.99))
            found.load_busy.append(window.load_busy)
            found.facts.append(", ".join(f"{key} {value:,}" for key, value in facts.items()))
    return found


def _latencies(proxy: Running, lead: float, seconds: float) -> list[float]:
    """Latencies in milliseconds of warm connections, one at a time, after ``lead`` seconds that do not count."""

    def run(gate: Gate) -> list[float]:
        gate.wait()
        found: list[float] = []
        if lead:
            repeat(lambda: timed(proxy.client, warm_name(0)), lead)
        repeat(lambda: found.append(timed(proxy.client, warm_name(0)) * 1000), seconds * 0.9)
        return found

    with Crew(proxy.where, [run]) as crew:
        return crew.go()[0]
