"""The corpus replayed, and some mutations of it; ``make fuzz`` searches further."""

import os
import shutil
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from inputs import inputs
from lab import HERE, run
from targets import TARGETS, check_request, corpus

EXAMPLES = 100


@pytest.mark.parametrize("name", TARGETS)
def test_inputs_that_are_kept(name: str) -> None:
    for path in corpus(name):
        try:
            TARGETS[name](path.read_bytes())
        except Exception as error:
            raise AssertionError(path) from error


@pytest.mark.parametrize("name", TARGETS)
def test_inputs_like_them(name: str) -> None:
    # The same in every run: findings belong to make fuzz, not to whoever happens to test something else.
    @settings(max_examples=EXAMPLES, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(inputs([path.read_bytes() for path in corpus(name)]))
    def changed(data: bytes) -> None:
        TARGETS[name](data)

    changed()


def test_a_target_that_fails_is_seen() -> None:
    """The counterpart: a harness does fail on what it asserts."""
    with pytest.raises(AssertionError):
        check_request(b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n")


# In the place of atheris, which is not installed everywhere: runs the target once.
ATHERIS = """import contextlib, sys
instrument_imports = lambda include: contextlib.nullcontext()
Setup = lambda words, target: target(b"a.example")
Fuzz = lambda: sys.exit(0)
"""


def test_a_run_in_a_folder_with_a_space_in_its_name(tmp_path: Path) -> None:
    folder = tmp_path / "my work"
    shutil.copytree(HERE / "fuzz", folder / "fuzz", ignore=shutil.ignore_patterns("findings", "__pycache__"))
    for room in HERE.glob("*.py"):
        (folder / room.name).symlink_to(room)
    (tmp_path / "atheris.py").write_text(ATHERIS)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = run(sys.executable, folder / "fuzz" / "run.py", "--seconds=1", "name", env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("no findings\n")


@pytest.mark.parametrize(
    ("word", "told"),
    [("--second=1", "unrecognized arguments: --second=1"), ("nome", "no such target: nome; there are http1, ")],
)
def test_a_run_with_a_wrong_word(word: str, told: str) -> None:
    done = run(sys.executable, HERE / "fuzz" / "run.py", word)
    assert done.returncode == 2
    assert told in done.stderr
