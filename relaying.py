"""``Relaying``: relays tunnels, decrypted or untouched, to the origin or the redirect. ``Way``: one such tunnel."""

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
from streams import ORDERLY, PlainStream, Stream
from tunnel import Tunnel
from witness import Witness

_BYPASSED = "bypassed"


@dataclass(slots=True)
class Way:
    """A requested tunnel: its client, its target, and the record for its log line."""

    client: socket.socket
    ip: str  # the client's
    target: Target
    record: Record
    redirected: bool = False  # the redirect takes the origin's place
    refusal: CertifierError | None = None  # to be sent inside the client's TLS


class Relaying:
    """Relays the tunnels of one proxy. Closing the sockets that it uses is left to their owners."""

    def __init__(self, dialer: Dialer, redirect: Redirect | None, limits: Limits, meter: Meter) -> None:
        self._dialer = dialer
        self._redirect = redirect
        self._limits = limits
        self._meter = meter

    def bypass(self, way: Way, origin: socket.socket | OriginError, data: bytes) -> None:
        """Relay to the tunnel's own target, dialling it if ``origin`` is the redirect, which is closed then.

        Raises ``OriginError``, or ``Refused`` by the policy.
        """
        if not way.redirected:
            if isinstance(origin, OriginError):
                raise origin.again()
            self.untouched(way, origin, data, _BYPASSED)
        else:
            if isinstance(origin, socket.socket):
                origin.close()  # not needed: the limit on connections counts two descriptors for each
            with self._dialer.own(way.target, way.ip) as own:
                self.untouched(way, own, data, _BYPASSED)

    def leave(self, way: Way, origin: socket.socket | CertifierError, data: bytes) -> None:
        """Relay what we have no certificate for. Raises ``Refused`` if redirecting, or the error in ``origin``."""
        if self._redirect is not None:
            raise Refused("no certificate for this name, and a redirect takes decrypted tunnels only")
        if isinstance(origin, CertifierError):
            raise origin.again()
        self.untouched(way, origin, data)

    def untouched(self, way: Way, origin: socket.socket, data: bytes, how: str = "untouched") -> None:
        """Relay without decrypting. A PROXY header goes to the redirect, not to a bypassed tunnel's own target."""
        way.record.context = how
        # The kernel tells of a reset once: if it has told ``has_ended``, a read will find an orderly end. And it is not
        # one that data of ours drew after an orderly end: nothing was sent yet.
        lost = sockets.peer(origin) is None
        if how != _BYPASSED:
            try:
                self.introduce(way, origin, None)
            except OriginError as error:
                way.record.fail(error)  # the client's protocol is unknown: it is told by the close alone
                return
        self.run(way, PlainStream(way.client, data), PlainStream(origin, lost=lost))

    def introduce(
        self, way: Way, origin: socket.socket, name: str | None, version: str | None = None, alpn: str | None = None
    ) -> None:
        """Send a redirect its PROXY header if configured. Raises ``OriginGone``; ``OSError`` if the client left."""
        if self._redirect is not None and self._redirect.preamble:
            told = preamble.of_socket(way.client, name, version, alpn)
            try:
                origin.settimeout(self._limits.dial_timeout)
                sockets.send(origin, told)
            except OSError as error:
                raise OriginGone(f"{self._redirect.target} closed the connection") from error

    def run(self, way: Way, client: Stream, origin: Stream, witness: Witness | None = None) -> Tunnel:
        """Relay to the end; return the finished tunnel."""
        record = way.record
        idle, meter = self._limits.idle_timeout, self._meter
        if witness is None:
            tunnel = Tunnel(client, origin, idle, meter)
        else:
            tunnel = ObservedTunnel(client, origin, witness, idle, meter)
            if witness.waits:
                origin.push()  # our Finished: a tap may take longer than the origin waits for that
            witness.opened()
        record.progress = tunnel
        record.established = True
        outcome = "stopped"  # unless it runs to its end
        try:
            tunnel.run()
            outcome = tunnel.outcome if tunnel.refusal is None else "refused"
        finally:
            record.sent, record.received = tunnel.sent, tunnel.received
            if outcome == "stopped":  # a FIN would make the cut-off data look complete
                client.abort()
                origin.abort()
            if witness is not None:
                left = tunnel.client_ended_first is False and origin.ended == ORDERLY and tunnel.refusal is None
                witness.closed(outcome, origin_left=left)
        record.outcome, record.detail = tunnel.outcome, tunnel.detail  # not reached after a bug
        return tunnel
