"""Requests that are malformed, or that two parsers would understand differently."""

import re
import socket
from contextlib import suppress

import h11
from targets import check_request

from abuse.site import Site, hear, together

_STATUS = re.compile(rb"HTTP/1\.1 \d{3} ")

# Invalid CONNECT targets: a 400, with nothing resolved or dialled.
BAD_TARGETS = [
    b":", b":443", b"a", b"a:", b"a:0", b"a:65536", b"a:99999999999999999999", b"a:-1", b"a:+443", b"a:443:443",
    b"a:0x1bb", b"a:443x", b"a:443/", b"a:443/x", b"a:443?x", b"a:443#x", b"a/b:443", b"a?b:443", b"a#b:443",
    b"a\\b:443", b"a,b:443", b"a;b:443", b"a'b:443", b'a"b:443', b"<a>:443", b"u@a:443", b"u:p@a:443",
    b"http://a:443", b"https://a:443/", b"//a:443", b"/", b"/a:443", b"*", b"*:443", b"*.a:443", b"..:443",
    b"../a:443", b"../../etc/passwd:443", b".a:443", b"a..b:443", b"-a.example:443", b"_:443", b"a._.b:443",
    b"a" * 64 + b":443", b"a." * 127 + b"aa:443", b"%00:443", b"a%2eb:443", b"%6c%6f:443", b"1:443", b"127.1:443",
    b"0177.0.0.1:443", b"0x7f.0.0.1:443", b"0x7f000001:443", b"2130706433:443", b"256.1.1.1:443", b"1.2.3.4.5:443",
    b"1.2.3.4.:443", b"::1:443", b"[::1]", b"[::1]443", b"[::1:443", b"::1]:443", b"[]:443", b"[:443", b"[a]:443",
    b"[1.2.3.4]:443", b"[v1.a]:443", b"[fe80::1%eth0]:443", b"[fe80::1%25eth0]:443", b"[::1]:443]", b"[[::1]]:443",
    b"[::g]:443", b"[1:2:3:4:5:6:7:8:9]:443", b"[::1]x:443", b"x[::1]:443", b"a\x00b:443", b"a\x7fb:443",
    b"a\tb:443", b"a\x0bb:443", b"a\rb:443", "\u00e4.example:443".encode(), b"\xe4:443",
    "a:\uff14\uff14\uff13".encode(), b"a:443 x", b" a:443", b"a: 443", b"a :443", b"", b"x" * 20_000 + b":443",
]  # fmt: skip


def bad_connect_targets(site: Site, count: int) -> None:
    """Each gets a 400, and the connection ends."""

    def client(number: int) -> None:
        text = BAD_TARGETS[number % len(BAD_TARGETS)]
        with site.connect() as sock:
            sock.sendall(b"CONNECT %b HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n" % text)
            heard = hear(sock)
            assert heard.startswith(b"HTTP/1.1 400 "), (text, heard)
            assert len(_STATUS.findall(heard)) == 1, (text, heard)

    together(client, count)


# Smuggling. ``ORIGIN`` stands for the origin's authority; ``SMUGGLED`` follows each request.

SMUGGLED = b"GET http://ORIGIN/smuggled HTTP/1.1\r\nHost: ORIGIN\r\n\r\n"
_POST = b"POST http://ORIGIN/ HTTP/1.1\r\nHost: ORIGIN\r\n"
_CHUNK = b"5\r\nhello\r\n0\r\n\r\n"

_BAD_LENGTHS = [
    b"-1", b"+5", b"0x5", b"5_0", b"5.0", b"5 5", b"", b"5,6", b"5;", b"five", b"\xb5", b"5\x00", b"9" * 21,
    b"9" * 5000, "\u0665".encode(),
]  # fmt: skip
_BAD_CODINGS = [
    b"xchunked", b"chunked, chunked", b"identity", b"gzip", b"gzip, chunked", b"chunked, gzip", b"chunked;q=1",
    b"\x0bchunked", b"chunked\x00", b'"chunked"', b"chunke\xc4\x91", b"", b",chunked",
]  # fmt: skip
_BAD_SIZES = [
    b"0x5", b"+5", b"-5", b" 5", b"5 x", b"five", b"", b"5\x00", b"5,", b"5:x", b"1" * 21, b"\xb5", b"5\n", b"5\r",
    b"5;\n",
]  # fmt: skip

