"""The PROXY protocol header: by its bytes, and read back by HAProxy."""

import re
import socket
import ssl
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import rawtls
from gevent.event import AsyncResult, Event
from lab import WAIT, Origin, Program, echo, get, reserved_port, run, secure_tunnel, tunnel
from test_hello import message, records, server_name
from test_rules import BASE

import sockets
from preamble import preamble

SIGNATURE = bytes.fromhex("0d0a0d0a000d0a515549540a")


def test_the_bytes() -> None:
    found = preamble(("192.0.2.1", 4711), ("10.0.0.1", 8080), "a.example", "TLSv1.3", "h2")
    assert found == (
        SIGNATURE
        + bytes.fromhex("21 11 002f c0000201 0a000001 1267 1f90")
        + b"\x01\x00\x02h2"
        + b"\x02\x00\x09a.example"
        + b"\x20\x00\x0f\x01\x00\x00\x00\x01\x21\x00\x07TLSv1.3"
    )
    found = preamble(("2001:db8::1", 1), ("fe80::1%eth0", 2), None)
    address = bytes.fromhex("20010db8000000000000000000000001 fe800000000000000000000000000001 0001 0002")
    assert found == SIGNATURE + b"\x21\x21" + struct.pack(">H", 36) + address


HAPROXY = """
defaults
  mode http
  timeout client 10s
  timeout server 10s
  timeout connect 10s
frontend in
  bind 127.0.0.1:{port} accept-proxy
  http-request return status 200 content-type text/plain lf-string "{ends} %[fc_pp_authority]\\n"
"""


@pytest.fixture
def haproxy(tmp_path: Path) -> Iterator[int]:
    """HAProxy as a real reader of the protocol, which refuses connections without it."""
    with reserved_port() as port:
        (tmp_path / "haproxy.cfg").write_text(HAPROXY.format(port=port, ends="%[src] %[src_port] %[dst] %[dst_port]"))
        with subprocess.Popen(["haproxy", "-db", "-f", str(tmp_path / "haproxy.cfg")]) as process:
            try:
                deadline = time.monotonic() + WAIT
                while True:
                    try:
                        socket.create_connection(("127.0.0.1", port)).close()
                        break
                    except ConnectionRefusedError:
                        assert process.poll() is None
                        assert time.monotonic() < deadline
                yield port
            finally:
                process.kill()


def test_haproxy_reads_it(tmp_path: Path, haproxy: int) -> None:
    with Program(tmp_path, *BASE, f"--redirect=127.0.0.1:{haproxy}", "--proxy-protocol") as running:
        with secure_tunnel(running, "www.example.com:443") as secure:
            ours = secure.getsockname()
            body = get(secure).body.decode()
        assert body == f"127.0.0.1 {ours[1]} 127.0.0.1 {running.address[1]} www.example.com\n"
        with tunnel(running.address, "www.example.com:8080") as sock:  # not TLS: the same, without a name
            ours = sock.getsockname()
            assert get(sock).body.decode().split()[:2] == ["127.0.0.1", str(ours[1])]
    with Program(tmp_path, *BASE, f"--redirect=127.0.0.1:{haproxy}") as running:
        with secure_tunnel(running, "www.example.com:443") as secure, pytest.raises((EOFError, OSError)):
            get(secure)


def test_a_tls_redirect_gets_it_in_front_of_the_handshake(tmp_path: Path, roots: Path, certificate: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    def serve(sock: socket.socket) -> None:
        head = sock.recv(16)
        body = sock.recv(struct.unpack(">H", head[14:])[0])
        with context.wrap_socket(sock, server_side=True) as secure:
            secure.recv(1000)
            secure.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    with Origin(serve) as server:
        redirect = f"--redirect=tls://localhost:{server.port}"
        with Program(tmp_path, *BASE, redirect, "--proxy-protocol", f"--upstream-ca={roots}") as running:
            with secure_tunnel(running, "www.example.com:443") as secure:
                assert get(secure).body.endswith(b"\x02\x00\x0fwww.example.com")


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("WWW.Example.com.", b"\x02\x00\x0fwww.example.com"), ("10.0.0.1", b""), ("_.example.com", b""),
        ("www.example.com..", b""),
    ],
)  # fmt: skip
def test_a_server_name_is_told_as_it_was_judged_or_not_at_all(tmp_path: Path, said: str, told: bytes) -> None:
    """With one that is no name, the CONNECT host is judged: a redirect must not go by the other."""
    heard: AsyncResult[bytes] = AsyncResult()

    def serve(sock: socket.socket) -> None:
        head = sock.recv(16)
        heard.set(sock.recv(struct.unpack(">H", head[14:])[0]))

    with Origin(serve) as server:
        redirect = f"--redirect=tls://localhost:{server.port}"
        with (
            Program(tmp_path, *BASE, redirect, "--proxy-protocol") as running,
            tunnel(running.address, "www.example.com:443") as sock,
        ):
            sock.sendall(rawtls.client_hello((rawtls.ECDHE_ECDSA,), rawtls.usual(said)))
            header = heard.get(timeout=WAIT)
            assert header is not None
            assert header[12:] == told  # behind both addresses and ports


@pytest.mark.parametrize(
    ("host", "said"),
    [("localhost", b"hello"), ("127.0.0.1", records(message(server_name(b"localhost"))))],
    ids=["by its target", "by its server name, with the redirect dialled"],
)
def test_a_bypassed_tunnels_own_target_gets_none(tmp_path: Path, host: str, said: bytes) -> None:
    with (
        Origin(lambda sock: None) as redirect,
        Origin(echo) as server,
        Program(
            tmp_path, *BASE, f"--redirect=127.0.0.1:{redirect.port}", "--proxy-protocol", "--bypass=localhost"
        ) as running,
        tunnel(running.address, f"{host}:{server.port}") as sock,
    ):
        sock.sendall(said)
        assert rawtls.read(sock, len(said)) == said


def test_a_redirect_that_is_gone_before_it_gets_one(tmp_path: Path) -> None:
    """The client does not speak TLS, so it is told by the close alone, and the operator by the log."""
    established, left = Event(), Event()

    def leave(sock: socket.socket) -> None:
        established.wait(WAIT)
        sockets.reset(sock)
        sock.close()
        left.set()

    with (
        Origin(leave) as server,
        Program(tmp_path, *BASE, f"--redirect=127.0.0.1:{server.port}", "--proxy-protocol") as running,
        tunnel(running.address, "www.example.com:443") as sock,
    ):
        established.set()
        assert left.wait(WAIT)
        sock.sendall(b"hello")
        assert sock.recv(1) == b""
        assert re.search(r" outcome=connection_terminated detail=.* closed the connection", running.tunnels(1)[0])


def test_it_is_for_redirects(tmp_path: Path) -> None:
    result = run(*Program.command(), *BASE, "--proxy-protocol", cwd=tmp_path)
    assert result.returncode == 2
    assert "--proxy-protocol needs --redirect" in result.stderr
