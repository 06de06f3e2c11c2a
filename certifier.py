"""certifier: a TLS-intercepting forward proxy with certificates loaded or made on demand.

Usage:
  certifier.py [options] [--listen=<host:port>]... [--allow-from=<cidr>]...
               [--allow=<pattern>]... [--deny=<pattern>]... [--bypass=<pattern>]...
               [--tap=<file.py>]...

Certificates:
  --store=<dir>           Where certificates are kept; made if missing. Required.
  --max=<n>               How many names are kept in memory at most, 1 or more. Required.
  --store-max=<n>         How many of certifier's own certificates the store keeps at most, 1 or more;
                          those unused longest are removed. Unless given, all are kept.
  --ca=<dir>              A CA of certifier's own: ca.crt, ca.key and serial.txt in this
                          folder, made on first use.
  --sign-cert=<file>      An operator's own CA instead: its certificate (PEM, followed by its chain),
  --sign-key=<file>       its private key (PEM, without a passphrase),
  --sign-serial=<file>    and the file with its next serial number. All three, or nothing is signed.
  --key-type=<type>       Type of the leaves' keys: p256, p384, rsa2048, rsa3072 or rsa4096 [default: p256].
  --days=<n>              How many days a leaf made from now on is valid, 1 to 397 [default: 45].
  --crl-url=<url>         Put this CRL distribution point into leaves, for Windows clients; certifier serves
                          an empty CRL at its own /ca.crl: http://127.0.0.1:8080/ca.crl

Connections:
  --workers=<n>           Processes that share the listeners, or auto: as many as processors [default: 1].
  --listen=<host:port>    Where to accept clients; may be given several times; port 0 picks
                          one [default: 127.0.0.1:8080].
  --redirect=<host:port>  Send the decrypted bytes of every intercepted tunnel there instead
                          of to its own target; tls://<host:port> encrypts them again.
  --proxy-protocol        Tell the redirect the client's address, server name, ALPN and TLS version, in a
                          PROXY protocol header (version 2) before each stream.
  --upstream-ca=<file>    More roots (PEM) to verify origins with, added to the system's.
  --no-verify-upstream    Accept any certificate from origins. For experiments only.

Who may use it, and where to:
  --auth=<file>           Users and their passwords, as htpasswd -B makes it; all others get a 407.
  --allow-from=<cidr>     Only clients from this network; may be given several times.
  --open                  Listen on addresses other than loopback with neither of the above.
  --allow=<pattern>       Only to these: host, *.host, host:port, network, or @file with one per line.
  --deny=<pattern>        Not to these, even if allowed.
  --bypass=<pattern>      To these untouched. Each of the three may be given several times.
  --deny-private          Not to loopback, link-local, private or metadata addresses.
  --ports=<list>          Only to these ports and ranges [default: 80,443,1024-65535].
  --non-tls=<what>        What happens to a tunnel that is not TLS or whose origin speaks first:
                          relay or refuse [default: relay].
  --mismatch=<what>       What happens when a tunnel's CONNECT host, server name and Host field
                          disagree: allow, log or deny [default: allow].
  --learn-bypass=<n>      Once a client has refused a name's certificate n times, its tunnels
                          for that name pass untouched for an hour.

What is seen (README, Seeing what passes):
  --log-requests          A line for each HTTP request, inside tunnels and outside.
  --log-format=<format>   Format of the lines for tunnels and requests: text, json or combined [default: text].
  --log-file=<file>       Where those lines go instead of to stderr; SIGHUP and SIGUSR1 reopen it.
  --har=<file>            Requests, responses and their bodies as HAR 1.2, for browsers' developer tools.
  --har-body-max=<n>      Octets kept of each body [default: 1048576].
  --har-max=<n>           Octets in the file before the next one is begun [default: 67108864].
  --pcap=<file>           The decrypted bytes as pcapng, for Wireshark.
  --keylog=<file>         The keys of both sides' TLS, for Wireshark; SSLKEYLOGFILE does the same.
  --tap=<file.py>         A Python file of yours that looks at the traffic, and may act on it;
                          may be given several times.

Limits (limits.py gives the reasons):
  --max-connections=<n>         In all; never more than file descriptors allow [default: 10000].
  --max-client-connections=<n>  Per client address; unless given, nine tenths of all.
  --max-head=<n>                Octets in a request head [default: 32768].
  --max-hello=<n>               Octets in a ClientHello [default: 65536].
  --head-timeout=<s>            Seconds for a complete request head [default: 10].
  --hello-timeout=<s>           For the first bytes of a tunnel and its ClientHello [default: 10].
  --dial-timeout=<s>            For name look-up (8 at most) and TCP to an origin [default: 10].
  --tls-timeout=<s>             For each of the two TLS handshakes [default: 10].
  --idle-timeout=<s>            For a tunnel without a byte either way [default: 3600].
  --new-names=<n>               Certificates made per second, in all [default: 50].
  --client-new-names=<n>        The same per client address [default: 25].
  --max-log-value=<n>           Characters per value in the log; of URLs, 2000 [default: 300].

  -h --help               Show this and exit.
  --version               Show the version and exit.

Further commands, each with --help: certifier.py check, list, prune, warm.

Without --ca and --sign-*, names whose certificate is in the store are intercepted and all
others are tunnelled untouched. Paths are relative to the working directory.
"""

# ruff: noqa: E402 - gevent patches the standard library before anything else imports it
from gevent import monkey

