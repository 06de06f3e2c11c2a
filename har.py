"""``HarFile``: exchanges as HAR 1.2, for browsers' developer tools. It contains everything, secrets too: mode 0600.

The file is valid JSON at any time, even if certifier is killed. One write is not enough for that, as a kill can end it
between two pages (of continuous writers that were killed, one in six left part of a 1 MB entry). So two copies take
turns: an entry and new closing brackets overwrite those of the hidden one (``.file.har.spare``), then the two swap
names; the other copy catches up with the next entry. Nothing is read back. A kill leaves the spare behind; the next
start removes it.

A file that would exceed its maximum size becomes ``file.1.har``, that one ``file.2.har`` and so on; the oldest goes.
"""

import errno
import fcntl
import json
import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import files
from exchange import Exchange
from harentry import entry
from rotation import make_room

MAX_SIZE = 67_108_864  # octets of a file; the developer tools of browsers are slow to open larger ones

_HEAD = b'{"log":{"version":"1.2","creator":{"name":"certifier","version":'
_TAIL = b"\n]}}\n"
_LOT = 1 << 20  # octets of entries that make up one write: larger ones cost memory, and gain nothing
_CHUNK = 1 << 20  # octets copied at once


@dataclass(slots=True)
class _Copy:
    fd: int
    end: int  # where its closing brackets begin


