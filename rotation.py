"""Names of files that are rotated: ``file.har``, then ``file.1.har``, ``file.2.har`` and so on, the oldest last."""

import os
from contextlib import suppress
from pathlib import Path

KEEP = 9  # files beside the present one


def make_room(path: Path) -> None:
    """Rename the file, if it exists, and those before it, of which ``KEEP`` stay. Raises ``OSError``."""
    for number in range(KEEP, 0, -1):
        with suppress(FileNotFoundError):
            os.rename(_numbered(path, number - 1), _numbered(path, number))


def _numbered(path: Path, number: int) -> Path:
    return path.with_name(f"{path.stem}.{number}{path.suffix}") if number else path
