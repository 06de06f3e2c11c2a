"""Certificates made by others, read from PEM or DER.

cryptography parses the parts of a certificate on access, and raises a different exception for each way in which they
can be malformed. Of a certificate that was read here, all parts that certifier uses can be accessed safely.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.utils import CryptographyDeprecationWarning

# About serial numbers that are not positive: old scripts use them, ``check`` reports them, and stderr is for our log.
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
    """A certificate is malformed, or contains something unsupported."""


def read(pem: bytes) -> list[x509.Certificate]:
    """The certificates in PEM, at least one, in order. Raises ``Unreadable`` if there is none, or one is unreadable."""
    with _unreadable():
        found = x509.load_pem_x509_certificates(pem)
        for certificate in found:
            _look_at(certificate)
        return found


def first(pem: bytes) -> x509.Certificate:
    """The first certificate in PEM, whatever follows it. Raises ``Unreadable``."""
    with _unreadable():
        certificate = x509.load_pem_x509_certificate(pem)
        _look_at(certificate)
        return certificate


def issuer_and_serial(pem: bytes) -> tuple[x509.Name, int]:
    """What identifies the first certificate in PEM (RFC 5280 §4.1.2.2). Raises ``Unreadable``."""
    with _unreadable():
        certificate = x509.load_pem_x509_certificate(pem)
        return certificate.issuer, certificate.serial_number


def key_of(der: bytes) -> CertificatePublicKeyTypes:
    """The public key of a certificate in DER. Raises ``Unreadable``."""
    with _unreadable():
        return x509.load_der_x509_certificate(der).public_key()


def extension(holder: x509.Certificate | x509.CertificateSigningRequest, kind: type[ExtensionT]) -> ExtensionT | None:
    """The value of an extension, None if it is absent."""
    try:
        return holder.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def is_issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Whether both the issuer's name and key match: a CA with a new key may keep its name."""
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
