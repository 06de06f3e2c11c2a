"""``Site``: a proxy, the origins behind it, and a good request that must succeed whatever has happened before."""

import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from gevent.pool import Pool
from lab import WAIT, Handler, Origin, exchange, get, http_origin, read_reply, secure_tunnel, strict_context
from vitals import Watched

SECONDS = 2  # the proxy's timeouts for heads, hellos, dials and handshakes
PACE = 0.2  # seconds between two octets of a slow client
AT_ONCE = 50  # concurrent clients, unless a load needs more: all of them, and the origins, run in this process


@dataclass(frozen=True)
class Site:
    """The target of a load. ``secure`` and ``plain`` answer good requests; loads bring their own bad origins."""

    program: Watched
    secure: Origin
    plain: Origin
    certificate: Path
    trusted: Path  # the only CA that clients trust
    context: ssl.SSLContext  # of such a client
    guarded: bool = False  # runs with --mismatch=deny

    @property
    def target(self) -> str:
        """The target of a good request."""
        return f"localhost:{self.secure.port}"

    def good(self) -> float:
        """Assert that a request in a tunnel and a plain one succeed; return the seconds they took."""
        began = time.monotonic()
        with secure_tunnel(self.program, self.target, context=self.context) as secure:
            assert get(secure, host="localhost").status == 200
        assert exchange(self.program.address, plain_get(f"localhost:{self.plain.port}")).status == 200
        return time.monotonic() - began

    def warm_up(self) -> None:
        """Make the proxy start all the threads it will ever have, and allocate its buffers and caches."""

        def client(number: int) -> None:
            with self.tunnel() as sock:
                sock.sendall(hello_for(self.context, "localhost" if self.guarded else f"w{number}.example"))
                assert sock.recv(1) == b"\x16"

        together(client, 50, at_once=20)
        slow = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        slow.load_cert_chain(self.certificate)
        slow.set_ecdh_curve("ffdhe3072")  # an origin's flight that asks for it is processed on a thread
        with Origin(http_origin, slow) as server:

            def asked(_: int) -> None:
                with secure_tunnel(self.program, f"localhost:{server.port}", context=self.context) as secure:
                    assert get(secure, host="localhost").status == 200

            together(asked, 8, at_once=8)
        self.good()

    def connect(self) -> socket.socket:
        return socket.create_connection(self.program.address, timeout=WAIT)

    def tunnel(self, target: str | None = None) -> socket.socket:
        """An established tunnel, by default to the target of good requests."""
        sock = self.connect()
        sock.sendall(connect_head(target or self.target))
        reply = read_reply(sock)
        assert reply.status == 200, reply
        return sock

    @contextmanager
    def origin(self, handler: Handler, secure: bool = False) -> Iterator[str]:
        """An origin for a load; yields its address as a target."""
        with Origin(handler, self.certificate if secure else None) as server:
            yield f"localhost:{server.port}"


@contextmanager
def running(
    folder: Path, roots: Path, certificate: Path, *options: str, redirected: bool = False, untouched: bool = False
) -> Iterator[Site]:
    """A site; ``redirected``: tunnels go, decrypted, to its plain origin, so that clients can ask for any name.

    ``untouched``: tunnels are not intercepted, and clients trust the origins' CA.
    """
    with Origin(http_origin, certificate) as secure, Origin(http_origin) as plain:
        words = ["--store=certs", "--max=100", "--ca=ca", f"--upstream-ca={roots}", *options]
        words += [f"--{what}-timeout={SECONDS}" for what in ("head", "hello", "dial", "tls")]
        words += [f"--redirect=127.0.0.1:{plain.port}"] if redirected else []
        words += ["--bypass=localhost"] if untouched else []
        with Watched(folder, *words) as program:
            trusted = roots if untouched else program.ca
            site = Site(
                program, secure, plain, certificate, trusted, strict_context(trusted), "--mismatch=deny" in options
            )
            site.warm_up()
            yield site


def plain_get(target: str) -> bytes:
    return f"GET http://{target}/ HTTP/1.1\r\nHost: {target}\r\n\r\n".encode()


def connect_head(target: str) -> bytes:
    return f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode()


def together(act: Callable[[int], object], count: int, at_once: int = AT_ONCE) -> None:
    """Call ``act`` with each number below ``count``, ``at_once`` at a time; raise the first failure."""
    pool = Pool(at_once)
    for _ in pool.imap_unordered(act, range(count)):
        pass


def hear(sock: socket.socket) -> bytes:
    """Read all that the peer sends until a FIN or a reset."""
    heard = b""
    with suppress(ConnectionError):
        while data := sock.recv(65_536):
            heard += data
    return heard


def drip(sock: socket.socket, data: bytes) -> bytes:
    """Send an octet every ``PACE`` seconds until the peer closes; return what it sent."""
    sock.settimeout(PACE)
    heard = b""
    with suppress(ConnectionError):
        for octet in data:
            sock.sendall(bytes((octet,)))
            with suppress(TimeoutError):
                data = sock.recv(65_536)
                if not data:
                    return heard
                heard += data
    return heard + hear(sock)


def cut(sock: socket.socket) -> None:
    """Close with a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def hello_for(context: ssl.SSLContext, name: str) -> bytes:
    """A ClientHello made by OpenSSL."""
    out = ssl.MemoryBIO()
    tls = context.wrap_bio(ssl.MemoryBIO(), out, server_hostname=name)
    with suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return out.read()
