"""``Limits``: how much one client, and all together, may have. Each is an option; the reasons are given here."""

import resource
from contextlib import suppress
from dataclasses import dataclass, replace

# For the store, the log, look-ups, the listeners, connections that are only refused, and attempts to reach an origin
# beside another one (``upstream.py``).
_SPARE_DESCRIPTORS = 300
_PEER_DESCRIPTORS = 3  # for each other worker: the two ends of its channel, and a question to it
_OPEN_MAX = 10_240  # what macOS allows a process
_SHARE = 0.9  # of all connections, by default, that one client may have


def most_logged(names: int) -> int:
    """How many of ``names`` may be in memory while keys are logged, which takes a descriptor for each."""
    descriptors = _descriptors()
    return names if descriptors is None else max(1, min(names, descriptors // 4))


def _descriptors() -> int | None:
    """The limit on open files, None if there is none. Raises the soft limit, meant for ``select``, to the hard one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (ValueError, OSError):  # macOS: the hard limit is infinite, which can't be set
            with suppress(ValueError, OSError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (_OPEN_MAX, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes are in octets, times in seconds, rates per second. The defaults are those of the manual.

    ``connections``         in all; two descriptors each, so never more than the system's limit allows
    ``client_connections``  per client address; 0: nine tenths of all, so that no client alone locks the others out
    ``head``                of a request: browsers and servers stop at 8 to 64 KiB
    ``hello``               a ClientHello: post-quantum ones have 2 KB, Go and OpenSSL accept 64 to 128 KB
    ``head_timeout``        for a complete head: it fits into a packet or two, and is sent at once
    ``hello_timeout``       for the first bytes of a tunnel, from either side, and the whole ClientHello
    ``dial_timeout``        for look-up, which may take 8 s of it, and TCP to all addresses of an origin
    ``tls_timeout``         for each of the two handshakes
    ``idle_timeout``        for a tunnel without a byte either way: beyond what long polls and keep-alive need; a
                            twelfth of it once one side has ended
    ``new_names``           certificates made per second: a quarter of a core; bursts may use up what some seconds left
    ``client_new_names``    the same per client address: a page asks for dozens at once, and then for few
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
        """The limits of one of ``workers`` processes, with no more connections than descriptors allow, two per tunnel.

        With ``logged`` names in memory whose contexts log their keys, each takes a descriptor, as does a context that
        was evicted while a tunnel still uses it.
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
