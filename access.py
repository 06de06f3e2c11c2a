"""``Access``: whether a client may use the proxy, by its address and, if there are users, a name and password."""

import time
from collections.abc import Callable

import gevent

from errors import AuthenticationRequired, TooManyConnections
from policy import Policy
from turns import Turns
from users import Users, credentials_in, text
from workers import Workers

_THREADS = 2  # that verify passwords, apart from those that make certificates: these must not wait behind a guesser
_WAITING = 200  # verifications at most, running or queued: ten seconds of work
_SHARE = 50  # of those, per client: a guesser must not lock others out; browsers open 32 connections at a time
FAILURE_SECONDS = 0.5  # delay of the reply to a wrong password: guessing is slow, and costs us little


class Access:
    """Checks clients against the policy's networks and the users, which a reload replaces."""

    def __init__(self, policy: Policy, users: Users | None) -> None:
        self._policy = policy
        self.users = users
        self._workers = Workers(_THREADS)
        self._turns = Turns(_WAITING, _SHARE)

    def check(self, ip: str, authorization: Callable[[], str] | None) -> str | None:
        """Return the user's name, None if there are no users. ``authorization`` reads the client's Proxy-Authorization.

        It is None for direct TLS, in which a client can't authenticate. Raises ``Refused``, ``AuthenticationRequired``
        or, if too many passwords are being verified, ``TooManyConnections``.
        """
        self._policy.check_client(ip)
        users = self.users
        if users is None:
            return None
        credentials = credentials_in(authorization()) if authorization is not None else None
        if credentials is None:
            raise AuthenticationRequired("this proxy wants a name and a password")
        if not users.remembered(credentials):
            self._verify(ip, users, credentials)
        return text(credentials[0])

    def _verify(self, ip: str, users: Users, credentials: tuple[bytes, bytes]) -> None:
        if not self._turns.take(ip, time.monotonic()):
            raise TooManyConnections("too many passwords are being checked; try again soon")
        try:
            good = self._workers.run(users.check, credentials)
        finally:
            self._turns.give_back(ip)
        if not good:
            gevent.sleep(FAILURE_SECONDS)
            raise AuthenticationRequired("the name or the password is wrong")
        users.remember(credentials)
