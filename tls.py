"""``TlsStream``: one TLS end over one TCP socket, as an ``SSLObject`` on two ``MemoryBIO``s.

``PlainStream`` is the same without TLS; a pump (``tunnel.py``) moves bytes between any two of them.

Two rules that everything here rests on:

* The read buffers are shared by all connections. **Nothing between filling one and its last use may switch
  greenlets**: no wait, no lock, no log call.
* **One writer a socket.** Only the pump that writes to an end sends what its out-BIO holds, else records would land in
  the middle of a blocked ``sendall``. A reader does so only while nothing is being sent, and never waits: ``answer``.

And one that makes ``unwrap()`` safe: when a switch can happen, the in-BIO has been decrypted to its last complete
record. ``unwrap`` reads as well, and would destroy what it finds.
"""

import os
import socket
import ssl
from abc import ABC, abstractmethod
from contextlib import suppress

import sockets

ORDERLY = "closed"  # the peer said that it has sent all: close_notify, or FIN where there is no TLS
TRUNCATED = "truncated"  # TCP ended without a close_notify
RESET = "reset"  # TCP was reset
BROKEN = "tls-error"  # what came is not TLS, or the peer sent a fatal alert
RENEGOTIATES = "NO_RENEGOTIATION"  # in the place of OpenSSL's reason: the peer wanted to, we did not, and it ended

_CIPHER = bytearray(131_072)  # octets of one recv; shared, see above
FULL = len(_CIPHER)
_PLAIN = bytearray(16_384)  # a record's plaintext, RFC 8446 §5.1
_UNSAID = 65_536  # octets of answers to a peer that asks on and on, and does not read them
_CIPHER_VIEW = memoryview(_CIPHER)
_PLAIN_VIEW = memoryview(_PLAIN)
_NOTHING = _PLAIN_VIEW[:0]


def alert(description: int) -> bytes:
    """A fatal alert in a record of its own, for a client with whom no handshake has begun (RFC 8446 §6)."""
    return bytes((21, 3, 3, 0, 2, 2, description))


class Stream(ABC):
    """One end of a tunnel. ``ended`` is None until its peer ended: then it says how."""

    __slots__ = ("_sending", "_unsent", "ended", "reason", "renegotiates", "sock")

    version: str | None = None  # of TLS, such as ``TLSv1.3``
    alpn: str | None = None  # the application protocol that was selected

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.ended: str | None = None
        self.reason: str | None = None  # as OpenSSL names what broke it
        self.renegotiates = False  # the peer wanted to, and was told no
        self._sending = False
        self._unsent = b""

    def fill(self, most: int = FULL) -> int:
        """Wait for bytes of the peer, at most so many, or for its end; how many octets came.

        No switch from here until ``decrypt`` has given them all.
        """
        try:
            count = self.sock.recv_into(_CIPHER, most)
        except OSError:
            self.ended = RESET
            return 0
        self._take(count)
        return count

    def fill_now(self, most: int = FULL) -> int | None:
        """The same without a wait: None when there is nothing yet."""
        try:
            count = os.readv(self.sock.fileno(), [_CIPHER_VIEW[:most]])
        except BlockingIOError:
            return None
        except OSError:
            self.ended = RESET
            return 0
        self._take(count)
        return count

    def flush(self) -> None:
        """Send all that was encrypted; waits for a slow reader."""
        while data := self._waiting():
            self._unsent = b""
            self._sending = True
            try:
                sockets.send(self.sock, data)
            finally:
                self._sending = False

    def flush_now(self) -> bool:
        """Send what the peer takes at once; whether that was all."""
        if data := self._waiting():
            self._unsent = b""
            sent = sockets.send_now(self.sock, data)
            if sent < len(data):
                self._unsent = data[sent:]
                return False
        return True

    @abstractmethod
    def answer(self) -> None:
        """Send what the protocol says to the peer by itself, for the reader when it has decrypted all; never waits."""

    @abstractmethod
    def decrypt(self) -> memoryview:
        """The next plaintext received, in a shared buffer; empty when there is none left, and at the peer's end."""

    @abstractmethod
    def encrypt(self, data: memoryview | bytes) -> None:
        """Take plaintext to be sent by the next ``flush``."""

    @abstractmethod
    def end(self, how: str) -> None:
        """Tell the peer that no more comes, and whether that is all there is."""

    @abstractmethod
    def abort(self) -> None:
        """Give the connection up, so that its peer sees that it was cut off; its reader wakes."""

    @abstractmethod
    def _take(self, count: int) -> None:
        """So many octets are in the buffer; none at the end of TCP."""

    @abstractmethod
    def _waiting(self) -> bytes:
        """What is to be sent, in its order."""


