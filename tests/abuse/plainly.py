"""Plain HTTP in random pieces at a random pace, several requests per connection: each gets its own complete answer."""

import hashlib
import random
import socket

import gevent
import h11
from gevent.event import Event
from lab import WAIT

from abuse.duplex import chunked, noise, pause, pieces
from abuse.site import Site, together


def each_its_own(site: Site, count: int) -> None:
    """Bodies with Content-Length and chunked, pipelined requests, answers before and after the end of the request."""

    def answer(sock: socket.socket) -> None:
        conn = h11.Connection(h11.SERVER)
        request = _next(conn, sock)
        assert isinstance(request, h11.Request)
        seed = int(dict(request.headers)[b"x-seed"])
        early, body = _answer(seed)
        told: list[bytes] = []
        heard = Event()

        def hear() -> None:
            digest = hashlib.sha256()
            while isinstance(event := _next(conn, sock), h11.Data):
                digest.update(event.data)
            told.append(digest.hexdigest().encode())
            heard.set()

        hearing = gevent.spawn(hear)
        if not early:
            assert heard.wait(WAIT)
        chance = random.Random(seed)
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        for piece in (head, *pieces(chunked(body, chance)[: -len(b"0\r\n\r\n")], chance)):
            sock.sendall(piece)
            pause(chance)
        assert heard.wait(WAIT)
        sock.sendall(b"0\r\nX-Heard: %b\r\n\r\n" % told[0])
        hearing.join()

    def client(number: int) -> None:
        chance = random.Random(number)
        seeds = [chance.randrange(1 << 30) for _ in range(chance.randint(1, 5))]
        with site.origin(answer) as target, site.connect() as sock:
            sent = [_request(target, seed) for seed in seeds]
            sending = gevent.spawn(_send, sock, b"".join(octets for octets, _ in sent), chance)
            conn = h11.Connection(h11.CLIENT)
            for seed, (_, digest) in zip(seeds, sent, strict=True):
                conn.send(h11.Request(method="GET", target="/", headers=[("Host", "a")]))
                conn.send(h11.EndOfMessage())
                response = _next(conn, sock)
                assert isinstance(response, h11.Response), response
                assert response.status_code == 200, response
                heard = bytearray()
                while isinstance(event := _next(conn, sock), h11.Data):
                    heard += event.data
                assert isinstance(event, h11.EndOfMessage), event
                assert heard == _answer(seed)[1]
                assert dict(event.headers)[b"x-heard"] == digest
                if conn.their_state is not h11.DONE:  # an early answer ends the connection
                    break
                conn.start_next_cycle()
            sending.kill()

    together(client, count, at_once=12)


def _next(conn: h11.Connection, sock: socket.socket) -> object:
    while (event := conn.next_event()) is h11.NEED_DATA:
        conn.receive_data(sock.recv(65_536))
    return event


def _answer(seed: int) -> tuple[bool, bytes]:
    """Whether the answer begins before the request is complete, and its body."""
    chance = random.Random(seed + 1)
    return chance.random() < 0.3, noise(chance)


def _request(target: str, seed: int) -> tuple[bytes, bytes]:
    """The request's octets, and the digest of its body."""
    chance = random.Random(seed + 2)
    body = noise(chance)
    field, framed = b"Content-Length: %d" % len(body), body
    if chance.random() < 0.5:
        field, framed = b"Transfer-Encoding: chunked", chunked(body, chance)
    head = f"POST http://{target}/ HTTP/1.1\r\nHost: {target}\r\nX-Seed: {seed}\r\n".encode() + field + b"\r\n\r\n"
    return head + framed, hashlib.sha256(body).hexdigest().encode()


def _send(sock: socket.socket, octets: bytes, chance: random.Random) -> None:
    for piece in pieces(octets, chance):
        sock.sendall(piece)
        pause(chance)
