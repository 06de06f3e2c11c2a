"""``Relaying``: tunnels to their end, decrypted or untouched, to the origin or the redirect. ``Way``: one of them."""

import socket
from dataclasses import dataclass

import preamble
import sockets
from dialing import Dialer, Redirect
from errors import CertifierError, OriginError, OriginGone, Refused
from limits import Limits
from meter import Meter
from names import Target
from observed import ObservedTunnel
from record import Record
from streams import PlainStream, Stream
from tunnel import Tunnel
from witness import Witness

_BYPASSED = "bypassed"


@dataclass(slots=True)
class Way:
    """A tunnel that was asked for: whose, where to, and what its line in the log shall say."""

    client: socket.socket
    ip: str  # the client's
    target: Target
    record: Record
    redirected: bool = False  # the origin's place is taken by the redirect
    user_agent: str = ""  # what the client said of itself in its CONNECT
    refusal: CertifierError | None = None  # to be told inside its TLS


class Relaying:
    """Relays the tunnels of one proxy. Sockets stay their owner's to close."""

    def __init__(self, dialer: Dialer, redirect: Redirect | None, limits: Limits, meter: Meter) -> None:
        self._dialer = dialer
        self._redirect = redirect
        self._limits = limits
        self._meter = meter

    def bypass(self, way: Way, origin: socket.socket | OriginError, data: bytes) -> None:
        """Relay to the tunnel's own target, which is not where a redirect was dialled.

        Raises ``OriginError``, or ``Refused`` by the policy.
        """
        if not way.redirected:
            if isinstance(origin, OriginError):
                raise origin
            self.untouched(way, origin, data, _BYPASSED)
        else:
            with self._dialer.own(way.target, way.ip) as own:
                self.untouched(way, own, data, _BYPASSED)

    def leave(self, way: Way, origin: socket.socket | CertifierError, data: bytes) -> None:
        """Relay what we have no certificate for. Raises why there is no origin, or ``Refused`` beside a redirect."""
        if self._redirect is not None:
            raise Refused("no certificate for this name, and a redirect takes decrypted tunnels only")
        if isinstance(origin, CertifierError):
            raise origin
        self.untouched(way, origin, data)

    def untouched(self, way: Way, origin: socket.socket, data: bytes, how: str = "untouched") -> None:
        """Relay what is not looked into; a redirect is told whose it is, a bypassed tunnel's own target is not."""
        way.record.context = how
        if how != _BYPASSED:
            try:
                self.introduce(way, origin, None)
            except OriginError as error:
                way.record.fail(error)  # what the client speaks, nobody knows: its end tells it
                return
        self.run(way, PlainStream(way.client, data), PlainStream(origin))

    def introduce(
        self, way: Way, origin: socket.socket, name: str | None, version: str | None = None, alpn: str | None = None
    ) -> None:
        """Tell a redirect that wants it whose stream it gets. Raises ``OriginGone``, or ``OSError``: the client is."""
        if self._redirect is not None and self._redirect.preamble:
            told = preamble.of_socket(way.client, name, version, alpn)
            try:
                origin.settimeout(self._limits.dial_timeout)
                sockets.send(origin, told)
            except OSError as error:
                raise OriginGone(f"{self._redirect.target} closed the connection") from error

    def run(self, way: Way, client: Stream, origin: Stream, witness: Witness | None = None) -> Tunnel:
        """Relay to the end; the tunnel as it was."""
        record = way.record
        idle, meter = self._limits.idle_timeout, self._meter
        if witness is None:
            tunnel = Tunnel(client, origin, idle, meter)
        else:
            tunnel = ObservedTunnel(client, origin, witness, idle, meter)
            witness.opened()
        record.progress = tunnel
        outcome = "stopped"  # unless it comes to its end
        try:
            tunnel.run()
            outcome = tunnel.outcome if tunnel.refusal is None else "refused"
        finally:
            record.sent, record.received = tunnel.sent, tunnel.received
            if outcome == "stopped":  # without TLS, a FIN would look like the end of what is cut off here
                client.abort()
                origin.abort()
            if witness is not None:
                witness.closed(outcome)
        record.outcome = tunnel.outcome  # not after a bug
        return tunnel
