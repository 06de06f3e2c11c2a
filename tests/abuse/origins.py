"""Origins that answer with garbage, never, endlessly or in tiny pieces, or that close at any step of the handshake."""

import random
import socket
import ssl
import time
from contextlib import ExitStack, suppress
from itertools import count as numbers

import gevent
from gevent.event import Event
from lab import WAIT, get, read_reply, secure_tunnel

from abuse.site import SECONDS, Site, connect_head, cut, hear, plain_get, together

_NOISE = random.Random(2).randbytes(3000)
_OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

# In place of a ServerHello.
NO_TLS = [
    b"", b"\0" * 100, _NOISE, b"HTTP/1.1 400 Bad Request\r\n\r\n", b"220 ready\r\n", b"\x15\3\3\0\2\2\x28",
    b"\x16\3\3\xff\xff" + _NOISE, b"\x16\3\3\0\4\2\xff\xff\xff", b"\x16\3\3\0\x01\x02" * 1000, b"\x17\3\3\0\1x",
    b"\x16\3\3\0\0" * 100, b"\x14\3\3\0\1\1" * 100,
]  # fmt: skip
# In place of a response.
NO_HTTP = [
    b"", b"\0" * 100, _NOISE, b"garbage\r\n\r\n", b"HTTP/1.1\r\n\r\n", b"HTTP/1.1 abc OK\r\n\r\n",
    b"HTTP/1.1 99 OK\r\n\r\n", b"HTTP/1.1 200 " + b"x" * 100_000, b"HTTP/1.1 200 OK\r\nX: y\r\n",
    *(
        b"HTTP/1.1 200 OK\r\n%b\r\n\r\nok" % field
        for field in (
            b"no colon", b"X: a\0b", b"Content-Length: -1", b"Content-Length: " + b"9" * 5000,
            b"Content-Length: 2\r\nContent-Length: 3", b"Transfer-Encoding: gzip, chunked", b"X: y\r\n" * 50_000,
        )
    ),
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 2000, b"HTTP/1.1 100 Continue\r\n\r\n" * 200 + _OK,
]  # fmt: skip
# Responses that begin and then break off: what the client receives must not look complete.
CUT_OFF = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort",
    *(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n" + rest
        for rest in (
            b"",
            b"zz\r\n",
            b"5\r\nshortX",
            b"0x5\r\nshort",
            b"-1\r\n",
            b"0\r\nX: y",
            b"1" * 30 + b"\r\n",
            _NOISE,
        )
    ),
]


