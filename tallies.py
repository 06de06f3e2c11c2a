"""``Tallies``: what processes have counted, in shared memory that outlives each of them.

A process that is killed leaves a complete tally: each slot has two halves that are written alternately, so that during
a write, or after a kill has cut it off, the tally before it can still be read.
"""

import mmap
import struct
import zlib

_HALF = 65_536  # octets: a tally with every possible label takes a third of that; pages never written cost nothing
_HEAD = struct.Struct("=QII")  # the tally's number, counted from 1; its length; its CRC-32
_TRIES = 3  # a reader finds both halves torn only if a writer has overtaken it twice


class Tallies:
    """A slot for each of ``count`` processes, to be made before they are forked. Each slot has one writer at a time."""

    def __init__(self, count: int) -> None:
        self._memory = mmap.mmap(-1, count * 2 * _HALF)

    def keep(self, number: int, tally: bytes) -> None:
        """Save the latest tally of process ``number``. Raises ``ValueError`` if it is too long."""
        if len(tally) > _HALF - _HEAD.size:
            raise ValueError(f"a tally of {len(tally)} octets")
        which, _ = self._newest(number)
        at = self._half(number, which + 1)
        self._memory[at + _HEAD.size : at + _HEAD.size + len(tally)] = tally
        self._memory[at : at + _HEAD.size] = _HEAD.pack(which + 1, len(tally), zlib.crc32(tally))

    def last(self, number: int) -> bytes | None:
        """The latest tally of process ``number``; None if there is none yet."""
        for _ in range(_TRIES):
            which, tally = self._newest(number)
            if which:
                return tally
        return None

    def _newest(self, number: int) -> tuple[int, bytes]:
        found = 0, b""
        for half in (0, 1):
            at = self._half(number, half)
            which, length, checksum = _HEAD.unpack_from(self._memory, at)
            tally = self._memory[at + _HEAD.size : at + _HEAD.size + length]
            if which > found[0] and zlib.crc32(tally) == checksum:
                found = which, tally
        return found

    @staticmethod
    def _half(number: int, which: int) -> int:
        return (2 * number + which % 2) * _HALF
