"""What counts as a weak key; ``test_origins.py`` has real origins."""

from pathlib import Path

import pytest
from bad_chains import GOOD, NARROW, Roots
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding
from lab import run

from strength import weakness


@pytest.fixture(scope="module")
def their_roots() -> Roots:
    return Roots()


def ders(chain: list[x509.Certificate]) -> list[bytes]:
    return [certificate.public_bytes(Encoding.DER) for certificate in chain]


def is_rsa(certificate: x509.Certificate) -> bool:
    return isinstance(certificate.public_key(), rsa.RSAPublicKey)


@pytest.mark.parametrize("kind", NARROW)
def test_the_first_weak_certificate_of_a_chain_is_named(their_roots: Roots, kind: str) -> None:
    chain = [made.certificate for made in NARROW[kind](their_roots)]
    if not any(map(is_rsa, chain)):
        chain.append(their_roots.narrow.certificate)  # as in OpenSSL's chain, though it was not sent
    said = weakness(ders(chain))
    assert said is not None
    number = [is_rsa(certificate) for certificate in chain].index(True) + 1
    assert said.startswith(f"certificate {number} of the chain has an RSA key of ")


@pytest.mark.parametrize("kind", GOOD)
def test_a_strong_chain_has_no_weakness(their_roots: Roots, kind: str) -> None:
    assert weakness(ders([made.certificate for made in GOOD[kind](their_roots)])) is None


def test_rsa_for_pss_alone_is_rsa(tmp_path: Path) -> None:
    for bits, wrong in (("2047", "an RSA key of 2047 bits, less than 2048: too weak"), ("2048", None)):
        run(
            "openssl", "req", "-x509", "-newkey", "rsa-pss", "-pkeyopt", f"rsa_keygen_bits:{bits}", "-nodes", "-days",
            "3", "-subj", "/CN=x", "-keyout", tmp_path / "key", "-outform", "DER", "-out", tmp_path / "pss", check=True,
        )  # fmt: skip
        said = weakness([(tmp_path / "pss").read_bytes()])
        assert said == (wrong and f"certificate 1 of the chain has {wrong}")


def test_what_cant_be_read_is_weak(their_roots: Roots) -> None:
    der = their_roots.good.certificate.public_bytes(Encoding.DER)
    assert weakness([der]) is None
    assert weakness([der, der[:-1]]) == "certificate 2 of the chain has a key that can't be read"
