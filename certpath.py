"""Certification paths (RFC 5280 §6): from a CA up to its root, as far as the certificates are there."""

from collections.abc import Sequence

from cryptography import x509

import certificates


def upward(certificate: x509.Certificate, others: Sequence[x509.Certificate]) -> tuple[x509.Certificate, ...]:
    """The CA and those of ``others`` that are above it, in whatever order they are.

    Of several certificates of one CA, it takes the root's own, not a cross-signed one, else the one that ends last.
    """
    path = [certificate]
    while not is_root(path[-1]):
        above = [other for other in others if other not in path and certificates.is_issued_by(path[-1], other)]
        if not above:
            break
        path.append(max(above, key=lambda other: (is_root(other), other.not_valid_after_utc)))
    return tuple(path)


def is_root(certificate: x509.Certificate) -> bool:
    """Whether it is self-signed. One that has its own name as issuer, but another key's identifier as authority key
    identifier (RFC 5280 §4.2.1.1), is not: there a CA's former key, which clients know, certifies its new one.
    """
    signer = certificates.extension(certificate, x509.AuthorityKeyIdentifier)
    own = certificates.extension(certificate, x509.SubjectKeyIdentifier)
    agree = signer is None or own is None or signer.key_identifier in (None, own.digest)
    return agree and certificate.subject == certificate.issuer
