"""``Acceptor``: accepts connections, and goes on where that fails: no descriptors, no memory, a client that left."""

import errno
import logging
import socket
import time
from typing import Any

from gevent.hub import Hub, get_hub
from gevent.server import StreamServer

_TELL_SECONDS = 60.0  # between two lines about it

log = logging.getLogger("certifier.acceptor")


class _Pause(Exception):
    """Nothing can be accepted for now: ``StreamServer`` tries again in 10 ms, then in twice that."""


class Acceptor(StreamServer):
    """A ``StreamServer`` that tells in the log why it pauses, where its base prints a traceback each time."""

    # Between two the connections that are there go on: a burst of new ones, each with a handshake, must not come first.
    max_accept = 5
    max_delay = 0.2  # seconds, of that doubling: what is missing may be there again at any time
    _tell_at = 0.0

    def start(self) -> None:
        """Accept from now on."""
        get_hub().NOT_ERROR = (*Hub.NOT_ERROR, _Pause)
        super().start()

    def do_read(self) -> tuple[socket.socket, Any]:
        """The next connection; called by the base class."""
        try:
            return super().do_read()
        except OSError as error:
            if self.is_fatal_error(error):
                raise
            if error.errno != errno.ECONNABORTED and time.monotonic() >= self._tell_at:
                self._tell_at = time.monotonic() + _TELL_SECONDS
                log.warning("can't accept connections for now: %s", error.strerror)
            raise _Pause from error
