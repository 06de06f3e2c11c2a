"""TLS octet by octet: builds hellos that no library would send, and parses those that certifier sends."""

import os
import socket
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from pki import Key

CHANGE_CIPHER_SPEC, ALERT, HANDSHAKE = 20, 21, 22  # ContentType
CLIENT_HELLO, SERVER_HELLO, CERTIFICATE, SERVER_KEY_EXCHANGE, SERVER_HELLO_DONE = 1, 2, 11, 12, 14  # HandshakeType
SERVER_NAME, GROUPS, SCHEMES, HEARTBEAT, ALPN, ENCRYPT_THEN_MAC = 0, 10, 13, 15, 16, 22  # ExtensionType
COMPRESS_CERTIFICATE = 27
EXTENDED_MASTER_SECRET, PRE_SHARED_KEY, EARLY_DATA, VERSIONS, KEY_SHARES, RENEGOTIATION = 23, 41, 42, 43, 51, 0xFF01
TLS_1_0, TLS_1_1, TLS_1_2, TLS_1_3 = 0x0301, 0x0302, 0x0303, 0x0304
SSL_3 = 0x0300
X25519, SECP256R1, SECP384R1, X25519_MLKEM768 = 29, 23, 24, 0x11EC
ECDSA_SHA256, ECDSA_SHA1, PSS_SHA256 = 0x0403, 0x0203, 0x0804
ECDHE_ECDSA, DHE_RSA = 0xC02B, 0x009E  # each TLS_…_WITH_AES_128_GCM_SHA256
RENEGOTIATION_SCSV, FALLBACK_SCSV = 0x00FF, 0x5600  # RFC 5746 and 7507
RETRY = bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c")  # RFC 8446 §4.1.3
_MOST = 16_384  # octets of a record


class Reader:
    """A cursor over the vectors of the TLS presentation language (RFC 8446 §3)."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def __bool__(self) -> bool:
        return bool(self._data)

    def take(self, count: int) -> bytes:
        taken, self._data = self._data[:count], self._data[count:]
        assert len(taken) == count
        return taken

    def number(self, width: int) -> int:
        return int.from_bytes(self.take(width))

    def vector(self, width: int) -> "Reader":
        return Reader(self.take(self.number(width)))

    def rest(self) -> bytes:
        return self.take(len(self._data))


class Hello(NamedTuple):
    """A ClientHello or a ServerHello; the latter has a single suite and compression method."""

    version: int
    random: bytes
    session: bytes
    suites: tuple[int, ...]
    compressions: tuple[int, ...]
    extensions: Mapping[int, bytes]

    def numbers(self, extension: int, width: int = 2) -> list[int]:
        """The contents of an extension that is a vector of two-octet numbers."""
        vector = Reader(self.extensions[extension]).vector(width)
        found = []
        while vector:
            found.append(vector.number(2))
        return found


def vector(width: int, data: bytes) -> bytes:
    return len(data).to_bytes(width) + data


def numbers(width: int, values: Iterable[int]) -> bytes:
    return vector(width, b"".join(value.to_bytes(2) for value in values))


def records(kind: int, data: bytes, version: int = TLS_1_2) -> bytes:
    parts = [data[at : at + _MOST] for at in range(0, len(data), _MOST)]
    return b"".join(bytes((kind,)) + version.to_bytes(2) + vector(2, part) for part in parts)


def message(kind: int, body: bytes) -> bytes:
    return bytes((kind,)) + vector(3, body)


def _extensions(extensions: Mapping[int, bytes]) -> bytes:
    return vector(2, b"".join(kind.to_bytes(2) + vector(2, body) for kind, body in extensions.items()))


def client_hello(
    suites: Iterable[int],
    extensions: Mapping[int, bytes],
    version: int = TLS_1_2,
    compressions: bytes = b"\x00",
) -> bytes:
    body = version.to_bytes(2) + os.urandom(32) + vector(1, b"") + numbers(2, suites)
    return records(HANDSHAKE, message(CLIENT_HELLO, body + vector(1, compressions) + _extensions(extensions)), TLS_1_0)


def usual(name: str) -> dict[int, bytes]:
    """The extensions of a permissive TLS 1.2 client."""
    return {
        SERVER_NAME: vector(2, b"\x00" + vector(2, name.encode())),
        GROUPS: numbers(2, (X25519, SECP256R1, SECP384R1)),
        SCHEMES: numbers(2, (0x0403, 0x0503, 0x0804, 0x0805, 0x0401, 0x0501, 0x0203, 0x0201)),
        RENEGOTIATION: b"\x00",
    }


def server_hello(
    suite: int,
    extensions: Mapping[int, bytes],
    version: int = TLS_1_2,
    compression: int = 0,
    random: bytes | None = None,
    session: bytes = b"",
) -> bytes:
    """A ServerHello message, not yet in a record."""
    body = version.to_bytes(2) + (random or os.urandom(32)) + vector(1, session) + suite.to_bytes(2)
    return message(SERVER_HELLO, body + bytes((compression,)) + _extensions(extensions))


def parse(data: bytes) -> Hello:
    """Parse a ClientHello or ServerHello message."""
    reader = Reader(data)
    kind = reader.number(1)
    hello = reader.vector(3)
    version, random, session = hello.number(2), hello.take(32), hello.vector(1).rest()
    if kind == CLIENT_HELLO:
        offered = hello.vector(2)
        suites = []
        while offered:
            suites.append(offered.number(2))
        compressions = tuple(hello.vector(1).rest())
    else:
        assert kind == SERVER_HELLO, kind
        suites, compressions = [hello.number(2)], (hello.number(1),)
    extensions = {}
    block = hello.vector(2) if hello else hello
    while block:
        kind = block.number(2)
        extensions[kind] = block.vector(2).rest()
    return Hello(version, random, session, tuple(suites), compressions, extensions)


def key_shares(hello: Hello) -> list[int]:
    """The groups of a ClientHello's key shares."""
    shares = Reader(hello.extensions[KEY_SHARES]).vector(2)
    found = []
    while shares:
        found.append(shares.number(2))
        shares.vector(2)
    return found


