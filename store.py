"""``Store``: certificates on disk, a name's PEM at ``<store>/<first three hex digits of md5(name)>/<name>.crt``.

It knows names, files and bytes, and nothing of X.509. Every method may block on the disk, and is safe
to call from several threads and several processes on the same directory. ``OSError`` is the caller's to handle.
"""

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import lru_cache
from itertools import count
from pathlib import Path

import files
from stored import MARK, UNSEEN, Entry, State, Stored, is_ours, keep_use, note_use, state, state_of

MAX_STEM = 200  # octets of a name that can be stored: with suffixes it must stay below NAME_MAX (255)

Stamp = tuple[State | None, ...]  # of each file that is looked up for a name
Failures = list[tuple[Path, OSError]]  # what can't be read or removed, and why


class Occupied(OSError):
    """Something unreadable is in the place of a certificate to be stored, which is no fault of the store's."""


class Store:
    """The directory ``root``, created (0700) if missing. Raises ``OSError`` if that, or writing to it, fails.

    Without ``create`` it must exist, and need not be writable.
    """

    def __init__(self, root: str | os.PathLike[str], create: bool = True) -> None:
        self.root = Path(root)
        if not create:
            os.scandir(self.root).close()
            return
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._lock():
            pass

    def probe(self, write: bool) -> None:
        """Check that it can be read and, if asked, written, leaving nothing behind. Raises ``OSError``."""
        os.scandir(self.root).close()
        if write:
            with files.temporary(self.root / "probe", b"x"):
                pass

    def clear_stale(self) -> int:
        """Remove the temporary files that a crash left behind, and return how many. Takes a while in a large store."""
        return sum(files.clear_stale(folder) for folder in (self.root, *self._folders()))

    def entries(self) -> Iterator[Entry]:
        """All certificates in the store, in no order, without those gone meanwhile. Takes a while in a large one."""
        for path in self.paths():
            with suppress(OSError):
                yield Entry.of(path)

    def unreadable(self) -> Failures:
        """What stands in the place of a folder for certificates, but can't be read as one: a walk skips it."""
        failures: Failures = []
        for folder in sorted(self.root.glob("[0-9a-f]" * 3)):
            try:
                os.scandir(folder).close()
            except OSError as error:
                failures.append((folder, error))
        return failures

    def paths(self) -> Iterator[Path]:
        """The paths of all certificates, in no order."""
        for folder in self._folders():
            with suppress(OSError), os.scandir(folder) as found:
                yield from [Path(file.path) for file in found if file.name.endswith(".crt")]

    def _folders(self) -> list[Path]:
        """The folders that may hold certificates; no symbolic links, which may lead out of the store."""
        with os.scandir(self.root) as found:
            return [Path(f.path) for f in found if len(f.name) == 3 and f.is_dir(follow_symlinks=False)]

    def remove(self, entry: Entry, failures: Failures) -> bool:
        """Remove a certificate of certifier's own, unless it has changed since it was found; whether it was removed.

        If it can't be, that is added to ``failures``.
        """
        with self._lock():
            try:
                if entry.is_unchanged():
                    entry.path.unlink()
                    return True
            except FileNotFoundError:
                pass
            except OSError as error:
                failures.append((entry.path, error))
        return False

    def touch(self, stored: Stored, now: float) -> None:
        """Note the use of a certificate of certifier's own; an operator's file is not touched."""
        if stored.ours:
            note_use(stored.path, now)

    def path(self, name: str) -> Path | None:
        """The path of a canonical name's certificate; None for a name too long for a file."""
        return _path(self.root, name)

    def load(self, name: str, failures: Failures | None = None) -> list[Stored]:
        """What is stored for the name, in the order to try it. Read errors are added to ``failures``, or else raised.

        1. an operator's file for the name; 2. an operator's file for the wildcard that replaces the first label
        (``_.example.com.crt`` is that of ``*.example.com``); 3. certifier's own.
        """
        found = []
        for path in self._paths(name):
            try:
                stored = Stored.load(path)
            except OSError as error:
                if failures is None:
                    raise
                failures.append((Path(error.filename or path), error))
            else:
                if stored is not None and (not stored.ours or path == self.path(name)):
                    found.append(stored)
        return sorted(found, key=lambda stored: stored.ours)

    def holds(self, name: str) -> bool:
        """Whether anything at all is where ``load`` looks."""
        return any(os.path.lexists(path) for path in self._paths(name))

    def read(self, path: Path) -> Stored:
        """A certificate that must exist. Raises ``OSError``."""
        stored = Stored.load(path)
        if stored is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return stored

    def stamp(self, name: str) -> Stamp:
        """A value that changes when a file that counts for the name is placed, replaced or removed.

        If it has only None, ``load`` would find nothing, and need not be called: each system call costs a pool thread a
        turn.
        """
        states: list[State | None] = []
        for path in map(str, self._paths(name)):
            found = state(path)
            states += found, state(f"{path[:-4]}.key") if found else None
        return tuple(states)

    def look(self, name: str, stamp: Stamp, ours: bool, now: float) -> Stamp | None:
        """Check the files of a name in use: the stamp to compare with next time, None if they have changed.

        With ``ours``, certifier's own certificate is in use: that is noted, and a touched or pruned file is no change.
        Nor is it one if a file can't be looked at.
        """
        path = self.path(name)
        if ours and path is not None:
            note_use(path, now)
        states = zip(self.stamp(name), stamp, strict=True)
        present = tuple(before if found == UNSEEN else found for found, before in states)
        if present == stamp:
            return present
        if ours and path is not None and present[2:] == stamp[2:]:  # a key beside ours has no use
            mine, before = present[0], stamp[0]
            if mine is None or (before is not None and mine[0] == before[0] and _may_be_ours(path)):
                return present
        return None

    def _paths(self, name: str) -> list[Path]:
        _, dot, above = name.partition(".")
        wildcard = self.path(f"_.{above}") if dot else None
        return [path for path in (self.path(name), wildcard) if path is not None]

    def save(self, name: str, pem: bytes, replacing: Stored | None = None, used: bool = True) -> Stored | None:
        """Store a certificate that certifier made; return what the store holds for the name afterwards.

        If nothing was stored, the first of several processes wins and the others get the winner's. Likewise if it is
        ``replacing`` a file: one that has changed meanwhile stays. None if the name is too long to be stored.
        Unless it is ``used`` now, it inherits the time of last use from what it replaces. Raises ``Occupied``.
        """
        path = self.path(name)
        if path is None:
            return None
        try:
            os.mkdir(path.parent, 0o700)
        except FileExistsError:
            _refuse_link(path.parent)
        marked = MARK + pem
        # The folder is not synced: a certificate lost in a power cut is made again, with a new serial.
        if replacing is None:
            try:
                found = files.create(path, marked)
            except FileExistsError:
                with _occupied():
                    return self.read(path)
            return Stored(marked, True, path, state_of(found))
        with files.temporary(path, marked) as temporary, self._lock():
            with _occupied():
                present = Stored.load(path)
            if present is not None and present != replacing:
                return present
            if not used:
                keep_use(path, temporary)
            new = Stored(marked, True, path, state(str(temporary)))
            os.rename(temporary, path)
        return new

    def reject(self, stored: Stored) -> bool:
        """Move an unusable file aside to ``<name>.crt.rejected`` (``.key`` likewise), unless it has changed."""
        path = stored.path
        _refuse_link(path.parent)
        with self._lock():
            if Stored.load(path) != stored:
                return False
            for old in (path, path.with_suffix(".key")):
                with suppress(FileNotFoundError):
                    os.rename(old, _free(old.with_name(old.name + ".rejected")))
        files.sync(path.parent)
        return True

    def _lock(self) -> AbstractContextManager[None]:
        return files.locked(self.root / ".lock")


