"""``Leaf``: a certificate that can be served for a name, and the checks that turn a stored file into one."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InternalError, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

import certificates
import names
from certificates import Unreadable
from store import Stamp
from stored import Stored

MARGIN = timedelta(minutes=5)  # a leaf this close to expiry is no longer served: clocks differ
BACKDATED = timedelta(days=2)  # from issuance back to notBefore, for clients whose clock is behind
RENEW_LEFT = 1 / 3  # certifier's own leaf is reissued when this share of its life is left


@dataclass(frozen=True, slots=True)
class Leaf:
    """A leaf that may be served from ``not_before`` to ``not_after``, to be renewed from ``renew_at`` on (UTC)."""

    pem: bytes  # leaf, intermediates, private key
    serial: int
    not_before: datetime
    not_after: datetime
    renew_at: datetime
    source: str  # "disk" or "made"
    ours: bool  # certifier made it
    stamp: Stamp = ()  # of the files that were looked up for the name
    in_store: bool = True  # else in memory only


class Unusable(Exception):
    """A stored certificate can't be served. The message says why, as the end of a sentence."""


class Unsettled(Exception):
    """An operator's file can't be served, but was written just now and may be incomplete: try again."""


class NotForName(Unusable):
    """The certificate is for other names."""


def read(stored: Stored, name: str, now: datetime) -> tuple[Leaf, list[x509.Certificate]]:
    """The stored leaf and its whole chain, if it can be served for the name now; else raises ``Unusable``."""
    try:
        chain = certificates.read(stored.pem)
    except Unreadable as error:
        raise Unusable("it holds no certificate that can be read") from error
    certificate = chain[0]
    sans = certificates.extension(certificate, x509.SubjectAlternativeName)
    if sans is None:
        raise Unusable("its first certificate, which has to be the server's, has no subject alternative name")
    _check_key(stored.pem, certificate)
    if now < certificate.not_valid_before_utc:
        raise Unusable(f"it is not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC")
    if not _covers(sans, name):
        raise NotForName("it is not for this name")
    found = leaf(stored.pem, certificate, stored.ours, source="disk")
    if now >= found.not_after:
        end = certificate.not_valid_after_utc
        raise Unusable(f"it {'expired' if now >= end else 'ends'} on {end:%Y-%m-%d %H:%M} UTC")
    return found, chain


def leaf(pem: bytes, certificate: x509.Certificate, ours: bool, source: str, stamp: Stamp = ()) -> Leaf:
    """A ``Leaf``, its times derived from the certificate's."""
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    life = end - begin
    not_after = end - min(MARGIN, life / 10)
    renew_at = end - (life - BACKDATED) * RENEW_LEFT if ours else not_after
    return Leaf(pem, certificate.serial_number, begin, not_after, renew_at, source, ours, stamp)


def _check_key(pem: bytes, certificate: x509.Certificate) -> None:
    if b"PRIVATE KEY-----" not in pem:
        raise Unusable("it has no private key")
    try:
        # RSA validation holds the GIL for 37 to 260 ms; load_cert_chain checks the pair once more.
        key = serialization.load_pem_private_key(pem, password=None, unsafe_skip_rsa_key_validation=True)
    except TypeError as error:
        raise Unusable("its private key has a passphrase") from error
    except (ValueError, UnsupportedAlgorithm, InternalError) as error:  # the last: a length wrong for its type
        raise Unusable("its private key can't be read") from error
    if key.public_key() != certificate.public_key():
        raise Unusable("its private key belongs to another certificate")


def _covers(sans: x509.SubjectAlternativeName, name: str) -> bool:
    """Whether a subject alternative name matches the name (RFC 9525 §6.3): a wildcard is the whole leftmost label."""
    address = names.ip_of(name)
    if address is not None:
        return address in sans.get_values_for_type(x509.IPAddress)
    held = {value.lower() for value in sans.get_values_for_type(x509.DNSName)}
    return name in held or "*." + name.partition(".")[2] in held
