"""``Resolver``: a host's addresses from the system's resolver, with shared look-ups and a short-lived cache.

``getaddrinfo`` blocks a thread for as long as the C library likes, whatever our own deadline. So threads are bounded,
in total and per client, a name takes one at most, and a name that failed is not looked up again at once.
"""

import codecs
import socket
import time
from itertools import chain, zip_longest

import gevent
from gevent.event import AsyncResult
from gevent.monkey import get_original

import errors
import names
from lru import LRU
from turns import Turns
from workers import Workers

# How long a look-up may take. After a lost packet, or for a first name server that is dead, the system's resolver asks
# again, or the next one, only after 5 s (RES_TIMEOUT in glibc); the rest of a dial's 10 s is for TCP.
LOOK_UP_SECONDS = 8.0
_GOOD_SECONDS = 10.0  # how long an answer is kept: getaddrinfo gives no TTL, and browsers keep one for a minute
_BAD_SECONDS = 2.0  # how long a failure is kept
_NAMES = 4096
_MOST = 100  # addresses used per name: the rules check each, and hostile DNS may return thousands
_THREADS = 32  # concurrent look-ups; a waiting thread costs some kilobytes
_SHARE = 8  # per client: one that asks for names with unresponsive servers must not starve the others
_NO_ANSWER = (socket.EAI_AGAIN, socket.EAI_FAIL)  # from a name server, as opposed to "no such name"

Answer = list[str] | errors.CertifierError

_getaddrinfo = get_original("socket", "getaddrinfo")  # runs on a pool thread, where gevent's must not be used
# Loaded now, or getaddrinfo would import it on the pool threads of the first look-ups. The lock of imports is gevent's:
# each thread that waits for it makes a hub, whose two descriptors stay open.
codecs.lookup("idna")


class Resolver:
    """Looks names up. Raises ``OriginNotFound``, ``OriginLookupTimeout`` or ``OutOfResources``."""

    def __init__(self) -> None:
        self._workers = Workers(_THREADS)
        self._answers: LRU[str, tuple[float, Answer]] = LRU(_NAMES)
        self._under_way: dict[str, AsyncResult[Answer]] = {}
        self._turns = Turns(_THREADS, _SHARE)

    def look_up(self, host: str, deadline: float, client: str = "") -> list[str]:
        """The addresses of a canonical host, at most 100, in the order to try them: families alternate (RFC 8305 §4).

        ``deadline`` is in ``time.monotonic()`` seconds; ``client`` is who asks: an IP address, empty for the operator.
        """
        if names.ip_of(host) is not None:
            return [host]
        answer = self._known(host) or self._ask(host, min(deadline, time.monotonic() + LOOK_UP_SECONDS), client)
        if isinstance(answer, errors.CertifierError):
            raise answer.again()
        return answer

    def _known(self, host: str) -> Answer | None:
        known = self._answers.get(host)
        return known[1] if known is not None and time.monotonic() < known[0] else None

    def _ask(self, host: str, deadline: float, client: str) -> Answer:
        result = self._under_way.get(host)
        if result is None:
            if not self._turns.take(client, deadline):
                return errors.OriginLookupTimeout(f"{host} is not looked up: too many look-ups are under way")
            known, result = self._known(host), self._under_way.get(host)
            if known is None and result is None:
                result = self._begin(host, client)
            else:  # another greenlet was faster
                self._turns.give_back(client)
            if result is None:
                assert known is not None
                return known
        found = result.wait(timeout=max(0.0, deadline - time.monotonic()))
        return errors.OriginLookupTimeout(f"looking up {host} took too long") if found is None else found

    def _begin(self, host: str, client: str) -> "AsyncResult[Answer]":
        """Start a look-up, which gives back the turn taken for it."""
        result: AsyncResult[Answer] = AsyncResult()
        try:
            leader = gevent.spawn(self._lead, host)  # first: if this fails, nobody must wait for the result
        except BaseException:
            self._turns.give_back(client)
            raise
        leader.rawlink(lambda ended: self._end(host, result, client, ended.value))
        self._under_way[host] = result
        return result

    def _lead(self, host: str) -> Answer:
        """Look a host up, perhaps for long after everyone waiting for it has gone."""
        try:
            answer: Answer = self._workers.run(_look_up, host)
            self._answers.put(host, (time.monotonic() + _GOOD_SECONDS, answer))
        except errors.OriginNotFound as error:
            answer = error.again()
            self._answers.put(host, (time.monotonic() + _BAD_SECONDS, answer))
        except errors.OutOfResources as error:  # says nothing about the name: not kept, the next look-up may succeed
            answer = error.again()
        return answer

    def _end(self, host: str, result: "AsyncResult[Answer]", client: str, answer: Answer | None) -> None:
        """Complete a look-up. There is no answer after a bug, or if no memory was left to begin: the log has it."""
        del self._under_way[host]
        self._turns.give_back(client)
        result.set(answer or errors.OutOfResources(f"the look-up of {host} failed"))


def _look_up(host: str) -> list[str]:
    try:
        found = _getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        if error.errno == socket.EAI_MEMORY:
            raise errors.OutOfResources(f"{host} can't be looked up: {error.strerror}") from error
        kind = errors.OriginLookupFailed if error.errno in _NO_ANSWER else errors.OriginNotFound
        raise kind(f"{host}: {error.strerror}") from error
    except UnicodeError as error:  # ".." and the like, which ``names`` excludes already: a safety net
        raise errors.OriginNotFound(f"{host} can't be looked up") from error
    except OSError as error:
        raise errors.OutOfResources(f"{host} can't be looked up: {error.strerror}") from error
    # Scoped (link-local) addresses are left out: DNS names have none.
    ips = list(dict.fromkeys(str(ip) for entry in found if (ip := names.ip_of(str(entry[4][0]))) is not None))
    if not ips:
        raise errors.OriginNotFound(f"{host} has no usable address")
    first = [ip for ip in ips if (":" in ip) == (":" in ips[0])]
    second = [ip for ip in ips if (":" in ip) != (":" in ips[0])]
    return [ip for ip in chain.from_iterable(zip_longest(first, second)) if ip is not None][:_MOST]
