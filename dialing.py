"""``Dialer``: opens the TCP connection for a tunnel or request, to a target the policy permits or to the redirect."""

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
    tls: bool  # encrypted again, the peer verified for the host of ``target``
    preamble: bool = False  # preceded by a PROXY protocol header


class Dialer:
    """Resolves, checks and dials. Dials only addresses that it has checked: no name is resolved twice.

    ``client`` is the IP address of the client that asks: each client has a share of the look-ups.
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
        """Dial for a tunnel. Raises ``OriginError``, or ``Refused`` by the policy."""
        self._policy.check_target(target)
        if self._redirect is None or not redirected:
            return self._dial(target, client)
        self._policy.check_allowed_name(target)
        return self._dial(self._redirect.target, None)

    def redirects(self, target: Target) -> bool:
        """Whether a tunnel goes to the redirect. Ask once per tunnel: the rules may change while it is dialled."""
        return self._redirect is not None and not self._policy.bypasses(target, None)

    def deadline(self) -> float:
        """When a dial that begins now is given up, for look-ups before it to share."""
        return time.monotonic() + self._seconds

    def own(self, target: Target, client: str, deadline: float | None = None) -> socket.socket:
        """Dial the target itself, even if there is a redirect. Raises as ``tunnel``."""
        self._policy.check_target(target)
        return self._dial(target, client, deadline)

    def _dial(self, target: Target, client: str | None, deadline: float | None = None) -> socket.socket:
        """Dial a target. Its addresses are checked, unless the operator chose it: then ``client`` is None."""
        began = time.monotonic()
        deadline = deadline or self.deadline()
        addresses = self._upstream.resolve(target, deadline, client or "")
        if client is not None:
            addresses = self._policy.permitted(target, addresses)
        elif self._policy.is_self(addresses):  # encrypted again, it would come back and be redirected, forever
            raise LoopDetected(f"{target}, where --redirect leads, is this proxy")
        sock = self._upstream.dial(addresses, target, deadline, client or "")
        self._board.dialled(time.monotonic() - began)
        return sock

    def is_self(self, target: Target, client: str, deadline: float | None = None) -> bool:
        """Whether the target is the proxy itself. Raises ``OriginError`` if its name does not resolve."""
        return self._policy.is_self(self._upstream.resolve(target, deadline or self.deadline(), client))

    def is_at(self, host: str, ip: str, client: str) -> bool:
        """Whether ``host`` resolves to ``ip``, perhaps among other addresses."""
        try:
            found = self._upstream.resolve(Target(host, 0), self.deadline(), client)
        except OriginError:
            return False
        return any(address[0] == ip for address in found)
