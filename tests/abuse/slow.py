"""Peers that are slow, silent or gone: slowloris at each step, closes at each step, silent tunnels."""

import socket
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress

from gevent.event import Event
from gevent.pool import Pool
from lab import BioClient

from abuse.site import AT_ONCE, SECONDS, Site, cut, drip, hear, hello_for, together

_PATIENCE = 4 * SECONDS  # the machine may be busy
_LONG = 1000  # octets: more than drip() sends before the proxy gives up


def slow_clients(site: Site, count: int) -> None:
    """A head, a hello or a handshake sent octet by octet, or nothing at all: each connection ends in time."""

    def head(_: int) -> None:
        with site.connect() as sock:
            assert drip(sock, b"GET / HTTP/1.1\r\nX: " + b"x" * _LONG).startswith(b"HTTP/1.1 408 ")

    def hello(number: int) -> None:
        with site.tunnel() if number & 4 else site.connect() as sock:
            assert drip(sock, hello_for(site.context, "localhost")) == b""  # no alert reports a timeout

    def handshake(_: int) -> None:
        with site.tunnel() as sock:
            sock.sendall(hello_for(site.context, "localhost"))
            assert drip(sock, b"\x17\x03\x03\x10\x00" + bytes(_LONG))[:1] == b"\x16"

    def silence(_: int) -> None:
        with site.connect() as sock:
            assert hear(sock) == b""

    def client(number: int) -> None:
        began = time.monotonic()
        (head, hello, handshake, silence)[number % 4](number)
        assert time.monotonic() - began < _PATIENCE

    together(client, count, at_once=500)


def half_open(site: Site, count: int) -> None:
    """Clients that half-close, reset or fall silent at each step."""

    def reach(sock: socket.socket, step: int) -> None:
        if step == 1:
            sock.sendall(b"CONNECT localhost:443 HTT")
        if step == 3:
            sock.sendall(hello_for(site.context, "localhost")[:100])
        if step == 4:
            sock.sendall(hello_for(site.context, "localhost"))
        if step == 5:
            BioClient(sock, site.context, "localhost")
        if step == 6:
            BioClient(sock, site.context, "localhost").send(b"GET / HTTP/1.1\r\n")

    def silent(sock: socket.socket, step: int) -> None:
        if step < 5:  # a tunnel may be silent for an hour
            hear(sock)

    def ended(sock: socket.socket, _: int) -> None:
        sock.shutdown(socket.SHUT_WR)
        hear(sock)

    def broken(sock: socket.socket, _: int) -> None:
        cut(sock)

    ways: tuple[Callable[[socket.socket, int], None], ...] = (silent, ended, broken)

    def client(number: int) -> None:
        step, way = divmod(number % (7 * len(ways)), len(ways))
        with site.connect() if step < 2 else site.tunnel() as sock:
            reach(sock, step)
            ways[way](sock, step)

    together(client, count, at_once=200)


def idle_tunnels(site: Site, count: int) -> None:
    """Silent tunnels: others are served beside them. Then clients close or reset them, or origins close."""
    leave = Event()

    def waiting(_: socket.socket) -> None:
        leave.wait()

    before = site.program.vitals()
    with site.origin(waiting, secure=True) as target, ExitStack() as opened:

        def client(_: int) -> socket.socket:
            sock = opened.enter_context(site.tunnel(target))
            return site.context.wrap_socket(sock, server_hostname="localhost")

        tunnels = [opened.enter_context(tunnel) for tunnel in Pool(AT_ONCE).imap_unordered(client, range(count))]
        assert site.program.vitals().descriptors == before.descriptors + 2 * count
        site.good()
        for number, tunnel in enumerate(tunnels):
            if number % 3 == 0:
                tunnel.close()
            elif number % 3 == 1:
                cut(tunnel)
        leave.set()
        for tunnel in tunnels[2::3]:
            with suppress(OSError):
                assert tunnel.recv(1) == b""
