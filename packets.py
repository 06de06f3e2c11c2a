"""``Flow``: the packets of one tunnel, made up around its decrypted octets; sans-IO.

They are returned as the parts to be written one after the other: payloads are not copied.
"""

import ipaddress
import os
import struct

from pcap import Octets, Parts, block

ACK_AFTER = 1 << 20  # octets in one direction after which the other one acknowledges; the window is 1 GiB

_SYN, _RST, _ACK, _FIN, _PSH = 0x02, 0x04, 0x10, 0x01, 0x08
_MSS = {4: 65_495, 6: 65_475}  # as on a loopback interface: as few packets as possible
_WINDOW, _SCALE = 65_535, 14
_SUMMED = 4096  # octets of a payload that are added to a checksum at once

_TCP = struct.Struct(">HHLLBBHHH")
_IPV4 = struct.Struct(">BBHHHBBH4s4s")
_IPV6 = struct.Struct(">LHBB16s16s")


class _End:
    """One end of a flow: its address, and what it has sent."""

    __slots__ = ("acknowledged", "address", "port", "sequence")

    def __init__(self, address: bytes, port: int) -> None:
        self.address = address
        self.port = port
        self.sequence = int.from_bytes(os.urandom(4))  # random: tells a later flow on the same ports apart
        self.acknowledged = self.sequence  # by the other end


class Flow:
    """The packets of one tunnel, as blocks of a pcapng file. ``client`` and ``origin`` are address:port.

    If one has an IPv4 and the other an IPv6 address, the former is mapped (``::ffff:192.0.2.1``).
    """

    __slots__ = ("_client", "_number", "_origin", "_version")

    def __init__(self, client: str, origin: str) -> None:
        ends = [_parse(client), _parse(origin)]
        if {address.version for address, _ in ends} == {4, 6}:
            ends = [(ipaddress.IPv6Address(f"::ffff:{a}") if a.version == 4 else a, port) for a, port in ends]
        self._version = ends[0][0].version
        self._client, self._origin = [_End(address.packed, port) for address, port in ends]
        self._number = 0  # identification of the latest IPv4 packet

    def opened(self, comment: str = "") -> Parts:
        """The handshake. The comment, such as the server's name, is attached to its first packet."""
        first = self._packet(self._client, self._origin, _SYN, comment=comment)
        self._client.sequence += 1
        second = self._packet(self._origin, self._client, _SYN | _ACK)
        self._origin.sequence += 1
        return first + second + self._packet(self._client, self._origin, _ACK)

    def sent(self, data: Octets) -> Parts:
        """What the client sent."""
        return self._segments(self._client, self._origin, data)

    def received(self, data: Octets) -> Parts:
        """What the origin sent."""
        return self._segments(self._origin, self._client, data)

    def closed(self, cut: bool = False, by_client: bool = False) -> Parts:
        """The end: FINs or, if it was not orderly (``cut``), a reset, from the client's side or the other one."""
        if cut:
            ends = (self._client, self._origin) if by_client else (self._origin, self._client)
            return self._packet(*ends, _RST | _ACK)
        first = self._packet(self._client, self._origin, _FIN | _ACK)
        self._client.sequence += 1
        second = self._packet(self._origin, self._client, _FIN | _ACK)
        self._origin.sequence += 1
        return first + second + self._packet(self._client, self._origin, _ACK)

    def _segments(self, source: _End, sink: _End, data: Octets) -> Parts:
        size = _MSS[self._version]
        if len(data) > size:
            data = memoryview(data)
        parts: Parts = []
        for start in range(0, len(data), size):
            payload = data[start : start + size]
            parts += self._packet(source, sink, _PSH | _ACK, payload)
            source.sequence += len(payload)
            if source.sequence - source.acknowledged >= ACK_AFTER:
                parts += self._packet(sink, source, _ACK)
        return parts

    def _packet(self, source: _End, sink: _End, flags: int, payload: Octets = b"", comment: str = "") -> Parts:
        options = b""
        if flags & _SYN:
            options = struct.pack(">BBHBBBB", 2, 4, _MSS[self._version], 3, 3, _SCALE, 1)
        acknowledges = 0
        if flags & _ACK:
            sink.acknowledged = sink.sequence
            acknowledges = sink.sequence & 0xFFFFFFFF
        length = 20 + len(options) + len(payload)
        offset = (20 + len(options)) << 2
        fields = (source.port, sink.port, source.sequence & 0xFFFFFFFF, acknowledges, offset, flags, _WINDOW)
        pseudo = source.address + sink.address + struct.pack(">LL", length, 6)  # RFC 9293 §3.1; IPv4's has the same sum
        checksum = _checksum(pseudo + _TCP.pack(*fields, 0, 0) + options, payload)
        return block(self._ip(source, sink, length) + _TCP.pack(*fields, checksum, 0) + options, payload, comment)

    def _ip(self, source: _End, sink: _End, length: int) -> bytes:
        if self._version == 6:
            return _IPV6.pack(6 << 28, length, 6, 64, source.address, sink.address)
        self._number = (self._number + 1) & 0xFFFF
        fields = [0x45, 0, 20 + length, self._number, 0x4000, 64, 6, 0, source.address, sink.address]
        fields[7] = _checksum(_IPV4.pack(*fields))
        return _IPV4.pack(*fields)


def _parse(text: str) -> tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, int]:
    address, _, port = text.rpartition(":")
    return ipaddress.ip_address(address.strip("[]").partition("%")[0]), int(port)


def _checksum(header: bytes, payload: Octets = b"") -> int:
    """RFC 1071, of a header with an even number of octets and what follows it.

    A number modulo 65,535 is the one's complement sum of its 16-bit digits, computed here in C: of many short numbers
    added up, as dividing one of 64 KB takes twice as long as reading it.
    """
    total = int.from_bytes(header)
    for start in range(0, len(payload), _SUMMED):
        part = payload[start : start + _SUMMED]
        total += int.from_bytes(part) << 8 * (len(part) % 2)  # padded to an even number of octets
    return -total % 0xFFFF
