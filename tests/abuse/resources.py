"""More connections than there are file descriptors for, or than one client may have."""

import resource
import time
from collections import Counter
from contextlib import ExitStack

import gevent
from lab import exchange, secure_tunnel

from abuse.site import Site, connect_head, cut, hear, together

_FEW = 40  # file descriptors left to it: fewer than it needs
_MANY = 60  # connections


def out_of_descriptors(site: Site, count: int) -> None:
    """No descriptors left, or few, repeatedly: certifier stops accepting without spinning, and resumes afterwards."""
    pid = site.program.process.pid
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    held = site.program.vitals().descriptors
    for number in range(count):
        left = number // 2 % _FEW if number % 2 else _FEW
        with ExitStack() as opened:
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (held + left, hard))
            try:
                for other in range(_MANY):
                    sock = opened.enter_context(site.connect())
                    if other % 2:
                        sock.sendall(connect_head(site.target))
                cpu, began = site.program.cpu(), time.monotonic()
                gevent.sleep(1)  # the measured interval
                assert site.program.cpu() - cpu < 0.3 * (time.monotonic() - began)
            finally:
                resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
        site.good()
    site.program.wait_for("warning: can't accept connections for now: Too many open files")


def past_the_connections(site: Site, count: int) -> None:
    """As many connections as allowed, and ``count`` more, which are refused; the proxy's own pages are served."""
    with ExitStack() as opened:
        for _ in range(40):
            opened.enter_context(secure_tunnel(site.program, site.target, context=site.context))
        got = Counter[bytes]()

        def client(number: int) -> None:
            with site.connect() as sock:
                if number % 4 == 3:
                    cut(sock)
                    return
                sock.sendall(connect_head(site.target))
                got[hear(sock)[9:12]] += 1

        together(client, count, at_once=60)
        assert set(got) <= {b"429", b"503"}, got
        assert got.total() == count - count // 4
        assert exchange(site.program.address, b"GET /ca.crt HTTP/1.1\r\nHost: a\r\n\r\n").status == 200
