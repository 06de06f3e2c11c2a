"""``Upstream``: finds, dials and verifies origins. It knows nothing of the client's side.

Deadlines are ``time.monotonic()`` seconds. What goes wrong is an ``OriginError`` that says whose host and why.
"""

import errno
import socket
import ssl
import time
from collections.abc import Iterable
from itertools import chain, zip_longest

import gevent
from gevent.queue import Empty, Queue

import errors
import names
import sockets
from lru import LRU
from names import Target
from tls import TlsStream
from tlsconfig import client_context

Address = tuple[str, int]  # an IP address as text, and a port

ATTEMPT_SECONDS = 0.25  # Connection Attempt Delay, RFC 8305 §5
DNS_SECONDS = 5.0  # how long one look-up may take: gevent has ten threads for them all
_DNS_CACHE_SECONDS = 10.0  # getaddrinfo tells no TTL; browsers keep an answer for a minute
_DNS_CACHE_NAMES = 1024


class Upstream:
    """Origins are verified against the system's roots and those in the PEM file ``extra_roots``.

    Raises ``UsageError`` if that file can't be used. ``verify=False`` takes any certificate.
    """

    def __init__(self, extra_roots: str | None = None, verify: bool = True) -> None:
        self._roots = extra_roots, verify
        self._context = client_context(extra_roots, verify)
        self._answers: LRU[str, tuple[float, list[str]]] = LRU(_DNS_CACHE_NAMES)

    def reload(self) -> None:
        """Read the roots anew; on a ``UsageError`` those in force stay."""
        self._context = client_context(*self._roots)

    def resolve(self, target: Target, deadline: float) -> list[Address]:
        """The target's addresses in the order to try them, address families in turn (RFC 8305 §4)."""
        host, port = target
        if names.ip_of(host) is not None:
            return [(host, port)]
        cached = self._answers.get(host)
        if cached is None or time.monotonic() >= cached[0]:
            found = _look_up(host, min(deadline, time.monotonic() + DNS_SECONDS))
            cached = time.monotonic() + _DNS_CACHE_SECONDS, found
            self._answers.put(host, cached)
        return [(ip, port) for ip in cached[1]]

    def dial(self, addresses: list[Address], target: Target, deadline: float) -> socket.socket:
        """A TCP connection to the first address that answers; the next is tried after a failure or 250 ms."""
        if len(addresses) == 1:
            try:
                return _connect(addresses[0], deadline)
            except OSError as error:
                raise _dial_error(target, [error]) from error
        return _race(addresses, target, deadline)

    def secure(self, sock: socket.socket, name: str, alpn: Iterable[bytes], deadline: float) -> TlsStream:
        """TLS on a dialled socket, verified for ``name``, offering the given protocols."""
        offer = [protocol.decode("ascii") for protocol in alpn if protocol.isascii()]  # the rest is GREASE
        stream = TlsStream(sock, self._context, offer, server_hostname=name)
        try:
            stream.handshake(deadline)
        except ssl.SSLCertVerificationError as error:
            raise errors.OriginCertificateError(
                f"the certificate of {name} does not verify: {error.verify_message}"
            ) from error
        except ssl.SSLError as error:
            reason = (error.reason or str(error)).lower().replace("_", " ")
            raise errors.OriginTlsError(f"TLS with {name} failed: {reason}") from error
        except TimeoutError as error:
            raise errors.OriginTimeout(f"{name} did not complete the TLS handshake in time") from error
        except OSError as error:
            raise errors.OriginTlsError(f"{name} closed the connection in the TLS handshake") from error
        return stream


def _look_up(host: str, deadline: float) -> list[str]:
    try:
        with gevent.Timeout(deadline - time.monotonic(), TimeoutError):
            found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except TimeoutError as error:
        raise errors.OriginLookupTimeout(f"looking up {host} took too long") from error
    except socket.gaierror as error:
        raise errors.OriginNotFound(f"{host}: {error.strerror}") from error
    except (UnicodeError, OSError) as error:  # ".." and the like, which our own names exclude: the last net
        raise errors.OriginNotFound(f"{host} can't be looked up") from error
    ips = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    first = [ip for ip in ips if (":" in ip) == (":" in ips[0])]
    second = [ip for ip in ips if ip not in first]
    return [ip for ip in chain.from_iterable(zip_longest(first, second)) if ip is not None]


def _connect(address: Address, deadline: float) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET, socket.SOCK_STREAM)
    try:
        sockets.tune(sock)
        sockets.arm(sock, deadline)
        sock.connect(address)
    except BaseException:  # a kill, too, must not leave the socket behind
        sock.close()
        raise
    return sock


def _race(addresses: list[Address], target: Target, deadline: float) -> socket.socket:
    """Happy Eyeballs, RFC 8305 §5: the attempts overlap, the first that succeeds wins."""
    results: Queue[socket.socket | OSError] = Queue()
    attempts = []
    failures: list[OSError] = []
    waiting = iter(addresses)
    winner = None

    def attempt(address: Address) -> None:
        try:
            results.put(_connect(address, deadline))
        except OSError as error:
            results.put(error)

    try:
        while winner is None and len(failures) < len(addresses):
            address = next(waiting, None)
            if address is not None:
                attempts.append(gevent.spawn(attempt, address))
            try:
                # The last one under way is waited for until its own deadline makes it fail.
                result = results.get(timeout=None if address is None else ATTEMPT_SECONDS)
            except Empty:
                continue
            if isinstance(result, OSError):
                failures.append(result)
            else:
                winner = result
    finally:
        gevent.killall(attempts)
        while not results.empty():
            late = results.get()
            if isinstance(late, socket.socket):
                late.close()
    if winner is None:
        raise _dial_error(target, failures) from failures[0]
    return winner


def _dial_error(target: Target, failures: list[OSError]) -> errors.OriginError:
    """The error of a dial whose every attempt failed: what tells most about the origin, first."""
    if any(failure.errno == errno.ECONNREFUSED for failure in failures):
        return errors.OriginRefused(f"{target} refused the connection")
    if any(isinstance(failure, TimeoutError) for failure in failures):
        return errors.OriginTimeout(f"{target} did not answer in time")
    return errors.OriginError(f"{target} can't be reached: {failures[0].strerror or failures[0]}")
