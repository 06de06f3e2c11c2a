"""A server's flight, sans-IO: what an origin wants, told by the octets of a handshake that failed."""

from errors import HelloError
from wire import ALERT, HANDSHAKE, Reader

_CERTIFICATE_REQUEST = 13  # HandshakeType


def wants_certificate(flight: bytes, closed: bool = False) -> bool:
    """Whether a server asked for a certificate (RFC 5246 §7.4.4) and sent an alert, or ``closed``, without.

    ``flight`` are its records as received. With TLS 1.3 they are encrypted: then the answer is no.
    """
    wire, body = Reader(flight), bytearray()
    refused = closed
    try:
        while wire:
            kind, _, record = wire.number(1), wire.take(2), wire.vector(2)
            if kind == HANDSHAKE:
                body += record.rest()
            refused = refused or kind == ALERT
    except HelloError:
        pass  # cut off: what is whole counts
    return refused and _asks(Reader(bytes(body)))


def _asks(messages: Reader) -> bool:
    try:
        while messages:
            kind = messages.number(1)
            messages.vector(3)
            if kind == _CERTIFICATE_REQUEST:
                return True
    except HelloError:
        pass
    return False
