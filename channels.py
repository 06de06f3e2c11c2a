"""``Channels``: questions from each of several processes to each, and their answers.

A question is a datagram that brings a socket to answer on. So there is no path that others could find, or that a
crash leaves; an answer has no bound but its end; and the successor of a process that died finds the questions to it.
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
    """One to each of so many processes, made before they are forked."""

    def __init__(self, count: int) -> None:
        self._pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(count)]
        for asking, _ in self._pairs:
            asking.settimeout(0.0)

    def close(self) -> None:
        """In this process, ask and answer no more."""
        for pair in self._pairs:
            for end in pair:
                end.close()

    def __len__(self) -> int:
        return len(self._pairs)

    def ask(self, number: int, question: bytes, deadline: float) -> bytes | None:
        """What process ``number`` answers; None if it does not by the deadline, or has hundreds of questions waiting.

        An answer may be cut short, by the death of who gives it.
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
        """Answer what process ``number`` is asked, until ``close``."""
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
            for descriptor in found:  # none where we are out of them: then who asked finds the end
                gevent.spawn(_reply, socket.socket(fileno=descriptor), float(until), question, answer)


def _reply(sock: socket.socket, deadline: float, question: bytes, answer: Callable[[bytes], bytes]) -> None:
    """Answer, unless who asked waits no more: a process that was stopped finds many such when it goes on."""
    with sock:
        if time.monotonic() < deadline:
            said = answer(question)
            with suppress(OSError):  # who asked has left
                sockets.arm(sock, deadline)
                sock.sendall(said)
