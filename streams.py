"""``Stream``: one end of a tunnel over one TCP socket; ``PlainStream`` is the one without TLS, ``TlsStream`` with.

A pump (``tunnel.py``) moves bytes between any two of them. Everything here rests on two rules:

* The read buffers are shared by all connections. **Nothing between filling one and its last use may switch
  greenlets**: no wait, no lock, no log call.
* **One writer per socket.** Only the pump that writes to an end sends its pending output; otherwise records would land
  in the middle of a blocked ``sendall``. A reader may do so by ``push``, if nothing is being sent, without waiting.
"""

import os
import socket
from abc import ABC, abstractmethod
from contextlib import suppress

import sockets

ORDERLY = "closed"  # the peer ended its data: by close_notify, or by FIN without TLS
TRUNCATED = "truncated"  # TCP ended without a close_notify
RESET = "reset"  # TCP was reset
BROKEN = "tls-error"  # the peer sent invalid TLS or a fatal alert
RENEGOTIATES = "NO_RENEGOTIATION"  # in place of OpenSSL's reason: the peer wanted to, we refused, and it left

WIRE = bytearray(131_072)  # octets of one recv; shared, see above
WIRE_VIEW = memoryview(WIRE)
FULL = len(WIRE)
NOTHING = WIRE_VIEW[:0]


class Stream(ABC):
    """One end of a tunnel. ``ended`` is None until its peer ends, then says how."""

    __slots__ = (
        "_closed",
        "_last",
        "_lost",
        "_sending",
        "_unsent",
        "alpn",
        "ended",
        "reason",
        "renegotiates",
        "sock",
        "version",
    )

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.version: str | None = None  # of TLS, such as ``TLSv1.3``
        self.alpn: str | None = None  # the application protocol that was selected
        self.ended: str | None = None
        self.reason: str | None = None  # OpenSSL's name for what broke it
        self.renegotiates = False  # the peer wanted to and was refused
        self._closed = False  # all our data was sent, and a FIN
        self._last = False  # a FIN follows the pending output at once
        self._lost = False  # a write was told so, and no read will be: ``sockets.is_lost``
        self._sending = False
        self._unsent = b""

    def fill(self, most: int = FULL) -> int:
        """Wait for bytes from the peer, at most so many, or for its end; return the number of octets.

        No greenlet switch may occur from here until ``decrypt`` has returned them all.
        """
        try:
            count = self.sock.recv_into(WIRE, most)
        except OSError:
            self.ended = RESET
            return 0
        self._take(count)
        return count

    def fill_now(self, most: int = FULL) -> int | None:
        """The same without waiting: None if there is nothing yet."""
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
        """Send all that was encrypted, waiting for a slow peer."""
        waited = True
        while waited and (data := self._waiting()):  # our reader of this end may have added to it meanwhile
            self._unsent = b""
            self._sending = True
            try:
                waited = sockets.send(self.sock, data, self._last)
            except OSError as error:
                self._lost |= sockets.is_lost(error)
                raise
            finally:
                self._sending = False

    def flush_now(self) -> bool:
        """Send what the socket accepts without waiting; return whether that was everything."""
        if data := self._waiting():
            self._unsent = data  # kept, so that another try after a failure fails, too
            try:
                self._unsent = data[sockets.send_now(self.sock, data, self._last) :]
            except OSError as error:
                self._lost |= sockets.is_lost(error)
                raise
        return not self._unsent

    def push(self) -> None:
        """Send what is pending, unless it is being sent; for the reader, or before there is one. Never waits."""
        if not self._sending:
            with suppress(OSError):  # the next read notices
                self.flush_now()

    @abstractmethod
    def answer(self) -> None:
        """Send the protocol's own replies; called by the reader once it has decrypted everything. Never waits."""

    @abstractmethod
    def decrypt(self) -> memoryview:
        """The next plaintext received, in a shared buffer; empty if none is left, and at the peer's end."""

    @abstractmethod
    def encrypt(self, data: memoryview | bytes) -> None:
        """Take plaintext to be sent by the next ``flush``."""

    @abstractmethod
    def finish(self, at_once: bool) -> None:
        """Queue the end of an orderly stream behind the pending output, before ``end``: saves a write.

        ``at_once``: nothing waits between the next flush and ``end``.
        """

    @abstractmethod
    def end(self, how: str) -> None:
        """Tell the peer that no more data follows, and whether the data is complete."""

    def abort(self) -> None:
        """Abandon the connection, and wake its reader and its writer: ``close`` sends a reset.

        A FIN would look orderly, in TLS too, as curl does not mind a missing close_notify: none is sent. After ``end``,
        there is no reset either: it would take the data that a slow peer has not received yet.
        """
        if not self._closed:
            sockets.reset(self.sock)
        sockets.shut(self.sock, socket.SHUT_RD)
        if self._sending:
            sockets.fail_writer(self.sock)

    @abstractmethod
    def _take(self, count: int) -> None:
        """Take ``count`` octets from the shared buffer; 0 means the end of TCP."""

    @abstractmethod
    def _waiting(self) -> bytes:
        """Remove and return the pending output, in order."""


class PlainStream(Stream):
    """A TCP connection without TLS. ``received``: what was read from ``sock`` before; ``lost``: TCP has failed."""

    __slots__ = ("_in", "_out")

    def __init__(self, sock: socket.socket, received: bytes = b"", lost: bool = False) -> None:
        super().__init__(sock)
        self._lost = lost
        self._in = memoryview(received)
        self._out: list[bytes] = []

    def decrypt(self) -> memoryview:
        """All that was received."""
        data, self._in = self._in, NOTHING
        return data

    def encrypt(self, data: memoryview | bytes) -> None:
        """Queue it unchanged."""
        self._out.append(bytes(data))

    def answer(self) -> None:
        """Nothing."""

    def finish(self, at_once: bool) -> None:
        """Nothing."""

    def end(self, how: str) -> None:  # noqa: ARG002
        """Send a FIN, which is all there is without TLS, for a truncation or not."""
        self._closed = True
        self.sock.shutdown(socket.SHUT_WR)

    def _take(self, count: int) -> None:
        if count:
            self._in = WIRE_VIEW[:count]
        else:
            self.ended = RESET if self._lost else ORDERLY

    def _waiting(self) -> bytes:
        data = b"".join((self._unsent, *self._out))
        self._out.clear()
        return data
