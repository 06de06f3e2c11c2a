"""``Client``: connections through one proxy, on plain blocking sockets, so that they cost the load side little.

Measured connections accept any certificate: the proxy is under test. That it intercepts, with a certificate for the
name from its own CA, is verified once per start (``first``).
"""

import os
import socket
import ssl
import struct
import time
from contextlib import suppress
from pathlib import Path

from bench.origin import BODY

WAIT = 60  # limit in seconds for any single wait
_TIMEOUT = struct.pack("ll", WAIT, 0)  # for SO_RCVTIMEO: saves the poll() that settimeout() adds before each recv()
_BUFFER = bytearray(1 << 20)

Address = tuple[str, int]


class Client:
    """Connects to ``origin`` through ``proxy`` with CONNECT.

    Without ``connect``, TLS begins at once; with ``by_name``, the CONNECT target is the server name instead of the
    origin's address.
    """

    def __init__(self, proxy: Address, origin: Address, *, connect: bool = True, by_name: bool = False) -> None:
        self.proxy = proxy
        self._origin = origin
        self._connect = connect
        self._by_name = by_name
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._context.check_hostname = False  # the load is not what is measured; each peer has a CA of its own
        self._context.verify_mode = ssl.CERT_NONE

    def dial(self, name: str) -> socket.socket:
        """A connection on which the TLS handshake for ``name`` can begin."""
        sock = socket.create_connection(self.proxy)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _TIMEOUT)
            if self._connect:
                sock.sendall(self.connect_request(name))
                reply = b""
                while not reply.endswith(b"\r\n\r\n"):
                    data = sock.recv(4096)
                    if not data:
                        raise ConnectionAbortedError(f"CONNECT: {reply!r}")
                    reply += data
                if reply.split(b" ", 2)[1] != b"200":
                    raise ConnectionRefusedError(f"CONNECT: {reply!r}")
        except BaseException:
            sock.close()
            raise
        return sock

    def connect_request(self, name: str) -> bytes:
        """The CONNECT request for a tunnel to the origin."""
        target = f"{name if self._by_name else self._origin[0]}:{self._origin[1]}"
        return f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode()

    def open(self, name: str) -> ssl.SSLSocket:
        """A tunnel with TLS established in it."""
        return self._secure(self.dial(name), name, self._context)

    def ask(self, secure: ssl.SSLSocket, name: str) -> None:
        """Send one small request and read the reply."""
        secure.sendall(self._request(name, "/"))
        reply = b""
        while not reply.endswith(BODY):
            data = secure.recv(4096)
            if not data:
                raise ConnectionAbortedError(f"the reply was {reply!r}")
            reply += data

    def exchange(self, name: str) -> None:
        """Make a complete connection: tunnel, TLS, one small request, close_notify both ways."""
        with self.open(name) as secure:
            self.ask(secure, name)
            self.leave(secure)

    def leave(self, secure: ssl.SSLSocket) -> None:
        """Send close_notify and wait for the peer's, or for EOF: not every proxy answers with one."""
        with suppress(OSError):
            secure.unwrap()

    def download(self, name: str, octets: int, seconds: float | None = None) -> int:
        """Download ``octets`` on a new connection, for at most ``seconds``; return the number of octets received.

        They are not decrypted: the kernel discards them (MSG_TRUNC, tcp(7)). That saves two thirds of the load's CPU.
        """
        count = 0
        end = None if seconds is None else time.monotonic() + seconds
        with self.open(name) as secure:
            secure.sendall(self._request(name, f"/bulk/{octets}", "Connection: close\r\n"))
            with socket.socket(fileno=os.dup(secure.fileno())) as raw:
                while received := raw.recv_into(_BUFFER, 0, socket.MSG_TRUNC):
                    count += received
                    if end is not None and time.monotonic() > end:
                        return count
        if count < octets:
            raise ConnectionAbortedError(f"{count} of {octets} octets came")
        return count

    def first(self, name: str, ca: Path) -> bytes:
        """Make a request on a connection verified for ``name`` with ``ca`` alone; return the certificate as DER."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(ca)
        with self._secure(self.dial(name), name, context) as secure:
            self.ask(secure, name)
            return secure.getpeercert(binary_form=True) or b""

    def _secure(self, sock: socket.socket, name: str, context: ssl.SSLContext) -> ssl.SSLSocket:
        try:
            return context.wrap_socket(sock, server_hostname=name, suppress_ragged_eofs=False)
        except BaseException:
            sock.close()
            raise

    def _request(self, name: str, path: str, more: str = "") -> bytes:
        return f"GET {path} HTTP/1.1\r\nHost: {name}:{self._origin[1]}\r\n{more}\r\n".encode()
