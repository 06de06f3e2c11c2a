"""``TlsStream``: one TLS end over one TCP socket, as an ``SSLObject`` on two ``MemoryBIO``s.

One more rule than in ``streams.py`` makes ``unwrap()`` safe: whenever a switch can happen, the in-BIO has been
decrypted up to its last complete record. ``unwrap`` reads as well, and would discard what it finds.
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
from streams import BROKEN, FULL, NOTHING, ORDERLY, RENEGOTIATES, RESET, TRUNCATED, WIRE_VIEW, Stream
from workers import Workers

_PLAIN = bytearray(16_384)  # a record's plaintext, RFC 8446 §5.1; shared as well
_PLAIN_VIEW = memoryview(_PLAIN)
_DER = 2  # _ssl.ENCODING_DER
_MOST_FLIGHT = 262_144  # octets of a handshake: OpenSSL takes chains of 100 KB; HelloRequests may never end
_STEP = WIRE_VIEW[:16_384]  # read at once in a handshake: data after it is left to a pump, which lets others run
_UNSAID = 2 * FULL  # pending octets for a peer that keeps asking but does not read: more than one fill's replies


def alert(description: int) -> bytes:
    """A fatal alert in a record of its own, for a client with whom no handshake has begun (RFC 8446 §6)."""
    return bytes((21, 3, 3, 0, 2, 2, description))


class TlsStream(Stream):
    """A TLS connection; call ``handshake`` first. Failure ends reading, while writing raises ``OSError``.

    ``alpn`` are the protocols to offer or to choose from. A context is shared by many connections: its protocols
    are set right before OpenSSL reads them, without a switch in between: for a client once, when it is made; for a
    server at each ClientHello, of which there may be two.
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
        self.flight = bytearray()  # what was received in a handshake that has not succeeded yet
        self._finished = False  # a close_notify is queued or sent
        self._tickets = 0  # octets of session tickets that wait to be sent with other data
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
        """The DER certificates that the peer was verified with, from its own to the root."""
        if sys.version_info >= (3, 13):
            return self._tls.get_verified_chain()
        chain = self._tls._sslobj.get_verified_chain()  # type: ignore[attr-defined]  # public from 3.13 on
        return [certificate.public_bytes(_DER) for certificate in chain]

    def handshake(self, deadline: float, workers: Workers | None = None) -> None:
        """Complete the handshake. A failed one has sent its alert; a peer that left raises ``ConnectionError``.

        In TLS 1.3 a client's Finished is left to the next ``flush``, which may carry data as well. The ``workers``
        process a flight that may take long. Raises ``OutOfResources`` if they can't.
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
            if done and self.version == "TLSv1.3" and (not server_side or sockets.acknowledge(self.sock)):
                # The last flight goes with the first data: a write of its own costs 60 µs. Tickets are allowed at any
                # time (RFC 8446 §4.6.1) and wait for data only, a client's Finished for the next flush.
                self._tickets = self._out.pending if server_side else 0
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
        """Take the step on a thread. Past the deadline, that goes on, and nothing else may use the connection."""
        with gevent.Timeout(max(0.0, deadline - time.monotonic()), TimeoutError("deadline passed")):
            workers.run(self._tls.do_handshake)

    def decrypt(self) -> memoryview:
        """The next record's plaintext."""
        if self.ended == BROKEN or not (self._in.pending or self._tls.pending()):
            return NOTHING  # saves an exception; and what follows would hide what broke it, or make it look orderly
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
        """Queue it as records."""
        self._tls.write(data)

    def answer(self) -> None:
        """Tell the peer that we do not renegotiate. It may be waiting for that, and our writer for it."""
        if self._out.pending <= self._tickets:
            return
        if self.ended is None and self.version == "TLSv1.2":  # 1.3 has key updates instead
            self.renegotiates = True
        self.push()
        if len(self._unsent) + self._out.pending > _UNSAID and self.ended is None:
            self.ended, self.reason = BROKEN, RENEGOTIATES

    def end(self, how: str) -> None:
        """Send close_notify and FIN, or FIN alone for a truncation."""
        try:
            if how == ORDERLY:
                self.close_notify()
            self._closed = True
        finally:
            sockets.shut(self.sock, socket.SHUT_WR)

    def abort(self) -> None:
        """A peer that has ended its own data is leaving: a FIN does for it, and takes nothing that is on its way."""
        if self.ended is None:
            super().abort()
        else:
            sockets.shut(self.sock)

    def close_notify(self) -> None:
        """Send a close_notify; a FIN must follow. The peer's data can still be read."""
        try:
            self.finish(at_once=True)
        finally:
            self.flush()

    def finish(self, at_once: bool) -> None:
        """Encrypt a close_notify."""
        self._last = at_once
        if not self._finished:
            self._finished = True
            try:
                self._tls.unwrap()
            except ssl.SSLWantReadError:  # the peer's has not arrived yet
                pass

    def _take(self, count: int) -> None:
        if count:
            self._in.write(WIRE_VIEW[:count])
        else:
            self.ended = RESET if self._lost else TRUNCATED

    def _waiting(self) -> bytes:
        if self._out.pending <= self._tickets:  # alone, they'd draw a reset from a client that left, losing its upload
            return self._unsent
        self._tickets = 0
        return self._unsent + self._out.read() if self._unsent else self._out.read()
