"""``Turns``: who may do what takes a thread, now or after a wait."""

import time

from gevent.lock import Semaphore


class Turns:
    """So many in all, and of those so many of each client: who asks on and on must not keep the others out."""

    def __init__(self, most: int, share: int) -> None:
        self._all = Semaphore(most)
        self._share = share
        self._shares: dict[str, Semaphore] = {}
        self._users: dict[str, int] = {}  # who have a turn of a client's, or wait for one

    def take(self, client: str, deadline: float) -> bool:
        """Wait for a turn, until ``deadline`` in ``time.monotonic()`` seconds; whether there is one."""
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
        """A turn is over."""
        self._all.release()
        self._shares[client].release()
        self._left(client)

    def _left(self, client: str) -> None:
        self._users[client] -= 1
        if not self._users[client]:
            del self._users[client], self._shares[client]
