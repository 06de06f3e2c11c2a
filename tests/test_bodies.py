import gzip
import random
import sys
import time
import tracemalloc
import zlib
from collections.abc import Callable
from functools import partial

import brotli
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bodies import MAX_MEMBERS, Content, decode, text

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

PLAIN = b"some text, " * 50


def bare(data: bytes) -> bytes:
    deflator = zlib.compressobj(wbits=-15)
    return deflator.compress(data) + deflator.flush()


@pytest.mark.parametrize(
    ("body", "coding"),
    [
        (PLAIN, ""),
        (PLAIN, "Identity"),
        (gzip.compress(PLAIN, mtime=0), "gzip"),
        (gzip.compress(PLAIN, mtime=0), " X-GZIP "),
        (gzip.compress(PLAIN[:9], mtime=0) + gzip.compress(PLAIN[9:], mtime=0), "gzip"),
        (zlib.compress(PLAIN), "deflate"),
        (bare(PLAIN), "deflate"),
        (gzip.compress(PLAIN, mtime=0) + b"\0\0", "gzip"),
        (brotli.compress(PLAIN), "br"),
        (zstd.compress(PLAIN), "zstd"),
        (zstd.compress(PLAIN[:9]) + zstd.compress(PLAIN[9:]), "zstd"),
        (zstd.compress(PLAIN) + b"\0\0", "zstd"),
    ],
)
def test_codings_are_undone_up_to_the_limit(body: bytes, coding: str) -> None:
    assert decode(body, coding, len(PLAIN)) == Content(PLAIN)
    assert decode(bytearray(body), coding, len(PLAIN) - 1) == Content(PLAIN[:-1], cut=True)
    assert decode(b"", coding, 10) == Content(b"")


def test_a_body_that_ends_too_early_gives_its_beginning() -> None:
    noise = bytes(range(256)) * 20
    found = decode(gzip.compress(noise)[:-30], "gzip", 10_000)
    assert noise.startswith(found.octets)
    assert len(found.octets) > 100
    text = random.Random(1).randbytes(1 << 20)
    for packed, coding in ((brotli.compress(text, quality=1), "br"), (zstd.compress(text), "zstd")):
        found = decode(packed[:-30], coding, 2 << 20)
        assert text.startswith(found.octets)
        assert len(found.octets) > 100
        assert not found.coding


@pytest.mark.parametrize("coding", ["br", "zstd", "gzip, br", "gzip", "deflate", "compress"])
def test_what_cannot_be_undone_is_left_as_it_is(coding: str) -> None:
    assert decode(b"\xff\xfenot it", coding, 4) == Content(b"\xff\xfeno", True, coding)
    broken = bytearray(gzip.compress(PLAIN))
    broken[-5] ^= 1  # in its checksum
    assert decode(broken, "gzip", 1000) == Content(bytes(broken), coding="gzip")


@pytest.mark.parametrize(
    ("coding", "compress"),
    [
        ("gzip", gzip.compress),
        ("deflate", zlib.compress),
        ("br", partial(brotli.compress, quality=1)),
        ("zstd", zstd.compress),
    ],
)
def test_a_bomb_costs_no_more_memory_than_the_limit(coding: str, compress: Callable[[bytes], bytes]) -> None:
    bomb = compress(bytes(20 << 20))
    tracemalloc.start()
    try:
        assert decode(bomb, coding, 1000) == Content(bytes(1000), cut=True)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_what_would_take_too_large_a_window_is_left_as_it_is() -> None:
    noise = random.Random(1).randbytes(16 << 20)
    large = zstd.compress(noise, options={zstd.CompressionParameter.window_log: 27})
    assert decode(large, "zstd", 1000).coding == "zstd"


def test_a_body_of_many_members_costs_no_more_time_than_so_many_do() -> None:
    began = time.process_time()
    for compress, coding in ((gzip.compress, "gzip"), (zstd.compress, "zstd")):
        assert decode(compress(b"") * 50_000, coding, 1000).octets == b""
        assert decode(compress(b"a") * MAX_MEMBERS, coding, 1000) == Content(b"a" * MAX_MEMBERS)
    assert time.process_time() - began < 0.5


def test_without_zstd_its_bodies_are_left_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Python built without libzstd lacks the module."""
    monkeypatch.setitem(sys.modules, zstd.__name__.partition(".")[0], None)  # imports fail as if it were missing
    body = zstd.compress(PLAIN)
    assert decode(body, "zstd", 2000) == Content(body, coding="zstd")


@pytest.mark.parametrize(
    ("octets", "kind", "expected"),
    [
        ("é".encode(), "text/html", "é"),
        (b"{}", "application/json; charset=utf-8", "{}"),
        (b"{}", "application/problem+json", "{}"),
        (b"<a/>", "image/svg+xml", "<a/>"),
        (b"\xe9", 'Text/Plain; Charset="ISO-8859-1"', "é"),
        ("\ufeffé".encode("utf-16-le"), "text/plain;charset=utf-16", "é"),
        ("あ".encode("shift_jis"), "text/plain; charset=Shift_JIS", "あ"),
        (b"\xe9", "text/html", None),
        (b"\x89PNG", "image/png", None),
        (b"abc", "", None),
        (b"abc", "application/octet-stream", None),
        (b"abc", "text/plain; charset=idna", None),
        (b"abc", "text/plain; charset=zip", None),
        (b"abc", "text/plain; charset=iso-8859-99", None),
    ],
)
def test_text(octets: bytes, kind: str, expected: str | None) -> None:
    assert text(octets, kind) == expected


def test_a_character_that_was_cut_is_left_out() -> None:
    cut = "aé".encode()[:-1]
    assert text(cut, "text/plain", whole=False) == "a"
    assert text(cut, "text/plain", whole=True) is None


CHARSETS = st.sampled_from(
    [
        "utf-8",
        "utf-16",
        "utf-32le",
        "windows-1252",
        "iso-2022-jp",
        "gb18030",
        "big5-hkscs",
        "euc-kr",
        "koi8-r",
        "macintosh",
    ]
)


@given(st.binary(max_size=300), st.sampled_from(["", "gzip", "deflate", "br"]), CHARSETS)
def test_garbage_never_raises(body: bytes, coding: str, charset: str) -> None:
    for octets in (body, gzip.compress(body), gzip.compress(body)[:-5] + b"x"):
        found = decode(octets, coding, 100)
        assert len(found.octets) <= 100
        for whole in (True, False):
            (text(found.octets, f"text/plain; charset={charset}", whole) or "").encode()
