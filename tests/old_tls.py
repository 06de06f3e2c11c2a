"""Servers of obsolete TLS, and a client that accepts it, both with tlslite-ng: OpenSSL has dropped most of it."""

import socket
from typing import Any

from chains import Made
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from lab import WAIT
from tlslite.api import X509, HandshakeSettings, TLSConnection, X509CertChain, parsePEMKey
from tlslite.errors import TLSError

SSL_3, TLS_1_0, TLS_1_1, TLS_1_2, TLS_1_3 = ((3, minor) for minor in range(5))

# What a server requires.
KINDS: dict[str, dict[str, Any]] = {
    "SSL 3.0": {"minVersion": SSL_3, "maxVersion": SSL_3, "cipherNames": ["aes128"], "macNames": ["sha"]},
    "TLS 1.0": {"maxVersion": TLS_1_0},
    "TLS 1.1": {"maxVersion": TLS_1_1},
    "RC4": {"cipherNames": ["rc4"], "macNames": ["sha", "md5"]},
    "3DES": {"cipherNames": ["3des"]},
    "NULL": {"cipherNames": ["null"]},
    "static RSA": {"keyExchangeNames": ["rsa"]},
    "MAC with SHA-1": {"cipherNames": ["aes128", "aes256"], "macNames": ["sha"]},
    "signatures with SHA-1": {"keyExchangeNames": ["ecdhe_rsa"], "rsaSigHashes": ["sha1"], "rsaSchemes": ["pkcs1"]},
}
TODAY: dict[str, dict[str, Any]] = {"TLS 1.2": {}, "TLS 1.3": {"maxVersion": TLS_1_3}}


def _settings(what: dict[str, Any]) -> Any:
    settings = HandshakeSettings()
    for name, value in {
        "minVersion": min(TLS_1_0, what.get("maxVersion", TLS_1_2)),
        "maxVersion": TLS_1_2,
        **what,
    }.items():
        setattr(settings, name, value)
    settings.versions = [v for v in (TLS_1_3, TLS_1_2, TLS_1_1, TLS_1_0, SSL_3) if v <= settings.maxVersion]
    return settings


class OldServer:
    """A handler for an ``Origin`` without a certificate. Answers one request with ``secret``."""

    def __init__(self, leaf: Made, what: dict[str, Any]) -> None:
        certificate = X509().parse(leaf.pem.decode())
        pem = leaf.key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
        self._chain = X509CertChain([certificate])
        self._key = parsePEMKey(pem.decode(), private=True)
        self._what = what
        self.heard = b""

    def __call__(self, sock: socket.socket) -> None:
        try:
            connection = TLSConnection(sock)
            connection.handshakeServer(certChain=self._chain, privateKey=self._key, settings=_settings(self._what))
            request = b""
            while not request.endswith(b"\r\n\r\n"):  # TLS 1.0 clients split it into two records, against BEAST
                piece = connection.read(max=4096, min=1)
                request += piece
                self.heard += piece
            connection.write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret")
            connection.close()
        except TLSError:
            pass  # the client has sent an alert


def lenient_get(port: int, what: dict[str, Any]) -> bytes:
    """The reply to a client that accepts what such a server requires, and verifies nothing."""
    with socket.create_connection(("127.0.0.1", port), timeout=WAIT) as sock:
        connection = TLSConnection(sock)
        connection.handshakeClientCert(settings=_settings(what))
        connection.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        return bytes(connection.read(max=4096, min=40))
