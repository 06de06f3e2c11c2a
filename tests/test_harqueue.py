import gzip
import json
import re
import time
from pathlib import Path

import gevent
import pytest
from gevent.monkey import get_original
from lab import no_memory, until
from test_harentry import exchange
from test_requestlog import largest_file

import harqueue
from exchange import Exchange
from har import HarFile
from harqueue import HarQueue
from supervisor import GRACE_SECONDS
from workers import Workers

FIELDS = [(b"Content-Type", b"text/plain"), (b"Content-Encoding", b"gzip")]


def targets(path: Path) -> list[str]:
    return [e["request"]["url"].rpartition("/")[2] for e in json.loads(path.read_text())["log"]["entries"]]


def queue(path: Path, workers: Workers | None = None, counted: list[int] | None = None) -> HarQueue:
    counted = [] if counted is None else counted
    return HarQueue(HarFile(path, "1.0", 1 << 20), workers or Workers(1), counted.append)


def large(name: object) -> Exchange:
    return exchange(received=gzip.compress(bytes(1 << 20)), answer=FIELDS, target=f"/{name}", limit=2000)


def lost(caplog: pytest.LogCaptureFixture) -> list[int]:
    """How many exchanges each warning reports as lost."""
    return [int(n) for n in re.findall(r"(\d+) exchanges? missing from the HAR file", caplog.text)]


