"""End to end: the program as its users start it, real TLS, verified on both sides."""

import hashlib
import os
import re
import signal
import socket
import ssl
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import IO

import gevent
import pytest
from gevent.event import AsyncResult, Event
from lab import (
    CUT_OFF,
    HERE,
    WAIT,
    BioClient,
    Origin,
    Program,
    cut_off,
    echo,
    exchange,
    get,
    http_origin,
    read_reply,
    reserved_port,
    run,
    secure_tunnel,
    serial_of,
    strict_context,
    talk,
    tunnel,
    until,
)
from pki import TestCA, key_pem, new_key
from test_hello import message, real_hello, records, server_name

import greeting
import sockets
from limits import Limits


def stored(folder: Path, name: str) -> Path:
    return folder / "certs" / hashlib.md5(name.encode()).hexdigest()[:3] / f"{name}.crt"


def closed(sock: socket.socket) -> bytes:
    """Read all that still arrives until EOF."""
    data = b""
    while more := sock.recv(65_536):
        data += more
    return data


# Interception


def test_a_request_through_the_tunnel(program: Program, origin: Origin) -> None:
    seen = len(program.lines)
    with secure_tunnel(program, f"127.0.0.1:{origin.port}", "www.example.com") as secure:
        reply = get(secure, "/hello")
        serial = serial_of(secure)
        secure.unwrap()
    assert (reply.status, reply.body.splitlines()[0]) == (200, b"GET /hello HTTP/1.1")
    line = program.wait_for("tunnel .*sni=www.example.com", seen)
    assert re.search(
        rf"target=127.0.0.1:{origin.port} .*context=(made|disk|memory) client_tls=TLSv1.3 origin_tls=TLSv1.3"
        r" client_alpn=- origin_alpn=- sent=\d+ received=\d+ ms=[\d.]+ outcome=closed$",
        line,
    )
    with secure_tunnel(program, f"127.0.0.1:{origin.port}", "www.example.com") as secure:
        assert serial_of(secure) == serial
        secure.unwrap()
    program.wait_for("sni=www.example.com context=memory", seen)


def test_a_client_that_does_not_trust_the_ca_refuses(program: Program, origin: Origin, roots: Path) -> None:
    seen = len(program.lines)
    with tunnel(program.address, f"localhost:{origin.port}") as sock:
        with pytest.raises(ssl.SSLCertVerificationError, match="unable to get local issuer"):
            strict_context(roots).wrap_socket(sock, server_hostname="localhost")
    line = program.wait_for("outcome=client-tls-failed", seen)
    assert "client_tls=- origin_tls=TLSv1.3 " in line
    assert "detail=TLSV1_ALERT_UNKNOWN_CA" in line


def test_without_server_name_the_certificate_is_for_the_connect_host(program: Program, origin: Origin) -> None:
    context = strict_context(program.ca)
    context.check_hostname = False
    for host, kind in (("localhost", "DNS"), ("127.0.0.1", "IP Address")):
        with tunnel(program.address, f"{host}:{origin.port}") as sock, context.wrap_socket(sock) as secure:
            certificate = secure.getpeercert()
            assert certificate
            assert certificate["subjectAltName"] == ((kind, host),)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls_versions(program: Program, origin: Origin, version: ssl.TLSVersion) -> None:
    context = strict_context(program.ca)
    context.minimum_version = context.maximum_version = version
    with secure_tunnel(program, f"localhost:{origin.port}", context=context) as secure:
        assert get(secure).status == 200


def test_tls_1_1_is_refused(program: Program, origin: Origin) -> None:
    result = run(
        "openssl", "s_client", "-proxy", f"127.0.0.1:{program.address[1]}", "-connect", f"localhost:{origin.port}",
        "-tls1_1", "-cipher", "ALL:@SECLEVEL=0", input="",
    )  # fmt: skip
    assert "protocol version" in result.stderr
    assert result.returncode != 0


@pytest.mark.parametrize(
    ("offered", "spoken", "selected"),
    [
        (["h2", "http/1.1"], ["h2", "http/1.1"], "h2"),
        (["h2", "http/1.1"], ["http/1.1"], "http/1.1"),
        (["h2"], [], None),
        ([], ["h2"], None),
        (["acme/9"], ["acme/9"], "acme/9"),
    ],
)
def test_alpn_is_what_the_origin_selects(
    program: Program, certificate: Path, offered: list[str], spoken: list[str], selected: str | None
) -> None:
    with (
        Origin(echo, certificate, alpn=spoken) as server,
        secure_tunnel(program, f"localhost:{server.port}", alpn=offered) as secure,
    ):
        assert secure.selected_alpn_protocol() == selected
        secure.sendall(b"x")
        assert secure.recv(1) == b"x"


def test_a_server_name_other_than_the_connect_host(program: Program, origin: Origin) -> None:
    """The certificate is for the server_name, so the origin's is verified for that name, too."""
    with secure_tunnel(program, f"127.0.0.1:{origin.port}", "example.com") as secure:
        assert get(secure).status == 200
    with secure_tunnel(program, f"127.0.0.1:{origin.port}", "other.example") as secure:
        assert get(secure).status == 502


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_addresses(program: Program, certificate: Path, host: str) -> None:
    with Origin(http_origin, certificate, host=host) as server:
        where = f"[{host}]:{server.port}" if ":" in host else f"{host}:{server.port}"
        result = run("curl", "-sS", "-x", program.url, "--cacert", program.ca, f"https://{where}/x")
        assert result.stdout.startswith("GET /x"), result.stderr


def test_a_server_name_that_is_no_name(program: Program, origin: Origin) -> None:
    """The CONNECT host is used instead, and the name never reaches the disk."""
    certs = program.folder / "certs"
    before = set(certs.rglob("*"))
    for name in (b"127.0.0.1", b"../../../../tmp/x", b"a\0b", b"x" * 300, b"_.example.com"):
        with tunnel(program.address, f"localhost:{origin.port}") as sock:
            sock.sendall(records(message(server_name(name))))
            assert sock.recv(1) in (b"\x15", b"\x16")
    made = {path.relative_to(certs) for path in set(certs.rglob("*")) - before if path.is_file()}
    assert {path.name for path in made if path.parts[0] != ".serials"} <= {"localhost.crt"}


