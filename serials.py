"""``SerialFile``: the next serial number of a CA, on disk, never handed out twice.

The file holds a decimal integer and a newline: the *next* serial (RFC 5280 §4.1.2.2: positive, at most 20 octets).
It is taken under ``flock`` on ``<file>.lock``, and the next one is written back before use, so that no number is used
twice, by whichever thread or process, after any crash. (A lock on the file itself would not do: it may be replaced.)
"""

import os
import re
import secrets
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import files
import reading
from errors import RetrievalError
from ledger import Ledger

MAX_SERIAL = (1 << 159) - 1
_MOST = 64  # octets that are looked at
_LINE = re.compile(rb"\s*[0-9]{1,48}\s*\Z")


class SerialFile:
    """The serial file at ``path``. Methods block on the disk and raise ``OSError`` from it."""

    def __init__(self, path: Path) -> None:
        self.path = Path(os.path.realpath(path))  # one file, and one lock, however many links lead to it
        self._lock = self.path.with_name(self.path.name + ".lock")

    def create(self) -> None:
        """Create the file with a random serial: a CA made anew must not repeat the serials of the one before it."""
        files.write_new(self.path, b"%d\n" % (secrets.randbits(63) + 1))

    def peek(self) -> int:
        """The next serial, without taking it. Raises ``RetrievalError`` if there is none."""
        return self._next(reading.content(self.path, _MOST), 1)

    def _next(self, content: bytes, count: int) -> int:
        serial = int(content) if _LINE.match(content) else 0
        if not 0 < serial <= MAX_SERIAL - count:
            raise RetrievalError(f"serial file {self.path} must hold one positive decimal number: the next serial")
        return serial

    def check(self, makes_lock: bool = True) -> None:
        """Check that serials can be taken: raises what ``take`` would, but takes none."""
        self.peek()  # first: a lock would be left beside a file that is none of ours
        with files.locked(self._lock) if makes_lock or os.path.lexists(self._lock) else nullcontext():
            self.path.open("r+b").close()

    def prepare(self, ledger: Ledger, tell: Callable[[str], None], is_new: bool = False) -> None:
        """Make sure that the ledger knows what its store has seen, before ``take``, which can't wait for that.

        If the CA ``is_new``, that is nothing. ``tell`` is called if it may take minutes.
        """
        if ledger.kept() is None:
            found = 0 if is_new else ledger.read(tell)
            with files.locked(self._lock):
                ledger.note(max(found, ledger.highest()))

    def take(self, ledger: Ledger, notes: list[str], count: int = 1) -> range:
        """Take the next serials, durably before this returns; never one that the ledger, once prepared, knows, nor that
        of the CA's own certificate.

        What is to be logged is added to ``notes``. Raises ``RetrievalError`` if the file holds no serial: which ones
        other stores of the same CA have used is then unknown.
        """
        with files.locked(self._lock), files.rewriting(self.path, _MOST) as (content, rewrite):
            highest = ledger.highest()
            try:
                serial = self._next(content, count)
            except RetrievalError as error:
                raise RetrievalError(f"{error}; the highest that this store has seen is {highest}") from error
            if serial <= highest:
                notes.append(
                    f"serial file {self.path} says {serial}, but this store has seen {highest}: going on after that;"
                    " other stores of the same CA may have used more"
                )
                serial = highest + 1
            if serial <= ledger.own < serial + count:
                serial = ledger.own + 1
            rewrite(b"%d\n" % (serial + count))
            ledger.note(serial + count - 1)
        return range(serial, serial + count)
