import gzip
import json
import re
from pathlib import Path

import pytest
from test_harentry import exchange
from test_requestlog import largest_file

from exchange import Exchange
from har import HarFile
from harqueue import HarQueue
from workers import Workers

FIELDS = [(b"Content-Type", b"text/plain"), (b"Content-Encoding", b"gzip")]


def targets(path: Path) -> list[str]:
    return [e["request"]["url"].rpartition("/")[2] for e in json.loads(path.read_text())["log"]["entries"]]


def queue(path: Path) -> HarQueue:
    return HarQueue(HarFile(path, "1.0", 1 << 20), Workers(1))


def large(name: object) -> Exchange:
    return exchange(received=gzip.compress(bytes(1 << 20)), answer=FIELDS, target=f"/{name}", limit=2000)


def lost(caplog: pytest.LogCaptureFixture) -> list[int]:
    """How many are said to be, in each warning."""
    return [int(n) for n in re.findall(r"(\d+) exchanges are not in the HAR file", caplog.text)]


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


def test_what_a_disk_does_not_take_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """And what is whole before stays."""
    path = tmp_path / "a.har"
    waiting = queue(path)
    with largest_file(5 << 20):
        for n in range(20):
            waiting.ended(large(n))
        waiting.close()
    assert targets(path) == ["0", "1", "2"]
    assert lost(caplog) == [17]
