import hashlib
import os
import stat
from pathlib import Path

import pytest

import store
from store import MARK, Store, Stored

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


def test_absent(certs: Store) -> None:
    assert certs.load("www.example.com") == []


def test_the_first_of_two_wins(certs: Store) -> None:
    first = certs.save("a.example", PEM + b"1")
    assert certs.save("a.example", PEM + b"2") == first


def test_replacing_what_is_there(certs: Store) -> None:
    first = certs.save("a.example", PEM + b"1")
    second = certs.save("a.example", PEM + b"2", replacing=first)
    assert second is not None
    assert certs.load("a.example") == [second]
    assert second.pem == MARK + PEM + b"2"


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


def test_a_file_that_changed_is_not_rejected(certs: Store) -> None:
    saved = certs.save("a.example", PEM)
    assert saved is not None
    assert not certs.reject(saved._replace(pem=b"other"))
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


def test_a_store_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="exists"):
        Store(tmp_path / "file")


def test_replace_keeps_the_mode_it_is_given(tmp_path: Path) -> None:
    store.write_new(tmp_path / "x", b"1")
    with pytest.raises(FileExistsError):
        store.write_new(tmp_path / "x", b"2")
    store.replace(tmp_path / "x", b"3", mode=0o640)
    assert ((tmp_path / "x").read_bytes(), mode(tmp_path / "x")) == (b"3", 0o640)


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


def test_the_stamp_changes_with_the_files_that_count(certs: Store) -> None:
    stamps = [certs.stamp("a.example.com")]
    path = place(certs, "a.example.com", b"1")
    stamps.append(certs.stamp("a.example.com"))
    path.with_suffix(".key").write_bytes(b"KEY")
    stamps.append(certs.stamp("a.example.com"))
    place(certs, "_.example.com", b"WILD")
    stamps.append(certs.stamp("a.example.com"))
    assert certs.stamp("a.example.com") == stamps[-1]
    assert len(set(stamps)) == 4


def test_what_a_crash_left_is_cleared(certs: Store) -> None:
    certs.save("a.example", PEM)
    path = certs.path("a.example")
    assert path
    old, young = path.with_name(".1.0.tmp"), path.with_name(".2.0.tmp")
    for temporary in (old, young):
        temporary.write_bytes(b"half")
    os.utime(old, (0, 0))
    assert certs.clear_stale() == 1
    assert sorted(os.listdir(path.parent)) == [".2.0.tmp", "a.example.crt"]
