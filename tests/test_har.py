import errno
import gzip
import json
import os
import signal
import stat
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from lab import HERE
from test_harentry import SCHEMA, exchange
from test_requestlog import largest_file

from exchange import Exchange
from har import HarFile
from rotation import KEEP

TYPE = [(b"Content-Type", b"text/plain")]


def entries(path: Path) -> list[str]:
    """Check that the file is valid HAR as it stands; return the targets of its requests."""
    told = json.loads(path.read_text())
    SCHEMA.validate(told)
    return [entry["request"]["url"].removeprefix("https://a.example") for entry in told["log"]["entries"]]


def open_(path: Path, **limits: int) -> HarFile:
    return HarFile(path, "1.0", 1000, **limits)


def test_it_is_valid_after_each_entry(tmp_path: Path) -> None:
    path = tmp_path / "a.har"
    file = open_(path)
    assert entries(path) == []
    for n in range(3):
        file.append(exchange(target=f"/{n}", received="é\n\u2028".encode(), answer=TYPE))
        assert entries(path) == [f"/{m}" for m in range(n + 1)]
    file.append(exchange(target="/3"), exchange(target="/4"))
    assert entries(path) == ["/0", "/1", "/2", "/3", "/4"]
    assert "é".encode() in path.read_bytes()  # not escaped, which takes three times as much
    file.close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert json.loads(path.read_text())["log"]["creator"] == {"name": "certifier", "version": "1.0"}


def test_two_copies_take_turns(tmp_path: Path) -> None:
    """Without being copied anew, which would cost more with each entry."""
    path, spare = tmp_path / "a.har", tmp_path / ".a.har.spare"
    file = open_(path)
    with path.open("rb") as one, spare.open("rb") as other:  # so that no new file can have their numbers
        copies = [os.fstat(copy.fileno()).st_ino for copy in (one, other)]
        for _ in range(4):
            file.append(exchange())
            copies.reverse()
            assert [path.stat().st_ino, spare.stat().st_ino] == copies
    file.close()


@pytest.mark.parametrize("before", [True, False], ids=["at-first", "later"])
@pytest.mark.parametrize("mode", [0o640, 0o644])
def test_the_mode_that_an_operator_chose_stays(tmp_path: Path, mode: int, before: bool) -> None:
    path = tmp_path / "a.har"
    path.touch()
    path.chmod(mode if before else 0o600)
    file = open_(path)
    file.append(exchange(target="/0"))
    if not before:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        path.chmod(mode)
    for n in range(1, 4):
        file.append(exchange(target=f"/{n}"))
        assert stat.S_IMODE(path.stat().st_mode) == mode
    file.close()
    assert entries(path) == [f"/{n}" for n in range(4)]


def test_a_mode_that_is_made_stricter_holds_for_the_spare_too(tmp_path: Path) -> None:
    path = tmp_path / "a.har"
    path.touch()
    path.chmod(0o644)
    file = open_(path)
    file.append(exchange(target="/0"))
    path.chmod(0o600)
    file.append(exchange(target="/1"))
    assert {stat.S_IMODE(found.stat().st_mode) for found in tmp_path.iterdir()} == {0o600}
    assert len(list(tmp_path.iterdir())) == 2
    file.close()


def test_a_file_of_ours_is_continued(tmp_path: Path) -> None:
    path = tmp_path / "a.har"
    for n in range(3):
        for _ in range(2):  # the first time without adding an entry
            file = open_(path)
            if _:
                file.append(exchange(target=f"/{n}"))
            file.close()
    assert entries(path) == ["/0", "/1", "/2"]


@pytest.mark.parametrize(
    "content",
    [
        b"{}",
        b'{"log":{"version":"1.2","creator":{"name":"Firefox"}}}',
        b'{"log":{"version":"1.2","creator":{"name":"Firefox","version":"1"},"pages":[],"entries":[\n]}}\n',
        b"\n" * 100,
        b"x" * 9999,
    ],
)
def test_any_other_file_is_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.har"
    path.write_bytes(content)
    with pytest.raises(FileExistsError):
        open_(path)
    assert path.read_bytes() == content


def test_one_writer_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a.har"
    first = open_(path)
    for _ in range(3):  # whichever of the two copies is the file
        with pytest.raises(BlockingIOError):
            open_(path)
        first.append(exchange())
    first.close()
    open_(path).close()
    assert entries(path) == ["/x"] * 3


