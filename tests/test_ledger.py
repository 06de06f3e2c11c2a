import errno
import os
from pathlib import Path

import pytest
from pki import TestCA, now
from storeroom import Room
from test_health import options
from test_signer import authority_for

import files
from errors import UsageError
from issuance import Issuance
from keys import KeyStock
from leaves import Leaves
from ledger import Ledger


def ledger_of(room: Room) -> Ledger:
    """The ledger of a process that has just started."""
    return Ledger(room.store.root, room.ca.certificate)


def prepared(room: Room) -> Ledger:
    """The same, once it is prepared."""
    ledger, told = ledger_of(room), list[str]()
    room.files.serials.prepare(ledger, told.append)
    assert told == []  # a store this small is read without a message
    return ledger


def test_an_empty_store(room: Room) -> None:
    assert prepared(room).highest() == 0


def test_it_keeps_the_highest_and_reads_no_certificate_for_it(room: Room) -> None:
    made = room.retrieve("a.example", now())
    assert made
    assert ledger_of(room).highest() == made.serial
    ledger_of(room).note(100)
    assert ledger_of(room).highest() == 100


@pytest.mark.parametrize("content", [None, b"", b"x\n", b"12", b"x" * 30])
def test_what_is_not_kept_is_read_from_the_certificates(room: Room, content: bytes | None) -> None:
    made = [room.retrieve(name, now()) for name in ("a.example", "b.example")]
    (kept,) = (room.store.root / ".serials").iterdir()
    if content is None:
        kept.unlink()
    else:
        kept.write_bytes(content)
    room.place(TestCA("another").issue("www.example.com"))
    assert made[1]
    assert ledger_of(room).highest() == 0
    assert prepared(room).highest() == made[1].serial
    assert kept.read_bytes() == b"%d\n" % made[1].serial


def test_a_store_of_another_program_counts_and_a_random_serial_does_not(room: Room) -> None:
    room.place(room.ca.issue("www.example.com", with_key=False, serial=500))
    other = room.path.with_name("x.crt.rejected.1")
    other.write_bytes(room.ca.issue("x", with_key=False, serial=501))
    room.path.with_name("y.crt").write_bytes(room.ca.issue("y", serial=1 << 150))
    room.path.with_name("z.crt").write_bytes(TestCA("another").issue("z", serial=900))
    room.path.with_name("rubbish.crt").write_bytes(b"x")
    room.path.with_name("folder.crt").mkdir()
    (room.store.root / "abc").write_bytes(b"where a folder would be")
    assert prepared(room).highest() == 501


def test_what_others_signed_counts_for_nothing(room: Room) -> None:
    room.place(TestCA("another").issue("www.example.com", serial=900))
    assert ledger_of(room).read(print) == 0


def test_our_own_count_however_long_their_serial_is(room: Room) -> None:
    """An operator's serial file may start at any number."""
    (room.folder / "serial.txt").write_text(f"{1 << 100}\n")
    made = room.retrieve("a.example", now())
    (kept,) = (room.store.root / ".serials").iterdir()
    kept.unlink()
    assert made
    assert prepared(room).highest() == made.serial == 1 << 100


def test_what_is_noted_leaves_no_descriptor_open(room: Room) -> None:
    ledger = prepared(room)
    before = set(os.listdir("/proc/self/fd"))
    ledger.note(5)
    assert set(os.listdir("/proc/self/fd")) <= before


def test_nobody_else_reads_it_and_nothing_is_written_behind_a_link(room: Room, tmp_path: Path) -> None:
    room.retrieve("a.example", now())
    folder = room.store.root / ".serials"
    (kept,) = folder.iterdir()
    assert (kept.stat().st_mode & 0o777, folder.stat().st_mode & 0o777) == (0o600, 0o700)
    outside = tmp_path / "outside"
    outside.write_bytes(b"kept")
    kept.unlink()
    kept.symlink_to(outside)
    ledger_of(room).note(5)
    assert outside.read_bytes() == b"kept"


