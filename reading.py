"""Reads whole files, of a size that is bounded: a path may name a device, a FIFO or a directory.

Every function may block on the disk and raise its ``OSError``. Safe on pool threads.
"""

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from gevent.monkey import get_original

_MOST = 1 << 26  # octets read from a file at once: half a million users or 30,000 roots have less, /dev/zero has no end
_PIECE = 1 << 20  # octets

# Of a file that an operator chose: a FIFO would block, and a terminal would become that of a process that has none, as
# a service has none, and hang up on it later.
FLAGS = os.O_NONBLOCK | os.O_NOCTTY

# gevent's must not be used on pool threads; it also costs system calls for a check.
close: Callable[[int], None] = get_original("os", "close")


def exists(path: Path) -> bool:
    """Whether a file exists; since Python 3.14, ``Path.exists`` also says no if that can't be determined."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def content(path: Path, most: int) -> bytes:
    """The content of a regular file, up to its first ``most`` octets."""
    return content_and_stat(path, most)[0]


def content_and_stat(path: Path, most: int) -> tuple[bytes, os.stat_result]:
    """The same, with what fstat(2) says of the file."""
    with opened(path, os.O_RDONLY) as (fd, found):
        return os.read(fd, min(most, found.st_size)), found


@contextmanager
def opened(path: Path, flags: int) -> Iterator[tuple[int, os.stat_result]]:
    """A descriptor of a regular file, and what fstat(2) says of it."""
    fd = os.open(path, flags | os.O_CLOEXEC | FLAGS)
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise IsADirectoryError(errno.EISDIR, "Is a directory or no regular file", str(path))
        yield fd, found
    finally:
        close(fd)


def whole(path: Path) -> bytes:
    """All that a file holds. Of a FIFO, what its writers write; nothing if it has none, rather than wait for ever."""
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | FLAGS)) as file:
        os.set_blocking(file.fileno(), True)
        return rest(file)


def rest(file: BinaryIO) -> bytes:
    """All that can still be read from a file. Raises ``OSError`` if that is more than ``_MOST``."""
    found = bytearray()
    while len(found) <= _MOST:
        piece = file.read(_PIECE)  # all at once would reserve the memory for ``_MOST``
        found += piece
        if len(piece) < _PIECE:  # the end: a terminal would have to be told again
            return bytes(found)
    raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(file.name))
