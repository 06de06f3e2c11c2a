"""``Plan``: how much of everything a run does. Every load is bounded by a count or by seconds."""

from dataclasses import dataclass

from bench.origin import ZONE


@dataclass(frozen=True, slots=True)
class Plan:
    """Seconds are of load; counts are of connections or names."""

    rounds: int = 3
    clients: int = 8  # that connect at once, in a closed loop, for the rows of CPU
    warm_seconds: float = 4.0
    small_seconds: float = 3.0
    bulk_seconds: float = 3.0
    bulk_start: int = 8 << 20  # octets of the first download, doubled until one takes half a second
    latencies: int = 1000  # warm connections, one at a time,
    latency_seconds: float = 5.0  # or as many as there are in this time
    new_names: int = 100  # for CPU, from all clients
    new_latencies: int = 100  # one at a time
    crowd: int = 100  # clients at once on one new name
    tunnels: tuple[int, ...] = (500, 5000)  # idle ones
    idle_seconds: float = 5.0  # for which their CPU is looked at
    floor_scale: float = 1.0
    # growth
    memory_names: tuple[int, ...] = (10, 100, 1000, 10_000, 100_000)
    store_names: tuple[int, ...] = (10, 1000, 10_000, 100_000, 1_000_000)
    tunnel_steps: tuple[int, ...] = (10, 100, 500, 1000, 2000, 3000, 4000, 5000)
    shared_steps: tuple[int, ...] = (1000, 2000, 5000, 8000, 10_000)  # over two workers
    shared_clients: tuple[int, ...] = (8, 16, 32, 64)  # that connect at once to all of a way of sharing a port
    row: int = 200_000  # connections in a row
    row_step: int = 10_000
    # mixed load
    mixed_seconds: float = 10.0
    flood_rate: int = 1000  # new names a second
    # what looking costs
    ways: int = 100  # of looking, at most

    @property
    def own_names(self) -> list[str]:
        """The names for which the origin has a certificate each, so that proxies that copy it make a new one too."""
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
    """A name that is asked for again and again."""
    return f"warm{number}.{ZONE}"


def new_name(number: int) -> str:
    """A name that is asked for once a start."""
    return f"new{number}.{ZONE}"


def crowd_name() -> str:
    """The new name that many ask for at once."""
    return f"crowd.{ZONE}"
