"""A server's first flight, sans-IO: what an origin wants, told by the octets of a handshake that failed."""

from errors import HelloError
from wire import HANDSHAKE, Reader

_CERTIFICATE_REQUEST = 13  # HandshakeType


def wants_certificate(flight: bytes) -> bool:
    """Whether a server's first flight, its records as received, has a CertificateRequest (RFC 5246 §7.4.4).

    Not to be seen with TLS 1.3, where it is encrypted.
    """
    wire, body = Reader(flight), bytearray()
    try:
        while wire:
            kind, _, record = wire.number(1), wire.take(2), wire.vector(2)
            if kind == HANDSHAKE:
                body += record.rest()
    except HelloError:
        pass  # cut off: what is whole counts
    messages = Reader(bytes(body))
    try:
        while messages:
            kind = messages.number(1)
            messages.vector(3)
            if kind == _CERTIFICATE_REQUEST:
                return True
    except HelloError:
        pass
    return False
