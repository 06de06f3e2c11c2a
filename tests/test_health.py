import errno
import fcntl
import os
import shutil
from datetime import datetime
from pathlib import Path

import gevent
import pytest
from gevent.monkey import get_original
from lab import WAIT
from pki import now
from test_contexts import Clock

import health
from cafolder import VALIDITY, files_in
from health import LOOK_SECONDS, Health
from issuance import Issuance
from leaf import BACKDATED
from options import CaOptions, LeafOptions
from workers import Workers


def options(folder: Path, ca: bool = True) -> LeafOptions:
    (folder / "certs").mkdir(exist_ok=True)
    chosen = CaOptions(folder / "ca", files_in(folder / "ca"), "") if ca else CaOptions(None, None, "")
    return LeafOptions(folder / "certs", chosen, "p256", 45, None)


class Room:
    """Certificates in a folder, and a clock."""

    def __init__(self, folder: Path, ca: bool = True) -> None:
        self.clock = Clock()
        self.store = folder / "certs"
        self.health = Health(Issuance(options(folder, ca), now()), Workers(), self.clock)

    def later(self) -> str | None:
        self.clock.advance(seconds=LOOK_SECONDS)
        return self.health.fault()


def test_a_store_that_goes_and_comes_back(tmp_path: Path) -> None:
    room = Room(tmp_path)
    assert room.health.fault() is None
    assert [path.name for path in room.store.iterdir() if path.name not in (".lock", ".serials")] == []
    shutil.rmtree(room.store)
    assert room.health.fault() is None  # not checked again so soon
    assert room.later() == "the store can't be written: No such file or directory"
    room.store.mkdir()
    assert room.later() is None


def test_a_ca_that_expired(tmp_path: Path) -> None:
    room = Room(tmp_path)
    room.clock.advance(days=VALIDITY.days - 1)
    assert room.health.fault() is None
    room.clock.advance(hours=23, minutes=57)
    assert (room.health.fault() or "").startswith("the CA certificate ends on 20")  # and signs nothing any more
    room.clock.advance(days=1)
    assert (room.health.fault() or "").startswith("the CA certificate expired on 20")


def test_a_clock_that_was_set_back_to_before_the_ca(tmp_path: Path) -> None:
    room = Room(tmp_path)
    room.clock.advance(days=-BACKDATED.days, seconds=2 * LOOK_SECONDS)
    assert room.health.fault() is None
    room.clock.advance(seconds=-3 * LOOK_SECONDS)
    fault = room.health.fault() or ""
    assert fault.startswith("the CA certificate is not valid before 20")
    assert fault.endswith("check this machine's clock")
    room.clock.advance(days=BACKDATED.days)
    assert room.health.fault() is None


def test_serial_numbers_that_cannot_be_taken(tmp_path: Path) -> None:
    room = Room(tmp_path)
    serials = tmp_path / "ca" / "serial.txt"
    good = serials.read_bytes()
    serials.write_bytes(b"zzz\n")
    assert "must hold one positive decimal number" in (room.later() or "")
    serials.unlink()
    assert room.later() == f"no serial number can be taken: {serials}: No such file or directory"
    serials.write_bytes(good)
    assert room.later() is None
    assert serials.read_bytes() == good


def test_a_lock_that_another_process_holds_is_not_taken_for_a_disk_that_does_not_answer(tmp_path: Path) -> None:
    room = Room(tmp_path)
    lock = tmp_path / "ca" / "serial.txt.lock"
    with lock.open("r+b") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert room.later() == f"no serial number can be taken: another process holds the lock {lock}"
    assert room.later() is None


def test_without_a_ca_the_store_need_only_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(*_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    room, other = Room(tmp_path, ca=False), Room(tmp_path)
    with monkeypatch.context() as mounted:
        mounted.setattr(os, "fsync", read_only)
        assert room.health.fault() is None
        assert other.health.fault() == "the store can't be written: Read-only file system"
    shutil.rmtree(room.store)
    room = Room(tmp_path, ca=False)
    assert [path.name for path in room.store.iterdir() if path.name != ".lock"] == []
    shutil.rmtree(room.store)
    assert room.later() == "the store can't be read: No such file or directory"


class Stuck(Issuance):
    """Its disk does not answer until it is released."""

    looks = 0
    stuck = True

    def fault(self, now: datetime) -> str | None:
        self.looks += 1
        while self.stuck:
            get_original("time", "sleep")(0.01)  # on the pool's thread
        return super().fault(now)


def test_a_disk_that_does_not_answer_holds_up_nobody_for_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "ANSWER_SECONDS", 0.1)
    issuance = Stuck(options(tmp_path), now())
    looked = Health(issuance, Workers(), Clock())
    askers = [gevent.spawn(looked.fault) for _ in range(50)]
    gevent.joinall(askers, timeout=WAIT)
    assert {asker.value for asker in askers} == {"the store's disk does not answer"}
    assert issuance.looks == 1
    issuance.stuck = False
    monkeypatch.setattr(health, "ANSWER_SECONDS", 10)
    assert looked.fault() is None
