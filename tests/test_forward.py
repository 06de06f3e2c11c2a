"""Plain HTTP through the proxy, with real clients and with octets of our own."""

import fcntl
import hashlib
import os
import re
import socket
import subprocess
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from email.utils import parsedate_to_datetime
from pathlib import Path

import gevent.select
import gevent.socket
import h11
import pytest
from gevent.event import Event
from lab import WAIT, Origin, Program, Vanishing, cut_off, exchange, get, no_garbage, read_reply, run
from test_tunnel import connected
from watching import Seen

import forward
import sockets
import upload
from errors import CertifierError, ClientError, OriginError, OriginGone, OriginSilent, RequestTimeout
from forward import Forwarding
from head import HeadReader
from meter import Meter
from names import Target
from record import Record


def recorder(seen: list[bytes], reply: bytes) -> "Origin":
    """An origin that keeps the request's octets, up to the end of its head, and answers."""

    def handle(sock: socket.socket) -> None:
        data = b""
        while b"\r\n\r\n" not in data:
            data += sock.recv(65_536)
        seen.append(data)
        sock.sendall(reply)

    return Origin(handle)


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def test_what_the_origin_gets(program: Program) -> None:
    seen: list[bytes] = []
    with recorder(seen, OK) as server:
        authority = f"localhost:{server.port}"
        reply = exchange(
            program.address,
            f"GET http://{authority}/a?b=1 HTTP/1.1\r\nHost: elsewhere\r\nX-End: 1\r\n"
            "Connection: close, X-Hop\r\nX-Hop: 1\r\nProxy-Connection: keep-alive\r\n"
            "Proxy-Authorization: Basic eDp5\r\nKeep-Alive: 1\r\nTE: trailers\r\n"
            "Upgrade: websocket\r\n\r\n".encode(),
        )
    assert reply.body == b"ok"
    assert re.fullmatch("1.1 certifier-[0-9a-f]{8}", reply.headers["via"])
    line, *fields = seen[0].decode().split("\r\n")[:-2]
    assert line == "GET /a?b=1 HTTP/1.1"
    assert fields == [f"Host: {authority}", "X-End: 1", f"Via: {reply.headers['via']}", "Connection: close"]


def test_what_the_client_gets(program: Program) -> None:
    answer = (
        b"HTTP/1.1 200 Fine\r\nTransfer-Encoding: chunked\r\nContent-Length: 99\r\nConnection: X-Hop\r\nX-Hop: 1\r\n"
        b"Keep-Alive: 1\r\nX-End: 1\r\n\r\n2\r\nok\r\n0\r\nX-Trailer: 1\r\n\r\n"
    )
    with recorder([], answer) as server, socket.create_connection(program.address, timeout=WAIT) as sock:
        reply = get(sock, f"http://localhost:{server.port}/")
        added = {name: reply.headers[name] for name in ("date", "via")}
        assert reply.headers == {"x-end": "1", **added, "transfer-encoding": "chunked"}
        body = b""
        while b"\r\n\r\n" not in body:
            body += sock.recv(100)
        assert body == b"2\r\nok\r\n0\r\nX-Trailer: 1\r\n\r\n"


def test_a_response_without_a_date_gets_one(program: Program) -> None:
    """RFC 9110 §6.6.1: a recipient with a clock adds it when forwarding; caches compute the age from it."""
    said = "Sun, 06 Nov 1994 08:49:37 GMT"
    for field, date in (("", None), (f"date: {said}\r\n", said)):
        with recorder([], f"HTTP/1.1 200 OK\r\n{field}Content-Length: 2\r\n\r\nok".encode()) as server:
            reply = exchange(program.address, f"GET http://localhost:{server.port}/ HTTP/1.0\r\n\r\n".encode())
        assert date is None or reply.headers["date"] == date
        assert date or abs(parsedate_to_datetime(reply.headers["date"]).timestamp() - time.time()) < WAIT


def test_keep_alive_and_pipelining(program: Program) -> None:
    with recorder([], OK) as server, socket.create_connection(program.address, timeout=WAIT) as sock:
        request = f"GET http://localhost:{server.port}/ HTTP/1.1\r\nHost: a\r\n\r\n".encode()
        sock.sendall(request * 3)
        assert [read_reply(sock).body for _ in range(3)] == [b"ok"] * 3
        sock.sendall(request)
        assert read_reply(sock).status == 200
        assert server.connections == 4


@pytest.mark.parametrize("apart", [True, False])
def test_empty_lines_before_the_next_request(program: Program, apart: bool) -> None:
    """RFC 9112 §2.2: they are ignored, in whatever segments they come."""
    with recorder([], OK) as server, socket.create_connection(program.address, timeout=WAIT) as sock:
        request = f"GET http://localhost:{server.port}/ HTTP/1.1\r\nHost: a\r\n\r\n".encode()
        sock.sendall(request)
        assert read_reply(sock).status == 200
        for data in (b"\r\n\r\n", request) if apart else (b"\r\n\r\n" + request,):
            sock.sendall(data)
        assert read_reply(sock).status == 200


