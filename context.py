"""``Context``: what serves one name."""

import ssl
from dataclasses import dataclass

from store import Stamp


@dataclass(slots=True)
class Context:
    """A TLS server context for one name, and where it came from at first. Moments are seconds since the epoch.

    When something was last done is kept, not when it is due again: a clock that was ahead may be set back, and what
    was done in the future is done anew.
    """

    ssl: ssl.SSLContext
    serial: int
    not_before: float
    not_after: float
    renew_at: float
    source: str  # "disk" or "made"
    ours: bool  # its certificate is of certifier's making
    stamp: Stamp  # of the files it was looked up in
    looked: float  # when they were last looked at
    tried: float  # when a newer one was last asked for
    used: float  # when a connection last asked for it
    refreshing: bool = False  # just now