monkey.patch_all()

import os
import sys

if sys.flags.safe_path:  # -P and -I: our modules are next to this file all the same
    sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))

import process

if __name__ == "__main__":
    process.heed_signals()  # before the imports, which take a while

import importlib
import logging
import signal
import socket
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import replace
from shlex import quote

import gevent
from gevent.event import Event

import listening
import log as logs
import options
import seeing
from commandline import CommandLine
from errors import UsageError
from limits import Limits, most_logged
from names import Target
from options import Options
from peers import Post, posts
from policy import reached
from program import Program
from serving import leave, serve
from supervisor import MAX_WAIT, Supervisor
from version import VERSION

COMMANDS = {"check": "check", "list": "listing", "prune": "prune", "warm": "warm"}  # subcommand: module

_FEW = 1_000  # connections in all; if the system allows fewer, the operator is warned

log = logging.getLogger("certifier")


def main(argv: list[str]) -> int:
    """Run the proxy or a subcommand and return the exit status: 2 for an operator's mistake, 0 after a signal."""
    version = f"certifier {VERSION}"
    process.open_standard()
    try:
        if sys.flags.optimize > 1:
            raise UsageError(
                "Python's -OO and PYTHONOPTIMIZE=2 remove the help text, from which options are read: use -O"
            )
        if argv and argv[0] in COMMANDS:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, process.HANDLED)  # no subcommand handles these: they end it
            command: Callable[[list[str], str], int] = importlib.import_module(COMMANDS[argv[0]]).main
            with process.output():
                return command(argv[1:], version)
        with process.output():
            line = CommandLine(__doc__, argv, version, commands=COMMANDS)
        return _run(options.proxy_options(line))
    except UsageError as error:
        return process.refuse(error)


def _run(chosen: Options) -> int:
    signal.pthread_sigmask(signal.SIG_BLOCK, process.HANDLED)
    logged = 0
    if chosen.sight.keylog is not None:
        logged = most_logged(chosen.capacity)
        chosen = replace(chosen, capacity=logged)
    limits = chosen.limits.within_descriptors(chosen.workers, logged)
    logs.set_up(limits.log_value)
    if limits.connections * chosen.workers < min(chosen.limits.connections, _FEW):
        log.warning(
            "the limit on open files (ulimit -n) leaves room for only %s per process",
            logs.counted(limits.connections, "connection"),
        )
    listening.check_openness(chosen)
    seeing.check_apart(chosen)
    if chosen.workers == 1:
        (listeners,) = listening.bind(chosen.listen, 1)  # first: a failed start must not rotate earlier --pcap files
        try:
            program = Program(chosen, limits)
            program.warn()
            serve(program, listeners, limits, lambda: _announce(chosen, listeners), Event())
        finally:
            listening.close(listeners)
        return 0
    bound = listening.bind(chosen.listen, chosen.workers)

    def work(number: int, tells: int, lifeline: int) -> int:
        try:
            return _work(chosen, limits, places[number], bound, tells, lifeline)
        except UsageError as error:
            return process.refuse(error)
        except Exception:  # top level of a worker
            log.exception("worker %d can't go on", number)
            return 1

    try:
        places = posts(chosen.workers)
        supervisor = Supervisor(chosen.workers, work, bound)
    except OSError as error:  # each worker takes descriptors
        raise UsageError(f"--workers={chosen.workers}: can't start so many here: {error.strerror}") from error
    return supervisor.run(lambda: _announce(chosen, bound[0]))


def _work(
    chosen: Options, limits: Limits, post: Post, bound: list[list[socket.socket]], tells: int, lifeline: int
) -> int:
    """Run one of several workers until it is told to stop or the supervisor is gone, and return the exit status."""
    gevent.reinit()  # the hub was made before the fork, with the listeners
    for number, listeners in enumerate(bound):
        if number != post.number:
            listening.close(listeners)  # or they would stay open after their own worker has ended
    # At the first start, nobody else could accept what is queued for this worker.
    with nullcontext() if post.kept is None else listening.resting_after(MAX_WAIT, bound[post.number]):
        program = Program(chosen, limits, post=post)
    if post.number == 0:
        program.warn()
    stop = Event()
    orphaned = gevent.get_hub().loop.io(lifeline, 1)

    def orphan() -> None:
        orphaned.stop()  # at EOF the pipe stays readable: this would be called again and again
        log.error("worker %d ends: the supervisor died", post.number)
        stop.set()

    orphaned.start(orphan)

    def ready() -> None:
        with suppress(BrokenPipeError):  # the supervisor was killed
            os.write(tells, b".")

    listening.resume(bound[post.number])
    serve(program, bound[post.number], limits, ready, stop)
    return 0


def _announce(chosen: Options, listeners: list[socket.socket]) -> None:
    """Tell the operator the addresses listened on, the path of the CA certificate, a command to try, and the page."""
    for listener in listeners:
        logs.say(f"listening on {Target(*listener.getsockname()[:2])}")
    where = Target(*reached(listeners[0].getsockname()[:2]))
    if chosen.leaves.ca.files is not None:
        user = " --proxy-user NAME" if chosen.rules.auth else ""
        path = chosen.leaves.ca.files[0]
        logs.say(f"CA certificate: {path}")
        logs.say(f"try: curl -x http://{where}{user} --cacert {quote(str(path))} https://www.example.com/")
    logs.say(f"see: http://{where}/ in a browser")


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
