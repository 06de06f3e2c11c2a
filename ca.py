"""The CA's files: its certificate, with those above it, its key and its serial file.

``load`` returns a ``CaFiles`` that can be signed with, or raises ``UsageError`` with one line that says what is wrong
and what to do.
"""

import errno
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InternalError, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import PublicKeyAlgorithmOID

import certificates
import certlint
import certpath
import reading
from certificates import Unreadable
from errors import RetrievalError, UsageError
from keys import Key
from serials import SerialFile
from tlsconfig import server_context

EXPIRY_NOTICE = timedelta(days=30)

_GOOD_CA = (
    "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -days 3650 -subj '/CN=My CA' -keyout ca.key"
    " -out ca.crt -addext keyUsage=critical,keyCertSign,cRLSign"
)


@dataclass(frozen=True)
class CaFiles:
    """A CA to sign with. ``chain`` is what is sent after a leaf: the intermediates, not the root.

    ``path`` is the CA and those above it, as far as its file has them: each certifies the one before. ``others`` are
    all that follow it in its file. ``is_new``: it was created just now, and nothing was signed in its name yet, though
    its key may be older.
    """

    certificate: x509.Certificate
    key: Key
    chain: tuple[x509.Certificate, ...]
    serials: SerialFile
    path: tuple[x509.Certificate, ...]
    others: tuple[x509.Certificate, ...] = ()
    warnings: tuple[str, ...] = ()
    is_new: bool = False

    @property
    def anchor(self) -> x509.Certificate:
        """What clients are to trust: the root, if the CA's file holds it, else the CA's certificate itself.

        Most trust no intermediate alone (``X509_V_FLAG_PARTIAL_CHAIN``).
        """
        return self.path[-1] if certpath.is_root(self.path[-1]) else self.certificate

    @property
    def signs_crls(self) -> bool:
        """Whether its keyUsage, if any, lets it sign CRLs (RFC 5280 §4.2.1.3)."""
        usage = certificates.extension(self.certificate, x509.KeyUsage)
        return usage is None or usage.crl_sign

    def expiry_warning(self, now: datetime) -> str | None:
        """A warning for the operator when the CA certificate or one above it is about to expire, or has, else None."""
        end = self.certificate.not_valid_after_utc
        if now >= end - EXPIRY_NOTICE:
            when = f"{end:%Y-%m-%d %H:%M} UTC"
            return f"the CA certificate ends on {when}, and every leaf with it: put a new one in its place"
        end = min(certificate.not_valid_after_utc for certificate in self.path)
        if now < end - EXPIRY_NOTICE:
            return None
        return (
            f"a certificate above the CA's, in the same file, {'expired' if now >= end else 'ends'} on"
            f" {end:%Y-%m-%d %H:%M} UTC: clients that trust it or one above it refuse every leaf from then on: put a"
            " new one in its place"
        )


def load(certificate_path: Path, key_path: Path, serial_path: Path, now: datetime, makes_lock: bool = True) -> CaFiles:
    """Load the CA from its three files, and check it. ``makes_lock``: a serial file that has no lock yet gets one."""
    content = _read(certificate_path)
    try:
        certificate, *others = certificates.read(content)
    except Unreadable as error:
        if not _is_pem(content):
            raise UsageError(
                f"{certificate_path} holds no PEM certificate that can be read: it is in another form; OpenSSL converts"
                f" DER: openssl x509 -inform der -in {certificate_path} -out ca.pem, and PKCS#12, with the key:"
                f" openssl pkcs12 -noenc -in {certificate_path} -out ca.pem"
            ) from error
        why = _instead(content) or error
        raise UsageError(f"{certificate_path} holds no PEM certificate that can be read: {why}") from error
    key = load_key(key_path)
    _check(certificate, certificate_path, now)
    chain = tuple(c for c in (certificate, *others) if not certpath.is_root(c))
    if key.public_key() != certificate.public_key():
        below = any(key.public_key() == other.public_key() for other in others)
        hint = ", but to one below it, which has to come first" if below else ""
        raise UsageError(f"the key in {key_path} does not belong to the certificate in {certificate_path}{hint}")
    if chain:
        _check_servable((certificate, *(c for c in chain if c != certificate)), key, certificate_path)
    serials = SerialFile(serial_path)
    try:
        serials.check(makes_lock)
    except RetrievalError as error:
        raise UsageError(str(error)) from error
    except OSError as error:
        hint = ""
        if isinstance(error, FileNotFoundError):  # an existing one must not be restarted
            hint = f"; it holds the next serial number: echo 1000 > {serial_path}"
        elif error.errno in (errno.EACCES, errno.EROFS):  # a lock beside it can't be made, or is another user's
            hint = f"; it and its folder must be writable, and so must {serials.path}.lock if there is one"
        raise UsageError(f"can't use the serial file {serial_path}: {error.strerror}{hint}") from error
    refused: dict[str, list[str]] = {}  # what it means for clients, and the problems behind it
    for fault in certlint.of_ca(certificate):
        refused.setdefault(fault.meaning, []).append(fault.problem)
    warnings = [
        f"the CA certificate {certificate_path} has {' and '.join(problems)}: {meaning}; make a good one: {_GOOD_CA}"
        for meaning, problems in refused.items()
    ]
    path = certpath.upward(certificate, others)
    weak = (*certlint.of_any(certificate), *certlint.of_path(path, others))
    warnings += [f"the CA certificate {certificate_path}: {fault.problem}; {fault.meaning}" for fault in weak]
    if key_path.stat().st_mode & 0o077:
        warnings.append(
            f"others can read the CA's key {key_path}, and pose as any site to all who trust the CA:"
            f" chmod go= {key_path}"
        )
    return CaFiles(certificate, key, chain, serials, path, tuple(others), tuple(warnings))


