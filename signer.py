"""Requests and signatures: a CSR for a name, signed with the leaf's key, and the ``Authority`` that signs the leaf.

The CSR (RFC 2986) is the seam between the two: an ``Authority`` sees a request and a name, never the leaf's key, so
that the CA's key may one day live elsewhere. Everything here may block (disk, RSA) and is meant for pool
threads: no gevent object, no logging.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.backends import default_backend
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

import certificates
import certpath
import names
from batch import Batch
from ca import CaFiles
from certlint import MAX_LIFE
from errors import RetrievalError
from keys import Key, PublicKey, kind_of
from leaf import BACKDATED, MARGIN
from ledger import Ledger

DAYS = 45  # of a leaf's life: well below what Apple (398 days) and browsers (200) accept
CRL_VALIDITY = timedelta(days=7)  # how long clients may cache it: what it says never changes
_MAX_COMMON_NAME = 64  # ub-common-name, RFC 5280 appendix A.1

# The same in all leaves; made once, as is what is the same in all of one CA.
_CONSTRAINTS = x509.BasicConstraints(ca=False, path_length=None)
_EXTENDED_KEY_USAGE = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
_KEY_USAGE = x509.KeyUsage(
    digital_signature=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=False,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)


def request(name: str, key: Key) -> tuple[bytes, x509.CertificateSigningRequest]:
    """The key as PKCS#8 PEM, and a request, signed with it, for a canonical name's certificate."""
    csr = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(_subject(name))
        .add_extension(_san(name), critical=False)
        .sign(key, hashes.SHA256())
    )
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), csr


class Authority:
    """Signs requests with the operator's CA, valid for ``days`` days, and recognizes the leaves that it signed."""

    def __init__(self, files: CaFiles, ledger: Ledger, days: int = DAYS, crl_url: str | None = None) -> None:
        default_backend()  # loads what signing needs: the first signature may find no file descriptor left for that
        self.files = files
        # Taking one costs a sync: threads that want one at the same time share it.
        self._serials = Batch[int](lambda count, notes: files.serials.take(ledger, notes, count))
        self._lifetime = timedelta(days=days)
        self._points = _distribution_points(crl_url) if crl_url is not None else None
        stored = certificates.extension(files.certificate, x509.SubjectKeyIdentifier)
        if stored is None:
            self._aki = x509.AuthorityKeyIdentifier.from_issuer_public_key(files.key.public_key())
        else:
            self._aki = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(stored)
        self._limits = certpath.limits(files.path)
        self._chain = b"".join(c.public_bytes(Encoding.PEM) for c in files.chain)
        same = (
            x509.CertificateBuilder()
            .issuer_name(files.certificate.subject)
            .add_extension(_CONSTRAINTS, critical=True)
            .add_extension(_KEY_USAGE, critical=True)
            .add_extension(_EXTENDED_KEY_USAGE, critical=False)
            .add_extension(self._aki, critical=False)
        )
        self._same = same if self._points is None else same.add_extension(self._points, critical=False)

    def sign(self, csr: x509.CertificateSigningRequest, name: str, now: datetime, notes: list[str]) -> bytes:
        """The leaf for a request, followed by the CA's intermediates, as PEM. What is to be logged goes to ``notes``.

        Raises ``RetrievalError`` if the request is not signed with the key it holds or asks for anything but
        exactly this name, or if the CA is about to expire or may not sign for that name; and ``OSError`` from the
        serial file.
        """
        san, subject = _san(name), _subject(name)
        asked = certificates.extension(csr, x509.SubjectAlternativeName)
        if not csr.is_signature_valid or asked != san or csr.subject != subject:
            raise RetrievalError(f"the certificate request for {name} is not one for that name")
        key = csr.public_key()
        if not isinstance(key, PublicKey) or kind_of(key) is None:
            raise RetrievalError(f"the certificate request for {name} has a key of a type that is not signed here")
        self.check_end(now)
        if not all(certpath.permits(constraints, name) for constraints in self._limits):
            raise RetrievalError(
                f"the CA may not sign for {name}, by its nameConstraints: clients would refuse it; see --bypass"
            )
        leaf = (
            self._same.subject_name(subject)
            .public_key(key)
            .serial_number(self._serials.take(notes))
            .not_valid_before(max(now - BACKDATED, now + self._lifetime - MAX_LIFE))
            .not_valid_after(min(now + self._lifetime, self.files.certificate.not_valid_after_utc))
            .add_extension(san, critical=len(subject) == 0)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .sign(self.files.key, hashes.SHA256())
        )
        return leaf.public_bytes(Encoding.PEM) + self._chain

    def fault(self, leaf: x509.Certificate, behind: Sequence[x509.Certificate]) -> str | None:
        """Why a leaf that certifier made is not as it would be made now, as the end of a sentence; None if it is.

        ``behind`` are the intermediates that would be sent after it.
        """
        if not certificates.is_issued_by(leaf, self.files.certificate):
            return "it was signed by another CA"
        if tuple(behind) != self.files.chain:  # perhaps one was missing, or was reissued
            return "its intermediate certificates are not the CA's"
        # With another identifier, OpenSSL and others would not find the leaf's issuer.
        if certificates.extension(leaf, x509.AuthorityKeyIdentifier) != self._aki:
            return "the CA's certificate has another key identifier now"
        points = certificates.extension(leaf, x509.CRLDistributionPoints)
        return None if points == self._points else "its CRL distribution point is not that of --crl-url"

    def revocation_list(self, now: datetime) -> bytes:
        """A CRL (RFC 5280 §5) that revokes nothing, as DER: Windows clients fetch one before they trust a leaf.

        Raises ``RetrievalError`` if the CA may not sign one, or has expired.
        """
        if not self.files.signs_crls:
            raise RetrievalError("the CA certificate may not sign a CRL: its keyUsage lacks cRLSign")
        self.check_end(now, timedelta())
        begin = now - BACKDATED
        crl = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.files.certificate.subject)
            .last_update(begin)
            .next_update(min(now + CRL_VALIDITY, self.files.certificate.not_valid_after_utc))
            .add_extension(x509.CRLNumber(int(now.timestamp())), critical=False)
            .add_extension(self._aki, critical=False)
            .sign(self.files.key, hashes.SHA256())
        )
        return crl.public_bytes(Encoding.DER)

    def check_end(self, now: datetime, margin: timedelta = MARGIN) -> None:
        """Raise ``RetrievalError`` if the CA expires too soon: a leaf expires no later, and would not be served."""
        end = self.files.certificate.not_valid_after_utc
        if now >= end - margin:
            raise RetrievalError(
                f"the CA certificate {'expired' if now >= end else 'ends'} on {end:%Y-%m-%d %H:%M} UTC"
            )


def _distribution_points(url: str) -> x509.CRLDistributionPoints:
    point = x509.DistributionPoint([x509.UniformResourceIdentifier(url)], None, None, None)
    return x509.CRLDistributionPoints([point])


def _subject(name: str) -> x509.Name:
    fits = len(name) <= _MAX_COMMON_NAME
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)] if fits else [])


def _san(name: str) -> x509.SubjectAlternativeName:
    address = names.ip_of(name)
    return x509.SubjectAlternativeName([x509.DNSName(name) if address is None else x509.IPAddress(address)])
