"""Things broken on purpose: kill -9 at every step of a write, many processes on one store, disks that fail."""

import os
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from lab import HERE
from pki import TestCA, key_pem, now
from storeroom import LATER
from test_signer import authority_for, files

import cafolder
from keys import KeyStock
from leaves import Leaves
from store import Store
from stored import MARK

# A process that kills itself with SIGKILL right before or after its n-th system call that matters.
SUICIDE = f"""
import os, signal, sys
sys.path.insert(0, {str(HERE)!r})
from datetime import datetime, timedelta, UTC
from pathlib import Path
import ca, cafolder
from keys import KeyStock
from leaves import Leaves, Wanted
from ledger import Ledger
from signer import Authority
from store import Store

folder, step, when, job = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
calls = 0

def deadly(real):
    def call(*arguments, **keywords):
        global calls
        mine, calls = calls, calls + 1
        if mine == step and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        try:
            return real(*arguments, **keywords)
        finally:
            if mine == step and when == "after":
                os.kill(os.getpid(), signal.SIGKILL)
    return call

def arm():
    for name in ("open", "fchmod", "write", "pwrite", "fsync", "fdatasync", "rename", "link", "unlink"):
        if hasattr(os, name):
            setattr(os, name, deadly(getattr(os, name)))

now = datetime.now(UTC)
paths = folder / "ca.crt", folder / "ca.key", folder / "serial.txt"
if job == "make named":  # as on a system where no file is without a name
    vars(os).pop("O_TMPFILE", None)
if job == "ca":
    arm()
    cafolder.load(folder, now)
else:
    CA = ca.load(*paths, now)
    leaves = Leaves(Store(folder / "certs"), Authority(CA, Ledger(folder / "certs", CA.certificate)), KeyStock("p256"))
    if job == "renew":
        now += timedelta(days=31)
    arm()
    leaf = leaves.retrieve("a.example", now, [], Wanted(renew=job == "renew"))
    print(leaf.serial)
"""


def suicide(folder: Path, step: int, when: str, job: str) -> "subprocess.CompletedProcess[str]":
    words = [sys.executable, "-c", SUICIDE, str(folder), str(step), when, job]
    return subprocess.run(words, capture_output=True, text=True, timeout=30, check=False)


def serial_in(path: Path) -> int:
    return int(path.read_text())


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("job", ["make", "make named", "renew"])
@pytest.mark.timeout(120)
def test_kill_at_every_step_of_a_write(tmp_path: Path, job: str, when: str) -> None:
    authority = authority_for(files(tmp_path, TestCA("op")))
    store = Store(tmp_path / "certs")
    leaves = Leaves(store, authority, KeyStock("p256"))
    path = store.path("a.example")
    assert path
    used = set()
    if job == "renew":
        first = leaves.retrieve("a.example", now(), [])
        assert first
        used.add(first.serial)
    old = path.read_bytes() if path.exists() else None
    for step in range(60):
        result = suicide(tmp_path, step, when, job)
        assert serial_in(tmp_path / "serial.txt") > max(used, default=0)
        for file in path.parent.glob("*"):
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
        for file in path.parent.glob(".*"):
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
        found = path.read_bytes() if path.exists() else None
        if found != old:
            assert found is not None
            (stored,) = store.load("a.example")
            leaf = leaves._check(stored, "a.example", now() + timedelta(days=32 if job == "renew" else 1))
            assert leaf.serial not in used
            used.add(leaf.serial)
            if result.returncode == -signal.SIGKILL:  # restore the initial state
                path.unlink() if old is None else path.write_bytes(old)
        if result.returncode == 0:
            break
        assert result.returncode == -signal.SIGKILL, result.stderr
    assert result.returncode == 0
    assert step > 8
    assert any(path.parent.glob(".*.tmp")) == (job != "make" or not hasattr(os, "O_TMPFILE"))
    store.clear_stale()
    assert os.listdir(path.parent) == ["a.example.crt"]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.timeout(120)
def test_kill_at_every_step_of_making_a_ca(tmp_path: Path, when: str) -> None:
    """The next start completes a half-made CA."""
    for step in range(60):
        folder = tmp_path / str(step)
        result = suicide(folder, step, when, "ca")
        again = suicide(folder, 1000, when, "ca")
        assert again.returncode == 0, again.stderr
        assert cafolder.load(folder, now()).warnings == ()
        assert stat.S_IMODE((folder / "ca.key").stat().st_mode) == 0o600
        if result.returncode == 0:
            break
        assert result.returncode == -signal.SIGKILL, result.stderr
    assert result.returncode == 0
    assert step > 8


MANY = f"""
import sys
sys.path.insert(0, {str(HERE)!r})
from datetime import datetime, timedelta, UTC
from pathlib import Path
import ca
from keys import KeyStock
from leaves import Leaves, Wanted
from ledger import Ledger
from signer import Authority
from store import Store
folder, number = Path(sys.argv[1]), int(sys.argv[2])
now = datetime.now(UTC)
paths = folder / "ca.crt", folder / "ca.key", folder / "serial.txt"
CA = ca.load(*paths, now)
leaves = Leaves(Store(folder / "certs"), Authority(CA, Ledger(folder / "certs", CA.certificate)), KeyStock("p256"))
renew = number % 2 == 1
for n in range(200):
    name = f"shared{{n}}.example" if n % 2 else f"own{{number}}-{{n}}.example"
    leaf = leaves.retrieve(name, now, [])
    print(name, leaf.serial)
    if renew:
        leaf = leaves.retrieve(name, now + timedelta(days=31), [], Wanted(renew=True))
        print("renewed", name, leaf.serial)
"""


