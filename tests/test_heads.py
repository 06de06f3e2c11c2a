"""Plain heads: whatever they hold, they are read as h11 reads them."""

import h11
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import heads

NAMES = [b"Host", b"host", b"X-y", b"Content-Length", b"content-length", b"transfer-encoding", b"Expect", b"a b", b""]
VALUES = [b"a:1", b"", b"x y", b"x\ty ", b"\xe9", b"\x00", b"0", b"00", b"-1", b"1,1", b"chunked", b"Chunked", b"\x0b"]
BLOCK = st.lists(
    st.builds(
        lambda *parts: b"".join(parts),
        st.sampled_from(NAMES),
        st.sampled_from([b":", b": ", b":\t ", b" :", b""]),
        st.sampled_from(VALUES),
        st.sampled_from([b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r\n ", b"\r"]),
    ),
    max_size=4,
).map(b"".join)


@given(
    st.sampled_from([b"CONNECT", b"GET", b"get", b"G\xe9T", b"G T", b""]),
    st.sampled_from([b"/", b"a:1", b"", b"a b", b"/\xe9", b"[::1]:443", b"*"]),
    st.sampled_from([b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"http/1.1"]),
    BLOCK,
)
@example(b"GET", b"/", b"HTTP/1.1", b"Host: a\r\nHost: a\r\n")
@example(b"GET", b"/", b"HTTP/1.1", b"")
@example(b"GET", b"/", b"HTTP/1.0", b"Transfer-Encoding: chunked\r\n")
@example(b"GET", b"/", b"HTTP/1.1", b"Host: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n")
def test_requests(method: bytes, target: bytes, version: bytes, block: bytes) -> None:
    head = b"%b %b %b\r\n%b\r\n" % (method, target, version, block)
    found = heads.usual_request(head)
    if found is not None:
        connection = h11.Connection(h11.SERVER)
        connection.receive_data(head)
        event = connection.next_event()
        assert isinstance(event, h11.Request)
        assert found == (event.method, event.target, event.http_version, event.headers.raw_items())


@given(
    st.sampled_from([b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"HTTP/1.2"]),
    st.sampled_from([b" 200", b" 404", b" 204", b" 100", b" 101", b" 600", b" 99", b" 2000", b"  200", b""]),
    st.sampled_from([b" OK", b"", b" ", b"  a b ", b" \xe9", b" \x00", b"\tOK"]),
    BLOCK,
)
@example(b"HTTP/1.0", b" 200", b"", b"Transfer-Encoding: chunked\r\n")
def test_responses(version: bytes, status: bytes, reason: bytes, block: bytes) -> None:
    head = b"%b%b%b\r\n%b\r\n" % (version, status, reason, block)
    found = heads.usual_response(head)
    if found is not None:
        connection = h11.Connection(h11.CLIENT)
        connection.receive_data(head)
        event = connection.next_event()
        assert isinstance(event, h11.Response)
        assert found == (event.status_code, event.reason, event.http_version, event.headers.raw_items())


@pytest.mark.parametrize(
    "head",
    [
        b"GET /a?b=c HTTP/1.1\r\nHost: a\r\nUser-Agent: Mozilla/5.0 (X11; Linux) \r\nAccept:*/*\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\nContent-Length: 10\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nhost: a\r\n\r\n",
        b"GET / HTTP/1.0\r\nHost: a\r\n\r\n",
    ],
)
def test_what_nearly_everyone_writes_is_read_here(head: bytes) -> None:
    assert heads.usual_request(head) is not None
    body = head.partition(b"\r\n")[2]
    assert heads.usual_response(b"HTTP/1.1 200 OK\r\n" + body) is not None
    assert heads.usual_response(b"HTTP/1.1 404\r\n" + body) is not None


@pytest.mark.timeout(5)
def test_no_head_takes_long() -> None:
    for piece in (b"a: b c ", b"a:" + b" " * 9, b"a: b\r\n", b"a" * 9):
        assert heads.usual_request(b"GET / HTTP/1.1\r\n" + piece * 5000) is None


@pytest.mark.parametrize("space", [b" ", b"\t", b" \t "])
def test_white_space_before_a_colon_goes(space: bytes) -> None:
    head = b"HTTP/1.1 200 OK\r\nServer%s: a\r\n\r\n"
    assert heads.unspaced(head % space) == head % b""
    assert heads.unspaced(head % space, but={b"server"}) == head % space
