"""``Users``: who may use the proxy, from a file as ``htpasswd -B`` makes it (``name:bcrypt hash``, one per line).

``check`` may block for a tenth of a second and is for a pool thread; bcrypt releases the GIL meanwhile.
"""

import base64
import binascii
import codecs
import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Callable
from pathlib import Path

import bcrypt

import reading
from errors import UsageError
from lru import LRU

REMEMBER_SECONDS = 60.0  # how long a verified name and password pass without bcrypt, which costs 0.1 s of CPU
_REMEMBERED = 10_000
# A salt of 128 bits leaves the low four bits of its last character unused: bcrypt rejects a hash that sets one of them.
_HASH = re.compile(rb"\$2[aby]\$(0[4-9]|[12][0-9]|3[01])\$[./A-Za-z0-9]{21}[.Oeu][./A-Za-z0-9]{31}\Z")


class Users:
    """The users in a file. Raises ``UsageError`` if it can't be used. ``clock`` gives seconds."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._hashes = _read(path)
        self._salt = secrets.token_bytes(16)
        self._passed: LRU[bytes, float] = LRU(_REMEMBERED)
        # Which hash stands in for an unknown name depends on a secret of the file, not of the process: timing that
        # differs between workers, or after a reload, would reveal that the name does not exist.
        self._models = sorted(self._hashes.values())
        self._secret = hashlib.sha256(b"\n".join(self._models)).digest()

    def remembered(self, credentials: tuple[bytes, bytes]) -> bool:
        """Whether this name and password were verified recently. Does not block."""
        until = self._passed.get(self._digest(credentials))
        return until is not None and self._clock() < until

    def check(self, credentials: tuple[bytes, bytes]) -> bool:
        """Whether this name has this password. An unknown name takes as long as some user's, always the same user's."""
        name, password = credentials
        in_utf_8 = (text(name).encode(), text(password).encode())
        # requests and aiohttp send Latin-1 whatever charset a 407 names (RFC 7617 §2.1).
        return self._check(name, password) or (in_utf_8 != credentials and self._check(*in_utf_8))

    def _check(self, name: bytes, password: bytes) -> bool:
        hashed = self._hashes.get(name)
        # A password beyond the 72 octets that bcrypt reads is refused, not truncated, or others would match it.
        good = bcrypt.checkpw(password[:72], hashed or self._model(name)) and len(password) <= 72
        return good and hashed is not None

    def remember(self, credentials: tuple[bytes, bytes]) -> None:
        """Let credentials that ``check`` accepted pass for a while."""
        self._passed.put(self._digest(credentials), self._clock() + REMEMBER_SECONDS)

    def _model(self, name: bytes) -> bytes:
        """The user's hash that stands in for that of an unknown name: hashes may differ in their cost."""
        return self._models[int.from_bytes(hmac.digest(self._secret, name, hashlib.sha256)) % len(self._models)]

    def _digest(self, credentials: tuple[bytes, bytes]) -> bytes:
        """What is remembered of credentials: a keyed digest, so that not even the time of a look-up reveals any."""
        name, password = credentials
        return hmac.digest(self._salt, b"%d:%s%s" % (len(name), name, password), hashlib.sha256)


def text(octets: bytes) -> str:
    """Decode the octets of a name or password, which should be UTF-8 and otherwise are Latin-1."""
    try:
        return octets.decode()
    except UnicodeDecodeError:
        return octets.decode("latin-1")


def credentials_in(field: str) -> tuple[bytes, bytes] | None:
    """Name and password of a ``Basic`` Proxy-Authorization field (RFC 7617 §2); None if it holds none."""
    scheme, _, encoded = field.strip().partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        name, colon, password = base64.b64decode(encoded.strip().encode("ascii"), validate=True).partition(b":")
    except (binascii.Error, UnicodeEncodeError):
        return None
    return (name, password) if colon and b"\0" not in password else None


def _read(path: Path) -> dict[bytes, bytes]:
    try:
        lines = reading.whole(path).removeprefix(codecs.BOM_UTF8).splitlines()
    except OSError as error:
        raise UsageError(f"--auth={path}: can't read it: {error.strerror}") from error
    users = {}
    for number, line in enumerate(lines, 1):
        if line.strip() and not line.startswith(b"#"):
            name, _, hashed = line.strip().partition(b":")
            if not name or not _HASH.match(hashed):
                raise UsageError(
                    f"--auth={path}: line {number} is not of the form name:bcrypt hash, as htpasswd -B makes it"
                )
            users[name] = hashed
    if not users:
        raise UsageError(f"--auth={path}: holds no user; make one: htpasswd -B -c {path} alice")
    return users
