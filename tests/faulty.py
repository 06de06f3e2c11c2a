"""certifier with faults to order: each system call, and each other step that can fail, fails when a test says so.

    python tests/faulty.py <control socket> <certifier's arguments>...

A step is called by what is done, to whom, and where in certifier: ``recv client proxy.handle``. Each line on the
control socket is a command and its arguments as a JSON array, answered by a line of JSON: see ``Control``.
"""

# ruff: noqa: E402 - as in certifier.py
from gevent import monkey

monkey.patch_all()

import builtins
import errno
import fcntl
import gc
import io
import json
import os
import socket
import ssl
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any
from weakref import WeakSet

import gevent
from cryptography import x509
from cryptography.exceptions import InternalError
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from gevent.event import Event
from gevent.server import StreamServer
from gevent.threadpool import ThreadPool

ROOMS = Path(__file__).parent.parent
SETTLE_SECONDS = 5.0
HOUR_SECONDS = 3600.0

Call = Callable[..., Any]

TOOLS = ("files", "workers")  # rooms whose callers say better what it is about

_lock = monkey.get_original("_thread", "allocate_lock")()
_rooms = {str(path): path.stem for path in ROOMS.glob("*.py")}


class Faults:
    """Counts steps, and lets the one that is armed fail, once."""

    def __init__(self) -> None:
        self.steps: Counter[str] = Counter()
        self.fired = False
        self._armed: tuple[str, int, str] | None = None

    def arm(self, step: str, nth: int, error: str) -> None:
        with _lock:
            self.steps.clear()
            self.fired = False
            self._armed = (step, nth, error)

    def visit(self, step: str) -> str | None:
        """Count a step; the error that it is to fail with, if it is."""
        with _lock:
            self.steps[step] += 1
            if self._armed is None or (step, self.steps[step]) != self._armed[:2]:
                return None
            error, self._armed, self.fired = self._armed[2], None, True
            return error


faults = Faults()
ports: set[int] = set()  # that certifier listens on
redirected: dict[int, int] = {}  # ports of origins
ended: WeakSet[Any] = WeakSet()  # sockets whose peer says no more, whatever it sends


def place() -> str | None:
    """The function of certifier's that is nearest on the stack, but for the tools'."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        room, name = _rooms.get(frame.f_code.co_filename), frame.f_code.co_name
        if room is not None and room not in TOOLS and not name.startswith("<"):  # comprehensions: in some versions
            return f"{room}.{name}"
        frame = frame.f_back
    return None


def exception(error: str) -> BaseException:
    """What a test calls ``ENOSPC``, ``gai:EAI_NONAME``, ``timeout`` ..."""
    kind, _, detail = error.partition(":")
    if kind == "timeout":
        return TimeoutError("timed out")
    if kind == "memory":
        return MemoryError()
    if kind == "thread":
        return RuntimeError("can't start new thread")
    if kind == "internal":
        return InternalError("Unknown OpenSSL error.", [])
    if kind == "gai":
        return socket.gaierror(getattr(socket, detail), "injected")
    if kind == "ssl":
        failure = ssl.SSLError(1, "[SSL: INTERNAL_ERROR] internal error")
        failure.reason = "INTERNAL_ERROR"
        return failure
    number = getattr(errno, kind)
    return OSError(number, os.strerror(number))


def faulty(real: Call, what: str, side: Callable[[Any], str] | None = None) -> Call:
    """The call, which may fail. ``side`` tells whom it is done to, by its first argument."""

    def call(*arguments: Any, **keywords: Any) -> Any:
        where = place()
        if where is not None:
            error = faults.visit(f"{what} {side(arguments[0])} {where}" if side else f"{what} {where}")
            if error is not None:
                if what == "close":
                    real(*arguments, **keywords)  # one that fails has closed all the same
                raise exception(error)
        return real(*arguments, **keywords)

    return call


def replace(owner: object, *names: str, what: str = "", **options: Any) -> None:
    for name in names:
        setattr(owner, name, faulty(getattr(owner, name), what or name.strip("_"), **options))


def on_socket(real: Call, what: str, nothing: object) -> Call:
    """A socket's method. One that fails leaves a dead connection behind, at ``eof`` one whose peer has ended."""

    def call(sock: Any, *arguments: Any, **keywords: Any) -> Any:
        where = place()
        if where is None:
            return real(sock, *arguments, **keywords)
        side = "client" if sock._sock.getsockname()[1] in ports else "origin"
        error = faults.visit(f"{what} {side} {where}")
        if error == "eof":
            ended.add(sock)
        elif error is not None:
            if error in ("ECONNRESET", "EPIPE", "ENOTCONN"):
                ended.add(sock)
                sock._sock.shutdown(socket.SHUT_RDWR)  # wakes who waits for it
            raise exception(error)
        return nothing if what == "recv" and sock in ended else real(sock, *arguments, **keywords)

    return call


def tls_side(tls: ssl.SSLObject) -> str:
    return "client" if tls.server_side else "origin"


class FaultyFile(io.FileIO):
    """A file whose reading and writing may fail."""

    def write(self, data: Any) -> int:
        return faulty(super().write, "write")(data)  # type: ignore[no-any-return]

    def read(self, *size: Any) -> Any:
        return faulty(super().read, "read")(*size)

    def readall(self) -> Any:
        return faulty(super().readall, "read")()

    def readinto(self, buffer: Any) -> Any:
        return faulty(super().readinto, "read")(buffer)