# Refused with a 400 before anything reaches the origin.
REFUSED_AT_ONCE = [
    _POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n" + _CHUNK,
    _POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n" + _CHUNK,
    _POST + b"Transfer-Encoding: chunked\r\ncontent-length: 0\r\n\r\n" + _CHUNK,
    *(_POST + b"Content-Length: %b\r\n\r\nhello" % value for value in _BAD_LENGTHS),
    _POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    *(_POST + b"Transfer-Encoding: %b\r\n\r\n" % value + _CHUNK for value in _BAD_CODINGS),
    _POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n" + _CHUNK,
    _POST + b"Transfer-Encoding : chunked\r\n\r\n" + _CHUNK,
    _POST + b"Transfer-Encoding\t: chunked\r\n\r\n" + _CHUNK,
    _POST + b"Transfer-Encoding\x00: chunked\r\n\r\n" + _CHUNK,
    _POST + b" Transfer-Encoding: chunked\r\n\r\n" + _CHUNK,
    _POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n" + _CHUNK,
    _POST + b"Transfer-Encoding:\r\n\tchunked\r\n\r\n" + _CHUNK,
    _POST + b"X: y\r\n Content-Length: 5\r\n\r\nhello",
    _POST + b"X: y\nTransfer-Encoding: chunked\r\n\r\n" + _CHUNK,
    _POST + b"X: y\rTransfer-Encoding: chunked\r\n\r\n" + _CHUNK,
    _POST + b"X: y\r\rContent-Length: 5\r\n\r\nhello",
    _POST + b"Content-Length: 5\n\nhello",
    _POST + b"Content-Length: 5\r\n\nhello",
    _POST + b": empty\r\n\r\n",
    _POST + b"no colon\r\n\r\n",
    _POST + b"X\x7f: y\r\n\r\n",
    _POST + b"X(y): z\r\n\r\n",
    b"GET http://ORIGIN/ HTTP/1.1\r\nHost: ORIGIN\r\nHost: ORIGIN\r\n\r\n",
    b"GET http://ORIGIN/ HTTP/1.1\r\nHost: ORIGIN\r\nhost: b\r\n\r\n",
    b"GET http://ORIGIN/ HTTP/1.1\r\n\r\n",
    b"GET http://ORIGIN/ HTTP/1.1\r\nHost : ORIGIN\r\n\r\n",
    b"GET http://ORIGIN/ HTTP/1.1 HTTP/1.1\r\nHost: ORIGIN\r\n\r\n",
    b"GET  http://ORIGIN/ HTTP/1.1\r\nHost: ORIGIN\r\n\r\n",
    b"GET\thttp://ORIGIN/\tHTTP/1.1\r\nHost: ORIGIN\r\n\r\n",
    b"GET http://ORIGIN/ HTTP/1.1 \r\nHost: ORIGIN\r\n\r\n",
    b" GET http://ORIGIN/ HTTP/1.1\r\nHost: ORIGIN\r\n\r\n",
    b"GET http://ORIGIN/\r\nHost: ORIGIN\r\n\r\n",
    b"GET http://ORIGIN/ http/1.1\r\nHost: ORIGIN\r\n\r\n",
    b"GET http://ORIGIN/ HTTP/01.1\r\nHost: ORIGIN\r\n\r\n",
    b"GET http://ORIGIN/ HTTP/1.10\r\nHost: ORIGIN\r\n\r\n",
    b"GET http://ORIGIN/ HTTP/2.0\r\nHost: ORIGIN\r\n\r\n",
    b"GET http://ORIGIN/a\x00b HTTP/1.1\r\nHost: ORIGIN\r\n\r\n",
    b"GET http://ORIGIN/a\rb HTTP/1.1\r\nHost: ORIGIN\r\n\r\n",
    b"GET http://u@ORIGIN/ HTTP/1.1\r\nHost: ORIGIN\r\n\r\n",
    b"GET ftp://ORIGIN/ HTTP/1.1\r\nHost: ORIGIN\r\n\r\n",
    b"G\xebT http://ORIGIN/ HTTP/1.1\r\nHost: ORIGIN\r\n\r\n",
    b"CONNECT ORIGIN HTTP/1.1\r\nHost: ORIGIN\r\nContent-Length: 5\r\n\r\nhello",
    b"CONNECT ORIGIN HTTP/1.1\r\nHost: ORIGIN\r\nTransfer-Encoding: chunked\r\n\r\n" + _CHUNK,
    b"\r\n\r\n\r\nGET http://ORIGIN/ HTTP/1.1\r\nHost: ORIGIN\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
]

# Forwarding begins, since the head is good, and breaks off: the body is malformed.
_CHUNKED = _POST + b"Transfer-Encoding: chunked\r\n\r\n"
BROKEN_OFF = [
    *(_CHUNKED + size + b"\r\nhello\r\n0\r\n\r\n" for size in _BAD_SIZES),
    _CHUNKED + b"5\r\nhelloX\r\n0\r\n\r\n",
    _CHUNKED + b"5\r\nhello\n0\r\n\r\n",
    _CHUNKED + b"5\r\nhello\r\n0\r\nno colon\r\n\r\n",
    _CHUNKED + b"5\r\nhello\r\n0\r\n: x\r\n\r\n",
    _CHUNKED + b"5\r\nhello\r\n0\r\nX : y\r\n\r\n",
    _CHUNKED + b"5;" + b"x" * 200_000 + b"\r\nhello\r\n0\r\n\r\n",
    _CHUNKED + b"5\r\nhello\r\n0\r\n" + b"X: y\r\n" * 40_000 + b"\r\n",
]