def test_http_1_0_client(program: Program) -> None:
    with recorder([], b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n") as server:
        with socket.create_connection(program.address, timeout=WAIT) as sock:
            sock.sendall(f"GET http://localhost:{server.port}/ HTTP/1.0\r\n\r\n".encode())
            assert "transfer-encoding" not in read_reply(sock).headers
            assert sock.recv(100) == b"ok"
            assert sock.recv(100) == b""


def body_origin(sock: socket.socket) -> None:
    """Read a body in any framing, and answer with its digest; honour Expect."""
    import h11

    connection = h11.Connection(h11.SERVER)
    digest = hashlib.sha256()
    request = None
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            if connection.they_are_waiting_for_100_continue:
                interim = connection.send(h11.InformationalResponse(status_code=100, headers=[]))
                assert interim
                sock.sendall(interim)
            connection.receive_data(sock.recv(65_536))
        elif isinstance(event, h11.Request):
            request = event
        elif isinstance(event, h11.Data):
            digest.update(event.data)
        else:
            break
    assert request
    fields = [("X-Expect", "yes")] if any(k == b"expect" for k, _ in request.headers) else []
    for out in (
        h11.Response(status_code=200, headers=fields),
        h11.Data(digest.hexdigest().encode()),
        h11.EndOfMessage(),
    ):
        sock.sendall(connection.send(out) or b"")


@pytest.mark.parametrize("options", [[], ["-H", "Transfer-Encoding: chunked"], ["-H", "Expect: 100-continue"], ["-0"]])
def test_bodies_with_curl(program: Program, tmp_path: Path, options: list[str]) -> None:
    content = os.urandom(3_000_000)
    (tmp_path / "body").write_bytes(content)
    with Origin(body_origin) as server:
        result = run(
            "curl", "-sSi", "-x", program.url, *options, "--data-binary", f"@{tmp_path / 'body'}",
            f"http://localhost:{server.port}/",
        )  # fmt: skip
    assert result.stdout.endswith(hashlib.sha256(content).hexdigest()), result
    assert ("HTTP/1.1 100" in result.stdout) == ("x-expect" in result.stdout.lower())


def test_a_final_answer_instead_of_100(program: Program) -> None:
    refusal = b"HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n"
    with recorder([], refusal) as server, socket.create_connection(program.address, timeout=WAIT) as sock:
        head = f"POST http://localhost:{server.port}/ HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n"
        sock.sendall(head.encode() + b"Content-Length: 5\r\n\r\n")
        reply = read_reply(sock)
        assert (reply.status, reply.headers["connection"]) == (417, "close")
        assert sock.recv(1) == b""


@pytest.mark.parametrize("closing", [False, True])
def test_an_upload_that_is_answered_early_goes_on(program: Program, closing: bool) -> None:
    """Clients that send everything before they read get the answer; origins that answer first get the whole upload."""
    content = os.urandom(8_000_000)
    seen: list[bytes] = []
    taken = Event()

    def handle(sock: socket.socket) -> None:
        head, _, body = sock.recv(65_536).partition(b"\r\n\r\n")
        sock.sendall(OK.replace(b"ok", b"no").replace(b"\r\n", b"\r\nConnection: close\r\n", closing))
        if head.startswith(b"POST"):
            with sock.makefile("rb") as file:
                seen.extend([head, body + file.read(len(content) - len(body))])
            taken.set()

    with Origin(handle) as server, socket.create_connection(program.address, timeout=WAIT) as sock:
        path = f"http://localhost:{server.port}/ HTTP/1.1\r\nHost: a\r\n"
        sock.sendall(f"POST {path}Content-Length: {len(content)}\r\n\r\n".encode())
        sock.sendall(content)
        reply = read_reply(sock)
        assert (reply.body, reply.headers.get("connection")) == (b"no", "close" if closing else None)
        if closing:
            assert sock.recv(1) == b""
        else:
            sock.sendall(f"GET {path}\r\n".encode())
            assert read_reply(sock).body == b"no"
        assert taken.wait(WAIT)
    assert seen[1] == content
    assert b"close" not in seen[0]  # on which Node.js would cut off the upload


def test_head_with_curl(program: Program) -> None:
    with recorder([], b"HTTP/1.1 200 OK\r\nContent-Length: 77\r\n\r\n") as server:
        result = run("curl", "-sSI", "-x", program.url, f"http://localhost:{server.port}/")
    assert "Content-Length: 77" in result.stdout


def test_a_body_cut_short_is_not_completed(program: Program) -> None:
    with recorder([], b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf") as server:
        result = run("curl", "-sS", "-x", program.url, f"http://localhost:{server.port}/")
    assert result.returncode == 18  # transferred a partial file
    assert result.stdout == "half"


@pytest.mark.parametrize(
    ("answer", "status", "error"),
    [
        (b"rubbish\r\n\r\n", 502, "http_protocol_error"),
        (b"", 502, "connection_terminated"),
        (b"HTTP/1.1 200 OK\r\nConte", 502, "connection_terminated"),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", 502, "http_protocol_error"),
    ],
)
def test_an_origin_that_does_not_answer(program: Program, answer: bytes, status: int, error: str) -> None:
    with recorder([], answer) as server:
        reply = exchange(program.address, f"GET http://localhost:{server.port}/ HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    assert reply.status == status
    assert f"error={error}" in reply.headers["proxy-status"]


def test_a_target_outside_of_ascii_is_escaped(program: Program) -> None:
    """curl sends it as it was typed."""
    seen: list[bytes] = []
    with recorder(seen, OK) as server:
        request = f"GET http://localhost:{server.port}/café?ü HTTP/1.1\r\nHost: a\r\n\r\n"
        assert exchange(program.address, request.encode()).status == 200
    assert seen[0].startswith(b"GET /caf%C3%A9?%C3%BC HTTP/1.1\r\n")
    assert exchange(program.address, "GÉT http://127.0.0.9/ HTTP/1.1\r\nHost: a\r\n\r\n".encode()).status == 400


@pytest.mark.parametrize(
    ("request_", "answer", "status"),
    [
        (b"GET http://AT/ HTTP/1.1\r\nHost: a\r\nAuthorization : s3cret\r\n\r\n", OK, 400),
        (b"GET http://AT/ HTTP/1.1 s3cret\r\nHost: a\r\n\r\n", OK, 400),
        (b"CONNECT AT HTTP/1.1\r\nHost: a\r\nProxy-Authorization : s3cret\r\n\r\n", OK, 400),
        (b"GET http://AT/ HTTP/1.1\r\nHost: a\r\n\r\n", b"HTTP/1.1 200 OK\r\nSet Cookie: s3cret\r\n\r\n", 502),
    ],
)
def test_a_malformed_line_is_not_quoted(program: Program, request_: bytes, answer: bytes, status: int) -> None:
    """Neither in the log nor on the page nor in the reply: it may hold a secret."""
    seen = len(program.lines)
    with recorder([], answer) as server:
        reply = exchange(program.address, request_.replace(b"AT", b"localhost:%d" % server.port))
    assert reply.status == status
    assert b"malformed" in reply.body
    program.wait_for("malformed", seen)
    state = exchange(program.address, b"GET /state HTTP/1.0\r\n\r\n").body
    assert not any("s3cret" in told for told in (*program.lines, state.decode(), reply.body.decode()))


def forwarded(program: Program, answer: bytes, size: int) -> bytes:
    """What a client gets of an answer that comes in pieces of so many octets."""

    def handle(sock: socket.socket) -> None:
        while not sock.recv(65_536).endswith(b"\r\n\r\n"):
            pass
        for at in range(0, len(answer), size):
            sock.sendall(answer[at : at + size])

    with Origin(handle) as server, socket.create_connection(program.address, timeout=WAIT) as sock:
        sock.sendall(f"GET http://localhost:{server.port}/ HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
        return sock.makefile("rb").read()


@pytest.mark.parametrize("size", [1, 1000])
def test_white_space_before_a_colon_goes_from_a_response(program: Program, size: int) -> None:
    """RFC 9112 §5.1: a proxy must remove it. Content that looks the same stays."""
    answer = (
        b"HTTP/1.1 103 Early : Hints\r\nLink : </a>\r\n\r\n"
        b"HTTP/1.1 200 OK : OK\r\nX-A\t : b : c\r\nContent-Length : 9\r\n\r\nX-D : e\r\n"
    )
    interim, _, rest = forwarded(program, answer, size).partition(b"\r\n\r\n")
    head, _, body = rest.partition(b"\r\n\r\n")
    assert interim == b"HTTP/1.1 103 Early : Hints\r\nLink: </a>"
    assert head.split(b"\r\n")[:3] == [b"HTTP/1.1 200 OK : OK", b"X-A: b : c", b"Content-Length: 9"]
    assert body == b"X-D : e\r\n"


@pytest.mark.parametrize("size", [1, 1000])
def test_white_space_before_a_colon_goes_from_trailers(program: Program, size: int) -> None:
    """They are fields, too, and may be folded as those of a head. Chunks that look the same stay."""
    chunks = b"9 ;a=b\r\nX-D : e\r\n\r\n5\r\n0\r\n\r\n\r\n"
    answer = CHUNKED + chunks + b"0;a\r\nX-A\t : b : c\r\nX-B :d\r\n e\r\n\r\n"
    _, _, body = forwarded(program, answer, size).partition(b"\r\n\r\n")
    content, trailers = b"", None
    while trailers is None:
        length, _, body = body.partition(b"\r\n")
        octets = int(length, 16)
        content += body[:octets]
        if octets:
            body = body[octets:].removeprefix(b"\r\n")
        else:
            trailers = body
    assert content == b"X-D : e\r\n0\r\n\r\n"
    assert trailers == b"X-A: b : c\r\nX-B: d e\r\n\r\n"


@pytest.mark.parametrize("trailer", [b" : 1", b"X A : 1", b"X-A", b"X-A \0: 1", b"X-A:" + b"a" * 65_536])
def test_malformed_trailers_cut_a_response_off(program: Program, trailer: bytes) -> None:
    with recorder([], CHUNKED + b"2\r\nok\r\n0\r\n" + trailer + b"\r\n\r\n") as server:
        with socket.create_connection(program.address, timeout=WAIT) as sock:
            sock.sendall(f"GET http://localhost:{server.port}/ HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            got = sock.makefile("rb").read()
    assert got.endswith(b"\r\n\r\n2\r\nok\r\n")


@pytest.mark.parametrize("field", [b"Content-Length : 3", b" : 1", b"X-A\r\n : 1", b"X A : 1", b"X-A \0: 1"])
def test_white_space_elsewhere_in_a_name_is_malformed(program: Program, field: bytes) -> None:
    with recorder([], b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n" + field + b"\r\n\r\nok") as server:
        reply = exchange(program.address, f"GET http://localhost:{server.port}/ HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    assert reply.status == 502
    assert b"malformed" in reply.body


@pytest.mark.parametrize("lead", [b"", b"HTTP/1.1 100 Continue\r\n\r\n"])
@pytest.mark.parametrize("begin", [b"\r", b"\n\n\n", b"\r\n" + OK, b" " + OK, b"\0", b"\x15\x03\x01\0\2\2\x22"])
def test_what_begins_with_no_status_line_is_malformed_at_once(program: Program, lead: bytes, begin: bytes) -> None:
    """Such as TLS, whose servers may wait after their alert. Empty lines could come without end."""

    def handle(sock: socket.socket) -> None:
        while not sock.recv(65_536).endswith(b"\r\n\r\n"):
            pass
        sock.sendall(lead + begin)
        while sock.recv(100):  # until certifier closes
            pass

    with Origin(handle) as server, socket.create_connection(program.address, timeout=WAIT) as sock:
        sock.sendall(f"GET http://localhost:{server.port}/ HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        told = sock.makefile("rb").read()
    assert told.startswith(lead + b"HTTP/1.1 502 Origin sent a malformed response\r\n")


def test_a_malformed_body_of_the_client(program: Program) -> None:
    def listen(sock: socket.socket) -> None:
        while sock.recv(100):
            pass

    with Origin(listen) as server:
        head = f"POST http://localhost:{server.port}/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        reply = exchange(program.address, head.encode() + b"s3cret\r\n")
    assert reply.status == 400
    assert reply.body.endswith(b"could not be read: illegal chunk header\n")


# The proxy's own pages


def test_own_pages(program: Program) -> None:
    result = run("curl", "-sSi", f"{program.url}/ca.crt")
    assert "content-type: application/x-x509-ca-cert" in result.stdout.lower()
    assert result.stdout.endswith(program.ca.read_text())
    page = run("curl", "-sS", f"{program.url}/").stdout
    assert "TLS-intercepting forward proxy" in page
    assert f"{program.url}/ca.crt" in page
    assert run("curl", "-sS", "-x", program.url, f"{program.url}/ca.crt").stdout == program.ca.read_text()
    assert exchange(program.address, b"GET /other HTTP/1.1\r\nHost: a\r\n\r\n").status == 404
    assert exchange(program.address, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").status == 405
    assert "Content-Length" in run("curl", "-sSI", f"{program.url}/").stdout


def test_max_forwards(program: Program) -> None:
    seen: list[bytes] = []
    with recorder(seen, OK) as server:
        for method, hops, status in (
            ("OPTIONS", "0", 200),
            ("OPTIONS", "00", 200),
            ("OPTIONS", "1", 200),
            ("OPTIONS", "9", 200),
            ("TRACE", "0", 405),
        ):
            head = f"{method} http://localhost:{server.port}/ HTTP/1.1\r\nHost: a\r\nMax-Forwards: {hops}\r\n\r\n"
            reply = exchange(program.address, head.encode())
            assert reply.status == status
            assert reply.headers.get("allow") == ("GET, HEAD, OPTIONS" if int(hops) == 0 else None)
    passed = [line for head in seen for line in head.split(b"\r\n") if line.startswith(b"Max-Forwards")]
    assert passed == [b"Max-Forwards: 0", b"Max-Forwards: 8"]


@pytest.mark.parametrize(("hops", "status"), [(0, 200), (1, 502)])
def test_what_goes_no_further_is_answered_whether_its_host_exists_or_not(
    program: Program, hops: int, status: int
) -> None:
    head = f"OPTIONS http://none.invalid/ HTTP/1.1\r\nHost: none.invalid\r\nMax-Forwards: {hops}\r\n\r\n"
    assert exchange(program.address, head.encode()).status == status


# What hostile peers do


@contextmanager
def flood(piece: bytes, head: bytes = b"") -> Iterator[Origin]:
    """An origin whose response is an endless series of pieces, many in each packet."""

    def pour(sock: socket.socket) -> None:
        sock.recv(65_536)
        sock.sendall(head)
        while True:
            sock.sendall(piece * 1000)

    with Origin(pour) as server:
        yield server


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize("piece", [b"1\r\nx\r\n", b"x" * 1000], ids=["tiny chunks", "bulk"])
def test_an_endless_response_holds_nobody_else_up(program: Program, piece: bytes) -> None:
    head = CHUNKED if piece.startswith(b"1") else b"HTTP/1.1 200 OK\r\n\r\n"
    with flood(piece, head) as server:
        words = ["curl", "-s", "-x", program.url, "-o", "/dev/null", f"http://localhost:{server.port}/"]
        with subprocess.Popen(words) as reader:
            try:
                took = []
                for _ in range(20):
                    start = time.monotonic()
                    assert exchange(program.address, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").status == 200
                    took.append(time.monotonic() - start)
            finally:
                reader.kill()
    assert sorted(took)[17] < 1  # if the relay never yielded, each would wait for the end of the flood


def test_endless_interim_responses_are_the_origins_fault(program: Program) -> None:
    with flood(b"HTTP/1.1 103 Early Hints\r\n\r\n") as server, socket.create_connection(program.address) as sock:
        sock.settimeout(WAIT)
        sock.sendall(f"GET http://localhost:{server.port}/ HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        while (reply := read_reply(sock)).status == 103:
            pass
        assert reply.status == 502


@pytest.mark.parametrize(("fields", "least", "most"), [(300, 20, 60), (9, 0, 10)])
def test_interim_responses_of_many_fields_hold_nobody_else_up(fields: int, least: int, most: int) -> None:
    """And for small ones, which take no time, nobody gives way."""
    with uploading() as (client, origin, doing):
        client.sendall(b"x" * 10)
        origin.sendall((b"HTTP/1.1 103 Early Hints\r\n" + b"a:\r\n" * fields + b"\r\n") * 20 + OK)
        turns = 0

        def others() -> None:
            nonlocal turns
            while not doing.ready():
                turns += 1
                gevent.sleep(1e-6)

        gevent.spawn(others).join(WAIT)
        assert doing.get(timeout=WAIT) == b""
        assert least <= turns <= most
        assert client.recv(100).startswith(b"HTTP/1.1 103 Early Hints\r\n")


@pytest.mark.parametrize(("status", "kept"), [(204, False), (304, True)])
def test_what_has_no_content_names_no_length_of_it(program: Program, status: int, kept: bool) -> None:
    """A client that believed it would wait. With 304 it is that of the representation (RFC 9110 §8.6)."""
    answer = b"HTTP/1.1 %d Fine\r\nContent-Length: 9\r\n\r\n" % status
    with recorder([], answer) as server, socket.create_connection(program.address, timeout=WAIT) as sock:
        for _ in range(2):
            sock.sendall(f"GET http://localhost:{server.port}/ HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            reply = read_reply(sock, body=False)
            assert (reply.status, "content-length" in reply.headers) == (status, kept)


def test_connection_must_not_name_what_frames_the_message(program: Program) -> None:
    with Origin(body_origin) as server:
        reply = exchange(
            program.address,
            f"POST http://localhost:{server.port}/ HTTP/1.0\r\nConnection: Content-Length, Host\r\n"
            "Content-Length: 5\r\n\r\nhello".encode(),
        )
    assert reply.status == 200


@pytest.mark.parametrize("hops", ["9" * 5000, "-1", "x"])
def test_a_max_forwards_that_is_no_number_is_passed_on(program: Program, hops: str) -> None:
    seen: list[bytes] = []
    with recorder(seen, OK) as server:
        head = f"OPTIONS http://localhost:{server.port} HTTP/1.1\r\nHost: a\r\nMax-Forwards: {hops}\r\n\r\n"
        assert exchange(program.address, head.encode()).status == 200
    assert seen[0].startswith(b"OPTIONS * HTTP/1.1\r\n")
    assert f"Max-Forwards: {hops}\r\n".encode() in seen[0]


def test_trailers_that_only_a_head_may_have_stay_behind(program: Program) -> None:
    """RFC 9110 §6.5.1; and an interim response has no content (§8.6)."""
    seen: list[bytes] = []
    bad = b"Connection: X-Hop\r\nX-Hop: 1\r\n"
    for name in (
        b"Host", b"Content-Length", b"Content-Encoding", b"Content-Type", b"Content-Range", b"Trailer", b"Cookie",
        b"Set-Cookie", b"Authorization", b"WWW-Authenticate", b"Max-Forwards", b"Via",
    ):  # fmt: skip
        bad += name + b": 3\r\n"
    hints = b"HTTP/1.1 103 Early Hints\r\nContent-Length: 3\r\nLink: </a>\r\n\r\n"

    def handle(sock: socket.socket) -> None:
        data = b""
        while not data.endswith(b"\r\n\r\n") or b"\r\n0\r\n" not in data:
            more = sock.recv(65_536)
            assert more
            data += more
        seen.append(data)
        sock.sendall(hints + CHUNKED + b"2\r\nok\r\n0\r\n" + bad + b"X-Trailer: 1\r\n\r\n")

    with Origin(handle) as server, socket.create_connection(program.address, timeout=WAIT) as sock:
        ask = f"PUT http://localhost:{server.port}/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        sock.sendall(ask.encode() + b"2\r\nhi\r\n0\r\n" + bad + b"X-Trailer: 1\r\n\r\n")
        got = b""
        while not got.endswith(b"X-Trailer: 1\r\n\r\n"):
            data = sock.recv(65_536)
            assert data
            got += data
    assert seen[0].endswith(b"\r\n0\r\nX-Trailer: 1\r\n\r\n")
    assert got.startswith(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 ")
    assert got.endswith(b"\r\n0\r\nX-Trailer: 1\r\n\r\n")


@contextmanager
def uploading(
    meter: Meter | None = None,
    ours: gevent.socket.socket | None = None,
    framing: bytes = b"Content-Length: 10",
) -> Iterator[tuple[socket.socket, socket.socket, "gevent.Greenlet[..., bytes | None]"]]:
    """An upload, of ten octets, in progress: its client, its origin, and the greenlet that forwards it.

    ``ours`` is connected to an origin of the caller's.
    """
    client, client_end = socket.socketpair()
    with client, client_end, connected() as (origin, origin_end):
        head = HeadReader().receive(b"PUT http://a/ HTTP/1.1\r\nHost: a\r\n" + framing + b"\r\n\r\n")
        assert head is not None
        told = Seen().recorder()
        exchange = told.request("PUT", "a", "/", "1.1", head.headers)
        forwarding = Forwarding(client_end, ours or origin_end, head, Record("a:1"), told, exchange, meter or Meter())
        yield client, origin, gevent.spawn(forwarding.run, Target("a", 80), "/", b"")


def failed(said: bytes, framing: bytes = b"", body: bytes = b"") -> None:
    """Forward a request to an origin that says this and closes."""
    (client, client_end), (origin, origin_end) = gevent.socket.socketpair(), gevent.socket.socketpair()
    with client, client_end, origin, origin_end, suppress(CertifierError, ConnectionAbortedError):
        head = HeadReader().receive(b"GET http://a/ HTTP/1.1\r\nHost: a\r\n" + framing + b"\r\n")
        assert head is not None
        told = Seen().recorder()
        exchange = told.request("GET", "a", "/", "1.1", head.headers)
        origin.sendall(said)
        origin.shutdown(socket.SHUT_WR)
        Forwarding(client_end, origin_end, head, Record("a:1"), told, exchange, Meter()).run(Target("a", 80), "/", body)
        raise AssertionError(said)


@pytest.mark.parametrize("said", [b"hello\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx", b""])
def test_an_origins_failure_leaves_no_cycle(said: bytes) -> None:
    with no_garbage(h11.RemoteProtocolError, OriginError):
        failed(said)


def test_a_malformed_body_leaves_no_cycle() -> None:
    with no_garbage(h11.RemoteProtocolError, ClientError):
        failed(b"", b"Transfer-Encoding: chunked\r\n", b"zz\r\n")


def test_the_octets_of_both_bodies_are_counted() -> None:
    meter = Meter()
    with uploading(meter) as (client, origin, doing):
        client.sendall(b"x" * 10)
        origin.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nyyy")
        assert doing.get(timeout=WAIT) == b""
    assert (meter.sent, meter.received) == (10, 3)


def test_an_origin_may_be_silent_for_as_long_as_an_upload_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """And no longer."""
    monkeypatch.setattr(upload, "QUIET_SECONDS", 0.5)
    with uploading() as (client, _, doing):
        began = time.monotonic()
        for _ in range(10):
            gevent.sleep(0.2)
            client.sendall(b"x")
        assert not doing.ready()
        with pytest.raises(OriginSilent):
            doing.get(timeout=WAIT)
        assert 2.0 < time.monotonic() - began < 3.5


@pytest.mark.parametrize("sent", [b"", b"x" * 9])
def test_a_client_that_stops_in_an_upload_did_not_complete_it_in_time(
    monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    """The waiting origin is not blamed for its silence, and must not take a part of the body for all of it."""
    monkeypatch.setattr(upload, "QUIET_SECONDS", 0.5)
    with uploading() as (client, origin, doing):
        client.sendall(sent)
        with pytest.raises(RequestTimeout, match="nothing of the request's body"):
            doing.get(timeout=WAIT)
        with origin.makefile("rb") as told:
            assert told.read().endswith(b"\r\n\r\n" + sent)


@pytest.mark.parametrize("begun", [b"", b"HTTP/1.1 200 OK\r\n\r\nhalf"])
def test_an_origin_that_vanished_in_an_upload_was_not_silent_nor_has_it_answered_in_full(begun: bytes) -> None:
    origin, end = gevent.socket.socketpair()
    with origin, Vanishing(fileno=end.detach()) as ours, uploading(ours=ours) as (client, _, doing):
        origin.sendall(begun)
        if begun:
            assert client.recv(12) == b"HTTP/1.1 200"
        client.sendall(b"x")
        while not origin.recv(65_536).endswith(b"x"):
            pass
        origin.shutdown(socket.SHUT_WR)
        error = ConnectionAbortedError if begun else OriginGone
        with pytest.raises(error, match="a:80 was lost before it had answered in full: Connection timed out"):
            doing.get(timeout=WAIT)


def test_a_client_may_pause_in_an_upload_for_as_long_as_a_response_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A response that begins before the request is complete, and takes long."""
    monkeypatch.setattr(upload, "QUIET_SECONDS", 1.5)
    monkeypatch.setattr(forward, "LINGER_SECONDS", 0.1)
    with uploading() as (client, origin, doing):
        origin.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n")
        for _ in range(10):
            gevent.sleep(0.2)
            origin.sendall(b"y")
        got = b""
        while not got.endswith(b"y" * 10):
            data = client.recv(65_536)
            assert data
            got += data
        assert doing.get(timeout=WAIT) is None


def test_a_response_does_not_look_complete_that_ends_with_a_broken_upload() -> None:
    """With a slow client, no wait for the origin notices the error, and the origin's close looks like a regular end."""
    with uploading() as (client, origin, doing):
        origin.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        origin.settimeout(0.5)
        with pytest.raises(TimeoutError):  # until all buffers are full
            origin.sendall(b"y" * 100_000_000)
        client.shutdown(socket.SHUT_WR)
        origin.settimeout(WAIT)
        while origin.recv(65_536):
            pass
        reading = gevent.spawn(lambda: [*iter(lambda: client.recv(65_536), b"")])
        with pytest.raises(ConnectionAbortedError, match="the request ended in its body"):
            doing.get(timeout=WAIT)
        reading.kill()


@pytest.mark.parametrize("reset", [True, False])
def test_a_response_does_not_look_complete_whose_origin_reset_the_connection(reset: bool) -> None:
    """The upload meets the reset: what reads next finds an orderly end."""
    with uploading() as (client, origin, doing), gevent.Timeout(WAIT):
        origin.sendall(b"HTTP/1.1 200 OK\r\n\r\nhalf")
        got = b""
        while b"half" not in got:
            got += client.recv(65_536)
        assert origin.recv(65_536)
        if reset:
            sockets.reset(origin)
        origin.close()
        client.sendall(b"x")
        if reset:
            with pytest.raises(ConnectionAbortedError, match="closed the connection before it had answered in full"):
                doing.get(timeout=WAIT)
        else:
            assert doing.get(timeout=WAIT) is None


def test_an_origin_that_is_gone_before_its_request_is_told_of() -> None:
    origin, ours = gevent.socket.socketpair()
    origin.close()
    with ours, uploading(ours=ours) as (_, _, doing), pytest.raises(OriginGone, match=r"^a:80 closed the connection$"):
        doing.get(timeout=WAIT)


def test_an_origin_that_reads_no_more_may_answer_and_is_told_of_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload, "QUIET_SECONDS", 0.5)
    with uploading(framing=b"Content-Length: 50000000") as (client, origin, doing), gevent.Timeout(WAIT):
        feeding = gevent.spawn(client.sendall, b"x" * 50_000_000)
        origin.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        for _ in range(10):  # longer than it may take to read
            gevent.sleep(0.1)
            origin.sendall(b"y")
        while origin.recv(1_000_000):
            pass
        origin.sendall(b"z")
        origin.shutdown(socket.SHUT_WR)
        got = b""
        while not got.endswith(b"z\r\n0\r\n\r\n"):
            data = client.recv(65_536)
            assert data
            got += data
        feeding.kill()
        client.close()
        assert doing.get() is None


def test_a_response_is_complete_whose_origin_had_closed_before_the_upload_failed() -> None:
    """Its client is slow: the upload meets the close before the response's end is read."""
    meter, size = Meter(), 250_000
    with uploading(meter) as (client, origin, doing), gevent.Timeout(WAIT):
        origin.sendall(b"HTTP/1.1 200 OK\r\n\r\n" + b"y" * size)
        assert origin.recv(65_536)
        while fcntl.ioctl(origin, termios.TIOCOUTQ, bytes(4)) != bytes(4):  # not received yet
            sockets.give_way()
        origin.close()
        for count in (1, 2):  # the first one draws a reset
            client.sendall(b"x")
            while meter.sent < count:
                sockets.give_way()
        got = b"".join(iter(lambda: client.recv(65_536), b""))
        assert got.endswith(b"y\r\n0\r\n\r\n")
        assert got.count(b"y") == size
        client.close()
        assert doing.get() is None


def test_a_response_whose_end_the_close_marks_ends_before_a_paused_upload_does() -> None:
    with uploading() as (client, origin, doing):
        origin.sendall(OK.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
        client.settimeout(forward.LINGER_SECONDS - 2)
        got = b"".join(iter(lambda: client.recv(65_536), b""))
        assert got.endswith(b"\r\n\r\nok")
        assert not doing.ready()


def test_what_follows_an_upload_that_failed_is_no_request() -> None:
    """The rest of its body might look like one."""
    with uploading() as (client, origin, doing), gevent.Timeout(WAIT):
        assert origin.recv(65_536)
        sockets.reset(origin)
        origin.sendall(OK)
        got = b""
        while not got.endswith(b"ok"):
            got += client.recv(65_536)
        origin.close()
        client.sendall(b"x")
        assert client.recv(1) == b""
        client.close()
        assert doing.get() is None


def test_an_http_1_0_client_gets_no_interim_response(program: Program) -> None:
    """RFC 9110 §15.2: it does not know them."""
    with recorder([], b"HTTP/1.1 103 Early Hints\r\n\r\n" + OK) as server:
        reply = exchange(program.address, f"GET http://localhost:{server.port}/ HTTP/1.0\r\n\r\n".encode())
    assert (reply.status, reply.body) == (200, b"ok")


def test_what_is_sent_after_the_last_request_does_not_reset_its_response(program: Program) -> None:
    taken, more = Event(), Event()

    def handle(sock: socket.socket) -> None:
        assert sock.recv(65_536)
        taken.set()
        assert more.wait(WAIT)
        sock.sendall(OK)

    with Origin(handle) as server, socket.create_connection(program.address, timeout=WAIT) as sock:
        sock.sendall(f"GET http://localhost:{server.port}/ HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
        assert taken.wait(WAIT)
        sock.sendall(b"x")
        more.set()
        assert read_reply(sock).body == b"ok"
        assert sock.recv(1) == b""


def test_an_http_1_0_client_sees_a_cut_off_response_as_one_and_no_trailers(program: Program) -> None:
    request = b"GET http://localhost:%d/ HTTP/1.0\r\n\r\n"
    with recorder([], CHUNKED + b"5\r\nhello\r\n") as server:
        with socket.create_connection(program.address, timeout=WAIT) as sock:
            sock.sendall(request % server.port)
            assert read_reply(sock).status == 200
            assert sock.recv(100) == b"hello"
            with pytest.raises(ConnectionResetError):
                sock.recv(100)
    with recorder([], CHUNKED + b"5\r\nhello\r\n0\r\nX-Trailer: 1\r\n\r\n") as server:
        with socket.create_connection(program.address, timeout=WAIT) as sock:
            sock.sendall(request % server.port)
            assert read_reply(sock).status == 200
            assert sock.recv(100) == b"hello"
            assert sock.recv(100) == b""


def test_an_http_1_0_client_sees_that_certifier_ended_amid_a_response(tmp_path: Path) -> None:
    def begin(sock: socket.socket) -> None:
        assert sock.recv(65_536)
        sock.sendall(CHUNKED + b"5\r\nhello\r\n")
        sock.recv(1)

    with (
        Origin(begin) as server,
        Program(tmp_path, "--store=certs", "--max=9") as running,
        socket.create_connection(running.address, timeout=WAIT) as sock,
    ):
        sock.sendall(b"GET http://localhost:%d/ HTTP/1.0\r\n\r\n" % server.port)
        assert read_reply(sock).status == 200
        assert sock.recv(100) == b"hello"
        with pytest.raises(ConnectionResetError):
            cut_off(running, sock)


def test_a_large_response_head_in_pieces(program: Program) -> None:
    def slow(sock: socket.socket) -> None:
        sock.recv(65_536)
        sock.sendall(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 20_000)
        gone.wait(0.2)
        sock.sendall(b"\r\nContent-Length: 2\r\n\r\nok")

    gone = Event()
    with Origin(slow) as server:
        request = f"GET http://localhost:{server.port}/ HTTP/1.1\r\nHost: a\r\n\r\n"
        assert exchange(program.address, request.encode()).body == b"ok"


def test_a_refused_head_request_gets_no_body(program: Program) -> None:
    with socket.create_connection(program.address, timeout=WAIT) as sock:
        sock.sendall(b"HEAD http://nowhere.invalid/ HTTP/1.1\r\nHost: a\r\n\r\n")
        reply = read_reply(sock, body=False)
        assert reply.status == 502
        assert int(reply.headers["content-length"]) > 0
        assert sock.recv(1) == b""


def test_an_empty_port_is_the_default(program: Program) -> None:
    assert exchange(program.address, b"GET http://nowhere.invalid:/ HTTP/1.1\r\nHost: a\r\n\r\n").status == 502


def test_empty_lines_between_requests_do_not_start_the_next_one(tmp_path: Path) -> None:
    with (
        Program(tmp_path, "--store=certs", "--max=1", "--head-timeout=1") as running,
        recorder([], OK) as server,
        socket.create_connection(running.address, timeout=WAIT) as sock,
    ):
        request = f"GET http://localhost:{server.port}/ HTTP/1.1\r\nHost: a\r\n\r\n".encode()
        sock.sendall(request + b"\r\n")
        assert read_reply(sock).status == 200
        assert not gevent.select.select([sock], [], [], 1.5)[0]
        sock.sendall(b"\r\n" + request)
        assert read_reply(sock).status == 200
        sock.sendall(b"GET")
        assert read_reply(sock).status == 408
