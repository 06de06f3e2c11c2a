"""A server's flight, sans-IO: what an origin wants, told by the octets of a handshake that failed."""

from collections.abc import Iterator

from hello import ALERT, HANDSHAKE

_CERTIFICATE_REQUEST = 13  # HandshakeType


def wants_certificate(flight: bytes, closed: bool = False) -> bool:
    """Whether a server asked for a certificate (RFC 5246 §7.4.4) and sent an alert, or ``closed``, without.

    ``flight`` are its records as received. With TLS 1.3 they are encrypted: then the answer is no.
    """
    records = list(_whole(flight, 3, 2))
    refused = closed or any(kind == ALERT for kind, _ in records)
    messages = b"".join(content for kind, content in records if kind == HANDSHAKE)
    return refused and any(kind == _CERTIFICATE_REQUEST for kind, _ in _whole(messages, 1, 3))


def _whole(octets: bytes, before: int, width: int) -> Iterator[tuple[int, bytes]]:
    """Type and content of each record or message up to one that is cut off.

    The type is the first of ``before`` octets, behind which the content's length stands in ``width`` of them.
    """
    at = 0
    while (start := at + before + width) <= len(octets):
        end = start + int.from_bytes(octets[at + before : start])
        if end > len(octets):
            return
        yield octets[at], octets[start:end]
        at = end
