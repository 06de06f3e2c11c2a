"""ClientHellos that no well-behaved client sends, invalid names, and names in excessive numbers."""

import itertools
import random
import socket
import time
from collections import Counter
from contextlib import ExitStack

import gevent
import rawtls
from cryptography import x509
from lab import WAIT, get
from test_hello import extension, records, server_name

from abuse.site import Site, hear, hello_for, together

_DECODE_ERROR, _INTERNAL_ERROR, _UNRECOGNIZED_NAME = (bytes((21, 3, 3, 0, 2, 2, alert)) for alert in (50, 80, 112))
_DONE = b"\x0e\0\0\0"  # ServerHelloDone, at the end of a flight of TLS 1.2
_NUMBERS = itertools.count()  # for new names
_PLAIN = (extension(10, b"\0\4\0\x1d\0\x17"), extension(11, b"\1\0"), extension(13, b"\0\4\4\3\4\1"))


def _hello(*extensions: bytes, tail: bytes = b"", session: int = 0) -> bytes:
    """A TLS 1.2 ClientHello, which OpenSSL answers with its certificate in the clear."""
    block = b"".join(extensions + _PLAIN)
    body = b"\3\3" + bytes(32) + bytes((session,)) + bytes(session) + b"\0\6\x0a\x0a\xc0\x2b\xc0\x2f" + b"\1\0"
    body += len(block).to_bytes(2) + block + tail
    return b"\1" + len(body).to_bytes(3) + body


_NAME = server_name(b"localhost")
_GOOD = _hello(_NAME)

ODD_BUT_GOOD = [
    records(_GOOD),
    records(_GOOD, 1),
    records(_GOOD, 3),
    records(_hello(extension(0x0A0A, b""), _NAME, extension(0xFAFA, b"\0"), extension(16, b"\0\6\2\x0a\x0a\2h2"))),
    records(_hello(_NAME, extension(21, bytes(12_000)))),
    records(_hello(_NAME, *(extension(0xFF00 + number, bytes(15_000)) for number in range(4)))),
    records(_hello(*(extension(0x8000 + number, b"") for number in range(200)), _NAME)),
]
BROKEN = [
    b"\x16" + random.Random(1).randbytes(2000),
    b"\x16\3\1\0\0",
    b"\x16\3\1\x40\x01",
    b"\x16\2\0\0\1\1",
    records(_GOOD[:50])[:55] + b"\x17\3\3\0\1x",
    records(b"\2" + _GOOD[1:]),
    records(b"\1\1\1\0" + bytes(1000)),  # claims 65,792 octets
    b"\x16\3\1\0\4\1\0\xff\0" + b"\x16\3\1\0\1x" * 25_000,
    records(b"\1" + (len(_GOOD) - 6).to_bytes(3) + _GOOD[4:]),
    records(b"\1\0\0\2\3\3"),
    records(_hello(_NAME, session=33)[:60] + b"\xff" * 200),
    records(_hello(_NAME, tail=b"x")),
    records(_hello(_NAME, _NAME)),
    records(_hello(_NAME, extension(0x0A0A, b""), extension(0x0A0A, b""))),
    records(_hello(server_name(b"a.example", b"b.example"))),
    records(_hello(server_name(b""))),
    records(_hello(extension(0, b"\0\5\0\0\tab"))),
    records(_hello(_NAME, extension(16, b"\0\1\0"))),
    records(_hello(_NAME, extension(43, b"\3\3\4"))),
    records(_hello(_NAME, extension(51, b"\1\xf9" + b"\x77\x77\0\1x" * 101))),
]

# Invalid server names.
NO_NAMES = [
    b"../../../etc/passwd", b"..", b".", b"/etc/passwd", b"a/../b", b"a\\..\\b", b"_", b"a..b", b"-a.example",
    b"a" * 64, b"a\r\n2026-01-01T00:00:00.000Z tunnel client=forged", b"a\n", b"\rb", b"\x1b[31mred\x1b[0m",
    b"\x07\x08\x7f", b"\x9b", b"\xff\xfe", "b\xfccher.example".encode(), "a\u2028b".encode(), b"a b",
    b'a" outcome="closed', b"%n%s%d", b"${a}", b"<script>", b"127.0.0.1", b"::1", b"127.1", b"0x7f000001",
    b"*.example",
]  # fmt: skip
# Names that OpenSSL itself refuses.
_NO_NAMES_AT_ALL = [b"a\0b.example", b"\0", b"x" * 300, b"a." * 200, b"x" * 16_000]


