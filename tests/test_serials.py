import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from lab import HERE

from errors import RetrievalError
from serials import MAX_SERIAL, SerialFile


@pytest.fixture
def serials(tmp_path: Path) -> SerialFile:
    (tmp_path / "serial.txt").write_text("41\n")
    return SerialFile(tmp_path / "serial.txt")


def test_the_file_holds_the_next_one(serials: SerialFile) -> None:
    assert serials.peek() == 41
    assert [serials.take(), serials.take()] == [41, 42]
    assert serials.path.read_text() == "43\n"


def test_a_new_file_starts_somewhere(tmp_path: Path) -> None:
    starts = set()
    for name in "ab":
        serials = SerialFile(tmp_path / name)
        serials.create()
        starts.add(serials.peek())
    assert len(starts) == 2
    assert min(starts) > 0


@pytest.mark.parametrize("content", ["", "\n", "x", "-1", "0", "1 2", "0x10", "1" * 60, str(MAX_SERIAL)])
def test_what_is_no_serial(serials: SerialFile, content: str) -> None:
    serials.path.write_text(content)
    for step in (serials.peek, serials.take, serials.check):
        with pytest.raises(RetrievalError, match="must hold one positive decimal number"):
            step()
    assert serials.path.read_text() == content


def test_no_serial_twice_in_many_processes_and_threads(serials: SerialFile) -> None:
    script = f"""
import sys
sys.path.insert(0, {str(HERE)!r})
from pathlib import Path
from serials import SerialFile
serials = SerialFile(Path({str(serials.path)!r}))
print(*[serials.take() for _ in range(50)])
"""
    with ThreadPoolExecutor(6) as pool:
        runs = [
            pool.submit(subprocess.run, [sys.executable, "-c", script], capture_output=True, text=True, check=True)
            for _ in range(4)
        ]
        own = [pool.submit(serials.take) for _ in range(100)]
        taken = [future.result() for future in own]
        for run in runs:
            taken += map(int, run.result().stdout.split())
    assert sorted(taken) == list(range(41, 341))
    assert serials.peek() == 341