def test_a_hundred_clients_at_once_get_one_certificate(tmp_path: Path, roots: Path, origin: Origin) -> None:
    with Program(tmp_path, "--store=certs", "--max=10", "--ca=ca", f"--upstream-ca={roots}") as running:
        first = int((tmp_path / "ca" / "serial.txt").read_text())
        context = strict_context(running.ca)

        def client() -> int:
            with secure_tunnel(running, f"localhost:{origin.port}", context=context) as secure:
                assert get(secure).status == 200
                return serial_of(secure)

        clients = [gevent.spawn(client) for _ in range(100)]
        gevent.joinall(clients, timeout=WAIT, raise_error=True)
        assert {client.value for client in clients} == {first}
        assert int((tmp_path / "ca" / "serial.txt").read_text()) == first + 1
        assert os.listdir(stored(tmp_path, "localhost").parent) == ["localhost.crt"]


def test_when_the_retrieval_fails_all_get_the_error_and_the_next_tries_again(
    tmp_path: Path, roots: Path, origin: Origin
) -> None:
    with Program(tmp_path, "--store=certs", "--max=10", "--ca=ca", f"--upstream-ca={roots}") as running:
        serial = tmp_path / "ca" / "serial.txt"
        number = serial.read_text()
        serial.write_text("rubbish")

        def client() -> str:
            with pytest.raises(ssl.SSLError) as raised, secure_tunnel(running, f"localhost:{origin.port}"):
                pass
            return str(raised.value.reason)

        clients = [gevent.spawn(client) for _ in range(20)]
        gevent.joinall(clients, timeout=WAIT, raise_error=True)
        assert {client.value for client in clients} == {"TLSV1_ALERT_INTERNAL_ERROR"}
        serial.write_text(number)
        with secure_tunnel(running, f"localhost:{origin.port}") as secure:
            assert get(secure).status == 200


def test_restart_and_eviction_serve_what_is_stored(tmp_path: Path, roots: Path, certificate: Path) -> None:
    serials: dict[str, int] = {}
    sources = []
    names = ["www.example.com", "example.com", "localhost"]
    with Origin(http_origin, certificate) as server:
        for _ in range(2):
            with Program(tmp_path, "--store=certs", "--max=2", "--ca=ca", f"--upstream-ca={roots}") as running:
                for name in (*names, "localhost", names[0]):
                    with secure_tunnel(running, f"127.0.0.1:{server.port}", name) as secure:
                        assert serials.setdefault(name, serial_of(secure)) == serial_of(secure)
                        secure.unwrap()
                sources += [re.sub(".*context=([a-z]+).*", r"\1", line) for line in running.tunnels(5)]
    assert sources == ["made", "made", "made", "memory", "disk", "disk", "disk", "disk", "memory", "disk"]
    assert len(set(serials.values())) == 3


def test_generation_off(tmp_path: Path, roots: Path, origin: Origin, origin_ca: TestCA) -> None:
    """Stored names are intercepted; for others, clients see the origin's own certificate."""
    operator = TestCA("operator")
    path = stored(tmp_path, "localhost")
    path.parent.mkdir(parents=True)
    path.write_bytes(operator.issue("localhost"))
    (tmp_path / "operator.pem").write_bytes(operator.pem)
    with Program(tmp_path, "--store=certs", "--max=2", f"--upstream-ca={roots}") as running:
        running.wait_for("no CA: .*--ca=<dir>")
        context = strict_context(tmp_path / "operator.pem")
        with secure_tunnel(running, f"localhost:{origin.port}", context=context) as secure:
            assert get(secure).status == 200
        for _ in range(2):
            with secure_tunnel(
                running, f"localhost:{origin.port}", "www.example.com", context=strict_context(roots)
            ) as secure:
                assert get(secure).status == 200
        line = running.wait_for("sni=www.example.com")
        assert "context=untouched client_tls=- origin_tls=-" in line


# What a client sees when something fails


@pytest.fixture(scope="module")
def bad_origins(tmp_path_factory: pytest.TempPathFactory, origin_ca: TestCA) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bad")
    stranger = TestCA("stranger")
    alone = TestCA("localhost")
    pems = {
        "has expired": origin_ca.issue("localhost", begins=timedelta(days=-9), ends=timedelta(days=-1)),
        "not yet valid": origin_ca.issue("localhost", begins=timedelta(days=1)),
        "certificate is not valid for 'localhost'": origin_ca.issue("other.example"),
        "unable to get local issuer": stranger.issue("localhost"),
        "self-signed certificate": alone.issue("localhost") + alone.pem,
    }
    paths = {}
    for number, (reason, pem) in enumerate(pems.items()):
        paths[reason] = folder / f"{number}.pem"
        paths[reason].write_bytes(pem)
    return paths


@pytest.mark.parametrize("number", range(5))
def test_an_origin_that_does_not_verify(
    program: Program, bad_origins: dict[str, Path], roots: Path, number: int
) -> None:
    reason, path = list(bad_origins.items())[number]
    secret = Event()

    def leak(sock: socket.socket) -> None:
        if sock.recv(1):
            secret.set()
        http_origin(sock)

    with Origin(leak, path) as server:
        with socket.create_connection(("127.0.0.1", server.port)) as sock, pytest.raises(ssl.SSLCertVerificationError):
            strict_context(roots).wrap_socket(sock, server_hostname="localhost")
        with secure_tunnel(program, f"localhost:{server.port}", alpn=["h2", "http/1.1"]) as secure:
            assert secure.selected_alpn_protocol() == "http/1.1"
            reply = get(secure, "/secret")
            assert closed(secure) == b""
        assert (reply.status, reply.reason) == (502, "Origin certificate not trusted")
        assert reply.headers["proxy-status"].startswith("certifier; error=tls_certificate_error; details=")
        assert reply.headers["connection"] == "close"
        assert "localhost" in reply.body.decode()
        assert reason in reply.body.decode()
        with secure_tunnel(program, f"localhost:{server.port}") as secure:
            assert get(secure, method="HEAD").status == 502
            assert closed(secure) == b""
        before = len(program.lines)
        with pytest.raises(ssl.SSLError, match="no application protocol"):
            with secure_tunnel(program, f"localhost:{server.port}", alpn=["h2"]):
                pass
        assert reason in program.wait_for("client_tls=- .* outcome=tls_certificate_error", before)
        assert not secret.is_set()


