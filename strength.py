"""How strong the keys of a chain must be that vouches for an origin.

OpenSSL's security level 2 counts in bits of strength, of which it finds 112 in RSA keys from 1962 bits on. Baseline
Requirements §6.1.5, NIST SP 800-131A and browsers say 2048.
"""

from collections.abc import Iterable
from functools import lru_cache

from cryptography.hazmat.primitives.asymmetric import rsa

import certificates

MIN_RSA = 2048


def weakness(chain: Iterable[bytes]) -> str | None:
    """What is too weak in a verified chain of certificates in DER, from the leaf to the root; None if nothing is."""
    for number, der in enumerate(chain, 1):
        wrong = _wrong(der)
        if wrong is not None:
            return f"certificate {number} of the chain has {wrong}"
    return None


@lru_cache(maxsize=1024)  # 2 µs a connection instead of 60; origins share what is above their leaves
def _wrong(der: bytes) -> str | None:
    try:
        key = certificates.key_of(der)
    except certificates.Unreadable:
        return "a key that can't be read"
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < MIN_RSA:
        return f"an RSA key of {key.key_size} bits, less than {MIN_RSA}: too weak"
    return None
