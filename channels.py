"""``Channels``: questions between several processes, and their answers.

A question is a datagram that carries a socket to answer on. So there is no path that others could find, or that a crash
leaves behind; an answer may be of any length; and the successor of a dead process finds the questions sent to it.
Deadlines are ``time.monotonic()`` seconds, which are the same in all processes of a machine.
"""

import logging
import socket
import time
from collections.abc import Callable
from contextlib import suppress

import gevent

import sockets

_QUESTION = 16_384  # octets at most
_PIECE = 65_536
_CLOEXEC: int = getattr(socket, "MSG_CMSG_CLOEXEC", 0)  # macOS has none

log = logging.getLogger("certifier.channels")


class Channels:
    """One channel to each of ``count`` processes, to be made before they are forked."""

    def __init__(self, count: int) -> None:
        self._pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(count)]
        for asking, _ in self._pairs:
            asking.settimeout(0.0)
        self._gaps = sockets.Gaps()  # many questions may come at once, and an answer may take some milliseconds

    def close(self) -> None:
        """Stop asking and answering, in this process."""
        for pair in self._pairs:
            for end in pair:
                end.close()

    def __len__(self) -> int:
        return len(self._pairs)

    def ask(self, number: int, question: bytes, deadline: float) -> bytes | None:
        """The answer of process ``number``; None if none comes by the deadline, or hundreds of questions are queued.

        An answer may be cut short if that process dies.
        """
        try:
            ours, theirs = socket.socketpair()
            with ours:
                with theirs:
                    socket.send_fds(self._pairs[number][0], [b"%.6f " % deadline, question], [theirs.fileno()])
                pieces: list[bytes] = []
                while True:
                    sockets.arm(ours, deadline)
                    piece = ours.recv(_PIECE)
                    if not piece:
                        return b"".join(pieces)
                    pieces.append(piece)
        except OSError:
            return None

    def serve(self, number: int, answer: Callable[[bytes], bytes]) -> None:
        """Answer the questions to process ``number``, until ``close``."""
        asked = self._pairs[number][1]
        while True:
            try:
                message, found, _, _ = socket.recv_fds(asked, _QUESTION, 1, _CLOEXEC)
            except OSError as error:
                if asked.fileno() < 0:
                    return
                log.warning("other workers' questions can't be read: %s", error)
                gevent.sleep(1.0)
                continue
            until, _, question = message.partition(b" ")
            for descriptor in found:  # none if we are out of descriptors: the asker then reads EOF
                gevent.spawn(self._reply, socket.socket(fileno=descriptor), float(until), question, answer)

    def _reply(self, sock: socket.socket, deadline: float, question: bytes, answer: Callable[[bytes], bytes]) -> None:
        """Answer, unless the asker no longer waits: a process that was stopped finds many such questions then."""
        with sock:
            self._gaps.wait()
            if time.monotonic() < deadline:
                said = answer(question)
                with suppress(OSError):  # the asker has left
                    sockets.arm(sock, deadline)
                    sock.sendall(said)
