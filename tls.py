"""``TlsStream``: one TLS end over one TCP socket, as an ``SSLObject`` on two ``MemoryBIO``s.

To the rules of ``streams.py`` comes one that makes ``unwrap()`` safe: when a switch can happen, the in-BIO has been
decrypted to its last complete record. ``unwrap`` reads as well, and would destroy what it finds.
"""

import os
import socket
import ssl
import sys
import time
from contextlib import suppress

import gevent

import sockets
from errors import OutOfResources
from flight import is_costly
from streams import BROKEN, FULL, NOTHING, ORDERLY, RENEGOTIATES, TRUNCATED, WIRE_VIEW, Stream
from workers import Workers

_PLAIN = bytearray(16_384)  # a record's plaintext, RFC 8446 §5.1; shared as well
_PLAIN_VIEW = memoryview(_PLAIN)
_DER = 2  # _ssl.ENCODING_DER
_MOST_FLIGHT = 262_144  # octets of a handshake: OpenSSL takes chains of 100 KB; HelloRequests may come without end
_STEP = WIRE_VIEW[:16_384]  # of it is read at once: what comes behind it is for a pump, which lets others run
_UNSAID = 2 * FULL  # octets that wait for a peer that asks on and on, and does not read: more than a fill leaves


def alert(description: int) -> bytes:
    """A fatal alert in a record of its own, for a client with whom no handshake has begun (RFC 8446 §6)."""
    return bytes((21, 3, 3, 0, 2, 2, description))


