"""Names of origins: the only place where a peer's string becomes a name, an address or a path.

A *name* is canonical text: a lower-case DNS name without its trailing dot, or an IP address as
``ipaddress`` writes it. What is not a name here never becomes a certificate, a file or a connection.
"""

import re
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple

from errors import ClientError

MAX_NAME = 253  # octets of a DNS name in text (RFC 1035 §2.3.4)
_MAX_IP = 45  # octets of an IP address in text: the IPv6 form with an IPv4 address at its end

_LABEL = r"(?!-)(?!_(?:\.|\Z))[a-z0-9_-]{1,63}"
_DNS_NAME = re.compile(rf"(?:{_LABEL}\.)*(?!(?:[0-9]+|0x[0-9a-f]*)\Z){_LABEL}\Z")
_PORT = re.compile(r"[0-9]{1,5}\Z")

Endpoint = tuple[str, int]  # an IP address as text, and a port


class Target(NamedTuple):
    """Where a tunnel goes: a canonical name and a TCP port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def dns_name(text: str) -> str | None:
    """The canonical DNS name of a server_name or host; None if we do not accept it.

    Labels are 1 to 63 of ``[a-z0-9_-]``; none begins with ``-`` or is just ``_``, and the last one is not a
    decimal or hexadecimal number (else ``127.1`` would be a name here and an address elsewhere).
    """
    name = text.lower() if text.isascii() else ""
    name = name.removesuffix(".")
    return name if len(name) <= MAX_NAME and _DNS_NAME.match(name) else None


def hint(text: str) -> str:
    """What to add for an operator who wrote a name as a browser shows it (a U-label, RFC 5890 §2.3.2.1); or nothing."""
    return "" if text.isascii() else "; an internationalized name is to be given in ASCII, with xn--"


def ip_of(text: str) -> IPv4Address | IPv6Address | None:
    """The IP address that the text denotes; None for anything else, and for a scoped one (``fe80::1%eth0``).

    An IPv4-mapped one (RFC 4291 §2.5.5.2) gives the IPv4 address that a connection to it reaches.
    """
    if not 0 < len(text) <= _MAX_IP or "%" in text or not (":" in text or text[-1].isdigit()):
        return None  # rules out most names: an exception costs more than all the rest
    return _ip_of(text)


@lru_cache(maxsize=1024)  # each connection asks for the same few several times
def _ip_of(text: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


def host_name(text: str) -> str | None:
    """The canonical name of a host: a DNS name or an IP address, without brackets."""
    address = ip_of(text)
    return dns_name(text) if address is None else str(address)


def target(text: str, default_port: int | None = None, lowest_port: int = 1) -> Target:
    """Parse ``host:port`` (RFC 9110 §7.2 and §9.3.6); an IPv6 address is in brackets.

    Raises ``ClientError`` if it is malformed, or has no port and there is no default.
    """
    host, colon, port = text.rpartition(":")
    if not colon or "]" in port:
        host, port = text, ""
    if not port and default_port is not None:  # an empty port also means the default: RFC 3986 §3.2.3
        port = str(default_port)
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1] if ":" in host else ""
    elif ":" in host:
        host = ""
    name = host_name(host)
    if name is None or not _PORT.match(port) or not lowest_port <= int(port) < 65536:
        said = "it has user information" if "@" in text else repr(text[:300])  # which may be a password
        raise ClientError(f"not a valid host and port: {said}")
    return Target(name, int(port))
