"""``Issuance``: the store, the CA and the ``Leaves`` made with both, built from the operator's options.

Everything here may block on the disk. Raises ``UsageError`` for an operator's mistake.
"""

import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import ca
import cafolder
import files
import reading
from ca import CaFiles
from errors import RetrievalError, UsageError
from keys import KeyStock
from leaves import Leaves
from ledger import Ledger
from log import escape
from options import LeafOptions
from pruning import Bound
from signer import Authority
from store import Failures, Store


def _silent(_: str) -> None:
    """Discard the message."""


class Issuance:
    """The parts that provide certificates. ``authority`` is None if nothing is signed.

    ``tell`` is called with a sentence before work that may take minutes. With ``founds`` False, the CA must exist
    already: a folder whose certificate is missing for a moment must not get a new one.
    """

    def __init__(
        self,
        chosen: LeafOptions,
        now: datetime,
        store_max: int | None = None,
        tell: Callable[[str], None] = _silent,
        founds: bool = True,
    ) -> None:
        self._chosen = chosen
        self.store = open_store(chosen.store, create=None if chosen.ca.files is None else True)
        if founds and chosen.ca.folder is not None:
            found: CaFiles | None = cafolder.load(chosen.ca.folder, now)
        else:
            found = self._load(now)
        self.authority = self._new_authority(found, tell)
        bound = Bound(self.store, store_max) if store_max is not None else None
        self.leaves = Leaves(self.store, self.authority, KeyStock(chosen.key_type), bound)

    def reload(self, now: datetime) -> None:
        """Reload the CA's files. After a ``UsageError`` the previous CA stays in force."""
        self.authority = self._new_authority(self._load(now), _silent)
        self.leaves.use(self.authority)

    def fault(self, now: datetime) -> str | None:
        """Why no certificates can be served, as a sentence; None if they can be. Accesses the disk."""
        authority = self.authority
        if authority is not None:
            begin = authority.files.certificate.not_valid_before_utc
            if now < begin:
                return f"the CA certificate is not valid before {begin:%Y-%m-%d %H:%M} UTC: check this machine's clock"
            try:
                authority.check_end(now)
                authority.files.serials.check()
            except RetrievalError as error:
                return str(error)
            except OSError as error:
                return f"no serial number can be taken: {files.told(error)}"
        try:
            self.store.probe(write=authority is not None)
        except OSError as error:
            return f"the store can't be {'read' if authority is None else 'written'}: {error.strerror}"
        return None

    def clear_stale(self) -> int:
        """Remove the temporary files that a crash left in the store and next to the CA's files. Return how many."""
        beside = {path.parent for path in self._chosen.ca.files or ()}
        return self.store.clear_stale() + sum(files.clear_stale(folder) for folder in beside)

    def _load(self, now: datetime) -> CaFiles | None:
        """Load the configured CA, if any. Does not create one."""
        paths = self._chosen.ca.files
        return ca.load(*paths, now) if paths is not None else None

    def _new_authority(self, found: CaFiles | None, tell: Callable[[str], None]) -> Authority | None:
        if found is None:
            return None
        ledger = Ledger(self.store.root, found.certificate)
        try:
            found.serials.prepare(ledger, tell, found.is_new)
        except OSError as error:
            why = f"can't see which serial numbers are used in {self.store.root}: {error.strerror}"
            raise UsageError(why) from error
        return Authority(found, ledger, self._chosen.days, self._chosen.crl_url)


def print_failures(failures: Failures, done: str) -> bool:
    """Print to stderr what of a store can't be ``done``, such as "read"; return whether there is any."""
    for path, error in failures:
        print(f"{escape(path)}: can't be {done}: {error.strerror}", file=sys.stderr)
    return bool(failures)


def open_store(folder: Path, create: bool | None = False) -> Store:
    """Open the store in a folder. If it is only read, the folder may be read-only, such as a mounted secret.

    With ``create`` it is made if missing, and must be writable; with None it is only made if missing.
    """
    try:
        if create is None:
            create = not reading.exists(folder)
        return Store(folder, create)
    except OSError as error:
        reason = "it is not a folder" if isinstance(error, FileExistsError) else error.strerror
        raise UsageError(f"--store={folder}: can't {'write' if create else 'read'} there: {reason}") from error
