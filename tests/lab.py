"""The lab: certifier started as its users start it, origins, and a verifying client. All listen on port 0."""

import errno
import gc
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import gevent
import gevent.socket
from gevent.server import StreamServer

HERE = Path(__file__).parent.parent
WAIT = 20.0  # limit in seconds for anything here
CUT_OFF = (ssl.SSLEOFError, ConnectionResetError)  # what a reset raises in TLS: before Python 3.13, and from it on
# Python's default, unless built with other ciphers, as Debian's is: that one also offers static RSA and SHA-1.
_CAREFUL = "@SECLEVEL=2:ECDH+AESGCM:ECDH+CHACHA20:ECDH+AES:DHE+AES:!aNULL:!eNULL:!aDSS:!SHA1:!AESCCM"

Handler = Callable[[socket.socket], None]


class Program:
    """``python certifier.py`` in a folder of its own; ``address`` is its first listener."""

    def __init__(self, folder: Path, *arguments: str, listen: bool = True, prefix: Sequence[str] = ()) -> None:
        self.folder = folder
        self.lines: list[str] = []
        self._changed = threading.Condition()
        words = [*prefix, *self.command(), *arguments]
        if listen:
            words.append("--listen=127.0.0.1:0")
        self.process = subprocess.Popen(words, cwd=folder, stderr=subprocess.PIPE, text=True)
        self._reader = gevent.spawn(self._read)

    @staticmethod
    def command() -> list[str]:
        return [sys.executable, str(HERE / "certifier.py")]

    def reload(self) -> None:
        """Make it reload its files."""
        before = len(self.lines)
        self.process.send_signal(signal.SIGHUP)
        self.wait_for("reloaded: ", before)

    def __enter__(self) -> Self:
        found = re.search(r":(\d+)$", self.wait_for(r"^listening on .*:\d+$"))
        assert found
        self.address = ("127.0.0.1", int(found[1]))
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop(signal.SIGKILL if error else signal.SIGTERM)
        assert self.process.stderr is not None
        self.process.stderr.close()
        assert error or not any("Traceback" in line for line in self.lines), "\n".join(self.lines)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(timeout=WAIT)
        self._reader.join(timeout=WAIT)
        return code

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.address[1]}"

    @property
    def ca(self) -> Path:
        return self.folder / "ca" / "ca.crt"

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._changed:
                self.lines.append(line.rstrip("\n"))
                self._changed.notify_all()

    def wait_for(self, pattern: str, after: int = 0) -> str:
        """Wait for the first line of the log, from number ``after`` on, that matches the pattern, and return it."""
        with self._changed:
            for _ in range(10_000):
                for line in self.lines[after:]:
                    if re.search(pattern, line):
                        return line
                assert self.process.poll() is None, "\n".join(self.lines)
                assert self._changed.wait(WAIT), f"no line with {pattern!r} in:\n" + "\n".join(self.lines)
        raise AssertionError(pattern)

    def tunnels(self, count: int) -> list[str]:
        """Wait for the first ``count`` log lines of tunnels, and return them."""
        with self._changed:
            while len(found := [line for line in self.lines if " tunnel " in line]) < count:
                assert self._changed.wait(WAIT), "\n".join(self.lines)
            return found[:count]


class Vanishing(gevent.socket.socket):
    """Its peer vanishes: after what was received, the system tells ETIMEDOUT once, and then an end."""

    told = False

    def recv(self, *arguments: int) -> bytes:
        """What was received, then the error, then nothing."""
        data: bytes = super().recv(*arguments)
        if not data and not self.told:
            self.told = True
            raise TimeoutError(errno.ETIMEDOUT, "Connection timed out")
        return data


