"""What strict clients require of a certificate: the rules of OpenSSL, Apple, Go and browsers, as faults.

Each ``Fault`` says what is wrong and what that means for clients. Signature, chain, name and the rules of
``X509_V_FLAG_X509_STRICT`` are checked by OpenSSL itself, in a handshake in memory.
"""

import ssl
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import timedelta
from itertools import pairwise
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, PublicKeyAlgorithmOID

import certificates
import certpath
from errors import RetrievalError
from strength import MIN_RSA
from tlsconfig import server_context

# What Apple accepts below one of its own roots, https://support.apple.com/102028: 398 days, both ends counted. Below a
# root that a user or administrator added, it accepts 825, https://support.apple.com/103769.
MAX_LIFE = timedelta(days=398) - timedelta(seconds=1)
_CURVES = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
_PRIME_FIELD = bytes.fromhex("06072a8648ce3d0101")  # its OID, which explicit curve parameters contain
_MAX_SERIAL_BITS = 159  # 20 octets with a clear sign bit, RFC 5280 §4.1.2.2
_STEPS = 20  # a handshake takes two or three


class Fault(NamedTuple):
    """One thing that is wrong with a certificate or its file."""

    problem: str
    meaning: str


def of_any(certificate: x509.Certificate) -> Iterator[Fault]:
    """Faults of any certificate, CA or leaf: key, signature algorithm, serial number."""
    key = certificate.public_key()
    if isinstance(key, rsa.RSAPublicKey):
        if key.key_size < MIN_RSA:
            yield Fault(f"an RSA key of {key.key_size} bits", "Apple and OpenSSL refuse less than 2048")
        if certificate.public_key_algorithm_oid == PublicKeyAlgorithmOID.RSASSA_PSS:  # RFC 4055
            yield Fault("an RSA key for RSASSA-PSS alone", "Go and browsers do not support it")
    elif not isinstance(key, ec.EllipticCurvePublicKey):
        yield Fault("a key that is neither RSA nor EC", "browsers and Apple refuse it")
    elif not isinstance(key.curve, _CURVES):
        yield Fault(f"an EC key on the curve {key.curve.name}", "browsers and others know only P-256, P-384 and P-521")
    elif _PRIME_FIELD in certificate.tbs_certificate_bytes:  # RFC 5480 §2.1.1: MUST NOT
        yield Fault("an EC key whose curve is described, not named", "OpenSSL, Go and most others refuse it")
    signature = _of_signature(certificate)
    if signature is not None:
        yield signature
    if not 0 < certificate.serial_number < 1 << _MAX_SERIAL_BITS:
        yield Fault("a serial number that is not positive or has over 20 octets", "Go and strict clients refuse it")


def _of_signature(certificate: x509.Certificate) -> Fault | None:
    """What is wrong with how it is signed, if anything. Nobody verifies a root's own signature, and ``cryptography``
    none that this finds a fault with.
    """
    try:
        hashed = certificate.signature_hash_algorithm
    except UnsupportedAlgorithm:
        return Fault("signed with an algorithm that nobody knows", "every client refuses it")
    if isinstance(hashed, hashes.SHA1 | hashes.MD5) and certificate.issuer != certificate.subject:
        return Fault(f"signed with {hashed.name.upper()}", "browsers, Apple, Go and OpenSSL refuse it")
    return None


def of_ca(certificate: x509.Certificate) -> Iterator[Fault]:
    """Faults of a CA's extensions, RFC 5280 §4.2.1. Most matter only to OpenSSL's strict mode and Python 3.13."""
    strict = "Python 3.13 and newer and other strict clients refuse what it signs"
    if not certificate.extensions.get_extension_for_class(x509.BasicConstraints).critical:
        yield Fault("basicConstraints that are not critical", strict)
    wanted: dict[str, type[x509.ExtensionType]] = {
        "keyUsage": x509.KeyUsage,
        "subjectKeyIdentifier": x509.SubjectKeyIdentifier,
    }
    if certificate.issuer != certificate.subject:
        wanted["authorityKeyIdentifier"] = x509.AuthorityKeyIdentifier
    for called, extension in wanted.items():
        if certificates.extension(certificate, extension) is None:
            yield Fault(f"no {called}", strict)
    usages = certificates.extension(certificate, x509.ExtendedKeyUsage)
    if usages is not None and ExtendedKeyUsageOID.SERVER_AUTH not in usages:  # anyExtendedKeyUsage does not help
        yield Fault("extendedKeyUsage without serverAuth", "OpenSSL and most others refuse what it signs")


