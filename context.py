"""``Context``: what serves one name."""

import ssl
from dataclasses import dataclass

from store import Stamp


@dataclass(slots=True)
class Context:
    """A TLS server context for one name, and where it came from at first."""

    ssl: ssl.SSLContext
    serial: int
    renew_at: float  # seconds since the epoch
    not_after: float
    source: str  # "disk" or "made"
    ours: bool  # its certificate is of certifier's making
    stamp: Stamp  # of the files it was looked up in
    look_at: float  # when to look at them again
    used: float  # when a connection last asked for it
