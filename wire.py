"""``Reader``: a cursor over the vectors of the TLS presentation language (RFC 8446 §3)."""

from errors import HelloError

ALERT, HANDSHAKE = 0x15, 0x16  # ContentType


class Reader:
    """A cursor over bytes; reading past the end is a ``HelloError``."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def take(self, count: int) -> bytes:
        """The next octets."""
        start = self._at
        self._at = end = start + count
        if end > len(self._data):
            raise HelloError("ClientHello shorter than its lengths say")
        return self._data[start:end]

    def number(self, width: int) -> int:
        """The next octets as a number, big-endian."""
        return int.from_bytes(self.take(width))

    def vector(self, width: int) -> "Reader":
        """A reader of the next octets, whose count stands in ``width`` octets before them."""
        return Reader(self.take(self.number(width)))

    def rest(self) -> bytes:
        """All octets that are left."""
        return self.take(len(self._data) - self._at)
