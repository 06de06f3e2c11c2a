"""``Admission``: counts connections, in all and per client. ``Turnstile``: limits the rate of new names.

No sockets: a client is its address as text. Everything runs on the hub, so counting needs no lock.
"""

import time
from collections.abc import Callable

import gevent

from errors import CertifierError, TooManyConnections, TooManyNames, TooManyOfClient
from limits import Limits
from lru import LRU

QUEUE_SECONDS = 5.0  # how long a connection may wait for its turn: a browser shows that as a slow page, not as an error
_BURST_SECONDS = 4.0  # worth of an unused rate that may be used at once: a page asks for dozens of new names together
TOLD_OF_CLIENT = 100  # refused connections per client, at a time, that are told why: half of the room for all
_CLIENTS = 10_000  # clients whose rate is remembered


class Admission:
    """Counts connections. Those beyond a limit, let in only to be refused or shown a page, are counted apart."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._admitted = 0
        self._clients: dict[str, int] = {}  # how many connections of each are admitted
        self._refused: dict[str, int] = {}  # how many of each are refused and still open

    @property
    def count(self) -> int:
        """How many are open, refused ones among them."""
        return self._admitted + sum(self._refused.values())

    @property
    def most(self) -> int:
        """How many may be admitted in all."""
        return self._limits.connections

    def enter(self, client: str) -> CertifierError | None:
        """Count a connection, which must ``leave`` later. Return why it is refused; None if it is admitted."""
        own = self._clients.get(client, 0)
        refusal: CertifierError
        if self._admitted >= self._limits.connections:
            refusal = TooManyConnections(
                f"all connections are in use: {self._limits.connections} (--max-connections, ulimit -n)"
            )
        elif own >= self._limits.client_connections:
            refusal = TooManyOfClient(
                f"{client} uses all the connections that it may have: {self._limits.client_connections}"
                " (--max-client-connections)"
            )
        else:
            self._admitted += 1
            self._clients[client] = own + 1
            return None
        self._refused[client] = self._refused.get(client, 0) + 1
        return refusal

    def hears(self, client: str) -> bool:
        """Whether the client's latest connection, which is refused, gets a reply: only some per client at a time."""
        return self._refused[client] <= TOLD_OF_CLIENT

    def leave(self, client: str, refused: bool = False) -> None:
        """Stop counting a connection, which has ended."""
        if not refused:
            self._admitted -= 1
        counted = self._refused if refused else self._clients
        counted[client] -= 1
        if not counted[client]:
            del counted[client]


class Turnstile:
    """Limits the rate of new names, per client and in all: those in excess wait for some seconds, or are refused.

    Each rate is a generic cell rate algorithm (ITU-T I.371), whose only state is the time at which the next is due.
    """

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._all = 0.0
        self._clients: LRU[str, float] = LRU(_CLIENTS)

    def at_once(self, client: str) -> bool:
        """Pass if that needs no wait. Return whether it did."""
        return self._take(client, wait=0.0) is not None

    def wait(self, client: str) -> None:
        """Pass, after a wait if necessary. Raises ``TooManyNames`` if that would be too long."""
        delay = self._take(client, wait=QUEUE_SECONDS)
        if delay is None:
            raise self.refusal(client)
        gevent.sleep(delay)

    def crowded(self, client: str) -> bool:
        """Whether a pass would need a wait."""
        return self._due(client) > self._clock()

    def is_full(self, client: str) -> bool:
        """Whether a pass would need a wait of more than ``QUEUE_SECONDS``."""
        return self._due(client) > self._clock() + QUEUE_SECONDS

    def refusal(self, client: str) -> TooManyNames:
        """The error for a client that would have to wait for so long: whose rate it is, and its option."""
        if (self._clients.peek(client) or 0.0) > self._all:
            return TooManyNames(f"{client} asks for too many new names a second (--client-new-names)")
        return TooManyNames("all clients together ask for too many new names a second (--new-names)")

    def _due(self, client: str) -> float:
        """When the client's next pass is due, by the clock."""
        return max(self._clients.peek(client) or 0.0, self._all)

    def give_back(self, client: str) -> None:
        """Return a pass that was not needed."""
        self._all -= 1 / self._limits.new_names
        due = self._clients.peek(client)
        if due is not None:
            self._clients.replace(client, due - 1 / self._limits.client_new_names)

    def _take(self, client: str, wait: float) -> float | None:
        """Take a pass and return its delay; None, and nothing is taken, if it is longer than ``wait``."""
        now = self._clock()
        own = max(self._clients.get(client) or 0.0, now - _BURST_SECONDS)
        common = max(self._all, now - _BURST_SECONDS)
        delay = max(own, common) - now
        if delay > wait:
            return None
        self._all = common + 1 / self._limits.new_names
        self._clients.put(client, own + 1 / self._limits.client_new_names)
        return max(0.0, delay)
