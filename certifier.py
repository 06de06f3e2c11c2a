"""certifier: a TLS-intercepting forward proxy with certificates loaded or made on demand.

Usage:
  certifier.py [options] [--listen=<host:port>]...

Options:
  --store=<dir>           Where certificates are kept; made if missing. Required.
  --max=<n>               Most names kept in memory, 1 or more. Required.
  --ca=<dir>              A CA of certifier's own: ca.crt, ca.key and serial.txt in this
                          folder, made on first use.
  --sign-cert=<file>      An operator's own CA instead: its certificate (PEM, its chain behind it),
  --sign-key=<file>       its private key (PEM, without a passphrase),
  --sign-serial=<file>    and the file with its next serial number. All three, or nothing is signed.
  --key-type=<type>       Of the leaves' keys: p256, p384, rsa2048, rsa3072 or rsa4096 [default: p256].
  --days=<n>              How long a leaf made from now on is valid, 1 to 397 [default: 45].
  --listen=<host:port>    Where to accept clients; may be given several times; port 0 picks
                          one [default: 127.0.0.1:8080].
  --redirect=<host:port>  Send the decrypted bytes of every intercepted tunnel there instead
                          of to its own target; tls://<host:port> encrypts them again.
  --upstream-ca=<file>    More roots (PEM) to verify origins with, added to the system's.
  --no-verify-upstream    Take any certificate from origins. For experiments only.
  -h --help               Show this and exit.
  --version               Show the version and exit.

Without --ca and --sign-*, names whose certificate is in the store are intercepted and all
others are tunnelled untouched. Paths are relative to the working directory.
"""

# ruff: noqa: E402 - gevent patches the standard library before anything else imports it
from gevent import monkey

monkey.patch_all()

import logging
import os
import resource
import signal
import socket
import sys
from datetime import UTC, datetime

import gevent
from gevent.event import Event
from gevent.pool import Pool
from gevent.server import StreamServer

import ca
import log as logs
import options
import sockets
from ca import CaFiles
from contexts import ContextCache
from errors import UsageError
from interception import Interception, Redirect
from keys import KeyStock
from leaves import Leaves
from names import Target
from options import Options
from policy import Policy
from proxy import Proxy
from signer import Authority
from store import Store
from upstream import Upstream
from workers import Workers

VERSION = "0.1.0"
DAY_SECONDS = 86_400.0
DRAIN_SECONDS = 10.0  # how long tunnels may go on after SIGTERM or SIGINT
_BACKLOG = 1024
_MAX_CONNECTIONS = 10_000  # and never more than descriptors allow: two a tunnel
_SPARE_DESCRIPTORS = 100  # for the store, the log, look-ups and the listeners

log = logging.getLogger("certifier")


def main(argv: list[str]) -> int:
    """Run the program; its exit status: 0 after a signal, 2 for what the operator got wrong."""
    try:
        chosen = options.parse(__doc__, argv, f"certifier {VERSION}")
        logs.set_up()
        program = Program(chosen)
        listeners = [_listen(target) for target in chosen.listen]
    except UsageError as error:
        print(f"certifier: {error}", file=sys.stderr)
        return 2
    program.policy.listeners += [listener.getsockname()[:2] for listener in listeners]
    _warn(chosen)
    gevent.signal_handler(signal.SIGHUP, gevent.spawn, program.reload)
    gevent.spawn(program.keep_house)
    _serve(program.proxy, listeners, chosen)
    return 0


class Program:
    """All the parts of a running proxy, put together. Raises ``UsageError`` for what the operator got wrong."""

    def __init__(self, chosen: Options) -> None:
        self._chosen = chosen
        self._files = _ca_files(chosen)
        try:
            self._store = Store(chosen.store)
        except OSError as error:
            raise UsageError(f"--store={chosen.store}: can't write there: {error.strerror}") from error
        self._leaves = Leaves(self._store, self._authority(), KeyStock(chosen.key_type))
        self._workers = Workers()
        self._contexts = ContextCache(chosen.capacity, self._leaves, self._workers)
        upstream = Upstream(chosen.upstream_ca, chosen.verify_upstream)
        redirect = Redirect(chosen.redirect, chosen.redirect_tls) if chosen.redirect else None
        self.policy = Policy(sockets.same_endpoint)
        interception = Interception(self._contexts, upstream, self.policy, redirect)
        ca_pem = self._files.pem if self._files else None
        self.proxy = Proxy(interception, upstream, self.policy, redirect, ca_pem)
        self._tell_about_ca()

    def reload(self) -> None:
        """Read the CA and the stored certificates anew; tunnels go on. A bad new file leaves the old one in force."""
        try:
            files = self._workers.run(_ca_files, self._chosen)
        except UsageError as error:
            log.error("not reloaded, what was in force stays: %s", error)
            return
        self._files = files
        self._leaves.use(self._authority())
        self._contexts.clear()
        self.proxy.ca = files.pem if files else None
        log.info("reloaded: CA and stored certificates")
        self._tell_about_ca()

    def _authority(self) -> Authority | None:
        return Authority(self._files, self._chosen.days) if self._files else None

    def keep_house(self) -> None:
        """What is done at start and then daily: clear what a crash left in the store, look at the CA's end."""
        self._workers.run(self._leaves.restock)
        while True:
            stale = self._workers.run(self._store.clear_stale)
            if stale:
                log.warning("removed %d temporary files that a crash had left in the store", stale)
            gevent.sleep(DAY_SECONDS)
            self._tell_expiry()

    def _tell_about_ca(self) -> None:
        for warning in self._files.warnings if self._files else ():
            log.warning("%s", warning)
        self._tell_expiry()

    def _tell_expiry(self) -> None:
        warning = self._files.expiry_warning(datetime.now(UTC)) if self._files else None
        if warning:
            log.warning("%s", warning)


def _ca_files(chosen: Options) -> CaFiles | None:
    now = datetime.now(UTC)
    if chosen.ca is not None:
        return ca.open_folder(chosen.ca, now)
    return ca.load(*chosen.sign, now) if chosen.sign is not None else None


def _listen(target: Target) -> socket.socket:
    family = socket.AF_INET6 if ":" in target.host else socket.AF_INET
    try:
        return socket.create_server(tuple(target), family=family, backlog=_BACKLOG)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or error
        raise UsageError(f"can't listen on {target}: {reason}; choose another with --listen=HOST:PORT") from error


def _warn(chosen: Options) -> None:
    if chosen.missing:
        log.warning("%s missing: nothing is signed", " and ".join(chosen.missing))
    if chosen.ca is None and chosen.sign is None:
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
    if chosen.ca is not None:
        where = Target(*listeners[0].getsockname()[:2])
        path = chosen.ca / "ca.crt"
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
