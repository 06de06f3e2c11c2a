"""The PROXY protocol, version 2: a header in front of a redirected stream that tells its reader whose it is.

Source: HAProxy's doc/proxy-protocol.txt, §2.2.
"""

import socket
import struct
from ipaddress import ip_address

from names import Endpoint

_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_PROXY = 0x21  # version 2, command PROXY
_FAMILIES = {4: 0x11, 6: 0x21}  # TCP over IPv4, over IPv6
_ALPN, _AUTHORITY, _SSL, _SSL_VERSION = 0x01, 0x02, 0x20, 0x21
_CLIENT_SSL = 0x01  # the client connected over TLS


def preamble(
    client: Endpoint,
    listener: Endpoint,
    server_name: str | None,
    tls_version: str | None = None,
    alpn: str | None = None,
) -> bytes:
    """The header for a client of a listener, with its server name (DNS), ALPN protocol and TLS version where known."""
    source, destination = ip_address(client[0]), ip_address(listener[0])  # ``packed`` leaves out a zone
    body = source.packed + destination.packed + struct.pack(">HH", client[1], listener[1])
    if alpn is not None:
        body += _vector(_ALPN, alpn.encode("ascii"))
    if server_name is not None:
        body += _vector(_AUTHORITY, server_name.encode("ascii"))
    if tls_version is not None:
        # ``verify`` is not zero: no client certificate was verified.
        body += _vector(_SSL, struct.pack(">BL", _CLIENT_SSL, 1) + _vector(_SSL_VERSION, tls_version.encode("ascii")))
    return _SIGNATURE + struct.pack(">BBH", _PROXY, _FAMILIES[source.version], len(body)) + body


def of_socket(client: socket.socket, server_name: str | None, tls_version: str | None, alpn: str | None) -> bytes:
    """The same for a connected socket. Raises ``OSError`` if it no longer is."""
    return preamble(client.getpeername()[:2], client.getsockname()[:2], server_name, tls_version, alpn)


def _vector(kind: int, value: bytes) -> bytes:
    return struct.pack(">BH", kind, len(value)) + value
