"""A tunnel before a witness: others run while it looks, and nothing of what passes is lost or changed."""

import socket
import time

import gevent
import pytest
from lab import WAIT
from test_policy import policy
from watching import Seen

from board import Board
from exchange import Exchange
from meter import Meter
from observed import ObservedTunnel
from record import Record
from sight import Sight
from streams import PlainStream
from taps import Taps

GET = b"GET /%04d HTTP/1.1\r\nHost: a.example\r\nA: " + b"a" * 900 + b"\r\n\r\n"
OK = b"HTTP/1.1 204 No Content\r\n\r\n"


class Slow(Seen):
    """Takes a moment of CPU for each request."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds

    def request(self, exchange: Exchange) -> None:
        super().request(exchange)
        until = time.monotonic() + self._seconds
        while time.monotonic() < until:
            pass


@pytest.mark.parametrize(("seconds", "least", "most"), [(0.002, 60, 100), (0.0, 0, 10)])
def test_others_run_while_many_small_requests_are_looked_at(seconds: float, least: int, most: int) -> None:
    """And where that takes no time, nobody gives way for it."""
    seen = Slow(seconds)
    sight = Sight(policy(), [seen], Taps([]), None, None, Board())
    record = Record("127.0.0.1:1", target="a.example:443")
    (client, client_end), (origin, origin_end) = socket.socketpair(), socket.socketpair()
    with client, client_end, origin, origin_end, gevent.Timeout(WAIT):
        witness = sight.witness(record, "a.example", "127.0.0.1:2", "http/1.1")
        asked = b"".join(GET % number for number in range(99))
        client_end.sendall(asked)
        client_end.shutdown(socket.SHUT_WR)
        met = set()  # how many requests had been looked at when somebody else ran

        def count() -> None:
            while True:
                gevent.sleep(0)
                met.add(len(seen.begun))

        counting = gevent.spawn(count)
        tunnel = ObservedTunnel(PlainStream(client), PlainStream(origin), witness, 60.0, Meter())
        running = gevent.spawn(tunnel.run)
        got = b""
        while len(got) < len(asked):
            got += origin_end.recv(65_536)
        counting.kill()
        origin_end.sendall(OK * 99)
        origin_end.shutdown(socket.SHUT_WR)
        running.get()
    assert (got, tunnel.outcome, tunnel.sent, tunnel.received) == (asked, "closed", len(asked), 99 * len(OK))
    assert [exchange.target for exchange in seen.done] == [f"/{number:04}" for number in range(99)]
    assert least <= len(met) <= most
