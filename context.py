"""``Context``: what serves one name."""

import ssl
from dataclasses import dataclass

from store import Stamp


@dataclass(slots=True)
class Context:
    """A TLS server context for one name, and where its leaf came from. Times are seconds since the epoch.

    It records when something was last done, not when it is next due: after a clock that was ahead is set back, what was
    done "in the future" is done again at once.
    """

    ssl: ssl.SSLContext
    serial: int
    not_before: float
    not_after: float
    renew_at: float
    source: str  # "disk" or "made"
    ours: bool  # certifier made its certificate
    stamp: Stamp  # of the files that were looked up for the name
    looked: float  # when those files were last checked
    tried: float  # when a renewal was last attempted
    used: float  # when a connection last asked for it
    refreshing: bool = False  # a check of its files is under way

    def refreshed(self, _: object) -> None:
        """Note that the check has ended: called with its greenlet, even if that had no memory to begin."""
        self.refreshing = False
