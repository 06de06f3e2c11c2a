"""Certificates of any kind, including those that libraries no longer issue."""

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import ip_address
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from pki import Key, cert_pem, key_pem, key_usage, new_key, now

Digest = Literal["sha256", "sha1", "md5"]

DAY = timedelta(days=1)
PRIVATE = x509.ObjectIdentifier("1.3.6.1.4.1.32473.1")  # reserved for documentation (RFC 5612)
SERVER, CLIENT, CODE, ANY = (
    ExtendedKeyUsageOID.SERVER_AUTH,
    ExtendedKeyUsageOID.CLIENT_AUTH,
    ExtendedKeyUsageOID.CODE_SIGNING,
    ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,
)


@dataclass(frozen=True)
class Made:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: Key

    @property
    def pem(self) -> bytes:
        return cert_pem(self.certificate)


@functools.cache
def rsa_key(bits: int) -> Key:
    """One key per size, since generating them is slow."""
    return new_key(bits)


def make(
    subject: str,
    issuer: Made | None = None,
    *names: str,
    key: Key | None = None,
    bits: int = 0,
    ca: bool | None = None,
    path_length: int | None = None,
    digest: Digest = "sha256",
    begins: timedelta = -2 * DAY,
    ends: timedelta = 45 * DAY,
    usage: x509.KeyUsage | None = None,
    eku: x509.ObjectIdentifier | None = None,
    more: Iterable[tuple[x509.ExtensionType, bool]] = (),
    parent_key: Key | None = None,
) -> Made:
    """A certificate issued by ``issuer``, by default self-signed; a CA if no names are given, unless ``ca`` is set.

    ``bits``: the size of an RSA key. ``more``: extensions, and whether they are critical. ``parent_key`` signs in place
    of the issuer's key.
    """
    key = key or (rsa_key(bits) if bits else new_key())
    ca = not names if ca is None else ca
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
    signing = parent_key or (issuer.key if issuer else key)
    extensions: list[tuple[x509.ExtensionType, bool]] = [
        (x509.BasicConstraints(ca=ca, path_length=path_length), True),
        (usage or key_usage(ca=ca), True),
        (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
        (x509.AuthorityKeyIdentifier.from_issuer_public_key((issuer.key if issuer else key).public_key()), False),
        *more,
    ]
    if names:
        extensions.append((x509.SubjectAlternativeName([_general(text) for text in names]), False))
    if eku or names:
        extensions.append((x509.ExtendedKeyUsage([eku or SERVER]), False))
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer.certificate.subject if issuer else name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now() + begins)
        .not_valid_after(now() + ends)
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    made = builder.sign(signing, hashes.SHA256())
    if digest != "sha256":
        tbs = made.tbs_certificate_bytes.replace(_algorithm("sha256"), _algorithm(digest), 1)
        made = _seal(tbs, signing, digest)
    return Made(made, key)


def _general(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(text))
    except ValueError:
        return x509.DNSName(text.removeprefix("dns:"))  # "dns:" makes even an address a DNS name


def version_1(subject: str, issuer: Made | None = None) -> Made:
    """An X.509 v1 certificate, which has no extensions, and so nothing that makes it a CA."""
    key = rsa_key(2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
    plain = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer.certificate.subject if issuer else name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now() - 2 * DAY)
        .not_valid_after(now() + 45 * DAY)
    ).sign(key, hashes.SHA256())
    fields = plain.tbs_certificate_bytes.partition(_VERSION_3)[2]
    made = _seal(der(0x30, fields), issuer.key if issuer else key, "sha256")
    assert made.version is x509.Version.v1
    return Made(made, key)


# What libraries no longer sign, in DER.

_VERSION_3 = bytes.fromhex("a003020102")
_HASHES: dict[Digest, tuple[int, hashes.HashAlgorithm]] = {
    "sha256": (11, hashes.SHA256()),
    "sha1": (5, hashes.SHA1()),
    "md5": (4, hashes.MD5()),
}  # the last arc of sha256WithRSAEncryption etc. (RFC 8017 appendix C)


def _algorithm(digest: Digest) -> bytes:
    return bytes.fromhex("300d06092a864886f70d0101") + bytes((_HASHES[digest][0], 5, 0))


def der(tag: int, content: bytes) -> bytes:
    count = len(content)
    length = bytes((count,)) if count < 128 else b"\x82" + count.to_bytes(2)
    return bytes((tag,)) + length + content


def _seal(tbs: bytes, key: Key, digest: Digest) -> x509.Certificate:
    """Sign a TBSCertificate with an RSA key."""
    assert isinstance(key, rsa.RSAPrivateKey)
    signature = key.sign(tbs, padding.PKCS1v15(), _HASHES[digest][1])
    return x509.load_der_x509_certificate(der(0x30, tbs + _algorithm(digest) + der(3, b"\0" + signature)))


def file(chain: Iterable[Made]) -> bytes:
    """The PEM that a server loads: the chain as sent, and the leaf's key."""
    chain = list(chain)
    return b"".join(made.pem for made in chain) + key_pem(chain[0].key)
