"""``Acceptor``: accepts connections, and goes on when that fails: no descriptors, no memory, a client that left."""

import errno
import logging
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from gevent.hub import Hub, get_hub
from gevent.server import StreamServer

from staff import Staff

_TELL_SECONDS = 60.0  # between two log lines about it

log = logging.getLogger("certifier.acceptor")


class _Pause(Exception):
    """Nothing can be accepted for now: ``StreamServer`` tries again in 10 ms, then in twice that."""


class Acceptor(StreamServer):
    """A ``StreamServer`` that logs why it pauses; its base class prints a traceback each time."""

    # Per turn of the event loop: a burst of new connections, each with a handshake, must not starve the existing ones.
    max_accept = 5
    max_delay = 0.2  # seconds, the bound of the doubling: what is missing may be available again at any time
    _tell_at = 0.0

    def __init__(self, listener: socket.socket, handle: Callable[[socket.socket, Any], object], staff: Staff) -> None:
        """``handle`` is called with each connection and its peer's address by one of the ``staff``."""
        super().__init__(listener, handle, spawn=staff.spawn)  # type: ignore[call-overload]  # it needs no greenlet back
        self._staff = staff

    def start(self) -> None:
        """Start accepting."""
        get_hub().NOT_ERROR = (*Hub.NOT_ERROR, _Pause)
        super().start()

    def take_queued(self, most: int) -> None:
        """Accept what the kernel has queued, at most so many: those clients are connected, and closing resets them."""
        with suppress(_Pause, OSError):
            for _ in range(most):
                accepted = self.do_read()
                if not accepted:
                    return
                self.do_handle(*accepted)

    def do_read(self) -> tuple[socket.socket, Any]:
        """The next connection; called by the base class."""
        if self._staff.is_full:
            raise _Pause
        try:
            return super().do_read()
        except OSError as error:
            if self.is_fatal_error(error):
                raise
            if error.errno != errno.ECONNABORTED and time.monotonic() >= self._tell_at:
                self._tell_at = time.monotonic() + _TELL_SECONDS
                log.warning("can't accept connections for now: %s", error.strerror)
            raise _Pause from error
