import sys
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from lab import HERE, run
from pki import TestCA, cert_pem, key_pem, key_usage, new_key, now

import ca
import signer
from errors import RetrievalError
from keys import KEY_TYPES, generate
from leaf import MARGIN
from ledger import Ledger
from signer import Authority

USAGES = (
    "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
    "key_cert_sign", "crl_sign",
)  # fmt: skip
LONGEST, LONGER = (label + ".example.com" for label in ("a" * 52, "a" * 53))  # that fit into a common name, and not


def files(folder: Path, authority: TestCA, chain: bytes = b"") -> ca.CaFiles:
    (folder / "ca.crt").write_bytes(authority.pem + chain)
    (folder / "ca.key").write_bytes(key_pem(authority.key))
    (folder / "ca.key").chmod(0o600)
    (folder / "serial.txt").write_text("7\n")
    return ca.load(folder / "ca.crt", folder / "ca.key", folder / "serial.txt", now())


def authority_for(found: ca.CaFiles, days: int = 45, crl_url: str | None = None) -> Authority:
    """Its ledger is in the store ``certs`` beside the CA's files."""
    return Authority(found, Ledger(found.serials.path.parent / "certs", found.certificate), days, crl_url)


@pytest.mark.parametrize("name", ["www.example.com", LONGEST, LONGER, "_x.example.com", "127.0.0.1", "::1"])
@pytest.mark.parametrize("bits", [0, 2048])
def test_the_leaf(tmp_path: Path, name: str, bits: int) -> None:
    authority = files(tmp_path, TestCA("op", key=new_key(bits)))
    key, csr = signer.request(name, generate("p256"))
    pem = authority_for(authority).sign(csr, name, now(), [])
    leaf = x509.load_pem_x509_certificate(pem)
    extensions = leaf.extensions
    san = extensions.get_extension_for_class(x509.SubjectAlternativeName)
    address = ip_address(name) if name[0] in "1:" else None
    assert list(san.value) == [x509.DNSName(name) if address is None else x509.IPAddress(address)]
    critical = {type(extension.value) for extension in extensions if extension.critical}
    assert critical - {x509.SubjectAlternativeName} == {x509.BasicConstraints, x509.KeyUsage}
    assert san.critical == (len(name) > 64)
    common = [a.value for a in leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    assert common == ([name] if len(name) <= 64 else [])
    assert leaf.serial_number == 7
    assert isinstance(leaf.public_key(), ec.EllipticCurvePublicKey)
    assert leaf.public_key() != authority.certificate.public_key()
    assert timedelta(days=44.9) < leaf.not_valid_after_utc - now() <= timedelta(days=45)
    assert timedelta(days=2) <= now() - leaf.not_valid_before_utc < timedelta(days=2, minutes=1)
    basic = extensions.get_extension_for_class(x509.BasicConstraints)
    assert not basic.value.ca
    usage = extensions.get_extension_for_class(x509.KeyUsage)
    assert [bit for bit in USAGES if getattr(usage.value, bit)] == ["digital_signature"]
    assert list(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [ExtendedKeyUsageOID.SERVER_AUTH]
    aki = extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    ski = authority.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    assert aki.key_identifier == ski.digest
    (tmp_path / "leaf.pem").write_bytes(pem + key)
    kind = "-verify_hostname" if address is None else "-verify_ip"
    verify = ("openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", tmp_path / "ca.crt", kind)
    assert run(*verify, name, tmp_path / "leaf.pem").stdout.endswith(": OK\n")
    assert run(*verify, "192.0.2.1" if address else "other.example", tmp_path / "leaf.pem").returncode != 0


def test_never_past_the_ca(tmp_path: Path) -> None:
    authority = files(tmp_path, TestCA("op", ends=timedelta(days=10)))
    leaf = x509.load_pem_x509_certificate(
        authority_for(authority).sign(signer.request("a.example", generate("p256"))[1], "a.example", now(), [])
    )
    assert leaf.not_valid_after_utc == authority.certificate.not_valid_after_utc
    with pytest.raises(RetrievalError, match="CA certificate expired"):
        authority_for(authority).sign(
            signer.request("a.example", generate("p256"))[1], "a.example", now() + timedelta(days=11), []
        )


def test_the_key_identifier_is_copied_not_computed(tmp_path: Path) -> None:
    authority = TestCA("op")
    key = authority.key.public_key()
    authority.certificate = (
        x509.CertificateBuilder(
            issuer_name=authority.name, subject_name=authority.name, public_key=key, serial_number=1
        )
        .not_valid_before(now() - timedelta(days=1))
        .not_valid_after(now() + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier(b"twelve octet"), critical=False)
        .sign(authority.key, hashes.SHA256())
    )
    authority.pem = cert_pem(authority.certificate)
    pem = authority_for(files(tmp_path, authority)).sign(
        signer.request("a.example", generate("p256"))[1], "a.example", now(), []
    )
    aki = x509.load_pem_x509_certificate(pem).extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
    assert aki.value.key_identifier == b"twelve octet"


def test_intermediates_follow_the_leaf(tmp_path: Path) -> None:
    root = TestCA("root")
    middle = TestCA("middle", parent=root)
    pem = authority_for(files(tmp_path, middle, root.pem)).sign(
        signer.request("a.example", generate("p256"))[1], "a.example", now(), []
    )
    _, *chain = x509.load_pem_x509_certificates(pem)
    assert chain == [middle.certificate]


def test_a_request_for_something_else_is_not_signed(tmp_path: Path) -> None:
    authority = authority_for(files(tmp_path, TestCA("op")))
    good = signer.request("a.example", generate("p256"))[1]
    builder = x509.CertificateSigningRequestBuilder().subject_name(good.subject)
    two = x509.SubjectAlternativeName([x509.DNSName("a.example"), x509.DNSName("b.example")])
    nothing = builder.sign(new_key(), hashes.SHA256())
    other = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    one = x509.SubjectAlternativeName([x509.DNSName("a.example")])
    for csr in (
        signer.request("b.example", generate("p256"))[1],
        nothing,
        builder.add_extension(two, False).sign(new_key(), hashes.SHA256()),
        other.add_extension(one, False).sign(new_key(), hashes.SHA256()),
    ):
        with pytest.raises(RetrievalError, match="not one for that name"):
            authority.sign(csr, "a.example", now(), [])
    assert (tmp_path / "serial.txt").read_text() == "7\n"
    der = bytearray(good.public_bytes(Encoding.DER))
    der[-1] ^= 1
    with pytest.raises(RetrievalError, match="not one for that name"):
        authority.sign(x509.load_der_x509_csr(bytes(der)), "a.example", now(), [])


def test_it_knows_its_own_signatures(tmp_path: Path) -> None:
    one, two, namesake = TestCA("one"), TestCA("two"), TestCA("one")
    authority = authority_for(files(tmp_path, one))
    for issuer, expected in ((one, True), (two, False), (namesake, False)):
        leaf = x509.load_pem_x509_certificate(issuer.issue("a.example"))
        assert (authority.fault(leaf, ()) != "it was signed by another CA") is expected


@pytest.mark.parametrize("kind", KEY_TYPES)
def test_key_types_and_days(tmp_path: Path, kind: str) -> None:
    authority = files(tmp_path, TestCA("op", ends=timedelta(days=900)))
    key, csr = signer.request("a.example", generate(kind))
    pem = authority_for(authority, days=397).sign(csr, "a.example", now(), [])
    leaf = x509.load_pem_x509_certificate(pem)
    assert timedelta(days=396) < leaf.not_valid_after_utc - now() <= timedelta(days=397)
    life = leaf.not_valid_after_utc - leaf.not_valid_before_utc
    assert life == timedelta(days=398) - timedelta(seconds=1)  # the most that Apple's clients accept, ends included
    (tmp_path / "leaf.pem").write_bytes(pem + key)
    words = "openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", tmp_path / "ca.crt"
    assert run(*words, tmp_path / "leaf.pem").stdout.endswith(": OK\n")


def test_a_weak_key_is_not_signed(tmp_path: Path) -> None:
    authority = authority_for(files(tmp_path, TestCA("op")))
    for key in (new_key(1024), ec.generate_private_key(ec.SECP256K1())):
        with pytest.raises(RetrievalError, match="not signed here"):
            authority.sign(signer.request("a.example", key)[1], "a.example", now(), [])


def test_a_crl_that_revokes_nothing(tmp_path: Path) -> None:
    """OpenSSL accepts it as the CRL that the leaf's distribution point promises."""
    url = "http://127.0.0.1:8080/ca.crl"
    authority = authority_for(files(tmp_path, TestCA("op")), crl_url=url)
    pem = authority.sign(signer.request("a.example", generate("p256"))[1], "a.example", now(), [])
    leaf = x509.load_pem_x509_certificate(pem)
    points = leaf.extensions.get_extension_for_class(x509.CRLDistributionPoints)
    (point,) = points.value
    assert not points.critical
    assert point.full_name == [x509.UniformResourceIdentifier(url)]
    (tmp_path / "leaf.pem").write_bytes(pem)
    crl = authority.revocation_list(now())
    assert timedelta(days=6.9) < (x509.load_der_x509_crl(crl).next_update_utc or now()) - now() <= timedelta(days=7)
    (tmp_path / "ca.crl").write_bytes(crl)
    words = ["openssl", "verify", "-x509_strict", "-crl_check", "-CRLfile", "ca.crl", "-CAfile", "ca.crt", "leaf.pem"]
    checked = run(*words, cwd=tmp_path)
    assert (checked.returncode, checked.stdout) == (0, "leaf.pem: OK\n"), checked.stderr
    other = authority_for(files(tmp_path, TestCA("op")))
    (tmp_path / "ca.crl").write_bytes(other.revocation_list(now()))
    assert run(*words, cwd=tmp_path).returncode == 2
    assert authority.fault(leaf, []) is None
    without = authority_for(files(tmp_path, TestCA("op")))
    assert without.fault(leaf, []) == "it was signed by another CA"


def test_a_crl_does_not_outlive_its_ca(tmp_path: Path) -> None:
    found = files(tmp_path, TestCA("op", ends=timedelta(days=1)))
    crl = x509.load_der_x509_crl(authority_for(found).revocation_list(now()))
    assert crl.next_update_utc == found.certificate.not_valid_after_utc


def test_no_crl_of_a_ca_that_has_ended(tmp_path: Path) -> None:
    found = files(tmp_path, TestCA("op", ends=timedelta(days=1)))
    for days in (2, 9):
        with pytest.raises(RetrievalError, match="CA certificate expired on 2"):
            authority_for(found).revocation_list(now() + timedelta(days=days))


def test_no_leaf_is_signed_that_would_not_be_served(tmp_path: Path) -> None:
    """In the last minutes of a CA, when each connection would take a serial number."""
    found = files(tmp_path, TestCA("op", ends=timedelta(days=1)))
    authority, end = authority_for(found), found.certificate.not_valid_after_utc
    csr = signer.request("a.example", generate("p256"))[1]
    with pytest.raises(RetrievalError, match="CA certificate ends on 2"):
        authority.sign(csr, "a.example", end - MARGIN, [])
    when = end - MARGIN - timedelta(seconds=1)
    pem = authority.sign(csr, "a.example", when, [])
    certificate = x509.load_pem_x509_certificate(pem)
    assert when < certificate.not_valid_after_utc - MARGIN
    assert certificate.serial_number == 7


def test_a_leaf_without_the_distribution_point_that_is_wanted(tmp_path: Path) -> None:
    found = files(tmp_path, TestCA("op"))
    pem = authority_for(found).sign(signer.request("a.example", generate("p256"))[1], "a.example", now(), [])
    leaf = x509.load_pem_x509_certificate(pem)
    assert authority_for(found).fault(leaf, []) is None
    assert authority_for(found, crl_url="http://x/ca.crl").fault(leaf, []) == (
        "its CRL distribution point is not that of --crl-url"
    )


def test_a_ca_that_may_not_sign_crls(tmp_path: Path) -> None:
    authority = TestCA("op")
    usage = key_usage(ca=True)
    builder = (
        x509.CertificateBuilder(
            issuer_name=authority.name,
            subject_name=authority.name,
            public_key=authority.key.public_key(),
            serial_number=1,
        )
        .not_valid_before(now() - timedelta(days=1))
        .not_valid_after(now() + timedelta(days=1))
    )
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    bits = {name: getattr(usage, name) for name in USAGES}
    builder = builder.add_extension(
        x509.KeyUsage(**bits | {"crl_sign": False}, encipher_only=False, decipher_only=False), critical=True
    )
    authority.pem = cert_pem(builder.sign(authority.key, hashes.SHA256()))
    with pytest.raises(RetrievalError, match="lacks cRLSign"):
        authority_for(files(tmp_path, authority)).revocation_list(now())
    without_usage = TestCA("op", strict=False)
    assert authority_for(files(tmp_path, without_usage)).revocation_list(now())


SIGNS = """
import sys
from datetime import UTC, datetime
from pathlib import Path

import cafolder, keys, ledger, signer

folder, now = Path(sys.argv[1]), datetime.now(UTC)
files = cafolder.load(folder, now)
book = ledger.Ledger(folder, files.certificate)
files.serials.prepare(book, print, True)
authority = signer.Authority(files, book)
loaded = set(sys.modules)
authority.sign(signer.request("a.example", keys.generate("p256"))[1], "a.example", now, [])
print(*sorted(set(sys.modules) - loaded))
"""


def test_the_first_signature_loads_no_module(tmp_path: Path) -> None:
    """It may come when file descriptors have run out, and comes on a pool thread."""
    for _ in range(2):  # a CA that is made now has signed itself
        done = run(sys.executable, "-c", SIGNS, tmp_path, cwd=HERE)
        assert (done.returncode, done.stdout, done.stderr) == (0, "\n", "")
