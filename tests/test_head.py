import pytest
from hypothesis import given
from hypothesis import strategies as st

from errors import CertifierError, ClientError, HeadTooLarge
from head import MAX_HEAD, HeadReader, RequestHead, http_target
from names import Target

GOOD = b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\nX-A: 1\r\nx-a: 2\r\n\r\n"


def read(data: bytes, size: int = 1 << 20) -> tuple[RequestHead | None, bytes]:
    reader = HeadReader()
    found = None
    for start in range(0, len(data), size):
        found = found or reader.receive(data[start : start + size])
        if found and size == 1:
            break
    return found, bytes(reader.rest)


@pytest.mark.parametrize("size", [1, 2, 3, 1 << 20])
def test_a_head_however_it_is_cut(size: int) -> None:
    head, rest = read(GOOD, size)
    assert head is not None
    assert (head.method, head.target, head.http_version) == ("CONNECT", "example.com:443", "1.1")
    assert head.header(b"x-a") == "1, 2"
    assert rest == b""


@pytest.mark.parametrize("method", [b"CONNECT example.com:443", b"GET http://example.com/"])
def test_a_higher_minor_version(method: bytes) -> None:
    """RFC 9110 §2.5: it is as good as the highest that we speak."""
    head, _ = read(method + b" HTTP/1.2\r\nHost: example.com\r\n\r\n")
    assert head is not None
    assert head.http_version == "1.2"
    with pytest.raises(ClientError, match=r"other than 1\.x"):
        read(method + b" HTTP/2.1\r\nHost: example.com\r\n\r\n")


def test_every_prefix_needs_more() -> None:
    for end in range(len(GOOD)):
        assert HeadReader().receive(GOOD[:end]) is None


def test_what_follows_is_kept() -> None:
    assert read(GOOD + b"\x16\3\1")[1] == b"\x16\3\1"


def test_one_empty_line_before_is_ignored() -> None:
    head, _ = read(b"\r\n" + GOOD)
    assert head is not None
    for size in (1, 1 << 20):
        with pytest.raises(ClientError):
            read(b"\r\n\r\n\r\n" + GOOD, size)


@pytest.mark.parametrize("greeting", [b"\5\1\0", b"\5", b"\4\1\1\xbb\x7f\0\0\1\0"])
def test_socks_is_not_waited_for(greeting: bytes) -> None:
    with pytest.raises(ClientError, match="SOCKS"):
        read(greeting)


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\nHost: a\n\n",
        b"GET / HTTP/1.1\r\nHost: a\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n\tContent-Length: 1\r\n\r\n",
        b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\nX: a\r\n\tContent-Length: 1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"PUT / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET / HTTP/2.0\r\nHost: a\r\n\r\n",
        b"GET / HTTP/0.9\r\nHost: a\r\n\r\n",
        b"GET /\r\n\r\n",
        b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /\x00 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551617\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000000000000\r\n\r\n",
        b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n",
        b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\nContent-Length: 00\r\n\r\n",
        b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: 1\r\n\r\n",
        b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"\x00\x01\x02\r\n\r\n",
    ],
)
@pytest.mark.parametrize("size", [1, 1 << 20])
def test_malformed_heads(data: bytes, size: int) -> None:
    with pytest.raises(ClientError) as raised:
        read(data, size)
    assert raised.value.status == 400


@pytest.mark.parametrize("complete", [True, False])
@pytest.mark.parametrize("size", [1000, 1 << 20])
def test_the_limit(complete: bool, size: int) -> None:
    big = b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * MAX_HEAD + (b"\r\n\r\n" if complete else b"")
    with pytest.raises(HeadTooLarge):
        read(big, size)


def test_the_limit_to_the_octet() -> None:
    start, end = b"GET / HTTP/1.1\r\nHost: a\r\nX: ", b"\r\n\r\n"
    fits = start + b"x" * (MAX_HEAD - len(start) - len(end)) + end
    assert read(fits)[0]
    with pytest.raises(HeadTooLarge):
        read(fits.replace(b"X:", b"XX:"))


@pytest.mark.parametrize(
    ("uri", "target", "path"),
    [
        ("http://a", Target("a", 80), "/"),
        ("HTTP://A:8080/x?y", Target("a", 8080), "/x?y"),
        ("http://[::1]/", Target("::1", 80), "/"),
        ("http://a?q", Target("a", 80), "/?q"),
        ("http://a:/", Target("a", 80), "/"),
        ("http://a/x#y", Target("a", 80), "/x"),
    ],
)
def test_absolute_form(uri: str, target: Target, path: str) -> None:
    assert http_target(uri) == (target, path)


def test_an_asterisk_is_for_options_of_a_whole_server_only() -> None:
    assert http_target("http://a", "OPTIONS") == (Target("a", 80), "*")
    assert http_target("http://a/x", "OPTIONS") == (Target("a", 80), "/x")


@pytest.mark.parametrize(
    "uri", ["https://a/", "ftp://a", "a", "http://", "http:///x", "http://u@a/", "http://a:x/", "http://a:80:/", "//a"]
)
def test_other_targets(uri: str) -> None:
    with pytest.raises(ClientError):
        http_target(uri)


def test_a_password_in_a_target_is_not_quoted() -> None:
    with pytest.raises(ClientError, match=r"^user information in a request target$"):
        http_target("http://alice:secret@a/")


@given(st.binary(max_size=100))
def test_garbage_raises_nothing_else(data: bytes) -> None:
    """Nor does the result depend on how the octets are split."""
    for text in (data, data + b"\r\n\r\n", b"GET " + data + b" HTTP/1.1\r\n\r\n"):
        assert told(text) == told(text, 1)


def told(data: bytes, size: int = 1 << 20) -> object:
    """The result of reading a head; which error it is may depend on how it is split."""
    try:
        found, _ = read(data, size)
    except CertifierError:
        return CertifierError
    return found and (found.method, found.target, found.headers)


def test_a_plain_connect_is_read_as_h11_reads_it() -> None:
    head = b"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\nUser-Agent: curl/8 (x) \r\n\r\n"
    plain, other = read(head)[0], read(head.replace(b"(x)", b"(\xe9)"))[0]  # not ASCII: left to h11
    assert plain is not None
    assert other is not None
    assert (plain.connection is None, other.connection is None) == (True, False)
    assert plain.headers == [(name, value.replace(b"\xe9", b"x")) for name, value in other.headers]
    assert plain.header(b"user-agent") == "curl/8 (x)"
    assert (plain.method, plain.target, plain.http_version, plain.has_body) == (
        other.method, other.target, other.http_version, other.has_body,
    )  # fmt: skip


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
def test_a_connect_that_says_that_it_has_no_body(version: bytes) -> None:
    head, rest = read(b"CONNECT a:443 HTTP/" + version + b"\r\nHost: a:443\r\nContent-Length: 0\r\n\r\n\x16\3\1")
    assert head is not None
    assert (head.method, head.target, rest) == ("CONNECT", "a:443", b"\x16\3\1")


def test_a_plain_connect_with_a_body_is_refused() -> None:
    with pytest.raises(ClientError, match="a CONNECT with a body"):
        read(b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\nContent-Length: 1\r\n\r\n")
