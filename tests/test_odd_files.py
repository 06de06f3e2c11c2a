"""Files in a store that can't be read, or whose names are no DNS names: nothing else is affected."""

import os
import sys
from datetime import timedelta
from pathlib import Path, PosixPath

import pytest
from lab import HERE, run
from pki import key_pem, new_key, now
from storeroom import LATER, NAME, Room
from test_commands import PROGRAM, STORE, command
from test_store import PEM, place

import reading
from errors import RetrievalError
from store import Failures, Occupied
from stored import MARK, Stored

UTF_8 = os.environ | {"PYTHONUTF8": "1", "PYTHONIOENCODING": "utf-8:strict"}
ODD_NAMES = (b"a\nb.crt", b"a\xff.crt")
ODD_ESCAPED = ("a\\nb", "a\\udcff")


def test_a_link_to_nowhere_is_something_that_cannot_be_read(room: Room) -> None:
    path = room.store.path("a.example")
    assert path is not None
    path.parent.mkdir()
    path.symlink_to("nowhere")
    with pytest.raises(FileNotFoundError):
        room.store.load("a.example")
    for replacing in (None, Stored(PEM, True, path)):
        with pytest.raises(Occupied):
            room.store.save("a.example", PEM, replacing)
    assert os.readlink(path) == "nowhere"


class Coming(PosixPath):
    """A file that another process creates right after it was looked for in vain."""

    def lstat(self) -> os.stat_result:
        self.write_bytes(MARK + PEM)
        return super().lstat()


def test_a_file_that_comes_while_it_is_looked_for_is_read(tmp_path: Path) -> None:
    assert Stored.load(Coming(tmp_path / "a.crt")) == Stored(MARK + PEM, True, tmp_path / "a.crt")


def test_what_was_set_aside_as_a_link_to_nowhere_is_not_overwritten(room: Room) -> None:
    path = place(room.store, "a.example", b"rubbish")
    aside = path.with_name("a.example.crt.rejected")
    aside.symlink_to("nowhere")
    (stored,) = room.store.load("a.example")
    assert room.store.reject(stored)
    assert os.readlink(aside) == "nowhere"
    assert path.with_name("a.example.crt.rejected.1").read_bytes() == b"rubbish"


def test_what_can_be_read_is_told_beside_what_cannot(room: Room) -> None:
    path = room.store.path("_.example.com")
    assert path is not None
    path.mkdir(parents=True)
    own = room.store.save("a.example.com", PEM)
    failures: Failures = []
    assert room.store.load("a.example.com", failures) == [own]
    ((where, error),) = failures
    assert (where, type(error)) == (path, IsADirectoryError)


@pytest.mark.parametrize("replacing", [True, False])
def test_what_stands_in_its_place_and_cannot_be_read_is_no_store_that_fails(room: Room, replacing: bool) -> None:
    saved = room.store.save("a.example", PEM)
    assert saved is not None
    saved.path.unlink()
    saved.path.mkdir()
    with pytest.raises(Occupied, match="directory"):
        room.store.save("a.example", PEM, saved if replacing else None)
    assert os.listdir(saved.path.parent) == ["a.example.crt"]


def directory(room: Room, name: str) -> Path:
    path = room.store.path(name)
    assert path
    path.mkdir(parents=True)
    return path


def test_a_wildcard_that_cannot_be_read_hides_no_other_file(room: Room) -> None:
    """Our own certificate is served and renewed; the problem is logged once."""
    path = directory(room, "_.example.com")
    made = room.retrieve(NAME, now())
    assert made
    problem = f"can't read the stored certificate for {NAME}, {path}: Is a directory or no regular file"
    assert room.notes == [problem]
    again = room.retrieve(NAME, now())
    assert again
    assert (again.source, again.serial, room.notes) == ("disk", made.serial, [])
    later = now() + timedelta(days=46)
    renewed, last = room.retrieve(NAME, later), room.retrieve(NAME, later)
    assert renewed
    assert last
    assert last.serial == renewed.serial == made.serial + 1
    room.place(room.ca.issue(NAME))
    for leaves in (room.leaves, room.off):
        found = room.retrieve(NAME, now(), leaves=leaves)
        assert found
        assert not found.ours
        assert room.notes == ([] if leaves is room.leaves else [problem])  # once each


