"""``Policy``: which clients, targets and names are refused, and which are bypassed. No sockets, no TLS."""

import enum
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_network

import names
from errors import LoopDetected, Misdirected, Refused, UnknownName
from names import Endpoint, Target
from patterns import Network, Patterns

Ports = tuple[range, ...]

# Reachable only from some networks, or not public, though ``ipaddress`` calls it global in some versions of Python.
_SPECIAL = [
    ip_network(text)
    for text in (
        "192.0.0.0/24", "192.88.99.0/24", "fec0::/10", "64:ff9b:1::/48",
        "168.63.129.16",  # Azure's metadata and DNS
        "::/96", "::ffff:0:0:0/96",  # IPv4 embedded in IPv6: RFC 4291 §2.5.5.1, RFC 2765 §2.1
        "3fff::/20", "5f00::/16",  # documentation, RFC 9637; SRv6 SIDs, RFC 9602
    )
]  # fmt: skip
_NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052: an IPv4 address in its last 32 bits


class Mismatch(enum.Enum):
    """What happens to a tunnel whose CONNECT host, server name and Host field disagree."""

    ALLOW = "allow"
    LOG = "log"
    DENY = "deny"


@dataclass(frozen=True, slots=True)
class Rules:
    """The operator's rules."""

    clients: tuple[Network, ...] = ()  # who may connect; empty: all
    allow: Patterns | None = None
    deny: Patterns | None = None
    bypass: Patterns | None = None
    ports: Ports = (range(1, 65536),)
    deny_private: bool = False
    mismatch: Mismatch = Mismatch.ALLOW
    relays_non_tls: bool = True


