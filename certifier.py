"""certifier: a TLS-intercepting forward proxy with certificates loaded or made on demand.

Usage:
  certifier.py [options] [--listen=<host:port>]...

Options:
  --store=<dir>           Where certificates are kept; made if missing. Required.
  --max=<n>               Most names kept in memory, 1 or more. Required.
  --store-max=<n>         Most certificates of certifier's own kept in the store, 1 or more;
                          those unused longest go. Unless given, all are kept.
  --ca=<dir>              A CA of certifier's own: ca.crt, ca.key and serial.txt in this
                          folder, made on first use.
  --sign-cert=<file>      An operator's own CA instead: its certificate (PEM, its chain behind it),
  --sign-key=<file>       its private key (PEM, without a passphrase),
  --sign-serial=<file>    and the file with its next serial number. All three, or nothing is signed.
  --key-type=<type>       Of the leaves' keys: p256, p384, rsa2048, rsa3072 or rsa4096 [default: p256].
  --days=<n>              How long a leaf made from now on is valid, 1 to 397 [default: 45].
  --crl-url=<url>         Put this CRL distribution point into leaves, for Windows clients; certifier serves
                          an empty CRL at its own /ca.crl: http://127.0.0.1:8080/ca.crl
  --listen=<host:port>    Where to accept clients; may be given several times; port 0 picks
                          one [default: 127.0.0.1:8080].
  --redirect=<host:port>  Send the decrypted bytes of every intercepted tunnel there instead
                          of to its own target; tls://<host:port> encrypts them again.
  --upstream-ca=<file>    More roots (PEM) to verify origins with, added to the system's.
  --no-verify-upstream    Take any certificate from origins. For experiments only.
  -h --help               Show this and exit.
  --version               Show the version and exit.

Commands of their own, each with --help: certifier.py check, list, prune, warm.

Without --ca and --sign-*, names whose certificate is in the store are intercepted and all
others are tunnelled untouched. Paths are relative to the working directory.
"""

# ruff: noqa: E402 - gevent patches the standard library before anything else imports it
from gevent import monkey

monkey.patch_all()

import importlib
import logging
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime

import gevent
from gevent.event import Event
from gevent.pool import Pool
from gevent.server import StreamServer

import log as logs
import options
import sockets
from commandline import CommandLine
from contexts import ContextCache
from errors import UsageError
from interception import Interception, Redirect
from issuance import Issuance
from names import Target
from options import Options
from policy import Policy
from proxy import Proxy
from upstream import Upstream
from website import Website
from workers import Workers

VERSION = "0.1.0"
COMMANDS = {"check": "check", "list": "listing", "prune": "prune", "warm": "warm"}  # the module of each
HOUR_SECONDS = 3600.0
DRAIN_SECONDS = 10.0  # how long tunnels may go on after SIGTERM or SIGINT
_BACKLOG = 1024
_MAX_CONNECTIONS = 10_000  # and never more than descriptors allow: two a tunnel
_SPARE_DESCRIPTORS = 100  # for the store, the log, look-ups and the listeners

log = logging.getLogger("certifier")


def main(argv: list[str]) -> int:
    """Run the program or a command; its exit status: 2 for what the operator got wrong, 0 after a signal."""
    version = f"certifier {VERSION}"
    try:
        if argv and argv[0] in COMMANDS:
            command: Callable[[list[str], str], int] = importlib.import_module(COMMANDS[argv[0]]).main
            return command(argv[1:], version)
        return _run(options.proxy_options(CommandLine(__doc__, argv, version)))
    except UsageError as error:
        print(f"certifier: {error}", file=sys.stderr)
        return 2


def _run(chosen: Options) -> int:
    logs.set_up()
    program = Program(chosen)
    listeners = [_listen(target) for target in chosen.listen]
    program.policy.listeners += [listener.getsockname()[:2] for listener in listeners]
    _warn(chosen)
    gevent.signal_handler(signal.SIGHUP, gevent.spawn, program.reload)
    gevent.spawn(program.keep_house)
    _serve(program.proxy, listeners, chosen)
    return 0


