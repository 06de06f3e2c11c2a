"""The ClientHello, sans-IO: bytes go in; a ``ClientHello``, "need more" or an error comes out.

Source: RFC 8446 §4.1.2 and §5.1, RFC 6066 §3 (server_name), RFC 7301 §3.1 (ALPN), RFC 8446 §4.2.1
(supported_versions), §4.2.7 (supported_groups) and §4.2.8 (key_share). Knows nothing of sockets, and checks only what
parsing the hello needs: the TLS library that is fed the same bytes checks the rest.
"""

import struct
from dataclasses import dataclass

from errors import HelloError

CHANGE_CIPHER_SPEC, ALERT, HANDSHAKE = 0x14, 0x15, 0x16  # ContentType

_WIRE = 2  # times the limit, for all bytes with record headers: a hello cut into tiny records is abuse
_CLIENT_HELLO = 1  # HandshakeType
_MAX_RECORD = 16_384
_SERVER_NAME, _GROUPS, _ALPN, _SUPPORTED_VERSIONS, _KEY_SHARES, _ECH = 0, 10, 16, 43, 51, 0xFE0D
_CURVES = frozenset((23, 24, 25, 29, 30))  # NamedGroups that every OpenSSL takes; hybrids with ML-KEM, only 3.5 does
_FINITE_FIELDS = range(0x0100, 0x0200)  # RFC 7919
_MOST_SHARES = 100  # OpenSSL searches all groups for each share's: 64 KB of the two take 60 ms. Clients send three.
_SHORT = "ClientHello shorter than its lengths say"

_LENGTH = struct.Struct(">H").unpack_from
_EXTENSION = struct.Struct(">HH").unpack_from  # an extension's type and length
_OLD = struct.Struct(">H3xHHH")  # SSL 2.0: the record's length; after type and version, its three parts' lengths


@dataclass(frozen=True, slots=True)
class ClientHello:
    """What decides how a connection is handled.

    ``server_name`` is the host_name as sent, its bytes decoded as Latin-1, or None if the client sent none.
    ``finite_field``: OpenSSL would choose a finite-field key exchange, with which a client can keep it busy.
    """

    server_name: str | None
    alpn_protocols: tuple[bytes, ...]
    supported_versions: tuple[int, ...]
    encrypted_client_hello: bool = False
    finite_field: bool = False


class HelloReader:
    """Reads one ClientHello of at most ``most`` octets; each byte is examined once, however the input is split."""

    __slots__ = ("_body", "_most", "_next", "wire")

    def __init__(self, most: int) -> None:
        self._most = most
        self.wire = bytearray()  # all bytes received, for whatever handles the connection next
        self._body = bytearray()  # handshake message, without record headers
        self._next = 0  # offset in wire of the next record

    def receive(self, data: bytes) -> ClientHello | None:
        """Take more bytes; return the hello once it is complete, None while more is needed.

        Raises ``HelloError`` if it can't be a ClientHello or is too large.
        """
        self.wire += data
        wire, body = self.wire, self._body
        while (start := self._next) < len(wire):
            header = wire[start : start + 5]
            if header[0] != HANDSHAKE or (len(header) > 1 and header[1] != 3):
                raise HelloError("not a TLS handshake record")
            if len(header) < 5:
                break
            length = int.from_bytes(header[3:5])
            if not 0 < length <= _MAX_RECORD:
                raise HelloError("bad TLS record length")
            if len(wire) < start + 5 + length:
                break
            body += wire[start + 5 : start + 5 + length]
            self._next = start + 5 + length
            size = 4 + int.from_bytes(body[1:4])  # less than it will be while one of these octets is missing
            if body[0] != _CLIENT_HELLO:
                raise HelloError("not a ClientHello")
            if size > self._most:
                raise HelloError(f"the ClientHello is larger than {self._most} octets (--max-hello)")
            if size <= len(body):
                return _parse(bytes(body[4:size]))
        if len(wire) > _WIRE * self._most:
            raise HelloError(f"the ClientHello's records are larger than {_WIRE * self._most} octets (--max-hello)")
        return None


def is_old(data: bytes) -> bool | None:
    """Whether one or more octets begin a ClientHello in the form of SSL 2.0; None while there are too few to tell.

    TLS 1.2 servers may accept that form (RFC 5246 appendix E.2), and OpenSSL does. It has no server_name.
    """
    if not 0x80 <= data[0] <= 0xC0 or data[2:3] not in (b"", b"\1"):
        return False
    if len(data) < 2:
        return None
    length, ciphers, session, challenge = _OLD.unpack_from(data.ljust(_OLD.size, b"\0"))  # at least
    least = _OLD.size - 2 + ciphers + session + challenge  # GnuTLS ignores what follows the parts
    if not least <= length - 0x8000 <= _MAX_RECORD:
        return False
    return bool(ciphers) if len(data) >= _OLD.size else None


