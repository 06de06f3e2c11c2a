"""Both directions at once, in random pieces at a random pace: every octet arrives, in order, and so does each end."""

import random
import socket
import ssl
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import gevent
from gevent.event import Event
from lab import WAIT, strict_context

from abuse.site import Site, cut, together
from taps import Answer

_MOST = 60_000  # octets in a message body; the average is a fifth of that
_PAUSE = 0.004  # longest pause in seconds between two pieces
_VERSIONS = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_GET = b"GET /%b HTTP/1.1\r\nHost: localhost\r\n\r\n"
_SETTINGS = b"\0\0\0\4\0\0\0\0\0"
# :method POST, :scheme https, :path /, :authority localhost; and :status 200 (RFC 7541 appendix A).
_ASKS, _ANSWERS = b"\x83\x87\x84\x41\x09localhost", b"\x88"


@dataclass(slots=True)
class Script:
    """What both sides send and receive, and how much the origin must have received before each of its answers."""

    asked: bytearray = field(default_factory=bytearray)
    passed: bytearray = field(default_factory=bytearray)  # the part of it that reaches the origin
    answers: list[tuple[int, bytes]] = field(default_factory=list)
    heard: bytearray = field(default_factory=bytearray)  # by the client

    def exchange(self, head: bytes, body: bytes, answer: bytes) -> None:
        """A message each way; the answer may begin once the head has arrived, long before the body."""
        self.asked += head + body
        self.passed += head
        self.answers.append((len(self.passed), answer))
        self.passed += body
        self.heard += answer

    def answered(self, head: bytes, answer: bytes) -> None:
        """A request that a tap answers in place of the origin."""
        self.asked += head
        self.heard += answer


class End:
    """TLS with ``MemoryBIO`` over a socket: one greenlet reads, one writes; each direction ends separately."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, server_hostname: str | None = None) -> None:
        self.heard = bytearray()
        self.whole = False  # the peer has sent close_notify
        self.over = Event()  # nothing more will be sent or received
        self._came = Event()
        self._ended = False
        self._sock = sock
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._in, self._out, server_side=server_hostname is None, server_hostname=server_hostname
        )

    def handshake(self) -> None:
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._sock.sendall(self._out.read())
                data = self._sock.recv(65_536)
                assert data, "it left in the handshake"
                self._in.write(data)
            else:
                self._sock.sendall(self._out.read())
                return

    def read(self, most: Callable[[], int], pause: Callable[[], None]) -> None:
        """Read until the peer ends its direction in any way."""
        try:
            while self._decrypt() and (data := self._sock.recv(most())):
                self._in.write(data)
                pause()
        except ConnectionError:
            pass
        finally:
            self._ended = True
            self._came.set()

    def _decrypt(self) -> bool:
        """Decrypt what has arrived; return whether more may come."""
        try:
            while data := self._tls.read(65_536):
                self.heard += data
                self._came.set()
            self.whole = True
        except ssl.SSLZeroReturnError:
            self.whole = True
        except ssl.SSLWantReadError:
            return True
        return False

    def wait(self, octets: int) -> None:
        """Wait until ``octets`` octets have arrived."""
        while len(self.heard) < octets:
            if self._ended:
                raise ConnectionAbortedError(f"{len(self.heard)} octets came of {octets}")
            self._came.clear()
            assert self._came.wait(WAIT), (len(self.heard), octets)

    def write(self, data: bytes) -> None:
        self._tls.write(data)
        self._sock.sendall(self._out.read())

    def finish(self) -> None:
        self._decrypt()  # unwrap() reads as well, and would fail on application data
        with suppress(ssl.SSLWantReadError):
            self._tls.unwrap()
        self._sock.sendall(self._out.read())
        self._sock.shutdown(socket.SHUT_WR)


def of_any_protocol(site: Site, count: int) -> None:
    """Opaque octets, HTTP/1.1 with several requests, HTTP/2."""
    _every_octet(site, count, (_opaque, _http1, _http2))


def of_http(site: Site, count: int) -> None:
    """What passes a proxy that judges requests."""
    _every_octet(site, count, (_http1, _http2))


def of_http1(site: Site, count: int) -> None:
    """What passes a proxy with a tap that acts, and answers requests for ``/answered``."""
    _every_octet(site, count, (_http1_or_answered,))


def _every_octet(site: Site, count: int, dresses: Sequence[Callable[[Script, random.Random], None]]) -> None:
    """Exchange scripts of these protocols; one connection in four is reset by one of its ends."""
    contexts = []
    for version in _VERSIONS:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(site.certificate)
        context.maximum_version = version
        context.set_alpn_protocols(["h2", "http/1.1"])
        contexts.append(context)

    def client(number: int) -> None:
        chance = random.Random(number)
        dress = dresses[number % len(dresses)]
        script = Script()
        if dress is _http2:
            script.exchange(_PREFACE + _SETTINGS, b"", _SETTINGS)
        for _ in range(chance.randint(1, 4)):
            dress(script, chance)
        if dress is _http1_or_answered:
            _http1(script, chance)  # a tap would still answer requests after the origin has closed
        context = strict_context(site.trusted)
        context.maximum_version = _VERSIONS[number // 2 % 2]
        context.set_alpn_protocols([("h2", "http/1.1")[dress is not _http2], "http/1.1"])
        who_cuts = (None, None, None, number // 12 % 2)[number // 3 % 4]
        ends: list[End] = []

        def talk(sock: socket.socket, end: End, parts: list[tuple[int, bytes]], cuts: bool, seed: int) -> None:
            ends.append(end)
            try:
                _talk(sock, end, parts, cuts, random.Random(seed))
            except (OSError, AssertionError):  # any failure is fine on a connection that is cut off
                if who_cuts is None:
                    raise
            finally:
                end.over.set()

        def answer(sock: socket.socket) -> None:
            talk(sock, End(sock, contexts[number % 2]), script.answers, who_cuts == 1, number + 1)

        with site.origin(answer) as target, site.tunnel(target) as sock:
            ours = End(sock, context, "localhost")
            talk(sock, ours, [(0, bytes(script.asked))], who_cuts == 0, number + 2)
            theirs = next(end for end in ends if end is not ours)
            assert theirs.over.wait(WAIT)
            if who_cuts is None:
                assert ours.whole
                assert theirs.whole
                assert ours.heard == script.heard
                assert theirs.heard == script.passed
            else:
                assert script.heard.startswith(ours.heard)
                assert script.passed.startswith(theirs.heard)
                assert not (ours, theirs)[1 - who_cuts].whole

    together(client, count, at_once=12)


def _talk(sock: socket.socket, end: End, parts: list[tuple[int, bytes]], cuts: bool, chance: random.Random) -> None:
    """Send the parts, each when it is due, and read until the peer's end; or reset at a random point."""
    end.handshake()
    reading = gevent.spawn(end.read, lambda: chance.choice((100, 5000, 65_536)), lambda: pause(chance))
    try:
        left = chance.randint(0, sum(len(part) for _, part in parts)) if cuts else None
        for need, part in parts:
            end.wait(need)
            for piece in pieces(part if left is None else part[:left], chance):
                end.write(piece)
                pause(chance)
            if left is not None:
                left -= min(left, len(part))
                if not left:
                    reading.kill()
                    cut(sock)
                    return
        end.finish()
        reading.join()
    finally:
        reading.kill()


