import errno
import fcntl
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from pathlib import Path

import pytest
from lab import HERE, WAIT
from test_requestlog import largest_file

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


# A process that has written a new file, says so, and never syncs it.
WRITER = f"""
import os, sys, time
sys.path.insert(0, {str(HERE)!r})
from pathlib import Path
import files
os.fsync = lambda fd: (print("written", flush=True), time.sleep(600))
files.write_new(Path("x"), b"1")
"""


def overwrite(path: Path, content: bytes) -> None:
    with files.rewriting(path, 1) as (_, rewrite):
        rewrite(content)


def without(
    monkeypatch: pytest.MonkeyPatch, call: str, code: int, refused: Callable[..., bool] = lambda *_: True
) -> None:
    """Let a call of ``os`` fail, if its arguments are such as are refused."""
    original = getattr(os, call.removeprefix("os."))

    def refuse(*args: object, **how: object) -> object:
        if refused(*args):
            raise OSError(code, os.strerror(code))
        return original(*args, **how)

    monkeypatch.setattr(call, refuse)


def fsyncs(monkeypatch: pytest.MonkeyPatch, path: Path) -> list[tuple[str, bytes]]:
    """What is synced from now on, and what the file at ``path`` holds then."""
    synced = list[tuple[str, bytes]]()

    def sync(fd: int) -> None:
        kind = "folder" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file"
        synced.append((kind, path.read_bytes() if path.exists() else b""))

    monkeypatch.setattr(os, "fsync", sync)
    return synced


@pytest.fixture(params=["unnamed", "named", "named where unnamed ones are refused"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How a file is kept until it is whole: not every system, nor file system, has unnamed files (O_TMPFILE)."""
    if request.param == "named":
        monkeypatch.delattr(os, "O_TMPFILE", raising=False)
    elif request.param != "unnamed":
        unnamed = getattr(os, "O_TMPFILE", 0)
        without(monkeypatch, "os.open", errno.EOPNOTSUPP, lambda _, flags, *__: 0 < unnamed == flags & unnamed)
    elif sys.platform != "linux":
        pytest.skip("Linux alone has files without a name")
    return str(request.param)


@pytest.mark.usefixtures("way")
def test_a_file_is_made_once_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "x"
    files.write_new(path, b"1")
    with pytest.raises(FileExistsError):
        files.write_new(path, b"2")
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (b"1", 0o600)
    path.chmod(0o666)  # which a umask would reduce
    overwrite(path, b"33")
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (b"33", 0o666)
    assert os.listdir(tmp_path) == ["x"]


@pytest.mark.usefixtures("way")
def test_its_mode_is_what_was_asked_for(tmp_path: Path) -> None:
    for mode in (0o600, 0o666):  # a umask would reduce the latter
        files.write_new(tmp_path / f"{mode}", b"1", mode)
        assert stat.S_IMODE((tmp_path / f"{mode}").stat().st_mode) == mode


@pytest.mark.usefixtures("way")
def test_what_is_made_or_replaced_is_durable_in_the_order_in_which_a_power_cut_does_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The content before its name, and then the name."""
    path = tmp_path / "x"
    synced = fsyncs(monkeypatch, path)
    files.write_new(path, b"1")
    overwrite(path, b"22")
    assert synced == [("file", b""), ("folder", b"1"), ("file", b"1"), ("folder", b"22")]


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS])
def test_without_hard_links_a_file_is_made_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    without(monkeypatch, "os.link", code)
    files.write_new(tmp_path / "x", b"1")
    with pytest.raises(FileExistsError):
        files.write_new(tmp_path / "x", b"2")
    assert (tmp_path / "x").read_bytes() == b"1"
    assert os.listdir(tmp_path) == ["x"]


def test_who_finds_a_lock_taken_waits_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, ends = tmp_path / ".lock", ExitStack()
    ends.enter_context(files.locked(path))
    waits = list[float]()

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            ends.close()

    monkeypatch.setattr("files._sleep", sleep)
    with files.locked(path):
        assert len(waits) == 3
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with files.locked(path):
        assert len(waits) == 3  # it was given back


