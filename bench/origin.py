"""``Origin``: the TLS server behind the proxies, in processes of its own on the load's cores.

It answers HTTP/1.1: ``GET /`` with a few octets, keeping the connection; ``GET /bulk/<n>`` with n octets, closing it.
Blocking threads suffice: origin and clients need less CPU than the proxy (where they don't, the report says so).
"""

import multiprocessing
import os
import signal
import socket
import ssl
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from types import TracebackType
from typing import Self

from bench import cores, pki
from bench.cores import Cores

ZONE = "bench.test"  # never in the public DNS (RFC 6761 §6.2)
BODY = b"pong of the bench\n"

_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nCache-Control: no-store\r\nContent-Length: %d\r\n"
)
_REPLY = _HEAD % len(BODY) + b"\r\n" + BODY
_CHUNK = memoryview(bytes(1 << 20))
_BACKLOG = 4096
_STACK = 1 << 18  # octets per thread: there are as many threads as tunnels


class Origin:
    """Has a wildcard certificate for ``ZONE``, and a certificate of its own for each of ``names``.

    The latter are for proxies that copy the origin's certificate instead of making one for the server name.
    ``roots`` is the PEM to verify it with.
    """

    def __init__(self, where: Cores, names: Iterable[str] = (), tickets: int = 0) -> None:
        authority = pki.authority("bench origins")
        self.roots = authority.pem
        key = pki.new_key()
        self._tickets = tickets
        self._own = {name: self._context(pki.leaf(authority, key, name), key) for name in names}
        self._context_of_all = self._context(pki.leaf(authority, key, f"*.{ZONE}", ZONE), key)
        self._context_of_all.sni_callback = self._choose
        self._where = where
        self._processes: list[multiprocessing.process.BaseProcess] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=_BACKLOG)
        self.address: tuple[str, int] = self._listener.getsockname()

    def __enter__(self) -> Self:
        fork = multiprocessing.get_context("fork")
        with cores.on(self._where.load):
            for _ in range(max(1, len(self._where.load) // 2)):
                process = fork.Process(target=self._serve, daemon=True)
                process.start()
                self._processes.append(process)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for process in self._processes:
            process.kill()
            process.join()
        self._listener.close()

    def _context(self, certificate: bytes, key: pki.Key) -> ssl.SSLContext:
        context = pki.server_context(certificate, key, self._tickets)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        return context

    def _choose(self, connection: ssl.SSLSocket | ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        own = self._own.get(name or "")
        if own is not None:
            connection.context = own

    def _serve(self) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the leading process ends this one
        threading.stack_size(_STACK)
        Crowd(self._listener, self._connection).run()

    def _connection(self, sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._context_of_all.wrap_socket(sock, server_side=True, suppress_ragged_eofs=False) as secure:
            while _answer(secure):
                pass
            secure.unwrap()


class Crowd:
    """Threads that accept and serve; another one starts whenever none is left to accept."""

    def __init__(self, listener: socket.socket, serve: Callable[[socket.socket], None]) -> None:
        self._listener = listener
        self._serve = serve
        self._idle = 0
        self._lock = threading.Lock()

    def run(self) -> None:
        """Accept on this thread too; does not return."""
        with self._lock:
            self._idle += 1
        while True:
            sock, _ = self._listener.accept()
            with self._lock:
                self._idle -= 1
                needed = self._idle == 0
            if needed:
                threading.Thread(target=self.run, daemon=True).start()
            with suppress(OSError):  # the peer left
                self._serve(sock)
            with self._lock:
                self._idle += 1


def _answer(secure: ssl.SSLSocket) -> bool:
    """Answer one request; return whether another may follow."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        data = secure.recv(16_384)
        if not data:
            return False
        head += data
    path = head.split(b" ", 2)[1]
    if not path.startswith(b"/bulk/"):
        secure.sendall(_REPLY)
        return True
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 15)  # small requests take precedence
    left = int(path.removeprefix(b"/bulk/"))
    secure.sendall(_HEAD % left + b"Connection: close\r\n\r\n")
    while left > 0:
        secure.sendall(_CHUNK[:left])
        left -= len(_CHUNK)
    return False
