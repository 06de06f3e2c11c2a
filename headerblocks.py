"""``HeaderBlocks``: those of one direction of an HTTP/2 connection (RFC 9113 §4.3), decoded by hpack (RFC 7541).

Each of them must be, since one that is left out would spoil all later ones.

A decoder's table changes only when the encoder says so inside a block; what the other side's SETTINGS_HEADER_TABLE_SIZE
allows is a bound to that (RFC 7541 §4.2). It is raised as soon as it is seen, and never lowered: a block that was
encoded before the encoder knew is still good, and whether it breaks the rule is for the real endpoint to say.
"""

import re

import hpack

from exchange import Fields, Unreadable

MAX_LIST = 65_536  # octets of a decoded header block, as RFC 9113 §6.5.2 counts them
MAX_TABLE = 65_536  # of an HPACK table, which is what Chromium allows; Go and nghttp2 use 4096

# Changes of the table's size (RFC 7541 §6.3) that begin a header block: more of them than an encoder has cause for.
_CHANGES = re.compile(rb"(?:[\x20-\x3e]|\x3f[\x80-\xff]*[\0-\x7f]){100}")


class HeaderBlocks:
    """Takes them one after the other. ``Unreadable`` is raised for one that can't be decoded, or is not to be."""

    __slots__ = ("_decoder",)

    def __init__(self) -> None:
        self._decoder = hpack.Decoder(MAX_LIST)

    def allow(self, size: int) -> None:
        """Let the table have so many octets, as who receives the blocks does, but not more than ``MAX_TABLE``."""
        self._decoder.max_allowed_table_size = max(self._decoder.max_allowed_table_size, min(size, MAX_TABLE))

    def decode(self, block: bytes) -> Fields:
        """The fields of a block, pseudo-fields among them.

        64 KiB of changes of the table's size would hold everyone up for 0.1 s.
        """
        if _CHANGES.match(block):
            raise Unreadable("a header block that changes the table's size without end")
        try:
            return [*self._decoder.decode(block, raw=True)]
        except hpack.HPACKError as error:
            raise Unreadable("a header block that can't be decoded") from error

    def parts(self, block: bytes) -> tuple[dict[bytes, str], Fields]:
        """The pseudo-fields and the fields of a block."""
        fields = self.decode(block)
        first = next((index for index, field in enumerate(fields) if not field[0].startswith(b":")), len(fields))
        special = {name: value.decode("latin-1") for name, value in fields[:first]}
        if len(special) != first or any(name.startswith(b":") for name, _ in fields[first:]):
            raise Unreadable("a pseudo-field twice, or behind others")  # RFC 9113 §8.3
        return special, fields[first:]