def test_what_another_process_keeps_meanwhile_stays(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ledger._MANY", 0)
    room.place(room.ca.issue("www.example.com", with_key=False, serial=500))
    told = list[str]()

    def meanwhile(sentence: str) -> None:
        told.append(sentence)
        ledger_of(room).note(700)

    ledger = ledger_of(room)
    room.files.serials.prepare(ledger, meanwhile)
    room.files.serials.prepare(ledger, meanwhile)
    assert told == ["reading all certificates in the store, once, for the serial numbers that this CA has used"]
    assert ledger.highest() == 700


def test_what_is_kept_is_changed_by_one_process_at_a_time(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another one may have taken a higher serial meanwhile."""
    monkeypatch.setattr("files.LOCK_SECONDS", 0)
    serials, ledger = room.files.serials, ledger_of(room)
    with files.locked(serials.path.with_name(serials.path.name + ".lock")):
        with pytest.raises(TimeoutError):
            serials.prepare(ledger, print)
    assert ledger.kept() is None
    serials.prepare(ledger, print)
    assert ledger.kept() == 0


def test_the_store_is_not_read_for_a_ca_made_just_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ledger._MANY", 0)
    chosen = options(tmp_path)
    Room(tmp_path).place(TestCA("another").issue("www.example.com"))
    told = list[str]()
    for _ in range(2):
        Issuance(chosen, now(), tell=told.append)
    assert told == []
    (kept,) = (tmp_path / "certs" / ".serials").iterdir()
    kept.unlink()
    Issuance(chosen, now(), tell=told.append)
    assert len(told) == 1


def test_a_folder_that_fails_is_not_taken_for_empty(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may hold the highest serial of all. A folder that may not be read is skipped."""
    room.place(room.ca.issue("www.example.com", serial=500))
    code, scandir = errno.EIO, os.scandir

    def faulty(path: Path | str) -> object:
        if Path(path) == room.path.parent:
            raise OSError(code, os.strerror(code))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", faulty)
    with pytest.raises(OSError, match="Input/output error"):
        room.files.serials.prepare(ledger_of(room), list[str]().append)
    code = errno.EACCES
    assert prepared(room).highest() == 0


def test_a_store_whose_serial_numbers_cannot_be_seen_ends_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = options(tmp_path)
    Issuance(chosen, now())
    (kept,) = (tmp_path / "certs" / ".serials").iterdir()
    kept.unlink()
    room = Room(tmp_path)
    room.place(room.ca.issue("www.example.com"))
    scandir = os.scandir

    def faulty(path: Path | str) -> object:
        if Path(path) == room.path.parent:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return scandir(path)

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(os, "scandir", faulty)
        with pytest.raises(UsageError, match=r"can't see which serial numbers are used in .*: Input/output error"):
            Issuance(chosen, now())
    Issuance(chosen, now())


def test_a_new_root_for_an_old_key_loses_nothing_of_what_that_has_signed(tmp_path: Path) -> None:
    chosen = options(tmp_path)
    certificate, serials = tmp_path / "ca" / "ca.crt", tmp_path / "ca" / "serial.txt"

    def taken(name: str) -> int:
        leaf = Issuance(chosen, now()).leaves.retrieve(name, now(), [])
        assert leaf
        return leaf.serial

    Issuance(chosen, now())
    backup = certificate.read_bytes(), serials.read_bytes()
    highest = max(taken(name) for name in ("a.example", "b.example"))
    certificate.unlink()
    Issuance(chosen, now())  # makes a new root for the key
    certificate.write_bytes(backup[0])
    serials.write_bytes(backup[1])
    assert taken("c.example") == highest + 1


@pytest.mark.parametrize("running", [True, False])
def test_a_serial_file_restored_from_a_backup(room: Room, running: bool) -> None:
    path = room.folder / "serial.txt"
    leaves = room.leaves
    seen = set()
    backup = path.read_text()
    for name in ("a.example", "b.example"):
        leaf = room.retrieve(name, now())
        assert leaf
        seen.add(leaf.serial)
    path.write_text(backup)
    if not running:
        leaves = Leaves(room.store, authority_for(room.files), KeyStock("p256"))
    leaf = room.retrieve("c.example", now(), leaves=leaves)
    assert leaf
    assert leaf.serial == max(seen) + 1
    assert any("this store has seen 8: going on after that" in note for note in room.notes)
    assert path.read_text() == f"{leaf.serial + 1}\n"


def test_a_store_that_cannot_be_written_still_repeats_nothing(room: Room) -> None:
    ledger = ledger_of(room)
    (room.store.root / ".serials").write_bytes(b"in the way")
    ledger.note(9)
    assert ledger.highest() == 9
