"""``Upstream``: resolves, dials and verifies origins. It knows nothing of the client's side.

Deadlines are ``time.monotonic()`` seconds. Failures are ``OriginError``, naming host and reason, or ``OutOfResources``.
"""

import errno
import re
import socket
import ssl
import time
from collections.abc import Iterable

import gevent
from gevent.queue import Empty, Queue

import errors
import sockets
from flight import is_tls, wants_certificate
from keylog import KeyLog
from names import Endpoint, Target
from resolver import Resolver
from streams import RENEGOTIATES
from strength import weakness
from tls import TlsStream
from tlsconfig import client_context
from turns import Turns
from workers import Workers

_OURS = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EADDRNOTAVAIL}  # not the origin's fault

ATTEMPT_SECONDS = 0.25  # Connection Attempt Delay, RFC 8305 §5
_THREADS = 4  # for long chains; not those that make certificates, which must not wait for a hostile chain
# Attempts beside another one of the same dial, in all and per client: limits.py counts one descriptor for each dial.
_BESIDE, _SHARE = 100, 30
_MOST_ADDRESSES = 8  # tried per name: each takes a file descriptor, and after 2 s a client has waited enough
# Alerts about a certificate, which must mean that we have none (RFC 8446 §6.2): Go and Java send the second one.
_ABOUT_OURS = ("CERTIFICATE_REQUIRED", "BAD_CERTIFICATE", "NO_CERTIFICATE", "CERTIFICATE_UNKNOWN", "UNKNOWN_CA")
_ALERT = re.compile(r"(?:SSLV3|TLSV13?)_(?:ALERT_)?(\w+)")  # a peer's, as OpenSSL names it: TLSV1_UNRECOGNIZED_NAME
_AROUND = re.compile(r"\[SSL\] | \(_ssl\.c:\d+\)")


class Upstream:
    """Verifies origins against the system's roots and those in the PEM file ``extra_roots``.

    Raises ``UsageError`` if that file can't be used. ``verify=False`` accepts any certificate.
    """

    def __init__(self, extra_roots: str | None = None, verify: bool = True, keylog: KeyLog | None = None) -> None:
        self._extra_roots, self._verifies, self._keylog = extra_roots, verify, keylog
        self._context = self.read_roots()
        self._resolver = Resolver()
        self._workers = Workers(_THREADS)
        self._beside = Turns(_BESIDE, _SHARE)

    def read_roots(self) -> ssl.SSLContext:
        """A context with the roots read anew, to be passed to ``use``. Raises ``UsageError``."""
        return client_context(self._extra_roots, self._verifies, self._keylog)

    def use(self, roots: ssl.SSLContext) -> None:
        """Verify with these from now on."""
        self._context = roots

    def resolve(self, target: Target, deadline: float, client: str = "") -> list[Endpoint]:
        """The target's addresses in the order to try them, for a ``client``'s IP address or, if empty, the operator."""
        return [(ip, target.port) for ip in self._resolver.look_up(target.host, deadline, client)]

    def dial(self, addresses: list[Endpoint], target: Target, deadline: float, client: str = "") -> socket.socket:
        """A TCP connection to the first address that answers; the next is tried after a failure or 250 ms.

        For a ``client`` of whom many attempts are under way already, the next is tried only after a failure.
        """
        if len(addresses) == 1:
            try:
                return _connect(addresses[0], deadline)
            except OSError as error:
                raise _dial_error(target, addresses, [error]) from error
        return _race(addresses[:_MOST_ADDRESSES], target, deadline, self._beside, client)

    def secure(self, sock: socket.socket, name: str, alpn: Iterable[bytes], deadline: float) -> TlsStream:
        """TLS on a dialled socket, verified for ``name``, offering the given protocols."""
        offer = [protocol.decode("ascii") for protocol in alpn if protocol.isascii()]  # the rest is GREASE
        stream = TlsStream(sock, self._context, offer, server_hostname=name)
        try:
            stream.handshake(deadline, self._workers)
        except ssl.SSLCertVerificationError as error:
            raise _untrusted(name, error.verify_message) from error
        except ssl.SSLError as error:
            if wants_certificate(bytes(stream.flight)):
                raise errors.OriginWantsCertificate(_wanting(name)) from error
            if not is_tls(stream.flight):
                raise errors.OriginTlsError(f"what answers there for {name} does not speak TLS") from error
            raise broke(name, getattr(error, "reason", None) or _unnamed(error)) from error
        except TimeoutError as error:
            raise errors.OriginTimeout(f"{name} did not complete the TLS handshake in time") from error
        except OSError as error:
            if wants_certificate(bytes(stream.flight), closed=True):
                raise errors.OriginLeftWithoutCertificate(_wanting(name)) from error
            raise errors.OriginTlsError(f"{name} closed the connection in the TLS handshake") from error
        if self._verifies:
            weak = weakness(stream.verified_chain())
            if weak is not None:
                raise _untrusted(name, weak)
        return stream


