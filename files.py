"""Files that are whole or not there: a temporary file, mode before content, fsync, then link or rename.

Every function may block on the disk and raises ``OSError`` from it. Safe between threads and processes: a temporary
file has no name, or is under ``flock`` while its maker lives, so that what a crash left can be told from what is being
written.
"""

import errno
import fcntl
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from gevent.monkey import get_original

LOCK_SECONDS = 5.0  # what is done under a lock takes milliseconds
_POLL_SECONDS = 0.001
_SECTOR = 512  # octets: what no disk writes half of
# On a pool thread, where gevent's own are not to be used; its ``close`` first asks the system about the descriptor.
_sleep = get_original("time", "sleep")
close: Callable[[int], None] = get_original("os", "close")
_TEMPORARY = ".certifier-{}-{}-{}.tmp"  # no operator's file is called so

_number = count()  # tells the temporary files of this process's threads apart
_program = secrets.token_hex(4)  # and those of process 1 of one container from those of another's, in a shared store


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


def exists(path: Path) -> bool:
    """Whether a file is there; ``Path.exists`` says no where it can't be seen, since Python 3.14."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def write_new(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Make a file whole or not at all; ``FileExistsError`` if there is one. Durable on return."""
    create(path, content, mode)
    sync(path.parent)


def create(path: Path, content: bytes, mode: int = 0o600) -> None:
    """As ``write_new``, but a power cut may take the whole file back until its folder is synced."""
    if not _create_at_once(path, content, mode):
        with temporary(path, content, mode) as made:
            _link(made, path)


def _create_at_once(path: Path, content: bytes, mode: int) -> bool:
    """By a file without a name until it is whole (O_TMPFILE, open(2)): a third less time, and a crash leaves nothing.

    False where that can't be: on a file system without such, without /proc, on macOS; or if the disk fails.
    """
    try:
        fd = os.open(path.parent, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, mode)
    except (AttributeError, OSError):
        return False
    try:
        _set_mode(fd, mode)
        _write(fd, content)
        os.link(f"/proc/self/fd/{fd}", path, src_dir_fd=fd, follow_symlinks=True)  # what it links to, by linkat(2)
    except FileExistsError:
        raise
    except OSError:
        return False
    finally:
        close(fd)
    return True


def _link(made: Path, path: Path) -> None:
    """Give a temporary file its name, or raise ``FileExistsError``. Without hard links (FAT), a rename does."""
    try:
        os.link(made, path)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        if exists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from error
        os.rename(made, path)


def overwrite(path: Path, content: bytes) -> None:
    """Give a file other content, whole or not at all, and keep its mode; durable on return.

    A few octets in place of as many are written there: one sync instead of two, and a fifth of a replacement's time.
    A mount point is written over; what a power cut may leave of that is not known.
    """
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        found = os.fstat(fd)
        if found.st_size == len(content) <= _SECTOR and os.pwrite(fd, content, 0) == len(content):
            getattr(os, "fdatasync", os.fsync)(fd)  # macOS has no fdatasync(2)
            return
    finally:
        close(fd)
    with temporary(path, content, stat.S_IMODE(found.st_mode)) as made:
        try:
            os.rename(made, path)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            _write_over(path, content)
    sync(path.parent)


def _write_over(path: Path, content: bytes) -> None:
    """Nothing else does for a file that a container has mounted by itself: nothing can be renamed to a mount point."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        if os.pwrite(fd, content, 0) < len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.ftruncate(fd, len(content))
        os.fsync(fd)
    finally:
        close(fd)


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


def told(error: OSError) -> str:
    """What failed, and with which file where that is known."""
    return f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror)


def write_at(fd: int, content: bytes, end: int) -> None:
    """Write all of it where a file ends, or over what comes behind; where that fails, the file ends there."""
    try:
        if os.pwrite(fd, content, end) < len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError:
        os.ftruncate(fd, end)
        raise


def _set_mode(fd: int, mode: int) -> os.stat_result:
    """Whatever the umask is; what was there before."""
    found = os.fstat(fd)
    if stat.S_IMODE(found.st_mode) != mode:
        os.fchmod(fd, mode)
    return found


def content(path: Path, most: int) -> bytes:
    """What a regular file holds, its first octets where there are more."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a FIFO must not hold us up
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise IsADirectoryError(errno.EISDIR, "Is a directory or no regular file", str(path))
        return os.read(fd, min(most, found.st_size))
    finally:
        close(fd)


def whole(path: Path) -> bytes:
    """All that a file holds. Of a FIFO what is written to it, nothing where nobody does: or we would wait for ever."""
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        os.set_blocking(file.fileno(), True)
        return file.read()


def clear_stale(folder: Path) -> int:
    """Remove the temporary files in a folder whose makers have crashed; how many."""
    cleared = 0
    for path in folder.glob(_TEMPORARY.format("*", "*", "*")):
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
        path = folder / _TEMPORARY.format(_program, os.getpid(), next(_number))
        with suppress(FileExistsError):  # of a process of this number that crashed, perhaps in another container
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
                if _set_mode(fd, mode).st_nlink:
                    return fd, path
            except OSError:
                close(fd)
                with suppress(OSError):
                    os.unlink(path)
                raise
            close(fd)  # taken for stale between the two lines above