class TlsStream(Stream):
    """A TLS connection: ``handshake`` first. Reading ends, writing raises ``OSError``.

    ``alpn`` are the protocols to offer or to choose from. A context is shared by many connections: its protocols
    are set right before OpenSSL reads them, and no switch lies between. A client's are read once, when it is made;
    a server's with each ClientHello, of which there may be two.
    """

    __slots__ = ("_context", "_finished", "_in", "_offer", "_out", "_tickets", "_tls", "flight")

    def __init__(
        self,
        sock: socket.socket,
        context: ssl.SSLContext,
        alpn: list[str],
        *,
        server_hostname: str | None = None,
        received: bytes = b"",
    ) -> None:
        """A client if ``server_hostname`` is given, else a server. ``received``: what was read from ``sock`` before.

        Raises ``OutOfResources``.
        """
        super().__init__(sock)
        self.flight = bytearray()  # what was received in a handshake that has not succeeded
        self._finished = False
        self._tickets = 0  # octets of session tickets that wait for something to be sent with
        self._context = context
        self._offer = alpn
        server_side = server_hostname is None
        try:
            self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
            self._in.write(received)
            if not server_side:
                context.set_alpn_protocols(alpn)
            self._tls = context.wrap_bio(self._in, self._out, server_side=server_side, server_hostname=server_hostname)
        except (ssl.SSLError, MemoryError) as error:
            raise OutOfResources(f"OpenSSL can't begin a connection: {error!r}") from error

    def verified_chain(self) -> list[bytes]:
        """The certificates by which the peer was verified, in DER, from its own to the root."""
        if sys.version_info >= (3, 13):
            return self._tls.get_verified_chain()
        chain = self._tls._sslobj.get_verified_chain()  # type: ignore[attr-defined]  # what 3.13 gave a public name
        return [certificate.public_bytes(_DER) for certificate in chain]

    def handshake(self, deadline: float, workers: Workers | None = None) -> None:
        """Complete the handshake. A failed one has sent its alert; a peer that left is a ``ConnectionError``.

        The ``workers`` read a flight that may take long. Raises ``OutOfResources`` where they can't.
        """
        step, server_side = self._tls.do_handshake, self._tls.server_side
        while True:
            try:
                if server_side:
                    self._context.set_alpn_protocols(self._offer)
                if workers is not None and is_costly(self.flight):
                    self._step_apart(workers, deadline)
                else:
                    step()
            except ssl.SSLWantReadError:
                done = False
            except ssl.SSLError:
                with suppress(OSError):
                    sockets.arm(self.sock, deadline)
                    self.flush()
                raise
            else:
                done = True
                self.version, self.alpn = self._tls.version(), self._tls.selected_alpn_protocol()
            if done and server_side and self.version == "TLSv1.3" and sockets.acknowledge(self.sock):
                self._tickets = self._out.pending  # RFC 8446 §4.6.1: at any time; a write of their own costs 60 µs
            elif not self.flush_now():
                sockets.arm(self.sock, deadline)
                self.flush()
            if done:
                self.flight.clear()
                return
            sockets.wait(self.sock, deadline)
            try:
                count = os.readv(self.sock.fileno(), [_STEP])
            except BlockingIOError:
                continue
            if not count:
                raise ConnectionAbortedError("closed in the TLS handshake")
            self.flight += WIRE_VIEW[:count]
            if len(self.flight) > _MOST_FLIGHT:
                raise ssl.SSLError(ssl.SSL_ERROR_SSL, f"more than {_MOST_FLIGHT} octets of handshake")
            self._in.write(WIRE_VIEW[:count])

    def _step_apart(self, workers: Workers, deadline: float) -> None:
        """Past the deadline, the thread goes on, and nobody else must use the connection."""
        with gevent.Timeout(max(0.0, deadline - time.monotonic()), TimeoutError("deadline passed")):
            # Without what ``KeyLog`` adds to it, which is for the hub: the next step or read does that.
            workers.run(ssl.SSLObject.do_handshake, self._tls)

    def decrypt(self) -> memoryview:
        """The next record's plaintext."""
        if not (self._in.pending or self._tls.pending()):
            return NOTHING  # saves an exception
        try:
            count: int = self._tls.read(16_384, _PLAIN)  # type: ignore[assignment]  # an int, when a buffer is given
        except ssl.SSLWantReadError:
            return NOTHING
        except ssl.SSLZeroReturnError:
            count = 0
        except ssl.SSLError as error:
            self.ended, self.reason = BROKEN, error.reason
            return NOTHING
        if not count:
            self.ended = ORDERLY
        return _PLAIN_VIEW[:count]

    def encrypt(self, data: memoryview | bytes) -> None:
        """As records."""
        self._tls.write(data)

    def answer(self) -> None:
        """That we do not renegotiate. The peer may wait for this answer, and the writer for the peer."""
        if self._out.pending <= self._tickets:
            return
        if self.ended is None and self.version == "TLSv1.2":  # 1.3 has key updates instead
            self.renegotiates = True
        if not self._sending:
            with suppress(OSError):  # the next read finds out
                self.flush_now()
        if len(self._unsent) + self._out.pending > _UNSAID and self.ended is None:
            self.ended, self.reason = BROKEN, RENEGOTIATES

    def end(self, how: str) -> None:
        """Close_notify and FIN, or FIN alone for a truncation."""
        try:
            if how is ORDERLY:
                self.close_notify()
        finally:
            sockets.shut(self.sock, socket.SHUT_WR)

    def abort(self) -> None:
        """No close_notify, so that its peer sees a truncation."""
        sockets.shut(self.sock)

    def close_notify(self) -> None:
        """Send a close_notify. The peer's data can still be read."""
        try:
            self.finish()
        finally:
            self.flush()

    def finish(self) -> None:
        """Encrypt a close_notify."""
        if not self._finished:
            self._finished = True
            try:
                self._tls.unwrap()
            except ssl.SSLWantReadError:  # the peer's has not come yet
                pass

    def _take(self, count: int) -> None:
        if count:
            self._in.write(WIRE_VIEW[:count])
        else:
            self.ended = TRUNCATED

    def _waiting(self) -> bytes:
        if self._out.pending <= self._tickets:  # alone they'd reset what a client that has left had yet to upload
            return self._unsent
        self._tickets = 0
        return self._unsent + self._out.read() if self._unsent else self._out.read()
