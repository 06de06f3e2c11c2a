import re

import pytest

import framing
from exchange import MAX_FIELDS, Unreadable
from framing import MAX_HEAD, MAX_LINE, Body, Chunked, Counted, Heads, UntilClose

HEAD = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def heads(data: bytes, size: int, strict: bool = False) -> list[bytes]:
    reader, found = Heads(strict), []
    for start in range(0, len(data), size):
        piece, at = data[start : start + size], 0
        while at < len(piece):
            head, at = reader.take(piece, at)
            if head is not None:
                found.append(head)
    return found


@pytest.mark.parametrize("size", [1, 2, 3, 5, 1 << 20])
@pytest.mark.parametrize("between", [b"", b"\r\n", b"\n", b"\r\n\r\n", b"\r\n\r\n\r\n\n"])
def test_heads_however_they_are_cut(size: int, between: bytes) -> None:
    bare = HEAD.replace(b"\r", b"")
    assert heads(between + HEAD + between + bare + HEAD, size) == [HEAD, bare, HEAD]


def test_a_head_is_not_given_before_it_ends() -> None:
    for end in range(len(HEAD)):
        reader = Heads()
        assert reader.take(HEAD[:end], 0) == (None, end)
        assert bool(reader) == (end > 0)


def test_empty_lines_alone_begin_no_head() -> None:
    reader = Heads()
    assert reader.take(b"\r\n\r", 0) == (None, 3)
    assert not reader.unfinished
    assert reader.take(b"\nG", 0) == (None, 2)
    assert reader.unfinished


@pytest.mark.parametrize("size", [1, 3, 1 << 20])
@pytest.mark.parametrize("begins", [b"", b"\r\n", b"\r\n\r"])
def test_who_is_strict_does_not_wait_for_the_end_of_what_is_no_request(size: int, begins: bytes) -> None:
    for other in (
        b"0\f\2\1\1`",
        b"EHLO a\r\n",
        b"GET / HTTP/1.1\n",
        b"GET /\xff HTTP/1.1\r\nA",
        b"GET\x7f",
        b"\x16\3\1",
    ):
        with pytest.raises(Unreadable):
            heads(begins + other, size, strict=True)
        assert heads(begins + other, size) == []
    for request in (b"0", b"PRI * HTTP/2.0\r", b"get /%%20 HTTP/1.1\r\nHost: \xff\1\r\n"):
        assert heads(begins + request, size, strict=True) == []


def test_who_is_strict_looks_at_each_head_anew_and_at_nothing_before_it() -> None:
    reader = Heads(strict=True)
    assert reader.take(HEAD[:20], 0) == (None, 20)
    assert reader.take(HEAD[20:], 0) == (HEAD, len(HEAD) - 20)
    with pytest.raises(Unreadable, match="request line"):
        reader.take(b"EHLO a\r\n", 0)
    assert Heads(strict=True).take(b"\0\1GET", 2) == (None, 5)  # behind a body


class Counting:
    """A pattern that counts the octets that it has matched."""

    octets = 0

    def __init__(self, pattern: re.Pattern[bytes]) -> None:
        self._pattern = pattern

    def match(self, data: bytearray, start: int = 0) -> re.Match[bytes] | None:
        found = self._pattern.match(data, start)
        self.octets += found.end() - start if found else 0
        return found


@pytest.mark.parametrize("begins", [b"\r" * 1000, b"\n" + b"\r" * 1000, b"GET /" + b"a" * 1000])
def test_who_is_strict_looks_once_at_each_octet_of_the_first_line(
    monkeypatch: pytest.MonkeyPatch, begins: bytes
) -> None:
    blank, line = Counting(framing._BLANK), Counting(framing._LINE)
    monkeypatch.setattr(framing, "_BLANK", blank)
    monkeypatch.setattr(framing, "_LINE", line)
    request = begins + b" HTTP/1.1\r\n" if begins.startswith(b"GET") else begins + b"GET / HTTP/1.1\r\n"
    assert heads(request + b"A: b\r\n" * 1000, 2, strict=True) == []
    assert blank.octets + line.octets == len(request)


@pytest.mark.parametrize("size", [1000, 1 << 20])
def test_the_limit_of_a_head(size: int) -> None:
    fits = b"x" * (MAX_HEAD - 4) + b"\r\n\r\n"
    assert heads(fits, size) == [fits]
    for data in (b"x" + fits, b"x" * (MAX_HEAD + 1)):
        with pytest.raises(Unreadable):
            heads(data, size)


def content(body: Body, data: bytes, size: int) -> tuple[bytes, bytes, bool]:
    """The content, what follows the body, and whether the body ended."""
    found, done = b"", False
    for start in range(0, len(data), size):
        piece, at = data[start : start + size], 0
        while at < len(piece):
            if done:
                return found, data[start + at :], True
            first, end, at, done = body.take(piece, at)
            found += piece[first:end]
    return found, b"", done


