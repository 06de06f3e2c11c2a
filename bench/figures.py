"""The rows of the table and the figures in it."""

from dataclasses import dataclass

from bench.plan import Plan
from bench.running import Window


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table; less is better in each."""

    key: str
    title: str
    unit: str


@dataclass(frozen=True, slots=True)
class Figure:
    """A value in a row.

    ``load_limited``: the load side set the pace. ``foreign``: the share of the proxy's cores used by other processes.
    """

    value: float
    load_limited: bool = False
    foreign: float = 0.0


Figures = dict[str, Figure]


def figure(window: Window, value: float) -> Figure:
    """A value measured in a window."""
    return Figure(value, window.load_limited, window.foreign)


def rows(plan: Plan) -> list[Row]:
    """The lines of the table, in order."""
    few, many = plan.tunnels
    return [
        Row("warm", "warm connection, CPU", "ms"),
        Row("warm_busiest", "of that, the busiest of several processes", "%"),
        Row("new", "connection for a new name, CPU", "ms"),
        Row("bulk", "download, CPU a GB", "s"),
        Row("small", "small request on a kept tunnel, CPU", "µs"),
        Row("idle", f"idle tunnel, memory ({many:,} of them)", "KiB"),
        Row("idle_few", f"idle tunnel, memory ({few:,} of them)", "KiB"),
        Row("idle_cpu", f"CPU a second while {many:,} tunnels idle", "ms"),
        Row("warm_p50", "warm connection, one at a time: median", "ms"),
        Row("warm_p90", "warm connection, one at a time: p90", "ms"),
        Row("warm_p99", "warm connection, one at a time: p99", "ms"),
        Row("new_p50", "new name, one at a time: median", "ms"),
        Row("new_p99", "new name, one at a time: p99", "ms"),
        Row("crowd", f"{plan.crowd} clients at once on one new name: the last one served", "ms"),
        Row("crowd_certificates", "certificates that they got", ""),
        Row("startup", "start to first connection served", "ms"),
        Row("rss", "RSS after it", "MiB"),
    ]
