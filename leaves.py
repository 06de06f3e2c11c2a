"""``Leaves``: the leaf certificate for a name, from the store or, where there is a CA, made and stored.

This is the slow half of a retrieval. ``retrieve`` runs on a pool thread: plain values go in and plain values come
out, no gevent object, no logging; what is to be logged comes back as ``Leaf.notes``.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

import names
import signer
from errors import RetrievalError
from keys import KeyStock, kind_of
from signer import Authority
from store import Stamp, Store, Stored

MARGIN = timedelta(minutes=5)  # a leaf this near to its end is not served any more: clocks differ
RENEW_LEFT = 1 / 3  # share of its life that is left when certifier's own leaf is reissued
_MOST_TOLD = 10_000  # notes remembered


@dataclass(frozen=True, slots=True)
class Leaf:
    """A leaf that may be served until ``not_after``, and should be looked for anew from ``renew_at`` on (UTC)."""

    pem: bytes  # leaf, intermediates, private key
    serial: int
    renew_at: datetime
    not_after: datetime
    source: str  # "disk" or "made"
    stamp: Stamp = ()  # of the files it was looked up in
    notes: tuple[str, ...] = ()  # warnings for the log, one sentence each


class Unusable(Exception):
    """A stored certificate can't be served; says why, as the end of a sentence."""


class Leaves:
    """Leaves from a store and, if there is one, an authority. Safe to use from several threads."""

    def __init__(self, store: Store, authority: Authority | None, keys: KeyStock) -> None:
        self._store = store
        self._keys = keys
        self._authority = authority
        self._told: set[str] = set()

    def use(self, authority: Authority | None) -> None:
        """Sign with another authority from now on."""
        self._authority = authority

    @property
    def generates(self) -> bool:
        """Whether there is a leaf for every name."""
        return self._authority is not None

    def retrieve(self, name: str, now: datetime, renew: bool = False) -> Leaf | None:
        """The leaf for a canonical name; None when it is not stored and generation is off.

        1. The first of what the store holds that can be served: an operator's, else certifier's own.
        2. An operator's file that can't is moved aside; certifier's own is replaced by what comes next. So it is,
           with ``renew``, when less than a third of its life is left: a client need not wait for that.
        3. With an authority: a new key, request and leaf, stored; had another process stored one meanwhile, its.

        Raises ``RetrievalError`` when none can be made. A store that fails costs a note, not the connection.
        """
        notes: list[str] = []
        replacing = None
        stamp = self._store.stamp(name)
        for stored in self._load(name, notes):
            try:
                leaf = self._check(stored, name, now)
                if renew and stored.ours and self._authority is not None and now >= leaf.renew_at:
                    raise Unusable(f"less than a third of its life is left, until {leaf.not_after:%Y-%m-%d}")
            except Unusable as why:
                if not stored.ours:
                    notes += self._set_aside(stored, f"{stored.path} can't be used for {name}: {why}")
                elif self._authority is not None:
                    replacing = stored
                    notes.append(f"reissuing the certificate for {name}: {why}")
            else:
                return replace(leaf, stamp=stamp, notes=tuple(notes))
        if self._authority is None:
            return None
        made = self._make(self._authority, name, now)
        leaf = self._keep(made, name, now, replacing, notes)
        return replace(leaf, stamp=self._store.stamp(name), notes=tuple(notes))

    def restock(self) -> None:
        """Make keys ahead for the next ones."""
        self._keys.fill()

    def changed(self, name: str, stamp: Stamp) -> bool:
        """Whether what the store holds for the name is no more what it was when the stamp was taken."""
        return self._store.stamp(name) != stamp

    def _load(self, name: str, notes: list[str]) -> list[Stored]:
        try:
            return self._store.load(name)
        except OSError as error:
            notes += self._once(f"can't read the stored certificate for {name}: {error.strerror}")
            return []

    def _once(self, note: str) -> list[str]:
        """A note, unless it was given before: what can't be mended need not be said at each retrieval."""
        if note in self._told:
            return []
        if len(self._told) > _MOST_TOLD:
            self._told.clear()
        self._told.add(note)
        return [note]

    def _make(self, authority: Authority, name: str, now: datetime) -> Leaf:
        key, csr = signer.request(name, self._keys.take())
        try:
            pem = authority.sign(csr, name, now)
        except OSError as error:
            raise RetrievalError(f"no certificate for {name}: can't take a serial number: {error.strerror}") from error
        leaf = x509.load_pem_x509_certificate(pem)
        return _leaf(pem + key, leaf, ours=True, source="made")

    def _keep(self, made: Leaf, name: str, now: datetime, replacing: Stored | None, notes: list[str]) -> Leaf:
        """Store a leaf; the stored one, which may be another process's."""
        try:
            stored = self._store.save(name, made.pem, replacing)
        except OSError as error:
            notes += self._once(f"the store failed, certificates are in memory only: {error.strerror}")
            return made
        if stored is None or stored.pem.endswith(made.pem):
            return made
        try:
            return self._check(stored, name, now)
        except Unusable:
            return made

    def _set_aside(self, stored: Stored, problem: str) -> list[str]:
        try:
            moved = self._store.reject(stored)
        except OSError as error:
            return self._once(f"{problem}; passed over, it can't be moved aside: {error.strerror}")
        return [f"{problem}; moved aside as {stored.path.name}.rejected" if moved else problem]

    def _check(self, stored: Stored, name: str, now: datetime) -> Leaf:
        """Raise ``Unusable`` unless the stored certificate can be served for the name now."""
        try:
            certificate = x509.load_pem_x509_certificate(stored.pem)
            sans = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except ValueError as error:
            raise Unusable("it holds no certificate that can be read") from error
        except x509.ExtensionNotFound as error:
            raise Unusable("it has no subject alternative name") from error
        _check_key(stored.pem, certificate)
        if now < certificate.not_valid_before_utc:
            raise Unusable(f"it is not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC")
        if not _covers(sans, name):
            raise Unusable("it is not for this name")
        leaf = _leaf(stored.pem, certificate, stored.ours, source="disk")
        if now >= leaf.not_after:
            raise Unusable(f"it ends on {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC")
        if stored.ours and self._authority is not None and not self._authority.signed(certificate):
            raise Unusable("it was signed by another CA")
        if stored.ours and self._authority is not None and kind_of(certificate.public_key()) != self._keys.kind:
            raise Unusable(f"its key is not {self._keys.kind}")
        return leaf


