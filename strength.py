"""How strong the keys in an origin's certificate chain must be.

OpenSSL's security level 2 requires 112 bits of security, which it credits to RSA keys of 1962 bits or more. Baseline
Requirements §6.1.5, NIST SP 800-131A and browsers require 2048.
"""

from collections.abc import Iterable
from functools import lru_cache

from cryptography.hazmat.primitives.asymmetric import rsa

import certificates

MIN_RSA = 2048


def weakness(chain: Iterable[bytes]) -> str | None:
    """What is too weak in a verified chain of DER certificates, from leaf to root; None if nothing is."""
    for number, der in enumerate(chain, 1):
        wrong = _wrong(der)
        if wrong is not None:
            return f"certificate {number} of the chain has {wrong}"
    return None


@lru_cache(maxsize=1024)  # 2 µs per connection instead of 60; origins share intermediates and roots
def _wrong(der: bytes) -> str | None:
    try:
        key = certificates.key_of(der)
    except certificates.Unreadable:
        return "a key that can't be read"
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < MIN_RSA:
        return f"an RSA key of {key.key_size} bits, less than {MIN_RSA}: too weak"
    return None
