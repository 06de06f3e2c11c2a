"""Whether an address is one of this machine's: a tunnel to one of our own listeners would be a loop."""

import socket
from ipaddress import ip_address

from errors import OutOfResources
from names import Endpoint


def same_endpoint(address: Endpoint, listener: Endpoint) -> bool:
    """Whether a connection to ``address`` would reach ``listener``, which may be a wildcard address.

    Raises ``OutOfResources``.
    """
    if address[1] != listener[1]:
        return False
    if address[0] == listener[0]:
        return True
    theirs, ours = ip_address(address[0]), ip_address(listener[0])
    if theirs.version != ours.version:  # our IPv6 listeners do not accept IPv4
        return False
    if theirs.is_unspecified:  # a connection to it reaches loopback
        return ours.is_loopback
    return ours.is_unspecified and _is_local(address[0])


def _is_local(ip: str) -> bool:
    """Whether the address belongs to this machine: no other can be bound and connected from.

    With Linux' ``ip_nonlocal_bind``, as set beside keepalived, all can be bound.
    """
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    try:
        probe = socket.socket(family, socket.SOCK_DGRAM)
    except OSError as error:
        raise OutOfResources(f"certifier can't open a socket: {error.strerror}") from error
    with probe:
        try:
            probe.bind((ip, 0))
            probe.settimeout(0.0)  # or gevent would look the address up
            probe.connect((ip, 9))  # sends nothing; the port does not matter
        except OSError:
            return False
    return True