def _leaf(pem: bytes, certificate: x509.Certificate, ours: bool, source: str) -> Leaf:
    end = certificate.not_valid_after_utc
    life = end - certificate.not_valid_before_utc
    not_after = end - min(MARGIN, life / 10)
    renew_at = end - life * RENEW_LEFT if ours else not_after
    return Leaf(pem, certificate.serial_number, renew_at, not_after, source)


def _check_key(pem: bytes, certificate: x509.Certificate) -> None:
    start = pem.find(b"-----BEGIN ", max(0, pem.find(b"PRIVATE KEY-----") - 40))
    if b"PRIVATE KEY-----" not in pem:
        raise Unusable("it has no private key")
    try:
        # RSA validation holds the GIL for 37 to 260 ms; load_cert_chain checks the pair once more.
        key = serialization.load_pem_private_key(pem[start:], password=None, unsafe_skip_rsa_key_validation=True)
    except TypeError as error:
        raise Unusable("its private key has a passphrase") from error
    except ValueError as error:
        raise Unusable("its private key can't be read") from error
    form = Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    if key.public_key().public_bytes(*form) != certificate.public_key().public_bytes(*form):
        raise Unusable("its private key belongs to another certificate")


def _covers(sans: x509.SubjectAlternativeName, name: str) -> bool:
    """Whether the name is among the subject alternative names, by RFC 9525 §6.3: a wildcard is a whole first label."""
    address = names.ip_of(name)
    if address is not None:
        return address in sans.get_values_for_type(x509.IPAddress)
    held = {value.lower() for value in sans.get_values_for_type(x509.DNSName)}
    return name in held or "*." + name.partition(".")[2] in held
