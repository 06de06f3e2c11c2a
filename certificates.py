"""Certificates that others wrote, read from PEM or DER.

cryptography looks at the parts of a certificate when it is asked for them, and has an exception for each way in which
they can be wrong. What was read here gives all the parts that certifier asks for.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.utils import CryptographyDeprecationWarning

# Of serial numbers that are not positive: old scripts give them, ``check`` tells of them, and the log is ours alone.
warnings.filterwarnings("ignore", "Parsed a serial number", CryptographyDeprecationWarning)

_WRONG = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)


ExtensionT = TypeVar("ExtensionT", bound=x509.ExtensionType)


class Unreadable(Exception):
    """A certificate is malformed, or holds what nobody uses."""


def read(pem: bytes) -> list[x509.Certificate]:
    """The certificates in PEM, one at least, in their order. Raises ``Unreadable`` if one of them is."""
    with _unreadable():
        found = x509.load_pem_x509_certificates(pem)
        for certificate in found:
            _look_at(certificate)
        return found


def first(pem: bytes) -> x509.Certificate:
    """The first certificate in PEM, whatever comes behind it. Raises ``Unreadable``."""
    with _unreadable():
        certificate = x509.load_pem_x509_certificate(pem)
        _look_at(certificate)
        return certificate


def issuer_and_serial(pem: bytes) -> tuple[x509.Name, int]:
    """What tells the first certificate in PEM from all others (RFC 5280 §4.1.2.2). Raises ``Unreadable``."""
    with _unreadable():
        certificate = x509.load_pem_x509_certificate(pem)
        return certificate.issuer, certificate.serial_number


def key_of(der: bytes) -> CertificatePublicKeyTypes:
    """The public key of a certificate in DER. Raises ``Unreadable``."""
    with _unreadable():
        return x509.load_der_x509_certificate(der).public_key()


def extension(holder: x509.Certificate | x509.CertificateSigningRequest, kind: type[ExtensionT]) -> ExtensionT | None:
    """The value of an extension, None where there is none."""
    try:
        return holder.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def is_issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """By its name and its key: a CA that got a new key has the name it had."""
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature):  # another name, kind of key, or key
        return False
    return True


def _look_at(certificate: x509.Certificate) -> None:
    certificate.public_key()
    _ = certificate.subject, certificate.issuer, certificate.extensions
    _ = certificate.not_valid_before_utc, certificate.not_valid_after_utc


@contextmanager
def _unreadable() -> Iterator[None]:
    try:
        yield
    except _WRONG as error:
        raise Unreadable(str(error)) from error