def test_what_a_kill_left_is_removed(tmp_path: Path) -> None:
    for name in (".a.har.spare", ".a.har.swap"):
        (tmp_path / name).write_bytes(b"left")
    file = open_(tmp_path / "a.har")
    file.append(exchange())
    file.close()
    assert entries(tmp_path / "a.har") == ["/x"]
    assert os.listdir(tmp_path) == ["a.har"]


def test_rotation_keeps_so_many_files(tmp_path: Path) -> None:
    path = tmp_path / "a.b.har"
    one = open_(tmp_path / "one.har")
    one.append(exchange(target="/0"))
    one.close()
    file = open_(path, max_size=(tmp_path / "one.har").stat().st_size)
    for n in range(KEEP + 3):
        file.append(exchange(target=f"/{n}"))
    file.append(exchange(target="/large", received=bytes(900)))
    file.close()
    (tmp_path / "one.har").unlink()
    kept = {f"a.b.{number}.har": [f"/{KEEP + 3 - number}"] for number in range(1, KEEP + 1)}
    assert {path.name: entries(path) for path in tmp_path.iterdir()} == {"a.b.har": ["/large"], **kept}


def test_an_entry_too_large_for_any_file_leaves_no_empty_one(tmp_path: Path) -> None:
    file = open_(tmp_path / "a.har", max_size=1)
    for n in range(2):
        file.append(exchange(target=f"/{n}"))
    file.close()
    assert {path.name: entries(path) for path in tmp_path.iterdir()} == {"a.har": ["/1"], "a.1.har": ["/0"]}


