import errno
import hashlib
import os
import stat
import time
from dataclasses import replace
from pathlib import Path

import pytest

from store import Failures, Store
from stored import MARK, TOUCH_SECONDS, Stored, state_of
from workers import Workers

PEM = b"-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n-----BEGIN PRIVATE KEY-----\n"


@pytest.fixture
def certs(tmp_path: Path) -> Store:
    return Store(tmp_path / "certs")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_layout_and_modes(certs: Store) -> None:
    saved = certs.save("www.example.com", PEM)
    path = certs.root / hashlib.md5(b"www.example.com").hexdigest()[:3] / "www.example.com.crt"
    assert saved == Stored(MARK + PEM, True, path)
    assert path.read_bytes() == MARK + PEM
    assert certs.load("www.example.com") == [saved]
    assert (mode(path), mode(path.parent), mode(certs.root)) == (0o600, 0o700, 0o700)
    assert os.listdir(path.parent) == ["www.example.com.crt"]


def test_folders_above_it_are_made_too(tmp_path: Path) -> None:
    for _ in range(2):
        assert mode(Store(tmp_path / "a" / "certs").root) == 0o700


def test_what_was_not_stored_is_not_found(certs: Store) -> None:
    assert certs.load("www.example.com") == []
    path = certs.path("www.example.com")
    assert path is not None
    with pytest.raises(FileNotFoundError):
        certs.read(path)


def test_the_first_of_two_wins(certs: Store) -> None:
    first = certs.save("a.example", PEM + b"1")
    assert certs.save("a.example", PEM + b"2") == first


def test_replacing_what_is_there(certs: Store) -> None:
    first = certs.save("a.example", PEM + b"1")
    second = certs.save("a.example", PEM + b"2", replacing=first)
    assert second is not None
    assert certs.load("a.example") == [second]
    assert second.pem == MARK + PEM + b"2"
    assert mode(second.path) == 0o600


@pytest.mark.parametrize("used", [True, False])
def test_the_time_of_last_use_is_carried_over(certs: Store, used: bool) -> None:
    first = certs.save("a.example", PEM + b"1")
    assert first is not None
    os.utime(first.path, (1000, 1000))
    assert certs.save("a.example", PEM + b"2", replacing=first, used=used) != first
    assert (first.path.stat().st_mtime == 1000) is not used
    first.path.unlink()
    assert certs.save("a.example", PEM + b"3", replacing=first, used=used)  # the file to replace is gone


def test_what_changed_meanwhile_stays(certs: Store) -> None:
    first = certs.save("a.example", PEM + b"1")
    second = certs.save("a.example", PEM + b"2", replacing=first)
    assert certs.save("a.example", PEM + b"3", replacing=first) == second
    assert certs.load("a.example") == [second]


def test_an_operators_file_with_the_key_beside_it(certs: Store) -> None:
    path = certs.path("a.example")
    assert path is not None
    path.parent.mkdir()
    path.write_bytes(b"CERT")
    assert certs.load("a.example") == [Stored(b"CERT", False, path)]
    path.with_suffix(".key").write_bytes(b"KEY")
    assert certs.load("a.example") == [Stored(b"CERT\nKEY", False, path)]
    path.write_bytes(PEM)  # holds a key itself
    assert certs.load("a.example") == [Stored(PEM, False, path)]


def test_rejected_files_stand_aside_and_are_never_overwritten(certs: Store) -> None:
    path = certs.path("a.example")
    assert path is not None
    path.parent.mkdir()
    for text in (b"one", b"two"):
        path.write_bytes(text)
        path.with_suffix(".key").write_bytes(b"KEY")
        (stored,) = certs.load("a.example")
        assert certs.reject(stored)
        assert certs.load("a.example") == []
    assert sorted(os.listdir(path.parent)) == [
        "a.example.crt.rejected",
        "a.example.crt.rejected.1",
        "a.example.key.rejected",
        "a.example.key.rejected.1",
    ]
    assert (path.parent / "a.example.crt.rejected").read_bytes() == b"one"