def test_an_origin_that_does_not_speak_tls(program: Program) -> None:
    def garbage(sock: socket.socket) -> None:
        sock.recv(1)
        sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with Origin(garbage) as server, secure_tunnel(program, f"localhost:{server.port}") as secure:
        reply = get(secure)
    assert (reply.status, reply.reason) == (502, "Origin TLS handshake failed")
    assert "error=tls_protocol_error" in reply.headers["proxy-status"]


def test_an_origin_that_closes_in_the_handshake(program: Program) -> None:
    def leave(sock: socket.socket) -> None:
        sock.recv(65_536)

    with Origin(leave) as server, secure_tunnel(program, f"localhost:{server.port}") as secure:
        reply = get(secure)
    assert reply.status == 502
    assert b"closed the connection in the TLS handshake" in reply.body


@pytest.mark.parametrize(
    ("request_line", "status", "error"),
    [
        ("CONNECT 127.0.0.1:{port} HTTP/1.1", 502, "connection_refused"),
        ("CONNECT no-such-host.invalid:443 HTTP/1.1", 502, "dns_error"),
        ("GET http://127.0.0.1:{port}/ HTTP/1.1", 502, "connection_refused"),
        ("GET http://no-such-host.invalid/ HTTP/1.1", 502, "dns_error"),
        ("CONNECT {own} HTTP/1.1", 508, "proxy_loop_detected"),
        ("CONNECT localhost:{own_port} HTTP/1.1", 508, "proxy_loop_detected"),
        ("CONNECT 127.0.0.1 HTTP/1.1", 400, "http_request_error"),
        ("CONNECT a..b:443 HTTP/1.1", 400, "http_request_error"),
        ("CONNECT 127.1:443 HTTP/1.1", 400, "http_request_error"),
        ("CONNECT http://a/ HTTP/1.1", 400, "http_request_error"),
        ("GET https://localhost/ HTTP/1.1", 400, "http_request_error"),
        ("GET / HTTP/2.0", 400, "http_request_error"),
    ],
)
def test_replies_outside_tls(program: Program, request_line: str, status: int, error: str) -> None:
    own = f"127.0.0.1:{program.address[1]}"
    with reserved_port() as port:
        line = request_line.format(port=port, own=own, own_port=program.address[1])
        reply = exchange(program.address, f"{line}\r\nHost: x\r\n\r\n".encode())
    assert reply.status == status
    assert f"certifier; error={error}" in reply.headers["proxy-status"]
    assert reply.headers["connection"] == "close"
    assert reply.body.startswith(b"certifier: ")
    assert len(reply.reason) > 8


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", 400),
        (b"POST http://a/ HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"GET http://a/ HTTP/1.1\nHost: a\n\n", 400),
        (b"GET http://a/ HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 33_000 + b"\r\n\r\n", 431),
        (b"GET http://a/ HTTP/1.1\r\nX: " + b"x" * 3_000_000, 431),
    ],
)
def test_malformed_heads(program: Program, head: bytes, status: int) -> None:
    assert exchange(program.address, head).status == status


def test_a_head_that_is_not_completed(tmp_path: Path) -> None:
    with Program(tmp_path, "--store=certs", "--max=9", "--head-timeout=1") as running:
        with socket.create_connection(running.address, timeout=WAIT) as sock:
            sock.sendall(b"GET / HT")
            assert read_reply(sock).status == 408
        with socket.create_connection(running.address, timeout=WAIT) as sock:
            assert closed(sock) == b""


# The hello


@pytest.mark.parametrize("size", [1, 17])
def test_a_hello_in_small_segments(program: Program, origin: Origin, size: int) -> None:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = strict_context(program.ca).wrap_bio(incoming, outgoing, server_hostname="localhost")
    with tunnel(program.address, f"localhost:{origin.port}") as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while True:
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                data = outgoing.read()
                for start in range(0, len(data), size):
                    sock.sendall(data[start : start + size])
                incoming.write(sock.recv(65_536))
            else:
                break
        assert tls.version() == "TLSv1.3"


def test_a_hello_sent_before_the_200(program: Program, origin: Origin) -> None:
    hello = real_hello("localhost")
    with socket.create_connection(program.address, timeout=WAIT) as sock:
        sock.sendall(f"CONNECT localhost:{origin.port} HTTP/1.1\r\nHost: x\r\n\r\n".encode() + hello)
        assert read_reply(sock).status == 200
        assert sock.recv(6)[0::5] == b"\x16\x02"  # a ServerHello


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_connect_that_says_that_it_has_no_body(program: Program, origin: Origin, version: str) -> None:
    """As Windows' own clients (1.0) and Mojolicious (1.1) send it."""
    with socket.create_connection(program.address, timeout=WAIT) as sock:
        target = f"localhost:{origin.port}"
        sock.sendall(f"CONNECT {target} HTTP/{version}\r\nHost: {target}\r\nContent-Length: 0\r\n\r\n".encode())
        assert read_reply(sock).status == 200
        with strict_context(program.ca).wrap_socket(sock, server_hostname="localhost") as secure:
            assert get(secure).status == 200


def test_a_hello_of_post_quantum_size(program: Program, origin: Origin) -> None:
    with tunnel(program.address, f"localhost:{origin.port}") as sock:
        sock.sendall(records(message(server_name(b"localhost"), padding=12_000), 1000))
        assert sock.recv(1) == b"\x15"  # an alert from OpenSSL itself (no supported group): the whole hello was read


def test_a_broken_hello_gets_an_alert(program: Program, origin: Origin) -> None:
    with tunnel(program.address, f"localhost:{origin.port}") as sock:
        sock.sendall(b"\x16\3\1\0\5\2\0\0\1x")
        assert closed(sock) == b"\x15\3\3\0\2\2\x32"  # decode_error


def test_half_a_hello_gets_an_alert_and_goes_nowhere(program: Program) -> None:
    """It is not relayed as non-TLS: a redirect that expects plaintext could not make sense of it."""
    seen = len(program.lines)
    with Origin(echo) as server, tunnel(program.address, f"localhost:{server.port}") as sock:
        sock.sendall(b"\x16\3\1\2\0\1")
        sock.shutdown(socket.SHUT_WR)
        assert closed(sock) == b"\x15\3\3\0\2\2\x32"  # decode_error, not the echo
    assert " sent=0 " in program.wait_for("outcome=http_request_error", seen)