def opening(real: Call) -> Call:
    """``open``, which may fail, of files that may."""

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
    """Make what rooms call faulty, before they are imported."""
    kind: Any = socket.socket
    connect = kind.connect
    kind.connect = lambda sock, where: connect(sock, (where[0], redirected.get(where[1], where[1])))
    kind.recv = on_socket(kind.recv, "recv", b"")
    kind.recv_into = on_socket(kind.recv_into, "recv", 0)
    for name in ("sendall", "connect", "setsockopt", "shutdown", "getpeername", "getsockname"):
        setattr(kind, name, on_socket(getattr(kind, name), name, None))
    begin, faulty_begin = kind.__init__, faulty(kind.__init__, "socket")
    kind.__init__ = lambda *words, **options: (begin if "fileno" in options else faulty_begin)(*words, **options)
    replace(ssl.SSLContext, "set_ciphers", "load_cert_chain", "set_alpn_protocols", "wrap_bio")
    replace(ssl.SSLObject, "do_handshake", "unwrap", side=tls_side)
    replace(ssl.SSLObject, "read", what="tls read", side=tls_side)
    replace(ssl.SSLObject, "write", what="tls write", side=tls_side)
    replace(ssl, "MemoryBIO")
    replace(os, "open", "close", "stat", "lstat", "mkdir", "scandir", "link", "rename", "unlink", "utime", "fstat")
    replace(os, "fchmod", "fsync", "pwrite", "ftruncate", "memfd_create")
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
    """What a test can order; each public method is a command."""

    def __init__(self) -> None:
        self.offset = 0.0  # of the clock
        self.hour = Event()
        self.resting = Event()  # what is done once an hour is done
        self._pools: list[ThreadPool] = []
        self._fds = self._threads = 0
        self._marks = 0
        self._admission: Any = None
        self._contexts: Any = None

    def forget(self) -> None:
        """No context is in memory."""
        self._contexts.clear()

    def https(self, port: int) -> None:
        """Let port 443 of all origins be another one, which needs no privileges."""
        redirected[443] = port

    def arm(self, step: str, nth: int, error: str) -> None:
        faults.arm(step, nth, error)

    def wait(self, step: str, nth: int) -> bool:
        """Wait until a step was begun that often, or the fault happened; whether that came to be."""
        return self._until(lambda: faults.fired or faults.steps[step] >= nth)

    def clock(self, offset: float) -> None:
        self.offset = offset

    def an_hour_passes(self) -> bool:
        """What is done once an hour is due; whether it ends."""
        self.resting.clear()
        self.hour.set()
        self.hour.clear()
        return self.resting.wait(SETTLE_SECONDS)

    def start(self) -> None:
        """What is there now is the baseline of ``settle``."""
        self.resting.wait()
        self._pools = [found for found in gc.get_objects() if isinstance(found, ThreadPool)]
        for pool in self._pools:
            pool.size = pool.maxsize
        self._admission, self._contexts = _only("Admission"), _only("ContextCache")
        gc.collect()
        gc.freeze()
        self._fds, self._threads = self._held()

    def settle(self) -> dict[str, Any]:
        """Wait until all is as it was at the start; what is left over, and what happened since ``arm``."""
        self._until(lambda: not self._left())
        left = self._left()
        self._marks += 1
        sys.stderr.write(f"mark {self._marks}\n")
        sys.stderr.flush()
        return {"left": left, "fired": faults.fired, "steps": dict(faults.steps), "mark": self._marks}

    def _left(self) -> dict[str, int]:
        fds, threads = self._held()
        self._fds = min(fds, self._fds)  # some connection may not have been closed at the start
        left = {
            "connections": self._admission.count,
            "tasks": sum(pool.task_queue.unfinished_tasks for pool in self._pools),
            "descriptors": fds - self._fds,
            "threads": threads - self._threads,
            "greenlets": sum(isinstance(found, gevent.Greenlet) and not found.dead for found in gc.get_objects()),
        }
        return {what: count for what, count in left.items() if count}

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
    import resolver
    import users

    def sleep(seconds: float = 0, ref: bool = True) -> None:
        if seconds == certifier.HOUR_SECONDS:
            control.resting.set()
            control.hour.wait()
        else:
            _sleep(seconds)

    gevent.sleep = sleep
    resolver._BAD_SECONDS = users.REMEMBER_SECONDS = 0.0  # a good request shall follow at once
    resolver._GOOD_SECONDS = HOUR_SECONDS  # who asks twice shall take the same steps
    look_up = resolver._getaddrinfo

    def getaddrinfo(host: str, *rest: Any, **options: Any) -> Any:
        """The lab's DNS: all names below example.com are here, some of them at an address that refuses, too."""
        if not host.endswith(".example.com"):
            return look_up(host, *rest, **options)
        refusing = look_up("127.0.0.2", *rest, **options) if host.startswith("two") else []
        return refusing + look_up("127.0.0.1", *rest, **options)

    resolver._getaddrinfo = faulty(getaddrinfo, "getaddrinfo")
    listen = certifier._listen

    def listen_here(target: Any) -> socket.socket:
        found = listen(target)
        ports.add(found.getsockname()[1])
        return found

    certifier._listen = listen_here
    return certifier.main(arguments)


_sleep = gevent.sleep

if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