def read(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = sock.recv(count - len(data))
        if not more:
            raise EOFError(data)
        data += more
    return data


def read_record(sock: socket.socket) -> tuple[int, bytes]:
    """A record's type and content."""
    kind, _, _, *length = read(sock, 5)
    return kind, read(sock, int.from_bytes(length))


def read_hello(sock: socket.socket) -> Hello | int:
    """The peer's hello, or the description code of the alert that came instead."""
    kind, data = read_record(sock)
    if kind == ALERT:
        return data[1]
    while len(data) < 4 + int.from_bytes(data[1:4]):
        data += read_record(sock)[1]
    return parse(data)


def read_flight(sock: socket.socket) -> dict[int, bytes]:
    """A TLS 1.2 server's messages up to ServerHelloDone, by type."""
    data, found = b"", {}
    while SERVER_HELLO_DONE not in found:
        while len(data) < 4 or len(data) < 4 + int.from_bytes(data[1:4]):
            kind, more = read_record(sock)
            assert kind == HANDSHAKE, (kind, more)
            data += more
        end = 4 + int.from_bytes(data[1:4])
        found[data[0]] = data[4:end]
        data = data[end:]
    return found


def flight(
    client: Hello, first: bytes, certificate: bytes, key: Key, scheme: int = 0, parameters: bytes | None = None
) -> bytes:
    """A TLS 1.2 server's flight, from the ServerHello ``first`` up to, but without, the ServerHelloDone.

    ``certificate`` is PEM, with its chain. ``parameters`` are for the key exchange, by default those of X25519.
    """
    chain = x509.load_pem_x509_certificates(certificate)
    ders = b"".join(vector(3, each.public_bytes(Encoding.DER)) for each in chain)
    if parameters is None:
        share = X25519PrivateKey.generate().public_key().public_bytes_raw()
        parameters = b"\x03" + X25519.to_bytes(2) + vector(1, share)  # a named curve
    signed = client.random + first[6:38] + parameters
    if isinstance(key, rsa.RSAPrivateKey):
        scheme = scheme or PSS_SHA256
        signature = key.sign(signed, padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA256())
    else:
        scheme = scheme or ECDSA_SHA256
        signature = key.sign(signed, ec.ECDSA(hashes.SHA1() if scheme == ECDSA_SHA1 else hashes.SHA256()))
    exchange = parameters + scheme.to_bytes(2) + vector(2, signature)
    return first + message(CERTIFICATE, vector(3, ders)) + message(SERVER_KEY_EXCHANGE, exchange)
