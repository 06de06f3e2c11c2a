"""``LineFile``: appends log lines to a file or stderr, each in one write, which neither blocks the hub nor raises."""

import logging
import os
import select
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from select import PIPE_BUF

from gevent.monkey import get_original

_STDERR = 2

log = logging.getLogger("certifier.linefile")


class LineFile:
    """A file (created with mode 0600), or stderr, to which lines are appended.

    The constructor raises ``OSError``. Later, lines are lost, with one warning, while the file can't be written or
    nobody reads the pipe; ``lost`` is called with the number of each loss.
    """

    def __init__(self, path: Path | None, lost: Callable[[int], object] | None = None) -> None:
        self._path = path
        self._report = lost
        self._fd = _stderr() if path is None else _open(path)
        self._poll = _poll(self._fd)
        self._lost = 0  # lines since the last successful write
        self._torn = False  # the last line was written only in part

    def write(self, line: str) -> None:
        """Append one or more lines, given without the final newline; non-ASCII characters are escaped."""
        data = f"{line}\n".encode("ascii", "backslashreplace")
        if self._torn:
            data = b"\n" + data
        reason = None
        try:
            left = len(data) - self._put(data)
        except OSError as error:
            left, reason = len(data), error.strerror
        if left:
            self._torn = left < len(data) or self._torn
            self._lose(reason or "it takes no more")
            return
        self._torn = False
        if self._lost:
            lost, self._lost = self._lost, 0
            log.warning("%s can be written again; lines lost: %d", self._path or "stderr", lost)

    def _put(self, data: bytes) -> int:
        """Write as much as is possible without blocking the hub; return the number of octets."""
        if self._poll is None:
            put = os.write(self._fd, data)
            if put < len(data):
                try:
                    put += os.write(self._fd, data[put:])  # the system says only then why
                except OSError:
                    self._torn = not self._took_back(put) or self._torn
                    raise
            return put
        put, most = 0, PIPE_BUF  # what a writable pipe has room for
        if len(data) > PIPE_BUF and not os.get_blocking(self._fd):
            most = len(data)  # no other process's line comes amid one write, as Linux locks the pipe, unless it is full
        with suppress(BlockingIOError):  # another process filled the pipe first
            while put < len(data) and self._poll.poll(0):
                put += os.write(self._fd, data[put : put + most])
        return put

    def _took_back(self, octets: int) -> bool:
        """Remove the part of a line that a full disk took: another process, unaware of it, would write behind it."""
        with suppress(OSError):  # it may be append-only
            end = os.lseek(self._fd, 0, os.SEEK_CUR)
            if os.fstat(self._fd).st_size == end:
                os.ftruncate(self._fd, end - octets)
                os.lseek(self._fd, -octets, os.SEEK_CUR)  # stderr may not be open for appending
                return True
        return False

    def reopen(self) -> None:
        """Continue in a new file after a rename (logrotate), or in the present one if no new one can be opened."""
        if self._path is None:
            return
        try:
            fd = _open(self._path)
        except OSError as error:
            log.warning("can't reopen %s: %s; going on in the file that was open", self._path, error.strerror)
            return
        os.close(self._fd)
        self._fd, self._torn = fd, False
        self._poll = _poll(fd)

    def close(self) -> None:
        """Close the file, but not stderr itself."""
        if self._fd != _STDERR:
            os.close(self._fd)

    def _lose(self, reason: str) -> None:
        self._lost += 1
        if self._report is not None:
            self._report(1)
        if self._lost == 1 and self._path is not None:
            log.warning("can't write %s: %s; lines are lost until it can be", self._path, reason)


def _stderr() -> int:
    """Stderr; a pipe is reopened non-blocking if possible, so that a write fails if another process filled it first."""
    with suppress(OSError):
        if stat.S_ISFIFO(os.fstat(_STDERR).st_mode):
            return os.open(f"/proc/self/fd/{_STDERR}", os.O_WRONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    return _STDERR


def _open(path: Path) -> int:
    """Open for appending. Non-blocking, so that opening a FIFO nobody reads fails instead of blocking the hub."""
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK, 0o600)


def _poll(fd: int) -> "select.poll | None":
    """Make a poll object that tells whether a write would block; None for a regular file, where none does."""
    try:
        if stat.S_ISREG(os.fstat(fd).st_mode):
            return None
    except OSError:  # closed: the write will report it
        return None
    found: select.poll = get_original("select", "poll")()
    found.register(fd, select.POLLOUT)
    return found