def _may_be_ours(path: Path) -> bool:
    """Whether certifier wrote the file, as far as that can be seen: each look would report the same fault anew."""
    try:
        return is_ours(path)
    except OSError:
        return True


@contextmanager
def _occupied() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Occupied(error.errno, error.strerror) from error


@lru_cache(maxsize=1024)  # a retrieval asks for the same few several times, and pathlib is slow
def _path(root: Path, name: str) -> Path | None:
    if len(name) > MAX_STEM:
        return None
    if "/" in name or "\0" in name or name.startswith("."):
        raise ValueError("not a canonical name")  # names.py lets none through: this is a second line of defence
    digest = hashlib.md5(name.encode("ascii"), usedforsecurity=False).hexdigest()
    return root / digest[:3] / f"{name}.crt"


def _refuse_link(folder: Path) -> None:
    """Raise ``NotADirectoryError`` for a symbolic link: changes made through it may hit files outside the store."""
    if folder.is_symlink():
        raise NotADirectoryError(errno.ENOTDIR, f"{folder} is a symbolic link")


def _free(path: Path) -> Path:
    """The path, with a number appended if it is taken: nothing moved aside is ever overwritten."""
    return next(p for n in count() if not os.path.lexists(p := path.with_name(f"{path.name}.{n}") if n else path))