class Policy:
    """Applies the rules of one proxy. ``same_endpoint(address, listener)`` tells whether the one reaches the other."""

    def __init__(self, rules: Rules, same_endpoint: Callable[[Endpoint, Endpoint], bool]) -> None:
        self.rules = rules
        self.listeners: list[Endpoint] = []  # where we listen, set once the ports are known
        self._same_endpoint = same_endpoint

    def check_client(self, ip: str) -> None:
        """Raise ``Refused`` for a client that may not use the proxy."""
        if self.rules.clients:
            address = names.ip_of(ip.partition("%")[0])
            if address is None or not any(address in network for network in self.rules.clients):
                raise Refused(f"{ip} may not use this proxy")

    def check_target(self, target: Target) -> None:
        """Raise ``Refused`` for a target that is refused by its name or port, whatever its address."""
        if not any(target.port in ports for ports in self.rules.ports):
            raise Refused(f"port {target.port} is not open here (--ports)")
        if self.rules.deny and self.rules.deny.host(target):
            raise Refused(f"{target} is denied")
        if self.rules.allow and not self.rules.allow.by_address:
            self.check_allowed_name(target)

    def check_allowed_name(self, target: Target) -> None:
        """Raise ``Refused`` for a target that is not allowed by its name, when its addresses will not be known."""
        if self.rules.allow and not self.rules.allow.host(target):
            raise Refused(f"{target} is not allowed")

    def permitted(self, target: Target, addresses: list[Endpoint]) -> list[Endpoint]:
        """Those of a target's addresses that may be dialled. Raises ``Refused`` if there is none.

        Raises ``LoopDetected`` if one is our own: a tunnel to ourselves would dial itself until descriptors run out.
        """
        if self.is_self(addresses):
            raise LoopDetected(f"{target} is this proxy")
        allow, deny = self.rules.allow, self.rules.deny
        by_name = allow is not None and allow.host(target)
        left = [
            address
            for address in addresses
            if (allow is None or by_name or allow.address(address))
            and not (deny is not None and (deny.address(address) or deny.address(reached(address))))
        ]
        if not left:
            raise Refused(f"{target} is not allowed, or none of its addresses is")
        if self.rules.deny_private:
            left = [address for address in left if not is_private(address[0])]
        if not left:
            raise Refused(f"{target} has private addresses only (--deny-private)")
        return left

    def is_self(self, addresses: list[Endpoint]) -> bool:
        """Whether one of the addresses is the proxy's own."""
        return any(self._same_endpoint(a, listener) for a in addresses for listener in self.listeners)

    def check_name(self, name: str, target: Target, address: Endpoint | None) -> None:
        """Raise ``Refused`` if the server name of a tunnel to ``target``, dialled at ``address``, is not permitted."""
        allow, deny = self.rules.allow, self.rules.deny
        if deny and deny.host(Target(name, target.port)):
            raise Refused(f"{name} is denied")
        if not allow or (address is not None and allow.address(address)):
            return
        if not allow.host(Target(name, target.port)):
            raise Refused(f"{name} is not allowed")

    def check_unread(self, server_name: str | None, target: Target) -> None:
        """Raise ``Refused`` for a server name that was judged as the target's host, and is sent to the origin as it is.

        Whatever is no name here may be one there: to nginx, ``host:443`` is ``host``.
        """
        if server_name is None or not self.judges_names:
            return
        if names.dns_name(server_name) is None and names.host_name(server_name) != target.host:
            raise Refused("the server name is no name of a host")

    def bypasses(self, target: Target, address: Endpoint | None, name: str | None = None) -> bool:
        """Whether a tunnel is to pass untouched, by its target, the dialled address, or its server name.

        The server name counts only if the target is an IP address, and so has no other name. Otherwise a client
        could have any tunnel pass untouched by sending a bypassed name.
        """
        bypass = self.rules.bypass
        if not bypass:
            return False
        if name is not None and names.ip_of(target.host) is not None and bypass.host(Target(name, target.port)):
            return True
        return bypass.host(target) or (address is not None and bypass.address(address))

    def name_for(self, server_name: str | None, connect_host: str | None) -> str:
        """The name to intercept a connection for: its ``server_name``, else the CONNECT host (RFC 6066 §3).

        Raises ``UnknownName`` when neither is a name.
        """
        name = names.dns_name(server_name) if server_name is not None else None
        name = name or connect_host
        if name is None:
            # The likeliest cause: TLS to the proxy itself.
            hint = "" if server_name else " (a client's proxy setting must say http://, not https://)"
            raise UnknownName(f"TLS without a usable server_name or CONNECT host{hint}")
        return name

    @property
    def judges_names(self) -> bool:
        """Whether a server name can be refused, or told of: that of a bypassed tunnel, too."""
        return bool(self.rules.allow or self.rules.deny) or self.minds_mismatch

    @property
    def bypasses_any(self) -> bool:
        """Whether there is a bypass list."""
        return self.rules.bypass is not None

    @property
    def minds_mismatch(self) -> bool:
        """Whether names that disagree are logged or denied."""
        return self.rules.mismatch is not Mismatch.ALLOW

    @property
    def denies_mismatch(self) -> bool:
        """Whether names that disagree end the tunnel."""
        return self.rules.mismatch is Mismatch.DENY

    def check_mismatch(self, what: str, said: str, meant: str) -> str:
        """What to log of two names that differ, though they should not. Raises ``Misdirected`` if that is denied."""
        _, at, host = said.rpartition("@")  # a password may be before it: RFC 3986 §3.2.1
        text = f"{what} {host}{', with user information,' if at else ''} is not {meant}"
        if self.denies_mismatch:
            raise Misdirected(text)
        return text


def reached(address: Endpoint) -> Endpoint:
    """The address that a connection really reaches: loopback for the unspecified one, IPv4 for a NAT64 one."""
    ip = names.ip_of(address[0])
    if isinstance(ip, IPv6Address) and ip in _NAT64:
        return str(_behind(ip)), address[1]
    if ip is None or not ip.is_unspecified:
        return address
    return ("::1" if isinstance(ip, IPv6Address) else "127.0.0.1"), address[1]


def _behind(address: IPv6Address) -> IPv4Address:
    return IPv4Address(int(address) & 0xFFFF_FFFF)


def is_private(ip: str) -> bool:
    """Whether an address is not a public one: loopback, link-local, private, metadata, reserved, or no IP address."""
    address = names.ip_of(ip)
    if isinstance(address, IPv6Address):
        inner = _behind(address) if address in _NAT64 else address.sixtofour
        if inner is not None and is_private(str(inner)):
            return True
    return (
        address is None
        or not address.is_global
        or address.is_multicast
        or any(address in network for network in _SPECIAL)
    )
