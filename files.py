"""Files that are whole or not there: a temporary file, mode before content, fsync, then link or rename.

Every function may block on the disk and raises ``OSError`` from it. Safe between threads and processes: a temporary
file is under ``flock`` while its maker lives, so that what a crash left can be told from what is being written.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

_TEMPORARY = ".certifier-{}-{}.tmp"  # process and number; no operator's file is called so

_number = count()  # tells the temporary files of this process's threads apart


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold ``flock`` on a file that is never renamed nor removed, made (0600) if missing."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def write_new(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Make a file whole or not at all; ``FileExistsError`` if there is one."""
    with temporary(path, content, mode) as made:
        os.link(made, path)
    sync(path.parent)


def replace(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Replace a file whole or not at all; durable on return."""
    with temporary(path, content, mode) as made:
        os.rename(made, path)
    sync(path.parent)


@contextmanager
def temporary(path: Path, content: bytes, mode: int = 0o600) -> Iterator[Path]:
    """A synced file beside ``path``, for linking or renaming to it; gone at the end where it still is."""
    fd, made = _open_temporary(path.parent)
    try:
        os.fchmod(fd, mode)
        with open(fd, "wb", closefd=False) as file:
            file.write(content)
        os.fsync(fd)
        yield made
    finally:
        with suppress(FileNotFoundError):
            os.unlink(made)
        os.close(fd)


def clear_stale(folder: Path) -> int:
    """Remove the temporary files in a folder whose makers have crashed; how many."""
    cleared = 0
    for path in folder.glob(_TEMPORARY.format("*", "*")):
        with suppress(OSError):  # its maker is faster, or still at it
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(path)
                cleared += 1
            finally:
                os.close(fd)
    return cleared


def sync(folder: Path) -> None:
    """Make a rename or link in a folder durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _open_temporary(folder: Path) -> tuple[int, Path]:
    while True:
        path = folder / _TEMPORARY.format(os.getpid(), next(_number))
        with suppress(FileExistsError):  # of a process of this number that crashed, perhaps in another container
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            fcntl.flock(fd, fcntl.LOCK_EX)
            if os.fstat(fd).st_nlink:
                return fd, path
            os.close(fd)  # taken for stale between the two lines above