# Valid, if odd: one request, and the one behind it is a second one, on a connection of its own.
GOOD = [
    b"GET http://ORIGIN/ HTTP/1.1\r\nHost: ORIGIN\r\n\r\n",
    b"\r\nGET http://ORIGIN/ HTTP/1.1\r\nHost: ORIGIN\r\n\r\n",
    b"GET http://ORIGIN/ HTTP/1.2\r\nHost: ORIGIN\r\n\r\n",
    b"GET http://ORIGIN/ HTTP/1.1\r\nHost: elsewhere.example\r\n\r\n",
    b"GET http://ORIGIN/ HTTP/1.1\r\nHost: ORIGIN\r\nContent-Length: 5\r\n\r\nhello",
    _POST + b"Connection: content-length, host, transfer-encoding\r\nContent-Length: 5\r\n\r\nhello",
    b"GET http://ORIGIN/%0d%0aGET%20/smuggled HTTP/1.1\r\nHost: ORIGIN\r\n\r\n",
    b"GET http://ORIGIN/\xc3\xa4\x85\xa0\xff HTTP/1.1\r\nHost: ORIGIN\r\n\r\n",
    _POST + b"Content-Length: 005\r\n\r\nhello",
    _POST + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
    _POST + b"Content-Length: 5, 5\r\n\r\nhello",
    _POST + b"Content-Length: 0\r\n\r\n",
    _POST + b"Content_Length: 99\r\nTransfer_Encoding: chunked\r\n\r\n",
    _POST + b"X-Transfer-Encoding: chunked\r\nX: Content-Length: 99\r\n\r\n",
    _POST + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\nhello",
    _POST + b"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
    _POST + b"TRANSFER-ENCODING: ChunKed\r\n\r\n" + _CHUNK,
    _CHUNKED + b"0005\r\nhello\r\n0000\r\n\r\n",
    _CHUNKED + b'5;x=y;z="0"\r\nhello\r\n0;x\r\n\r\n',
    _CHUNKED + b"5 \r\nhello\r\n0\r\n\r\n",
    _CHUNKED + b"5\r\nhello\r\n0\r\nHost: b\r\nContent-Length: 99\r\nTransfer-Encoding: chunked\r\n\r\n",
    _CHUNKED + b"1\r\nh\r\n" * 500 + b"0\r\n\r\n",
]


# Each with the number of connections to the origin.
KINDS = [(text, number) for number, texts in enumerate((REFUSED_AT_ONCE, BROKEN_OFF, GOOD)) for text in texts]


def smuggling(site: Site, count: int) -> None:
    """The origin never sees two requests in one, nor a request behind one that was refused."""

    def client(number: int) -> None:
        request, expected = KINDS[number % len(KINDS)]
        seen: list[bytes] = []
        with site.origin(lambda sock: _answer(sock, seen)) as target, site.connect() as sock:
            with suppress(ConnectionError):  # a long request may be refused half-way
                sock.sendall((request + SMUGGLED).replace(b"ORIGIN", target.encode()))
            sock.shutdown(socket.SHUT_WR)
            heard = hear(sock)
        if expected == 2 and b"\r\nConnection: close\r\n" in heard.partition(b"\r\n\r\n")[0] + b"\r\n":
            expected = 1  # answered before the whole request was read, which ends the connection
        shown = request[:300], heard, seen
        assert len(_STATUS.findall(heard)) == max(1, expected), shown
        good = request in GOOD
        assert heard.startswith(b"HTTP/1.1 200 " if good else b"HTTP/1.1 400 "), shown
        # Of a request that breaks off, the origin may see nothing.
        assert len(seen) == expected if good else len(seen) <= expected, shown
        assert all(check_request(octets, whole=good) is good for octets in seen if octets or good), shown

    together(client, count)


def _answer(sock: socket.socket, seen: list[bytes]) -> None:
    """Record all that arrives; answer each request, as h11 parses it."""
    number = len(seen)
    seen.append(b"")
    connection = h11.Connection(h11.SERVER)
    while data := sock.recv(65_536):
        seen[number] += data
        if connection.their_state in (h11.IDLE, h11.SEND_BODY):
            connection.receive_data(data)
            while connection.next_event() not in (h11.NEED_DATA, h11.PAUSED):
                if connection.their_state not in (h11.IDLE, h11.SEND_BODY):
                    sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                    break
