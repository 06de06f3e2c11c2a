"""The floor: what the cryptography alone costs, done in memory with the ``ssl`` and ``cryptography`` of this Python.

An intercepting proxy is the server of one TLS connection and the client of another. Each floor is the cost of these two
ends alone, made, used and freed: what the client's and the origin's ends do in the same loop is not counted. No
sockets, no relay, no waiting. TLS 1.3, P-256 leaves, the origin's chain and name verified strictly (RFC 5280), one
ticket sent.

What cores compute in a second depends on each other: two of them may be threads of one processor core, with its caches
between them. While a proxy is measured, the load's cores work; so they do for the floor that proxies are compared with.
"""

import os
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import NoReturn

from bench import accounting, pki
from bench.cores import Cores
from bench.crew import Crew, Gate
from bench.origin import ZONE

_NAME = f"floor.{ZONE}"
_RECORD = 16_384  # octets of plaintext in a full record
_BATCH = 16  # records between two readings of the clock: a quarter of a megabyte, as a relay moves them
_SMALL = (110, 150)  # octets in the benchmark's small request and in its reply
GB = 10**9


@dataclass(frozen=True, slots=True)
class Floor:
    """Each field in the unit of the row of the same name."""

    warm: float  # ms: both handshakes
    new: float  # ms: both handshakes, a key, a signed leaf, its context (loaded from a temporary file)
    bulk: float  # s: decrypt and encrypt a GB
    small: float  # µs: decrypt and encrypt a request and its reply
    idle: float  # KiB: both ends after their handshakes


def measure(where: Cores, scale: float = 1.0) -> Floor:
    """Measure all floors on the proxy's core, in a separate process, while each of the load's cores does handshakes.

    ``scale`` below 1: a shorter, rougher run.
    """
    with Crew(where, [] if where.shared else [_keep_busy] * len(where.load)) as load:
        load.begin()
        return measure_alone(where, scale)


def measure_alone(where: Cores, scale: float = 1.0) -> Floor:
    """Measure the same while the load's cores idle, as they never do while a proxy is measured."""
    with Crew(Cores(where.proxy, where.proxy), [lambda gate: _measure(gate, scale)]) as crew:
        return crew.go()[0]


def _keep_busy(gate: Gate) -> NoReturn:
    server, client = _contexts(pki.authority("load"))
    gate.wait()
    while True:
        _handshakes(server, client, 100)


def _contexts(authority: pki.Authority) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Those of the proxy's two ends: a server's, and a client's that verifies."""
    client = ssl.create_default_context()  # with the system roots, as certifier verifies
    client.load_verify_locations(cadata=authority.pem.decode("ascii"))
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    return _server_context(authority), client


def _measure(gate: Gate, scale: float) -> Floor:
    authority = pki.authority("floor")
    server, client = _contexts(authority)
    gate.wait()
    handshakes = max(20, int(1000 * scale))
    _handshakes(server, client, handshakes // 10)
    warm = _handshakes(server, client, handshakes) / handshakes * 1000
    leaves = max(10, int(200 * scale))
    leaf = _cpu(lambda: [_server_context(authority) for _ in range(leaves)]) / leaves * 1000
    relay = Relay(server, client)
    bulk = relay.bulk(max(64, int(256 * scale))) * GB
    small = relay.small(max(100, int(20_000 * scale))) * 1_000_000
    return Floor(warm, warm + leaf, bulk, small, _idle(server, client, max(100, int(1000 * scale))))


class End:
    """One end of a TLS connection, and the CPU seconds it has used."""

    def __init__(self, context: ssl.SSLContext, server_hostname: str | None = None) -> None:
        self.cpu = 0.0
        began = time.thread_time()
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        server_side = server_hostname is None
        self.tls = context.wrap_bio(
            self.incoming, self.outgoing, server_side=server_side, server_hostname=server_hostname
        )
        self.cpu += time.thread_time() - began

    def step(self, received: bytes) -> tuple[bool, bytes]:
        """Continue the handshake with what the peer sent; return whether it is done, and what to send."""
        began = time.thread_time()
        self.incoming.write(received)
        try:
            self.tls.do_handshake()
            done = True
        except ssl.SSLWantReadError:
            done = False
        sent = self.outgoing.read()
        self.cpu += time.thread_time() - began
        return done, sent


def _connect(server: ssl.SSLContext, client: ssl.SSLContext) -> tuple[End, End]:
    """A connection after its handshake: the server and the client."""
    a, b = End(server), End(client, _NAME)
    done, flight = False, b""
    while not done:
        finished, flight = b.step(flight)
        done, flight = a.step(flight)
        done = done and finished
    b.incoming.write(flight)  # the ticket
    return a, b


def _handshakes(server: ssl.SSLContext, client: ssl.SSLContext, count: int) -> float:
    """CPU seconds that a proxy's two ends use for ``count`` connections.

    They are ends of two different connections, but the server and the client of one cost the same.
    """
    total = 0.0
    for _ in range(count):
        a, b = _connect(server, client)
        total += a.cpu + b.cpu
        began = time.thread_time()
        del a, b
        total += time.thread_time() - began
    return total


class Relay:
    """A client, the proxy's two ends, and an origin; measures the two in the middle."""

    def __init__(self, server: ssl.SSLContext, client: ssl.SSLContext) -> None:
        self._down, self._client = _connect(server, client)
        self._origin, self._up = _connect(server, client)
        self._plain = bytearray(_RECORD)
        self._up.tls.write(b"x")  # the first write and read are not measured; the read takes the ticket
        self._origin.incoming.write(self._up.outgoing.read())
        self._origin.tls.read(1)
        with suppress(ssl.SSLWantReadError):
            self._up.tls.read(1)

    def bulk(self, batches: int) -> float:
        """CPU seconds per octet from the origin to the client."""
        data = bytes(_RECORD)
        used = 0.0
        for _ in range(batches):
            for _ in range(_BATCH):
                self._origin.tls.write(data)
            used += self._move(self._origin, self._up, self._down, _BATCH)
        return used / (batches * _BATCH * _RECORD)

    def small(self, count: int) -> float:
        """CPU seconds per small request and its reply."""
        request, reply = map(bytes, _SMALL)
        used = 0.0
        for _ in range(count):
            self._client.tls.write(request)
            used += self._move(self._client, self._down, self._up, 1)
            self._origin.tls.write(reply)
            used += self._move(self._origin, self._up, self._down, 1)
        return used / count

    def _move(self, source: End, taken: End, given: End, records: int) -> float:
        flight = source.outgoing.read()
        plain = memoryview(self._plain)
        began = time.thread_time()
        taken.incoming.write(flight)
        for _ in range(records):
            count: int = taken.tls.read(_RECORD, self._plain)  # type: ignore[assignment]  # an int, when a buffer is given
            given.tls.write(plain[:count])
        given.outgoing.read()
        return time.thread_time() - began


def _idle(server: ssl.SSLContext, client: ssl.SSLContext, count: int) -> float:
    """KiB per connection that a proxy's two ends hold, without their peers."""
    held = []
    before = accounting.rss_kib(os.getpid())
    for _ in range(count):
        down, _ = _connect(server, client)
        _, up = _connect(server, client)
        held.append((down, up))
    return (accounting.rss_kib(os.getpid()) - before) / count


def _cpu(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def _server_context(authority: pki.Authority) -> ssl.SSLContext:
    """A context with a fresh key and a leaf for it."""
    key = pki.new_key()
    return pki.server_context(pki.leaf(authority, key, _NAME), key)