def test_what_has_ended_is_written_in_its_order(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """In several lots, some of one entry."""
    path = tmp_path / "a.har"
    waiting = queue(path)
    for n in range(120):
        waiting.ended(exchange(target=f"/{n}") if n % 40 else large(n))
    waiting.close()
    assert targets(path) == [str(n) for n in range(120)]
    assert [each.name for each in tmp_path.iterdir()] == ["a.har"]
    assert caplog.text == ""


def test_a_writer_without_memory_to_begin_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.har"
    waiting = queue(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(waiting, "_write", no_memory)
        waiting.ended(exchange(target="/1"))
        gevent.sleep(0)
    waiting.ended(exchange(target="/2"))
    waiting.close()
    assert targets(path) == ["1", "2"]


def test_what_a_disk_does_not_take_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """And what was written before stays."""
    path = tmp_path / "a.har"
    counted: list[int] = []
    waiting = queue(path, counted=counted)
    with largest_file(5 << 20):
        for n in range(20):
            waiting.ended(large(n))
        waiting.close()
    assert targets(path) == ["0", "1", "2"]
    assert lost(caplog) == [17]
    assert sum(counted) == 17


@pytest.mark.parametrize("spoilt", ["0", "7", "19"])
@pytest.mark.parametrize("fields", [None, {b"Host": b"a"}, [(b"Host",)], [(1, 2)]])
def test_what_a_tap_made_no_exchange_of_is_lost_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, spoilt: str, fields: object
) -> None:
    path = tmp_path / "a.har"
    counted: list[int] = []
    waiting = queue(path, counted=counted)
    for n in range(20):
        each = exchange(target=f"/{n}")
        waiting.ended(each)
        if str(n) == spoilt:
            each.request_fields = fields  # type: ignore[assignment]
    waiting.close()
    assert targets(path) == [str(n) for n in range(20) if str(n) != spoilt]
    assert counted == [1]
    (told,) = caplog.records
    assert (told.getMessage(), told.exc_info is not None) == ("an exchange is missing from the HAR file", True)


def test_a_disk_that_is_full_is_told_of_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Not for each exchange: the log may be on the same disk. Once writes succeed again, the number lost is logged."""
    monkeypatch.setattr(harqueue, "_QUIET_SECONDS", 0.0)
    path = tmp_path / "a.har"
    waiting = queue(path)
    caplog.set_level("WARNING")

    def end(*names: str) -> None:
        for name in names:
            waiting.ended(exchange(target=f"/{name}"))
            until(lambda: waiting._writer is None)

    end("first")
    with largest_file(path.stat().st_size):
        end("a", "b", "c")
        assert len(caplog.records) == 1
        assert "can't write the HAR file: " in caplog.text
    end("last")
    assert lost(caplog) == [3]
    with largest_file(path.stat().st_size):
        end("d")
    waiting.close()
    assert lost(caplog) == [3, 1]
    assert len(caplog.records) == 4
    assert "certifier ended before they were written" not in caplog.text  # the disk was the reason
    assert targets(path) == ["first", "last"]


def test_what_is_lost_is_told_while_there_is_more_to_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(harqueue, "MAX_EXCHANGES", 150)
    monkeypatch.setattr(harqueue, "_QUIET_SECONDS", 0.0)
    path = tmp_path / "a.har"
    workers = Workers(1)
    answers = get_original("_thread", "allocate_lock")()
    answers.acquire()
    waiting = queue(path, workers)
    for n in range(200):
        waiting.ended(exchange(target=f"/{n}"))
    gevent.sleep(0)  # the writer begins
    disk = gevent.spawn(workers.run, answers.acquire)  # queued behind its first lot on the single thread
    until(lambda: lost(caplog))
    assert len(targets(path)) == 100
    answers.release()
    disk.get()
    waiting.close()
    assert lost(caplog) == [50]
    assert targets(path) == [str(n) for n in range(150)]


def with_head(size: int, place: str) -> Exchange:
    """An exchange with so many octets in one place."""
    made = exchange()
    text = "y" * size
    fields = [(b"a", b"b")] * (size // 160) if place == "small fields" else [(b"X", text.encode())]
    if place in ("request_fields", "response_fields", "trailers", "small fields"):
        setattr(made, "request_fields" if place == "small fields" else place, fields)
    else:
        setattr(made, place, text)
    return made


PLACES = ["request_fields", "response_fields", "trailers", "small fields", "method", "authority", "target", "reason"]


@pytest.mark.parametrize("place", [*PLACES, "upgrade"])
@pytest.mark.parametrize(("size", "expected"), [(30_000, 33), (30, 100)])
def test_heads_count_as_bodies_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, place: str, size: int,
    expected: int,
) -> None:  # fmt: skip
    monkeypatch.setattr(harqueue, "MAX_OCTETS", 1_000_000)
    path = tmp_path / "a.har"
    waiting = queue(path)
    for _ in range(100):  # without a greenlet switch: none is written meanwhile
        waiting.ended(with_head(size, place))
    waiting.close()
    assert expected - 1 <= len(targets(path)) <= expected
    assert sum(lost(caplog)) == 100 - len(targets(path))


def test_what_is_written_makes_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harqueue, "MAX_OCTETS", 100_000)
    path = tmp_path / "a.har"
    workers = Workers(1)
    waiting = queue(path, workers)
    for _ in range(20):
        waiting.ended(with_head(60_000, "request_fields"))
        gevent.sleep(0)  # the writer begins
        workers.run(int)  # queued behind it on the single thread
    waiting.close()
    assert len(targets(path)) == 20


def test_what_is_not_written_in_time_is_told_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In one warning, with those there was no room for before; and the file is valid."""
    monkeypatch.setattr(harqueue, "CLOSE_SECONDS", 0.2)
    monkeypatch.setattr(harqueue, "MAX_EXCHANGES", 1500)
    path = tmp_path / "a.har"
    waiting = queue(path)
    slow = large("x")  # takes some milliseconds
    for _ in range(2000):
        waiting.ended(slow)
    began = time.monotonic()
    waiting.close()
    assert 0.2 < time.monotonic() - began < 5
    written = sum(len(targets(each)) for each in tmp_path.iterdir())
    assert written > 0
    assert lost(caplog) == [2000 - written]
    assert "certifier ended before they were written" in caplog.text
    assert [each.name for each in tmp_path.iterdir() if each.name.startswith(".")] == []


def test_a_disk_that_does_not_answer_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And the file is not touched while its thread uses it."""
    monkeypatch.setattr(harqueue, "CLOSE_SECONDS", 0.1)
    path = tmp_path / "a.har"
    workers = Workers(1)
    answers = get_original("_thread", "allocate_lock")()
    answers.acquire()
    disk = gevent.spawn(workers.run, answers.acquire)
    waiting = queue(path, workers)
    waiting.ended(exchange())
    waiting.close()
    assert lost(caplog) == [1]
    assert targets(path) == []
    answers.release()
    disk.get()
    workers.run(int)
    assert targets(path) == ["x"]


def test_a_worker_has_ended_before_its_supervisor_kills_it() -> None:
    connections = 1.0  # cutting them off takes this long, see ``serving``
    assert connections + harqueue.CLOSE_SECONDS + harqueue._LAST_SECONDS < GRACE_SECONDS