@pytest.mark.timeout(180)
def test_many_processes_on_one_store_and_one_serial_file(tmp_path: Path) -> None:
    files(tmp_path, TestCA("op"))
    processes = [
        subprocess.Popen([sys.executable, "-c", MANY, str(tmp_path), str(number)], stdout=subprocess.PIPE, text=True)
        for number in range(8)
    ]
    lines = [line.split() for process in processes for line in process.communicate(timeout=150)[0].splitlines()]
    assert all(process.returncode == 0 for process in processes)
    assert len(lines) == 8 * 200 + 4 * 200
    names_of: dict[int, str] = {}
    for *_, name, serial in lines:
        assert names_of.setdefault(int(serial), name) == name  # no serial for two names
    store = Store(tmp_path / "certs")
    on_disk = {}
    for number in range(8):
        for n in range(200):
            name = f"shared{n}.example" if n % 2 else f"own{number}-{n}.example"
            (stored,) = store.load(name)
            assert stored.pem.startswith(MARK)
            on_disk[name] = x509.load_pem_x509_certificate(stored.pem).serial_number
    assert len(on_disk) == 100 + 8 * 100
    assert len(set(on_disk.values())) == len(on_disk)
    assert {name for name in on_disk if on_disk[name] not in names_of} == set()  # what is stored was served
    assert serial_in(tmp_path / "serial.txt") > max(names_of)
    for path in (tmp_path / "certs").glob("???/*"):
        assert re.fullmatch(r"(shared|own)[\d-]+\.example\.crt", path.name)


@pytest.mark.parametrize(
    ("call", "error"), [("fsync", OSError(5, "Input/output error")), ("link", OSError(28, "No space left on device"))]
)
def test_a_disk_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, error: OSError) -> None:
    leaves = Leaves(Store(tmp_path / "certs"), authority_for(files(tmp_path, TestCA("op"))), KeyStock("p256"))

    def fail(*_: object, **__: object) -> None:
        raise error

    original = getattr(os, call)
    broken = leaves._store.save

    def save(*arguments: object) -> object:
        monkeypatch.setattr(os, call, fail)
        try:
            return broken(*arguments)  # type: ignore[arg-type]
        finally:
            monkeypatch.setattr(os, call, original)

    monkeypatch.setattr(leaves._store, "save", save)
    notes: list[str] = []
    assert leaves.retrieve("a.example", now(), notes)
    assert leaves.retrieve("b.example", now(), notes)
    assert notes == [f"the store failed, certificates are in memory only: {error.strerror}"]
    assert [path for path in (tmp_path / "certs").rglob("*") if path.suffix in (".crt", ".tmp")] == []


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_no_file_where_one_should_be(tmp_path: Path, make: Callable[[Path], None]) -> None:
    store = Store(tmp_path / "certs")
    path = store.path("a.example")
    assert path
    path.parent.mkdir()
    make(path)
    leaves = Leaves(store, authority_for(files(tmp_path, TestCA("op"))), KeyStock("p256"))
    notes: list[str] = []
    leaf = leaves.retrieve("a.example", now(), notes)
    assert leaf
    assert leaf.source == "made"
    assert any("Is a directory" in note for note in notes)
    assert not path.is_file()


def test_a_symlink_out_of_the_store(tmp_path: Path) -> None:
    """Nothing is written through it, neither where it points to a file nor to a directory."""
    authority = authority_for(files(tmp_path, TestCA("op")))
    store = Store(tmp_path / "certs")
    outside = tmp_path / "outside"
    outside.mkdir()
    path = store.path("a.example")
    other = store.path("b.example")
    assert path
    assert other
    path.parent.mkdir()
    (outside / "secret").write_bytes(MARK + b"outside")
    path.symlink_to(outside / "secret")
    other.parent.symlink_to(outside)
    leaves = Leaves(store, authority, KeyStock("p256"))
    for name in ("a.example", "b.example"):
        leaf = leaves.retrieve(name, now(), [])
        assert leaf
        assert leaf.source == "made"
    assert os.listdir(outside) == ["secret"]
    assert (outside / "secret").read_bytes() == MARK + b"outside"


def test_a_store_by_apache_traffic_server(tmp_path: Path) -> None:
    """Certificate only, its key the CA's: reissued with a key of its own, the old file kept aside."""
    authority = TestCA("op")
    store = Store(tmp_path / "certs")
    path = store.path("www.example.com")
    assert path
    path.parent.mkdir()
    old = authority.issue("www.example.com", key=authority.key, with_key=False)
    path.write_bytes(old)
    notes: list[str] = []
    leaves = Leaves(store, authority_for(files(tmp_path, authority)), KeyStock("p256"))
    leaf = leaves.retrieve("www.example.com", now() + LATER, notes)
    assert leaf
    assert leaf.source == "made"
    assert key_pem(authority.key) not in leaf.pem
    assert "it has no private key; moved aside" in notes[0]
    assert path.with_name("www.example.com.crt.rejected").read_bytes() == old
