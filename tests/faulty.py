"""certifier with fault injection: system calls, and other steps that can fail, fail when a test says so.

    python tests/faulty.py <control socket> <certifier's arguments>...

``steps.py`` says how steps are named. Each line on the control socket is a command and its arguments as a JSON array,
answered with a line of JSON: see ``Control``.
"""

# ruff: noqa: E402 - as in certifier.py
from gevent import monkey

monkey.patch_all()

import _socket
import builtins
import fcntl
import gc
import io
import json
import os
import socket
import ssl
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import gevent
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from gevent.event import Event
from gevent.server import StreamServer
from gevent.threadpool import ThreadPool
from steps import ROOMS, Call, exception, faults, faulty, place, replace

SETTLE_SECONDS = 5.0
HOUR_SECONDS = 3600.0

_sleep, _fstat = gevent.sleep, os.fstat

ports: set[int] = set()  # that certifier listens on
redirected: dict[int, int] = {}  # an origin's port: the one to connect to instead
ended: set[int] = set()  # inodes of sockets at EOF, whatever the peer still sends
crowded = False  # every non-blocking send fails with EAGAIN


def on_socket(real: Call, what: str, nothing: object = None) -> Call:
    """Wrap a call on a socket object or a file descriptor. ``nothing`` is what the call returns at EOF.

    A fatal error leaves a dead connection behind; ``eof``, one whose peer has ended its direction.
    """

    def call(sock: Any, *arguments: Any, **keywords: Any) -> Any:
        where = place()
        fd = sock if isinstance(sock, int) else sock.fileno()
        if where is None or fd < 0:
            return real(sock, *arguments, **keywords)
        inode = _fstat(fd).st_ino
        with _borrowed(fd) as found:
            side = "client" if found.getsockname()[1] in ports else "origin"
            error = faults.visit(f"{what} {side} {where}")
            if error == "eof":
                ended.add(inode)
            elif error is not None:
                if error in ("ECONNRESET", "EPIPE", "ENOTCONN"):
                    ended.add(inode)
                    with suppress(OSError):
                        found.shutdown(socket.SHUT_RDWR)  # wakes up whoever waits for it
                raise exception(error)
        if what == "send" and crowded:
            raise exception("EAGAIN")
        return nothing if nothing is not None and inode in ended else real(sock, *arguments, **keywords)

    return call


@contextmanager
def _borrowed(fd: int) -> Iterator[Any]:
    """A socket object for a descriptor, without taking it over."""
    sock = _socket.socket(fileno=fd)
    try:
        yield sock
    finally:
        sock.detach()


def writing(real: Call) -> Call:
    """``os.write``: to a socket, or to a file."""
    on_file, to_socket = faulty(real, "write"), on_socket(real, "send")

    def call(fd: int, data: Any) -> int:
        return (to_socket if stat.S_ISSOCK(_fstat(fd).st_mode) else on_file)(fd, data)  # type: ignore[no-any-return]

    return call


def tls_side(tls: ssl.SSLObject) -> str:
    return "client" if tls.server_side else "origin"


class FaultyFile(io.FileIO):
    """A file whose reads and writes may fail."""

    def write(self, data: Any) -> int:
        return faulty(super().write, "write")(data)  # type: ignore[no-any-return]

    def read(self, *size: Any) -> Any:
        return faulty(super().read, "read")(*size)

    def readall(self) -> Any:
        return faulty(super().readall, "read")()

    def readinto(self, buffer: Any) -> Any:
        return faulty(super().readinto, "read")(buffer)


def opening(real: Call) -> Call:
    """``open`` that may fail, and returns binary files that may fail."""

    def call(file: Any, mode: str = "r", buffering: int = -1, *rest: Any, **keywords: Any) -> Any:
        if place() is None:
            return real(file, mode, buffering, *rest, **keywords)
        if not isinstance(file, int):
            file = os.fspath(file)
            faulty(lambda: None, "open")()
        if "b" not in mode:
            return real(file, mode, buffering, *rest, **keywords)
        raw = FaultyFile(file, mode.replace("b", ""), **keywords)
        if buffering == 0:
            return raw
        if raw.readable() and raw.writable():
            return io.BufferedRandom(raw)
        return io.BufferedReader(raw) if raw.readable() else io.BufferedWriter(raw)

    return call


