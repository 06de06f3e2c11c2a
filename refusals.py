"""``Refusals``: clients that reject our certificate: how that shows, what it means, what to change in the client.

Some send an alert, some just close, in the handshake or right after it. A client that pins certificates can't be
intercepted; with a threshold, a pair of client and name with that many refusals is tunnelled untouched for a while.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

from lru import LRU
from record import Record

LEARNED_SECONDS = 3600.0  # how long a pair is tunnelled before interception is tried again
SOON_SECONDS = 2.0  # a client that closes this soon after the handshake, without a byte, probably rejected our leaf
_LATELY = 10.0  # seconds after its last use of a name in which a client that just leaves is not taken to refuse it
_PAIRS = 10_000

# By the alert's description as OpenSSL names it (RFC 8446 §6.2).
_MEANINGS = {
    "UNKNOWN_CA": "it does not trust the CA",
    "BAD_CERTIFICATE": "it pins another certificate, or does not trust the CA",
    "CERTIFICATE_UNKNOWN": "it does not trust the CA, or pins another certificate",
    "UNSUPPORTED_CERTIFICATE": "it does not take certificates of this kind: try another --key-type",
    "CERTIFICATE_EXPIRED": "it finds the certificate expired or not yet valid: compare its clock with this machine's",
    "CERTIFICATE_REVOKED": "it finds the certificate revoked, or can't fetch a CRL: see --crl-url",
    "ACCESS_DENIED": "it pins another certificate",
}

# What to change, by words of the User-Agent in the client's CONNECT. The first match counts: pip also names its
# Python, and npm its Node.js.
_SETTINGS = (
    (("curl/",), "curl: --cacert ca.crt, or CURL_CA_BUNDLE"),
    (("git/",), "git: GIT_SSL_CAINFO=ca.crt"),
    (("Go-http-client/",), "Go: SSL_CERT_FILE=ca.crt"),
    (("pip/",), "pip: PIP_CERT=ca.crt"),
    (("python", "Python"), "Python: SSL_CERT_FILE=ca.crt, for requests REQUESTS_CA_BUNDLE"),
    (("npm/",), "npm: npm config set cafile ca.crt"),
    (("node", "undici"), "Node.js: NODE_EXTRA_CA_CERTS=ca.crt"),
    (("Java/", "Java-http-client/"), "Java: keytool -importcert -cacerts -file ca.crt"),
    (("APT",), "apt: Acquire::https::CAInfo ca.crt"),
    (("Wget/",), "wget: --ca-certificate=ca.crt"),
    (("Firefox/",), "Firefox: Settings, Certificates, View Certificates, Authorities, Import"),
    (
        ("Chrome/",),
        "Chrome: import ca.crt into the system's store of authorities, on Linux under chrome://certificate-manager",
    ),
)
_ANY_SETTING = "make it trust ca.crt: the page at the proxy's own address and README, Trust the CA, tell how"

UNNEEDED = "it opened more connections than it needs, or another program there does not trust the CA"
OPERATORS = "the certificate is an operator's: the client has to trust its issuer, not certifier's CA"


class Pair(NamedTuple):
    """A client's address, and the name that it wanted."""

    client: str
    name: str


class Refusals:
    """Counts refusals. ``threshold`` 0: nothing is learned from them."""

    def __init__(self, threshold: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        self._threshold = threshold
        self._clock = clock
        self._counts: LRU[Pair, int] = LRU(_PAIRS)
        self._learned: LRU[Pair, float] = LRU(_PAIRS)
        self._accepted: LRU[Pair, float] = LRU(_PAIRS)  # when a tunnel that was used has ended
        self._open: dict[Pair, set[Record]] = {}  # of intercepted tunnels

    def bypasses(self, pair: Pair) -> bool:
        """Whether tunnels of this client for this name pass untouched for now."""
        if not self._threshold:
            return False
        until = self._learned.get(pair)
        if until is not None and self._clock() >= until:
            self._learned.pop(pair)
            return False
        return until is not None

    def opened(self, pair: Pair, record: Record) -> None:
        """Take note of an intercepted tunnel that is relayed from now on, until it has ``ended``."""
        self._open.setdefault(pair, set()).add(record)

    def ended(self, pair: Pair, record: Record) -> None:
        """Forget a tunnel that was ``opened``."""
        records = self._open[pair]
        records.remove(record)
        if not records:
            del self._open[pair]

    def refused(self, pair: Pair) -> bool:
        """Count a refusal. Return whether the pair is bypassed from now on because of it."""
        if not self._threshold or self.bypasses(pair):
            return False
        count = (self._counts.pop(pair) or 0) + 1
        if count < self._threshold:
            self._counts.put(pair, count)
            return False
        self._learned.put(pair, self._clock() + LEARNED_SECONDS)
        return True

    def accepted(self, pair: Pair) -> None:
        """Forget earlier refusals: the client accepted the certificate."""
        if self._counts:
            self._counts.pop(pair)
        self._accepted.put(pair, self._clock())

    def uses(self, pair: Pair) -> bool:
        """Whether the client uses a tunnel for the name, or did lately: then it need not refuse when it just leaves.

        Go opens more connections than it needs, and leaves those that come too late, all when it exits.
        """
        last = self._accepted.peek(pair)
        if last is not None and self._clock() < last + _LATELY:
            return True
        records = self._open.get(pair, ())
        return any(record.progress is not None and record.progress.sent for record in records)

    def learned(self) -> list[tuple[Pair, float]]:
        """The pairs that are bypassed, and for how many seconds more."""
        now = self._clock()
        return [(pair, until - now) for pair in self._learned if (until := self._learned.peek(pair) or 0) > now]


def meaning(reason: str | None) -> str | None:
    """The meaning of OpenSSL's reason for a failed handshake, such as ``TLSV1_ALERT_UNKNOWN_CA``; None: no refusal."""
    return next((what for alert, what in _MEANINGS.items() if (reason or "").endswith(f"ALERT_{alert}")), None)


def setting(user_agent: str) -> str:
    """What to change in a client so that it trusts the CA."""
    return next((text for words, text in _SETTINGS if any(word in user_agent for word in words)), _ANY_SETTING)
