"""``Turns``: who may do something that takes a thread or a file descriptor, now or after a wait."""

import time

from gevent.lock import Semaphore


class Turns:
    """At most ``most`` turns in all, and ``share`` per client, so that no client can keep the others out."""

    def __init__(self, most: int, share: int) -> None:
        self._all = Semaphore(most)
        self._share = share
        self._shares: dict[str, Semaphore] = {}
        self._users: dict[str, int] = {}  # how many of a client's have a turn or wait for one

    def take(self, client: str, deadline: float) -> bool:
        """Wait for a turn until ``deadline``, in ``time.monotonic()`` seconds; whether it was granted."""
        self._users[client] = self._users.get(client, 0) + 1
        share = self._shares.setdefault(client, Semaphore(self._share))
        taken = False
        try:
            if share.acquire(timeout=max(0.0, deadline - time.monotonic())):
                try:
                    taken = self._all.acquire(timeout=max(0.0, deadline - time.monotonic()))
                finally:
                    if not taken:
                        share.release()
        finally:
            if not taken:
                self._left(client)
        return taken

    def give_back(self, client: str) -> None:
        """End a turn."""
        self._all.release()
        self._shares[client].release()
        self._left(client)

    def _left(self, client: str) -> None:
        self._users[client] -= 1
        if not self._users[client]:
            del self._users[client], self._shares[client]
