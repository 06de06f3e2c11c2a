import pytest

from keys import AHEAD, KEY_TYPES, KeyStock, generate, kind_of


@pytest.mark.parametrize("kind", KEY_TYPES)
def test_kinds(kind: str) -> None:
    assert kind_of(generate(kind).public_key()) == kind


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
