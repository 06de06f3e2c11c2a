"""``Admission``: how many connections there are, in all and of each client. ``Turnstile``: how many new names a second.

No sockets: a client is the text of its address. Everything runs on the hub, so counting needs no lock.
"""

import time
from collections.abc import Callable

import gevent

from errors import CertifierError, TooManyConnections, TooManyNames, TooManyOfClient
from limits import Limits
from lru import LRU

QUEUE_SECONDS = 5.0  # how long a connection may wait for its turn: a browser shows that as a slow page, not as an error
_BURST_SECONDS = 4.0  # of a rate that was not used may be used at once: a page asks for dozens of new names together
TOLD_OF_CLIENT = 100  # connections of one client past a limit that may wait to be told: half of the room for all such
_CLIENTS = 10_000  # whose rate is remembered


class Admission:
    """Counts connections. Those past a limit are let in to be told so, or shown a page, and take nobody's place."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._admitted = 0
        self._clients: dict[str, int] = {}  # how many of each were admitted
        self._refused: dict[str, int] = {}  # and how many were not, and are still here

    @property
    def count(self) -> int:
        """How many there are."""
        return self._admitted + sum(self._refused.values())

    @property
    def most(self) -> int:
        """How many there may be in all."""
        return self._limits.connections

    def enter(self, client: str) -> CertifierError | None:
        """Count a connection, which must ``leave``; why it may do nothing but be told, None if it may."""
        own = self._clients.get(client, 0)
        refusal: CertifierError
        if self._admitted >= self._limits.connections:
            refusal = TooManyConnections(f"there are {self._limits.connections} connections already")
        elif own >= self._limits.client_connections:
            refusal = TooManyOfClient(f"{client} has {self._limits.client_connections} connections already")
        else:
            self._admitted += 1
            self._clients[client] = own + 1
            return None
        self._refused[client] = self._refused.get(client, 0) + 1
        return refusal

    def hears(self, client: str) -> bool:
        """Whether the client's latest connection, which was refused, may be told so: only some of each at a time."""
        return self._refused[client] <= TOLD_OF_CLIENT

    def leave(self, client: str, refused: bool = False) -> None:
        """The connection ended."""
        if not refused:
            self._admitted -= 1
        counted = self._refused if refused else self._clients
        counted[client] -= 1
        if not counted[client]:
            del counted[client]


class Turnstile:
    """Lets new names pass at a rate, of one client and in all; who comes faster waits for some seconds, or is refused.

    Each rate is a generic cell rate algorithm (ITU-T I.371): the time at which the next one is due, one number.
    """

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._all = 0.0
        self._clients: LRU[str, float] = LRU(_CLIENTS)

    def at_once(self, client: str) -> bool:
        """Pass, if that needs no wait."""
        return self._take(client, wait=0.0) is not None

    def wait(self, client: str) -> None:
        """Pass, after a wait if need be. Raises ``TooManyNames`` when it would be too long."""
        delay = self._take(client, wait=QUEUE_SECONDS)
        if delay is None:
            raise self.refusal(client)
        gevent.sleep(delay)

    def crowded(self, client: str) -> bool:
        """Whether a pass would need a wait."""
        return self._due(client) > self._clock()

    def is_full(self, client: str) -> bool:
        """Whether a pass would need a longer wait than anybody has."""
        return self._due(client) > self._clock() + QUEUE_SECONDS

    @staticmethod
    def refusal(client: str) -> TooManyNames:
        """What is told to who would need that."""
        return TooManyNames(f"{client}, or all clients together, ask for too many new names a second")

    def _due(self, client: str) -> float:
        """When its next pass is, by the clock."""
        return max(self._clients.peek(client) or 0.0, self._all)

    def give_back(self, client: str) -> None:
        """A pass was not needed."""
        self._all -= 1 / self._limits.new_names
        due = self._clients.peek(client)
        if due is not None:
            self._clients.replace(client, due - 1 / self._limits.client_new_names)

    def _take(self, client: str, wait: float) -> float | None:
        """The delay of a pass; None, and nothing taken, when it is longer than ``wait``."""
        now = self._clock()
        own = max(self._clients.get(client) or 0.0, now - _BURST_SECONDS)
        common = max(self._all, now - _BURST_SECONDS)
        delay = max(own, common) - now
        if delay > wait:
            return None
        self._all = common + 1 / self._limits.new_names
        self._clients.put(client, own + 1 / self._limits.client_new_names)
        return max(0.0, delay)