class Program:
    """All the parts of a running proxy, put together. Raises ``UsageError`` for what the operator got wrong.

    ``clock`` gives seconds since the epoch, to all of them.
    """

    def __init__(self, chosen: Options, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._issuance = Issuance(chosen.leaves, self._now(), chosen.store_max)
        self._workers = Workers()
        self._contexts = ContextCache(chosen.capacity, self._issuance.leaves, self._workers, clock)
        self._upstream = upstream = Upstream(chosen.upstream_ca, chosen.verify_upstream)
        redirect = Redirect(chosen.redirect, chosen.redirect_tls) if chosen.redirect else None
        self.policy = Policy(sockets.same_endpoint)
        interception = Interception(self._contexts, upstream, self.policy, redirect)
        self._website = Website(self._workers, clock)
        self.proxy = Proxy(interception, upstream, self.policy, redirect, self._website)
        self._show_ca()

    def reload(self) -> None:
        """Read CA, stored certificates and roots anew; tunnels go on. A bad new file leaves the old one in force."""
        try:
            self._workers.run(self._upstream.reload)
            self._workers.run(self._issuance.reload, self._now())
        except UsageError as error:
            log.error("not reloaded, what was in force stays: %s", error)
            return
        self._contexts.clear()
        log.info("reloaded: CA, stored certificates and roots of origins")
        self._show_ca()

    def keep_house(self) -> None:
        """What is done at start and then again and again: clear a crash's leftovers, renew, prune, look at the CA."""
        hours = 0
        while True:
            if hours % 24 == 0:
                if stale := self._workers.run(self._issuance.clear_stale):
                    log.warning("removed %d temporary files that a crash had left", stale)
                if hours:
                    self._tell_expiry()
            self._contexts.tidy()
            gevent.sleep(HOUR_SECONDS)
            self._contexts.renew()
            hours += 1

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)

    def _show_ca(self) -> None:
        files = self._issuance.files
        self._website.use(files.pem if files else None, self._issuance.authority)
        for warning in files.warnings if files else ():
            log.warning("%s", warning)
        self._tell_expiry()

    def _tell_expiry(self) -> None:
        files = self._issuance.files
        warning = files.expiry_warning(self._now()) if files else None
        if warning:
            log.warning("%s", warning)


def _listen(target: Target) -> socket.socket:
    family = socket.AF_INET6 if ":" in target.host else socket.AF_INET
    try:
        return socket.create_server(tuple(target), family=family, backlog=_BACKLOG)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or error
        raise UsageError(f"can't listen on {target}: {reason}; choose another with --listen=HOST:PORT") from error


def _warn(chosen: Options) -> None:
    ca = chosen.leaves.ca
    if ca.missing:
        log.warning("%s missing: nothing is signed", " and ".join(ca.missing))
    if ca.folder is None and ca.files is None:
        log.warning("no CA: only names in the store are intercepted; --ca=<dir> makes one and turns generation on")
    if not chosen.verify_upstream:
        log.warning("--no-verify-upstream: ORIGINS ARE NOT VERIFIED, anyone on the way can pose as any of them")


def _serve(proxy: Proxy, listeners: list[socket.socket], chosen: Options) -> None:
    """Accept until a signal comes, then let tunnels finish."""
    pool = Pool(_most_connections())
    servers = [StreamServer(listener, proxy.handle, spawn=pool) for listener in listeners]
    stop = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        gevent.signal_handler(number, stop.set)
    for server, listener in zip(servers, listeners, strict=True):
        server.start()
        print(f"listening on {Target(*listener.getsockname()[:2])}", file=sys.stderr, flush=True)
    if chosen.leaves.ca.folder is not None:
        where = Target(*listeners[0].getsockname()[:2])
        path = chosen.leaves.ca.folder / "ca.crt"
        print(f"CA certificate: {path}", file=sys.stderr)
        print(f"try: curl -x http://{where} --cacert {path} https://www.example.com/", file=sys.stderr, flush=True)
    stop.wait()
    for server in servers:
        server.close()
    if len(pool):
        log.info("stopping: %d connections have %.0f s to finish", len(pool), DRAIN_SECONDS)
    pool.join(timeout=DRAIN_SECONDS)
    pool.kill(timeout=1)


def _most_connections() -> int:
    """As many as descriptors allow; the soft limit, made for ``select``, is raised to the hard one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard == resource.RLIM_INFINITY:
        return _MAX_CONNECTIONS
    return max(1, min(_MAX_CONNECTIONS, (hard - _SPARE_DESCRIPTORS) // 2))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
