"""Files that are either complete or absent: a temporary file, mode before content, fsync, then link or rename.

Every function may block on the disk and raise its ``OSError``. Safe between threads and processes: a temporary file
has no name, or is under ``flock`` while the process that writes it lives, so that one left by a crash can be told from
one in use.
"""

import errno
import fcntl
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from gevent.monkey import get_original

import reading

LOCK_SECONDS = 5.0  # what is done under a lock takes milliseconds
_POLL_SECONDS = 0.001
_SECTOR = 512  # octets that a disk writes completely or not at all
_sleep = get_original("time", "sleep")  # gevent's must not be used on pool threads
_TEMPORARY = ".certifier-{}-{}-{}.tmp"  # no operator's file has such a name

_number = count()  # distinguishes the temporary files of this process's threads
_program = secrets.token_hex(4)  # and those of processes with the same PID, in containers that share a store


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold ``flock`` on a file that is never renamed or removed, created (0600) if missing.

    Raises ``TimeoutError`` if another process, stopped perhaps, holds it for longer than ``LOCK_SECONDS``.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        _lock(fd, path)
        yield
    finally:
        reading.close(fd)


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
    """Create a file, completely or not at all; raises ``FileExistsError`` if there is one. Durable on return."""
    create(path, content, mode)
    sync(path.parent)


def create(path: Path, content: bytes, mode: int = 0o600) -> os.stat_result:
    """As ``write_new``, but until its folder is synced, the whole file may be lost in a power cut. Returns its stat."""
    found = _create_at_once(path, content, mode)
    if found is None:
        with temporary(path, content, mode) as made:
            found = os.stat(made)
            _link(made, path)
    return found


def _create_at_once(path: Path, content: bytes, mode: int) -> os.stat_result | None:
    """Write a file that has no name until it is complete (O_TMPFILE): a third less time, and a crash leaves nothing.

    None if that is not possible: a file system without it, no /proc, macOS; or if the disk fails.
    """
    try:
        fd = os.open(path.parent, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, mode)
    except (AttributeError, OSError):
        return None
    try:
        _write(fd, content)
        found = _set_mode(fd, mode)  # after the content, whose stat it returns; without a name, nobody opens it before
        os.link(f"/proc/self/fd/{fd}", path, src_dir_fd=fd, follow_symlinks=True)  # linkat(2): it follows the link
    except FileExistsError:
        raise
    except OSError:
        return None
    finally:
        reading.close(fd)
    return found


def _link(made: Path, path: Path) -> None:
    """Give a temporary file its name, or raise ``FileExistsError``. Without hard links (FAT), rename it."""
    try:
        os.link(made, path)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        if reading.exists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from error
        os.rename(made, path)


@contextmanager
def rewriting(path: Path, most: int) -> Iterator[tuple[bytes, Callable[[bytes], None]]]:
    """A file's content, up to its first ``most`` octets, and a function that replaces all of it.

    It does so completely or not at all, durably, and keeps the mode. Content of the same length, up to a sector, is
    written in place: one sync instead of two, a fifth of the time. A mount point is written over in place; what a power
    cut leaves of that is undefined.
    """
    with reading.opened(path, os.O_RDWR) as (fd, found):

        def rewrite(content: bytes) -> None:
            if found.st_size == len(content) <= _SECTOR and os.pwrite(fd, content, 0) == len(content):
                getattr(os, "fdatasync", os.fsync)(fd)  # macOS has no fdatasync(2)
            else:
                _replace(path, content, stat.S_IMODE(found.st_mode))

        yield os.pread(fd, min(most, found.st_size), 0), rewrite


def _replace(path: Path, content: bytes, mode: int) -> None:
    with temporary(path, content, mode) as made:
        try:
            os.rename(made, path)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            _write_over(path, content)
    sync(path.parent)


def _write_over(path: Path, content: bytes) -> None:
    """Overwrite a file that is itself a mount point, as in a container: nothing can be renamed onto it."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        if os.pwrite(fd, content, 0) < len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.ftruncate(fd, len(content))
        os.fsync(fd)
    finally:
        reading.close(fd)


@contextmanager
def temporary(path: Path, content: bytes, mode: int = 0o600) -> Iterator[Path]:
    """A synced file beside ``path``, to be linked or renamed to it; removed at the end if it is still there."""
    fd, made = _open_temporary(path.parent, mode)
    try:
        _write(fd, content)
        yield made
    finally:
        _remove(made)
        reading.close(fd)


def _remove(made: Path) -> None:
    with suppress(OSError):  # it was renamed; or the disk fails: ``clear_stale`` runs once a day
        os.unlink(made)


def _write(fd: int, content: bytes) -> None:
    while content:
        content = content[os.write(fd, content) :]
    os.fsync(fd)


def place(path: Path) -> Path:
    """Where a file is to be replaced: without links, or one such as /dev/stdout would be replaced itself.

    Raises ``OSError`` if what is there is no file: a pipe, too, may have no other path than such a link.
    """
    if reading.exists(path) and not path.is_file() and not path.is_dir():
        raise OSError(errno.EINVAL, "Not a regular file")
    return Path(os.path.realpath(path))


def told(error: OSError) -> str:
    """What failed, and on which file if that is known."""
    return f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror)


def write_at(fd: int, parts: Sequence[bytes | bytearray | memoryview], end: int) -> int:
    """Write all parts one after the other at ``end``, over anything behind it; return how many octets they have.

    If that fails, truncate the file to ``end``.
    """
    octets = sum(map(len, parts))
    try:
        put = os.pwritev(fd, parts, end)
        while put < octets:  # the system says only then why: the disk is full, or a quota or a limit is reached
            put += os.pwrite(fd, b"".join(parts)[put:], end + put)
    except OSError:
        os.ftruncate(fd, end)
        raise
    return octets


def _set_mode(fd: int, mode: int) -> os.stat_result:
    """Set a file's mode, whatever the umask is; its ``fstat`` from before that."""
    found = os.fstat(fd)
    if stat.S_IMODE(found.st_mode) != mode:
        os.fchmod(fd, mode)
    return found


def clear_stale(folder: Path) -> int:
    """Remove the temporary files that crashed processes left in a folder, and return how many."""
    cleared = 0
    for path in folder.glob(_TEMPORARY.format("*", "*", "*")):
        with suppress(OSError):  # its process has removed it, or is still using it
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(path)
                cleared += 1
            finally:
                reading.close(fd)
    return cleared


def sync(folder: Path) -> None:
    """Make a rename or link in a folder durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        reading.close(fd)


def _open_temporary(folder: Path, mode: int) -> tuple[int, Path]:
    while True:
        path = folder / _TEMPORARY.format(_program, os.getpid(), next(_number))
        with suppress(FileExistsError):  # left by a crashed worker of this program with the same PID
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
                if _set_mode(fd, mode).st_nlink:
                    return fd, path
            except OSError:
                reading.close(fd)
                with suppress(OSError):
                    os.unlink(path)
                raise
            reading.close(fd)  # ``clear_stale`` removed it between its creation and the lock