class Origin:
    """A server on loopback: TLS with ``certificate``, which may also be a context, or plain TCP without one."""

    def __init__(
        self,
        handler: Handler,
        certificate: Path | ssl.SSLContext | None = None,
        alpn: list[str] | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        self._handler = handler
        self.connections = 0
        self.errors: list[Exception] = []
        self._context: ssl.SSLContext | None = None
        if isinstance(certificate, ssl.SSLContext):
            self._context = certificate
        elif certificate is not None:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(certificate)
            if alpn:
                self._context.set_alpn_protocols(alpn)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._server = StreamServer(socket.create_server((host, 0), family=family, backlog=512), self._serve)

    def __enter__(self) -> Self:
        self._server.start()
        self.port: int = self._server.socket.getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(timeout=0)

    def _serve(self, sock: socket.socket, _: object) -> None:
        self.connections += 1
        try:
            if self._context is None:
                self._handler(sock)
                return
            with self._context.wrap_socket(sock, server_side=True, suppress_ragged_eofs=False) as secure:
                self._handler(secure)
                with suppress(OSError):
                    secure.unwrap()
        except OSError:
            pass
        finally:
            forget_failures()


def forget_failures() -> None:
    """Clear OpenSSL's error queue, which is per thread, by beginning a handshake.

    Since OpenSSL 3.5, a failed system call is put on it; Python leaves it there, and takes it for a failure of the next
    connection that has to wait. Not so with ``MemoryBIO``, where OpenSSL makes no system calls.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    with suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname="localhost").do_handshake()


def http_origin(sock: socket.socket) -> None:
    """Answer each request with its own head as the body, until the client leaves."""
    with sock.makefile("rb") as file:
        while line := file.readline():
            head = [line]
            while (line := file.readline()) not in (b"\r\n", b""):
                head.append(line)
            body = b"".join(head)
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)


def echo(sock: socket.socket) -> None:
    """Send back what is received, and ``bye`` at the end."""
    while data := sock.recv(65_536):
        sock.sendall(data)
    sock.sendall(b"bye")


class Reply(NamedTuple):
    status: int
    reason: str
    headers: dict[str, str]
    body: bytes


def read_reply(sock: socket.socket, body: bool = True) -> Reply:
    """Read a response, its body by Content-Length, and not an octet more."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        octet = sock.recv(1)
        if not octet:
            raise EOFError(head)
        head += octet
    line, *fields = head.decode("latin-1").split("\r\n")[:-2]
    _, status, reason = line.split(" ", 2)
    headers = {key.lower(): value.strip() for key, value in (field.split(":", 1) for field in fields)}
    content = b""
    left = int(headers.get("content-length", 0)) if body and status != "304" else 0
    while left > len(content):
        data = sock.recv(left - len(content))
        if not data:
            raise EOFError(content)
        content += data
    return Reply(int(status), reason, headers, content)


def exchange(address: tuple[str, int], request: bytes) -> Reply:
    """Send one request on a new connection, and return the reply."""
    with socket.create_connection(address, timeout=WAIT) as sock:
        sock.sendall(request)
        return read_reply(sock)


@contextmanager
def tunnel(proxy: tuple[str, int], target: str) -> Iterator[socket.socket]:
    """An established CONNECT tunnel."""
    with socket.create_connection(proxy, timeout=WAIT) as sock:
        sock.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
        reply = read_reply(sock)
        assert reply.status == 200, reply
        yield sock


def cut_off(running: Program, sock: socket.socket) -> bytes:
    """What a client reads when certifier is interrupted repeatedly."""
    running.process.send_signal(signal.SIGINT)
    running.wait_for("stopping: 1 connection")
    sock.settimeout(0.2)
    while True:  # one after another: signals that are pending at the same time merge into one
        running.process.send_signal(signal.SIGINT)
        with suppress(TimeoutError):
            return sock.recv(100)


def strict_context(ca: Path, alpn: list[str] | None = None) -> ssl.SSLContext:
    """The context of a careful client: only this CA, strict RFC 5280 rules, names only in the SAN (RFC 9525)."""
    context = ssl.create_default_context(cafile=str(ca))
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.hostname_checks_common_name = False
    context.set_ciphers(_CAREFUL)
    if alpn:
        context.set_alpn_protocols(alpn)
    return context


@contextmanager
def secure_tunnel(
    program: Program,
    target: str,
    server_name: str | None = None,
    alpn: list[str] | None = None,
    context: ssl.SSLContext | None = None,
    session: ssl.SSLSession | None = None,
) -> Iterator[ssl.SSLSocket]:
    """TLS through a CONNECT tunnel, verified for ``server_name``, by default the target's host."""
    context = context or strict_context(program.ca, alpn)
    name = server_name or target.rpartition(":")[0].strip("[]")
    with (
        tunnel(program.address, target) as sock,
        context.wrap_socket(sock, server_hostname=name, suppress_ragged_eofs=False, session=session) as secure,
    ):
        yield secure


def no_memory(*_: object) -> None:
    """In place of what a greenlet is to do: what comes of it if no memory is left for its first frame."""
    raise MemoryError


def until(check: Callable[[], object]) -> None:
    """Poll until the check holds, for changes that nothing signals: in threads, other processes, the kernel."""
    with gevent.Timeout(WAIT):
        while not check():
            gevent.sleep(0.005)


@contextmanager
def reserved_port() -> Iterator[int]:
    """A port at which nobody listens, and which is given to nobody else; who names it can listen there (socket(7))."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


def tcp_sockets() -> list[list[str]]:
    """Linux's table of IPv4 sockets: among its columns, 1 and 2 are the two ends, 3 the state, and 9 the inode."""
    return [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]


@contextmanager
def no_garbage(*kinds: type) -> Iterator[None]:
    """Assert that no objects of these types are left that only the garbage collector can free."""
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        yield
        gevent.sleep(0)  # lets greenlets end
        gc.collect()
        assert not [found for found in gc.garbage if isinstance(found, kinds)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


class BioClient:
    """A TLS client that can close its own direction and read on, which ``SSLSocket`` can't.

    ``early`` is sent in the same segment as its Finished.
    """

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, server_name: str, early: bytes = b"") -> None:
        self._sock = sock
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_hostname=server_name)
        self._step(lambda: self._greet(early))

    def _greet(self, early: bytes) -> None:
        self._tls.do_handshake()
        if early:
            self._tls.write(early)

    def _step(self, step: Callable[[], object]) -> object:
        while True:
            try:
                result = step()
            except ssl.SSLWantReadError:
                self._sock.sendall(self._out.read())
                data = self._sock.recv(65_536)
                if not data:
                    self._in.write_eof()
                self._in.write(data)
            else:
                self._sock.sendall(self._out.read())
                return result

    def send(self, data: bytes) -> None:
        self._step(lambda: self._tls.write(data))

    def read(self) -> bytes:
        """The next data; empty at the peer's close_notify. Raises ``ssl.SSLEOFError`` on truncation."""
        try:
            data = self._step(lambda: self._tls.read(65_536))
        except ssl.SSLZeroReturnError:
            return b""
        assert isinstance(data, bytes)
        return data

    def close_notify(self) -> None:
        with suppress(ssl.SSLWantReadError):
            self._tls.unwrap()
        self._sock.sendall(self._out.read())