def broke(name: str, reason: str) -> errors.OriginError:
    """The error for a failed TLS connection to an origin, by OpenSSL's reason.

    With TLS 1.3, an origin that requires a client certificate says so only after the handshake.
    """
    if reason == RENEGOTIATES:
        return errors.OriginRenegotiates(
            f"{name} wants to renegotiate TLS, most likely for a client certificate, which certifier does not have: "
            f"let it pass unread with --bypass={name}"
        )
    alert = _ALERT.match(reason)
    if alert and alert[1] in _ABOUT_OURS:
        return errors.OriginWantsCertificate(_wanting(name))
    if alert:
        return errors.OriginAlert(f"{name} ended TLS with the alert {alert[1].lower()}")
    return errors.OriginTlsError(f"TLS with {name} failed: {reason.lower().replace('_', ' ')}")


def _unnamed(error: ssl.SSLError) -> str:
    """OpenSSL's reason if Python has no name for it: ``[SSL] tlsv1 alert no application protocol (_ssl.c:1006)``."""
    return _AROUND.sub("", str(error)).upper().replace(" ", "_")


def _untrusted(name: str, reason: str) -> errors.OriginCertificateError:
    return errors.OriginCertificateError(f"the certificate of {name} does not verify: {reason}")


def _wanting(name: str) -> str:
    return f"{name} wants a client certificate, which certifier does not have: let it pass unread with --bypass={name}"


def _connect(address: Endpoint, deadline: float) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET, socket.SOCK_STREAM)
    try:
        sockets.tune(sock)
        sockets.connect(sock, address, deadline)
    except BaseException:  # a kill must not leak the socket either
        sock.close()
        raise
    return sock


def _race(addresses: list[Endpoint], target: Target, deadline: float, beside: Turns, client: str) -> socket.socket:
    """Happy Eyeballs, RFC 8305 §5: the attempts overlap, the first to succeed wins."""
    results: Queue[socket.socket | Exception] = Queue()
    attempts: list[gevent.Greenlet[[Endpoint], None]] = []
    failures: list[OSError] = []
    winner = None
    turns = 0  # taken for attempts beside another one

    def attempt(address: Endpoint) -> None:
        try:
            results.put(_connect(address, deadline))
        except Exception as error:  # a bug, too: the loop below waits for a result
            results.put(error)

    def fail(ended: "gevent.Greenlet[[Endpoint], None]") -> None:
        if isinstance(ended.exception, Exception):  # no memory to begin: not even its first line has run
            results.put(ended.exception)

    try:
        while winner is None and len(failures) < len(addresses):
            left = addresses[len(attempts) :]
            alone = len(attempts) == len(failures)
            if left and (alone or beside.take(client, time.monotonic())):
                turns += not alone
                attempts.append(gevent.spawn(attempt, left.pop(0)))
                attempts[-1].rawlink(fail)
            try:
                # When no address is left, wait: the deadline makes every attempt fail.
                result = results.get(timeout=ATTEMPT_SECONDS if left else None)
            except Empty:
                continue
            if isinstance(result, OSError):
                failures.append(result)
            elif isinstance(result, Exception):
                raise result
            else:
                winner = result
    finally:
        gevent.killall(attempts)
        for _ in range(turns):
            beside.give_back(client)
        while not results.empty():
            late = results.get()
            if isinstance(late, socket.socket):
                late.close()
    if winner is None:
        raise _dial_error(target, addresses, failures) from failures[0]
    return winner


def _dial_error(target: Target, addresses: list[Endpoint], failures: list[OSError]) -> errors.CertifierError:
    """The error for a dial whose attempts all failed, from the failure that says most."""
    # For an IPv6 address, EADDRNOTAVAIL means that there is no IPv6 here: failures of other addresses say more.
    others = [failure for failure in failures if failure.errno != errno.EADDRNOTAVAIL]
    if not others and all(":" in ip for ip, _ in addresses) and not _has_way(addresses[0]):
        return errors.OriginError(f"{target} can't be reached: it has only IPv6 addresses, and there is no IPv6 here")
    failures = others or failures
    ours = [failure for failure in failures if failure.errno in _OURS]
    if ours:
        return errors.OutOfResources(f"certifier can't open a connection: {ours[0].strerror}")
    if any(failure.errno == errno.ECONNREFUSED for failure in failures):
        return errors.OriginRefused(f"{target} refused the connection")
    if any(isinstance(failure, TimeoutError) for failure in failures):
        return errors.OriginTimeout(f"{target} did not answer in time")
    return errors.OriginError(f"{target} can't be reached: {failures[0].strerror or failures[0]}")


def _has_way(address: Endpoint) -> bool:
    """Whether we have an IPv6 address to connect from: then EADDRNOTAVAIL means that all our ports are in use."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.connect(address)  # sends nothing
    except OSError:
        return False
    return True