def odd_hellos(site: Site, count: int) -> None:
    """Hellos in tiny records and segments, with GREASE, of any size: all are answered."""

    def client(number: int) -> None:
        hello = ODD_BUT_GOOD[number // 2 % len(ODD_BUT_GOOD)]
        with site.tunnel() as sock:
            _send(sock, hello, number)
            assert b"localhost" in _flight(sock), hello[:300]

    together(client, count)


def broken_hellos(site: Site, count: int) -> None:
    """Malformed hellos, in a tunnel and without: a ``decode_error`` alert."""

    def client(number: int) -> None:
        hello = BROKEN[number // 4 % len(BROKEN)]
        with site.tunnel() if number & 2 else site.connect() as sock:
            _send(sock, hello, number)
            assert hear(sock) == _DECODE_ERROR, hello[:300]

    together(client, count)


def names_that_are_none(site: Site, count: int) -> None:
    """Invalid names make no file, no certificate and no forged log line: the CONNECT host is used, or an alert sent."""
    before = set(site.program.folder.rglob("*"))
    names = NO_NAMES + _NO_NAMES_AT_ALL

    def client(number: int) -> None:
        name = names[number // 2 % len(names)]
        with site.tunnel() if number % 2 else site.connect() as sock:
            sock.sendall(records(_hello(server_name(name))))
            if number % 2 and name in NO_NAMES:
                assert _names(sock) == ["CN=localhost", x509.DNSName("localhost")], name
            else:
                assert hear(sock) == _UNRECOGNIZED_NAME, name

    together(client, count)
    assert set(site.program.folder.rglob("*")) == before


def unique_names(site: Site, count: int) -> None:
    """A new name for each client, and a certificate for each name, of which memory and disk keep a bounded number."""
    before = len(site.program.lines)

    def client(number: int) -> None:
        name = f"n{next(_NUMBERS)}.{'x' * (1 + number % 60)}.example"
        with site.connect() as sock:
            if number % 20:
                sock.sendall(hello_for(site.context, name))
                assert sock.recv(3) == b"\x16\3\3", name
            else:
                with site.context.wrap_socket(sock, server_hostname=name) as secure:
                    assert get(secure).status == 200

    together(client, count)
    deadline = time.monotonic() + WAIT
    while (made := sum("context=made" in line for line in site.program.lines[before:])) < count:
        assert time.monotonic() < deadline, made
        gevent.sleep(0.1)


def names_past_the_rate(site: Site, count: int) -> None:
    """More new names than the limit allows: some wait, some get an alert, and a known name is served meanwhile."""
    site.good()
    with ExitStack() as opened:
        hellos = [hello_for(site.context, f"r{next(_NUMBERS)}.example") for _ in range(count)]
        socks = []
        for hello in hellos:  # each at once: the proxy waits for it no longer than ``SECONDS``
            socks.append(opened.enter_context(site.connect()))
            socks[-1].sendall(hello)
        assert site.good() < 4  # seconds; those that wait do so for 5
        got = Counter(sock.recv(7)[:7] for sock in socks)
    alerts = got[_INTERNAL_ERROR]
    assert 0 < alerts < count, got
    assert all(first == _INTERNAL_ERROR or first.startswith(b"\x16\3\3") for first in got), got


def _send(sock: socket.socket, hello: bytes, number: int) -> None:
    """Send a hello; every second one in segments of one octet, unless it is too long."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    size = 1 if number % 2 and len(hello) < 3000 else 65_536
    try:
        for start in range(0, len(hello), size):
            sock.sendall(hello[start : start + size])
    except ConnectionError:
        pass  # certifier has refused it already


def _names(sock: socket.socket) -> list[object]:
    """All names in the certificate of a flight, whose random octets may happen to spell a short name."""
    chain = rawtls.Reader(rawtls.read_flight(sock)[rawtls.CERTIFICATE]).vector(3)
    leaf = x509.load_der_x509_certificate(chain.vector(3).rest())
    san = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [leaf.subject.rfc4514_string(), *san]


def _flight(sock: socket.socket) -> bytes:
    """A server's first flight, or what it sends instead."""
    heard = b""
    while _DONE not in heard and (data := sock.recv(65_536)):
        heard += data
    return heard