def _check(certificate: x509.Certificate, path: Path, now: datetime) -> None:
    """Raise ``UsageError`` if it can't sign leaves now."""
    if not list(certificate.subject):
        raise UsageError(
            f"the CA certificate {path} has an empty subject, which RFC 5280 §4.1.2.6 forbids; make another: {_GOOD_CA}"
        )
    constraints = certificates.extension(certificate, x509.BasicConstraints)
    if constraints is None or not constraints.ca:
        raise UsageError(f"{path} is not a CA certificate (basicConstraints CA:TRUE); make one: {_GOOD_CA}")
    if now >= certificate.not_valid_after_utc:
        raise UsageError(
            f"the CA certificate {path} expired on {certificate.not_valid_after_utc:%Y-%m-%d}; put a new one"
            " in its place or, if certifier made it, remove it: the next start makes another, for clients to trust anew"
        )
    if now < certificate.not_valid_before_utc:
        raise UsageError(
            f"the CA certificate {path} is not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC;"
            " check this machine's clock"
        )
    if certificate.public_key_algorithm_oid == PublicKeyAlgorithmOID.RSASSA_PSS:  # RFC 4055: no other signatures
        raise UsageError(
            f"the key of the CA certificate {path} is for RSASSA-PSS alone, which Go and browsers do not support;"
            f" make another: {_GOOD_CA}"
        )
    usage = certificates.extension(certificate, x509.KeyUsage)
    if usage is not None and not usage.key_cert_sign:
        raise UsageError(
            f"the CA certificate {path} may not sign certificates (keyUsage without keyCertSign);"
            f" make another: {_GOOD_CA}"
        )


def _check_servable(issuers: Sequence[x509.Certificate], key: Key, path: Path) -> None:
    """Raise ``UsageError`` if OpenSSL refuses to send them after a leaf, as it does if one has a weak key or signature.

    They are tried as a server's own, as there is no leaf yet.
    """
    pem = b"".join(certificate.public_bytes(Encoding.PEM) for certificate in issuers)
    try:
        server_context(pem + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    except RetrievalError as error:
        raise UsageError(
            f"no leaf can be served with the certificates in {path}: {error}; intermediates need RSA keys of 2048 bits"
            " or more, or EC keys, and signatures with SHA-256 or better"
        ) from error


def load_key(path: Path) -> Key:
    """A CA's private key. Raises ``UsageError``."""
    content = _read(path)
    try:
        key = serialization.load_pem_private_key(content, password=None)
    except TypeError as error:
        raise UsageError(
            f"the key in {path} has a passphrase, which certifier can't ask for; take it off:"
            f" openssl pkey -in {path} -out plain.key"
        ) from error
    except (ValueError, UnsupportedAlgorithm, InternalError) as error:  # the last: a length wrong for its type
        if not _is_pem(content):
            raise UsageError(
                f"{path} holds no usable PEM private key: it is in another form; OpenSSL converts DER: openssl pkey"
                f" -inform der -in {path} -out plain.key, and PKCS#12, with the certificate:"
                f" openssl pkcs12 -noenc -in {path} -out ca.pem"
            ) from error
        raise UsageError(f"{path} holds no usable PEM private key") from error
    if not isinstance(key, Key):
        raise UsageError(f"the key in {path} is neither RSA nor EC")
    return key


def _read(path: Path) -> bytes:
    try:
        return reading.whole(path)
    except OSError as error:
        raise UsageError(f"can't read {path}: {error.strerror}") from error


def _instead(content: bytes) -> str:
    """What a file has in place of a certificate, in words; empty if it has one, or nothing that can be named."""
    kinds = dict.fromkeys(re.findall(r"-----BEGIN ([A-Z0-9 #]{1,64})-----", content.decode("ascii", "replace")))
    if not content:
        return "it is empty"
    if not kinds or "CERTIFICATE" in kinds or "X509 CERTIFICATE" in kinds:
        return ""
    return f"it has {' and '.join(kinds)} instead"


def _is_pem(content: bytes) -> bool:
    """Whether it may be PEM (RFC 7468): an empty file is not said to be something else."""
    return not content or b"-----BEGIN " in content
