"""``HeaderBlocks``: those of one direction of an HTTP/2 connection (RFC 9113 §4.3), decoded by hpack (RFC 7541).

Every block must be decoded: leaving one out would corrupt all later ones.

A decoder's table is resized only when the encoder says so inside a block, up to the other side's
SETTINGS_HEADER_TABLE_SIZE (RFC 7541 §4.2). That limit is raised as soon as it is seen, and never lowered: a block that
was encoded before the encoder learnt of it is still valid, and enforcing it is up to the real endpoint.
"""

import re

import hpack

from exchange import Fields, Unreadable

MAX_LIST = 65_536  # octets of a decoded header block, as RFC 9113 §6.5.2 counts them
MAX_TABLE = 65_536  # of an HPACK table, which is what Chromium allows; Go and nghttp2 use 4096

# Dynamic table size updates (RFC 7541 §6.3) at the start of a header block: more than any encoder has reason to send.
_CHANGES = re.compile(rb"(?:[\x20-\x3e]|\x3f[\x80-\xff]*[\0-\x7f]){100}")


class HeaderBlocks:
    """Decodes blocks in their order. Raises ``Unreadable`` for one that can't be decoded, or must not be."""

    __slots__ = ("_decoder",)

    def __init__(self) -> None:
        self._decoder = hpack.Decoder(MAX_LIST)

    def allow(self, size: int) -> None:
        """Allow the table as many octets as the receiver of the blocks does, but at most ``MAX_TABLE``."""
        self._decoder.max_allowed_table_size = max(self._decoder.max_allowed_table_size, min(size, MAX_TABLE))

    def decode(self, block: bytes) -> Fields:
        """The fields of a block, including pseudo-fields.

        64 KiB of table size updates would block the hub for 0.1 s.
        """
        if _CHANGES.match(block):
            raise Unreadable("a header block that changes the table's size without end")
        try:
            return [*self._decoder.decode(block, raw=True)]
        except hpack.OversizedHeaderListError as error:  # endpoints may accept it
            raise Unreadable(f"a header block that decodes to more than {MAX_LIST} octets") from error
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