def test_rotation_leaves_no_descriptors_behind(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    file = open_(tmp_path / "a.har", max_size=1)
    for n in range(5):
        file.append(exchange(target=f"/{n}"))
    file.close()
    assert len(os.listdir("/proc/self/fd")) == before


def written(file: HarFile, made: list[Exchange]) -> list[int]:
    """Write all exchanges; return how many went into each lot."""
    lots = []
    while made:
        lots.append(file.append(*made))
        made = made[lots[-1] :]
    return lots


@pytest.mark.parametrize("character", [b"\0", b'"'])
def test_what_a_few_octets_stand_for_is_not_in_memory_at_once(tmp_path: Path, character: bytes) -> None:
    """A thousand octets of gzip expand to a MiB of text; escaped in JSON, that would be up to six MiB."""
    fields = [*TYPE, (b"Content-Encoding", b"gzip")]
    made = [exchange(received=gzip.compress(character * (1 << 20)), answer=fields, limit=2000) for _ in range(30)]
    file = HarFile(tmp_path / "a.har", "1.0", 1 << 20, max_size=10 << 20)
    tracemalloc.start()
    try:
        assert written(file, made) == [1] * 30
        assert tracemalloc.get_traced_memory()[1] < 24 << 20
    finally:
        tracemalloc.stop()
    file.close()
    assert sum(len(entries(path)) for path in tmp_path.iterdir()) == 30
    assert max(path.stat().st_size for path in tmp_path.iterdir()) <= 10 << 20


def test_small_entries_are_written_at_once(tmp_path: Path) -> None:
    file = open_(tmp_path / "a.har")
    assert written(file, []) == []
    assert written(file, [exchange(target=f"/{n}") for n in range(100)]) == [100]
    file.close()
    assert entries(tmp_path / "a.har") == [f"/{n}" for n in range(100)]


@pytest.mark.parametrize("first", [True, False], ids=["of an empty file", "of a file with an entry"])
@pytest.mark.parametrize("more", [-1, 0])
def test_a_lot_fills_its_file_to_the_last_octet(tmp_path: Path, more: int, first: bool) -> None:
    made = [exchange(target=f"/{n}") for n in range(3)]
    one = open_(tmp_path / "one.har")
    one.append(*made)
    one.close()
    size = (tmp_path / "one.har").stat().st_size + more
    file = open_(tmp_path / "a.har", max_size=size)
    before = [] if first else [file.append(made.pop(0))]
    assert sum(before + written(file, made)[:1]) == (2 if more < 0 else 3)
    file.close()
    assert max(path.stat().st_size for path in tmp_path.glob("a*.har")) <= size


def test_a_lot_ends_where_the_file_does(tmp_path: Path) -> None:
    """A lot never exceeds the maximum size of a file; an entry that does so by itself gets a file of its own."""
    one = open_(tmp_path / "one.har")
    one.append(*[exchange(target=f"/{n}") for n in range(3)])
    one.close()
    size = (tmp_path / "one.har").stat().st_size
    file = open_(tmp_path / "a.har", max_size=size)
    made = [exchange(target=f"/{n}") for n in range(5)] + [exchange(target="/5", received=bytes(999))] * 2
    assert written(file, made) == [3, 1, 1, 1, 1]
    file.close()
    assert [entries(tmp_path / f"a{n}.har") for n in (".3", ".2", ".1", "")] == [
        ["/0", "/1", "/2"], ["/3", "/4"], ["/5"], ["/5"],
    ]  # fmt: skip


def test_a_full_disk_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "a.har"
    file = open_(path)
    file.append(exchange(target="/1"))
    before = path.read_bytes()
    for room in (0, 3, 200):
        with largest_file(len(before) + room), pytest.raises(OSError, match=r"File too large|No space left") as raised:
            file.append(exchange(target="/2"))
        assert raised.value.errno in (errno.EFBIG, errno.ENOSPC)
        assert path.read_bytes() == before
    file.append(exchange(target="/3"))
    assert entries(path) == ["/1", "/3"]
    file.close()


def test_renamed_or_removed_by_someone_else(tmp_path: Path) -> None:
    path = tmp_path / "a.har"
    file = open_(path)
    file.append(exchange(target="/1"))
    path.rename(tmp_path / "moved.har")
    file.append(exchange(target="/2"))
    path.unlink()
    file.append(exchange(target="/3"))
    file.append(exchange(target="/4"))
    file.close()
    assert entries(tmp_path / "moved.har") == ["/1"]
    assert entries(path) == ["/3", "/4"]


def test_another_file_in_its_place(tmp_path: Path) -> None:
    """logrotate puts an empty file there: entries must go into that, not into the renamed one."""
    path = tmp_path / "a.har"
    file = open_(path)
    for n in range(3):
        file.append(exchange(target=f"/{n}"))
    before = path.read_bytes()
    path.rename(tmp_path / "rotated.har")
    path.touch()
    for n in range(3, 6):
        file.append(exchange(target=f"/{n}"))
        assert entries(path) == [f"/{m}" for m in range(3, n + 1)]
    assert (tmp_path / "rotated.har").read_bytes() == before
    path.unlink()
    path.write_bytes(b"a file of someone's")
    for n in range(2):
        with pytest.raises(FileExistsError):
            file.append(exchange(target=f"/{n}"))
        assert path.read_bytes() == b"a file of someone's"
    path.unlink()
    file.append(exchange(target="/6"))
    file.close()
    assert entries(path) == ["/6"]


@pytest.mark.parametrize("create", [True, False], ids=["create", "nocreate"])
@pytest.mark.parametrize("step", range(4))
def test_renamed_while_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, create: bool) -> None:
    """By logrotate, before any step of swapping the two copies, or after the last: no entry ends up in both files."""
    path, rotated = tmp_path / "a.har", tmp_path / "rotated.har"
    file = open_(path)
    file.append(exchange(target="/1"))
    left = step

    def rotating(real: Callable[..., None]) -> Callable[..., None]:
        def turn(source: Path, target: Path, **options: object) -> None:
            nonlocal left
            if left == 0:
                rename(path, rotated)
                if create:
                    path.touch()
            left -= 1
            real(source, target, **options)

        return turn

    link, rename = os.link, os.rename
    monkeypatch.setattr(os, "link", rotating(link))
    monkeypatch.setattr(os, "rename", rotating(rename))
    for n in (2, 3, 4):
        file.append(exchange(target=f"/{n}"))
    file.close()
    assert entries(rotated) + entries(path) == ["/1", "/2", "/3", "/4"]


def test_where_an_open_file_keeps_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NFS and FUSE's library give one that is replaced or removed a hidden name, until it is closed."""
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    rename, unlink = os.rename, os.unlink

    def keep(path: Path) -> None:
        if path.exists():
            os.link(path, hidden / str(len(os.listdir(hidden))))

    def renamed(source: Path, target: Path) -> None:
        keep(target)
        rename(source, target)

    def removed(path: Path) -> None:
        keep(path)
        unlink(path)

    monkeypatch.setattr(os, "rename", renamed)
    monkeypatch.setattr(os, "unlink", removed)
    path = tmp_path / "a.har"
    file = open_(path)
    for n in range(1, 5):
        file.append(exchange(target=f"/{n}"))
        assert entries(path) == [f"/{m}" for m in range(1, n + 1)]


