"""``Dialer``: a TCP connection for a tunnel or request: where the policy lets it go, or to the redirect."""

import socket
import time
from dataclasses import dataclass

from board import Board
from errors import LoopDetected, OriginError
from limits import Limits
from names import Target
from policy import Policy
from upstream import Upstream


@dataclass(frozen=True, slots=True)
class Redirect:
    """Where the decrypted bytes of every tunnel go instead of to its own target."""

    target: Target
    tls: bool  # encrypted again, verified for the target's host
    preamble: bool = False  # a PROXY protocol header goes first


class Dialer:
    """Looks up, checks and dials. The dialled address is one that was checked: nothing is looked up twice.

    ``client`` is the address of who asks: each has a share of the look-ups.
    """

    def __init__(
        self, upstream: Upstream, policy: Policy, redirect: Redirect | None, limits: Limits, board: Board
    ) -> None:
        self._upstream = upstream
        self._policy = policy
        self._redirect = redirect
        self._seconds = limits.dial_timeout
        self._board = board

    def tunnel(self, target: Target, client: str, redirected: bool) -> socket.socket:
        """For a tunnel. Raises ``OriginError``, or ``Refused`` by the policy."""
        self._policy.check_target(target)
        if self._redirect is None or not redirected:
            return self._dial(target, client)
        self._policy.check_allowed_name(target)
        return self._dial(self._redirect.target, None)

    def redirects(self, target: Target) -> bool:
        """Whether a tunnel is to go to the redirect. To be asked once: while it is dialled, the rules may change."""
        return self._redirect is not None and not self._policy.bypasses(target, None)

    def own(self, target: Target, client: str) -> socket.socket:
        """To the target itself, whatever is redirected. Raises as ``tunnel``."""
        self._policy.check_target(target)
        return self._dial(target, client)

    def _dial(self, target: Target, client: str | None) -> socket.socket:
        """To a target whose addresses are checked, unless the operator named it: for no client."""
        began = time.monotonic()
        deadline = began + self._seconds
        addresses = self._upstream.resolve(target, deadline, client or "")
        if client is not None:
            addresses = self._policy.permitted(target, addresses)
        elif self._policy.is_self(addresses):  # encrypted again, it would come back to be redirected, on and on
            raise LoopDetected(f"{target}, where --redirect leads, is this proxy")
        sock = self._upstream.dial(addresses, target, deadline)
        self._board.dialled(time.monotonic() - began)
        return sock

    def is_self(self, target: Target, client: str) -> bool:
        """Whether the target is the proxy itself. Raises ``OriginError`` where its name does not resolve."""
        return self._policy.is_self(self._upstream.resolve(target, time.monotonic() + self._seconds, client))

    def is_at(self, host: str, ip: str, client: str) -> bool:
        """Whether a name resolves to an address, among others."""
        try:
            found = self._upstream.resolve(Target(host, 0), time.monotonic() + self._seconds, client)
        except OriginError:
            return False
        return any(address[0] == ip for address in found)
