"""``Limits``: how much one client, and all of them, may have. Each is an option; the reasons stand here."""

import resource
from contextlib import suppress
from dataclasses import dataclass, replace

_SPARE_DESCRIPTORS = 300  # for the store, the log, look-ups, the listeners, and those who are only told to go
_PEER_DESCRIPTORS = 3  # for each other worker: the two ends of its channel, and a question to it
_OPEN_MAX = 10_240  # what macOS lets a process have
_SHARE = 0.9  # of all connections that one client may have


def most_logged(names: int) -> int:
    """How many of so many names may be in memory while their keys are logged."""
    descriptors = _descriptors()
    return names if descriptors is None else max(1, min(names, descriptors // 4))


def _descriptors() -> int | None:
    """How many there may be, None for any number. The soft limit, made for ``select``, is raised to the hard one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (ValueError, OSError):  # macOS: the hard limit is none, and that may not be had
            with suppress(ValueError, OSError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (_OPEN_MAX, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft


@dataclass(frozen=True, slots=True)
class Limits:
    """Counts are whole numbers, sizes octets, times seconds, rates a second. The defaults are those of the manual.

    ``connections``         in all; two descriptors each, so never more than the system's limit allows
    ``client_connections``  of one client address; 0: nine tenths of all, so that no client alone locks the others out
    ``head``                of a request: browsers and servers stop at 8 to 64 KiB
    ``hello``               a ClientHello: post-quantum ones have 2 KB, Go and OpenSSL accept 64 to 128 KB
    ``head_timeout``        for a complete head: it fits into a packet or two, and is sent at once
    ``hello_timeout``       for the first bytes in a tunnel, of either side, and the whole ClientHello
    ``dial_timeout``        for look-up, which may take 5 s of it, and TCP to an origin, all its addresses
    ``tls_timeout``         for each of the two handshakes
    ``idle_timeout``        for a tunnel without a byte either way: beyond what long polls and keep-alive need; a
                            twelfth of it once one side has ended
    ``new_names``           certificates made a second: a quarter of a core; what was not used of some seconds, at once
    ``client_new_names``    the same for one client address: a page asks for dozens at once, and then for few
    ``log_value``           characters of one value in the log: a DNS name has 253
    """

    connections: int = 10_000
    client_connections: int = 0
    head: int = 32_768
    hello: int = 65_536
    head_timeout: float = 10.0
    hello_timeout: float = 10.0
    dial_timeout: float = 10.0
    tls_timeout: float = 10.0
    idle_timeout: float = 3600.0
    new_names: int = 50
    client_new_names: int = 25
    log_value: int = 300

    def within_descriptors(self, workers: int = 1, logged: int = 0) -> "Limits":
        """Those of one of so many worker processes, with no more connections than descriptors allow: two a tunnel.

        ``logged`` names may be in memory whose contexts log their keys: a descriptor for each, and for a context that
        fell out of memory while a tunnel has it.
        """
        most = -(-self.connections // workers)
        descriptors = _descriptors()
        if descriptors is not None:
            spare = _SPARE_DESCRIPTORS + _PEER_DESCRIPTORS * (workers - 1) + logged
            most = max(1, min(most, (descriptors - spare) // (3 if logged else 2)))
        own = -(-self.client_connections // workers) or max(1, int(most * _SHARE))
        return replace(
            self,
            connections=most,
            client_connections=own,
            new_names=-(-self.new_names // workers),
            client_new_names=-(-self.client_new_names // workers),
        )