class BioServer:
    """A TLS server whose owner sends what it has to say, and so may add to it or hold it back."""

    def __init__(
        self, sock: socket.socket, certificate: Path, most: ssl.TLSVersion = ssl.TLSVersion.MAXIMUM_SUPPORTED
    ) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.maximum_version = most
        context.load_cert_chain(certificate)
        context.num_tickets = 0
        self._sock = sock
        self.came, self.goes = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.came, self.goes, server_side=True)

    def flight(self) -> bytes:
        """What answers the ClientHello, to be sent."""
        with suppress(ssl.SSLWantReadError):
            self.complete()
        return self.goes.read()

    def complete(self) -> None:
        """Go on with what arrives at once: the client's Finished, and perhaps more."""
        self.came.write(self._sock.recv(65_536))
        self.tls.do_handshake()


def get(sock: socket.socket, path: str = "/", method: str = "GET", host: str = "test") -> Reply:
    sock.sendall(f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    return read_reply(sock, body=method != "HEAD")


def serial_of(secure: ssl.SSLSocket) -> int:
    certificate = secure.getpeercert()
    assert certificate
    return int(str(certificate["serialNumber"]), 16)


def run(*words: str | Path, timeout: float = WAIT, **options: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([str(w) for w in words], capture_output=True, text=True, timeout=timeout, **options)  # type: ignore[call-overload,no-any-return]


@contextmanager
def talk(*words: str | Path) -> Iterator["subprocess.Popen[str]"]:
    """A process whose standard input stays open, with stderr merged into its output; killed at the end."""
    process = subprocess.Popen(
        [str(w) for w in words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()
