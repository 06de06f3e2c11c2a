"""``Acceptor``: accepts connections; where none can be accepted, for lack of descriptors, it waits and says so."""

import logging
import time

from gevent import get_hub
from gevent.server import StreamServer
from gevent.socket import socket

TELL_SECONDS = 1.0  # between two lines in the log

log = logging.getLogger("certifier")


class _NoneLeft(Exception):
    """A connection could not be accepted, and that was told."""


class Acceptor(StreamServer):
    """A ``StreamServer`` whose log lines are ours.

    gevent waits after a failed accept, from 10 ms to a second, while connections queue in the kernel. It also prints a
    traceback each time.
    """

    _told = 0.0

    def start(self) -> None:
        """Begin to accept."""
        hub = get_hub()
        hub.NOT_ERROR = (*hub.NOT_ERROR, _NoneLeft)  # so it prints none
        super().start()

    def do_read(self) -> tuple[socket, tuple[str, int]]:
        """The next connection; nothing if there is none."""
        try:
            return super().do_read()
        except OSError as error:
            if self.is_fatal_error(error):
                raise
            now = time.monotonic()
            if now >= self._told + TELL_SECONDS:
                self._told = now
                log.error("can't accept connections for the moment: %s", error.strerror)
            raise _NoneLeft from error