def test_what_was_told_is_not_remembered_without_end(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("leaves._MOST_TOLD", 1)
    directory(room, "_.example.com")
    told = list[int]()
    for label in "abaca":
        room.retrieve(f"{label}.example.com", now())
        told.append(len(room.notes))
    assert told == [1, 1, 0, 1, 1]


@pytest.mark.parametrize("exact", [None, b"rubbish"])
def test_without_a_ca_and_but_for_a_file_that_cannot_be_read_it_is_an_error(room: Room, exact: bytes | None) -> None:
    directory(room, "_.example.com")
    if exact is not None:
        room.place(exact)
    with pytest.raises(RetrievalError, match="can't read the stored certificate"):
        room.retrieve(NAME, now() + LATER, leaves=room.off)
    assert room.path.with_name(room.path.name + ".rejected").exists() is (exact is not None)


def test_an_operators_link_to_nowhere(room: Room) -> None:
    """Something is meant to be there: without a CA the tunnel must not pass untouched."""
    room.path.parent.mkdir()
    room.path.symlink_to("nowhere")
    with pytest.raises(RetrievalError, match="No such file or directory"):
        room.retrieve(NAME, now(), leaves=room.off)
    made = room.retrieve(NAME, now())
    assert made
    assert not made.in_store
    assert len(room.notes) == 2
    assert room.retrieve(NAME, now())
    assert room.notes == []
    (room.path.parent / "nowhere").write_bytes(room.ca.issue(NAME))
    found = room.retrieve(NAME, now())
    assert found
    assert not found.ours


@pytest.mark.parametrize(
    ("link", "why"), [(True, "No such file or directory"), (False, "Is a directory or no regular")]
)
def test_a_key_that_cannot_be_read_is_told_by_its_name(room: Room, link: bool, why: str) -> None:
    """And its certificate is left where it is: the key's volume may not be mounted yet."""
    key = new_key()
    room.place(room.ca.issue(NAME, key=key, with_key=False))
    path = room.path.with_suffix(".key")
    if link:
        path.symlink_to("nowhere")
    else:
        path.mkdir()
    assert room.retrieve(NAME, now())
    assert f"can't read the stored certificate for {NAME}, {path}: {why}" in room.notes[0]
    found = command(room, "check", STORE)
    assert f"{path.relative_to(room.folder)}: it can't be read: {why}" in found.stdout
    if link:
        (path.parent / "nowhere").write_bytes(key_pem(key))
        served = room.retrieve(NAME, now())
        assert served
        assert not served.ours


def test_one_odd_file_is_no_store_that_fails(room: Room) -> None:
    """It is logged once for its name, and does not affect other names."""
    path = directory(room, "odd.example")
    told = []
    for name in ("odd.example", "a.example", "odd.example", "b.example"):
        assert room.retrieve(name, now())
        told += room.notes
    assert told == [
        f"can't read the stored certificate for odd.example, {path}: Is a directory or no regular file",
        "the certificate for odd.example is in memory only: Is a directory or no regular file",
    ]


def place_oddly(room: Room, content: bytes) -> None:
    (room.store.root / "abc").mkdir()
    for name in ODD_NAMES:
        path = Path(os.fsdecode(os.fsencode(room.store.root / "abc") + b"/" + name))
        path.write_bytes(content)
        path.chmod(0o604)


def test_prune_of_names_that_are_none(room: Room) -> None:
    """Not in UTF-8, and with a newline."""
    place_oddly(room, MARK)
    found = run(*PROGRAM, "prune", STORE, "--dry-run", cwd=room.folder, env=UTF_8)
    assert (found.returncode, found.stderr) == (0, ""), found
    *lines, last = found.stdout.splitlines()
    assert sorted(lines) == [f'"{odd}": holds no certificate that can be read' for odd in ODD_ESCAPED]
    assert last == "2 would be removed, 0 kept"


@pytest.mark.parametrize("mark", [MARK, b""])
def test_check_of_names_that_are_none(room: Room, mark: bytes) -> None:
    place_oddly(room, mark + room.ca.issue(NAME))
    found = run(*PROGRAM, "check", STORE, cwd=room.folder, env=UTF_8)
    assert (found.returncode, found.stderr) == (1, ""), found
    lines = found.stdout.splitlines()
    for odd in ODD_ESCAPED:
        assert f'"certs/abc/{odd}.crt": others can read its private key' in lines
        assert [line for line in lines if line.endswith(f'chmod go= "certs/abc/{odd}.crt"')]
    assert f'"certs/abc/{ODD_ESCAPED[1]}.crt": its name is not a DNS name' in lines


def test_check_of_a_name_too_long_to_be_stored(room: Room) -> None:
    room.place(room.ca.issue(NAME))
    path = room.path.rename(room.path.with_name("a" * 201 + ".crt")).relative_to(room.folder)
    found = command(room, "check", STORE)
    assert f"{path}: its name is too long to be stored\n  it is never used\n" in found.stdout
    assert "None" not in found.stdout


def test_what_is_typed_ends_once() -> None:
    """What comes after that is for the next who reads."""
    master, terminal = os.openpty()
    try:
        path = Path(os.ttyname(terminal))
        os.write(master, b"one\n\4two\n\4\4")
        assert reading.whole(path) == b"one\n"
        assert reading.whole(path) == b"two\n"
    finally:
        os.close(terminal)
        os.close(master)


@pytest.mark.parametrize(
    ("reads", "ours"),
    [
        ("import reading; reading.whole(Path(at))", False),
        ("import reading\nwith suppress(IsADirectoryError): reading.content(Path(at), 1)", False),
        ("from patterns import Patterns; Patterns('--deny', ['@' + at])", False),
        ("open(at).close()", True),  # the counterpart
    ],
)
def test_a_terminal_that_is_read_does_not_become_that_of_certifier(reads: str, ours: bool) -> None:
    """As the leader of its session, which a service is, it would be told of a hang-up, and of Ctrl+C there."""
    begin = "import os, sys\nfrom contextlib import suppress\nfrom pathlib import Path\nat = sys.argv[1]"
    end = "os.open('/dev/tty', os.O_RDONLY | os.O_NOCTTY)"
    master, terminal = os.openpty()
    try:
        os.write(master, b"a.example\n\4")
        words = (sys.executable, "-c", f"{begin}\n{reads}\n{end}", os.ttyname(terminal))
        found = run(*words, cwd=HERE, start_new_session=True)
        assert ("No such device or address: '/dev/tty'" in found.stderr) is not ours, found
    finally:
        os.close(terminal)
        os.close(master)
