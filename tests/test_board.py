"""What is counted, sampled and kept: board, rows, histograms, and their sums over processes."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_contexts import Clock
from watching import connection

import board
import rows
import snapshot
from board import MAX_LABELS, Board
from errors import LoopDetected, OriginRefused, Refused
from exchange import MAX_FIELDS, Exchange, Recorder
from histogram import Histogram, merged
from log import Record
from snapshot import MAX_OPEN, MAX_ROWS, Cursor, Snapshot, merge
from watcher import Watcher


class Octets:
    def __init__(self, sent: int, received: int) -> None:
        self.sent, self.received = sent, received


def closed_tunnel(made: Board, outcome: str = "closed", **values: object) -> Record:
    record = Record("127.0.0.1:1", target="a.example:443", outcome=outcome, **values)  # type: ignore[arg-type]
    made.closed(made.opened(record))
    return record


def snapshot_of(made: Board, since: Cursor = Cursor()) -> Snapshot:  # noqa: B008 - a tuple
    latest = made.latest(since)
    return {
        "now": made._clock(),
        "started": made.started,
        "seen": {made.name: made.events},
        "facts": {"version": "1"},
        "gauges": {"tunnels": made.tunnels},
        "counts": made.counts(),
        "histograms": {name: histogram.data() for name, histogram in made.histograms.items()},
        "history": made.history(since),
        "open": made.under_way(),
        "tunnels": latest["tunnels"],
        "requests": latest["requests"],
        "refusals": latest["refusals"],
        "held": [],
        "learned": [],
    }


# Board


def test_a_tunnel_from_its_beginning_to_its_end() -> None:
    clock = Clock()
    made = Board(clock, "w")
    record = Record("127.0.0.1:1", target="a.example:443", sni="b.example")
    number = made.opened(record)
    assert made.tunnels == 1
    record.progress = Octets(5, 7)
    (row,) = made.under_way()
    assert (row["key"], row["ended"], row["outcome"], row["sent"], row["received"]) == (f"w-{number}", None, None, 5, 7)
    assert made.counts()["octets"] == {"sent": 5, "received": 7}
    record.sent, record.received, record.outcome, record.context = 50, 70, "closed", "memory"
    made.closed(number)
    assert (made.tunnels, made.under_way()) == (0, [])
    (row,) = made.latest(Cursor())["tunnels"]
    assert (row["key"], row["ended"], row["outcome"], row["sni"]) == (f"w-{number}", clock.time, "closed", "b.example")
    assert row["started"] == pytest.approx(clock.time, abs=1)
    assert made.counts()["octets"] == {"sent": 50, "received": 70}
    assert made.counts()["tunnels"] == {"closed": 1}
    assert made.latest(Cursor())["refusals"] == []


def test_refusals_are_counted_by_their_rule() -> None:
    made = Board()
    for error in (Refused("x is denied"), LoopDetected("y"), Refused("z is denied"), OriginRefused("not ours")):
        record = Record("127.0.0.1:1", target="x:443")
        number = made.opened(record)
        record.fail(error)
        made.closed(number)
    assert made.counts()["refusals"] == {"policy": 2, "loop": 1}
    assert [row["detail"] for row in made.latest(Cursor())["refusals"]] == ["x is denied", "y", "z is denied"]
    assert len(made.latest(Cursor())["tunnels"]) == 4


def test_requests_are_told_apart_from_tunnels_and_our_own_pages_are_left_out() -> None:
    made = Board()
    closed_tunnel(made, kind="request", outcome="closed")
    assert made.tunnels == 0
    page = Record("127.0.0.1:1", kind="page", target="127.0.0.1:8080", outcome="closed")
    number = made.opened(page)
    assert made.under_way() == []
    made.closed(number)
    assert made.counts()["plain"] == {"closed": 1}
    assert made.counts()["tunnels"] == {}
    assert [row["kind"] for row in made.latest(Cursor())["tunnels"]] == ["request"]


def test_everything_is_bounded() -> None:
    made = Board()
    for number in range(MAX_ROWS + 10):
        closed_tunnel(made, f"outcome-{number}", sni="x" * 100_000, detail="y" * 100_000, refused="z")
        made.opened(Record("127.0.0.1:1", target="a:1"))
        made.tick()
    assert len(made.counts()["tunnels"]) == MAX_LABELS + 1
    assert sum(made.counts()["tunnels"].values()) == MAX_ROWS + 10
    latest = made.latest(Cursor())
    assert [len(kept) for kept in latest.values()] == [MAX_ROWS, 0, MAX_ROWS]
    assert len(made.under_way()) == MAX_OPEN
    assert made.under_way()[-1]["key"].endswith(f"-{2 * (MAX_ROWS + 10)}")
    assert len(made.history(Cursor())) <= snapshot.HISTORY_SECONDS
    assert len(json.dumps(snapshot_of(made))) < 3 * MAX_ROWS * 1500


def test_samples_are_what_happened_in_between() -> None:
    clock = Clock()
    made = Board(clock)
    made.connected()
    made.connected()
    made.retrieved("memory")
    made.retrieved("made", 0.002)
    number = made.opened(record := Record("127.0.0.1:1", target="a:1"))
    record.progress = Octets(10, 20)
    made.tick()
    clock.advance(seconds=1)
    record.progress = Octets(15, 20)
    made.tick()
    clock.advance(seconds=1)
    record.sent, record.received = 16, 20
    made.closed(number)
    made.tick()
    quiet = {"connections": 0, "memory": 0, "disk": 0, "made": 0, "requests": 0, "received": 0}
    at = round(clock.time)
    assert made.history(Cursor()) == [
        {"at": at - 2, **quiet, "connections": 2, "memory": 1, "made": 1, "sent": 10, "received": 20, "tunnels": 1},
        {"at": at - 1, **quiet, "sent": 5, "tunnels": 1},
        {"at": at, **quiet, "sent": 1, "tunnels": 0},
    ]
    assert [sample["at"] for sample in made.history(Cursor(at + snapshot.LATE_SECONDS - 1))] == [at]
    assert sum(made.histograms["retrieval"].data()["counts"]) == 1


def test_only_what_is_news_is_told() -> None:
    made = Board(name="w")
    closed_tunnel(made)
    seen = Cursor.of(snapshot_of(made))
    assert made.latest(seen)["tunnels"] == []
    closed_tunnel(made, "idle")
    assert [row["outcome"] for row in made.latest(seen)["tunnels"]] == ["idle"]
    assert len(made.latest(Cursor(seen.at, (("another", 99),)))["tunnels"]) == 2


def test_somebody_looks_for_a_while() -> None:
    clock = Clock()
    made = Board(clock)
    assert not made.looked_at
    made.counts()
    assert not made.looked_at
    made.latest(Cursor())
    clock.advance(seconds=board.LOOKED_SECONDS - 1)
    assert made.looked_at
    clock.advance(seconds=2)
    assert not made.looked_at


# Exchanges

REQUEST = (
    b"POST /login?next=%2F HTTP/1.1\r\nHost: www.example.com\r\nCookie: session=s3cret\r\nX-API-Key: s3cret\r\n"
    b"Authorization: Bearer s3cret\r\nAccept: */*\r\nContent-Length: 3\r\n\r\na=b"
)
RESPONSE = (
    b"HTTP/1.1 302 Found\r\nSet-Cookie: session=s3cret\r\nLocation: /\r\nContent-Type: text/html; charset=utf-8\r\n"
    b"Content-Length: 5\r\n\r\nmoved"
)


def test_an_exchange_as_a_row() -> None:
    made = Board(name="w")
    watcher = Watcher(connection(), made, "http/1.1")
    watcher.sent(REQUEST)
    assert made.latest(Cursor())["requests"] == []
    watcher.received(RESPONSE)
    (row,) = made.latest(Cursor())["requests"]
    assert row["key"].startswith("w-r")
    assert (row["method"], row["status"], row["type"]) == ("POST", 302, "text/html")
    assert row["url"] == "https://www.example.com/login?next=%2F"
    assert (row["sent"], row["received"], row["error"]) == (3, 5, None)
    assert 0 <= row["first"] <= row["ended"] - row["started"] < 1
    assert made.counts()["requests"] == {"POST 3xx": 1}
    assert sum(made.histograms["first_byte"].data()["counts"]) == 1


def test_secrets_are_left_out_of_rows() -> None:
    made = Board()
    watcher = Watcher(connection(), made, "http/1.1")
    watcher.sent(REQUEST)
    watcher.received(RESPONSE)
    (row,) = made.latest(Cursor())["requests"]
    assert "s3cret" not in json.dumps(row)
    assert dict(row["request_fields"]) == {
        "Host": "www.example.com",
        "Cookie": "(14 octets, not shown)",
        "X-API-Key": "(6 octets, not shown)",
        "Authorization": "(13 octets, not shown)",
        "Accept": "*/*",
        "Content-Length": "3",
    }


def test_an_exchange_is_cut_to_what_is_shown() -> None:
    made = Board()
    recorder = Recorder(connection(), made)
    fields = [(b"x" * 5000, b"y" * 5000)] * MAX_FIELDS
    exchange = recorder.request("BREW" * 100, "a" * 5000, f"/{'p' * 50_000}", "1.1", fields)
    recorder.response(exchange, 999, "r" * 5000, fields, time.monotonic())
    recorder.end(exchange, "e" * 5000)
    (row,) = made.latest(Cursor())["requests"]
    assert len(json.dumps(row)) < 2 * rows.MAX_FIELDS * 3 * rows.MAX_TEXT
    assert made.counts()["requests"] == {"other none": 1}


def test_a_body_is_not_kept() -> None:
    exchange = Exchange(connection(), "GET", "a", "/", "1.1", [], 0.0, 0.0)
    exchange.response_body = bytearray(b"x" * 100)
    assert "xxx" not in json.dumps(rows.of_exchange(exchange, "k"))


# Histograms


@given(st.lists(st.floats(0, 100)))
def test_a_histogram_counts_each_value_once(values: list[float]) -> None:
    histogram = Histogram()
    for value in values:
        histogram.observe(value)
    data = histogram.data()
    assert sum(data["counts"]) == len(values)
    assert data["sum"] == pytest.approx(sum(values))
    below = 0
    for bound, number in zip(data["bounds"], data["counts"], strict=False):
        below += number
        assert below == sum(value <= bound for value in values)
    assert merged([data, data])["counts"] == [2 * number for number in data["counts"]]


# Several processes


def test_snapshots_are_merged() -> None:
    clock = Clock()
    one, two = Board(clock, "one"), Board(clock, "two")
    closed_tunnel(one, sent=3)
    clock.advance(seconds=1)
    closed_tunnel(two, "idle", sent=4)
    one.tick()
    two.tick()
    clock.advance(seconds=1)
    closed_tunnel(one)
    one.opened(Record("127.0.0.1:2", target="b:1"))
    two.opened(Record("127.0.0.1:3", target="c:1"))
    two.dialled(0.01)
    both = merge([snapshot_of(one), snapshot_of(two)])
    assert both["counts"]["tunnels"] == {"closed": 2, "idle": 1}
    assert both["counts"]["octets"]["sent"] == 7
    assert both["gauges"] == {"tunnels": 2}
    assert [row["outcome"] for row in both["tunnels"]] == ["closed", "idle", "closed"]
    assert len(both["open"]) == 2
    (sample,) = both["history"]
    assert (sample["at"], sample["sent"], sample["tunnels"]) == (round(clock.time) - 1, 7, 0)
    assert sum(both["histograms"]["dial"]["counts"]) == 1
    assert both["seen"] == {"one": 2, "two": 1}
    since = Cursor.of(both)
    assert merge([snapshot_of(one, since), snapshot_of(two, since)])["tunnels"] == []


def test_merging_one_changes_nothing() -> None:
    made = Board()
    closed_tunnel(made, refused="policy")
    made.tick()
    alone = snapshot_of(made)
    assert merge([json.loads(json.dumps(alone))]) == alone


def test_certificates_of_several_processes_by_their_latest_use() -> None:
    def held(name: str, used: float) -> snapshot.Held:
        return {"name": name, "serial": "1", "not_after": 1.0, "used": used, "source": "made", "ours": True}

    one, two = snapshot_of(Board()), snapshot_of(Board())
    one["held"] = [held("a", 5), held("b", 1)]
    two["held"] = [held("b", 9), held("c", 2)]
    assert [(entry["name"], entry["used"]) for entry in merge([one, two])["held"]] == [("b", 9), ("a", 5), ("c", 2)]


def test_a_cursor_survives_the_way_there_and_back() -> None:
    cursor = Cursor(1764000000, (("w1", 5), ("0a", 17)))
    assert str(cursor) == "1764000000;w1=5;0a=17"
    assert Cursor.parse(str(cursor)) == cursor
    assert Cursor.parse(str(Cursor())) == Cursor()


@pytest.mark.parametrize("text", ["", "x", "1;", "1;w", "1;w=", "-1", "1;W=1", "1;w=1;", "9" * 99, "1;w=1\n", "٣"])
def test_anything_else_is_somebody_who_has_seen_nothing(text: str) -> None:
    assert Cursor.parse(text) == Cursor()
