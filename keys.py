"""``KeyStock``: private keys for leaves; those that take long (RSA: 50 to 500 ms and more) are made ahead.

Every leaf has a fresh key of its own. Keys are made on pool threads, with the GIL released.
"""

from collections import deque

from cryptography.hazmat.primitives.asymmetric import ec, rsa

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey

_CURVES: dict[str, type[ec.EllipticCurve]] = {"p256": ec.SECP256R1, "p384": ec.SECP384R1}
_RSA_BITS = {"rsa2048": 2048, "rsa3072": 3072, "rsa4096": 4096}
KEY_TYPES = (*_CURVES, *_RSA_BITS)
AHEAD = 8  # RSA keys made ahead: a page may need many new names at once


def generate(kind: str) -> Key:
    """A new key of one of the ``KEY_TYPES``."""
    if kind in _CURVES:
        return ec.generate_private_key(_CURVES[kind]())
    return rsa.generate_private_key(public_exponent=65537, key_size=_RSA_BITS[kind])


def kind_of(key: object) -> str | None:
    """Which of the ``KEY_TYPES`` a public key is; None for any other."""
    if isinstance(key, rsa.RSAPublicKey):
        found = [kind for kind, bits in _RSA_BITS.items() if bits == key.key_size]
    elif isinstance(key, ec.EllipticCurvePublicKey):
        found = [kind for kind, curve in _CURVES.items() if isinstance(key.curve, curve)]
    else:
        found = []
    return found[0] if found else None


class KeyStock:
    """Keys of one type; used from several threads."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._goal = AHEAD if kind in _RSA_BITS else 0
        self._keys: deque[Key] = deque()  # its append and popleft are atomic

    def take(self) -> Key:
        """A key that was never handed out before."""
        try:
            return self._keys.popleft()
        except IndexError:
            return generate(self.kind)

    @property
    def is_full(self) -> bool:
        """Whether there are enough keys made ahead."""
        return len(self._keys) >= self._goal

    def fill(self) -> None:
        """Make keys ahead until there are enough; takes seconds for RSA."""
        while not self.is_full:
            self._keys.append(generate(self.kind))
