import errno
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from lab import HERE
from pki import TestCA

from errors import RetrievalError
from ledger import Ledger
from serials import MAX_SERIAL, SerialFile

CA = TestCA("op")


def ledger_in(folder: Path) -> Ledger:
    return Ledger(folder, CA.certificate)


def take(serials: SerialFile, notes: list[str] | None = None) -> int:
    """Take one as a process does that has just started: all it knows is on disk."""
    return serials.take(ledger_in(serials.path.parent), [] if notes is None else notes)[0]


@pytest.fixture
def serials(tmp_path: Path) -> SerialFile:
    (tmp_path / "serial.txt").write_text("41\n")
    return SerialFile(tmp_path / "serial.txt")


def test_the_file_holds_the_next_one(serials: SerialFile) -> None:
    assert serials.peek() == 41
    assert [take(serials), take(serials)] == [41, 42]
    assert serials.path.read_text() == "43\n"


@pytest.mark.parametrize("content", ["41", "41\r\n", " 41\n", "\n\t41 \n\n", "0041\n"])
def test_space_around_it_does_not_matter(serials: SerialFile, content: str) -> None:
    """As for the C library, with which Apache Traffic Server's certifier reads the file."""
    serials.path.write_bytes(content.encode())
    assert (serials.peek(), take(serials)) == (41, 41)
    assert serials.path.read_text() == "42\n"


def test_several_at_once(serials: SerialFile) -> None:
    ledger = ledger_in(serials.path.parent)
    assert serials.take(ledger, [], 3) == range(41, 44)
    assert serials.path.read_text() == "44\n"
    assert ledger_in(serials.path.parent).highest() == 43
    serials.path.write_text("41\n")
    assert serials.take(ledger, [], 2) == range(44, 46)


def test_the_serial_of_a_roots_own_certificate_is_passed_over(serials: SerialFile) -> None:
    own = CA.certificate.serial_number
    for first in (own, own - 2):
        serials.path.write_text(f"{first}\n")
        assert serials.take(Ledger(serials.path.parent / f"{first}", CA.certificate), [], 3) == range(own + 1, own + 4)
        assert serials.peek() == own + 4


def test_fewer_left_than_are_wanted(serials: SerialFile) -> None:
    assert MAX_SERIAL.to_bytes(20, signed=True).hex() == "7f" + "ff" * 19  # 20 octets at most, and positive
    serials.path.write_text(f"{MAX_SERIAL - 2}\n")
    with pytest.raises(RetrievalError):
        serials.take(ledger_in(serials.path.parent), [], 3)
    assert serials.take(ledger_in(serials.path.parent), [], 2)[-1] == MAX_SERIAL - 1
    serials.path.write_text(f"{MAX_SERIAL - 1}\n")
    assert serials.peek() == MAX_SERIAL - 1


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
    for step in (serials.peek, lambda: take(serials), serials.check):
        with pytest.raises(RetrievalError, match="must hold one positive decimal number"):
            step()
    assert serials.path.read_text() == content


def test_a_check_makes_a_lock_beside_a_serial_file_alone(serials: SerialFile) -> None:
    lock = serials.path.with_name("serial.txt.lock")
    serials.path.write_text("no number, perhaps another option's file\n")
    with pytest.raises(RetrievalError):
        serials.check()
    assert not lock.exists()
    serials.path.write_text("41\n")
    serials.check(makes_lock=False)
    assert not lock.exists()
    serials.check()
    assert lock.exists()


def test_a_file_that_can_not_be_written_is_found_by_a_check(
    serials: SerialFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    serials.check()
    with monkeypatch.context() as mounted:
        mounted.setattr("io.open", read_only)
        with pytest.raises(OSError, match="Read-only file system"):
            serials.check()
    assert serials.peek() == 41


def test_a_file_without_a_serial_is_told_with_the_highest_that_is_known(serials: SerialFile) -> None:
    take(serials)
    serials.path.write_text("x\n")
    with pytest.raises(RetrievalError, match="the highest that this store has seen is 41"):
        take(serials)


def test_no_serial_twice_in_many_processes_and_threads(serials: SerialFile) -> None:
    script = f"""
import sys
sys.path.insert(0, {str(HERE)!r})
from pathlib import Path
from cryptography import x509
from ledger import Ledger
from serials import SerialFile
serials = SerialFile(Path({str(serials.path)!r}))
ledger = Ledger(serials.path.parent, x509.load_pem_x509_certificate({CA.pem!r}))
print(*[serials.take(ledger, [])[0] for _ in range(50)])
"""
    with ThreadPoolExecutor(6) as pool:
        runs = [
            pool.submit(subprocess.run, [sys.executable, "-c", script], capture_output=True, text=True, check=True)
            for _ in range(4)
        ]
        own = [pool.submit(take, serials) for _ in range(100)]
        taken = [future.result() for future in own]
        for run in runs:
            taken += map(int, run.result().stdout.split())
    assert sorted(taken) == list(range(41, 341))
    assert serials.peek() == 341


@example([None, 41, None])  # the file repeats the last one
@example([1, None])  # the lowest of all
@given(st.lists(st.one_of(st.none(), st.integers(-5, 60), st.sampled_from(["", "x", "7"]))))
def test_no_serial_twice_whatever_the_file_is_made_to_say(
    tmp_path_factory: pytest.TempPathFactory, steps: list[int | str | None]
) -> None:
    """None takes a serial; anything else is written to the file, as a restored backup or rubbish would be."""
    serials = SerialFile(tmp_path_factory.mktemp("serials") / "serial.txt")
    serials.path.write_text("41\n")
    taken: list[int] = []
    for step in steps:
        if step is not None:
            serials.path.write_text(f"{step}\n")
            continue
        says, notes = serials.path.read_text().strip(), list[str]()
        try:
            taken.append(take(serials, notes))
        except RetrievalError:
            assert not (says.isdigit() and int(says) > 0)
        else:
            behind = len(taken) > 1 and int(says) <= taken[-2]
            assert len(notes) == behind
            assert taken[-1] == (taken[-2] + 1 if behind else int(says))
    assert taken == sorted(set(taken))
