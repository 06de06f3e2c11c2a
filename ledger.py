"""``Ledger``: the highest serial number of one CA that a store has seen, to check its serial file against.

A serial file restored from an old backup, or another CA's, would repeat serials. The store knows better: it holds the
certificates. So that not all of them need be read, the highest is kept in ``<store>/.serials/<CA>``, a decimal integer
and a newline; if that is missing (the store was another program's), the certificates are read once.

Blocks on the disk. Written under the serial file's lock, which makes it safe between processes.
"""

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

import certificates
import reading
from certificates import Unreadable
from stored import MARK, MAX_FILE

_LINE = re.compile(rb"([0-9]{1,48})\n\Z")
_COUNTED = 1 << 64  # a larger one of another program's is random: counting up never reaches it
_MANY = 10_000  # certificates: reading more takes seconds
_CERTIFICATE = re.compile(r"\.crt(?:\.rejected.*)?\Z")  # certificates moved aside were issued, too


class Ledger:
    """The ledger of the CA ``issuer`` in the store at ``root``."""

    def __init__(self, root: Path, issuer: x509.Certificate) -> None:
        self._root = root
        self._issuer = issuer
        self.own = issuer.serial_number  # a root's is used already: Firefox refuses a leaf that shares it
        public = issuer.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self._path = root / ".serials" / hashlib.sha256(public).hexdigest()[:32]
        self._highest = 0  # that this process knows: for a store that can't be written

    def highest(self) -> int:
        """The highest serial known; 0 if none is."""
        self._highest = max(self._highest, self.kept() or 0)
        return self._highest

    def kept(self) -> int | None:
        """The highest serial on file for this CA; None if there is none."""
        try:
            kept = _LINE.match(reading.content(self._path, 64))
        except OSError:
            return None
        return int(kept[1]) if kept is not None else None

    def read(self, tell: Callable[[str], None]) -> int:
        """The highest serial in the store's certificates. Needs no lock; calls ``tell`` if it may take minutes."""
        highest = 0
        for number, path in enumerate(self._certificates()):
            if number == _MANY:
                tell("reading all certificates in the store, once, for the serial numbers that this CA has used")
            highest = max(highest, self._serial_in(path))
        return highest

    def _certificates(self) -> Iterator[Path]:
        """All in the store. No glob: since Python 3.13 it skips a folder on any error, not only if it is forbidden."""
        with os.scandir(self._root) as found:
            folders = [folder.path for folder in found if len(folder.name) == 3 and folder.is_dir()]
        for folder in folders:
            with suppress(PermissionError), os.scandir(folder) as found:
                yield from [Path(file.path) for file in found if _CERTIFICATE.search(file.name)]

    def note(self, serial: int) -> None:
        """Record a serial that was taken, not lower than any before.

        Written in one call but not synced: it matters only if the serial file, which is synced, was tampered with.
        """
        self._highest = serial
        with suppress(OSError):  # a failing store is reported when a certificate can't be stored
            try:
                fd = self._open()
            except FileNotFoundError:
                self._path.parent.mkdir(mode=0o700)
                fd = self._open()
            try:
                os.ftruncate(fd, os.pwrite(fd, b"%d\n" % serial, 0))
            finally:
                reading.close(fd)

    def _open(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)

    def _serial_in(self, path: Path) -> int:
        try:
            pem = reading.content(path, MAX_FILE)
            issuer, serial = certificates.issuer_and_serial(pem)
        except (OSError, Unreadable):
            return 0
        counted = pem.startswith(MARK) or serial < _COUNTED
        return serial if counted and issuer == self._issuer.subject else 0
