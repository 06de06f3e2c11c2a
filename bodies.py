"""What a captured body says: its content coding undone (RFC 9110 §8.4), and as text where it is text.

Both are bounded by the caller's limit: a few octets of gzip can stand for gigabytes.
"""

import codecs
import re
import zlib
from dataclasses import dataclass

MAX_MEMBERS = 100  # of gzip (RFC 1952 §2.2) in one body

_GZIP, _ZLIB, _RAW = 31, 15, -15  # zlib's window bits

_TEXT = re.compile(
    r"text/|application/(?:json|xml|javascript|ecmascript|x-www-form-urlencoded|graphql|x-ndjson|yaml|toml|sql)\Z"
    r"|[^;]+\+(?:json|xml|yaml)\Z"
)
_CHARSET = re.compile(r';\s*charset="?([^\s";]+)', re.IGNORECASE)
_CHARSETS = re.compile(  # those that may be asked of Python: it has codecs that are no charsets, and slow ones
    r"utf-?(?:8|16|32)(?:[-_]?[bl]e)?|(?:us-)?ascii|iso-?8859-?\d\d?|latin-?1|windows-\d{3,4}|koi8-[ru]|tis-620"
    r"|shift[-_]jis|euc-(?:jp|kr)|iso-2022-(?:jp|kr)|gb2312|gbk|gb18030|big5(?:-hkscs)?|macintosh",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Content:
    """A body without its content coding."""

    octets: bytes
    cut: bool = False  # there is more than the limit allows
    coding: str = ""  # that could not be undone: the octets are as they came


def decode(body: bytes | bytearray, coding: str, limit: int) -> Content:
    """Undo the coding that ``Content-Encoding`` names, up to ``limit`` octets. A body that ends too early gives its
    beginning; Brotli, Zstandard, several codings and what is broken are left as they are.
    """
    coding = coding.strip().lower()
    if coding in ("", "identity"):
        return Content(bytes(body[:limit]), len(body) > limit)
    if coding in ("gzip", "x-gzip"):
        bits = _GZIP
    elif coding == "deflate":  # zlib's format, but some send the bare one (RFC 9110 §8.4.1.2)
        bits = _ZLIB if len(body) > 1 and body[0] & 15 == 8 and int.from_bytes(body[:2]) % 31 == 0 else _RAW
    else:
        return Content(bytes(body[:limit]), len(body) > limit, coding)
    out = bytearray()
    rest = bytes(body)
    try:
        for _ in range(MAX_MEMBERS if bits == _GZIP else 1):
            inflator = zlib.decompressobj(bits)
            out += inflator.decompress(rest, limit + 1 - len(out))
            rest = inflator.unused_data
            if not rest or len(out) > limit:
                break
    except zlib.error:
        return Content(bytes(body[:limit]), len(body) > limit, coding)
    return Content(bytes(out[:limit]), len(out) > limit)


def text(octets: bytes, content_type: str, whole: bool = True) -> str | None:
    """As text, in the charset that its type names, else UTF-8; None if it is not text. If it was cut, so may be its
    last character.
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
