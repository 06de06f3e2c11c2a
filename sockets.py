"""TCP sockets with deadlines: connecting, sending, watching two of them, the last reply.

Deadlines are ``time.monotonic()`` seconds; one that passes raises ``TimeoutError``.
"""

import errno
import os
import socket
import struct
import time
from contextlib import suppress
from typing import Any

import gevent
from gevent.hub import Waiter, get_hub
from gevent.lock import BoundedSemaphore

READ, WRITE = 1, 2  # libev's event mask
_QUICKACK: int | None = getattr(socket, "TCP_QUICKACK", None)  # Linux only
_MORE: int = getattr(socket, "MSG_MORE", 0)  # Linux only
LINGER_SECONDS = 1.0  # how long, and how many octets, we keep reading after the last reply on a connection:
LINGER_OCTETS = 1 << 20  # closed with unread input, the kernel sends a reset, which can lose the reply


def tune(sock: socket.socket) -> None:
    """No Nagle delay: records are written whole. Keep-alive: a vanished peer is noticed, after some hours."""
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    except OSError:  # a connection that is gone already: its next use fails
        pass


def acknowledge(sock: socket.socket) -> bool:
    """Acknowledge received data with nothing to send: a peer with Nagle's algorithm may wait 40 ms for that.

    Returns whether this system can do that.
    """
    if _QUICKACK is None:
        return False
    try:
        sock.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)
    except OSError:  # a connection that is gone already
        pass
    return True


def arm(sock: socket.socket, deadline: float) -> None:
    """Let the socket's next wait end at the deadline."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("deadline passed")
    sock.settimeout(left)


def ran_out(error: BaseException | None) -> bool:
    """Whether a deadline passed. The system's ETIMEDOUT, a peer that vanished, is a ``TimeoutError``, too."""
    return isinstance(error, TimeoutError) and error.errno is None


def wait(sock: socket.socket, deadline: float, event: int = READ) -> None:
    """Wait until the socket can be read (data or its end) or, by ``event``, written.

    For when there is nothing to read yet, as after a request: gevent's calls try first, and cost twice as much.
    """
    # The socket's own watcher: another one would cost as much as the wait. gevent's calls that need it meanwhile raise.
    _first((sock._read_event if event == READ else sock._write_event,), deadline)  # type: ignore[attr-defined]


def either(one: socket.socket, other: socket.socket, deadline: float | None = None) -> int:
    """Wait until one of two can be read (data or its end); return 0 for the first one, 1 for the other."""
    watchers = one._read_event, other._read_event  # type: ignore[attr-defined]
    while True:
        try:
            return _first(watchers, deadline)
        except OSError as error:
            if error.errno != errno.EBADF:  # gevent raises that if we shut one down: the next pass tells which
                raise


def _first(watchers: tuple[Any, ...], deadline: float | None) -> int:
    hub = get_hub()
    waiter: Waiter[int | None] = Waiter(hub)
    timer = None
    if deadline is not None:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("deadline passed")
        timer = hub.loop.timer(left)
        timer.start(waiter.switch, None, update=True)  # from now on, not from when the hub last looked at the clock
    try:
        for number, watcher in enumerate(watchers):
            watcher.start(waiter.switch, number)
        found = waiter.get()
    finally:
        for watcher in watchers:
            watcher.stop()
        if timer is not None:
            timer.close()
    if found is None:
        raise TimeoutError("deadline passed")
    return found


def connect(sock: socket.socket, address: tuple[str, int], deadline: float) -> None:
    """Connect to an IP address. Raises ``OSError``."""
    sock.settimeout(0.0)
    try:
        sock.connect(address)
    except BlockingIOError:
        wait(sock, deadline, WRITE)
        error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            raise OSError(error, os.strerror(error)) from None
    sock.settimeout(None)


def give_way() -> None:
    """Let all other greenlets run that can. After ``sleep(0)``, gevent polls sockets only every fiftieth time."""
    gevent.sleep(1e-6)


class Gaps:
    """Lets others run between any two greenlets that hold the hub for some milliseconds, however many wake at once."""

    def __init__(self) -> None:
        self._one = BoundedSemaphore()

    def wait(self) -> None:
        """Return once all others that could run have done so since the last one of them returned."""
        with self._one:
            give_way()


def peer(sock: socket.socket) -> tuple[str, int] | None:
    """The address at the other end; None if it is no longer connected."""
    try:
        host, port, *_ = sock.getpeername()
    except OSError:
        return None
    return host, port


def send_now(sock: socket.socket, data: bytes, last: bool = False) -> int:
    """Send what the socket accepts without waiting; return the number of octets.

    ``last``: a FIN follows at once. It goes in the same segment, which saves one, and waking the peer twice.
    """
    try:
        if last and _MORE:
            sent: int = sock._sock.send(data, _MORE)  # type: ignore[attr-defined]  # gevent's own ``send`` may wait
            return sent
        return os.write(sock.fileno(), data)
    except BlockingIOError:
        return 0


def send(sock: socket.socket, data: bytes, last: bool = False) -> bool:
    """Send all; return whether it waited for a slow peer. (``sendall`` asks for the buffer's size each time.)"""
    sent = send_now(sock, data, last)
    if sent == len(data):
        return False
    sock.sendall(memoryview(data)[sent:])
    return True


def has_ended(sock: socket.socket) -> bool:
    """Whether a socket's peer has closed and all that it sent was read; does not wait."""
    before = sock.gettimeout()
    sock.settimeout(0)
    try:
        return not sock.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True
    finally:
        sock.settimeout(before)


def has_input(sock: socket.socket) -> bool:
    """Whether something has been received, data or the peer's end, that is still to be read."""
    try:
        sock._sock.recv(1, socket.MSG_PEEK)  # type: ignore[attr-defined]  # never waits, as gevent's own may
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def shut(sock: socket.socket, how: int = socket.SHUT_RDWR) -> None:
    """``shutdown`` that ignores a lost connection; wakes greenlets waiting on the socket."""
    try:
        sock.shutdown(how)
    except OSError:
        pass


def is_lost(error: OSError) -> bool:
    """Whether a write failed as TCP had: by a reset, silence or some ICMP error, before the peer's FIN.

    The kernel says so once: a read then finds an end that looks orderly. After the FIN, or if we shut our own side, it
    says EPIPE.
    """
    return error.errno not in (None, errno.EPIPE)


def fail_writer(sock: socket.socket) -> None:
    """Let a greenlet that waits to send raise ``ConnectionAbortedError``, without the FIN that ``shut`` sends."""
    get_hub().cancel_wait(sock._write_event, ConnectionAbortedError("given up"))  # type: ignore[attr-defined]


def reset(sock: socket.socket) -> None:
    """Make ``close`` send a reset instead of a FIN: what was cut off must not look complete."""
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def last_word(sock: socket.socket, reply: bytes, *, fin: bool = True) -> None:
    """Send the last reply on a connection so that it arrives: follow it by a FIN, then read on for a while.

    Without ``fin``, whoever calls says how the connection ended.
    """
    deadline = time.monotonic() + LINGER_SECONDS
    left = LINGER_OCTETS
    with suppress(OSError):
        arm(sock, deadline)
        if reply:
            send(sock, reply)
        if fin:
            sock.shutdown(socket.SHUT_WR)
        while left > 0:
            wait(sock, deadline)
            data = sock.recv(65_536)
            if not data:
                break
            left -= len(data)
