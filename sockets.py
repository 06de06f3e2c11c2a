"""What certifier does with a TCP socket beside sending and receiving: deadlines, watching two, the last word.

Deadlines are ``time.monotonic()`` seconds; one that passes raises ``TimeoutError``.
"""

import errno
import os
import socket
import struct
import time
from contextlib import suppress
from ipaddress import ip_address
from typing import Any

import gevent
from gevent.hub import Waiter, get_hub

from errors import OutOfResources

READ, WRITE = 1, 2  # libev's event mask
_QUICKACK: int | None = getattr(socket, "TCP_QUICKACK", None)  # Linux has it
LINGER_SECONDS = 1.0  # how long, and how many octets, we read on after a reply that ends a connection:
LINGER_OCTETS = 1 << 20  # closed with input unread, the kernel's reset takes the reply with it


def tune(sock: socket.socket) -> None:
    """No Nagle delay: a record is written whole. Keep-alive: a peer that vanished is noticed, after some hours."""
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    except OSError:  # a connection that is gone already: its next use tells that
        pass


def acknowledge(sock: socket.socket) -> bool:
    """Acknowledge what came though nothing is to be sent, which a peer with Nagle's algorithm may wait for: 40 ms.

    Whether that can be done on this system.
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


def wait(sock: socket.socket, deadline: float, event: int = READ) -> None:
    """Wait until the socket can be read, by data or by its end, or written.

    For where there is nothing to be read yet, as behind a question: gevent's calls try first, and cost twice as much.
    """
    # The socket's own watcher: one more would cost as much as the wait. Whoever waits by it meanwhile gets an error.
    _first((sock._read_event if event == READ else sock._write_event,), deadline)  # type: ignore[attr-defined]


def either(one: socket.socket, other: socket.socket, deadline: float | None = None) -> int:
    """Wait until one of two can be read, by data or by its end: 0 for the first one, 1 for the other."""
    watchers = one._read_event, other._read_event  # type: ignore[attr-defined]
    while True:
        try:
            return _first(watchers, deadline)
        except OSError as error:
            if error.errno != errno.EBADF:  # gevent's, when we shut one of them: the next look tells which
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
        timer.start(waiter.switch, None)
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
    """Let all others run that can. After ``sleep(0)`` gevent looks at sockets only every fifty times."""
    gevent.sleep(1e-6)


def peer(sock: socket.socket) -> tuple[str, int] | None:
    """The address at the other end; None where nobody is there any more."""
    try:
        host, port, *_ = sock.getpeername()
    except OSError:
        return None
    return host, port


def send_now(sock: socket.socket, data: bytes) -> int:
    """Send what the socket takes at once; how many octets that were."""
    try:
        return os.write(sock.fileno(), data)
    except BlockingIOError:
        return 0


def send(sock: socket.socket, data: bytes) -> bool:
    """Send all; whether that meant to wait for a slow reader. (``sendall`` asks for the buffer's size each time.)"""
    sent = send_now(sock, data)
    if sent == len(data):
        return False
    sock.sendall(memoryview(data)[sent:])
    return True


def has_ended(sock: socket.socket) -> bool:
    """Whether a socket's peer has ended, and all that it said was read; without a wait."""
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


def shut(sock: socket.socket, how: int = socket.SHUT_RDWR) -> None:
    """``shutdown`` that does not mind a connection that is gone; wakes whoever waits on the socket."""
    try:
        sock.shutdown(how)
    except OSError:
        pass


def reset(sock: socket.socket) -> None:
    """Let ``close`` send a reset instead of a FIN: what was cut off must not look complete."""
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def last_word(sock: socket.socket, reply: bytes) -> None:
    """Send a reply that ends the connection so that it arrives: FIN behind it, then read on for a while."""
    deadline = time.monotonic() + LINGER_SECONDS
    left = LINGER_OCTETS
    with suppress(OSError):
        arm(sock, deadline)
        if reply:
            send(sock, reply)
        sock.shutdown(socket.SHUT_WR)
        while left > 0:
            wait(sock, deadline)
            data = sock.recv(65_536)
            if not data:
                break
            left -= len(data)


def same_endpoint(address: tuple[str, int], listener: tuple[str, int]) -> bool:
    """Whether a connection to ``address`` would reach ``listener``, which may be a wildcard address.

    Raises ``OutOfResources``.
    """
    if address[1] != listener[1]:
        return False
    if address[0] == listener[0]:
        return True
    theirs, ours = ip_address(address[0]), ip_address(listener[0])
    if theirs.version != ours.version:  # our IPv6 listeners take no IPv4
        return False
    if theirs.is_unspecified:  # connects to loopback
        return ours.is_loopback or ours.is_unspecified
    return ours.is_unspecified and _is_local(address[0])


def _is_local(ip: str) -> bool:
    """Whether the address is one of this machine's: the only addresses that can be bound."""
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    try:
        probe = socket.socket(family, socket.SOCK_DGRAM)
    except OSError as error:
        raise OutOfResources(f"certifier can't open a socket: {error.strerror}") from error
    with probe:
        try:
            probe.bind((ip, 0))
        except OSError:
            return False
    return True
