"""``Leaves``: the leaf certificate for a name, from the store or, where there is a CA, made and stored.

This is the slow half of a retrieval. ``retrieve`` runs on a pool thread: plain values go in and plain values come
out, no gevent object, no logging; what is to be logged is added to a list of notes.
"""

import time
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from typing import NamedTuple

from cryptography import x509

import files
import leaf
import signer
from errors import RetrievalError
from keys import KeyStock, kind_of
from leaf import Leaf, NotForName, Unsettled, Unusable
from pruning import Bound
from signer import Authority
from store import Failures, Occupied, Stamp, Store
from stored import Stored

SETTLE_SECONDS = 1.0  # a file so young may not be whole: an editor, or a copy of a certificate and then of its key
_MOST_TOLD = 10_000  # notes remembered


class Wanted(NamedTuple):
    """What is wanted of a retrieval. A renewal in the background is no use: what is in memory would never be unused."""

    renew: bool = False  # certifier's own leaf of whose life less than a third is left: a client need not wait for that
    make: bool = True  # a leaf where none is stored
    used: bool = True  # now, and by a client
    refused: tuple[bytes, str] | None = None  # a stored PEM that OpenSSL does not serve, and why


SERVED = Wanted()  # by a connection


class Leaves:
    """Leaves from a store and, if there is one, an authority. Safe to use from several threads."""

    def __init__(self, store: Store, authority: Authority | None, keys: KeyStock, bound: Bound | None = None) -> None:
        self._bound = bound
        self._store = store
        self._keys = keys
        self._authority = authority
        self._told: set[str] = set()
        self._failing = False  # the store, when it was last written to
        self._since = time.time()

    def use(self, authority: Authority | None) -> None:
        """Sign with another authority from now on."""
        self._authority = authority

    @property
    def generates(self) -> bool:
        """Whether there is a leaf for every name."""
        return self._authority is not None

    def retrieve(self, name: str, now: datetime, notes: list[str], wanted: Wanted = SERVED) -> Leaf | None:
        """The leaf for a canonical name; None when it is not stored and none can be made, or shall.

        1. The first of what the store holds that can be served: an operator's, else certifier's own.
        2. An operator's file that can't, or that OpenSSL refused, is moved aside; such a one of certifier's own, or
           one that is to be renewed, is replaced by what comes next.
        3. With an authority: a new key, request and leaf, stored; had another process stored one meanwhile, its.

        Warnings for the log are added to ``notes``, one sentence each, whatever comes of it. Raises ``RetrievalError``
        when none can be made, and ``Unsettled`` where an operator may still be placing a file: ask again a little
        later. A store that fails costs a note; the connection only where nothing can be made.
        """
        replacing, why_replaced = None, ""
        stamp = self._store.stamp(name)
        candidates, unread = self._load(name)
        for stored in candidates:
            try:
                found = self._check(stored, name, now)
                if wanted.refused is not None and found.pem == wanted.refused[0]:
                    raise Unusable(wanted.refused[1])
                if wanted.renew and stored.ours and self._authority is not None and now >= found.renew_at:
                    raise Unusable(f"less than a third of its life is left, until {found.not_after:%Y-%m-%d}")
            except Unusable as why:
                if not stored.ours:
                    notes += self._pass_over(stored, name, now, why)
                elif self._authority is not None:
                    replacing, why_replaced = stored, f"reissuing the certificate for {name}: {why}"
            else:
                notes += self._once(unread)
                if wanted.used:
                    self._store.touch(stored, now.timestamp())
                return replace(found, stamp=stamp)
        if self._authority is None and unread:  # it may be for the name: then the tunnel must not pass untouched
            raise RetrievalError(unread)
        notes += self._once(unread)
        if self._authority is None or not wanted.make:
            return None
        if replacing is not None:
            notes.append(why_replaced)
        made = self._make(self._authority, name, now, notes)
        kept = self._keep(made, name, now, replacing, notes, wanted.used)
        return replace(kept, stamp=self._store.stamp_again(name, stamp))

    @property
    def is_tidy(self) -> bool:
        """Whether ``tidy`` has nothing to do: keys of this type are not made ahead, the store has no bound."""
        return self._bound is None and self._keys.is_full

    def tidy(self, now: datetime) -> tuple[str, ...]:
        """What is due after leaves were made: keys ahead for the next ones, a store within its bound. Notes to log."""
        self._keys.fill()
        removed = self._bound.keep(now.timestamp()) if self._bound is not None else 0
        what = "1 certificate" if removed == 1 else f"{removed} certificates"
        return (f"removed {what} from the store, unused longest (--store-max)",) if removed else ()

    def stored(self, names: Iterable[str]) -> set[str]:
        """Those of the names for which something is stored, whether it can be served or not."""
        return {name for name in names if self._store.holds(name)}

    def look(self, name: str, stamp: Stamp, ours: bool, now: float) -> Stamp | None:
        """Look at the files of a name in use, as ``Store.look``: the stamp for next time, None when they changed."""
        return self._store.look(name, stamp, ours, now)

    def _load(self, name: str) -> tuple[list[Stored], str]:
        """What is stored for the name; and what of it can't be read, as a sentence where there is such."""
        failures: Failures = []
        stored = self._store.load(name, failures)
        unread = "; ".join(f"{path}: {error.strerror}" for path, error in failures)
        return stored, unread and f"can't read the stored certificate for {name}, {unread}"

    def _once(self, note: str) -> list[str]:
        """A note, unless it is empty or was given before: what can't be mended need not be said at each retrieval."""
        if not note or note in self._told:
            return []
        if len(self._told) > _MOST_TOLD:
            self._told.clear()
        self._told.add(note)
        return [note]

    def _make(self, authority: Authority, name: str, now: datetime, notes: list[str]) -> Leaf:
        key, csr = signer.request(name, self._keys.take())
        try:
            pem = authority.sign(csr, name, now, notes)
        except OSError as error:
            raise RetrievalError(
                f"no certificate for {name}: can't take a serial number: {files.told(error)}"
            ) from error
        return leaf.leaf(pem + key, x509.load_pem_x509_certificate(pem), ours=True, source="made")

    def _keep(
        self, made: Leaf, name: str, now: datetime, replacing: Stored | None, notes: list[str], used: bool
    ) -> Leaf:
        """Store a leaf; the stored one, which may be another process's. Where there is none, it is told so."""
        unstored = replace(made, in_store=False)
        if replacing is None and not used:  # it was pruned, and would come back as if it were new
            return unstored
        try:
            stored = self._store.save(name, made.pem, replacing, used)
        except Occupied as error:
            notes += self._once(f"the certificate for {name} is in memory only: {error.strerror}")
            return unstored
        except OSError as error:
            if not self._failing:
                notes.append(f"the store failed, certificates are in memory only: {error.strerror}")
            self._failing = True
            return unstored
        if stored is None:  # too long a name: that it was not written tells nothing of the store
            return unstored
        if self._failing:
            self._failing = False
            notes.append("the store can be written again")
        if stored.pem.endswith(made.pem):
            if self._bound is not None:
                self._bound.saved(made.serial)
            return made
        try:
            return self._check(stored, name, now)
        except Unusable:
            return unstored

    def _pass_over(self, stored: Stored, name: str, now: datetime, why: Unusable) -> list[str]:
        """What becomes of an operator's file that can't be served for a name."""
        problem = f"{stored.path} can't be used for {name}: {why}"
        if isinstance(why, NotForName) and stored.is_wildcard:
            return self._once(f"{problem}; skipped")  # it may be for others
        if abs(stored.age(now.timestamp())) < SETTLE_SECONDS:  # ``now`` is when this began to wait for its thread
            raise Unsettled
        return self._set_aside(stored, problem)

    def _set_aside(self, stored: Stored, problem: str) -> list[str]:
        try:
            moved = self._store.reject(stored)
        except OSError as error:
            return self._once(f"{problem}; skipped, as it can't be moved aside: {error.strerror}")
        return [f"{problem}; moved aside as {stored.path.name}.rejected" if moved else problem]

    def _check(self, stored: Stored, name: str, now: datetime) -> Leaf:
        """Raise ``Unusable`` unless the stored certificate can be served for the name now."""
        found, (certificate, *behind) = leaf.read(stored, name, now)
        if stored.ours and self._authority is not None:
            if fault := self._authority.fault(certificate, behind):
                raise Unusable(fault)
            made_before = stored.placed() < self._since  # else by another process, which wants other keys than we
            if made_before and kind_of(certificate.public_key()) != self._keys.kind:
                raise Unusable(f"its key is not {self._keys.kind}")
        return found
