"""Certification paths (RFC 5280 §6): from a CA up to its root, as far as the certificates are there."""

from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network

from cryptography import x509

import certificates
import names


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


def limits(path: Sequence[x509.Certificate]) -> tuple[x509.NameConstraints, ...]:
    """The name constraints of its certificates (RFC 5280 §4.2.1.10), with the root's, as OpenSSL and Go see it."""
    found = (certificates.extension(certificate, x509.NameConstraints) for certificate in path)
    return tuple(one for one in found if one is not None)


def permits(constraints: x509.NameConstraints, name: str) -> bool:
    """Whether they let a CA sign for a canonical name, whose leaf has it in the common name, too.

    There, OpenSSL takes an IPv4 address for a DNS name.
    """
    for kind, binds in (x509.DNSName, ":" not in name), (x509.IPAddress, names.ip_of(name) is not None):
        permitted = [subtree for subtree in constraints.permitted_subtrees or () if isinstance(subtree, kind)]
        if binds and permitted and not any(_holds(subtree, name) for subtree in permitted):
            return False
    return not any(_holds(subtree, name) for subtree in constraints.excluded_subtrees or ())


def _holds(subtree: x509.GeneralName, name: str) -> bool:
    if isinstance(subtree, x509.IPAddress):
        address, network = names.ip_of(name), subtree.value
        return address is not None and isinstance(network, IPv4Network | IPv6Network) and address in network
    if not isinstance(subtree, x509.DNSName) or ":" in name:
        return False
    top = subtree.value.lower()  # all take a leading dot, which RFC 5280 does not know, for what is below alone
    return top in ("", name) or name.endswith(f".{top.removeprefix('.')}")