def test_who_waits_for_a_lock_in_vain_is_told_which_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its holder may be stopped."""
    monkeypatch.setattr("files.LOCK_SECONDS", -1)
    path = tmp_path / ".lock"
    with files.locked(path), pytest.raises(TimeoutError, match=f"another process holds the lock {path}"):
        with files.locked(path):
            pass


def test_no_lock_is_made_behind_a_link(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    path.symlink_to("elsewhere")
    with pytest.raises(OSError, match="symbolic links"), files.locked(path):
        pass
    assert os.listdir(tmp_path) == [".lock"]


def test_without_proc_a_file_is_made_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "os.link", errno.ENOENT, lambda source, _: str(source).startswith("/proc/"))
    files.write_new(tmp_path / "x", b"1")
    assert (tmp_path / "x").read_bytes() == b"1"
    assert os.listdir(tmp_path) == ["x"]


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone has files without a name")
def test_a_crash_while_a_file_is_made_leaves_nothing(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", WRITER], cwd=tmp_path, stdout=subprocess.PIPE) as writer:
        assert writer.stdout
        assert writer.stdout.readline() == b"written\n"
        writer.kill()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("content", "in_place"), [(b"43\n", True), (b"100\n", False), (b"9\n", False)])
def test_a_file_is_overwritten_in_its_place_where_the_length_is_the_same(
    tmp_path: Path, content: bytes, in_place: bool
) -> None:
    path = tmp_path / "x"
    files.write_new(path, b"42\n", mode=0o640)
    before = path.stat()
    overwrite(path, content)
    assert path.read_bytes() == content
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert (path.stat().st_ino == before.st_ino) == in_place
    assert os.listdir(tmp_path) == ["x"]


def test_what_it_held_is_told_first(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    for most, told in ((2, b"ab"), (4, b"abc")):
        with files.rewriting(tmp_path / "x", most) as (content, _):
            assert content == told
    assert (tmp_path / "x").read_bytes() == b"abc"


@pytest.mark.usefixtures("way")
def test_a_new_file_is_told_of_as_it_will_be_found(tmp_path: Path) -> None:
    made = files.create(tmp_path / "x", b"abc", 0o666)  # which a umask would reduce
    found = (tmp_path / "x").stat()
    assert (made.st_ino, made.st_mtime_ns, made.st_size) == (found.st_ino, found.st_mtime_ns, 3)


@pytest.mark.parametrize(("size", "in_place"), [(512, True), (513, False)])
def test_what_may_lie_in_two_sectors_is_replaced(tmp_path: Path, size: int, in_place: bool) -> None:
    path = tmp_path / "x"
    files.write_new(path, b"1" * size)
    before = path.stat().st_ino
    overwrite(path, b"2" * size)
    assert path.read_bytes() == b"2" * size
    assert (path.stat().st_ino == before) == in_place


def test_a_mount_point_is_written_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As for a serial file mounted into a container by itself, whose number gains a digit."""

    path = tmp_path / "x"
    files.write_new(path, b"9999\n")
    before, descriptors = path.stat().st_ino, set(os.listdir("/proc/self/fd"))
    without(monkeypatch, "os.rename", errno.EBUSY)
    synced = fsyncs(monkeypatch, path)
    for content in (b"10000\n", b"7\n"):
        overwrite(path, content)
        assert (path.read_bytes(), path.stat().st_ino) == (content, before)
        assert ("file", content) in synced
    assert os.listdir(tmp_path) == ["x"]
    assert set(os.listdir("/proc/self/fd")) <= descriptors
    monkeypatch.setattr(os, "pwrite", lambda *_: 1)
    with pytest.raises(OSError, match="No space left"):
        overwrite(path, b"100\n")


