"""``Stored``: a certificate's file in the store, and ``Entry``: the same as found in a walk.

A file that certifier wrote begins with ``MARK`` (explanatory text before the PEM, RFC 7468 §2). One without it is an
operator's: never overwritten, at most moved aside. What a PEM holds is not looked at here.
"""

import codecs
import os
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import files

MARK = b"Made by certifier, which may replace or remove it. Remove this line to keep it.\n"
MAX_FILE = 1 << 20  # octets: no certificate with its chain is larger; a file that is, is no certificate
TOUCH_SECONDS = 3600.0  # how exactly the time of last use is kept: not a write a connection


class Stored(NamedTuple):
    """A certificate's file, an operator's ``.key`` file behind it."""

    pem: bytes
    ours: bool
    path: Path

    @classmethod
    def load(cls, path: Path) -> "Stored | None":
        """What stands there, None for nothing. Raises ``OSError``."""
        pem = _content(path)
        if pem is None:
            return None
        if pem.startswith(MARK):
            return cls(pem, True, path)
        if b"PRIVATE KEY-----" not in pem and (key := _content(path.with_suffix(".key"))) is not None:
            pem += b"\n" + key.removeprefix(codecs.BOM_UTF8)  # which OpenSSL passes over at the begin of a file alone
        return cls(pem, False, path)

    @property
    def is_wildcard(self) -> bool:
        """Whether it is for the names below one, and may be for some of them only."""
        return self.path.name.startswith("_.")

    def age(self, now: float) -> float:
        """Seconds since one of its files was last written or came to stand there: somebody may still be at it.

        ``now`` since the epoch. A copy may keep the time of its origin (``cp -p``, ``rsync -a``); a link has its own.
        """
        times: list[float] = []
        for file in (self.path, self.path.with_suffix(".key")):
            with suppress(OSError):
                times += file.stat().st_mtime, file.lstat().st_ctime
        return now - max(times, default=0.0)

    def placed(self) -> float:
        """When the file came to stand there, or was last touched, since the epoch; 0.0 where it is gone.

        The time of change: a renewal carries the time of last use over, this one nobody can set.
        """
        try:
            return self.path.stat().st_ctime
        except OSError:
            return 0.0


class Entry(NamedTuple):
    """A certificate's file as found in a walk through the store."""

    path: Path
    ours: bool
    size: int  # octets
    used: float  # seconds since the epoch: of certifier's own, when last used, to the hour; else when last written
    inode: int

    @classmethod
    def of(cls, path: Path) -> "Entry":
        """The entry of a file. Raises ``OSError`` when it is gone."""
        found = path.stat()
        try:
            ours = is_ours(path)
        except OSError:
            ours = False  # what can't be read is nobody's to remove
        return cls(path, ours, found.st_size, found.st_mtime, found.st_ino)

    def is_unchanged(self) -> bool:
        """Whether it is still the file that was found, and certifier's own. Raises ``OSError`` when it is gone."""
        found = self.path.stat()
        return (found.st_ino, found.st_mtime) == (self.inode, self.used) and is_ours(self.path)

    @property
    def name(self) -> str:
        """The name that it is the certificate of; a wildcard as ``*.example.com``."""
        stem = self.path.name.removesuffix(".crt")
        return f"*{stem[1:]}" if stem.startswith("_.") else stem


def _content(path: Path) -> bytes | None:
    """What a file holds, None for nothing. Raises ``OSError``, with the file's name."""
    try:
        return files.content(path, MAX_FILE)
    except FileNotFoundError:
        try:
            path.lstat()  # not is_symlink, for which nothing fails since Python 3.14
        except FileNotFoundError:
            return None
        return files.content(path, MAX_FILE)  # come meanwhile; or fails again: a link to nowhere, something is meant


def is_ours(path: Path) -> bool:
    """Whether certifier wrote the file. Raises ``OSError``."""
    return files.content(path, len(MARK)) == MARK


def keep_use(path: Path, new: Path) -> None:
    """Give the file that shall stand in a certificate's place the time of last use of that one."""
    with suppress(OSError):  # as below
        os.utime(new, ns=(path.stat().st_mtime_ns,) * 2)


def note_use(path: Path, now: float) -> None:
    """Set the time of last use of a certificate of certifier's own; ``now`` since the epoch."""
    with suppress(OSError):  # gone, or a store that can't be written: use is not worth an error
        if abs(now - path.lstat().st_mtime) > TOUCH_SECONDS and is_ours(path):  # the clock may have been ahead
            os.utime(path, (now, now), follow_symlinks=False)  # a link may lead out of the store
