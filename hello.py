"""The ClientHello, sans-IO: bytes go in; a ``ClientHello``, "need more" or an error comes out.

Source: RFC 8446 §4.1.2 and §5.1, RFC 6066 §3 (server_name), RFC 7301 §3.1 (ALPN), RFC 8446 §4.2.1
(supported_versions). Knows nothing of sockets, and judges only what is needed to read the hello on: the TLS
library that is fed the same bytes judges the rest.
"""

import struct
from dataclasses import dataclass

from errors import HelloError
from wire import HANDSHAKE, Reader

MAX_HELLO = 65_536  # octets of ClientHello; post-quantum ones have 2 KB, Go and OpenSSL accept 64 to 128 KB
_WIRE = 2  # times that with record headers: a hello cut into tiny records is abuse

_CLIENT_HELLO = 1  # HandshakeType
_MAX_RECORD = 16_384
_SERVER_NAME, _ALPN, _SUPPORTED_VERSIONS, _ECH = 0, 16, 43, 0xFE0D
_READ = {_SERVER_NAME, _ALPN, _SUPPORTED_VERSIONS}
_UNREAD = Reader(b"")

_LENGTH = struct.Struct(">H").unpack_from
_EXTENSION = struct.Struct(">HH").unpack_from  # its type, and its length


@dataclass(frozen=True, slots=True)
class ClientHello:
    """What the way of a connection depends on.

    ``server_name`` is the host_name as sent, undecoded bytes shown as Latin-1, or None if the client sent none.
    """

    server_name: str | None
    alpn_protocols: tuple[bytes, ...]
    supported_versions: tuple[int, ...]
    encrypted_client_hello: bool = False


class HelloReader:
    """Reads one ClientHello of at most ``most`` octets; each byte is looked at once, however they are cut."""

    __slots__ = ("_body", "_most", "_next", "wire")

    def __init__(self, most: int = MAX_HELLO) -> None:
        self._most = most
        self.wire = bytearray()  # all bytes received, to be handed to whoever goes on
        self._body = bytearray()  # handshake message, without record headers
        self._next = 0  # offset in wire of the next record

    def receive(self, data: bytes) -> ClientHello | None:
        """Take more bytes. The hello once it is complete, None while more is needed.

        Raises ``HelloError`` when it can't be a ClientHello, or is larger than it may be.
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
            size = 4 + int.from_bytes(body[1:4])
            if body[0] != _CLIENT_HELLO:
                raise HelloError("not a ClientHello")
            if len(body) >= 4 and size > self._most:
                raise HelloError(f"the ClientHello is larger than {self._most} octets (--max-hello)")
            if len(body) >= 4 and size <= len(body):
                return _parse(bytes(body[4:size]))
        if len(wire) > _WIRE * self._most:
            raise HelloError("the ClientHello's records are too many")
        return None


def _parse(hello: bytes) -> ClientHello:
    extensions = _extensions(hello)
    return ClientHello(
        server_name=_server_name(extensions.get(_SERVER_NAME)),
        alpn_protocols=_alpn_protocols(extensions.get(_ALPN)),
        supported_versions=_supported_versions(extensions.get(_SUPPORTED_VERSIONS)),
        encrypted_client_hello=_ECH in extensions,
    )


def _extensions(hello: bytes) -> dict[int, Reader]:
    """Walked by offsets: there are a dozen or more, of which three are read."""
    found: dict[int, Reader] = {}
    length = len(hello)
    try:
        at = 2 + 32  # legacy_version, random
        at += 1 + hello[at]  # legacy_session_id
        at += 2 + _LENGTH(hello, at)[0]  # cipher_suites
        at += 1 + hello[at]  # legacy_compression_methods
        if at == length:
            return found  # TLS 1.2 allows a hello without extensions
        end = at + 2 + _LENGTH(hello, at)[0]
        at += 2
        while at < end:
            kind, size = _EXTENSION(hello, at)
            if kind in found:
                raise HelloError("ClientHello with a duplicate extension")
            at += 4
            found[kind] = Reader(hello[at : at + size]) if kind in _READ else _UNREAD
            at += size
    except (IndexError, struct.error) as error:
        raise HelloError("ClientHello shorter than its lengths say") from error
    if at != end or end > length:
        raise HelloError("ClientHello shorter than its lengths say")
    if end < length:
        raise HelloError("bytes after the ClientHello's extensions")
    return found


def _server_name(extension: Reader | None) -> str | None:
    names = extension.vector(2) if extension else None
    found = None
    while names:
        kind, name = names.number(1), names.vector(2).rest()
        if kind == 0:
            if found is not None or not name:
                raise HelloError("server_name with an empty or a second host_name")
            found = name.decode("latin-1")
    return found


def _alpn_protocols(extension: Reader | None) -> tuple[bytes, ...]:
    names = extension.vector(2) if extension else None
    found = []
    while names:
        found.append(names.vector(1).rest())
    if b"" in found:
        raise HelloError("empty protocol name in ALPN")
    return tuple(found)


def _supported_versions(extension: Reader | None) -> tuple[int, ...]:
    versions = extension.vector(1) if extension else None
    found = []
    while versions:
        found.append(versions.number(2))
    return tuple(found)
