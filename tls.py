"""``TlsStream``: one TLS end over one TCP socket, as an ``SSLObject`` on two ``MemoryBIO``s.

``PlainStream`` is the same without TLS; a pump (``tunnel.py``) moves bytes between any two of them.

Two rules that everything here rests on:

* The read buffers are shared by all connections. **Nothing between filling one and its last use may switch
  greenlets**: no wait, no lock, no log call.
* **One writer a socket.** Only the pump that writes to an end sends what its out-BIO holds. A reader never does, else
  its records would land in the middle of a blocked ``sendall``.

And one that makes ``unwrap()`` safe: when a switch can happen, the in-BIO has been decrypted to its last complete
record. ``unwrap`` reads as well, and would destroy what it finds.
"""

import socket
import ssl
from contextlib import suppress

import sockets
from errors import OutOfResources

ORDERLY = "closed"  # the peer said that it has sent all: close_notify, or FIN where there is no TLS
TRUNCATED = "truncated"  # TCP ended without a close_notify
RESET = "reset"  # TCP was reset
BROKEN = "tls-error"  # what came is not TLS, or the peer sent a fatal alert

_CIPHER = bytearray(131_072)  # octets of one recv; shared, see above
_PLAIN = bytearray(16_384)  # a record's plaintext, RFC 8446 §5.1
_CIPHER_VIEW = memoryview(_CIPHER)
_PLAIN_VIEW = memoryview(_PLAIN)
_NOTHING = _PLAIN_VIEW[:0]


def alert(description: int) -> bytes:
    """A fatal alert in a record of its own, for a client with whom no handshake has begun (RFC 8446 §6)."""
    return bytes((21, 3, 3, 0, 2, 2, description))


class PlainStream:
    """A TCP connection without TLS. ``ended`` is None until its peer ended: then it says how."""

    version = None
    alpn = None

    def __init__(self, sock: socket.socket, received: bytes = b"") -> None:
        self.sock = sock
        self.ended: str | None = None
        self.reason: str | None = None  # as OpenSSL names what broke it
        self._in = memoryview(received)
        self._out: list[bytes] = []

    def fill(self, most: int = 0) -> int:
        """Wait for bytes of the peer, at most so many, or for its end; how many octets came.

        No switch from here until ``decrypt`` has given them all.
        """
        try:
            count = self.sock.recv_into(_CIPHER, most)
        except OSError:
            self.ended = RESET
            return 0
        if count:
            self._in = _CIPHER_VIEW[:count]
        else:
            self.ended = ORDERLY
        return count

    def decrypt(self) -> memoryview:
        """The next plaintext received, in a shared buffer; empty when there is none left."""
        data, self._in = self._in, _NOTHING
        return data

    def encrypt(self, data: memoryview | bytes) -> None:
        """Take plaintext to be sent by the next ``flush``."""
        self._out.append(bytes(data))

    def flush(self) -> None:
        """Send all that was taken; waits for a slow reader."""
        if self._out:
            data, self._out = b"".join(self._out), []
            self.sock.sendall(data)

    def end(self, how: str) -> None:  # noqa: ARG002
        """Tell the peer that no more comes. A FIN is all that there is for it without TLS, a truncation or not."""
        self.sock.shutdown(socket.SHUT_WR)

    def abort(self) -> None:
        """Give the connection up: a reset at close, and its reader wakes."""
        sockets.reset(self.sock)
        sockets.shut(self.sock, socket.SHUT_RD)


class TlsStream:
    """A TLS connection: ``handshake`` first, then as ``PlainStream``. Reading ends, writing raises ``OSError``.

    ``alpn`` are the protocols to offer or to choose from. A context is shared by many connections: its protocols
    are set right before OpenSSL reads them, and no switch lies between.
    """

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
        self.sock = sock
        self.ended: str | None = None
        self.reason: str | None = None
        self.flight = b""  # what was received in a handshake that failed
        self._context = context
        self._offer = alpn
        server_side = server_hostname is None
        try:
            self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
            self._in.write(received)
            context.set_alpn_protocols(alpn)
            self._tls = context.wrap_bio(self._in, self._out, server_side=server_side, server_hostname=server_hostname)
        except (ssl.SSLError, MemoryError) as error:
            raise OutOfResources(f"OpenSSL can't begin a connection: {error!r}") from error

    @property
    def version(self) -> str | None:
        """The protocol version, such as ``TLSv1.3``."""
        return self._tls.version()

    @property
    def alpn(self) -> str | None:
        """The application protocol that was selected."""
        return self._tls.selected_alpn_protocol()

    def handshake(self, deadline: float) -> None:
        """Complete the handshake. A failed one has sent its alert; a peer that left is a ``ConnectionError``."""
        step = self._tls.do_handshake
        flight: list[bytes] = []
        while True:
            try:
                self._context.set_alpn_protocols(self._offer)
                step()
            except ssl.SSLWantReadError:
                done = False
            except ssl.SSLError:
                self.flight = b"".join(flight)
                with suppress(OSError):
                    sockets.arm(self.sock, deadline)
                    self.flush()
                raise
            else:
                done = True
            sockets.arm(self.sock, deadline)
            self.flush()
            if done:
                self.sock.settimeout(None)
                return
            count = self.sock.recv_into(_CIPHER)
            if not count:
                raise ConnectionAbortedError("closed in the TLS handshake")
            data = bytes(_CIPHER_VIEW[:count])
            flight.append(data)
            self._in.write(data)

    def fill(self, most: int = 0) -> int:
        """Wait for bytes of the peer, or for the end of TCP, which here is a truncation; how many octets came."""
        try:
            count = self.sock.recv_into(_CIPHER, most)
        except OSError:
            self.ended = RESET
            return 0
        if count:
            self._in.write(_CIPHER_VIEW[:count])
        else:
            self.ended = TRUNCATED
        return count

    def decrypt(self) -> memoryview:
        """The next record's plaintext, in a shared buffer; empty when more must be received, or at close_notify."""
        if not (self._in.pending or self._tls.pending()):
            return _NOTHING  # saves an exception
        try:
            count: int = self._tls.read(16_384, _PLAIN)  # type: ignore[assignment]  # an int, when a buffer is given
        except ssl.SSLWantReadError:
            return _NOTHING
        except ssl.SSLZeroReturnError:
            count = 0
        except ssl.SSLError as error:
            self.ended, self.reason = BROKEN, error.reason
            return _NOTHING
        if not count:
            self.ended = ORDERLY
        return _PLAIN_VIEW[:count]

    def encrypt(self, data: memoryview | bytes) -> None:
        """Take plaintext to be sent by the next ``flush``."""
        self._tls.write(data)

    def flush(self) -> None:
        """Send the records that were made; waits for a slow reader."""
        if self._out.pending:
            self.sock.sendall(self._out.read())

    def end(self, how: str) -> None:
        """Tell the peer that no more comes: close_notify and FIN, or FIN alone for a truncation."""
        try:
            if how is ORDERLY:
                self.close_notify()
        finally:
            sockets.shut(self.sock, socket.SHUT_WR)

    def abort(self) -> None:
        """Give the connection up: no close_notify, so that its peer sees a truncation, and its reader wakes."""
        sockets.shut(self.sock)

    def close_notify(self) -> None:
        """Send a close_notify. The peer's data can still be read."""
        try:
            self._tls.unwrap()
        except ssl.SSLWantReadError:
            pass  # it was sent, and the peer's has not come yet
        finally:
            self.flush()


Stream = PlainStream | TlsStream
