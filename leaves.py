"""``Leaves``: the leaf certificate for a name, from the store or, if there is a CA, made and stored.

This is the slow half of a retrieval. ``retrieve`` runs on a pool thread: it takes and returns plain values, and uses
no gevent objects and no logging; what is to be logged is added to a list of notes.
"""

import time
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from operator import itemgetter
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

SETTLE_SECONDS = 1.0  # a younger file may be incomplete: still being written, or a certificate copied before its key
_MOST_TOLD = 10_000  # notes remembered, so that each is logged once


class Wanted(NamedTuple):
    """What a retrieval is to do. A background renewal is not a use, or names in memory would never count as unused."""

    renew: bool = False  # reissue certifier's own leaf if less than a third of its life is left; no client waits for it
    make: bool = True  # make a leaf if none is stored
    used: bool = True  # count this as use by a client
    refused: tuple[bytes, str] | None = None  # a stored PEM that OpenSSL rejected, and why


SERVED = Wanted()  # for a connection


class Leaves:
    """Leaves from a store and, if there is one, an authority. Safe to use from several threads."""

    def __init__(self, store: Store, authority: Authority | None, keys: KeyStock, bound: Bound | None = None) -> None:
        self._bound = bound
        self._store = store
        self._keys = keys
        self._authority = authority
        self._told: set[str] = set()
        self._failing = False  # whether the last write to the store failed
        self._since = time.time()

    def use(self, authority: Authority | None) -> None:
        """Sign with another authority from now on."""
        self._authority = authority

    @property
    def generates(self) -> bool:
        """Whether a leaf can be made for any name."""
        return self._authority is not None

    def retrieve(self, name: str, now: datetime, notes: list[str], wanted: Wanted = SERVED) -> Leaf | None:
        """The leaf for a canonical name; None if none is stored, and none can or should be made.

        1. The first stored leaf that can be served: an operator's, else certifier's own.
        2. An operator's file that can't be served, or that OpenSSL rejected, is moved aside. Such a file of certifier's
           own, or one that is to be renewed, is replaced in step 3.
        3. With an authority, a new key, request and leaf, stored; if another process was faster, the leaf it stored.

        Warnings for the log are added to ``notes``, one sentence each, whatever the outcome. Raises ``RetrievalError``
        if no leaf can be made, and ``Unsettled`` if an operator may still be placing a file: try again a little later.
        A failing store is noted, and fails the retrieval only if no leaf can be made.
        """
        replacing, why_replaced = None, ""
        stamp = self._store.stamp(name)
        candidates, unread = self._load(name) if any(stamp) else ([], "")
        for stored in candidates:
            try:
                found = self._check(stored, name, now)
                if wanted.refused is not None and found.pem == wanted.refused[0]:
                    raise Unusable(wanted.refused[1])
                if wanted.renew and stored.ours and self._authority is not None and now >= found.renew_at:
                    replacing = stored
                    continue
            except Unusable as why:
                if not stored.ours:
                    notes += self._pass_over(stored, name, now, why)
                else:
                    replacing, why_replaced = stored, f"reissued the certificate for {name}: {why}"
            else:
                notes += self._once(unread)
                if wanted.used:
                    self._store.touch(stored, now.timestamp())
                return replace(found, stamp=stamp)
        if self._authority is None and unread:  # it may be for the name, whose tunnel must not pass untouched then
            raise RetrievalError(unread)
        notes += self._once(unread)
        if self._authority is None or not wanted.make:
            return None
        made = self._make(self._authority, name, now, stamp, notes)
        if why_replaced:
            notes.append(why_replaced)
        return self._keep(made, name, now, replacing, notes, wanted.used)

    @property
    def is_tidy(self) -> bool:
        """Whether ``tidy`` has nothing to do: enough keys are made ahead, if any, and the store has no bound."""
        return self._bound is None and self._keys.is_full

    def tidy(self, now: datetime) -> tuple[str, ...]:
        """Do what is due after leaves were made: make keys ahead, prune the store to its bound; the notes to log."""
        self._keys.fill()
        pruned = self._bound.keep(now.timestamp()) if self._bound is not None else None
        if pruned is None:
            return ()
        notes: list[str] = []
        if removed := len(pruned.removed):
            what = "1 certificate" if removed == 1 else f"{removed} certificates"
            notes.append(f"removed {what} from the store, unused longest (--store-max)")
        if pruned.failures:
            path, error = min(pruned.failures, key=itemgetter(0))
            notes += self._once(f"the store can't be kept to --store-max: {path} can't be removed: {error.strerror}")
        return tuple(notes)

    def stored(self, names: Iterable[str]) -> set[str]:
        """Those of the names for which something is stored, whether or not it can be served."""
        return {name for name in names if self._store.holds(name)}

    def look(self, name: str, stamp: Stamp, ours: bool, now: float) -> Stamp | None:
        """Check the files of a name in use, as ``Store.look``: the stamp for next time, None if they have changed."""
        return self._store.look(name, stamp, ours, now)

    def _load(self, name: str) -> tuple[list[Stored], str]:
        """What is stored for the name; and a sentence about what can't be read, empty if all can."""
        failures: Failures = []
        stored = self._store.load(name, failures)
        unread = "; ".join(f"{path}: {error.strerror}" for path, error in failures)
        return stored, unread and f"can't read the stored certificate for {name}, {unread}"

    def _once(self, note: str) -> list[str]:
        """The note, unless it is empty or was given before: a lasting fault need not be logged at each retrieval."""
        if not note or note in self._told:
            return []
        if len(self._told) > _MOST_TOLD:
            self._told.clear()
        self._told.add(note)
        return [note]

    def _make(self, authority: Authority, name: str, now: datetime, stamp: Stamp, notes: list[str]) -> Leaf:
        key, csr = signer.request(name, self._keys.take())
        try:
            pem = authority.sign(csr, name, now, notes)
        except OSError as error:
            raise RetrievalError(
                f"no certificate for {name}: can't take a serial number: {files.told(error)}"
            ) from error
        return leaf.leaf(pem + key, x509.load_pem_x509_certificate(pem), True, "made", stamp)

    def _keep(
        self, made: Leaf, name: str, now: datetime, replacing: Stored | None, notes: list[str], used: bool
    ) -> Leaf:
        """Store a leaf; the stored one, perhaps another process's, or this one with ``in_store`` false if none is."""
        unstored = replace(made, in_store=False)
        if replacing is None and not used:  # it was pruned, and would return as if newly used
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
        if stored is None:  # the name is too long, which says nothing about the store
            return unstored
        if self._failing:
            self._failing = False
            notes.append("the store can be written again")
        # Only that of the saved file is new: what others placed meanwhile must still be noticed.
        stamp = (stored.state, *made.stamp[1:]) if stored.ours else made.stamp
        if stored.pem.endswith(made.pem):
            if self._bound is not None:
                self._bound.saved(made.serial)
            return replace(made, stamp=stamp)
        try:
            return replace(self._check(stored, name, now), stamp=stamp)
        except Unusable:
            return replace(unstored, stamp=stamp)

    def _pass_over(self, stored: Stored, name: str, now: datetime, why: Unusable) -> list[str]:
        """Skip or move aside an operator's file that can't be served for a name; the notes to log."""
        problem = f"{stored.path} can't be used for {name}: {why}"
        if isinstance(why, NotForName) and stored.is_wildcard:
            return self._once(f"{problem}; skipped")  # it may be for other names
        if stored.age(now.timestamp()) < SETTLE_SECONDS:
            raise Unsettled
        return self._set_aside(stored, problem)

    def _set_aside(self, stored: Stored, problem: str) -> list[str]:
        try:
            moved = self._store.reject(stored)
        except OSError as error:
            return self._once(f"{problem}; skipped, as it can't be moved aside: {error.strerror}")
        return [f"{problem}; moved aside as {stored.path.name}.rejected" if moved else problem]

    def _check(self, stored: Stored, name: str, now: datetime) -> Leaf:
        """The stored leaf, if it can be served for the name now; else raises ``Unusable``."""
        found, (certificate, *behind) = leaf.read(stored, name, now)
        if stored.ours and self._authority is not None:
            if fault := self._authority.fault(certificate, behind):
                raise Unusable(fault)
            made_before = stored.placed() < self._since  # if not, by another process, for its own --key-type
            if made_before and kind_of(certificate.public_key()) != self._keys.kind:
                raise Unusable(f"its key is not {self._keys.kind}")
        return found
