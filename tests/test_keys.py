import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from pki import new_key

from keys import AHEAD, KEY_TYPES, KeyStock, generate, kind_of


@pytest.mark.parametrize("kind", KEY_TYPES)
def test_kinds(kind: str) -> None:
    key = generate(kind).public_key()
    assert kind_of(key) == kind
    assert kind.endswith(str(key.key_size))
    assert not isinstance(key, rsa.RSAPublicKey) or key.public_numbers().e == 65537


def test_keys_of_other_kinds() -> None:
    for key in (new_key(1024), ec.generate_private_key(ec.SECP521R1()), ed25519.Ed25519PrivateKey.generate()):
        assert kind_of(key.public_key()) is None


def test_rsa_keys_are_made_ahead_and_each_is_given_once() -> None:
    stock = KeyStock("rsa2048")
    stock.fill()
    assert len(stock._keys) == AHEAD
    given = {stock.take().private_numbers() for _ in range(AHEAD + 1)}
    assert len(given) == AHEAD + 1


def test_ec_keys_are_not() -> None:
    stock = KeyStock("p256")
    stock.fill()
    assert len(stock._keys) == 0
    assert stock.take().private_numbers() != stock.take().private_numbers()
