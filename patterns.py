"""``Patterns``: an operator's list of hosts and networks, and whether a target is in it.

A pattern is ``host``, ``*.host`` (every name below it, at any depth, not the host itself), ``*`` (all), an IP address
or a network in CIDR notation; each may be followed by ``:port`` (an IPv6 one is in brackets then). ``@file`` stands
for the patterns in a file, one per line; empty lines and whatever follows a ``#`` are skipped. The file is read by
every worker and at every reload, so it can't be a pipe.
"""

import errno
import os
import re
import stat
from collections.abc import Iterable, Iterator
from functools import partial
from ipaddress import IPv4Network, IPv6Network, ip_network

import names
import reading
from errors import UsageError
from names import Endpoint, Target

Network = IPv4Network | IPv6Network

_MOST_TOLD = 100  # characters quoted of an invalid pattern: a log line of a megabyte would fit no pipe, and be lost
_LONGEST = 1 << 20  # characters of a line with its comment: /dev/zero has no end of line
_PORT = re.compile(r"(?P<host>\[[^\]]*\]|[^:]*):(?P<port>[0-9]{1,5})\Z")


class Patterns:
    """The patterns of one option. Raises ``UsageError`` for an invalid pattern or an unreadable file."""

    def __init__(self, option: str, texts: Iterable[str]) -> None:
        self._option = option
        self._hosts: set[tuple[str, int | None]] = set()
        self._below: set[tuple[str, int | None]] = set()  # the host of each *.host; "" for all names
        # Address length in bits, prefix length, prefix, port: a set to look up, not a list to scan, as a blocklist
        # may have 100,000.
        self._networks: set[tuple[int, int, int, int | None]] = set()
        self._lengths: set[tuple[int, int]] = set()  # the first two of each
        for text in texts:
            if text.startswith("@"):
                for line, pattern in self._read(text):
                    self._add(pattern, f"{option}={text}: line {line}")
            else:
                self._add(text, option)

    @property
    def is_empty(self) -> bool:
        """Whether nothing is in the list."""
        return not (self._hosts or self._below or self._networks)

    @property
    def by_address(self) -> bool:
        """Whether a target's addresses may decide whether it is in the list."""
        return bool(self._networks)

    def host(self, target: Target) -> bool:
        """Whether the target is in the list by its host's name or, if the host is an IP address, by that."""
        host, port = target
        return (
            (host, None) in self._hosts
            or (host, port) in self._hosts
            or any((above, p) in self._below for above in _above(host) for p in (None, port))
            or self.address(target)
        )

    def address(self, address: Endpoint) -> bool:
        """Whether an address, with a port, is in one of the networks."""
        if not self._networks or (ip := names.ip_of(address[0])) is None:
            return False
        number, bits = int(ip), ip.max_prefixlen
        return any(
            (of, length, number >> (of - length), port) in self._networks
            for of, length in self._lengths
            if of == bits
            for port in (None, address[1])
        )

    def _read(self, text: str) -> Iterator[tuple[int, str]]:
        """The patterns in a file, each with the number of its line."""
        try:
            with open(text[1:], encoding="utf-8-sig", opener=_not_a_pipe) as file:
                for number, line in enumerate(iter(partial(file.readline, _LONGEST), ""), 1):
                    if len(line) == _LONGEST:
                        raise OSError(errno.EFBIG, f"a line of {_LONGEST} characters or more")
                    pattern = line.partition("#")[0].strip()
                    if pattern:
                        yield number, pattern
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
            raise UsageError(f"{self._option}={text}: can't read {text[1:]}: {reason}") from error

    def _add(self, text: str, where: str) -> None:
        found = _PORT.match(text)
        host, port = (found["host"], int(found["port"])) if found else (text, None)
        if host.startswith("[") and host.endswith("]") and ":" in host:
            host = host[1:-1]
        if port is None or 0 < port < 65536:
            if host == "*":
                self._below.add(("", port))
                return
            if host.startswith("*."):
                name = names.dns_name(host[2:])
                if name is not None:
                    self._below.add((name, port))
                    return
            else:
                if (network := _network(host)) is not None:
                    bits, length = network.max_prefixlen, network.prefixlen
                    self._lengths.add((bits, length))
                    self._networks.add((bits, length, int(network.network_address) >> (bits - length), port))
                    return
                if (name := names.dns_name(host)) is not None:
                    self._hosts.add((name, port))
                    return
        told = f"{text[:_MOST_TOLD]}..." if len(text) > _MOST_TOLD else text
        raise UsageError(
            f"{where}: {told!r} is not a host, *.host, host:port or network such as 10.0.0.0/8{_hint(text, host)}"
        )


def networks(option: str, texts: Iterable[str]) -> tuple[Network, ...]:
    """The networks that an operator gave. Raises ``UsageError``."""
    found = []
    for text in texts:
        network = _network(text)
        if network is None:
            raise UsageError(f"{option}={text}: not a network such as 10.0.0.0/8 or fd00::/8{_hint(text, text)}")
        found.append(network)
    return tuple(found)


def _not_a_pipe(path: str, flags: int) -> int:
    """An opener that refuses pipes: one blocks until it is written to, and is empty for the next worker or reload."""
    fd = os.open(path, flags | reading.FLAGS)
    try:
        if stat.S_ISFIFO(os.fstat(fd).st_mode):
            raise OSError(errno.ESPIPE, "It is a pipe, and could be read once only")
    except OSError:
        reading.close(fd)
        raise
    return fd


def _network(text: str) -> Network | None:
    """Parse a network. An IPv4-mapped one (RFC 4291 §2.5.5.2) becomes IPv4, as which addresses are compared."""
    try:
        network = ip_network(text)
    except ValueError:
        return None
    inner = network.network_address.ipv4_mapped if isinstance(network, IPv6Network) else None
    if inner is None:  # as for all with a prefix of less than 96 bits: the address of a network ends with zeros
        return network
    return ip_network((inner, network.prefixlen - 96))


def _hint(text: str, part: str) -> str:
    """What was meant by a text of which a ``part`` is a network with bits set beyond its prefix, or a name."""
    try:
        network = ip_network(part, strict=False)
    except ValueError:
        return names.hint(part)
    return "" if _network(part) else f"; did you mean {text.replace(part, str(network))}?"


def _above(host: str) -> Iterator[str]:
    """The empty name, which stands above all, and the parent domains of a host."""
    yield ""
    while "." in host:
        host = host.partition(".")[2]
        yield host
