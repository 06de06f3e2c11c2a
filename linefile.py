"""``LineFile``: where log lines go, a file or stderr: each by one write, and never at a connection's price."""

import logging
import os
import select
import stat
from contextlib import suppress
from pathlib import Path
from select import PIPE_BUF

from gevent.monkey import get_original

_STDERR = 2

log = logging.getLogger("certifier.linefile")


class LineFile:
    """A file (0600 if it is made), or stderr, to which lines are appended.

    The constructor raises ``OSError``; later on a file that can't be written, or a pipe that nobody reads, loses lines,
    with one warning.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._fd = _stderr() if path is None else _open(path)
        self._poll = _poll(self._fd)
        self._lost = 0  # lines since one could be written
        self._torn = False  # the last one was written in part

    def write(self, line: str) -> None:
        """Append a line, or several, given without the last one's end, in ASCII."""
        data = f"{line}\n".encode("ascii", "backslashreplace")
        if self._lost and self._ends_torn():
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
            log.warning("%s can be written again; %d lines were lost", self._path or "stderr", lost)

    def _ends_torn(self) -> bool:
        """Whether it ends within a line: of another process too, where a file is shared, which we can't know of."""
        if self._poll is None:
            with suppress(OSError):  # not ours to read, or no /proc
                fd = os.open(f"/proc/self/fd/{self._fd}", os.O_RDONLY | os.O_CLOEXEC)
                try:
                    return os.pread(fd, 1, max(0, os.fstat(fd).st_size - 1)) not in (b"\n", b"")
                finally:
                    os.close(fd)
        return self._torn

    def _put(self, data: bytes) -> int:
        """Write as far as that needs no wait, in which everyone would wait; how many octets that were."""
        if self._poll is None:
            return os.write(self._fd, data)
        put = 0
        with suppress(BlockingIOError):  # another process was faster
            while put < len(data) and self._poll.poll(0):
                put += os.write(self._fd, data[put : put + PIPE_BUF])  # so many a pipe takes at once when it takes any
        return put

    def reopen(self) -> None:
        """Go on in a new file, the present one being renamed (logrotate); if there can be none, in the present one."""
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
        """No more lines come."""
        if self._fd != _STDERR:
            os.close(self._fd)

    def _lose(self, reason: str) -> None:
        self._lost += 1
        if self._lost == 1 and self._path is not None:
            log.warning("can't write %s: %s; lines are lost until it can be", self._path, reason)


def _stderr() -> int:
    """A pipe is opened once more where that can be: then a write fails where another process was faster."""
    with suppress(OSError):
        if stat.S_ISFIFO(os.fstat(_STDERR).st_mode):
            return os.open(f"/proc/self/fd/{_STDERR}", os.O_WRONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    return _STDERR


def _open(path: Path) -> int:
    """Not by waiting for who shall read a FIFO, in which everyone would wait: without one that can't be written."""
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK, 0o600)


def _poll(fd: int) -> "select.poll | None":
    """What tells whether a write would wait; None for a file, which never makes one wait."""
    try:
        if stat.S_ISREG(os.fstat(fd).st_mode):
            return None
    except OSError:  # closed: the write will tell
        return None
    found: select.poll = get_original("select", "poll")()
    found.register(fd, select.POLLOUT)
    return found