def instrument() -> None:
    """Make what certifier's modules call faulty, before they are imported."""
    kind: Any = socket.socket
    connect = kind.connect
    kind.connect = lambda sock, where: connect(sock, (where[0], redirected.get(where[1], where[1])))
    kind.recv = on_socket(kind.recv, "recv", b"")
    kind.recv_into = on_socket(kind.recv_into, "recv", 0)
    os.readv = on_socket(os.readv, "readv", 0)
    os.write = writing(os.write)
    inner: Any = type(kind()._sock)
    plain, last = inner.send, on_socket(inner.send, "send")
    # ``sendall``, which is faulty itself, calls it without flags.
    inner.send = lambda sock, data, flags=0: (last if flags else plain)(sock, data, flags)
    for name in ("sendall", "connect", "setsockopt", "shutdown", "getpeername", "getsockname"):
        setattr(kind, name, on_socket(getattr(kind, name), name))
    begin, faulty_begin = kind.__init__, faulty(kind.__init__, "socket")
    kind.__init__ = lambda *words, **options: (begin if "fileno" in options else faulty_begin)(*words, **options)
    replace(ssl.SSLContext, "set_ciphers", "load_cert_chain", "set_alpn_protocols", "wrap_bio")
    replace(ssl.SSLObject, "do_handshake", "unwrap", side=tls_side)
    replace(ssl.SSLObject, "read", what="tls read", side=tls_side)
    replace(ssl.SSLObject, "write", what="tls write", side=tls_side)
    replace(ssl, "MemoryBIO")
    originals = monkey.saved["os"]  # type: ignore[attr-defined]  # where ``get_original`` looks
    originals["close"] = faulty(originals["close"], "close")
    replace(
        os, "open", "close", "read", "stat", "lstat", "mkdir", "scandir", "link", "rename", "unlink", "utime", "fstat"
    )
    replace(os, "fchmod", "fsync", "fdatasync", "pwrite", "pwritev", "ftruncate", "memfd_create")
    replace(fcntl, "flock")
    io.open = opening(io.open)
    builtins.open = io.open
    replace(gevent, "spawn")
    replace(ThreadPool, "spawn", what="thread")
    replace(StreamServer, "do_read", what="accept")
    replace(ec, "generate_private_key")
    replace(x509.CertificateBuilder, "sign")
    replace(x509.CertificateSigningRequestBuilder, "sign", what="sign request")
    replace(x509.CertificateRevocationListBuilder, "sign", what="sign CRL")
    replace(x509, "load_pem_x509_certificate")
    replace(serialization, "load_pem_private_key")


