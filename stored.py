"""``Stored``: a certificate's file in the store, and ``Entry``: one that was found in a walk through it.

A file that certifier wrote begins with ``MARK`` (explanatory text before the PEM, RFC 7468 §2). One without it is an
operator's: never overwritten, at most moved aside. The contents of the PEM are not examined here.
"""

import codecs
import os
import stat
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import reading

MARK = b"Made by certifier, which may replace or remove it. Remove this line to keep it.\n"
MAX_FILE = 1 << 20  # octets: no certificate with its chain is larger
TOUCH_SECONDS = 3600.0  # the precision of the time of last use: it must not cost a write per connection

State = tuple[int, int, int, int, int, int]  # of a file: inode, mtime (ns), size; mode, owner, group: who may read it
UNSEEN: State = (-1,) * 6  # of what can't be looked at


@dataclass(frozen=True, slots=True)
class Stored:
    """A certificate's file, with an operator's ``.key`` file appended if it holds no key."""

    pem: bytes
    ours: bool
    path: Path
    state: State | None = field(default=None, compare=False)  # of the file, if that is certifier's

    @classmethod
    def load(cls, path: Path) -> "Stored | None":
        """What is stored at ``path``; None if there is no file. Raises ``OSError``."""
        loaded = _content(path)
        if loaded is None:
            return None
        pem, found = loaded
        if pem.startswith(MARK):
            return cls(pem, True, path, state_of(found))
        if b"PRIVATE KEY-----" not in pem and (key := _content(path.with_suffix(".key"))) is not None:
            pem += b"\n" + key[0].removeprefix(codecs.BOM_UTF8)  # OpenSSL skips a BOM only at the start of a file
        return cls(pem, False, path)

    @property
    def is_wildcard(self) -> bool:
        """Whether it is stored for all names below one, though it may cover only some of them."""
        return self.path.name.startswith("_.")

    def age(self, now: float) -> float:
        """Seconds since one of its files was last written or put in place: somebody may still be working on it.

        ``now`` since the epoch. A copy may keep the mtime (``cp -p``, ``rsync -a``), not the ctime; a link has its own.
        Of times in the future, it is the seconds until then: ``now`` may be older than the file, or a clock be wrong.
        """
        times: list[float] = []
        for file in (self.path, self.path.with_suffix(".key")):
            with suppress(OSError):
                times += file.stat().st_mtime, file.lstat().st_ctime
        return min((abs(now - moment) for moment in times), default=now)

    def placed(self) -> float:
        """When the file was put in place or last touched, in seconds since the epoch; 0.0 if it is gone.

        This is the ctime, which nobody can set; a renewal carries the mtime over, as the time of last use.
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
    used: float  # seconds since the epoch: the last use, to the hour, of certifier's own; the last write of others
    inode: int

    @classmethod
    def of(cls, path: Path) -> "Entry":
        """The entry of a file. Raises ``OSError`` if it is gone."""
        try:
            found = path.stat()
        except OSError:
            found = path.lstat()  # an operator's link whose target is gone or can't be reached
        try:
            ours = is_ours(path)
        except OSError:
            ours = False  # what can't be read must not be removed
        return cls(path, ours, found.st_size, found.st_mtime, found.st_ino)

    def is_unchanged(self) -> bool:
        """Whether it is still the file that was found, and certifier's own. Raises ``OSError`` if it is gone."""
        found = self.path.stat()
        return (found.st_ino, found.st_mtime) == (self.inode, self.used) and is_ours(self.path)

    @property
    def name(self) -> str:
        """The name that it is stored for; a wildcard as ``*.example.com``."""
        stem = self.path.name.removesuffix(".crt")
        return f"*{stem[1:]}" if stem.startswith("_.") else stem


def state_of(found: os.stat_result) -> State:
    """The state of a file, from what stat(2) says of it."""
    return found.st_ino, found.st_mtime_ns, found.st_size, found.st_mode, found.st_uid, found.st_gid


def state(path: str) -> State | None:
    """The state of the file at a path; None if nothing is there, ``UNSEEN`` if it can't be looked at."""
    try:
        found = os.lstat(path)
        if stat.S_ISLNK(found.st_mode):
            with suppress(FileNotFoundError):  # of a dangling link, its own
                found = os.stat(path)
    except FileNotFoundError:
        return None
    except OSError:
        return UNSEEN
    return state_of(found)


def _content(path: Path) -> tuple[bytes, os.stat_result] | None:
    """A file's content and stat, None if there is no file. Raises ``OSError`` with the file's name."""
    try:
        return reading.content_and_stat(path, MAX_FILE)
    except FileNotFoundError:
        try:
            path.lstat()  # not is_symlink, which hides all errors since Python 3.14
        except FileNotFoundError:
            return None
        # It has appeared; or it fails again: a dangling link is an error.
        return reading.content_and_stat(path, MAX_FILE)


def is_ours(path: Path) -> bool:
    """Whether certifier wrote the file. Raises ``OSError``."""
    return reading.content(path, len(MARK)) == MARK


def keep_use(path: Path, new: Path) -> None:
    """Give the file that is to replace a certificate its time of last use."""
    with suppress(OSError):  # as in ``note_use``
        os.utime(new, ns=(path.stat().st_mtime_ns,) * 2)


def note_use(path: Path, now: float) -> None:
    """Set the time of last use of a certificate of certifier's own; ``now`` since the epoch."""
    with suppress(OSError):  # it is gone, or the store can't be written: noting its use is not worth an error
        if abs(now - path.lstat().st_mtime) > TOUCH_SECONDS and is_ours(path):  # abs: the clock may have been ahead
            os.utime(path, (now, now), follow_symlinks=False)  # a link may lead out of the store
