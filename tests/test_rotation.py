from pathlib import Path

import pytest

from rotation import make_room


def test_the_oldest_goes(tmp_path: Path) -> None:
    path = tmp_path / "a.b.har"
    for n in range(4):
        path.write_text(str(n))
        make_room(path, keep=2)
        assert not path.exists()
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {"a.b.1.har": "3", "a.b.2.har": "2"}
    make_room(path, keep=2)  # nothing there, nothing lost but the oldest
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {"a.b.2.har": "3"}


def test_without_a_suffix(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("x")
    make_room(tmp_path / "log", keep=1)
    assert [file.name for file in tmp_path.iterdir()] == ["log.1"]


def test_what_cannot_be_renamed_is_told(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    (tmp_path / "a.1" / "full").mkdir(parents=True)
    with pytest.raises(OSError, match=r"a\.1"):
        make_room(tmp_path / "a", keep=1)
    assert (tmp_path / "a").read_text() == "x"