def test_where_there_are_no_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on FAT: that is an error at once, and leaves nothing but the file."""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(PermissionError):
        open_(tmp_path / "a.har")
    assert os.listdir(tmp_path) == ["a.har"]


def test_emptied_by_someone_else(tmp_path: Path) -> None:
    """Either copy, by somebody who finds that it has grown large."""
    path = tmp_path / "a.har"
    path.touch()
    file = open_(path)
    for n in range(3):
        file.append(exchange(target=f"/{n}"))
        os.truncate(path, 0)
        for _ in range(n):
            file.append(exchange(target=f"/{n}"))
            assert set(entries(path)) == {f"/{n}"}
    spare = tmp_path / ".a.har.spare"
    file.append(exchange(target="/3"))
    os.truncate(spare, 0)
    for n in (4, 5):
        file.append(exchange(target=f"/{n}"))
        assert entries(path)[-1] == f"/{n}"
    assert entries(path) == ["/2", "/2", "/3", "/4", "/5"]
    os.truncate(path, 100)  # what is left is not a whole HAR file
    with pytest.raises(FileExistsError):
        file.append(exchange(target="/6"))
    path.unlink()
    file.append(exchange(target="/7"))
    file.close()
    assert entries(path) == ["/7"]


@pytest.mark.parametrize("copy", ["a.har", ".a.har.spare"])
def test_emptied_while_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, copy: str) -> None:
    """By logrotate's copytruncate, which may have opened the copy that is hidden by now."""
    path = tmp_path / "a.har"
    file = open_(path)
    for n in (1, 2):
        file.append(exchange(target=f"/{n}"))
    write = os.pwritev

    def emptied(*given: object) -> int:
        monkeypatch.setattr(os, "pwritev", write)
        os.truncate(tmp_path / copy, 0)
        return write(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "pwritev", emptied)
    for n in (3, 4, 5):
        file.append(exchange(target=f"/{n}"))
        assert entries(path) == [f"/{m}" for m in range(1, n + 1)]
    file.close()


def test_a_link_stays_where_it_is(tmp_path: Path) -> None:
    """It may be /dev/stdout, and replacing that would affect the whole system."""
    (tmp_path / "disk").mkdir()
    link = tmp_path / "link.har"
    link.symlink_to("disk/a.har")
    file = open_(link)
    for n in range(3):
        file.append(exchange(target=f"/{n}"))
        assert entries(link) == [f"/{m}" for m in range(n + 1)]
    file.close()
    assert link.is_symlink()
    assert os.listdir(tmp_path / "disk") == ["a.har"]


def test_what_is_no_file_is_refused_and_stays(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with pytest.raises(OSError, match="Not a regular file"):
        open_(fifo)
    assert os.listdir(tmp_path) == ["fifo"]


def test_a_folder_that_is_gone_and_comes_back(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    file = open_(folder / "a.har")
    folder.rename(tmp_path / "elsewhere")
    for _ in range(2):
        with pytest.raises(FileNotFoundError):
            file.append(exchange(target="/1"))
    folder.mkdir()
    file.append(exchange(target="/2"), exchange(target="/3"))
    file.close()
    assert entries(folder / "a.har") == ["/2", "/3"]


WRITER = """
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
sys.path[:0] = sys.argv[3:]
from exchange import Exchange
from har import HarFile
from watching import Seen
octets = int(sys.argv[2])
file = HarFile(Path(sys.argv[1]), "1.0", octets)
recorder = Seen().recorder(octets)
made = recorder.request("GET", "a.example", "/x", "1.1", [])
recorder.download(made, bytes(octets), 0, octets)
print("ready", flush=True)
while True:
    file.append(made)
"""


@pytest.mark.parametrize("octets", [100, 300_000])
def test_killed_while_it_writes_the_file_is_valid_as_it_is(tmp_path: Path, octets: int) -> None:
    path = tmp_path / "a.har"
    for _ in range(6):
        words = [sys.executable, "-c", WRITER, str(path), str(octets), str(HERE), str(HERE / "tests")]
        with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
            assert process.stdout
            assert process.stdout.readline() == b"ready\n"
            seen = {path.stat().st_ino}
            while len(seen) < 2 or path.stat().st_size < 20 * octets:  # until both copies have been live
                seen.add(path.stat().st_ino)
            process.send_signal(signal.SIGKILL)
        found = entries(path)
        assert len(found) > 2
        assert set(found) == {"/x"}
    open_(path).close()
    assert entries(path) == found
    assert os.listdir(tmp_path) == ["a.har"]
