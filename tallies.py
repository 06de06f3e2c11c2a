"""``Tallies``: what processes have counted, in memory that they share and that outlives each of them.

A process that is killed leaves its latest tally whole: each slot has two halves that are written in turns, so that a
write that a kill cut off, or that somebody reads meanwhile, leaves the one before it.
"""

import mmap
import struct
import zlib

_HALF = 65_536  # octets: a tally of all labels that there may be has a third of that; pages never written cost nothing
_HEAD = struct.Struct("=QII")  # which tally it is, counted from 1; its length; its CRC-32
_TRIES = 3  # whoever reads while another one writes finds both halves torn only if he was overtaken twice


class Tallies:
    """A slot for each of so many processes, made before they are forked. One process at a time writes to a slot."""

    def __init__(self, count: int) -> None:
        self._memory = mmap.mmap(-1, count * 2 * _HALF)

    def keep(self, number: int, tally: bytes) -> None:
        """Let this be the latest one of process ``number``. Raises ``ValueError`` for one that is too long."""
        if len(tally) > _HALF - _HEAD.size:
            raise ValueError(f"a tally of {len(tally)} octets")
        which, _ = self._newest(number)
        at = self._half(number, which + 1)
        self._memory[at + _HEAD.size : at + _HEAD.size + len(tally)] = tally
        self._memory[at : at + _HEAD.size] = _HEAD.pack(which + 1, len(tally), zlib.crc32(tally))

    def last(self, number: int) -> bytes | None:
        """The latest one; None if there was none yet."""
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
