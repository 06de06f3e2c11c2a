"""Who may do what: which connections are refused, and for which name one is intercepted. No sockets, no TLS."""

from collections.abc import Callable, Iterable

import names
from errors import LoopDetected, UnknownName
from hello import ClientHello
from names import Target

Endpoint = tuple[str, int]


class Policy:
    """The rules of one proxy. ``same_endpoint(address, listener)`` tells whether the one reaches the other."""

    def __init__(self, same_endpoint: Callable[[Endpoint, Endpoint], bool]) -> None:
        self.listeners: list[Endpoint] = []  # where we listen, known once the ports are
        self._same_endpoint = same_endpoint

    def is_self(self, addresses: Iterable[Endpoint]) -> bool:
        """Whether one of the addresses is the proxy's own."""
        return any(self._same_endpoint(a, listener) for a in addresses for listener in self.listeners)

    def check_addresses(self, target: Target, addresses: Iterable[Endpoint]) -> None:
        """Raise ``LoopDetected`` for a tunnel to ourselves: it would dial itself until all descriptors are used."""
        if self.is_self(addresses):
            raise LoopDetected(f"{target} is this proxy")

    def name_for(self, hello: ClientHello, connect_host: str | None) -> str:
        """The name to intercept a connection for: its server_name, else the CONNECT host (RFC 6066 §3).

        Raises ``UnknownName`` when neither is a name.
        """
        name = names.dns_name(hello.server_name) if hello.server_name is not None else None
        name = name or connect_host
        if name is None:
            raise UnknownName("TLS without a usable server_name, and no CONNECT host either")
        return name
