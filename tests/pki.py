"""Certificates for tests, good and bad ones."""

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


def key_pem(key: Key) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def cert_pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.PEM)


def new_key(bits: int = 0) -> Key:
    """A P-256 key, or an RSA key of ``bits`` bits."""
    if bits:
        return rsa.generate_private_key(public_exponent=65537, key_size=bits)
    return ec.generate_private_key(ec.SECP256R1())


def key_usage(ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


class TestCA:
    """A CA; ``parent`` makes it an intermediate. Without ``signs``, its key usage is that of a leaf."""

    __test__ = False

    def __init__(
        self,
        name: str,
        parent: "TestCA | None" = None,
        key: Key | None = None,
        strict: bool = True,
        is_ca: bool = True,
        ends: timedelta = timedelta(days=365),
        begins: timedelta = timedelta(days=-365),
        signs: bool = True,
        identifier: x509.SubjectKeyIdentifier | None = None,
        limits: x509.NameConstraints | None = None,
    ) -> None:
        self.key = key or new_key()
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)] if name else [])
        self.parent = parent
        public = self.key.public_key()
        builder = (
            x509.CertificateBuilder()
            .subject_name(self.name)
            .issuer_name(parent.name if parent else self.name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now() + begins)
            .not_valid_after(now() + ends)
            .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        )
        if limits is not None:
            builder = builder.add_extension(limits, critical=True)
        if strict:
            builder = builder.add_extension(key_usage(ca=is_ca and signs), critical=True)
            identifier = identifier or x509.SubjectKeyIdentifier.from_public_key(public)
            builder = builder.add_extension(identifier, critical=False)
            if parent:
                builder = builder.add_extension(
                    x509.AuthorityKeyIdentifier.from_issuer_public_key(parent.key.public_key()), critical=False
                )
        self.certificate = builder.sign(parent.key if parent else self.key, hashes.SHA256())
        self.pem = cert_pem(self.certificate)

    def issue(
        self,
        *names: str,
        key: Key | None = None,
        begins: timedelta = timedelta(days=-2),
        ends: timedelta = timedelta(days=45),
        with_key: bool = True,
        serial: int = 0,
    ) -> bytes:
        """A leaf, this CA's certificate if it is an intermediate, and the leaf's key, as PEM."""
        key = key or new_key()
        sans: list[x509.GeneralName] = []
        for name in names:
            try:
                sans.append(x509.IPAddress(ip_address(name)))
            except ValueError:
                sans.append(x509.DNSName(name))
        leaf = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])]))
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(serial or x509.random_serial_number())
            .not_valid_before(now() + begins)
            .not_valid_after(now() + ends)
            .add_extension(x509.SubjectAlternativeName(sans), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(key_usage(ca=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
            .sign(self.key, hashes.SHA256())
        )
        chain = self.pem if self.parent else b""
        return cert_pem(leaf) + chain + (key_pem(key) if with_key else b"")
