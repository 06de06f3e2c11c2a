"""What is counted, sampled and kept: board, rows, histograms, and their sums over processes."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_contexts import Clock
from watching import Seen, connection

import board
import rows
import snapshot
from board import MAX_LABELS, Board
from errors import LoopDetected, OriginRefused, Refused
from exchange import MAX_FIELDS, Exchange
from histogram import Histogram, merged
from log import MAX_URL
from options import MAX_WORKERS
from record import Record
from recorder import Recorder
from snapshot import MAX_OPEN, MAX_ROWS, Cursor, Snapshot, merge, written
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
        **made.kept(),
        "now": made._clock(),
        "seen": {made.name: made.events},
        "facts": {"version": "1"},
        "gauges": {"tunnels": made.tunnels},
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
    record.started -= 60
    number = made.opened(record)
    assert made.tunnels == 1
    record.progress = Octets(5, 7)
    made.meter.sent, made.meter.received = 5, 7
    (row,) = made.under_way()
    assert (row["key"], row["ended"], row["outcome"], row["sent"], row["received"]) == (f"w-{number}", None, None, 5, 7)
    assert row["started"] == pytest.approx(clock.time - 60, abs=1)
    assert made.kept()["counts"]["octets"] == {"sent": 5, "received": 7}
    record.sent, record.received, record.outcome, record.context = 50, 70, "closed", "memory"
    made.meter.sent, made.meter.received = 50, 70
    made.closed(number)
    assert (made.tunnels, made.under_way()) == (0, [])
    (row,) = made.latest(Cursor())["tunnels"]
    assert (row["key"], row["ended"], row["outcome"], row["sni"]) == (f"w-{number}", clock.time, "closed", "b.example")
    assert row["started"] == pytest.approx(clock.time - 60, abs=1)
    assert made.kept()["counts"]["octets"] == {"sent": 50, "received": 70}
    assert made.kept()["counts"]["tunnels"] == {"closed": 1}
    assert made.latest(Cursor())["refusals"] == []


def test_refusals_are_counted_by_their_rule() -> None:
    made = Board()
    for error in (Refused("x is denied"), LoopDetected("y"), Refused("z is denied"), OriginRefused("not ours")):
        record = Record("127.0.0.1:1", target="x:443")
        number = made.opened(record)
        record.fail(error)
        made.closed(number)
    assert made.kept()["counts"]["refusals"] == {"policy": 2, "loop": 1}
    assert [row["detail"] for row in made.latest(Cursor())["refusals"]] == ["x is denied", "y", "z is denied"]
    assert len(made.latest(Cursor())["tunnels"]) == 4


def test_requests_are_told_apart_from_tunnels_and_our_own_pages_are_left_out() -> None:
    made = Board()
    closed_tunnel(made, kind="request", outcome="closed")
    assert made.tunnels == 0
    page = Record("127.0.0.1:1", kind="page", target="127.0.0.1:8080", outcome="closed")
    number = made.opened(page)
    made.opened(Record("127.0.0.1:1"))  # has not yet said what it wants
    assert made.under_way() == []
    made.closed(number)
    assert made.kept()["counts"]["plain"] == {"closed": 1}
    assert made.kept()["counts"]["tunnels"] == {}
    assert [row["kind"] for row in made.latest(Cursor())["tunnels"]] == ["request"]


def test_of_a_record_no_more_is_kept_than_a_row_has() -> None:
    made = Board()
    record = Record("127.0.0.1:1", kind="request", method="x" * 10_000, url="x" * 10_000)
    record.target = record.sni = record.detail = record.user = record.remark = "x" * 10_000
    number = made.opened(record)
    assert len(json.dumps(made.under_way())) < 3000
    made.closed(number)
    assert sum(len(str(getattr(record, name))) for name in Record.__dataclass_fields__) < 3000


def test_everything_is_bounded() -> None:
    clock = Clock()
    made = Board(clock)
    for number in range(MAX_ROWS + 10):
        closed_tunnel(made, f"outcome-{number}", sni="x" * 100_000, detail="y" * 100_000, refused="z")
        made.opened(Record("127.0.0.1:1", target="a:1"))
        made.ended(Seen().recorder().request("GET", "a", "/", "2", []))
        clock.advance(seconds=1)
    assert len(made.kept()["counts"]["tunnels"]) == MAX_LABELS + 1
    assert sum(made.kept()["counts"]["tunnels"].values()) == MAX_ROWS + 10
    closed_tunnel(made, "outcome-0")
    assert made.kept()["counts"]["tunnels"]["outcome-0"] == 2  # what had its place before keeps it
    latest = made.latest(Cursor())
    assert [len(kept) for kept in latest.values()] == [MAX_ROWS, MAX_ROWS, MAX_ROWS]
    assert len(made.under_way()) == MAX_OPEN
    assert made.under_way()[-1]["key"].endswith(f"-{2 * (MAX_ROWS + 10)}")
    assert len(made.history(Cursor())) == snapshot.HISTORY_SECONDS
    assert len(json.dumps(snapshot_of(made))) < 3 * MAX_ROWS * 1500


QUIET = {"connections": 0, "memory": 0, "disk": 0, "made": 0, "requests": 0, "sent": 0, "received": 0}


def test_samples_are_what_happened_in_between() -> None:
    clock = Clock()
    made = Board(clock)
    made.connected()
    made.connected()
    made.retrieved("memory")
    made.retrieved("made", 0.002)
    made.meter.sent, made.meter.received = 10, 20
    at = int(clock.time)
    assert made.history(Cursor()) == []
    clock.advance(seconds=1)
    made.connected()
    made.meter.sent = 15
    clock.advance(seconds=1)
    assert made.history(Cursor()) == [
        {**QUIET, "at": at + 1, "connections": 2, "memory": 1, "made": 1, "sent": 10, "received": 20},
        {**QUIET, "at": at + 2, "connections": 1, "sent": 5},
    ]
    late = Cursor(at + 1 + snapshot.LATE_SECONDS)
    assert [sample["at"] for sample in made.history(late)] == [at + 2]
    assert sum(made.histograms["retrieval"].data()["counts"]) == 1


def test_octets_of_seconds_that_nobody_looked_at_are_spread_over_them() -> None:
    clock = Clock()
    made = Board(clock)
    made.connected()
    made.meter.sent = 10
    at = int(clock.time)
    clock.advance(seconds=4)
    assert [(sample["at"] - at, sample["connections"], sample["sent"]) for sample in made.history(Cursor())] == [
        (1, 1, 2), (2, 0, 3), (3, 0, 2), (4, 0, 3),
    ]  # fmt: skip
    clock.advance(seconds=3 * snapshot.HISTORY_SECONDS)
    made.connected()
    made.meter.sent += 3 * snapshot.HISTORY_SECONDS
    clock.advance(seconds=1)
    samples = made.history(Cursor())
    assert len(samples) == snapshot.HISTORY_SECONDS
    assert [sample["sent"] for sample in samples[:-1]] == [0] * (snapshot.HISTORY_SECONDS - 1)
    assert (samples[-1]["connections"], samples[-1]["sent"]) == (1, 3 * snapshot.HISTORY_SECONDS)


def test_a_clock_that_is_set_back() -> None:
    clock = Clock()
    made = Board(clock)
    made.connected()
    clock.advance(seconds=5)
    made.connected()
    clock.advance(seconds=-100)
    assert made.history(Cursor()) == []
    made.connected()
    clock.advance(seconds=1)
    (sample,) = made.history(Cursor())
    assert (sample["at"], sample["connections"]) == (int(clock.time), 2)


def test_a_clock_that_is_set_back_a_little() -> None:
    """As by a correction: what was seen before that is not forgotten, and no second is there twice."""
    clock = Clock()
    made = Board(clock)
    at = int(clock.time)
    for _ in range(9):
        made.connected()
        clock.advance(seconds=1)
    made.connected()
    clock.advance(seconds=-3)
    assert [sample["at"] - at for sample in made.history(Cursor())] == [1, 2, 3, 4, 5, 6]
    made.connected()
    clock.advance(seconds=2)
    assert [(sample["at"] - at, sample["connections"]) for sample in made.history(Cursor())] == [
        *((second, 1) for second in range(1, 7)), (7, 2), (8, 0),
    ]  # fmt: skip


def test_one_counts_on_from_another() -> None:
    clock = Clock()
    first = Board(clock, "first")
    first.connected()
    closed_tunnel(first, "idle", refused="policy")
    first.retrieved("disk", 0.003)
    first.dialled(0.01)
    first.meter.received = 7
    kept = first.kept()
    clock.advance(seconds=5)
    stirred: list[None] = []
    second = Board(clock, "second", json.loads(json.dumps(kept)), lambda: stirred.append(None))
    again = second.kept()
    assert {**again, "cpu_seconds": 0} == {**kept, "cpu_seconds": 0}
    assert again["cpu_seconds"] > kept["cpu_seconds"]
    assert stirred == []
    second.connected()
    closed_tunnel(second, "idle")
    second.retrieved("disk", 0.003)
    assert len(stirred) == 3
    second.dialled(0.01)
    second.refused_unheard("policy")
    second.lost("har", 3)
    second.reloaded("failed")
    second.ended(Seen().recorder().request("GET", "a", "/", "2", []))
    assert len(stirred) == 8
    counts = second.kept()["counts"]
    assert (counts["connections"], counts["tunnels"]) == ({"accepted": 2}, {"idle": 2})
    assert (counts["refusals"], counts["octets"]) == ({"policy": 2}, {"sent": 0, "received": 7})
    assert (counts["lost"], counts["reloads"], counts["requests"]) == ({"har": 3}, {"failed": 1}, {"GET none": 1})
    assert sum(second.kept()["histograms"]["retrieval"]["counts"]) == 2
    assert len(second.latest(Cursor())["tunnels"]) == 1
    clock.advance(seconds=1)
    assert [sample["connections"] for sample in second.history(Cursor())] == [1]  # inherited counts are no news
    assert first.kept()["counts"] == kept["counts"]


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
    made.kept()["counts"]
    assert not made.looked_at
    made.latest(Cursor())
    assert made.looked_at
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
    assert made.histograms["first_byte"].data()["sum"] < 1
    (row,) = made.latest(Cursor())["requests"]
    assert row["key"].startswith("w-r")
    assert (row["method"], row["status"], row["type"]) == ("POST", 302, "text/html")
    assert row["url"] == "https://www.example.com/login?next=%2F"
    assert (row["sent"], row["received"], row["error"]) == (3, 5, None)
    assert 0 <= row["first"] <= row["ended"] - row["started"] < 1
    assert made.kept()["counts"]["requests"] == {"POST 3xx": 1}
    assert sum(made.histograms["first_byte"].data()["counts"]) == 1


def test_the_row_of_an_exchange_has_its_times_whenever_it_is_made() -> None:
    exchange = Seen().recorder().request("GET", "user:s3cret@a.example", "/", "1.1", [])
    exchange.ended = exchange.began - 3600 + 1.5
    exchange.began -= 3600
    row = rows.of_exchange(exchange, "")
    assert (row["ended"] - row["started"], row["url"]) == (pytest.approx(1.5), "https://a.example/")


@pytest.mark.parametrize(
    ("status", "label"),
    [(99, "none"), (100, "1xx"), (199, "1xx"), (500, "5xx"), (599, "5xx"), (600, "none")],
)
def test_requests_are_counted_by_the_class_of_their_status(status: int, label: str) -> None:
    made = Board()
    exchange = Seen().recorder().request("GET", "a", "/", "1.1", [])
    exchange.status = status
    made.ended(exchange)
    assert made.kept()["counts"]["requests"] == {f"GET {label}": 1}


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


def test_which_fields_hold_secrets() -> None:
    secret = [
        b"Authorization", b"set-cookie", b"X-Amz-Security-Token", b"npm-otp", b"CB-ACCESS-PASSPHRASE",
        b"CB-ACCESS-SIGN", b"Cf-Access-Jwt-Assertion", b"X-Goog-IAP-JWT-Assertion",
    ]  # fmt: skip
    plain = [b"Host", b"Accept", b"User-Agent", b"Content-Type", b"ETag", b"Last-Modified", b"Via", b"Vary", b"Range"]
    recorder = Seen().recorder()
    exchange = recorder.request("GET", "a", "/", "1.1", [(name, b"s3cret") for name in (*secret, *plain)])
    shown = rows.of_exchange(exchange, "")["request_fields"]
    assert [text for _, text in shown] == ["(6 octets, not shown)"] * len(secret) + ["s3cret"] * len(plain)


def test_an_exchange_is_kept_as_it_is_only_where_that_is_little() -> None:
    for limit, fields, authority, target, reason, small in [
        (None, [(b"A", b"b")], "a.example", "/", "OK", True),
        (None, [(b"A", b"b" * 5000)], "a.example", "/", "OK", False),
        (None, [(b"A", b"b")] * 256 * 10, "a" * 5000, "/", "OK", False),
        (None, [], "a.example", "/" * 5000, "OK", False),
        (None, [], "a.example", "/", "OK" * 5000, False),
        (10, [(b"A", b"b")], "a.example", "/", "OK", False),
    ]:
        recorder = Seen().recorder(limit)
        exchange = recorder.request("GET", authority, target, "1.1", fields)
        recorder.response(exchange, 200, reason, [], exchange.began)
        assert rows.is_small(exchange) == small
        board = Board()
        recorder.end(exchange)
        board.ended(exchange)
        exchange.status = 201  # which tells whether it was kept, or its row
        assert [row["status"] for row in board.latest(Cursor())["requests"]] == [201 if small else 200]


@pytest.mark.parametrize(("octets", "small"), [(100, True), (5000, False)])
def test_an_exchange_for_a_protocol_with_a_long_name_is_not_kept_as_it_is(octets: int, small: bool) -> None:
    """HTTP/2 has it in a pseudo-field (RFC 8441)."""
    exchange = Seen().recorder().request("CONNECT", "a", "/", "2", [], "x" * octets)
    assert rows.is_small(exchange) == small
    assert len(rows.of_exchange(exchange, "")["upgrade"]) == min(octets, rows.MAX_TEXT + 1)


def test_an_exchange_is_cut_to_what_is_shown() -> None:
    made = Board()
    recorder = Recorder(connection(), made)
    fields = [(b"x" * 5000, b"y" * 5000)] * MAX_FIELDS
    exchange = recorder.request("BREW" * 100, "a" * 5000, f"/{'p' * 50_000}", "1.1", fields)
    recorder.response(exchange, 999, "r" * 5000, [(b"Content-Type", b"t" * 5000), *fields], time.monotonic())
    recorder.end(exchange, "e" * 5000)
    (row,) = made.latest(Cursor())["requests"]
    assert len(row["method"]) == 32
    assert len(row["url"]) == MAX_URL + 1
    assert {len(row[name]) for name in ("reason", "type", "error")} == {rows.MAX_TEXT + 1}
    for head in ("request_fields", "response_fields"):
        assert sum(len(name) + len(text) for name, text in row[head]) <= rows.MAX_HEAD
    assert made.kept()["counts"]["requests"] == {"other none": 1}


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [(300, 300, 6), (10, 300, 13), (10, 5000, 13), (900, 0, 13), (10, 246, 16), (10, 20, rows.MAX_FIELDS)],
)
def test_of_many_large_fields_the_first_ones_are_shown(name: int, value: int, shown: int) -> None:
    """Few octets make them, in HTTP/2, and each who looks gets 300 rows."""
    fields = [(b"x" * name, b"y" * value)] * MAX_FIELDS
    exchange = Seen().recorder().request("GET", "a", "/", "2", fields)
    assert len(rows.of_exchange(exchange, "")["request_fields"]) == shown


def test_what_is_not_ascii_is_written_as_it_is() -> None:
    made = Board()
    recorder = Recorder(connection(), made)
    recorder.end(recorder.request("GET", "a", "/", "2", [(b"a", b"\xe4\r\n")]))
    snapshot = snapshot_of(made)
    snapshot["facts"]["path"] = "\udc80"  # as Python has a path that is not UTF-8
    octets = written(snapshot)
    assert "\u00e4".encode() in octets
    assert b"\n" not in octets
    assert json.loads(octets) == json.loads(json.dumps(snapshot))


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
    closed_tunnel(one)
    clock.advance(seconds=1)
    closed_tunnel(two, "idle")
    one.meter.sent, two.meter.sent = 3, 4
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
    before, sample = both["history"]
    assert (before["at"], before["sent"]) == (int(clock.time) - 1, 1)  # of one's 3, spread over two seconds
    assert (sample["at"], sample["sent"]) == (int(clock.time), 6)
    assert sum(both["histograms"]["dial"]["counts"]) == 1
    assert both["seen"] == {"one": 2, "two": 1}
    since = Cursor.of(both)
    assert merge([snapshot_of(one, since), snapshot_of(two, since)])["tunnels"] == []


def test_rows_of_a_clock_that_was_ahead_hide_no_later_ones() -> None:
    clock = Clock()
    one, two = Board(clock), Board(clock)
    clock.advance(days=1)
    for made in (one, two):
        for _ in range(MAX_ROWS):
            closed_tunnel(made)
    clock.advance(days=-1)
    closed_tunnel(one, "idle")
    rows = merge([snapshot_of(one), snapshot_of(two)])["tunnels"]
    assert [row["outcome"] for row in rows] == ["closed"] * (MAX_ROWS - 1) + ["idle"]


def test_merging_one_changes_nothing() -> None:
    made = Board()
    closed_tunnel(made, refused="policy")
    alone = snapshot_of(made)
    assert merge([json.loads(json.dumps(alone))]) == alone


def test_of_who_is_silent_there_is_what_it_had_counted() -> None:
    one, two = Board(name="one"), Board(name="two")
    closed_tunnel(one)
    closed_tunnel(two)
    two.opened(Record("127.0.0.1:3", target="c:1"))
    two.dialled(0.01)
    two.meter.sent = 5
    both = merge([snapshot_of(one)], [two.kept()])
    assert both["counts"]["tunnels"] == {"closed": 2}
    assert both["counts"]["octets"]["sent"] == 5
    assert sum(both["histograms"]["dial"]["counts"]) == 1
    assert (both["gauges"], both["seen"]) == ({"tunnels": 0}, {"one": 1})
    assert len(both["tunnels"]) == 1


def test_the_order_of_processes_makes_no_difference() -> None:
    clock = Clock()
    one = Board(clock, "one")
    one.connected()
    clock.advance(seconds=2)
    first = snapshot_of(one)
    two = Board(clock, "two")
    two.connected()
    clock.advance(seconds=1)
    last = snapshot_of(two)
    first["learned"] = [{"client": "a", "name": "x", "seconds": 5.0}]
    last["learned"] = [{"client": "a", "name": "x", "seconds": 7.0}]
    both = merge([first, last])
    assert both == merge([last, first])
    assert both["started"] == first["started"]
    assert both["now"] == first["now"]  # or what the first one says later would be old news
    assert [sample["connections"] for sample in both["history"]] == [1, 0, 1]
    assert [entry["seconds"] for entry in both["learned"]] == [7.0]


def test_certificates_of_several_processes_by_their_latest_use() -> None:
    def held(name: str, used: float) -> snapshot.Held:
        return {"name": name, "serial": "1", "not_after": 1.0, "used": used, "source": "made", "ours": True}

    one, two = snapshot_of(Board()), snapshot_of(Board())
    one["held"] = [held("a", 5), held("b", 1)]
    two["held"] = [held("b", 9), held("c", 2)]
    assert [(entry["name"], entry["used"]) for entry in merge([one, two])["held"]] == [("b", 9), ("a", 5), ("c", 2)]
    one["held"], two["held"] = ([held(f"{who}{n}", n) for n in range(snapshot.MAX_HELD)] for who in "ab")
    assert {entry["used"] for entry in merge([one, two])["held"]} == set(range(100, snapshot.MAX_HELD))


def test_bypasses_that_several_processes_learned_are_told_once() -> None:
    one, two = snapshot_of(Board()), snapshot_of(Board())
    one["learned"] = [{"client": "a", "name": "x", "seconds": 5.0}, {"client": "b", "name": "x", "seconds": 9.0}]
    two["learned"] = [{"client": "a", "name": "x", "seconds": 7.0}]
    assert [(entry["client"], entry["seconds"]) for entry in merge([one, two])["learned"]] == [("a", 7.0), ("b", 9.0)]


def test_a_cursor_survives_the_way_there_and_back() -> None:
    cursor = Cursor(1764000000, (("w1", 5), ("0a", 17)))
    assert str(cursor) == "1764000000;w1=5;0a=17"
    assert Cursor.parse(str(cursor)) == cursor
    assert Cursor.parse(str(Cursor())) == Cursor()


@pytest.mark.parametrize("text", ["", "x", "1;", "1;w", "1;w=", "-1", "1;W=1", "1;w=1;", "9" * 99, "1;w=1\n", "٣"])
def test_anything_else_is_somebody_who_has_seen_nothing(text: str) -> None:
    assert Cursor.parse(text) == Cursor()


def test_a_cursor_names_as_many_processes_as_there_may_be() -> None:
    text = "1" + "".join(f";w{number}=1" for number in range(MAX_WORKERS))
    assert str(Cursor.parse(text)) == text
    assert str(Cursor.parse(f"{text};more=1")) == str(Cursor())
