import fcntl
import os
import stat
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
from lab import HERE

import files
from workers import Workers

# A process that makes a temporary file, says so, and lives until its input ends.
MAKER = f"""
import sys
sys.path.insert(0, {str(HERE)!r})
from pathlib import Path
import files
with files.temporary(Path("x"), b"half"):
    print("made", flush=True)
    sys.stdin.read()
"""


def test_a_file_is_made_once_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "x"
    files.write_new(path, b"1")
    with pytest.raises(FileExistsError):
        files.write_new(path, b"2")
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (b"1", 0o600)
    files.replace(path, b"3", mode=0o666)  # which no umask lets be
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (b"3", 0o666)
    assert os.listdir(tmp_path) == ["x"]


@pytest.mark.parametrize("call", ["fcntl.flock", "os.fstat", "os.fchmod", "os.fsync", "os.link", "os.unlink"])
def test_a_call_that_fails_leaves_no_descriptor_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    workers = Workers(1)  # as in the program; elsewhere gevent's os.close lets a directory wait for the loop
    workers.run(os.getpid)
    before = set(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as broken:
        broken.setattr(call, fail)
        with nullcontext() if call == "os.unlink" else pytest.raises(OSError, match="Input/output"):
            workers.run(files.write_new, tmp_path / "x", b"1", 0o666)  # which no umask lets be
    assert set(os.listdir("/proc/self/fd")) <= before
    assert len(os.listdir(tmp_path)) == (2 if call == "os.unlink" else 0)
    files.clear_stale(tmp_path)
    assert os.listdir(tmp_path) == (["x"] if call == "os.unlink" else [])


def test_what_a_crash_left_is_cleared_and_what_is_being_written_is_not(tmp_path: Path) -> None:
    (tmp_path / ".other.tmp").write_bytes(b"an operator's")
    makers = [
        subprocess.Popen([sys.executable, "-c", MAKER], cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    for maker in makers:
        assert maker.stdout
        assert maker.stdout.readline() == b"made\n"
    assert len(os.listdir(tmp_path)) == 3
    assert files.clear_stale(tmp_path) == 0
    makers[0].kill()
    makers[0].wait(timeout=10)
    assert files.clear_stale(tmp_path) == 1
    makers[1].communicate(timeout=10)
    assert makers[1].returncode == 0
    assert os.listdir(tmp_path) == [".other.tmp"]


def test_a_temporary_file_taken_for_stale_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between its creation and its lock another process may clear it."""
    lock = fcntl.flock
    cleared: list[bool] = []

    def late(fd: int, how: int) -> None:
        if not cleared:
            cleared.append(True)
            assert files.clear_stale(tmp_path) == 1
        lock(fd, how)

    monkeypatch.setattr(fcntl, "flock", late)
    files.write_new(tmp_path / "x", b"1")
    assert cleared
    assert os.listdir(tmp_path) == ["x"]
