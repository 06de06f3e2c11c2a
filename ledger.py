"""``Ledger``: the highest serial number of one CA that a store has seen; what its serial file is checked against.

A serial file that was restored from an old backup, or is another's, would repeat serials. The store knows better: it
holds the certificates. So that not all of them need be read, the highest is kept in ``<store>/.serials/<CA>``, a
decimal integer and a newline; where that is missing (a store of another program's), the certificates are read once.

For pool threads. Used under the serial file's lock, which makes it safe between processes.
"""

import hashlib
import os
import re
from contextlib import suppress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

import certificates
from certificates import Unreadable
from store import MARK, content_of

_LINE = re.compile(rb"([0-9]{1,48})\n\Z")
_COUNTED = 1 << 64  # a longer one of another program's is random, and is not met by counting up
_SET_ASIDE = "???/*.crt.rejected*"  # what was moved aside was issued all the same


class Ledger:
    """The ledger of the CA ``issuer`` in the store at ``root``."""

    def __init__(self, root: Path, issuer: x509.Certificate) -> None:
        self._root = root
        self._issuer = issuer
        public = issuer.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self._path = root / ".serials" / hashlib.sha256(public).hexdigest()[:32]
        self._highest = 0  # that this process has taken: for a store that can't be written

    def highest(self) -> int:
        """The highest serial that is known; 0 if none is. Reads all certificates when nothing was kept."""
        try:
            with self._path.open("rb", buffering=0) as file:  # spares five calls of the system
                kept = _LINE.match(file.read(64))
        except OSError:
            kept = None
        if kept is None:
            self.note(max(self._highest, self._read_store()))
        else:
            self._highest = max(self._highest, int(kept[1]))
        return self._highest

    def note(self, serial: int) -> None:
        """Keep a serial that was taken, higher than all before.

        Written in one call but not synced: it counts only when the serial file, which is synced, was tampered with.
        """
        self._highest = serial
        with suppress(OSError):  # the store fails: that is told where a certificate can't be stored
            try:
                fd = self._open()
            except FileNotFoundError:
                self._path.parent.mkdir(mode=0o700)
                fd = self._open()
            try:
                os.ftruncate(fd, os.pwrite(fd, b"%d\n" % serial, 0))
            finally:
                os.close(fd)

    def _open(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)

    def _read_store(self) -> int:
        paths = [*self._root.glob("???/*.crt"), *self._root.glob(_SET_ASIDE)]
        return max((self._serial_in(path) for path in paths), default=0)

    def _serial_in(self, path: Path) -> int:
        try:
            pem = content_of(path)
            certificate = certificates.first(pem)
        except (OSError, Unreadable):
            return 0
        serial = certificate.serial_number
        counted = pem.startswith(MARK) or serial < _COUNTED
        return serial if counted and certificate.issuer == self._issuer.subject else 0