def of_path(path: Sequence[x509.Certificate], others: Sequence[x509.Certificate]) -> Iterator[Fault]:
    """Faults of the CAs above one: their keys, signatures and serial numbers, and their basicConstraints, RFC 5280
    §6.1.4. Each signed the one before it. ``others`` are all that its file has.
    """
    for problem, meaning in dict.fromkeys(fault for certificate in path[1:] for fault in of_any(certificate)):
        yield Fault(f"above it, {problem}", meaning)
    refused = "clients that trust one above it refuse what it signs"
    top = len(path) == 1 and not certpath.is_root(path[0]) and any(other != path[0] for other in others)
    if top and _of_signature(path[0]) is None:
        yield Fault("signed by none of those after it in its file", refused)
    below = 0  # CAs below this one; self-issued ones don't count
    exceeded = []
    for certificate, issuer in pairwise(path):
        below += certificate.issuer != certificate.subject
        constraints = certificates.extension(issuer, x509.BasicConstraints)
        if constraints is None:  # a root of version 1 has none
            continue
        if not constraints.ca:
            yield Fault("signed by a certificate that is no CA's", refused)
        elif constraints.path_length is not None and constraints.path_length < below:
            exceeded.append(f"pathlen:{constraints.path_length}")
    if exceeded:
        yield Fault(f"too far below a CA with {' and one with '.join(dict.fromkeys(exceeded))}", refused)


def of_leaf(certificate: x509.Certificate) -> Iterator[Fault]:
    """Faults of a server's certificate, most of which OpenSSL accepts and other clients do not."""
    life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    if life > MAX_LIFE:
        meaning = "Apple's clients refuse more than 398 below a root of their own, more than 825 below any other"
        yield Fault(f"valid for over {life.days} days", meaning)
    key = certificate.public_key()
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP521R1):
        yield Fault("an EC key on the curve P-521", "Chrome and others with BoringSSL refuse it for a server")
    usage = certificates.extension(certificate, x509.KeyUsage)
    if usage is not None and not usage.digital_signature:  # RFC 8446 §4.4.2.2, and all our suites of TLS 1.2 sign
        yield Fault("keyUsage without digitalSignature", "browsers and GnuTLS refuse it")
    usages = certificates.extension(certificate, x509.ExtendedKeyUsage)
    if usages is None:
        yield Fault("no extendedKeyUsage", "Apple's clients want serverAuth in it")
    elif ExtendedKeyUsageOID.SERVER_AUTH not in usages:
        yield Fault("extendedKeyUsage without serverAuth", "OpenSSL and most others refuse it for a server")
    features = certificates.extension(certificate, x509.TLSFeature)
    if features is not None and x509.TLSFeatureType.status_request in features:  # RFC 7633 §4.2.2
        yield Fault("it must be served with an OCSP response", "certifier sends none: Firefox and GnuTLS refuse it")
    constraints = certificates.extension(certificate, x509.BasicConstraints)
    if constraints is not None and constraints.ca:
        yield Fault("a CA certificate in place of a server's", "Firefox refuses it")


def of_chain(pem: bytes, name: str, anchor: x509.Certificate) -> Iterator[Fault]:
    """Faults that OpenSSL's strict verification finds in a certificate with its chain and key, served for a name."""
    try:
        server = server_context(pem)
    except RetrievalError as error:
        yield Fault(str(error), "it can't be served")
        return
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
    client.load_verify_locations(cadata=anchor.public_bytes(Encoding.DER))
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        client.wrap_bio(to_client, to_server, server_hostname=name),
        server.wrap_bio(to_server, to_client, server_side=True),
    )
    try:
        for step in range(_STEPS):
            with suppress(ssl.SSLWantReadError):
                ends[step % 2].do_handshake()
    except ssl.SSLCertVerificationError as error:
        yield Fault(
            f"OpenSSL in strict mode: {error.verify_message}",
            "Python 3.13 and newer and other strict clients refuse it",
        )
    except ssl.SSLError as error:
        yield Fault(f"no handshake succeeds with it: {error.reason}", "it can't be served")