def test_a_client_that_speaks_no_tls(program: Program) -> None:
    seen = len(program.lines)
    with Origin(echo) as server, tunnel(program.address, f"localhost:{server.port}") as sock:
        sock.sendall(b"EHLO x\r\n")
        assert sock.recv(100) == b"EHLO x\r\n"
        sock.shutdown(socket.SHUT_WR)
        assert closed(sock) == b"bye"
    assert "outcome=closed" in program.wait_for("context=untouched .*sent=8 received=11", seen)


def banner(sock: socket.socket) -> None:
    sock.sendall(b"220 hello\r\n")
    echo(sock)


def test_an_origin_that_speaks_first(program: Program) -> None:
    with Origin(banner) as server, tunnel(program.address, f"localhost:{server.port}") as sock:
        assert sock.recv(100) == b"220 hello\r\n"
        sock.sendall(b"QUIT\r\n")
        assert sock.recv(100) == b"QUIT\r\n"


def test_an_origin_that_speaks_first_in_tls(program: Program, certificate: Path) -> None:
    """It can't until the handshake is complete, so its last message must not wait for data of the client's."""
    with Origin(banner, certificate) as server, secure_tunnel(program, f"localhost:{server.port}") as secure:
        assert secure.recv(100) == b"220 hello\r\n"


def test_neither_side_speaks(tmp_path: Path, echo_origin: Origin) -> None:
    with Program(tmp_path, "--store=certs", "--max=9", "--hello-timeout=1") as running:
        with tunnel(running.address, f"localhost:{echo_origin.port}") as sock:
            sock.sendall(b"\x16\3\1")
            assert closed(sock) == b""
        running.wait_for("outcome=hello-timeout")


@pytest.mark.parametrize("speaks", [True, False])
def test_an_origin_that_closes_before_anybody_has_spoken(program: Program, speaks: bool) -> None:
    """A client that soon speaks TLS is told inside TLS; for any other, the end is passed on."""
    left = Event()

    def leave(sock: socket.socket) -> None:
        sock.close()
        left.set()

    seen = len(program.lines)
    with Origin(leave) as server, tunnel(program.address, f"localhost:{server.port}") as sock:
        assert left.wait(WAIT)
        if speaks:
            with strict_context(program.ca).wrap_socket(sock, server_hostname="localhost") as secure:
                assert get(secure).reason == "Origin TLS handshake failed"
        else:
            assert closed(sock) == b""
            sock.shutdown(socket.SHUT_WR)
            assert "outcome=closed" in program.wait_for(f"target=localhost:{server.port} .*context=untouched", seen)