def garbage(site: Site, count: int) -> None:
    """A 502, inside TLS or in plain HTTP; or the connection is cut off, if the response had begun."""

    def secure(number: int) -> None:
        def answer(sock: socket.socket) -> None:
            sock.recv(65_536)
            sock.sendall(NO_TLS[number % len(NO_TLS)])

        with site.origin(answer) as target, secure_tunnel(site.program, target, context=site.context) as tunnel:
            reply = get(tunnel)
            assert reply.status == 502, (number, reply)

    def plain(number: int) -> None:
        text = (NO_HTTP + CUT_OFF)[number % len(NO_HTTP + CUT_OFF)]

        def answer(sock: socket.socket) -> None:
            sock.recv(65_536)
            sock.sendall(text)

        with site.origin(answer) as target, site.connect() as sock:
            sock.sendall(plain_get(target))
            heard = hear(sock)
            expected = (
                b"HTTP/1.1 200 OK" if text in CUT_OFF else b"HTTP/1.1 103 " if b" 103 " in text else b"HTTP/1.1 1"
            )
            if text in NO_HTTP and b" 100 " not in text and b" 103 " not in text:
                expected = b"HTTP/1.1 502 "
            assert heard.startswith(expected), (text[:200], heard[:300])
            assert text in CUT_OFF or b"HTTP/1.1 502 " in heard, (text[:200], heard[-300:])
            assert not heard.endswith((b"\r\n0\r\n\r\n", b"0\r\n\r\n")), text

    together(lambda number: (secure, plain)[number % 2](number // 2), count)


def ends_in_the_handshake(site: Site, count: int) -> None:
    """With FIN or RST, after none, part or all of its flight, in TLS 1.2 and 1.3; or right after the handshake."""
    contexts = []
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(site.certificate)
        context.maximum_version = version
        contexts.append(context)
    steps = 10

    def client(number: int) -> None:
        step = number // 4 % steps

        def answer(sock: socket.socket) -> None:
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            tls = contexts[number % 2].wrap_bio(incoming, outgoing, server_side=True)
            done = False
            while not done:
                incoming.write(sock.recv(65_536))
                with suppress(ssl.SSLWantReadError):
                    tls.do_handshake()
                    done = True
                flight = outgoing.read()
                done = done or step < steps - 1
                sock.sendall(flight[: len(flight) * step // (steps - 1)])
            if number & 2:
                cut(sock)

        with site.origin(answer) as target, secure_tunnel(site.program, target, context=site.context) as tunnel:
            if step < steps - 1:
                assert get(tunnel).status == 502
            else:
                try:
                    heard = get(tunnel)
                except (OSError, EOFError):
                    return
                raise AssertionError(heard)

    together(client, count)


def never_answers(site: Site, count: int) -> None:
    """Origins that accept and stay silent, or do not even accept: 504. Some clients leave without waiting."""
    leave = Event()

    def silent(_: socket.socket) -> None:
        leave.wait()

    with (
        socket.create_server(("127.0.0.1", 0), backlog=0) as full,
        site.origin(silent) as target,
        ExitStack() as opened,
    ):
        for _ in range(2):  # fills the kernel's accept queue
            sock = opened.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(full.getsockname())
        there = "127.0.0.1:{1}".format(*full.getsockname())

        def client(number: int) -> None:
            began = time.monotonic()
            if number % 3 == 0:
                with secure_tunnel(site.program, target, context=site.context) as tunnel:
                    assert get(tunnel).status == 504
            elif number % 3 == 1:
                with site.connect() as sock:
                    sock.sendall(connect_head(there))
                    assert read_reply(sock).status == 504
            else:
                with site.connect() as sock:
                    sock.sendall(plain_get(target))
                    sock.shutdown(socket.SHUT_WR)
            assert time.monotonic() - began < 4 * SECONDS

        together(client, count)
        leave.set()


def firehose(site: Site, count: int) -> None:
    """Endless data to clients that do not read: it stops when the buffers are full, and then costs no CPU."""
    sent = [0] * count
    place = numbers()

    def answer(sock: socket.socket) -> None:
        sock.recv(65_536)
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10737418240\r\n\r\n")
        pour(sock)

    def pour(sock: socket.socket) -> None:
        number = next(place)
        block = bytes(65_536)
        while sent[number] < 10 << 30:
            sock.sendall(block)
            sent[number] += len(block)

    before = site.program.vitals()
    with (
        site.origin(pour, secure=True) as secure,
        site.origin(answer) as plain,
        ExitStack() as opened,
    ):
        for number in range(count):
            if number % 2 == 0:
                opened.enter_context(secure_tunnel(site.program, secure, context=site.context))
            else:
                sock = opened.enter_context(site.connect())
                sock.sendall(plain_get(plain))
        poured = -1
        deadline = time.monotonic() + WAIT
        while poured != sum(sent) or not all(sent):
            assert time.monotonic() < deadline, sent
            poured = sum(sent)
            gevent.sleep(0.5)
        assert max(sent) < 64 << 20, sent
        held = site.program.vitals()
        assert held.resident < before.resident + 1024 * count + 8192, (before, held)
        site.good()
        cpu, began = site.program.cpu(), time.monotonic()
        gevent.sleep(0.5)  # the measured interval
        assert site.program.cpu() - cpu < 0.3 * (time.monotonic() - began)


def crumbs(site: Site, count: int) -> None:
    """One octet per TLS record, one octet per chunk: all arrive, and others are served meanwhile."""
    octets = 20_000

    def secure(sock: socket.socket) -> None:
        for number in range(octets):
            sock.sendall(b"x")
            if number % 100 == 0:
                gevent.sleep(0)

    def chunked(sock: socket.socket) -> None:
        sock.recv(65_536)
        sock.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(octets // 100):
            sock.sendall(b"1\r\nx\r\n" * 100)
            gevent.sleep(0)
        sock.sendall(b"0\r\n\r\n")

    with site.origin(secure, secure=True) as one, site.origin(chunked) as other:

        def client(number: int) -> None:
            if number % 2:
                with secure_tunnel(site.program, one, context=site.context) as tunnel:
                    assert len(hear(tunnel)) == octets
            else:
                with site.connect() as sock:
                    sock.sendall(plain_get(other))
                    heard = b""
                    while not heard.endswith(b"0\r\n\r\n"):
                        heard += sock.recv(65_536)
                    assert heard.count(b"1\r\nx\r\n") == octets

        work = gevent.spawn(together, client, count, at_once=4)
        slowest = 0.0
        while not work.ready():
            slowest = max(slowest, site.good())
        work.get()
        assert slowest < 5, slowest


def answers_in_advance(site: Site, count: int) -> None:
    """A second response right behind the first, to poison the next request on the connection: it is discarded."""

    def answer(sock: socket.socket) -> None:
        path = sock.recv(65_536).split()[1]
        body = b"%b %d" % (path, count)
        response = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b"
        sock.sendall(response % (len(body), body) + response % (4, b"evil"))

    with site.origin(answer) as target:

        def client(number: int) -> None:
            with site.connect() as sock:
                for turn in range(3):
                    reply = get(sock, f"http://{target}/{number}.{turn}")
                    assert reply.body == f"/{number}.{turn} {count}".encode()

        together(client, count)
