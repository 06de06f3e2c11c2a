from pathlib import Path

import pytest

from rotation import KEEP, make_room


def test_the_oldest_goes(tmp_path: Path) -> None:
    path = tmp_path / "a.b.har"
    for n in range(KEEP + 2):
        path.write_text(str(n))
        make_room(path)
        assert not path.exists()
    kept = {f"a.b.{number}.har": str(KEEP + 2 - number) for number in range(1, KEEP + 1)}
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == kept
    make_room(path)  # nothing there, nothing lost but the oldest
    kept = {f"a.b.{number}.har": str(KEEP + 3 - number) for number in range(2, KEEP + 1)}
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == kept


def test_without_a_suffix(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("x")
    make_room(tmp_path / "log")
    assert [file.name for file in tmp_path.iterdir()] == ["log.1"]


def test_what_cannot_be_renamed_is_told(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    (tmp_path / f"a.{KEEP - 1}").write_text("y")
    (tmp_path / f"a.{KEEP}" / "full").mkdir(parents=True)
    with pytest.raises(OSError, match=rf"a\.{KEEP}"):
        make_room(tmp_path / "a")
    assert (tmp_path / "a").read_text() == "x"
