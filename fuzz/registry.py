"""The fuzz targets by name. ``@target`` registers one, and names the exceptions that it may raise."""

import contextlib
import functools
from collections.abc import Callable
from pathlib import Path

Harness = Callable[[bytes], None]

TARGETS: dict[str, Harness] = {}


def target(*foreseen: type[BaseException]) -> Callable[[Harness], Harness]:
    """Register a function under its name; ``foreseen`` are the exceptions it may raise."""

    def register(run: Harness) -> Harness:
        @functools.wraps(run)
        def harness(data: bytes) -> None:
            with contextlib.suppress(*foreseen):
                run(data)

        TARGETS[run.__name__] = harness
        return harness

    return register


def corpus(name: str) -> list[Path]:
    """The stored inputs of a target."""
    return sorted((Path(__file__).parent / "corpus" / name).iterdir())