def test_only_a_mount_point_is_written_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For any other reason the file stays as it was: written over, it might be left half old and half new."""
    path = tmp_path / "x"
    files.write_new(path, b"9999\n")
    without(monkeypatch, "os.rename", errno.EIO)
    with pytest.raises(OSError, match="Input/output"):
        overwrite(path, b"10000\n")
    assert path.read_bytes() == b"9999\n"
    assert os.listdir(tmp_path) == ["x"]


def test_a_file_that_is_not_there_is_not_overwritten(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        overwrite(tmp_path / "x", b"1")
    assert os.listdir(tmp_path) == []


def _fail(*_: object, **__: object) -> None:
    raise OSError(5, "Input/output error")


@pytest.mark.parametrize("call", ["fcntl.flock", "os.fstat", "os.fchmod", "os.fsync", "os.link", "os.unlink"])
def test_a_call_that_fails_leaves_no_descriptor_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, way: str
) -> None:
    workers = Workers(1)  # as in the program; elsewhere gevent's os.close defers closing a directory
    workers.run(os.getpid)
    before = set(os.listdir("/proc/self/fd"))
    made = call == "os.unlink" or (call == "fcntl.flock" and way == "unnamed")
    with monkeypatch.context() as broken:
        broken.setattr(call, _fail)
        with nullcontext() if made else pytest.raises(OSError, match="Input/output"):
            workers.run(files.write_new, tmp_path / "x", b"1", 0o666)  # which a umask would reduce
    assert set(os.listdir("/proc/self/fd")) <= before
    assert len(os.listdir(tmp_path)) == made + (call == "os.unlink" and way != "unnamed")
    files.clear_stale(tmp_path)
    assert os.listdir(tmp_path) == (["x"] if made else [])


@pytest.mark.parametrize("call", ["os.fstat", "os.pwrite", "os.fdatasync"])
def test_a_file_that_cannot_be_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    workers = Workers(1)
    workers.run(files.write_new, tmp_path / "x", b"1")
    before = set(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as broken:
        broken.setattr(call, _fail)
        with pytest.raises(OSError, match="Input/output"):
            workers.run(overwrite, tmp_path / "x", b"2")
    assert set(os.listdir("/proc/self/fd")) <= before
    assert os.listdir(tmp_path) == ["x"]
    assert (tmp_path / "x").read_bytes() == (b"2" if call == "os.fdatasync" else b"1")


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
    makers[0].wait(timeout=WAIT)
    assert files.clear_stale(tmp_path) == 1
    makers[1].communicate(timeout=WAIT)
    assert makers[1].returncode == 0
    assert os.listdir(tmp_path) == [".other.tmp"]


def test_a_temporary_file_whose_name_is_taken_has_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash may have left one of a process with the same PID."""
    monkeypatch.setattr("files._number", iter([1, 1, 2]))
    with files.temporary(tmp_path / "x", b"longer") as one, files.temporary(tmp_path / "x", b"2") as two:
        assert (one.read_bytes(), two.read_bytes()) == (b"longer", b"2")
    assert os.listdir(tmp_path) == []


def test_an_error_is_told_with_its_file_if_that_is_known() -> None:
    assert files.told(OSError(5, "Input/output error")) == "Input/output error"
    assert files.told(OSError(5, "Input/output error", "a/b")) == "a/b: Input/output error"


def test_a_temporary_file_taken_for_stale_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process may clear it between its creation and its lock."""
    lock = fcntl.flock
    cleared: list[bool] = []

    def late(fd: int, how: int) -> None:
        if not cleared:
            cleared.append(True)
            assert files.clear_stale(tmp_path) == 1
        lock(fd, how)

    monkeypatch.setattr(fcntl, "flock", late)
    monkeypatch.delattr(os, "O_TMPFILE", raising=False)
    before = set(os.listdir("/proc/self/fd"))
    files.write_new(tmp_path / "x", b"1")
    assert cleared
    assert os.listdir(tmp_path) == ["x"]
    assert set(os.listdir("/proc/self/fd")) <= before


def test_what_a_full_disk_took_of_a_write_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    with path.open("wb") as file:
        assert files.write_at(file.fileno(), [b"ab", b"cd"], 0) == 4
        for room in range(4):
            with largest_file(4 + room), pytest.raises(OSError, match="File too large"):  # the reason, not a guess
                files.write_at(file.fileno(), [b"ef", b"gh"], 4)
            assert path.read_bytes() == b"abcd"
        monkeypatch.setattr(os, "pwritev", _fail)
        with pytest.raises(OSError, match="Input/output"):
            files.write_at(file.fileno(), [b"x"], 2)
    assert path.read_bytes() == b"ab"


def test_a_write_that_the_system_does_in_parts_is_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.pwritev
    monkeypatch.setattr(os, "pwritev", lambda fd, parts, end: write(fd, [parts[0][:1]], end))
    path = tmp_path / "x"
    with path.open("wb") as file:
        assert files.write_at(file.fileno(), [b"ab", b"cd"], 0) == 4
        assert files.write_at(file.fileno(), [b"ef", b"gh"], 2) == 4
    assert path.read_bytes() == b"abefgh"


def test_where_a_file_is_replaced(tmp_path: Path) -> None:
    """Not where a link is, such as /dev/stdout; and a pipe that such a link leads to has no other path at all."""
    assert files.place(tmp_path / "new") == tmp_path / "new"
    assert files.place(tmp_path) == tmp_path  # to write there says best why that fails
    (tmp_path / "link").symlink_to("file")
    for _ in range(2):
        assert files.place(tmp_path / "link") == tmp_path / "file"
        (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "fifo")
    reader, writer = os.pipe()
    for path in (tmp_path / "fifo", Path(f"/dev/fd/{writer}"), Path("/dev/zero")):
        with pytest.raises(OSError, match="Not a regular file"):
            files.place(path)
    os.close(reader)
    os.close(writer)
