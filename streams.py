"""``Stream``: one end of a tunnel over one TCP socket; ``PlainStream`` is one without TLS, ``tls.py`` has that with.

A pump (``tunnel.py``) moves bytes between any two of them. Two rules that everything here rests on:

* The read buffers are shared by all connections. **Nothing between filling one and its last use may switch
  greenlets**: no wait, no lock, no log call.
* **One writer a socket.** Only the pump that writes to an end sends what waits there, else records would land in the
  middle of a blocked ``sendall``. A reader does so only while nothing is being sent, and never waits: ``answer``.
"""

import os
import socket
from abc import ABC, abstractmethod

import sockets

ORDERLY = "closed"  # the peer said that it has sent all: close_notify, or FIN where there is no TLS
TRUNCATED = "truncated"  # TCP ended without a close_notify
RESET = "reset"  # TCP was reset
BROKEN = "tls-error"  # what came is not TLS, or the peer sent a fatal alert
RENEGOTIATES = "NO_RENEGOTIATION"  # in the place of OpenSSL's reason: the peer wanted to, we did not, and it ended

WIRE = bytearray(131_072)  # octets of one recv; shared, see above
WIRE_VIEW = memoryview(WIRE)
FULL = len(WIRE)
NOTHING = WIRE_VIEW[:0]


class Stream(ABC):
    """One end of a tunnel. ``ended`` is None until its peer ended: then it says how."""

    __slots__ = ("_sending", "_unsent", "alpn", "ended", "reason", "renegotiates", "sock", "version")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.version: str | None = None  # of TLS, such as ``TLSv1.3``
        self.alpn: str | None = None  # the application protocol that was selected
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
            count = self.sock.recv_into(WIRE, most)
        except OSError:
            self.ended = RESET
            return 0
        self._take(count)
        return count

    def fill_now(self, most: int = FULL) -> int | None:
        """The same without a wait: None when there is nothing yet."""
        try:
            count = os.readv(self.sock.fileno(), [WIRE_VIEW[:most]])
        except BlockingIOError:
            return None
        except OSError:
            self.ended = RESET
            return 0
        self._take(count)
        return count

    def flush(self) -> None:
        """Send all that was encrypted; waits for a slow reader."""
        waited = True
        while waited and (data := self._waiting()):  # a reader may have added to it meanwhile
            self._unsent = b""
            self._sending = True
            try:
                waited = sockets.send(self.sock, data)
            finally:
                self._sending = False

    def flush_now(self) -> bool:
        """Send what the peer takes at once; whether that was all."""
        if data := self._waiting():
            self._unsent = data  # who tries again after a failure shall fail, too
            self._unsent = data[sockets.send_now(self.sock, data) :]
        return not self._unsent

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
    def finish(self) -> None:
        """Take the end of an orderly stream to be sent with what waits, before ``end``: saves a write."""

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
        data, self._in = self._in, NOTHING
        return data

    def encrypt(self, data: memoryview | bytes) -> None:
        """As it is."""
        self._out.append(bytes(data))

    def answer(self) -> None:
        """Nothing."""

    def finish(self) -> None:
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
            self._in = WIRE_VIEW[:count]
        else:
            self.ended = ORDERLY

    def _waiting(self) -> bytes:
        data = b"".join((self._unsent, *self._out))
        self._out.clear()
        return data
