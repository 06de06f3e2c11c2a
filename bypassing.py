"""``Bypassing``: which tunnels pass untouched, by the operator's rules and by what clients have rejected.

Part of steps 5 and 6 of the diagram in ARCHITECTURE.md. It knows names and addresses, and of TLS only what a
ClientHello says.
"""

import socket

import names
import sockets
from dialing import Dialer, Redirect
from errors import Misdirected, OriginError
from hello import ClientHello
from names import Endpoint
from policy import Policy
from refusals import Pair, Refusals
from relaying import Way


class Bypassing:
    """Decides for the tunnels of one proxy. ``origin`` is a dialled socket, or the error that prevented it."""

    def __init__(self, policy: Policy, dialer: Dialer, refused: Refusals, redirect: Redirect | None) -> None:
        self._policy = policy
        self._dialer = dialer
        self._refusals = refused
        self._redirect = redirect

    def by_rule(self, way: Way, origin: socket.socket | OriginError, name: str | None = None) -> bool:
        """Whether the rules let a tunnel pass untouched: by its target, or its ``name`` once that is known.

        With a redirect, this was decided when it was dialled.
        """
        if self._redirect is not None and not way.redirected:
            return True
        return self._policy.bypasses_any and self._policy.bypasses(way.target, _address(way, origin), name)

    def by_name(self, way: Way, origin: socket.socket | OriginError, hello: ClientHello, name: str) -> bool:
        """Whether a tunnel passes untouched, now that its name is known. Raises ``Refused`` if it may not pass.

        If it may not, but a client that offered ECH has to be told inside its TLS, that is noted in ``way.refusal``.
        """
        try:
            self.check_name(way, origin, name)
        except Misdirected as refusal:
            if not hello.encrypted_client_hello:
                raise
            # A client that accepts our certificate retries without ECH (RFC 9849 §6.1.6); others get the refusal.
            way.refusal = refusal.again()
            return False  # such a server name bypasses nothing
        if not (self.by_rule(way, origin, name) or self._refusals.bypasses(Pair(way.ip, name))):
            return False
        self._policy.check_unread(hello.server_name, way.target)
        return True

    def check_name(self, way: Way, origin: socket.socket | OriginError, name: str) -> None:
        """Raise ``Refused`` if a tunnel may not pass under its ``name``: ``Misdirected`` if that is not the target."""
        if name == way.target.host:
            return
        self._policy.check_name(name, way.target, _address(way, origin))
        if not self._agree(name, way):  # after the check: no DNS look-up of refused names
            way.record.note(self._policy.check_mismatch("server name", name, way.target.host))

    def _agree(self, name: str, way: Way) -> bool:
        """Whether a server name agrees with a CONNECT to an IP address, by resolving to it."""
        if not self._policy.minds_mismatch:
            return True  # saves the look-up
        return names.ip_of(way.target.host) is not None and self._dialer.is_at(name, way.target.host, way.ip)


def _address(way: Way, origin: socket.socket | OriginError) -> Endpoint | None:
    """The origin's address as dialled; None for the redirect's, which tells nothing of the client's target."""
    return None if way.redirected or isinstance(origin, OriginError) else sockets.peer(origin)
