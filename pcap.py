"""Decrypted tunnels as a pcapng file (https://www.ietf.org/archive/id/draft-ietf-opsawg-pcapng-03.html) of synthetic
TCP: the real addresses and ports, with a handshake, segments and FINs made up around the decrypted bytes.

``packets.py`` makes the packets of a tunnel, ``block`` a block of each, ``PcapFile`` appends them. Wireshark detects
HTTP/1 on any port, but HTTP/2 only where it expects HTTP; to expect it on all ports (in the GUI: Analyze, Decode As):

    tshark -d tcp.port==1-65535,http -r file.pcapng
"""

import fcntl
import logging
import os
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import files
from rotation import make_room

_PACKET = struct.Struct("<LLLLLLL")  # Enhanced Packet Block, §4.3
_PARTS = 3  # of a block
_COMMENT = 1
_PROGRAM = b"certifier "  # followed by the version, in a file's Section Header

Octets = bytes | memoryview
Parts = list[Octets]

log = logging.getLogger("certifier.pcap")


class PcapFile:
    """A file of flows (0600), readable even if certifier is killed: only a packet that is being written is cut off.

    A file that an earlier run left at ``path`` is renamed to ``file.1.pcapng`` and so on, unless it has no packets. The
    file grows without bound; if someone empties it, later packets begin it anew. The constructor raises ``OSError``,
    namely ``BlockingIOError`` if another process writes the file. Later, packets are lost, with one warning, while the
    file can't be written; ``lost`` is called with the number of each loss.
    """

    def __init__(self, path: Path, version: str, lost: Callable[[int], object]) -> None:
        self._path = files.place(path)
        self._report = lost
        self._lacks = 0  # octets to be written before packets count as no longer lost
        self._lost = 0  # packets since the last warning
        self._fd = _open(self._path)
        self._head = _section(version.encode())
        self._end = 0
        try:
            self._append([])
        except OSError:
            os.close(self._fd)
            raise

    def write(self, packets: Parts) -> None:
        """Append packets of a flow in one write."""
        try:
            self._append(packets)
        except OSError as error:
            if not self._lacks:
                log.warning("can't write %s: %s; packets are lost until it can be", self._path, error.strerror)
            self._lost += len(packets) // _PARTS
            self._report(len(packets) // _PARTS)
            self._lacks = sum(map(len, packets))  # a full disk may still accept less than that, again and again
            return
        if self._lacks:
            self._lacks = max(0, self._lacks - sum(map(len, packets)))
            if not self._lacks:
                lost, self._lost = self._lost, 0
                log.warning("%s can be written again; packets lost: %d", self._path, lost)

    def reopen(self) -> None:
        """Continue in a new file if the present one was renamed or removed (logrotate) and a new one can be opened."""
        try:
            with suppress(FileNotFoundError):
                if os.path.samestat(os.stat(self._path), os.fstat(self._fd)):
                    return
            fd = _open(self._path)
        except OSError as error:
            log.warning("can't reopen %s: %s; going on in the file that was open", self._path, error.strerror)
            return
        os.close(self._fd)
        self._fd, self._end = fd, 0

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def _append(self, parts: Parts) -> None:
        if os.fstat(self._fd).st_size < self._end:  # someone has emptied it: the data would follow a hole
            os.ftruncate(self._fd, 0)
            self._end = 0
        if not self._end:
            parts = [self._head, *parts]
        self._end += files.write_at(self._fd, parts, self._end)


def _open(path: Path) -> int:
    """Open an empty file, locked against other processes."""
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_bare(fd):
                os.ftruncate(fd, 0)
                return fd
            make_room(path)
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def _is_bare(fd: int) -> bool:
    """Whether a file is empty, or has only the header that some version of certifier wrote."""
    found = os.pread(fd, 512, 0)
    version = found[28 : 28 + found[26]].removeprefix(_PROGRAM) if len(found) > 26 else b""
    return found in (b"", _section(version))


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("<HH", code, len(value)) + value + bytes(-len(value) % 4)


def block(headers: bytes, payload: Octets, comment: str) -> Parts:
    """An Enhanced Packet Block with the present time, of a packet's two parts."""
    options = _option(_COMMENT, comment.encode("utf-8", "replace")[:1000]) + _option(0, b"") if comment else b""
    size = len(headers) + len(payload)
    padding = bytes(-size % 4)
    length = 32 + size + len(padding) + len(options)
    now = int(time.time() * 1_000_000)
    head = _PACKET.pack(6, length, 0, now >> 32, now & 0xFFFFFFFF, size, size)
    return [head + headers, payload, padding + options + length.to_bytes(4, "little")]


def _section(version: bytes) -> bytes:
    """Section Header (§4.1) and Interface Description (§4.2): raw IP, microseconds."""
    blocks = b""
    for kind, body in (
        (0x0A0D0D0A, struct.pack("<LHHq", 0x1A2B3C4D, 1, 0, -1) + _option(4, _PROGRAM + version)),
        (1, struct.pack("<HHL", 101, 0, 0) + _option(2, b"certifier") + _option(3, b"decrypted tunnels")),
    ):
        body += _option(0, b"")
        length = 12 + len(body)
        blocks += struct.pack("<LL", kind, length) + body + struct.pack("<L", length)
    return blocks