class PlainStream(Stream):
    """A TCP connection without TLS. ``received``: what was read from ``sock`` before."""

    __slots__ = ("_in", "_out")

    def __init__(self, sock: socket.socket, received: bytes = b"") -> None:
        super().__init__(sock)
        self._in = memoryview(received)
        self._out: list[bytes] = []

    def decrypt(self) -> memoryview:
        """All that was received."""
        data, self._in = self._in, _NOTHING
        return data

    def encrypt(self, data: memoryview | bytes) -> None:
        """As it is."""
        self._out.append(bytes(data))

    def answer(self) -> None:
        """Nothing."""

    def end(self, how: str) -> None:  # noqa: ARG002
        """A FIN is all that there is without TLS, for a truncation or not."""
        self.sock.shutdown(socket.SHUT_WR)

    def abort(self) -> None:
        """A reset at close."""
        sockets.reset(self.sock)
        sockets.shut(self.sock, socket.SHUT_RD)

    def _take(self, count: int) -> None:
        if count:
            self._in = _CIPHER_VIEW[:count]
        else:
            self.ended = ORDERLY

    def _waiting(self) -> bytes:
        data = b"".join((self._unsent, *self._out))
        self._out.clear()
        return data


class TlsStream(Stream):
    """A TLS connection: ``handshake`` first. Reading ends, writing raises ``OSError``.

    ``alpn`` are the protocols to offer or to choose from. A context is shared by many connections: its protocols
    are set right before OpenSSL reads them, and no switch lies between.
    """

    __slots__ = ("_context", "_in", "_offer", "_out", "_tls", "flight")

    def __init__(
        self,
        sock: socket.socket,
        context: ssl.SSLContext,
        alpn: list[str],
        *,
        server_hostname: str | None = None,
        received: bytes = b"",
    ) -> None:
        """A client if ``server_hostname`` is given, else a server. ``received``: what was read from ``sock`` before."""
        super().__init__(sock)
        self.flight = bytearray()  # what was received in a handshake that has not succeeded
        self._context = context
        self._offer = alpn
        self._in = ssl.MemoryBIO()
        self._out = ssl.MemoryBIO()
        if received:
            self._in.write(received)
        context.set_alpn_protocols(alpn)
        server_side = server_hostname is None
        self._tls = context.wrap_bio(self._in, self._out, server_side=server_side, server_hostname=server_hostname)

    @property
    def version(self) -> str | None:  # type: ignore[override]
        """The protocol version."""
        return self._tls.version()

    @property
    def alpn(self) -> str | None:  # type: ignore[override]
        """The application protocol that was selected."""
        return self._tls.selected_alpn_protocol()

    def handshake(self, deadline: float) -> None:
        """Complete the handshake. A failed one has sent its alert; a peer that left is a ``ConnectionError``."""
        step = self._tls.do_handshake
        while True:
            try:
                self._context.set_alpn_protocols(self._offer)
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
            sockets.arm(self.sock, deadline)
            self.flush()
            if done:
                self.sock.settimeout(None)
                self.flight.clear()
                return
            count = self.sock.recv_into(_CIPHER)
            if not count:
                raise ConnectionAbortedError("closed in the TLS handshake")
            self.flight += _CIPHER_VIEW[:count]
            self._in.write(_CIPHER_VIEW[:count])

    def decrypt(self) -> memoryview:
        """The next record's plaintext."""
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
        """As records."""
        self._tls.write(data)

    def answer(self) -> None:
        """That we do not renegotiate. The peer may wait for this answer, and the writer for the peer."""
        if not self._out.pending:
            return
        if self.ended is None and self.version == "TLSv1.2":  # 1.3 has key updates instead
            self.renegotiates = True
        if not self._sending:
            with suppress(OSError):  # the next read finds out
                self.flush_now()
        elif self._out.pending > _UNSAID and self.ended is None:
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
            self._tls.unwrap()
        except ssl.SSLWantReadError:
            pass  # it was sent, and the peer's has not come yet
        finally:
            self.flush()

    def _take(self, count: int) -> None:
        if count:
            self._in.write(_CIPHER_VIEW[:count])
        else:
            self.ended = TRUNCATED

    def _waiting(self) -> bytes:
        if not self._out.pending:
            return self._unsent
        return self._unsent + self._out.read() if self._unsent else self._out.read()