TRAILERS = b"A-B:  c \r\nD:\r\n"
CHUNKED = b'3\r\nabc\r\nA ;x="y"\r\n0123456789\r\n0\r\n' + TRAILERS + b"\r\n"


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1 << 20])
def test_bodies_however_they_are_cut(size: int) -> None:
    assert content(Counted(5), b"abcdefg", size) == (b"abcde", b"fg", True)
    assert content(Counted(8), b"abcdefg", size) == (b"abcdefg", b"", False)
    assert content(UntilClose(), b"abcdefg", size) == (b"abcdefg", b"", False)
    chunked = Chunked()
    assert content(chunked, CHUNKED + b"rest", size) == (b"abc0123456789", b"rest", True)
    assert chunked.trailers == [(b"A-B", b"c"), (b"D", b"")]
    assert content(Chunked(), CHUNKED[:-1], size) == (b"abc0123456789", b"", False)
    assert content(Chunked(), CHUNKED.replace(b"\r", b""), size)[0] == b"abc0123456789"


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1 << 20])
def test_where_bodies_are_judged_lines_end_with_crlf(size: int) -> None:
    body = CHUNKED.replace(TRAILERS, b"")
    assert content(Chunked(strict=True), body + b"rest", size) == (b"abc0123456789", b"rest", True)
    for line in (b"3\r\n", b"abc\r\n", b"0\r\n", b"\r\n"):
        head, found, rest = body.rpartition(line)
        with pytest.raises(Unreadable, match="bare LF"):
            content(Chunked(strict=True), head + found.replace(b"\r", b"") + rest, size)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1 << 20])
@pytest.mark.parametrize("trailers", [TRAILERS, b"A: /b HTTP/1.1\r\nHost: c\r\n", b"A:\r\n", b"no colon\r\n"])
def test_where_bodies_are_judged_there_are_no_trailers(trailers: bytes, size: int) -> None:
    """Java's HttpServer and Cheroot take them for the next request, WEBrick for fields of this one's head."""
    with pytest.raises(Unreadable, match="trailers"):
        content(Chunked(strict=True), CHUNKED.replace(TRAILERS, trailers), size)
    with pytest.raises(Unreadable, match="trailers"):
        content(Chunked(strict=True), CHUNKED.partition(TRAILERS)[0] + trailers[:1], size)


@pytest.mark.parametrize("size", [1, 1 << 20])
@pytest.mark.parametrize(
    "data",
    [
        b"x\r\n", b"\r\n", b"-1\r\n", b"0x1\r\n", b"1 1\r\n", b"12345678901234567\r\n", b"1\r\nab\r\n",
        b"0\r\nno colon\r\n\r\n", b"1" + b" " * MAX_LINE + b"\r\n", b"1" + b" " * MAX_LINE,
        b"0\r\na:" + b"b" * MAX_HEAD + b"\r\n\r\n", b"0\r\n" + b"a:b\r\n" * (MAX_HEAD // 5 + 1) + b"\r\n",
    ],
)  # fmt: skip
def test_malformed_chunks(data: bytes, size: int) -> None:
    with pytest.raises(Unreadable):
        content(Chunked(), data, size)


def test_a_chunk_may_be_as_large_as_it_is_allowed_to() -> None:
    assert content(Chunked(strict=True, most=0xF), b"0f\r\n", 1 << 20) == (b"", b"", False)
    with pytest.raises(Unreadable, match="not everyone can count"):
        content(Chunked(strict=True, most=0xF), b"10\r\n", 1 << 20)
    assert content(Chunked(strict=True), b"100000001\r\nabc", 1 << 20) == (b"abc", b"", False)


@pytest.mark.parametrize("size", [1000, 1 << 20])
def test_a_chunk_and_a_trailer_may_be_longer_than_the_line_of_a_size(size: int) -> None:
    chunked, long = Chunked(), b"b" * MAX_LINE
    data = b"1a0F\r\n" + bytes(0x1A0F) + b"\r\n0\r\na:" + long + b"\r\n\r\n"
    assert content(chunked, data + b"rest", size) == (bytes(0x1A0F), b"rest", True)
    assert chunked.trailers == [(b"a", long)]


@pytest.mark.parametrize("size", [1000, 1 << 20])
def test_trailers_beyond_the_limit_are_not_held(size: int) -> None:
    chunked = Chunked()
    assert content(chunked, b"0\r\n" + b"a:b\r\n" * (MAX_FIELDS + 9) + b"\r\nrest", size) == (b"", b"rest", True)
    assert chunked.trailers == [(b"a", b"b")] * MAX_FIELDS


def test_what_is_content_whatever_it_says() -> None:
    counted, chunked = Counted(5), Chunked()
    assert (counted.left, chunked.left) == (5, 0)
    chunked.take(b"5\r\n", 0)
    assert chunked.left == 5
    assert chunked.take(b"abcde", 0) == (0, 5, 5, False)
    assert UntilClose().left > 1 << 40
