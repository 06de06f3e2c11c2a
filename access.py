"""``Access``: whether a client may use the proxy: its address, and where there are users, its name and password."""

import time
from collections.abc import Callable

import gevent

from errors import AuthenticationRequired, TooManyConnections
from policy import Policy
from turns import Turns
from users import Users, credentials_in, text
from workers import Workers

_THREADS = 2  # that verify passwords: apart from those that make certificates, which must not wait for a guesser
_WAITING = 200  # verifications that wait at most: ten seconds of work
_SHARE = 50  # of those, of one client: who guesses must not keep the others out; browsers come 32 at a time
FAILURE_SECONDS = 0.5  # a wrong password is answered so much later: guessing is slow, and costs little


class Access:
    """Checks clients by the policy's networks and the users of a file, which may change."""

    def __init__(self, policy: Policy, users: Users | None) -> None:
        self._policy = policy
        self.users = users
        self._workers = Workers(_THREADS)
        self._turns = Turns(_WAITING, _SHARE)

    def check(self, ip: str, authorization: Callable[[], str] | None) -> str | None:
        """The user's name, None where there are no users. ``authorization`` reads the client's Proxy-Authorization.

        Without it, in direct TLS, nobody can say who he is. Raises ``Refused``, ``AuthenticationRequired`` or, where
        too many passwords are being verified, ``TooManyConnections``.
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
