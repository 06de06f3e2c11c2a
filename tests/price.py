"""What observing costs: microseconds of CPU (``python tests/price.py``), best of five."""

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from test_board import snapshot_of
from test_http2 import Pair
from watching import CLIENT, Conversation

import har
import linefile
import metrics
import requestlog
from board import Board
from exchange import Connection, Exchange
from packets import Flow
from record import Record
from recorder import Capture, Malformed, Observer
from snapshot import Cursor, Snapshot
from watcher import Watcher

REQUEST = (
    b"GET /api/v1/items?page=2&size=50 HTTP/1.1\r\nHost: www.example.com\r\n"
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n"
    b"Accept: application/json, text/plain, */*\r\nAccept-Language: en-US,en;q=0.5\r\n"
    b"Accept-Encoding: gzip, deflate, br, zstd\r\nCookie: session=0123456789abcdef0123456789abcdef; theme=dark\r\n"
    b"Referer: https://www.example.com/\r\nConnection: keep-alive\r\n\r\n"
)
BODY = b'{"a":1}' * 20
RESPONSE = (
    b"HTTP/1.1 200 OK\r\nDate: Tue, 24 Nov 2026 05:12:43 GMT\r\nServer: nginx/1.27.0\r\n"
    b"Content-Type: application/json; charset=utf-8\r\nContent-Length: %d\r\nConnection: keep-alive\r\n"
    b'Cache-Control: no-cache, private\r\nETag: "5f3e-abc"\r\nVary: Accept-Encoding\r\n\r\n'
) % len(BODY) + BODY


class Then(Observer):
    """Calls ``do`` with each exchange that has ended."""

    def __init__(self, do: Callable[[Exchange], object]) -> None:
        self._do = do

    def ended(self, exchange: Exchange) -> None:
        self._do(exchange)

    def noted(self, connection: Connection, what: str, malformed: Malformed | None) -> None:
        raise AssertionError(what)


def microseconds(work: Callable[[], object], count: int) -> float:
    best = float("inf")
    for _ in range(5):
        began = time.process_time()
        for _ in range(count):
            work()
        best = min(best, (time.process_time() - began) / count)
    return best * 1e6


def http1(observer: Observer, capture: Capture | None = None) -> float:
    watcher = Watcher(Connection("127.0.0.1:50818", "192.0.2.1:443", "https", "a"), observer, "http/1.1", capture)

    def one() -> None:
        watcher.sent(REQUEST)
        watcher.received(RESPONSE)

    return microseconds(one, 3000)


def http2(observer: Observer) -> float:
    def fields(head: bytes) -> list[tuple[str, str]]:
        pairs = [line.split(": ", 1) for line in head.partition(b"\r\n\r\n")[0].decode().split("\r\n")[1:]]
        return [(name.lower(), value) for name, value in pairs if name not in ("Host", "Connection")]

    pair = Pair()
    ask = [(":method", "GET"), (":scheme", "https"), (":authority", "www.example.com")]
    for n in range(300):
        stream = pair.ask([*ask, (":path", f"/api/v1/items?page={n}"), *fields(REQUEST)])
        pair.answer(stream, [(":status", "200"), *fields(RESPONSE)], BODY)
    return microseconds(lambda: _play(pair.said, observer), 5) / 300


def _play(said: Conversation, observer: Observer) -> None:
    watcher = Watcher(Connection("127.0.0.1:50818", "192.0.2.1:443", "https", "a"), observer, "h2")
    for who, data in said:
        (watcher.sent if who == CLIENT else watcher.received)(data)


def tunnel(board: Board, refused: str | None = None) -> None:
    """All the counting that is done for a tunnel."""
    record = Record("127.0.0.1:50818", target="www.example.com:443", sni="www.example.com", context="memory")
    board.connected()
    number = board.opened(record)
    board.retrieved("memory")
    board.dialled(0.012)
    record.sent, record.received, record.outcome, record.refused = 1234, 56789, "closed", refused
    board.closed(number)


def board_prices() -> None:
    board = Board()
    print(f"a tunnel counted: {microseconds(lambda: tunnel(board), 3000):.1f}")
    bare = microseconds(lambda: Record("127.0.0.1:50818", target="www.example.com:443", sni="www.example.com"), 3000)
    print(f"of that, its record, which the log needs anyway: {bare:.1f}")
    print(f"HTTP/1.1 for the page: {http1(board):.1f}")
    whole = {"ca_ends": 0.0, "version": "1"}

    def taken(since: Cursor) -> Snapshot:
        snapshot = snapshot_of(board, since)
        snapshot["facts"] = whole
        return snapshot

    print(f"/metrics: {microseconds(lambda: metrics.expose(taken(Cursor()), True, ''), 50):.0f}")
    seen = Cursor.of(taken(Cursor()))
    for number in (0, 1000, 10_000):
        while len(board.under_way()) < min(number, 100) or board.tunnels < number:
            board.opened(Record("127.0.0.1:50818", target="www.example.com:443"))
        told = microseconds(lambda: json.dumps(taken(seen)), 20)
        print(f"a tick with {number} tunnels open, for each who looks: {told:.0f}")
    print(f"the whole state: {microseconds(lambda: json.dumps(taken(Cursor())), 5):.0f}")


def main() -> None:
    board_prices()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = linefile.LineFile(folder / "log")
        nothing = Then(lambda _: None)
        print(f"HTTP/1.1 decoded: {http1(nothing):.1f}")
        for form, formatted in requestlog.FORMATS.items():
            print(f"HTTP/1.1 logged as {form}: {http1(Then(lambda e, f=formatted: file.write(f(e)))):.1f}")  # type: ignore[misc]
        print(f"HTTP/2 decoded: {http2(nothing):.1f}")
        print(f"HTTP/2 logged as text: {http2(Then(lambda e: file.write(requestlog.text(e)))):.1f}")
        with_har = har.HarFile(folder / "a.har", "1.0", 1 << 20)
        print(f"HTTP/1.1 in a HAR file, one by one: {http1(Then(with_har.append), Capture(1 << 20)):.1f}")
        flow = Flow("127.0.0.1:50818", "192.0.2.1:443")
        print(f"as pcapng: {microseconds(lambda: flow.sent(REQUEST) + flow.received(RESPONSE), 3000):.1f}")
        piece = bytes(16_384)
        print(f"16 KiB as pcapng: {microseconds(lambda: flow.received(piece), 1000):.1f}")
        watcher = Watcher(Connection("127.0.0.1:50818", "192.0.2.1:443", "https", "a"), nothing)
        watcher.sent(REQUEST)
        watcher.received(b"HTTP/1.1 200 OK\r\nContent-Length: 999999999999\r\n\r\n")
        print(f"16 KiB of a body: {microseconds(lambda: watcher.received(piece), 3000):.2f}")


if __name__ == "__main__":
    main()