class HarFile:
    """Appends exchanges to a file, created (0600) if missing. Methods may block on the disk, and raise ``OSError``.

    A file of ours is continued, and one that is or becomes empty is begun anew; both keep their mode. Any other raises
    ``FileExistsError``, one that another process writes ``BlockingIOError``. The file system must have hard links. Not
    thread-safe.
    """

    def __init__(self, path: Path, version: str, body_max: int, max_size: int = MAX_SIZE) -> None:
        self._path = path = files.place(path)
        self._hidden = path.with_name(f".{path.name}.spare")
        self._between = path.with_name(f".{path.name}.swap")
        self._bare = _HEAD + json.dumps(version).encode() + b'},"pages":[],"entries":[' + _TAIL
        self._body_max = body_max
        self._max_size = max_size
        self._copies: tuple[_Copy, _Copy] | None = None  # the file, and the spare
        self._missing = b""  # what the spare still lacks
        self._links_tell = True  # whether a link more than before means that the file was renamed
        self._empty = True
        self._open()

    def append(self, *exchanges: Exchange) -> int:
        """Write the first of some ended exchanges at once, which is cheaper; return how many these were.

        If that fails, the file is as before. One that can't be told of, by a bug or as a tap has changed it, fails when
        it is the first. At most ``_LOT`` octets and one entry are written. Only a single entry can make a file exceed
        its maximum size.
        """
        lot = bytearray()
        count = 0
        for exchange in exchanges:
            try:
                told = self._told(exchange)
            except (AttributeError, LookupError, TypeError, ValueError):
                if count:
                    break  # the next call begins with it
                raise
            if count and not self._fits(len(lot) + len(b"\n,") + len(told)):
                break  # serialized again for the next file
            lot += b"\n," + told if count else told
            count += 1
            if len(lot) >= _LOT:
                break
        if count:
            try:
                self._append(lot)
            except FileNotFoundError:  # someone has renamed, removed or emptied it: begin a new one
                self._append(lot)
        return count

    def close(self) -> None:
        """Close the file, and remove the spare."""
        self._close()
        self._hidden.unlink(missing_ok=True)

    def _told(self, exchange: Exchange) -> bytes:
        return json.dumps(entry(exchange, self._body_max), ensure_ascii=False, separators=(",", ":")).encode("utf-8")

    def _fits(self, octets: int) -> bool:
        live, _ = self._copies or self._open()
        return live.end + len(b"\n" if self._empty else b"\n,") + octets + len(_TAIL) <= self._max_size

    def _append(self, lot: bytearray) -> None:
        live, spare = self._copies or self._open()
        if self._is_displaced(live) or _differ(live, spare):
            self._close()  # someone has put another file in its place (logrotate), emptied it or changed its mode
            live, spare = self._open()
        if not self._empty and not self._fits(len(lot)):
            self._close()
            make_room(self._path)
            live, spare = self._open()
        new = (b"\n" if self._empty else b"\n,") + lot
        was = os.fstat(live.fd)
        octets = files.write_at(spare.fd, [self._missing, new, _TAIL], spare.end)
        try:
            if os.pread(spare.fd, 1, 0) != _HEAD[:1]:  # emptied after the check above: the write has left a hole
                raise FileNotFoundError(errno.ENOENT, "it was emptied")
            os.link(self._path, self._between)
            os.rename(self._hidden, self._path)
            os.rename(self._between, self._hidden)
            now = os.stat(self._hidden)
            linked = self._links_tell and now.st_nlink > was.st_nlink
            if linked or not os.path.samestat(now, was):  # renamed after the check above
                os.unlink(self._path)  # it repeats all that is in the renamed file
                raise FileNotFoundError(errno.ENOENT, "it was renamed")
        except OSError:
            self._close()  # the next append finds out which file is which
            raise
        spare.end += octets - len(_TAIL)
        self._copies, self._missing, self._empty = (spare, live), new, False

    def _is_displaced(self, live: _Copy) -> bool:
        """Whether the path now names another file, which would otherwise take turns with ours as if it were a copy."""
        with suppress(FileNotFoundError):
            return not os.path.samestat(os.stat(self._path), os.fstat(live.fd))
        return True

    def _open(self) -> tuple[_Copy, _Copy]:
        with suppress(FileExistsError):
            files.write_new(self._path, self._bare)
        live = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(live, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._begin(live)
            end = os.fstat(live).st_size - len(_TAIL)
            if os.pread(live, len(_HEAD), 0) != _HEAD or os.pread(live, len(_TAIL), end) != _TAIL:
                raise FileExistsError(errno.EEXIST, "it exists, and is not a whole HAR file of certifier's")
            self._empty = os.pread(live, 4096, 0).find(b"\n") == end
            self._links_tell = self._forgets()
            spare = self._copy(live)
        except BaseException:
            os.close(live)
            raise
        self._missing = b""
        self._copies = _Copy(live, end), _Copy(spare, end)
        return self._copies

    def _begin(self, live: int) -> None:
        """If the file is empty, write a HAR without entries."""
        found = os.fstat(live)
        if stat.S_ISREG(found.st_mode) and not found.st_size:
            files.write_at(live, [self._bare], 0)

    def _forgets(self) -> bool:
        """Whether an open file loses a link with its name: on NFS, and often on FUSE, it gets a hidden name instead."""
        self._between.unlink(missing_ok=True)
        self._hidden.unlink(missing_ok=True)
        fd = os.open(self._between, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.link(self._between, self._hidden)
            self._between.unlink()
            return os.stat(self._hidden).st_nlink == 1
        finally:
            self._between.unlink(missing_ok=True)
            os.close(fd)

    def _copy(self, live: int) -> int:
        self._hidden.unlink(missing_ok=True)
        spare = os.open(self._hidden, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(spare, fcntl.LOCK_EX)
            os.fchmod(spare, _mode(os.fstat(live)))  # or who may read the file would change with each swap
            at = 0
            while chunk := os.pread(live, _CHUNK, at):
                at += os.write(spare, chunk)
        except BaseException:
            os.close(spare)
            raise
        return spare

    def _close(self) -> None:
        for copy in self._copies or ():
            os.close(copy.fd)
        self._copies = None


def _differ(live: _Copy, spare: _Copy) -> bool:
    """Whether the two can't take turns as they are: one has been emptied, or they have different modes."""
    found, other = os.fstat(live.fd), os.fstat(spare.fd)
    return found.st_size < live.end or other.st_size < spare.end or _mode(found) != _mode(other)


def _mode(found: os.stat_result) -> int:
    return stat.S_IMODE(found.st_mode)