def _parse(hello: bytes) -> ClientHello:
    """Parse by offsets: of a dozen or more extensions, only five are read."""
    name: str | None = None
    protocols: tuple[bytes, ...] = ()
    versions: tuple[int, ...] = ()
    groups: tuple[int, ...] = ()
    shares: tuple[int, ...] = ()
    kinds: set[int] = set()
    length = len(hello)
    try:
        at = 2 + 32  # legacy_version, random
        at += 1 + hello[at]  # legacy_session_id
        at += 2 + _LENGTH(hello, at)[0]  # cipher_suites
        at += 1 + hello[at]  # legacy_compression_methods
        if at == length:
            return ClientHello(None, (), ())  # TLS 1.2 allows a hello without extensions
        end = at + 2 + _LENGTH(hello, at)[0]
        at += 2
        while at < end:
            kind, size = _EXTENSION(hello, at)
            if kind in kinds:
                raise HelloError("ClientHello with a duplicate extension")
            kinds.add(kind)
            at += 4
            if not size:
                continue
            if kind == _SERVER_NAME:
                name = _server_name(hello, at, at + size)
            elif kind == _ALPN:
                protocols = _alpn_protocols(hello, at, at + size)
            elif kind == _SUPPORTED_VERSIONS:
                versions = _supported_versions(hello, at, at + size)
            elif kind == _GROUPS:
                groups = struct.unpack_from(f">{size // 2 - 1}H", hello, at + 2)
            elif kind == _KEY_SHARES:
                shares = _key_shares(hello, at + 2, at + size)
            at += size
    except (IndexError, struct.error) as error:
        raise HelloError(_SHORT) from error
    if at != end or end > length:
        raise HelloError(_SHORT)
    if end < length:
        raise HelloError("bytes after the ClientHello's extensions")
    return ClientHello(name, protocols, versions, _ECH in kinds, _is_finite(shares, groups))


def _is_finite(shares: tuple[int, ...], groups: tuple[int, ...]) -> bool:
    """Whether OpenSSL would use a finite field: it takes the first share it can or, without one, prefers a curve.

    A group that it may not know leaves the choice to the others.
    """
    for group in shares:
        if group in _CURVES or group in _FINITE_FIELDS:
            return group not in _CURVES
    return _CURVES.isdisjoint(groups) and any(group in _FINITE_FIELDS for group in groups)


# Each parses one extension, between two offsets; the TLS library checks what follows the vector in it.


def _server_name(hello: bytes, at: int, end: int) -> str | None:
    stop = at + 2 + _LENGTH(hello, at)[0]
    at += 2
    found = None
    while at < stop:
        kind, size = hello[at], _LENGTH(hello, at + 1)[0]
        at += 3
        if kind == 0:
            if found is not None or not size:
                raise HelloError("server_name with an empty or a second host_name")
            found = hello[at : at + size].decode("latin-1")
        at += size
    if at != stop or stop > end:
        raise HelloError(_SHORT)
    return found


def _alpn_protocols(hello: bytes, at: int, end: int) -> tuple[bytes, ...]:
    stop = at + 2 + _LENGTH(hello, at)[0]
    at += 2
    found = []
    while at < stop:
        size = hello[at]
        if not size:
            raise HelloError("empty protocol name in ALPN")
        at += 1
        found.append(hello[at : at + size])
        at += size
    if at != stop or stop > end:
        raise HelloError(_SHORT)
    return tuple(found)


def _key_shares(hello: bytes, at: int, end: int) -> tuple[int, ...]:
    """The groups of the shares."""
    found = []
    while at + 4 <= end:
        group, size = _EXTENSION(hello, at)
        found.append(group)
        at += 4 + size
        if len(found) > _MOST_SHARES:
            raise HelloError(f"ClientHello with more than {_MOST_SHARES} key shares")
    return tuple(found)


def _supported_versions(hello: bytes, at: int, end: int) -> tuple[int, ...]:
    count, odd = divmod(hello[at], 2)
    if odd or at + 1 + 2 * count > end:
        raise HelloError(_SHORT)
    return struct.unpack_from(f">{count}H", hello, at + 1)
