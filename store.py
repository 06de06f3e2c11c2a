"""``Store``: certificates on disk, a name's PEM at ``<store>/<first three hex digits of md5(name)>/<name>.crt``.

It knows names, files and bytes, and nothing of X.509. Every method may block on the disk, and is safe
to call from several threads and several processes on the same directory. ``OSError`` is the caller's to handle.

A file that certifier wrote begins with ``MARK`` (explanatory text before the PEM, RFC 7468 §2). One
without it is an operator's: never overwritten, at most moved aside.
"""

import errno
import fcntl
import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import NamedTuple

MARK = b"Made by certifier, which may replace or remove it. Remove this line to keep it.\n"
MAX_STEM = 200  # octets of a name that is stored: with suffixes it must stay under NAME_MAX (255)
STALE_SECONDS = 3600.0  # a temporary file lives for milliseconds: so old, its maker has crashed
MAX_FILE = 1 << 20  # octets: no certificate with its chain is larger; a file that is, is no certificate

_serial = count()  # tells the temporary files of this process's threads apart


Stamp = tuple[tuple[int, int, int] | None, ...]  # inode, mtime (ns) and size of each file that may count for a name


class Stored(NamedTuple):
    """A certificate's file, an operator's ``.key`` file behind it."""

    pem: bytes
    ours: bool
    path: Path


class Store:
    """The directory ``root``, made (0700) if missing. Raises ``OSError`` if that, or writing to it, fails."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._lock():
            pass

    def clear_stale(self) -> int:
        """Remove the temporary files that a crash left behind; how many. Takes a while in a large store."""
        count = 0
        for temporary in self.root.glob("???/.*.tmp"):
            with suppress(OSError):
                if time.time() - temporary.stat().st_mtime > STALE_SECONDS:
                    temporary.unlink()
                    count += 1
        return count

    def path(self, name: str) -> Path | None:
        """Where the certificate of a canonical name stands; None for a name too long for a file."""
        if len(name) > MAX_STEM:
            return None
        if "/" in name or "\0" in name or name.startswith("."):
            raise ValueError("not a canonical name")  # names.py lets none through: this is the second lock
        digest = hashlib.md5(name.encode("ascii"), usedforsecurity=False).hexdigest()
        return self.root / digest[:3] / f"{name}.crt"

    def load(self, name: str) -> list[Stored]:
        """What is stored for the name, in the order to be tried.

        1. an operator's file for the name; 2. an operator's for the wildcard (``_.example.com.crt`` is that of
        ``*.example.com``) one label above; 3. certifier's own.
        """
        found = [stored for path in self._paths(name) if (stored := _load(path)) is not None]
        return sorted((s for s in found if not s.ours or s.path == self.path(name)), key=lambda stored: stored.ours)

    def stamp(self, name: str) -> Stamp:
        """What changes when a file that counts for the name is placed, replaced or removed."""
        return tuple(_stamp(file) for path in self._paths(name) for file in (path, path.with_suffix(".key")))

    def _paths(self, name: str) -> list[Path]:
        _, dot, above = name.partition(".")
        wildcard = self.path(f"_.{above}") if dot and ":" not in name else None
        return [path for path in (self.path(name), wildcard) if path is not None]

    def save(self, name: str, pem: bytes, replacing: Stored | None = None) -> Stored | None:
        """Store a certificate that certifier made; what the store holds for the name afterwards.

        Where it held nothing, the first of several processes wins and the others get the winner's; where it
        held ``replacing``, the same: a file that changed meanwhile stays. None: not stored, the name is too long.
        """
        path = self.path(name)
        if path is None:
            return None
        path.parent.mkdir(mode=0o700, exist_ok=True)
        if path.parent.is_symlink():  # it may lead out of the store
            raise NotADirectoryError(errno.ENOTDIR, f"{path.parent} is a symbolic link")
        new = Stored(MARK + pem, True, path)
        with _temporary(path, new.pem) as temporary:
            if replacing is None:
                try:
                    os.link(temporary, path)
                except FileExistsError:
                    return _load(path) or new
            else:
                with self._lock():
                    present = _load(path)
                    if present is not None and present != replacing:
                        return present
                    os.rename(temporary, path)
        _sync(path.parent)
        return new

    def reject(self, stored: Stored) -> bool:
        """Move an unusable file aside to ``<name>.crt.rejected`` (``.key`` likewise), unless it has changed."""
        path = stored.path
        with self._lock():
            if _load(path) != stored:
                return False
            for old in (path, path.with_suffix(".key")):
                with suppress(FileNotFoundError):
                    os.rename(old, _free(old.with_name(old.name + ".rejected")))
        _sync(path.parent)
        return True

    @contextmanager
    def _lock(self) -> Iterator[None]:
        with locked(self.root / ".lock"):
            yield


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
    with _temporary(path, content, mode) as temporary:
        os.link(temporary, path)
    _sync(path.parent)


def replace(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Replace a file whole or not at all; durable on return."""
    with _temporary(path, content, mode) as temporary:
        os.rename(temporary, path)
    _sync(path.parent)


@contextmanager
def _temporary(path: Path, content: bytes, mode: int = 0o600) -> Iterator[Path]:
    """A synced file beside ``path``, for linking or renaming to it; gone at the end where it still is."""
    temporary = path.with_name(f".{os.getpid()}.{next(_serial)}.tmp")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        with open(fd, "wb") as file:
            os.fchmod(fd, mode)
            file.write(content)
            file.flush()
            os.fsync(fd)
        yield temporary
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temporary)


def _load(path: Path) -> Stored | None:
    try:
        pem = _read(path)
    except FileNotFoundError:
        return None
    if pem.startswith(MARK):
        return Stored(pem, True, path)
    with suppress(FileNotFoundError):
        if b"PRIVATE KEY-----" not in pem:
            pem += b"\n" + _read(path.with_suffix(".key"))
    return Stored(pem, False, path)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_FILE)


def _sync(directory: Path) -> None:
    """Make a rename or link in a directory durable."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _free(path: Path) -> Path:
    """The path, or with a number behind it where that is taken: nothing set aside is ever overwritten."""
    return next(p for n in count() if not (p := path.with_name(f"{path.name}.{n}") if n else path).exists())
