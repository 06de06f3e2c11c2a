"""certifier: a TLS-intercepting forward proxy with certificates loaded or made on demand.

Usage:
  certifier.py [options] [--listen=<host:port>]... [--allow-from=<cidr>]...
               [--allow=<pattern>]... [--deny=<pattern>]... [--bypass=<pattern>]...

Certificates:
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

Connections:
  --listen=<host:port>    Where to accept clients; may be given several times; port 0 picks
                          one [default: 127.0.0.1:8080].
  --redirect=<host:port>  Send the decrypted bytes of every intercepted tunnel there instead
                          of to its own target; tls://<host:port> encrypts them again.
  --upstream-ca=<file>    More roots (PEM) to verify origins with, added to the system's.
  --no-verify-upstream    Take any certificate from origins. For experiments only.

Who may use it, and where to:
  --auth=<file>           Users with passwords, as htpasswd -B makes it; others get a 407.
  --allow-from=<cidr>     Clients of this network only; may be given several times.
  --open                  Listen on addresses other than loopback though neither of the two is given.
  --allow=<pattern>       Only there: host, *.host, host:port, network, or @file with one a line.
  --deny=<pattern>        Not there, whatever is allowed.
  --bypass=<pattern>      Tunnelled untouched. Each of the three may be given several times.
  --deny-private          Not to loopback, link-local, private or metadata addresses.
  --ports=<list>          Ports and ranges that may be asked for [default: 80,443,1024-65535].
  --non-tls=<what>        What becomes of a tunnel that is not TLS or whose origin speaks first:
                          relay or refuse [default: relay].
  --mismatch=<what>       What becomes of a tunnel whose CONNECT host, server name and Host field
                          disagree: allow, log or deny [default: allow].
  --learn-bypass=<n>      A client that refused the certificate of a name n times is tunnelled
                          untouched for that name, for an hour.

Limits (their reasons stand in limits.py):
  --max-connections=<n>         In all; never more than descriptors allow [default: 10000].
  --max-client-connections=<n>  Of one client address; unless given, nine tenths of all.
  --max-head=<n>                Octets of a request head [default: 32768].
  --max-hello=<n>               Octets of a ClientHello [default: 65536].
  --head-timeout=<s>            Seconds for a complete request head [default: 10].
  --hello-timeout=<s>           For the first bytes of a tunnel and its ClientHello [default: 10].
  --dial-timeout=<s>            For look-up and TCP to an origin [default: 10].
  --tls-timeout=<s>             For each of the two handshakes [default: 10].
  --idle-timeout=<s>            For a tunnel without a byte either way [default: 3600].
  --new-names=<n>               Certificates made a second, in all [default: 100].
  --client-new-names=<n>        The same for one client address [default: 50].
  --max-log-value=<n>           Characters of a value in the log [default: 300].

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
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime

import gevent
from gevent.event import Event
from gevent.lock import BoundedSemaphore
from gevent.pool import Pool

import log as logs
import options
import sockets
from acceptor import Acceptor
from access import Access
from admission import Admission, Turnstile
from commandline import CommandLine
from contexts import ContextCache
from dialing import Dialer, Redirect
from errors import UsageError
from interception import Interception
from issuance import Issuance
from limits import Limits
from names import Target, ip_of
from options import Options
from policy import Policy
from proxy import Proxy
from refusals import Refusals
from ruling import rules, users
from upstream import Upstream
from website import Website
from workers import Workers

VERSION = "0.1.0"
COMMANDS = {"check": "check", "list": "listing", "prune": "prune", "warm": "warm"}  # the module of each
HOUR_SECONDS = 3600.0
DRAIN_SECONDS = 10.0  # how long tunnels may go on after SIGTERM or SIGINT
_BACKLOG = 1024
_ONLY_TOLD = 100  # connections past the limit that are let in to be told so, and for the pages of our own

log = logging.getLogger("certifier")


def main(argv: list[str]) -> int:
    """Run the program or a command; its exit status: 2 for what the operator got wrong, 0 after a signal."""
    version = f"certifier {VERSION}"
    if sys.stderr is None:  # it was closed, which must not keep us from serving
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - to the end of the program
    try:
        if argv and argv[0] in COMMANDS:
            command: Callable[[list[str], str], int] = importlib.import_module(COMMANDS[argv[0]]).main
            return command(argv[1:], version)
        return _run(options.proxy_options(CommandLine(__doc__, argv, version)))
    except UsageError as error:
        with suppress(OSError):
            print(f"certifier: {error}", file=sys.stderr)
        return 2


def _run(chosen: Options) -> int:
    limits = chosen.limits.within_descriptors()
    logs.set_up(limits.log_value)
    _check_openness(chosen)
    program = Program(chosen, limits)
    listeners = [_listen(target) for target in chosen.listen]
    program.policy.listeners += [listener.getsockname()[:2] for listener in listeners]
    _warn(chosen)
    gevent.signal_handler(signal.SIGHUP, gevent.spawn, program.reload)
    gevent.spawn(program.keep_house)
    _serve(program.proxy, listeners, chosen, limits)
    return 0


def _check_openness(chosen: Options) -> None:
    """Raise ``UsageError`` for a proxy that strangers could use unasked."""
    guarded = chosen.open or chosen.rules.auth is not None or chosen.rules.allow_from
    for target in chosen.listen:
        ip = ip_of(target.host)
        loopback = ip.is_loopback if ip is not None else target.host == "localhost"
        if not loopback and not guarded:
            raise UsageError(
                f"--listen={target}: whoever reaches that address could use the proxy; say who may with"
                " --auth=<file> or --allow-from=<cidr>, or --open for everyone"
            )


class Program:
    """All the parts of a running proxy, put together. Raises ``UsageError`` for what the operator got wrong.

    ``clock`` gives seconds since the epoch, to all of them.
    """

    def __init__(self, chosen: Options, limits: Limits, clock: Callable[[], float] = time.time) -> None:
        self._chosen = chosen
        self._clock = clock
        self._reloading = BoundedSemaphore()
        self._issuance = Issuance(chosen.leaves, self._now(), chosen.store_max)
        self._workers = Workers()
        self._contexts = ContextCache(chosen.capacity, self._issuance.leaves, self._workers, clock, Turnstile(limits))
        self._upstream = Upstream(chosen.upstream_ca, chosen.verify_upstream)
        redirect = Redirect(chosen.redirect, chosen.redirect_tls) if chosen.redirect else None
        self.policy = Policy(rules(chosen.rules), sockets.same_endpoint)
        self._access = Access(self.policy, users(chosen.rules))
        dialer = Dialer(self._upstream, self.policy, redirect, limits)
        refused = Refusals(chosen.rules.learn_bypass)
        interception = Interception(self._contexts, self._upstream, dialer, self.policy, refused, redirect, limits)
        self._website = Website(self._workers, clock)
        admission = Admission(limits)
        self.proxy = Proxy(interception, dialer, self.policy, self._access, admission, limits, self._website)
        self._show_ca()

    def reload(self) -> None:
        """Read all files anew; tunnels go on. A bad new file leaves what was in force."""
        stays = "not reloaded, what was in force stays"
        # One after the other: the newest reading shall be the last to be applied.
        with self._reloading, logs.background(stays, logging.ERROR):
            self._reload()

    def _reload(self) -> None:
        new_rules, new_users = rules(self._chosen.rules), users(self._chosen.rules)
        new_roots = self._workers.run(self._upstream.read_roots)
        self._workers.run(self._issuance.reload, self._now())
        self._upstream.use(new_roots)
        self._contexts.clear()
        self.policy.rules, self._access.users = new_rules, new_users
        log.info("reloaded: CA, stored certificates, roots of origins, lists and users")
        self._show_ca()

    def keep_house(self) -> None:
        """What is done at start and then again and again: clear a crash's leftovers, renew, prune, look at the CA."""
        hours = 0
        while True:
            if hours % 24 == 0:
                with logs.background("temporary files that a crash may have left are not removed"):
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


def _serve(proxy: Proxy, listeners: list[socket.socket], chosen: Options, limits: Limits) -> None:
    """Accept until a signal comes, then let tunnels finish."""
    pool = Pool(limits.connections + _ONLY_TOLD)
    servers = [Acceptor(listener, proxy.handle, spawn=pool) for listener in listeners]
    stop = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        gevent.signal_handler(number, stop.set)
    for server, listener in zip(servers, listeners, strict=True):
        server.start()
        logs.say(f"listening on {Target(*listener.getsockname()[:2])}")
    if chosen.leaves.ca.folder is not None:
        where = Target(*listeners[0].getsockname()[:2])
        path = chosen.leaves.ca.folder / "ca.crt"
        logs.say(f"CA certificate: {path}")
        logs.say(f"try: curl -x http://{where} --cacert {path} https://www.example.com/")
    stop.wait()
    for server in servers:
        server.close()
    if len(pool):
        log.info("stopping: %d connections have %.0f s to finish", len(pool), DRAIN_SECONDS)
    pool.join(timeout=DRAIN_SECONDS)
    pool.kill(timeout=1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
