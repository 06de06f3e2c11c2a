"""A server's handshake flight, sans-IO: what its octets tell about the origin."""

from collections.abc import Iterator

from hello import ALERT, HANDSHAKE

_CERTIFICATE_REQUEST = 13  # HandshakeType
# The random of a HelloRetryRequest, RFC 8446 §4.1.3.
_RETRY = bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c")
_RANDOM = slice(11, 43)  # of a ServerHello: after the record and message headers, and legacy_version
# Each certificate of 672 octets whose key has explicit curve parameters may keep OpenSSL busy for a sixth of a second.
_LONG = 8_192


def is_tls(flight: bytes | bytearray) -> bool:
    """Whether it begins with a record that TLS may begin with (RFC 8446 §5.1). One that is empty may still."""
    return not flight or flight[0] in (ALERT, HANDSHAKE)


def wants_certificate(flight: bytes, closed: bool = False) -> bool:
    """Whether a server asked for a certificate (RFC 5246 §7.4.4), then sent an alert or ``closed`` without one.

    ``flight`` holds its records as received. With TLS 1.3 they are encrypted: then the answer is no.
    """
    records = list(_whole(flight, 3, 2))
    refused = closed or any(kind == ALERT for kind, _ in records)
    messages = b"".join(content for kind, content in records if kind == HANDSHAKE)
    return refused and any(kind == _CERTIFICATE_REQUEST for kind, _ in _whole(messages, 1, 3))


def is_costly(flight: bytes | bytearray) -> bool:
    """Whether it may keep OpenSSL busy for long: many certificates, or a retry with a group that may be a finite field.

    Python can't set which groups are offered. A flight whose first record is too short to tell counts as costly.
    """
    if len(flight) > _LONG:
        return True
    return bool(flight) and (flight[0] != HANDSHAKE or flight[3:5] < b"\0\x26" or flight[_RANDOM] == _RETRY)


def _whole(octets: bytes, before: int, width: int) -> Iterator[tuple[int, bytes]]:
    """Type and content of each record or message, up to one that is incomplete.

    The type is the first of ``before`` octets; the next ``width`` octets are the content's length.
    """
    at = 0
    while (start := at + before + width) <= len(octets):
        end = start + int.from_bytes(octets[at + before : start])
        if end > len(octets):
            return
        yield octets[at], octets[start:end]
        at = end
