"""``Plan``: how much of everything a run does. Every load is bounded by a count or by seconds."""

from dataclasses import dataclass

from bench.origin import ZONE


@dataclass(frozen=True, slots=True)
class Plan:
    """Seconds are durations of load; counts are of connections or names."""

    rounds: int = 3
    clients: int = 8  # concurrent clients, in a closed loop, for the CPU rows
    warm_seconds: float = 4.0
    small_seconds: float = 3.0
    bulk_seconds: float = 3.0
    bulk_start: int = 8 << 20  # octets of the first download, doubled until one takes half a second
    latencies: int = 1000  # warm connections, one at a time,
    latency_seconds: float = 5.0  # or as many as fit in this time
    new_names: int = 100  # for CPU, by all clients together
    new_latencies: int = 100  # one at a time
    crowd: int = 100  # clients that connect to one new name at once
    tunnels: tuple[int, ...] = (500, 5000)  # idle ones
    idle_seconds: float = 5.0  # during which their CPU is measured
    floor_scale: float = 1.0
    # growth
    memory_names: tuple[int, ...] = (10, 100, 1000, 10_000, 100_000)
    store_names: tuple[int, ...] = (10, 1000, 10_000, 100_000, 1_000_000)
    tunnel_steps: tuple[int, ...] = (10, 100, 500, 1000, 2000, 3000, 4000, 5000)
    shared_steps: tuple[int, ...] = (1000, 2000, 5000, 8000, 10_000)  # over two workers
    shared_clients: tuple[int, ...] = (8, 16, 32, 64)  # concurrent clients, for each way of sharing a port
    row: int = 200_000  # successive connections
    row_step: int = 10_000
    # mixed load
    mixed_seconds: float = 10.0
    flood_rate: int = 1000  # new names per second
    # the cost of observing the traffic
    ways: int = 100  # of observing, at most

    @property
    def own_names(self) -> list[str]:
        """Names with an origin certificate each, so that proxies that copy certificates must make new ones too."""
        return [crowd_name(), *(new_name(number) for number in range(self.new_names + self.new_latencies))]


QUICK = Plan(
    rounds=1,
    clients=4,
    warm_seconds=0.5,
    small_seconds=0.3,
    bulk_seconds=0.3,
    latencies=50,
    new_names=20,
    new_latencies=10,
    crowd=20,
    tunnels=(20, 100),
    idle_seconds=1.0,
    floor_scale=0.1,
    memory_names=(10, 100, 300),
    store_names=(10, 1000),
    tunnel_steps=(10, 50, 100),
    shared_steps=(50, 100),
    shared_clients=(4, 8),
    row=500,
    row_step=100,
    mixed_seconds=1.0,
    flood_rate=100,
    ways=3,
)


def warm_name(number: int) -> str:
    """A name that is requested repeatedly."""
    return f"warm{number}.{ZONE}"


def new_name(number: int) -> str:
    """A name that is requested once per start of a proxy."""
    return f"new{number}.{ZONE}"


def crowd_name() -> str:
    """The new name that many clients request at once."""
    return f"crowd.{ZONE}"