class Control:
    """The commands of a test: the public methods, except ``serve``."""

    def __init__(self) -> None:
        self.offset = 0.0  # of the clock
        self.hour = Event()
        self.resting = Event()  # set when the hourly work is finished
        self._pools: list[ThreadPool] = []
        self._fds = self._threads = 0
        self._marks = 0
        self._admission: Any = None
        self._contexts: Any = None

    def forget(self) -> None:
        """Drop all contexts from memory."""
        self._contexts.clear()

    def https(self, port: int) -> None:
        """Redirect port 443 of all origins to another one, which needs no privileges."""
        redirected[443] = port

    def arm(self, step: str, nth: int, error: str) -> None:
        faults.arm(step, nth, error)

    def crowd(self, on: bool) -> None:
        """Make every non-blocking send fail with EAGAIN, so that the sender has to wait."""
        global crowded
        crowded = on

    def wait(self, *steps: str) -> bool:
        """Wait until one of the steps has begun or the fault has happened; return False on timeout."""
        return self._until(lambda: faults.fired or any(faults.steps[step] for step in steps))

    def clock(self, offset: float) -> None:
        self.offset = offset

    def an_hour_passes(self) -> bool:
        """Trigger the hourly work; return whether it finishes in time."""
        self.resting.clear()
        self.hour.set()
        self.hour.clear()
        return self.resting.wait(SETTLE_SECONDS)

    def start(self) -> None:
        """Take what exists now as the baseline of ``settle``."""
        self.resting.wait()  # house-keeping at the start
        gc.unfreeze()  # get_objects() omits what the program froze at its start
        self._pools = [found for found in gc.get_objects() if isinstance(found, ThreadPool)]
        for pool in self._pools:
            pool.size = pool.maxsize
        self._admission, self._contexts = _only("Admission"), _only("ContextCache")
        self._until(lambda: not self._admission.count and not self._tasks())
        gc.collect()
        gc.freeze()
        self._fds, self._threads = self._held()

    def settle(self) -> dict[str, Any]:
        """Wait until all is as at the start; return what is left over, and what has happened since ``arm``."""
        self._until(lambda: not self._left())
        left = self._left()
        self._marks += 1
        sys.stderr.write(f"mark {self._marks}\n")
        sys.stderr.flush()
        return {"left": left, "fired": faults.fired, "steps": dict(faults.steps), "mark": self._marks}

    def _left(self) -> dict[str, int]:
        # Check tasks first: a tuple under construction on another thread can't be resized once get_objects() holds it.
        if tasks := self._tasks():
            return {"tasks": tasks}
        fds, threads = self._held()
        left = {
            "connections": self._admission.count,
            "descriptors": fds - self._fds,
            "threads": threads - self._threads,
            "greenlets": sum(isinstance(found, gevent.Greenlet) and not found.dead for found in gc.get_objects()),
        }
        return {what: count for what, count in left.items() if count > 0}

    def _tasks(self) -> int:
        return sum(pool.task_queue.unfinished_tasks for pool in self._pools)

    @staticmethod
    def _held() -> tuple[int, int]:
        return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))

    @staticmethod
    def _until(true: Callable[[], object]) -> bool:
        deadline = time.monotonic() + SETTLE_SECONDS
        while not true() and time.monotonic() < deadline:
            _sleep(0.001)
        return bool(true())

    def serve(self, sock: socket.socket, _: object) -> None:
        with sock.makefile("rw") as file:
            for line in file:
                command, *arguments = json.loads(line)
                file.write(json.dumps(getattr(self, command)(*arguments)) + "\n")
                file.flush()


def _only(name: str) -> object:
    (found,) = (found for found in gc.get_objects() if type(found).__name__ == name)
    return found


def main(path: str, arguments: list[str]) -> int:
    control = Control()
    instrument()
    system_time = time.time
    time.time = lambda: system_time() + control.offset
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    StreamServer(listener, control.serve).start()
    sys.path.insert(0, str(ROOMS))
    import certifier
    import health
    import listening
    import program
    import resolver
    import sockets
    import users

    def sleep(seconds: float = 0, ref: bool = True) -> None:
        if seconds == program.HOUR_SECONDS:
            control.resting.set()
            control.hour.wait()
        else:
            _sleep(seconds)

    gevent.sleep = sleep
    resolver._BAD_SECONDS = users.REMEMBER_SECONDS = health.LOOK_SECONDS = 0.0  # a good request can follow at once
    resolver._GOOD_SECONDS = HOUR_SECONDS  # a repeated request takes the same steps
    look_up = resolver._getaddrinfo

    def getaddrinfo(host: str, *rest: Any, **options: Any) -> Any:
        """The lab's DNS: all names below example.com are local; some also have an address that refuses connections."""
        if not host.endswith(".example.com"):
            return look_up(host, *rest, **options)
        refusing = look_up("127.0.0.2", *rest, **options) if host.startswith("two") else []
        return refusing + look_up("127.0.0.1", *rest, **options)

    resolver._getaddrinfo = faulty(getaddrinfo, "getaddrinfo")
    replace(sockets, "wait", "either", what="wait")
    listen = listening._listen

    def listen_here(*details: Any, **options: Any) -> socket.socket:
        found = listen(*details, **options)
        ports.add(found.getsockname()[1])
        return found

    listening._listen = listen_here
    return certifier.main(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