def test_an_origin_that_has_closed_hurries_no_client_amid_its_hello(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only one that has said nothing yet: it may not speak TLS, and wait for that very end."""
    monkeypatch.setattr(greeting, "CLOSED_SECONDS", 0.0)
    whole = records(message(server_name(b"a.example")))
    end, ours = socket.socketpair()
    origin, theirs = socket.socketpair()
    theirs.close()
    with end, ours, origin, gevent.Timeout(WAIT):
        assert greeting.read_hello(ours, origin, b"", Limits()) == (None, b"")
        ours.settimeout(None)
        reading = gevent.spawn(greeting.read_hello, ours, origin, whole[:20], Limits())
        until(lambda: ours.gettimeout() is not None or reading.ready())  # only the client is waited for now
        end.sendall(whole[20:])
        hello, data = reading.get()
    assert hello is not None
    assert (hello.server_name, data) == ("a.example", whole)


@pytest.mark.parametrize("option", ["--non-tls=relay", "--bypass=*"])
def test_an_origin_that_resets_before_anybody_has_spoken(tmp_path: Path, option: str) -> None:
    """Looking whether it has ended takes the reset from the socket."""

    dialled = Event()  # a reset before that would be one of the dial

    def leave(sock: socket.socket) -> None:
        dialled.wait(WAIT)
        sockets.reset(sock)
        sock.close()

    with (
        Origin(leave) as server,
        Program(tmp_path, "--store=certs", "--max=9", option, "--deny=other.example") as running,
        tunnel(running.address, f"localhost:{server.port}") as sock,
    ):
        dialled.set()
        assert "outcome=origin-reset" in running.wait_for(" tunnel ")
        with pytest.raises(ConnectionResetError):
            sock.recv(1)


# TLS directly on the listener


@pytest.mark.parametrize(("name", "told"), [(None, "-"), ("_.example.com", "_.example.com")])
def test_direct_tls_without_a_name(program: Program, name: str | None, told: str) -> None:
    seen = len(program.lines)
    with socket.create_connection(program.address, timeout=WAIT) as sock:
        sock.sendall(real_hello(name))
        assert closed(sock) == b"\x15\3\3\0\2\2\x70"  # unrecognized_name
    line = program.wait_for("without a usable server_name", seen)
    assert (f" sni={told} " in line, "must say http://, not https://" in line) == (True, name is None)


def test_direct_tls_to_a_name_that_cannot_be_reached(program: Program) -> None:
    context = strict_context(program.ca)
    with (
        socket.create_connection(program.address, timeout=WAIT) as sock,
        context.wrap_socket(sock, server_hostname="no-such-host.invalid") as secure,
    ):
        reply = get(secure)
    assert reply.status == 502
    assert reply.reason in ("Origin name not found", "Origin name lookup failed")  # the second without a network


def test_direct_tls_to_a_name_that_cannot_be_reached_and_has_no_certificate(tmp_path: Path) -> None:
    with (
        Program(tmp_path, "--store=certs", "--max=9") as running,
        socket.create_connection(running.address, timeout=WAIT) as sock,
    ):
        sock.sendall(real_hello("no-such-host.invalid"))
        assert closed(sock) == b"\x15\3\3\0\2\2\x50"  # internal_error
        assert " outcome=dns_" in running.tunnels(1)[0]


def test_direct_tls_goes_to_the_redirect(tmp_path: Path, roots: Path, certificate: Path) -> None:
    with (
        Origin(http_origin, certificate) as server,
        Program(
            tmp_path, "--store=certs", "--max=9", "--ca=ca", f"--upstream-ca={roots}",
            f"--redirect=tls://localhost:{server.port}",
        ) as running,
        socket.create_connection(running.address, timeout=WAIT) as sock,
        strict_context(running.ca).wrap_socket(sock, server_hostname="anything.example") as secure,
    ):  # fmt: skip
        assert get(secure, "/direct").body.startswith(b"GET /direct")


# Redirects


def test_redirect(tmp_path: Path, origin: Origin) -> None:
    """Plaintext goes to the redirect, and no connection to the target; clients can speak HTTP/1.1 only.

    What is denied to clients is not denied to the operator, who chose the redirect.
    """
    options = ("--store=certs", "--max=9", "--ca=ca", "--deny-private", "--deny=127.0.0.0/8")
    with (
        Origin(http_origin) as plain,
        Program(tmp_path, *options, f"--redirect=127.0.0.1:{plain.port}") as running,
    ):
        with secure_tunnel(running, f"localhost:{origin.port}", "www.example.com", alpn=["h2", "http/1.1"]) as secure:
            assert secure.selected_alpn_protocol() == "http/1.1"
            assert get(secure, "/seen").body.startswith(b"GET /seen")
        with secure_tunnel(running, "no-such-host.invalid:443") as secure:
            assert get(secure, "/seen").status == 200
        with pytest.raises(ssl.SSLError, match="no application protocol"):
            with secure_tunnel(running, "a.example:443", alpn=["h2"]):
                pass
        with tunnel(running.address, "a.example:2525") as sock:  # not TLS: redirected as is
            assert get(sock, "/plain").body.startswith(b"GET /plain")
    assert origin.connections == 0


@contextmanager
def logging_server() -> Iterator[tuple[socket.socket, IO[str]]]:
    """The example of a redirect: a connection to it, and what it logs."""
    with talk(sys.executable, HERE / "examples" / "logging_server.py") as server:
        assert server.stdout is not None
        port = server.stdout.readline().rpartition(":")[2].strip()
        with socket.create_connection(("127.0.0.1", int(port)), timeout=WAIT) as sock:
            yield sock, server.stdout


def test_the_example_of_a_redirect_reads_what_is_streamed() -> None:
    with logging_server() as (sock, logged):
        sock.sendall(b"POST /one HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n")
        sock.sendall(b"3;a=b\r\none\r\n4\r\n two\r\n0\r\nX: 1\r\n\r\n")
        assert read_reply(sock).body == b"seen: POST test/one\n"
        assert get(sock, "/next").body == b"seen: GET test/next\n"
        lines = [logged.readline() for _ in range(4)]
    assert lines[-1] == "  body: b'one two'\n"


def test_the_example_of_a_redirect_logs_nothing_that_a_client_forged() -> None:
    with logging_server() as (sock, logged):
        sock.sendall(b"GET /\x1b[2J HTTP/1.1\r\nHost: test\r\nX: 1\r\n   Host: forged\r\n\r\n")
        assert read_reply(sock).status == 200
        lines = [logged.readline() for _ in range(4)]
    assert lines == ["GET /\\x1b[2J HTTP/1.1\n", "  Host: test\n", "  X: 1\\r\\n   Host: forged\n", "  body: b''\n"]


def test_redirect_refuses_tls_that_it_cannot_decrypt(tmp_path: Path) -> None:
    with (
        Origin(http_origin) as plain,
        Program(tmp_path, "--store=certs", "--max=9", f"--redirect=127.0.0.1:{plain.port}") as running,
        tunnel(running.address, "a.example:443") as sock,
    ):
        sock.sendall(real_hello("a.example"))
        assert closed(sock) == b"\x15\3\3\0\2\2\x31"  # access_denied


def test_redirect_verifies_its_own_name(tmp_path: Path, roots: Path, certificate: Path, origin_ca: TestCA) -> None:
    (tmp_path / "wrong.pem").write_bytes(origin_ca.issue("a.example"))
    for path, status in ((certificate, 200), (tmp_path / "wrong.pem", 502)):
        folder = tmp_path / str(status)
        folder.mkdir()
        with (
            Origin(http_origin, path) as server,
            Program(
                folder, "--store=certs", "--max=9", "--ca=ca", f"--upstream-ca={roots}",
                f"--redirect=tls://localhost:{server.port}",
            ) as running,
            secure_tunnel(running, "a.example:443") as secure,
        ):  # fmt: skip
            assert get(secure).status == status


@pytest.mark.parametrize("kind", ["", "tls://"])
def test_a_redirect_to_the_proxy_itself(tmp_path: Path, kind: str) -> None:
    """With ``tls://``, a single tunnel would redirect itself until the connection limit is reached."""
    with (
        reserved_port() as port,
        Program(
            tmp_path, "--store=certs", "--max=9", "--ca=ca", f"--redirect={kind}localhost:{port}",
            f"--listen=localhost:{port}", listen=False,
        ) as running,
    ):  # fmt: skip
        reply = exchange(running.address, b"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n")
        assert (reply.status, reply.reason) == (508, "Target is the proxy itself")
        with socket.create_connection(running.address, timeout=WAIT) as sock:
            sock.sendall(real_hello("a.example"))
            assert closed(sock) == b"\x15\3\3\0\2\2\x31"  # access_denied
    assert len(running.tunnels(2)) == 2


@pytest.mark.parametrize("then", ["no-more.example", None])
def test_a_bypass_that_ends_while_it_is_dialled(tmp_path: Path, then: str | None) -> None:
    """It still holds for that tunnel: decrypted, its plaintext would go to the origin itself. ``None``: no change."""
    rules = tmp_path / "bypass"
    with socket.socket() as slow, Origin(http_origin) as plain, ExitStack() as waiting:
        slow.bind(("127.0.0.1", 0))
        slow.listen(0)
        host = f"127.0.0.1:{slow.getsockname()[1]}"
        filled = 0
        while _takes(slow.getsockname(), waiting):
            filled += 1  # until the queue is full
        rules.write_text(host)
        with (
            Program(
                tmp_path, "--store=certs", "--max=9", "--ca=ca", f"--redirect=127.0.0.1:{plain.port}",
                f"--bypass=@{rules}",
            ) as running,
            socket.create_connection(running.address, timeout=WAIT) as client,
        ):  # fmt: skip
            client.sendall(f"CONNECT {host} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            until(lambda: host.encode() in exchange(running.address, b"GET /state HTTP/1.0\r\n\r\n").body)
            if then is not None:
                rules.write_text(then)
                running.reload()
            waiting.close()
            slow.settimeout(WAIT)
            for _ in range(filled):
                slow.accept()[0].close()
            assert client.recv(4096).startswith(b"HTTP/1.1 200 ")
            hello = real_hello("a.example")
            client.sendall(hello)
            with slow.accept()[0] as origin:
                assert origin.recv(65_536) == hello
        assert plain.connections == 0


def _takes(address: tuple[str, int], kept: ExitStack) -> bool:
    """Whether a listener's queue accepts one more connection, which is kept open."""
    sock = kept.enter_context(socket.socket())
    sock.settimeout(0.2)
    try:
        sock.connect(address)
    except TimeoutError:
        return False
    return True


# The relay


def test_half_close_and_data_after_close_notify(program: Program, certificate: Path) -> None:
    """The client's close_notify reaches the origin as such; what the origin sends after it reaches the client."""
    with Origin(echo, certificate) as server, tunnel(program.address, f"localhost:{server.port}") as sock:
        client = BioClient(sock, strict_context(program.ca), "localhost")
        client.send(b"x")
        assert client.read() == b"x"
        client.close_notify()
        assert client.read() == b"bye"
        assert client.read() == b""


def test_a_truncation_arrives_as_one(program: Program, certificate: Path) -> None:
    def truncate(sock: socket.socket) -> None:
        sock.recv(1)
        sock.sendall(b"half of")
        assert isinstance(sock, ssl.SSLSocket)
        raw = socket.socket(fileno=sock.detach())
        raw.shutdown(socket.SHUT_WR)
        raw.recv(100)
        raw.close()

    seen = len(program.lines)
    with Origin(truncate, certificate) as server, secure_tunnel(program, f"localhost:{server.port}") as secure:
        secure.sendall(b"x")
        assert secure.recv(100) == b"half of"
        with pytest.raises(ssl.SSLEOFError):
            secure.recv(100)
    program.wait_for("outcome=origin-truncated", seen)


def test_a_client_that_leaves_without_a_word_is_no_fault_of_the_origins(program: Program, origin: Origin) -> None:
    """As browsers drop connections opened in advance; the origin's OpenSSL answers that with an alert."""
    seen = len(program.lines)
    with secure_tunnel(program, f"localhost:{origin.port}"):
        pass
    # A reset if the client had not yet read the session ticket.
    assert re.search(" outcome=client-(truncated|reset)", program.wait_for(f"target=localhost:{origin.port}", seen))


def test_a_reset_of_the_origin(program: Program, certificate: Path) -> None:
    def abort(sock: socket.socket) -> None:
        sock.recv(1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        assert isinstance(sock, ssl.SSLSocket)
        socket.socket(fileno=sock.detach()).close()

    seen = len(program.lines)
    with Origin(abort, certificate) as server, secure_tunnel(program, f"localhost:{server.port}") as secure:
        secure.sendall(b"x")
        with pytest.raises(CUT_OFF):
            secure.recv(100)
    program.wait_for("outcome=origin-reset", seen)


def test_a_client_that_is_gone(program: Program, certificate: Path) -> None:
    gone = Event()

    def wait(sock: socket.socket) -> None:
        with pytest.raises(CUT_OFF):
            echo(sock)
        gone.set()

    seen = len(program.lines)
    with Origin(wait, certificate) as server:
        with secure_tunnel(program, f"localhost:{server.port}") as secure:
            secure.sendall(b"x")
            assert secure.recv(1) == b"x"
            secure.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        assert gone.wait(WAIT)
    program.wait_for("outcome=client-reset", seen)


def test_an_answer_before_the_upload_ends(program: Program, certificate: Path) -> None:
    """The reply of an origin that refuses an upload and closes arrives, though the client is still sending."""

    def refuse(sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else Nagle may delay it, and the reset discard it
        sock.recv(100)
        sock.sendall(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n")

    with Origin(refuse, certificate) as server, secure_tunnel(program, f"localhost:{server.port}") as secure:

        def upload() -> None:
            try:
                for _ in range(60):  # at most a megabyte is read after an answer: beyond it, a reset
                    secure.sendall(bytes(10_000))
            except OSError:
                pass

        upload_greenlet = gevent.spawn(upload)
        assert read_reply(secure).status == 413
        upload_greenlet.join(WAIT)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_client_with_nagles_algorithm_waits_for_no_acknowledgement(
    program: Program, certificate: Path, version: ssl.TLSVersion
) -> None:
    """After its Finished, it sends nothing until that is acknowledged, which Linux delays by 40 ms or longer.

    Compares the best of ten with the best of ten with TCP_NODELAY, so that a slow machine does not matter.
    """
    context = strict_context(program.ca)
    context.maximum_version = context.minimum_version = version

    def took(origin: Origin, at_once: bool) -> float:
        with secure_tunnel(program, f"localhost:{origin.port}", context=context) as secure:
            secure.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, at_once)
            began = time.monotonic()
            assert get(secure).status == 200
            return time.monotonic() - began

    def prompt(sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else the origin may wait, too
        http_origin(sock)

    with Origin(prompt, certificate) as origin:
        least = {at_once: min(took(origin, at_once) for _ in range(10)) for at_once in (True, False)}
    assert least[False] - least[True] < 0.03


def before_finished(program: Program, sock: socket.socket) -> tuple[ssl.SSLObject, ssl.MemoryBIO, ssl.MemoryBIO]:
    """A client in a handshake for a.example, what it has received and what it has to send: its Finished."""
    ours, theirs = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = strict_context(program.ca).wrap_bio(theirs, ours, server_hostname="a.example")
    while True:
        try:
            tls.do_handshake()
        except ssl.SSLWantReadError:
            sock.sendall(ours.read())
            theirs.write(sock.recv(65_536))
        else:
            return tls, theirs, ours


def test_what_comes_with_the_finished_message_is_not_lost(tmp_path: Path) -> None:
    """The origin closes at once; a request in the same segment as the Finished must neither be lost nor break that."""
    got: AsyncResult[bytes] = AsyncResult()

    handshaking = Event()  # closing before the hello would make it a tunnel without TLS

    def close(sock: socket.socket) -> None:
        assert handshaking.wait(WAIT)
        sock.shutdown(socket.SHUT_WR)
        got.set(sock.recv(100))

    with (
        Origin(close) as server,
        Program(tmp_path, "--store=certs", "--max=9", "--ca=ca", f"--redirect=127.0.0.1:{server.port}") as running,
        tunnel(running.address, "a.example:443") as sock,
    ):
        tls, theirs, ours = before_finished(running, sock)
        handshaking.set()
        tls.write(b"request")
        sock.sendall(ours.read())  # Finished and the request in one
        theirs.write(closed(sock))
        theirs.write_eof()
        assert tls.read(100) == b""  # close_notify: a truncation would raise
        assert got.get(timeout=WAIT) == b"request"


def test_an_origin_that_is_lost_in_the_clients_handshake(tmp_path: Path) -> None:
    """By a reset: the socket then has no peer any more."""
    handshaking, gone = Event(), Event()

    def reset(sock: socket.socket) -> None:
        assert handshaking.wait(WAIT)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        socket.socket(fileno=sock.detach()).close()
        gone.set()

    with (
        Origin(reset) as server,
        Program(
            tmp_path, "--store=certs", "--max=9", "--ca=ca", f"--redirect=127.0.0.1:{server.port}", "--log-requests"
        ) as running,
        tunnel(running.address, "a.example:443") as sock,
    ):
        _, _, ours = before_finished(running, sock)
        handshaking.set()
        assert gone.wait(WAIT)
        sock.sendall(ours.read())
        assert "outcome=origin-reset" in running.tunnels(1)[0]


# Reads TLS and discards it, in a separate process: the test's own hub must not be the bottleneck.
SINK = """
import socket, ssl, sys, threading
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1])
def drain(sock):
    with context.wrap_socket(sock, server_side=True) as secure:
        while secure.recv(65536):
            pass
with socket.create_server(("127.0.0.1", 0)) as server:
    print(server.getsockname()[1], flush=True)
    while True:
        threading.Thread(target=drain, args=(server.accept()[0],), daemon=True).start()
"""
# Sends one-octet records, prepared in advance, all at once.
SENDER = """
import socket, ssl, sys
host, port, target, ca = sys.argv[1:]
sock = socket.create_connection((host, int(port)))
sock.sendall(f"CONNECT {target} HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n".encode())
sock.recv(1000)
ours, theirs = ssl.MemoryBIO(), ssl.MemoryBIO()
tls = ssl.create_default_context(cafile=ca).wrap_bio(theirs, ours, server_hostname="localhost")
while True:
    try:
        tls.do_handshake()
        break
    except ssl.SSLWantReadError:
        sock.sendall(ours.read())
        theirs.write(sock.recv(65536))
sock.sendall(ours.read())
for _ in range(300_000):
    tls.write(b"x")
data = ours.read()
print("ready", flush=True)
sys.stdin.read(1)
sock.sendall(data)
"""


def test_tiny_records_hold_nobody_else_up(program: Program, certificate: Path, origin: Origin) -> None:
    """Two clients send nothing else; each such record costs as much as a full one."""
    with ExitStack() as stack:

        def start(script: str, *arguments: object) -> "subprocess.Popen[bytes]":
            words = [sys.executable, "-c", script, *map(str, arguments)]
            process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            stack.callback(process.communicate)
            stack.callback(process.kill)
            return process

        sink = start(SINK, certificate)
        assert sink.stdout
        target = f"localhost:{int(sink.stdout.readline())}"
        senders = [start(SENDER, *program.address, target, program.ca) for _ in range(2)]
        for sender in senders:
            assert sender.stdout
            assert sender.stdout.readline() == b"ready\n"
        for sender in senders:
            assert sender.stdin
            sender.stdin.write(b"x")
            sender.stdin.flush()
        took = []
        with secure_tunnel(program, f"localhost:{origin.port}") as secure:
            for _ in range(30):
                began = time.monotonic()
                assert get(secure).status == 200
                took.append(time.monotonic() - began)
    assert sorted(took)[27] < 0.5


# The end


@pytest.mark.parametrize("words", [(), ("--workers=2",)])
def test_whoever_is_connected_at_the_end_is_served(tmp_path: Path, words: tuple[str, ...]) -> None:
    """Even if only the kernel knows of them as yet. Whoever comes later is refused."""
    with (
        Program(tmp_path, "--store=certs", "--max=9", *words, prefix=("setsid",)) as running,
        ExitStack() as stack,
    ):
        os.killpg(running.process.pid, signal.SIGSTOP)
        socks = [stack.enter_context(socket.create_connection(running.address, WAIT)) for _ in range(30)]
        os.killpg(running.process.pid, signal.SIGTERM)
        os.killpg(running.process.pid, signal.SIGCONT)
        running.wait_for("stopping: ")
        for sock in socks:
            sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert [sock.recv(12) for sock in socks] == [b"HTTP/1.1 200"] * 30
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(running.address, WAIT)
        assert running.process.wait(WAIT) == 0


@pytest.mark.parametrize("words", [(), ("--workers=2",)])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_interrupt_cuts_tunnels_off(
    tmp_path: Path, roots: Path, echo_origin: Origin, number: signal.Signals, words: tuple[str, ...]
) -> None:
    """Sent to the process group, as by a terminal; a second SIGTERM, which systemd sends to the group, does not."""
    options = ("--store=certs", "--max=9", "--ca=ca", f"--upstream-ca={roots}", *words)
    with (
        Program(tmp_path, *options, prefix=("setsid",)) as running,
        secure_tunnel(running, f"localhost:{echo_origin.port}") as secure,
    ):
        secure.sendall(b"one")
        assert secure.recv(3) == b"one"
        os.killpg(running.process.pid, number)
        running.wait_for("stopping: 1 connection")
        secure.sendall(b"two")
        assert secure.recv(3) == b"two"
        os.killpg(running.process.pid, number)
        if number is signal.SIGINT:
            with suppress(OSError):
                assert secure.recv(3) == b""
        else:
            secure.sendall(b"six")
            assert secure.recv(3) == b"six"
        secure.close()
        assert running.process.wait(WAIT) == 0


@pytest.mark.parametrize("words", [(), ("--workers=2",)])
def test_a_second_interrupt_of_one_process_cuts_tunnels_off(
    tmp_path: Path, roots: Path, echo_origin: Origin, words: tuple[str, ...]
) -> None:
    """As sent by kill, or in a container without a terminal."""
    options = ("--store=certs", "--max=9", "--ca=ca", f"--upstream-ca={roots}", *words)
    with (
        Program(tmp_path, *options) as running,
        secure_tunnel(running, f"localhost:{echo_origin.port}") as secure,
    ):
        running.process.send_signal(signal.SIGINT)
        running.wait_for("stopping: 1 connection")
        secure.sendall(b"two")
        assert secure.recv(3) == b"two"
        began = time.monotonic()
        secure.settimeout(0.2)
        while True:  # one after another: signals pending at the same time merge into one
            running.process.send_signal(signal.SIGINT)
            try:
                assert secure.recv(3) == b""
                break
            except TimeoutError:
                continue
            except OSError:
                break
        assert running.process.wait(WAIT) == 0
        assert time.monotonic() - began < 5  # of the ten seconds that tunnels have to finish


def test_a_tunnel_without_tls_does_not_look_complete_when_it_is_cut_off(tmp_path: Path) -> None:
    """A body delimited by the end of the connection would."""
    heard: AsyncResult[bytes] = AsyncResult()

    def begin(sock: socket.socket) -> None:
        assert sock.recv(5) == b"hello"
        sock.sendall(b"hello")
        try:
            heard.set(sock.recv(1))
        except OSError as error:
            heard.set_exception(error)

    with (
        Origin(begin) as server,
        Program(tmp_path, "--store=certs", "--max=9") as running,
        tunnel(running.address, f"localhost:{server.port}") as sock,
    ):
        sock.sendall(b"hello")
        assert sock.recv(100) == b"hello"
        with pytest.raises(ConnectionResetError):
            cut_off(running, sock)
        with pytest.raises(ConnectionResetError):
            heard.get(timeout=WAIT)


def test_sigterm_lets_tunnels_finish(tmp_path: Path, roots: Path, echo_origin: Origin) -> None:
    with Program(tmp_path, "--store=certs", "--max=9", "--ca=ca", f"--upstream-ca={roots}") as running:
        with secure_tunnel(running, f"localhost:{echo_origin.port}") as secure:
            secure.sendall(b"one")
            assert secure.recv(3) == b"one"
            running.process.terminate()
            running.wait_for("stopping: 1 connection")
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(running.address, timeout=WAIT)
            secure.sendall(b"two")
            assert secure.recv(3) == b"two"
        assert running.stop() == 0
    assert any("outcome=client-truncated" in line for line in running.lines)


def test_sigint_ends_it_at_once_when_nothing_is_open(tmp_path: Path) -> None:
    with Program(tmp_path, "--store=certs", "--max=9") as running:
        assert running.stop(signal.SIGINT) == 0


def test_an_operators_rsa_of_4096_bits(tmp_path: Path, roots: Path, certificate: Path) -> None:
    """An operator's RSA-4096 leaves and CA work; ``test_contexts.py`` measures how long the hub stalls."""
    authority = TestCA("big", key=new_key(4096))
    leaf_key = new_key(4096)
    names = [f"host{n}.example" for n in range(10)]
    for name in names[:5]:
        path = stored(tmp_path, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(authority.issue(name, key=leaf_key))
    (tmp_path / "ca.crt").write_bytes(authority.pem)
    (tmp_path / "ca.key").write_bytes(key_pem(authority.key))
    (tmp_path / "serial").write_text("1\n")
    with (
        Origin(http_origin, certificate) as server,
        Program(
            tmp_path, "--store=certs", "--max=99", f"--upstream-ca={roots}",
            "--sign-cert=ca.crt", "--sign-key=ca.key", "--sign-serial=serial",
        ) as running,
    ):  # fmt: skip
        context = strict_context(tmp_path / "ca.crt")
        for name in names:
            with secure_tunnel(running, f"127.0.0.1:{server.port}", name, context=context) as secure:
                assert get(secure).status == 502  # this origin has none of these names
                assert serial_of(secure)
    assert sum("context=disk" in line for line in running.lines) == 5
    assert sum("context=made" in line for line in running.lines) == 5


def test_sigterm_waits_for_no_further_request(tmp_path: Path) -> None:
    """On connections that browsers keep open or open in advance; requests under way or sent at once are answered."""
    asked, told = Event(), Event()

    def slow(sock: socket.socket) -> None:
        if b"/slow" in sock.recv(65_536):
            asked.set()
            assert told.wait(WAIT)
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    with Origin(slow) as server, Program(tmp_path, "--store=certs", "--max=9", "--ca=ca") as running:
        with (
            socket.create_connection(running.address, timeout=WAIT) as silent,
            socket.create_connection(running.address, timeout=WAIT) as late,
            socket.create_connection(running.address, timeout=WAIT) as idle,
            socket.create_connection(running.address, timeout=WAIT) as busy,
        ):
            assert get(idle, f"http://localhost:{server.port}/").body == b"ok"
            busy.sendall(f"GET http://localhost:{server.port}/slow HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            assert asked.wait(WAIT)
            # Pipelined, in a segment of its own; left unread, it would cause a reset, and the reply be lost.
            busy.sendall(f"GET http://localhost:{server.port}/next HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            running.process.terminate()
            began = time.monotonic()
            assert idle.recv(1) == b""
            assert get(late, f"http://localhost:{server.port}/").body == b"ok"
            told.set()
            assert [read_reply(busy).body for _ in range(2)] == [b"ok", b"ok"]
            assert busy.recv(1) == silent.recv(1) == b""
            assert running.process.wait(WAIT) == 0
            assert time.monotonic() - began < 5  # of the ten seconds that tunnels have to finish


LOOKING = """
import gc, signal, sys

def look(*_):
    gc.set_debug(gc.DEBUG_SAVEALL)
    gc.collect()
    print("garbage:", *sorted({type(found).__name__ for found in gc.garbage}), file=sys.stderr, flush=True)

signal.signal(signal.SIGUSR2, look)
"""


@pytest.mark.parametrize(("name", "status"), [("wrong.example", 502), ("localhost", 421)])
def test_what_fails_leaves_nothing_for_the_collector(
    tmp_path: Path, roots: Path, origin: Origin, monkeypatch: pytest.MonkeyPatch, name: str, status: int
) -> None:
    """The collector runs rarely, and TLS on both sides would hold a tenth of a megabyte until then."""
    (tmp_path / "sitecustomize.py").write_text(LOOKING)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    options = ("--store=certs", "--max=9", "--ca=ca", f"--upstream-ca={roots}")
    mismatch = "deny" if status == 421 else "allow"
    with Program(tmp_path, *options, f"--mismatch={mismatch}") as running:
        with secure_tunnel(running, f"localhost:{origin.port}", server_name=name) as secure:
            assert get(secure, host="other.example").status == status
        running.tunnels(1)
        assert exchange(running.address, b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n").status == 200  # it has ended
        running.process.send_signal(signal.SIGUSR2)
        assert "TlsStream" not in running.wait_for("garbage:").split()
