import gzip
import random
import time

import pytest
from watching import Seen, connection, kept

from exchange import LITTLE_CONTENT, MAX_FIELDS, RATIO, header
from recorder import Capture, Recorder


@pytest.mark.parametrize("octets", [LITTLE_CONTENT, LITTLE_CONTENT + 1, 8 * LITTLE_CONTENT])
@pytest.mark.parametrize("dense", [False, True])
def test_a_small_body_does_not_stand_for_a_large_content(octets: int, dense: bool) -> None:
    """Unless the content is small too, or at most a hundred times the body, as meaningful content is."""
    content = (random.Random(1).randbytes(octets // 20) if dense else b"").ljust(octets, b"\0")
    body = gzip.compress(content)
    assert (len(body) * RATIO < octets) != dense
    recorder = Seen().recorder(1 << 30)
    exchange = recorder.request("PUT", "a.example", "/x", "1.1", [(b"Content-Encoding", b"gzip")])
    recorder.upload(exchange, body, 0, len(body))
    recorder.response(exchange, 200, "OK", exchange.request_fields, time.monotonic())
    recorder.download(exchange, body, 0, len(body))
    told = content if dense else content[:LITTLE_CONTENT]
    assert exchange.request_content == exchange.response_content == told


def test_an_exchange_from_begin_to_end() -> None:
    seen = Seen()
    recorder = seen.recorder()
    before = time.time(), time.monotonic()
    exchange = recorder.request("GET", "a.example", "/x", "1.1", [(b"Host", b"a.example")])
    assert seen.begun == [exchange]
    assert before[0] <= exchange.started
    assert before[1] <= exchange.began
    recorder.upload(exchange, b"12345", 1, 4)
    recorder.response(exchange, 200, "OK", [(b"Content-Type", b"text/plain")], time.monotonic())
    recorder.download(exchange, b"12345", 0, 5)
    assert seen.done == []
    recorder.end(exchange)
    assert seen.done == [exchange]
    assert (exchange.request_octets, exchange.response_octets, exchange.content_type) == (3, 5, "text/plain")
    assert (kept(exchange.request_body), kept(exchange.response_body), exchange.captured) == (None, None, 0)
    assert exchange.ended is not None
    assert exchange.first_byte is not None
    assert exchange.began <= exchange.first_byte <= exchange.ended
    assert exchange.error is None


def test_numbers_are_not_repeated() -> None:
    seen = Seen()
    for _ in range(3):
        recorder = seen.recorder()
        for _ in range(3):
            recorder.request("GET", "a", "/", "1.1", [])
    assert len({exchange.id for exchange in seen.begun}) == 9
    assert len({exchange.connection.id for exchange in seen.begun}) == 3


@pytest.mark.parametrize(
    ("method", "authority", "target", "url"),
    [
        ("GET", "a.example:8443", "/x?y", "https://a.example:8443/x?y"),
        ("GET", "", "/", "https://fallback.example/"),
        ("OPTIONS", "a.example", "*", "https://a.example"),
        ("GET", "a.example", "http://b.example/x", "http://b.example/x"),
        ("GET", "A.Example:443", "/X", "https://a.example/X"),
        ("GET", "a.example", "HTTP://B.example:80?X", "http://b.example?X"),
        ("GET", "a.example:80", "/", "https://a.example:80/"),
        ("GET", "a.example:", "/", "https://a.example/"),  # an empty port is the default one, RFC 3986 §3.2.3
        ("GET", "a.example:", "*", "https://a.example"),
        ("GET", "a.example", "http://b.example:/x", "http://b.example/x"),
        ("GET", "[::1]:", "/", "https://[::1]/"),
        ("GET", "[::1]", "/", "https://[::1]/"),
        ("CONNECT", "a.example:1", "a.example:1", "a.example:1"),
        ("CONNECT", "a.example", "/chat", "https://a.example/chat"),  # RFC 8441
    ],
)
def test_the_url(method: str, authority: str, target: str, url: str) -> None:
    assert Seen().recorder().request(method, authority, target, "1.1", []).url == url


@pytest.mark.parametrize(
    ("method", "target", "url"),
    [
        ("GET", "/x", "https://a.example/x"),
        ("GET", "https://b.example/x", "https://a.example/https://b.example/x"),
        ("GET", "b.example", "https://a.example/b.example"),
        ("GET", "a.example", "https://a.example/a.example"),
        ("GET", "?x", "https://a.example/?x"),
        ("GET", "", "https://a.example/"),
        ("OPTIONS", "*", "https://a.example"),
        ("CONNECT", "a.example", "a.example"),
        ("CONNECT", "https://b.example/", "https://a.example/https://b.example/"),  # with :protocol, RFC 8441
    ],
)
def test_a_path_of_http_2_does_not_pass_for_another_authority(method: str, target: str, url: str) -> None:
    assert Seen().recorder().request(method, "a.example", target, "2", []).url == url


def test_a_field_of_several_lines() -> None:
    fields = [(b"Vary", b"a"), (b"X", b"\xe9"), (b"vary", b"b")]
    assert header(fields, b"vary") == "a, b"
    assert header(fields, b"x") == "\xe9"
    assert header(fields, b"y") == ""


def test_fields_beyond_the_limit_are_dropped() -> None:
    recorder = Seen().recorder()
    fields = [(b"a", b"b")] * (MAX_FIELDS + 1)
    exchange = recorder.request("GET", "a", "/", "1.1", fields)
    recorder.response(exchange, 200, "", fields, 0.0)
    assert len(exchange.request_fields) == len(exchange.response_fields) == MAX_FIELDS
    assert exchange.unkept == 2


def test_bodies_are_kept_up_to_the_limit_without_holes() -> None:
    recorder = Seen().recorder(limit=4)
    exchange = recorder.request("PUT", "a", "/", "1.1", [])
    for piece in (b"ab", b"cde", b"fg"):
        recorder.upload(exchange, piece, 0, len(piece))
    recorder.download(exchange, b"xyz", 1, 2)
    assert (kept(exchange.request_body), exchange.request_octets) == (b"abcd", 7)
    assert (kept(exchange.response_body), exchange.response_octets) == (b"y", 1)
    assert exchange.captured == 5


def test_what_all_may_hold_together() -> None:
    seen, capture = Seen(), Capture(limit=10, total=12)
    recorders = [Recorder(connection(), seen, capture) for _ in range(2)]
    first, second = [recorder.request("PUT", "a", "/", "1.1", []) for recorder in recorders]
    for piece in (bytes(10), b"a"):
        recorders[0].upload(first, piece, 0, len(piece))
    assert (kept(first.request_body), capture.left) == (bytes(10), 2)
    recorders[1].upload(second, b"abcd", 0, 4)
    assert (capture.left, kept(second.request_body)) == (0, b"ab")
    recorders[0].end(first)
    assert capture.left == 10
    recorders[1].upload(second, b"ef", 0, 2)  # there is room again, but it would leave a hole
    assert (kept(second.request_body), second.request_octets) == (b"ab", 6)
    recorders[1].end(second)
    assert capture.left == 12
