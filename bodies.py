"""Decodes captured bodies: undoes their content coding (RFC 9110 §8.4), and turns them into text if they are text.

Undoing is bounded by the caller's limit: a few octets of gzip can expand to gigabytes.
"""

import codecs
import re
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import brotli

MAX_MEMBERS = 100  # of gzip (RFC 1952 §2.2), or frames of zstd, in one body

_GZIP, _ZLIB, _RAW = 31, 15, -15  # zlib's window bits
_ZSTD_WINDOW = 23  # 8 MiB as a power of two, the largest window in HTTP (RFC 9659 §3)

_TEXT = re.compile(
    r"text/|multipart/|application/(?:json|xml|javascript|ecmascript|x-www-form-urlencoded|graphql|x-ndjson|yaml|toml|sql)\Z"
    r"|[^;]+\+(?:json|xml|yaml)\Z"
)
_CHARSET = re.compile(r';\s*charset="?([^\s";]+)', re.IGNORECASE)
_CHARSETS = re.compile(  # those left to Python, some of whose other codecs are not charsets, or are slow
    r"utf-?(?:8|16|32)(?:[-_]?[bl]e)?|(?:us-)?ascii|iso-?8859-?\d\d?|latin-?1|windows-\d{3,4}|koi8-[ru]|tis-620"
    r"|shift[-_]jis|euc-(?:jp|kr)|iso-2022-(?:jp|kr)|gb2312|gbk|gb18030|big5(?:-hkscs)?|macintosh",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Content:
    """A body without its content coding."""

    octets: bytes
    cut: bool = False  # there is more than the limit allows
    coding: str = ""  # the one that could not be undone: the octets are as received


def decode(body: bytes | bytearray, coding: str, limit: int) -> Content:
    """Undo the coding that ``Content-Encoding`` names, up to ``limit`` octets. A truncated body yields its beginning;
    several codings, unknown ones and invalid data are left as they are.
    """
    coding = coding.strip().lower()
    if coding in ("", "identity"):
        return Content(bytes(body[:limit]), len(body) > limit)
    undo = _CODINGS.get(coding)
    try:
        out = undo(bytes(body), limit + 1) if undo is not None else None
    except (zlib.error, brotli.error, _Broken):
        out = None
    if out is None:
        return Content(bytes(body[:limit]), len(body) > limit, coding)
    return Content(out[:limit], len(out) > limit)


class _Broken(Exception):
    """The body is not valid in its coding."""


def _gzip(body: bytes, most: int) -> bytes:
    return _joined(body, most, lambda: zlib.decompressobj(_GZIP), zlib.error)


def _joined(body: bytes, most: int, begin: Callable[[], Any], broken: type[Exception]) -> bytes:
    """Decompress gzip members (RFC 1952 §2.2) or zstd frames (RFC 8878 §3.1). Like clients, ignore trailing data."""
    out = bytearray()
    for number in range(MAX_MEMBERS):
        member = begin()
        try:
            out += member.decompress(body, most - len(out))
        except broken as error:
            if not number:
                raise _Broken from error
            break
        body = member.unused_data
        if not body or len(out) >= most:
            break
    return bytes(out)


def _deflate(body: bytes, most: int) -> bytes:
    """The zlib format, although some send raw deflate (RFC 9110 §8.4.1.2)."""
    framed = len(body) > 1 and body[0] & 15 == 8 and int.from_bytes(body[:2]) % 31 == 0
    return zlib.decompressobj(_ZLIB if framed else _RAW).decompress(body, most)


def _brotli(body: bytes, most: int) -> bytes:
    decompressor = brotli.Decompressor()
    out: bytes = decompressor.process(body, output_buffer_limit=most)
    if body and not out and not decompressor.is_finished():
        raise _Broken  # Brotli has no magic number, and this looks more like something else than a truncated body
    return out


def _zstd(body: bytes, most: int) -> bytes:
    try:  # imported late: 1 MiB of memory that most runs never need
        if sys.version_info >= (3, 14):
            from compression import zstd
        else:
            from backports import zstd
    except ImportError as error:  # a Python that was built without libzstd
        raise _Broken from error
    options: dict[int, int] = {zstd.DecompressionParameter.window_log_max: _ZSTD_WINDOW}
    return _joined(body, most, lambda: zstd.ZstdDecompressor(options=options), zstd.ZstdError)


_CODINGS: dict[str, Callable[[bytes, int], bytes]] = {
    "gzip": _gzip, "x-gzip": _gzip, "deflate": _deflate, "br": _brotli, "zstd": _zstd,
}  # fmt: skip


def text(octets: bytes, content_type: str, whole: bool = True) -> str | None:
    """Decode a body from the charset that its type names, else UTF-8; None if it is not text. Unless it is ``whole``, a
    partial last character is dropped.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if not _TEXT.match(kind):
        return None
    named = _CHARSET.search(content_type)
    charset = named[1] if named else "utf-8"
    if not _CHARSETS.fullmatch(charset):
        return None
    try:
        return codecs.getincrementaldecoder(charset)().decode(octets, whole)
    except (UnicodeError, LookupError):
        return None