def _opaque(script: Script, chance: random.Random) -> None:
    script.exchange(b"", noise(chance), noise(chance))


def _http1(script: Script, chance: random.Random) -> None:
    sent, body = noise(chance), noise(chance)
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    if chance.random() < 0.5:
        answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(body, chance)
    if chance.random() < 0.5:
        field, sent = b"Transfer-Encoding: chunked", chunked(sent, chance)
    else:
        field = b"Content-Length: %d" % len(sent)
    script.exchange(b"POST / HTTP/1.1\r\nHost: localhost\r\n%b\r\n\r\n" % field, sent, answer)


def _http1_or_answered(script: Script, chance: random.Random) -> None:
    what = chance.random()
    if what < 0.4:
        script.answered(_GET % b"answered", Answer(403, b"no").written("GET", closing=False))
    elif what < 0.7:  # without a body: the next request arrives before this one's response
        body = noise(chance)
        script.exchange(_GET % b"", b"", b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
    else:
        _http1(script, chance)


def chunked(body: bytes, chance: random.Random) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces(body, chance)) + b"0\r\n\r\n"


def _http2(script: Script, chance: random.Random) -> None:
    stream = 2 * len(script.answers) - 1  # the first answer is the SETTINGS

    def frame(kind: int, flags: int, payload: bytes) -> bytes:
        return len(payload).to_bytes(3) + bytes((kind, flags)) + stream.to_bytes(4) + payload

    def message(fields: bytes) -> tuple[bytes, bytes]:
        body = noise(chance)
        data = [
            frame(0, 0, piece[at : at + 16_384])
            for piece in pieces(body, chance)
            for at in range(0, len(piece), 16_384)
        ]
        return frame(1, 4, fields), b"".join(data) + frame(0, 1, b"")

    head, body = message(_ASKS)
    script.exchange(head, body, b"".join(message(_ANSWERS)))


def noise(chance: random.Random) -> bytes:
    return chance.randbytes(int(_MOST * chance.random() ** 4))


def pieces(data: bytes, chance: random.Random) -> list[bytes]:
    """Split into pieces of 10 octets to more than a record holds."""
    found, at = [], 0
    while at < len(data):
        size = int(10 ** (1 + 4 * chance.random()))
        found.append(data[at : at + size])
        at += size
    return found


def pause(chance: random.Random) -> None:
    if chance.random() < 0.3:
        gevent.sleep(chance.random() * _PAUSE)