def test_what_is_moved_aside_is_there_for_good_before_another_takes_its_place(
    certs: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a power cut might leave only the latter."""
    path, synced = place(certs, "a.example", b"rubbish"), list[tuple[int, bool]]()
    (stored,) = certs.load("a.example")
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append((os.fstat(fd).st_ino, path.exists())))
    assert certs.reject(stored)
    assert synced == [(path.parent.stat().st_ino, False)]


def test_nothing_is_stored_or_moved_aside_behind_a_link(certs: Store, tmp_path: Path) -> None:
    path = certs.path("a.example")
    assert path is not None
    outside = tmp_path / "outside"
    outside.mkdir()
    path.parent.symlink_to(outside)
    with pytest.raises(NotADirectoryError):
        certs.save("a.example", PEM)
    assert os.listdir(outside) == []
    path.write_bytes(b"rubbish")
    (stored,) = certs.load("a.example")
    with pytest.raises(NotADirectoryError):
        certs.reject(stored)
    assert os.listdir(outside) == ["a.example.crt"]


def test_a_file_that_changed_is_not_rejected(certs: Store) -> None:
    saved = certs.save("a.example", PEM)
    assert saved is not None
    assert not certs.reject(replace(saved, pem=b"other"))
    assert certs.load("a.example") == [saved]


@pytest.mark.parametrize("length", [200, 201])
def test_names_too_long_for_a_file_are_not_stored(certs: Store, length: int) -> None:
    name = ".".join(["a" * 49] * 4) + "a" * (length - 199)
    saved = certs.save(name, PEM)
    assert (saved is not None) == (length == 200)
    assert certs.load(name) == ([saved] if saved else [])


@pytest.mark.parametrize("name", ["../x", "a/b", "a\0b", ".hidden", ".."])
def test_what_is_no_name_never_becomes_a_path(certs: Store, name: str) -> None:
    with pytest.raises(ValueError, match="canonical"):
        certs.path(name)


def test_a_failed_write_leaves_nothing_behind(certs: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output"):
        certs.save("a.example", PEM)
    path = certs.path("a.example")
    assert path is not None
    assert os.listdir(path.parent) == []


def test_a_probe_writes_only_if_asked(certs: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    certs.probe(write=False)
    with pytest.raises(OSError, match="No space"):
        certs.probe(write=True)
    assert os.listdir(certs.root) == [".lock"]
    (certs.root / ".lock").unlink()
    certs.root.rmdir()
    with pytest.raises(FileNotFoundError):
        certs.probe(write=False)


def test_a_directory_in_place_of_a_file_costs_no_descriptor(certs: Store) -> None:
    path = certs.path("a.example")
    assert path is not None
    path.mkdir(parents=True)
    workers = Workers(1)  # as in the program; elsewhere gevent's os.close defers closing a directory
    workers.run(certs.stamp, "a.example")
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(IsADirectoryError):
        workers.run(certs.load, "a.example")
    assert set(os.listdir("/proc/self/fd")) <= before


def test_a_store_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="exists"):
        Store(tmp_path / "file")


def place(certs: Store, name: str, content: bytes) -> Path:
    path = certs.path(name)
    assert path is not None
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return path


def test_an_operators_wildcard_is_for_one_label_below_and_comes_before_our_own(certs: Store) -> None:
    wild = Stored(b"WILD", False, place(certs, "_.example.com", b"WILD"))
    assert certs.load("a.example.com") == [wild]
    assert certs.load("a.b.example.com") == certs.load("example.com") == []
    own = certs.save("a.example.com", PEM)
    assert certs.load("a.example.com") == [wild, own]
    exact = Stored(b"EXACT", False, place(certs, "a.example.com", b"EXACT"))
    assert certs.load("a.example.com") == [exact, wild]


def test_our_own_certificate_counts_for_its_own_name_only(certs: Store) -> None:
    place(certs, "_.example.com", MARK + PEM)
    assert certs.load("a.example.com") == []


def test_the_stamp_changes_with_the_files_that_count(certs: Store) -> None:
    stamps = [certs.stamp("a.example.com")]
    path = place(certs, "a.example.com", b"1")
    stamps.append(certs.stamp("a.example.com"))
    path.with_suffix(".key").write_bytes(b"KEY")
    stamps.append(certs.stamp("a.example.com"))
    place(certs, "_.example.com", b"WILD")
    stamps.append(certs.stamp("a.example.com"))
    assert certs.stamp("a.example.com") == stamps[-1]
    written = path.stat().st_mtime_ns
    path.write_bytes(b"longer")
    os.utime(path, ns=(written,) * 2)  # too soon for the clock of the file system
    stamps.append(certs.stamp("a.example.com"))
    assert len(set(stamps)) == 5


def test_whatever_stands_where_a_certificate_is_looked_for_has_a_stamp(certs: Store) -> None:
    """If the stamp says that nothing does, nothing is read."""
    path = certs.path("a.example")
    assert path is not None
    assert certs.stamp("a.example") == (None,) * 4
    path.parent.mkdir()
    assert certs.stamp("a.example") == (None,) * 4
    path.symlink_to("nowhere")
    assert certs.stamp("a.example")[0] is not None
    path.unlink()
    path.mkdir()
    assert certs.stamp("a.example")[0] is not None
    path.rmdir()
    path.parent.rmdir()
    path.parent.write_bytes(b"no folder")
    assert certs.stamp("a.example")[0] is not None


@pytest.mark.parametrize("way", ["new", "replacing", "too late", "too late to replace"])
def test_what_is_stored_afterwards_has_its_state(certs: Store, way: str) -> None:
    before = certs.save("a.example", PEM + b"1") if way != "new" else None
    if way == "too late to replace":
        certs.save("a.example", PEM + b"2", replacing=before)
    saved = certs.save("a.example", PEM + b"3", replacing=before if "repl" in way else None)
    assert saved is not None
    assert certs.stamp("a.example") == (saved.state, None, None, None)


def test_a_walk_tells_whose_files_they_are(certs: Store) -> None:
    certs.save("a.example", PEM)
    place(certs, "_.example.com", PEM)
    place(certs, "_x.example.org", PEM + MARK + PEM)  # the mark counts where certifier writes it
    assert [(stored.ours, stored.is_wildcard) for stored in certs.load("_x.example.org")] == [(False, False)]
    (certs.root / "abc").mkdir()
    (certs.root / "abc" / "x.crt.rejected").write_bytes(PEM)
    (certs.root / "abc" / "dangling.crt").symlink_to("nowhere")
    (certs.root / "abc" / "folder.crt").mkdir()
    assert sorted((entry.name, entry.ours) for entry in certs.entries()) == [
        ("*.example.com", False),
        ("_x.example.org", False),
        ("a.example", True),
        ("dangling", False),
        ("folder", False),  # it can't be read
    ]


def test_a_walk_does_not_leave_the_store_through_a_link(certs: Store, tmp_path: Path) -> None:
    for folder in (tmp_path / "outside", certs.root / "other"):
        folder.mkdir()
        (folder / "a.example.crt").write_bytes(MARK + PEM)
    (certs.root / "abc").symlink_to(tmp_path / "outside")
    (certs.root / "def").write_bytes(b"no folder")
    assert list(certs.entries()) == []
    assert certs.clear_stale() == 0


def test_only_what_is_ours_and_unchanged_is_removed(certs: Store) -> None:
    for name in ("a.example", "b.example", "renewed.example", "used.example"):
        certs.save(name, PEM)
    place(certs, "c.example", PEM)
    entries = {entry.name: entry for entry in certs.entries()}
    certs.save("b.example", PEM + b"x", Stored(MARK + PEM, True, entries["b.example"].path))
    path = entries["renewed.example"].path
    certs.save("renewed.example", PEM + b"x", Stored(MARK + PEM, True, path), used=False)
    assert path.stat().st_mtime == entries["renewed.example"].used
    os.utime(entries["used.example"].path, (1000, 1000))
    failures: Failures = []
    assert certs.remove(entries["a.example"], failures)
    assert not certs.remove(entries["a.example"], failures)
    kept = ["b.example", "c.example", "renewed.example", "used.example"]
    for name in kept:
        assert not certs.remove(entries[name], failures)
    assert failures == []
    assert sorted(entry.name for entry in certs.entries()) == kept


def test_use_is_noted_to_the_hour_and_only_on_our_own(certs: Store) -> None:
    certs.save("a.example", PEM)
    place(certs, "b.example", PEM)
    (ours,), (theirs,) = certs.load("a.example"), certs.load("b.example")
    for stored in (ours, theirs):
        os.utime(stored.path, (1000, 1000))
        certs.touch(stored, 1000 + TOUCH_SECONDS)
        assert stored.path.stat().st_mtime == 1000
        certs.touch(stored, 2000 + TOUCH_SECONDS)
    assert ours.path.stat().st_mtime == 2000 + TOUCH_SECONDS
    assert theirs.path.stat().st_mtime == 1000
    certs.touch(ours, 1500)  # the clock was ahead
    assert ours.path.stat().st_mtime == 1500


@pytest.mark.parametrize("placed", ["before", "after", ""])
def test_what_was_placed_while_a_certificate_was_made_is_noticed(certs: Store, placed: str) -> None:
    stamp = certs.stamp("a.example.com")
    if placed == "before":
        place(certs, "_.example.com", b"WILD")
    saved = certs.save("a.example.com", PEM)
    assert saved is not None
    if placed == "after":
        place(certs, "a.example.com", b"OPERATOR'S")
    again = (saved.state, *stamp[1:])
    assert certs.look("a.example.com", again, True, time.time()) == (None if placed else again)
    assert (again == certs.stamp("a.example.com")) is not bool(placed)


def test_the_stamp_of_a_name_too_long_to_be_stored(certs: Store) -> None:
    name = ".".join(["a" * 60] * 4)
    stamp = certs.stamp(name)
    assert certs.save(name, PEM) is None
    assert certs.stamp(name) == stamp
    assert certs.look(name, stamp, True, time.time()) == stamp
    path = place(certs, name.replace("a" * 60, "_", 1), b"WILD")  # this fits
    placed = certs.stamp(name)
    assert certs.look(name, stamp, True, time.time()) is None
    assert certs.look(name, placed, True, time.time()) == placed
    os.utime(path, (1000, 1000))
    assert certs.look(name, placed, True, time.time()) is None


def test_a_look_at_a_name_in_use(certs: Store) -> None:
    """Our own certificate stays in use when its file is touched or pruned, and is read again when it is replaced."""
    certs.save("a.example", PEM)
    path = certs.path("a.example")
    assert path
    stamp = certs.stamp("a.example")
    assert certs.look("a.example", stamp, True, time.time()) == stamp
    os.utime(path, (time.time() - 60,) * 2)
    touched = certs.look("a.example", stamp, True, time.time())
    assert touched
    assert touched != stamp
    assert certs.look("a.example", stamp, False, time.time()) is None
    path.write_bytes(path.read_bytes()[len(MARK) :] + b"x" * len(MARK))  # edited in place: it is an operator's now
    assert certs.look("a.example", touched, True, time.time()) is None
    path.unlink()
    pruned = certs.look("a.example", touched, True, time.time())
    assert pruned
    assert pruned[0] is None
    assert certs.look("a.example", touched, False, time.time()) is None
    certs.save("a.example", PEM)
    assert certs.look("a.example", pruned, True, time.time()) is None


@pytest.mark.parametrize("file", ["a.example.crt", "a.example.key", "_.example.crt", "_.example.key"])
@pytest.mark.parametrize("ours", [True, False])
def test_a_file_that_may_be_read_now_is_a_change(certs: Store, file: str, ours: bool) -> None:
    """An operator who is told that it can't be read changes nothing else of it."""
    for stem in ("a.example", "_.example"):
        place(certs, stem, PEM).with_suffix(".key").write_bytes(b"a key")
    (path,) = certs.root.glob(f"*/{file}")
    path.chmod(0)
    stamp = certs.stamp("a.example")
    assert certs.look("a.example", stamp, ours, time.time()) == stamp
    path.chmod(0o600)
    assert certs.look("a.example", stamp, ours, time.time()) is None


def test_who_may_read_our_own_certificate_is_no_change(certs: Store) -> None:
    certs.save("a.example", PEM)
    stamp = certs.stamp("a.example")
    (path,) = certs.paths()
    path.chmod(0o640)
    assert certs.look("a.example", stamp, True, time.time()) == certs.stamp("a.example") != stamp


@pytest.mark.parametrize("ours", [True, False])
def test_a_disk_that_fails_changes_nothing(certs: Store, ours: bool) -> None:
    certs.save("a.example", PEM)
    path = certs.path("a.example")
    assert path
    stamp = certs.stamp("a.example")
    path.parent.rename(certs.root / "away")
    path.parent.write_bytes(b"no folder, and nothing below it can be looked at")
    assert certs.look("a.example", stamp, ours, time.time()) == stamp
    assert certs.look("a.example", (*stamp[:2], (1,) * 6, None), ours, time.time()) is None  # what can be seen, counts
    path.parent.unlink()
    (certs.root / "away").rename(path.parent)
    assert certs.look("a.example", stamp, ours, time.time()) == stamp


def test_our_own_certificate_that_was_touched_and_cannot_be_read_stays_in_use(
    certs: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fault is that of each look, and would be logged at each."""
    certs.save("a.example", PEM)
    stamp = certs.stamp("a.example")
    (path,) = certs.paths()
    os.utime(path, (time.time() - 60,) * 2)
    real = os.open

    def failing(what: str | os.PathLike[str], *arguments: int, **options: int) -> int:
        if os.fspath(what) == os.fspath(path):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(what, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", failing)
        touched = certs.look("a.example", stamp, True, time.time())
    assert touched == certs.stamp("a.example") != stamp
    path.rename(path.with_suffix(".old"))
    certs.save("a.example", PEM + b"2")
    assert certs.look("a.example", touched, True, time.time()) is None


def test_what_another_process_stored_instead_is_read_anew(certs: Store) -> None:
    """Its certificate bears our mark too, but may be signed by another CA."""
    first = certs.save("a.example", PEM + b"1")
    stamp = certs.stamp("a.example")
    certs.save("a.example", PEM + b"2", replacing=first)
    assert certs.look("a.example", stamp, True, time.time()) is None


def test_use_is_noted_on_no_file_of_an_operators_though_ours_was_in_use(certs: Store) -> None:
    path = place(certs, "a.example", PEM)
    os.utime(path, (1000, 1000))
    certs.look("a.example", (None,) * 4, True, 1e6)
    assert path.stat().st_mtime == 1000


def test_use_of_an_operators_certificate_is_not_noted_on_ours(certs: Store) -> None:
    """As of a wildcard, while our own is left in the store."""
    saved = certs.save("a.example", PEM)
    assert saved is not None
    os.utime(saved.path, (1000, 1000))
    stamp = certs.stamp("a.example")
    assert certs.look("a.example", stamp, False, 1e6) == stamp
    assert saved.path.stat().st_mtime == 1000


def test_use_is_not_noted_behind_a_link(certs: Store, tmp_path: Path) -> None:
    path = certs.path("a.example")
    assert path is not None
    path.parent.mkdir()
    outside = tmp_path / "outside"
    outside.write_bytes(MARK + PEM)
    os.utime(outside, (1000, 1000))
    path.symlink_to(outside)
    os.utime(path, (2000, 2000), follow_symlinks=False)
    for when in (1e6, 1e6 + 1):
        certs.look("a.example", (None,) * 4, True, when)
        assert outside.stat().st_mtime == 1000
        assert path.lstat().st_mtime == 1e6  # touched once, not at each look


def test_the_age_of_a_link_is_its_own_or_that_of_a_change_behind_it(certs: Store) -> None:
    link = certs.root / "a.example.crt"
    link.symlink_to(os.__file__)
    placed, written = link.lstat().st_ctime, link.stat().st_mtime
    stored = Stored(PEM, False, link)
    assert stored.age(placed) == stored.age(written) == 0
    assert stored.age(written - 9) == 9  # by a clock that was set back meanwhile


def test_a_change_behind_a_link_is_seen(certs: Store, tmp_path: Path) -> None:
    """As when the target is renewed; one that can't be reached, perhaps for a while, is not taken for a change."""
    target = tmp_path / "target.pem"
    target.write_bytes(PEM)
    path = place(certs, "a.example", PEM)
    path.unlink()
    path.symlink_to(target)
    before = certs.stamp("a.example")
    target.write_bytes(PEM + b"x")
    after = certs.stamp("a.example")
    assert after != before
    assert certs.look("a.example", before, False, 0) is None
    target.unlink()
    target.symlink_to(target)
    assert certs.look("a.example", after, False, 0) == after


def test_another_owner_or_group_is_a_change() -> None:
    before = os.stat_result(range(10))
    for field in (stat.ST_UID, stat.ST_GID):
        assert state_of(os.stat_result(value + (at == field) for at, value in enumerate(before))) != state_of(before)


def test_the_age_of_what_is_gone(certs: Store) -> None:
    saved = certs.save("a.example", PEM)
    assert saved is not None
    saved.path.unlink()
    assert saved.age(5000.0) == 5000.0
    assert saved.placed() == 0.0


def test_a_store_that_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Store(tmp_path / "none", create=False)
    certs = Store(tmp_path, create=False)
    assert os.listdir(certs.root) == []
