"""certifier's steps that can fail, each named by the call, the peer and the function: ``recv client proxy.handle``.

For ``faulty.py``, which imports this after gevent's monkey-patching, and certifier after that.
"""

import errno
import os
import socket
import ssl
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from cryptography.exceptions import InternalError
from gevent import monkey

ROOMS = Path(__file__).parent.parent

Call = Callable[..., Any]

TOOLS = ("files", "reading", "workers", "sockets.send", "sockets.send_now")  # their callers describe the step better

_lock = monkey.get_original("_thread", "allocate_lock")()
_rooms = {str(path): path.stem for path in ROOMS.glob("*.py")}


class Faults:
    """Counts steps, and makes the armed one fail, once."""

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
        """Count a step; return the error it must fail with, or None."""
        with _lock:
            self.steps[step] += 1
            if self._armed is None or (step, self.steps[step]) != self._armed[:2]:
                return None
            error, self._armed, self.fired = self._armed[2], None, True
            return error


faults = Faults()


def place() -> str | None:
    """The innermost function of certifier on the stack that is not in ``TOOLS``."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        room, name = _rooms.get(frame.f_code.co_filename), frame.f_code.co_name
        if room is not None and not name.startswith("<"):  # comprehensions have frames in some versions
            found = f"{room}.{name}"
            if room not in TOOLS and found not in TOOLS:
                return found
        frame = frame.f_back
    return None


def exception(error: str) -> BaseException:
    """The exception for a test's ``ENOSPC``, ``gai:EAI_NONAME``, ``timeout`` ..."""
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
    """Wrap a call so that it may fail. ``side`` returns the peer's name, given the call's first argument."""

    def call(*arguments: Any, **keywords: Any) -> Any:
        where = place()
        if where is not None:
            error = faults.visit(f"{what} {side(arguments[0])} {where}" if side else f"{what} {where}")
            if error is not None:
                if what == "close":
                    real(*arguments, **keywords)  # close() closes even when it fails
                raise exception(error)
        return real(*arguments, **keywords)

    return call


def replace(owner: object, *names: str, what: str = "", **options: Any) -> None:
    for name in names:
        setattr(owner, name, faulty(getattr(owner, name), what or name.strip("_"), **options))
