"""Files that are whole or not there: a temporary file, mode before content, fsync, then link or rename.

Every function may block on the disk and raises ``OSError`` from it. Safe between threads and processes: a temporary
file is under ``flock`` while its maker lives, so that what a crash left can be told from what is being written.
"""

import errno
import fcntl
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from gevent.monkey import get_original

LOCK_SECONDS = 5.0  # what is done under a lock takes milliseconds
_POLL_SECONDS = 0.001
# On a pool thread, where gevent's own are not to be used; its ``close`` first asks the system about the descriptor.
_sleep = get_original("time", "sleep")
close: Callable[[int], None] = get_original("os", "close")
_TEMPORARY = ".certifier-{}-{}.tmp"  # process and number; no operator's file is called so

_number = count()  # tells the temporary files of this process's threads apart


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold ``flock`` on a file that is never renamed nor removed, made (0600) if missing.

    Held by another for too long, by a process that was stopped perhaps, it is a ``TimeoutError``.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        _lock(fd, path)
        yield
    finally:
        close(fd)


def _lock(fd: int, path: Path) -> None:
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise TimeoutError(errno.ETIMEDOUT, f"another process holds the lock {path}") from None
            _sleep(_POLL_SECONDS)


def write_new(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Make a file whole or not at all; ``FileExistsError`` if there is one."""
    with temporary(path, content, mode) as made:
        link(made, path)
    sync(path.parent)


def link(made: Path, path: Path) -> None:
    """Give a temporary file its name, or raise ``FileExistsError``. Without hard links (FAT), a rename does."""
    try:
        os.link(made, path)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        if path.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from error
        os.rename(made, path)


def replace(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Replace a file whole or not at all; durable on return."""
    fd, made = _open_temporary(path.parent, mode)
    try:
        _write(fd, content)
        os.rename(made, path)
    except BaseException:
        _remove(made)
        raise
    finally:
        close(fd)
    sync(path.parent)


@contextmanager
def temporary(path: Path, content: bytes, mode: int = 0o600) -> Iterator[Path]:
    """A synced file beside ``path``, for linking or renaming to it; gone at the end where it still is."""
    fd, made = _open_temporary(path.parent, mode)
    try:
        _write(fd, content)
        yield made
    finally:
        _remove(made)
        close(fd)


def _remove(made: Path) -> None:
    with suppress(OSError):  # renamed; or a disk that fails: ``clear_stale`` comes by once a day
        os.unlink(made)


def _write(fd: int, content: bytes) -> None:
    while content:
        content = content[os.write(fd, content) :]
    os.fsync(fd)


def content(path: Path, most: int) -> bytes:
    """What a regular file holds, its first octets where there are more."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a FIFO must not hold us up
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise IsADirectoryError(errno.EISDIR, "Is a directory or no regular file")
        return os.read(fd, min(most, found.st_size))
    finally:
        close(fd)


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
                close(fd)
    return cleared


def sync(folder: Path) -> None:
    """Make a rename or link in a folder durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        close(fd)


def _open_temporary(folder: Path, mode: int) -> tuple[int, Path]:
    while True:
        path = folder / _TEMPORARY.format(os.getpid(), next(_number))
        with suppress(FileExistsError):  # of a process of this number that crashed, perhaps in another container
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
                found = os.fstat(fd)
                if stat.S_IMODE(found.st_mode) != mode:  # the umask
                    os.fchmod(fd, mode)
                if found.st_nlink:
                    return fd, path
            except OSError:
                close(fd)
                with suppress(OSError):
                    os.unlink(path)
                raise
            close(fd)  # taken for stale between the two lines above
