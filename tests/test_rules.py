"""Who may do what, where to, and how much: the options of the policy, seen from outside."""

import base64
import io
import os
import re
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, nullcontext, suppress
from pathlib import Path
from urllib.parse import urlsplit

import bcrypt
import gevent
import pytest
from gevent.event import Event
from lab import (
    CUT_OFF,
    WAIT,
    BioClient,
    Origin,
    Program,
    Reply,
    echo,
    exchange,
    get,
    http_origin,
    read_reply,
    reserved_port,
    run,
    secure_tunnel,
    strict_context,
    tunnel,
    until,
)
from pki import TestCA
from test_clients import h2_origin
from test_hello import OLD_HELLOS, message, real_hello, records, server_name
from test_http2 import Pair
from test_metrics import scrape, value
from tlslite.api import TLSConnection
from tlslite.constants import AlertDescription, AlertLevel
from tlslite.messages import Alert
from watching import CLIENT

import tls
from errors import TooManyConnections
from store import Store

BASE = ("--store=certs", "--max=100", "--ca=ca")


@contextmanager
def running(folder: Path, roots: Path, *options: str) -> Iterator[Program]:
    with Program(folder, *BASE, f"--upstream-ca={roots}", *options) as program:
        yield program


def connect(program: Program, target: str, *fields: str) -> Reply:
    head = "".join(f"{field}\r\n" for field in fields)
    return exchange(program.address, f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{head}\r\n".encode())


def drain(sock: socket.socket) -> None:
    """Read until the client leaves."""
    while sock.recv(65_536):
        pass


def untouched(program: Program, target: str, name: str, origin_ca: TestCA, folder: Path) -> bool:
    """Whether the client sees the origin's own certificate."""
    (folder / "origins.pem").write_bytes(origin_ca.pem)
    with tunnel(program.address, target) as sock:
        try:
            with strict_context(folder / "origins.pem").wrap_socket(sock, server_hostname=name) as secure:
                assert get(secure).status == 200
                return True
        except ssl.SSLCertVerificationError:
            return False


# Who


def test_a_listener_for_strangers_must_be_said_to_be_one(tmp_path: Path) -> None:
    refused = subprocess.run(
        [*Program.command(), *BASE, "--listen=0.0.0.0:0"], cwd=tmp_path, capture_output=True, text=True, timeout=WAIT
    )
    assert refused.returncode == 2
    assert refused.stderr.startswith("certifier: --listen=0.0.0.0:0: whoever reaches that address could use the proxy;")


@pytest.mark.parametrize("guard", ["--open", "--allow-from=127.0.0.0/8", "--auth=users"])
def test_a_listener_for_strangers_that_is_said_to_be_one(tmp_path: Path, guard: str) -> None:
    (tmp_path / "users").write_bytes(b"alice:" + bcrypt.hashpw(b"secret", bcrypt.gensalt(4)) + b"\n")
    with Program(tmp_path, *BASE, "--listen=0.0.0.0:0", guard, listen=False) as program:
        assert " http://127.0.0.1:" in program.wait_for("try: ")
        assert run("curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", f"{program.url}/").stdout == "200"


def test_clients_of_other_networks_are_refused(tmp_path: Path, roots: Path, origin: Origin) -> None:
    with running(tmp_path, roots, "--allow-from=127.0.0.2/32", "--allow-from=10.0.0.0/8") as program:
        reply = connect(program, f"localhost:{origin.port}")
        assert (reply.status, reply.reason) == (403, "Refused by policy")
        assert exchange(program.address, b"GET http://127.0.0.9:80/ HTTP/1.1\r\nHost: a\r\n\r\n").status == 403
        assert exchange(program.address, b"GET /ca.crt HTTP/1.1\r\nHost: a\r\n\r\n").status == 200  # open to all
        url = f"https://localhost:{origin.port}/"
        words = ["curl", "-sS", "-x", program.url, "--cacert", str(program.ca)]
        assert run(*words, "--interface", "127.0.0.2", url).stdout.startswith("GET / ")
        direct = run("openssl", "s_client", "-connect", program.url[7:], "-servername", "a.example", input="")
        assert "alert access denied" in direct.stderr


def test_users(tmp_path: Path, roots: Path, origin: Origin) -> None:
    users = tmp_path / "users"
    users.write_bytes(b"alice:" + bcrypt.hashpw(b"s:cret", bcrypt.gensalt(4)) + b"\n")
    with running(tmp_path, roots, f"--auth={users}") as program:
        target = f"localhost:{origin.port}"
        for fields in ([], ["Proxy-Authorization: Bearer x"], ["Proxy-Authorization: Basic " + b64("alice:wrong")]):
            reply = connect(program, target, *fields)
            assert (reply.status, reply.reason) == (407, "Proxy authentication required")
            assert reply.headers["proxy-authenticate"] == 'Basic realm="certifier", charset="UTF-8"'
        words = ["curl", "-sS", "-x", program.url, "--cacert", str(program.ca), f"https://{target}/"]
        refused = run(*words)
        assert refused.returncode in (7, 56)  # depending on curl's version
        assert "407" in refused.stderr
        assert run(*words, "-U", "alice:s:cret").stdout.startswith("GET / ")
        assert run(*words, "-U", "alice:s:cret", "--proxy-anyauth").stdout.startswith("GET / ")
        program.wait_for("tunnel .* user=alice")
        plain = b"GET http://nowhere.invalid/ HTTP/1.1\r\nHost: a\r\n"
        assert exchange(program.address, plain + b"\r\n").status == 407
        good = f"Proxy-Authorization: Basic {b64('alice:s:cret')}\r\n\r\n".encode()
        assert exchange(program.address, plain + good).status == 502
        last = b"OPTIONS http://nowhere.invalid/ HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\n"
        assert exchange(program.address, last + good).status == 200
        program.wait_for("page .*method=OPTIONS .* user=alice")
        assert exchange(program.address, b"GET /ca.crt HTTP/1.1\r\nHost: a\r\n\r\n").status == 200
        direct = run("openssl", "s_client", "-connect", program.url[7:], "-servername", "localhost", input="")
        assert "alert access denied" in direct.stderr  # no password can be sent there
        users.write_bytes(b"bob:" + bcrypt.hashpw(b"x", bcrypt.gensalt(4)) + b"\n")
        program.reload()
        assert run(*words, "-U", "alice:s:cret").returncode == refused.returncode
        assert run(*words, "-U", "bob:x").stdout.startswith("GET / ")


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


# Where


def test_allow_and_deny(tmp_path: Path, roots: Path, origin: Origin) -> None:
    (tmp_path / "denied").write_text("example.com  # by name\n127.0.0.3\n")
    options = ("--allow=localhost", "--allow=127.0.0.0/8", "--allow=*.example.com", "--deny=@denied")
    with running(tmp_path, roots, *options) as program:
        with secure_tunnel(program, f"localhost:{origin.port}") as secure:
            assert get(secure).status == 200
        for host in ("[::1]", "10.0.0.1", "127.0.0.3", "example.com"):
            assert connect(program, f"{host}:{origin.port}").status == 403, host
        assert exchange(program.address, b"GET http://127.0.0.3:1/ HTTP/1.1\r\nHost: a\r\n\r\n").status == 403
        # The server name is checked as well: allowed by the dialled address, denied by name.
        with secure_tunnel(program, f"127.0.0.1:{origin.port}", "www.example.com") as secure:
            assert get(secure).status == 200
        with pytest.raises(ssl.SSLError, match="access denied"):
            with secure_tunnel(program, f"127.0.0.1:{origin.port}", "example.com"):
                pass
        (tmp_path / "denied").write_text("localhost\n")
        program.reload()
        assert connect(program, f"localhost:{origin.port}").status == 403
        (tmp_path / "denied").write_text("no host\n")
        program.process.send_signal(1)
        program.wait_for("not reloaded, what was in force stays: --deny=@denied: line 1: 'no host' is not a host")
        assert connect(program, f"localhost:{origin.port}").status == 403


def test_a_reload_holds_nobody_up(tmp_path: Path, roots: Path) -> None:
    """However long the files are, or slow their disk: here, a FIFO that nobody has written to yet."""
    users = tmp_path / "users"
    hashed = b"alice:" + bcrypt.hashpw(b"x", bcrypt.gensalt(4)) + b"\n"
    users.write_bytes(hashed)
    with running(tmp_path, roots, "--auth=users") as program, closing(fifo_to_write(users)) as file:
        program.process.send_signal(signal.SIGHUP)
        until(lambda: is_read(file))
        for _ in range(20):
            assert exchange(program.address, b"GET /ca.crt HTTP/1.1\r\nHost: a\r\n\r\n").status == 200
        file.write(hashed)
        file.close()
        program.wait_for("reloaded: ")


def fifo_to_write(path: Path) -> io.FileIO:
    """Put a FIFO in the place of a file, open for writing: whoever reads it before it has a writer finds it empty."""
    path.unlink()
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # without one, the writer's open would wait
    try:
        return io.FileIO(path, "wb")
    finally:
        os.close(reader)


def is_read(fifo: io.FileIO) -> bool:
    """Whether somebody reads a FIFO; who does is sent an empty line."""
    try:
        return fifo.write(b"\n") == 1
    except BrokenPipeError:
        return False


def test_a_list_from_a_pipe_is_refused(tmp_path: Path) -> None:
    """The second worker, and the first at SIGHUP, would find it empty, and deny nothing."""
    words = [*Program.command(), *BASE, "--workers=2", "--listen=127.0.0.1:0"]
    result = run("bash", "-c", 'exec "$@" --deny=@<(echo localhost)', "bash", *words, cwd=tmp_path)
    assert result.returncode == 2
    assert "It is a pipe, and could be read once only" in result.stderr


def test_an_allow_list_that_is_emptied_allows_nothing(tmp_path: Path, roots: Path, origin: Origin) -> None:
    """As a file that is being rewritten is for a moment: a reload then must not open the proxy to all."""
    allowed = tmp_path / "allowed"
    allowed.write_text("localhost\n")
    target = f"localhost:{origin.port}"
    with running(tmp_path, roots, "--allow=@allowed") as program:
        assert connect(program, target).status == 200
        allowed.write_text("# none\n")
        program.reload()
        program.wait_for("--allow: no pattern in its file, so every target is refused")
        plain = f"GET http://{target}/ HTTP/1.1\r\nHost: {target}\r\n\r\n".encode()
        assert (connect(program, target).status, exchange(program.address, plain).status) == (403, 403)
        allowed.write_text("localhost\n")
        program.reload()
        assert connect(program, target).status == 200


def test_lists_without_a_pattern_are_warned_about(tmp_path: Path, roots: Path) -> None:
    """The file may be the wrong one, or its download have failed. Each option counts as a whole."""
    (tmp_path / "none").write_text("# none\n\n")
    for options, told in (
        (("--allow=@none",), {"--allow: no pattern in its file, so every target is refused"}),
        (("--deny=@none", "--deny=@none"), {"--deny: no pattern in its file, so none is denied"}),
        (("--bypass=@none",), {"--bypass: no pattern in its file, so none is bypassed"}),
        (("--allow=@none", "--allow=*", "--deny=*.example", "--bypass=10.0.0.0/8"), set()),
    ):
        with running(tmp_path, roots, *options) as program:
            program.wait_for("listening on ")
            assert {line.partition(" warning: ")[2] for line in program.lines if "no pattern" in line} == told


@pytest.mark.parametrize(
    ("option", "refused", "allowed"),
    [
        ("--allow=good.invalid", "http://secret.invalid/", "http://good.invalid/"),
        ("--deny=secret.invalid", "http://secret.invalid/", "http://good.invalid/"),
        ("--ports=81", "http://good.invalid:80/", "http://good.invalid:81/"),
    ],
)
def test_what_is_refused_is_not_looked_up(tmp_path: Path, roots: Path, option: str, refused: str, allowed: str) -> None:
    """DNS queries could leak secrets. There is no such name, so whoever looks it up gets a 502."""
    with running(tmp_path, roots, option) as program:
        for url, status in ((refused, 403), (allowed, 502)):
            request = f"GET {url} HTTP/1.1\r\nHost: a\r\n\r\n"
            assert exchange(program.address, request.encode()).status == status
            where = urlsplit(url)
            assert connect(program, f"{where.hostname}:{where.port or 80}").status == status


def test_private_addresses_are_out_of_reach(tmp_path: Path, roots: Path, origin: Origin) -> None:
    with running(tmp_path, roots, "--deny-private") as program:
        for host in ("localhost", "127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "169.254.169.254", "0.0.0.0"):
            reply = connect(program, f"{host}:{origin.port}")
            assert (reply.status, "error=http_request_denied" in reply.headers["proxy-status"]) == (403, True), host
        assert exchange(program.address, b"GET http://127.0.0.1:1/ HTTP/1.1\r\nHost: a\r\n\r\n").status == 403
    assert origin.connections == 0


def test_ports(tmp_path: Path, roots: Path, origin: Origin) -> None:
    with running(tmp_path, roots) as program:
        for port in (22, 25, 1023):
            assert connect(program, f"127.0.0.1:{port}").status == 403
            assert (
                exchange(program.address, b"GET http://127.0.0.1:%d/ HTTP/1.1\r\nHost: a\r\n\r\n" % port).status == 403
            )
        for port in (80, 443):
            assert connect(program, f"nowhere.invalid:{port}").status == 502
    with running(tmp_path, roots, f"--ports={origin.port}") as program:
        assert connect(program, "127.0.0.1:443").status == 403
        with secure_tunnel(program, f"localhost:{origin.port}") as secure:
            assert get(secure).status == 200


def test_bypass(tmp_path: Path, roots: Path, origin: Origin, origin_ca: TestCA) -> None:
    with running(tmp_path, roots, "--bypass=localhost", "--bypass=example.com", "--bypass=127.0.0.5") as program:
        port = origin.port
        assert untouched(program, f"localhost:{port}", "localhost", origin_ca, tmp_path)
        assert untouched(program, f"127.0.0.1:{port}", "example.com", origin_ca, tmp_path)
        assert not untouched(program, f"127.0.0.1:{port}", "www.example.com", origin_ca, tmp_path)
        lines = program.tunnels(3)
        assert ["context=bypassed" in line for line in lines] == [True, True, False]


@pytest.mark.parametrize("option", ["--deny=www.example.com", "--allow=localhost", "--mismatch=deny"])
def test_a_server_name_that_may_not_pass_does_not_in_a_bypassed_tunnel_either(
    tmp_path: Path, roots: Path, origin: Origin, origin_ca: TestCA, option: str
) -> None:
    with Origin(echo) as plain, running(tmp_path, roots, "--bypass=localhost", option) as program:
        with (
            pytest.raises(ssl.SSLError, match="ACCESS_DENIED"),
            secure_tunnel(program, f"localhost:{origin.port}", "www.example.com"),
        ):
            raise AssertionError("it passed")
        assert untouched(program, f"localhost:{origin.port}", "localhost", origin_ca, tmp_path)
        with tunnel(program.address, f"localhost:{plain.port}") as sock:
            sock.sendall(b"no TLS")
            assert sock.recv(100) == b"no TLS"
        lines = program.tunnels(3)
        assert "sni=www.example.com" in lines[0]
        assert ["context=bypassed" in line for line in lines] == [False, True, True]


@pytest.mark.parametrize("why", ["rule", "learned", "no CA"])
@pytest.mark.parametrize(
    ("name", "judged", "passes"),
    [
        ("www.example.com:443", True, False),  # nginx takes it for www.example.com
        ("www.example.com:443", False, True),
        ("localhost.", True, True),
        ("127.0.0.1", True, False),
        (None, True, True),
    ],
)
def test_a_server_name_that_is_no_name_passes_unread_only_where_none_is_judged(
    tmp_path: Path, roots: Path, origin: Origin, why: str, name: str | None, judged: bool, passes: bool
) -> None:
    options = ["--deny=www.example.com"] * judged
    options += {"rule": ["--bypass=localhost"], "learned": ["--learn-bypass=1"], "no CA": []}[why]
    words = BASE[:2] if why == "no CA" else (*BASE, f"--upstream-ca={roots}")
    target = f"localhost:{origin.port}"
    with Program(tmp_path, *words, *options) as program:
        if why == "learned":
            with tunnel(program.address, target) as sock, pytest.raises(ssl.SSLCertVerificationError):
                strict_context(roots).wrap_socket(sock, server_hostname="localhost")
            program.wait_for("tunnelled untouched for an hour")
        with tunnel(program.address, target) as sock:
            sock.sendall(records(message(server_name(name.encode())) if name else message()))
            assert (sock.recv(100) != tls.alert(49)) == passes
        assert program.wait_for("the server name is no name of a host|context=(bypassed|untouched)")


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.2"])
def test_an_address_as_server_name_passes_unread_if_it_is_the_one_that_was_asked_for(
    tmp_path: Path, roots: Path, certificate: Path, address: str
) -> None:
    with (
        Origin(echo, certificate, host=address) as server,
        running(tmp_path, roots, f"--bypass={address}", "--deny=www.example.com") as program,
        tunnel(program.address, f"{address}:{server.port}") as sock,
    ):
        sock.sendall(records(message(server_name(b"127.0.0.1"))))
        assert (sock.recv(100) != tls.alert(49)) == (address == "127.0.0.1")


def test_another_server_name_in_a_bypassed_tunnel_is_told_of(
    tmp_path: Path, roots: Path, origin: Origin, origin_ca: TestCA
) -> None:
    options = ("--bypass=localhost", "--allow=localhost", "--allow=example.com", "--mismatch=log")
    with running(tmp_path, roots, *options) as program:
        assert untouched(program, f"localhost:{origin.port}", "example.com", origin_ca, tmp_path)
        assert "sni=example.com context=bypassed" in program.tunnels(1)[0]
        assert "server name example.com is not localhost" in program.tunnels(1)[0]


def test_a_denied_server_name_does_not_pass_by_waiting_either(tmp_path: Path, roots: Path, origin: Origin) -> None:
    options = ("--bypass=localhost", "--deny=www.example.com", "--hello-timeout=1", "--idle-timeout=3")
    with running(tmp_path, roots, *options) as program:
        target = f"localhost:{origin.port}"
        with tunnel(program.address, target) as sock, tunnel(program.address, target) as idle:
            with tunnel(program.address, f"127.0.0.1:{origin.port}") as later:
                assert later.recv(1) == b""  # a second has passed
            with pytest.raises(ssl.SSLError, match="ACCESS_DENIED"):
                strict_context(roots).wrap_socket(sock, server_hostname="www.example.com")
            assert idle.recv(1) == b""
        assert "no complete ClientHello within 3 s" in program.tunnels(3)[2]


@pytest.mark.parametrize("option", ["--bypass=localhost", "--non-tls=relay"])
@pytest.mark.parametrize("first", [(21, 3, 1, 0, 2, 1, 112), (20, 3, 3, 0, 1, 1)])
def test_a_server_name_does_not_pass_behind_another_record(
    tmp_path: Path, roots: Path, option: str, first: tuple[int, ...]
) -> None:
    """Before a ClientHello, Go's servers ignore warning alerts, and GnuTLS's a ChangeCipherSpec."""
    with Origin(echo) as plain, running(tmp_path, roots, option, "--deny=www.example.com") as program:
        with tunnel(program.address, f"localhost:{plain.port}") as sock:
            sock.sendall(bytes(first))
            assert sock.recv(100) == tls.alert(50)
        assert 'detail="not a TLS handshake record"' in program.tunnels(1)[0]


@pytest.mark.parametrize("option", ["--bypass=localhost", "--non-tls=relay"])
@pytest.mark.parametrize("hello", OLD_HELLOS, ids=["usual", "largest", "trailing"])
@pytest.mark.parametrize("size", [1, 100])
def test_tls_does_not_pass_by_a_hello_in_the_form_of_ssl_2(
    tmp_path: Path, roots: Path, option: str, hello: bytes, size: int
) -> None:
    with Origin(echo) as plain, running(tmp_path, roots, option, "--deny=www.example.com") as program:
        with tunnel(program.address, f"localhost:{plain.port}") as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for start in range(0, 12 * size, size):
                sock.sendall(hello[start : start + size])
            assert sock.recv(100) == tls.alert(50)
        assert 'detail="a ClientHello in the form of SSL 2.0"' in program.tunnels(1)[0]


def test_a_bypassed_tunnel_passes_as_it_is_if_no_server_name_is_judged(tmp_path: Path, roots: Path) -> None:
    """Whatever it is, and however long its client waits before it speaks."""
    options = ("--bypass=localhost", "--hello-timeout=1")
    with Origin(echo) as plain, running(tmp_path, roots, *options) as program:
        with tunnel(program.address, f"localhost:{plain.port}") as sock:
            with tunnel(program.address, f"127.0.0.1:{plain.port}") as later:
                assert later.recv(1) == b""  # a second has passed
            for data in (bytes((20, 3, 3, 0, 1, 1)), OLD_HELLOS[0]):
                sock.sendall(data)
                assert sock.recv(len(data), socket.MSG_WAITALL) == data


@pytest.mark.parametrize(
    "first",
    [b"\x15\x04hello", b"\x14\0hello", b"\x80\x01\1\0\0\0\0\0\0\0\0", b"\x80\x01\2", b"\xff", b"\x94\0\1\xa4ping\x90"],
)
def test_another_protocol_may_begin_as_these_records_do(tmp_path: Path, roots: Path, first: bytes) -> None:
    with Origin(echo) as plain, running(tmp_path, roots) as program:
        with tunnel(program.address, f"localhost:{plain.port}") as sock:
            sock.sendall(first)
            assert sock.recv(100) == first
        assert "context=untouched" in program.tunnels(1)[0]


@pytest.mark.parametrize(
    ("first", "reply"),
    [
        (b"\x14\0hello", None),
        (b"\x15\x04hello", None),
        (b"\x14\3\3\0\1\1", tls.alert(50)),
        (b"\x15\3\1\0\2\1p", tls.alert(50)),
    ],
)
def test_one_octet_alone_does_not_decide_what_they_are(
    tmp_path: Path, roots: Path, first: bytes, reply: bytes | None
) -> None:
    """The first one, here sent along with the CONNECT, is followed by the others in another segment."""
    with Origin(echo) as plain, running(tmp_path, roots) as program:
        with socket.create_connection(program.address, timeout=WAIT) as sock:
            sock.sendall(f"CONNECT localhost:{plain.port} HTTP/1.1\r\nHost: a\r\n\r\n".encode() + first[:1])
            assert read_reply(sock, body=False).status == 200
            sock.sendall(first[1:])
            assert sock.recv(100) == (first if reply is None else reply)


@pytest.mark.parametrize("begun", [b"\x80", b"\x16\3\1"])
def test_what_might_become_a_hello_is_not_lost_where_the_origin_speaks(
    tmp_path: Path, roots: Path, begun: bytes
) -> None:
    def greets(sock: socket.socket) -> None:
        sock.sendall(b"hello")
        echo(sock)

    with Origin(greets) as plain, running(tmp_path, roots) as program:
        with socket.create_connection(program.address, timeout=WAIT) as sock:
            sock.sendall(f"CONNECT localhost:{plain.port} HTTP/1.1\r\nHost: a\r\n\r\n".encode() + begun)
            assert read_reply(sock, body=False).status == 200
            assert b"".join(sock.recv(1) for _ in range(5 + len(begun))) == b"hello" + begun


def test_a_bypassed_tunnel_goes_to_its_own_target_past_a_redirect(
    tmp_path: Path, origin: Origin, origin_ca: TestCA
) -> None:
    with (
        Origin(http_origin) as plain,
        Program(
            tmp_path, *BASE, f"--redirect=127.0.0.1:{plain.port}", "--bypass=localhost", "--bypass=example.com"
        ) as program,
    ):
        assert untouched(program, f"localhost:{origin.port}", "localhost", origin_ca, tmp_path)
        assert untouched(program, f"127.0.0.1:{origin.port}", "example.com", origin_ca, tmp_path)
        with secure_tunnel(program, f"127.0.0.1:{origin.port}", "www.example.com") as secure:
            assert get(secure).status == 200
        assert origin.connections == 2


def test_a_redirect_is_left_once_a_tunnel_is_found_to_be_bypassed(tmp_path: Path, roots: Path, origin: Origin) -> None:
    """As long as such a tunnel lasts, the redirect would wait for it, and a descriptor that nobody counts be in use."""
    left = Event()

    def wait(sock: socket.socket) -> None:
        if not sock.recv(1):
            left.set()

    with (
        Origin(wait) as plain,
        Program(tmp_path, *BASE, f"--redirect=127.0.0.1:{plain.port}", "--bypass=example.com") as program,
        secure_tunnel(program, f"127.0.0.1:{origin.port}", "example.com", context=strict_context(roots)) as secure,
    ):
        assert get(secure).status == 200
        assert left.wait(WAIT)
        assert get(secure).status == 200


def test_the_address_of_a_redirect_is_not_taken_for_the_origins(
    tmp_path: Path, origin: Origin, origin_ca: TestCA
) -> None:
    options = ("--bypass=127.0.0.0/8", "--allow=localhost", "--allow=127.0.0.0/8")
    with (
        Origin(http_origin) as plain,
        Program(tmp_path, *BASE, f"--redirect=127.0.0.1:{plain.port}", *options) as program,
    ):
        assert not untouched(program, f"localhost:{origin.port}", "localhost", origin_ca, tmp_path)
        assert untouched(program, f"127.0.0.1:{origin.port}", "localhost", origin_ca, tmp_path)  # this is the origin's
        with pytest.raises(ssl.SSLError, match="access denied"):
            with secure_tunnel(program, f"localhost:{origin.port}", "evil.example"):
                pass
        assert connect(program, f"evil.example:{origin.port}").status == 403


@pytest.mark.parametrize(("network", "counts"), [("127.0.0.0/8", True), ("127.0.0.2/32", False)])
def test_the_address_that_was_dialled_for_a_name_counts(
    tmp_path: Path, roots: Path, origin: Origin, origin_ca: TestCA, network: str, counts: bool
) -> None:
    target = f"localhost:{origin.port}"
    with running(tmp_path, roots, f"--bypass={network}") as program:
        assert untouched(program, target, "localhost", origin_ca, tmp_path) == counts
    refused = nullcontext() if counts else pytest.raises(ssl.SSLError, match="access denied")
    with running(tmp_path, roots, "--allow=localhost", f"--allow={network}") as program:
        with refused, secure_tunnel(program, target, "www.example.com") as secure:
            assert get(secure).status == 200


@pytest.mark.parametrize("redirected", [False, True])
@pytest.mark.parametrize("bypassed", [False, True])
def test_a_bypass_counts_for_tls_without_a_connect(
    tmp_path: Path, roots: Path, redirected: bool, bypassed: bool
) -> None:
    """There is no such origin: a bypassed client gets an alert, any other is told inside TLS."""
    with Origin(http_origin) as plain, ExitStack() as stack:
        options = [f"--redirect=127.0.0.1:{plain.port}"] * redirected + ["--bypass=nowhere.invalid"] * bypassed
        program = stack.enter_context(running(tmp_path, roots, *options))
        sock = stack.enter_context(socket.create_connection(program.address, timeout=WAIT))
        context = strict_context(program.ca)
        if bypassed:
            with pytest.raises(ssl.SSLError, match="alert"):
                context.wrap_socket(sock, server_hostname="nowhere.invalid")
        else:
            secure = stack.enter_context(context.wrap_socket(sock, server_hostname="nowhere.invalid"))
            assert get(secure).status == (200 if redirected else 502)
        assert plain.connections == (redirected and not bypassed)


@pytest.mark.parametrize("first", ["client", "origin"])
def test_what_is_not_tls_is_refused_and_not_a_byte_passes(tmp_path: Path, roots: Path, first: str) -> None:
    got: list[bytes] = []

    def banner(sock: gevent.socket.socket) -> None:
        if first == "origin":
            sock.sendall(b"220 ready\r\n")
        while data := sock.recv(100):
            got.append(data)

    with running(tmp_path, roots, "--non-tls=refuse") as program, Origin(banner) as server:
        with tunnel(program.address, f"localhost:{server.port}") as sock:
            if first == "client":
                sock.sendall(b"SSH-2.0-x\r\n")
            assert sock.recv(100) == b""
        assert "outcome=not-tls" in program.tunnels(1)[0]
    assert got == []


def test_a_client_that_says_nothing_and_leaves_is_not_refused(tmp_path: Path, roots: Path) -> None:
    with running(tmp_path, roots, "--non-tls=refuse") as program, Origin(echo) as server:
        with tunnel(program.address, f"localhost:{server.port}"):
            pass
        assert "outcome=client-closed" in program.tunnels(1)[0]
        with tunnel(program.address, f"localhost:{server.port}") as sock:
            sock.sendall(b"x")
            sock.shutdown(socket.SHUT_WR)
            assert sock.recv(100) == b""
        assert "outcome=not-tls" in program.tunnels(2)[1]


@pytest.mark.parametrize("what", ["allow", "log", "deny"])
def test_a_server_name_other_than_the_connect_host(
    tmp_path: Path, roots: Path, origin: Origin, certificate: Path, what: str
) -> None:
    with running(tmp_path, roots, f"--mismatch={what}") as program:
        with secure_tunnel(program, f"localhost:{origin.port}") as secure:
            assert get(secure, host="localhost").status == 200
        assert "note=" not in program.tunnels(1)[0]
        # localhost resolves to 127.0.0.1: no mismatch, though the CONNECT has the address.
        with secure_tunnel(program, f"127.0.0.1:{origin.port}", "localhost") as secure:
            assert get(secure, host=f"localhost:{origin.port}").status == 200
        assert "note=" not in program.tunnels(2)[1]
        expected = pytest.raises(ssl.SSLError, match="access denied") if what == "deny" else nullcontext()
        with expected, secure_tunnel(program, f"localhost:{origin.port}", "example.com") as secure:
            assert get(secure, host="example.com").status == 200
        line = program.tunnels(3)[2]
        assert ("server name example.com is not localhost" in line) == (what != "allow")
        with Origin(http_origin, certificate, host="127.0.0.2") as other:  # an address that neither name has
            for name, status in (("localhost", 200), ("nowhere.invalid", 502)):
                expected = pytest.raises(ssl.SSLError, match="access denied") if what == "deny" else nullcontext()
                with expected, secure_tunnel(program, f"127.0.0.2:{other.port}", name) as secure:
                    assert get(secure, host=name).status == status
                line = program.wait_for(rf" target=127\.0\.0\.2:\d+ sni={name} ")
                assert (f"server name {name} is not 127.0.0.2" in line) == (what != "allow")
        with reserved_port() as dead:
            plain = exchange(program.address, b"GET http://127.0.0.1:%d/ HTTP/1.1\r\nHost: other\r\n\r\n" % dead)
        assert plain.status == (421 if what == "deny" else 502)


@pytest.mark.parametrize("what", ["allow", "log", "deny"])
def test_a_host_other_than_the_server_name(tmp_path: Path, roots: Path, origin_ca: TestCA, what: str) -> None:
    """A request that the origin must not get is held back before it is complete; and the client is told."""
    got: list[bytes] = []

    def keep(sock: gevent.socket.socket) -> None:
        while data := sock.recv(65_536):
            got.append(data)
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    pem = tmp_path / "keep.pem"
    pem.write_bytes(origin_ca.issue("localhost"))
    with Origin(keep, pem) as server, running(tmp_path, roots, f"--mismatch={what}") as program:
        with secure_tunnel(program, f"localhost:{server.port}") as secure:
            assert get(secure, host="localhost").status == 200
            assert get(secure, host="other.example").status == (421 if what == "deny" else 200)
        own = f"localhost:{server.port}"
        for target, host, status in ((own, own, 200), ("other.example", own, 403), (own, "other.example", 403)):
            with secure_tunnel(program, own) as secure:  # RFC 9112 §3.2.2: Host does not count; for some it does
                assert get(secure, f"https://{target}/", host=host).status == (status if what == "deny" else 200)
        line = program.tunnels(4)[0]
    assert ("Host other.example is not localhost" in line) == (what != "allow")
    assert (" status=421 outcome=" in line) == (what == "deny")
    assert any(b"other.example" in data for data in got) == (what != "deny")


@pytest.mark.parametrize(("what", "status"), [("allow", 200), ("log", 200), ("deny", 421)])
@pytest.mark.parametrize("said", ["other.example", "a:b:c", "u:secret@localhost"])
@pytest.mark.parametrize("options", [(), ("--log-requests",), ("--log-requests", "--log-format=json")])
def test_a_host_other_than_the_target_of_plain_http(
    tmp_path: Path, roots: Path, what: str, status: int, said: str, options: tuple[str, ...]
) -> None:
    """Also one that is no host at all."""
    with Origin(http_origin) as server, running(tmp_path, roots, f"--mismatch={what}", *options) as program:
        where = f"localhost:{server.port}"
        for host, expected in ((where, 200), (said, status)):
            asked = f"GET http://{where}/ HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
            assert exchange(program.address, asked.encode()).status == expected
        good = program.wait_for(r"request\b.*\bstatus\W+200\b")
        odd = program.wait_for(rf"request\b.*\bstatus\W+{status}\b", program.lines.index(good) + 1)
    remark = f"Host {said.replace('u:secret@localhost', 'localhost, with user information,')} is not {where}"
    assert remark not in good
    assert (remark in odd) == (what != "allow")
    assert "secret" not in odd


def test_a_status_that_the_client_was_not_told_is_not_logged(tmp_path: Path, roots: Path, certificate: Path) -> None:
    """With two responses under way, the refusal of a third request can only cut the client off.

    One that it was told is the status of its request, too.
    """
    options = ("--mismatch=deny", "--log-format=combined", "--log-requests")

    def listen(sock: gevent.socket.socket) -> None:
        while sock.recv(65_536):
            pass

    with Origin(listen, certificate) as server, running(tmp_path, roots, *options) as program:
        for hosts, status in ((["localhost", "localhost", "other"], 200), (["other"], 421)):
            seen = len(program.lines)
            with secure_tunnel(program, f"localhost:{server.port}") as secure:
                for host in hosts:
                    secure.sendall(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
                with suppress(*CUT_OFF):
                    while secure.recv(65_536):
                        pass
            program.wait_for(f'"CONNECT localhost:{server.port} HTTP/1.1" {status} ', seen)
            statuses = [re.search(r'"GET https://\S+ HTTP/1.1" (\d+) ', line) for line in program.lines[seen:]]
            told = "421" if status == 421 else "000"
            assert [found[1] for found in statuses if found] == [told] * len(hosts)


@pytest.mark.parametrize("what", ["log", "deny"])
def test_a_host_other_than_the_server_name_by_http_2(tmp_path: Path, roots: Path, certificate: Path, what: str) -> None:
    with (
        Origin(h2_origin, certificate, alpn=["h2"]) as server,
        running(tmp_path, roots, f"--mismatch={what}") as program,
    ):
        words = ["curl", "-sS", "--http2", "-x", program.url, "--cacert", str(program.ca)]
        url = f"https://localhost:{server.port}/"
        assert run(*words, url).stdout == "h2 ok"
        other = run(*words, "-H", "Host: other.example", url)
        assert (other.returncode == 0) == (what == "log")
        assert "Host other.example is not localhost" in program.tunnels(2)[1]


@pytest.mark.parametrize("request_line", [b"GET  / HTTP/1.1", b"GET / HTTP/1.1\r\nHost: a\r\nbroken"])
def test_a_host_that_cannot_be_told_is_refused_as_well(
    tmp_path: Path, roots: Path, origin: Origin, request_line: bytes
) -> None:
    with running(tmp_path, roots, "--mismatch=deny") as program:
        with secure_tunnel(program, f"localhost:{origin.port}") as secure:
            secure.sendall(request_line + b"\r\nHost: localhost\r\n\r\n")
            assert read_reply(secure).status == 403
        assert "can't tell the Host: malformed" in program.tunnels(1)[0]


@pytest.mark.parametrize(("what", "passes"), [("log", b"FOO / HTTP/1.1"), ("deny", b"FOO ")])
def test_an_incomplete_line_does_not_pass_once_it_is_one_of_http(
    tmp_path: Path, roots: Path, certificate: Path, what: str, passes: bytes
) -> None:
    """Where the client ends there, Python's http.server and gevent act on it, whatever its method."""
    heard, ended = bytearray(), Event()

    def listen(sock: socket.socket) -> None:
        with suppress(OSError):
            while data := sock.recv(100):
                heard.extend(data)
        ended.set()

    with Origin(listen, certificate) as server, running(tmp_path, roots, f"--mismatch={what}") as program:
        with tunnel(program.address, f"localhost:{server.port}") as sock:
            client = BioClient(sock, strict_context(program.ca), "localhost", early=b"FOO ")
            until(lambda: heard == b"FOO ")
            client.send(b"/ HTTP/1.1")
            client.close_notify()
            assert client.read()[9:12] == (b"403" if what == "deny" else b"")
        assert ended.wait(WAIT)
    assert heard == passes


def test_who_speaks_something_else_is_heard_to_the_last_word(tmp_path: Path, roots: Path, certificate: Path) -> None:
    """Even with the end in the same segment; and a client that says nothing is not refused."""

    def listen(sock: socket.socket) -> None:
        heard = b""
        while data := sock.recv(100):
            heard += data
        sock.sendall(b"heard " + heard)

    with (
        Origin(listen, certificate) as other,
        Origin(http_origin, certificate, ["http/1.1"]) as origin,
        running(tmp_path, roots, "--mismatch=deny") as program,
    ):
        for said in (b"HELLO", b"1 \0\1\2"):
            with tunnel(program.address, f"localhost:{other.port}") as sock:
                client = BioClient(sock, strict_context(program.ca), "localhost", early=said)
                client.close_notify()
                assert client.read() == b"heard " + said
        with tunnel(program.address, f"localhost:{origin.port}") as sock:
            client = BioClient(sock, strict_context(program.ca, ["http/1.1"]), "localhost")
            client.close_notify()
            assert client.read() == b""
        assert ["outcome=closed" in line for line in program.tunnels(3)] == [True] * 3


@pytest.mark.parametrize("alpn", [["h2"], None])
def test_http_2_to_another_host_is_cut_off(
    tmp_path: Path, roots: Path, certificate: Path, alpn: list[str] | None
) -> None:
    """Other streams may be under way, into which a page in HTTP/1.1 would not fit. Also if ALPN did not select it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    context.set_alpn_protocols(["h2"])
    pair = Pair()
    pair.ask([(":method", "GET"), (":scheme", "https"), (":authority", "other.example"), (":path", "/")])
    said = b"".join(data for who, data in pair.said if who == CLIENT)
    with Origin(drain, context) as server, running(tmp_path, roots, "--mismatch=deny", "--log-requests") as program:
        with secure_tunnel(program, f"localhost:{server.port}", alpn=alpn) as secure:
            secure.sendall(said)
            with pytest.raises(CUT_OFF):
                secure.recv(1)
        assert "Host other.example is not localhost" in program.tunnels(1)[0]
        assert " http=2 status=- " in program.wait_for(" request ")


@pytest.mark.parametrize("what", ["log", "deny"])
def test_a_request_in_http_2_is_held_back_until_all_of_it_is_judged(
    tmp_path: Path, roots: Path, certificate: Path, what: str
) -> None:
    """Of a header block that never ends, nginx logs the request, as one to the host that it names."""
    pair = Pair()
    begun = len(b"".join(data for who, data in pair.said if who == CLIENT))
    pair.ask([(":method", "GET"), (":scheme", "https"), (":authority", "other.example"), (":path", "/")])
    said = b"".join(data for who, data in pair.said if who == CLIENT)[:-1]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    context.set_alpn_protocols(["h2"])
    heard, ended = bytearray(), Event()

    def listen(sock: socket.socket) -> None:
        while data := sock.recv(1000):
            heard.extend(data)
        ended.set()

    with Origin(listen, context) as server, running(tmp_path, roots, f"--mismatch={what}") as program:
        with secure_tunnel(program, f"localhost:{server.port}", alpn=["h2"]) as secure:
            secure.sendall(said[: begun + 5])  # amid the header of its frame
            secure.sendall(said[begun + 5 :])
            secure.unwrap()
        assert ended.wait(WAIT)
    assert heard == (said if what == "log" else said[:begun])


@pytest.mark.parametrize(
    ("option", "encrypted", "told"),
    [
        ("--mismatch=log", True, "HTTP/1.1 200 "),
        ("--mismatch=deny", True, "HTTP/1.1 421 "),
        ("--mismatch=deny", False, ""),
        ("--deny=www.example.com", True, ""),  # one for which there is no certificate either
    ],
)
def test_requests_do_not_go_to_an_outer_server_name(
    tmp_path: Path, roots: Path, certificate: Path, option: str, encrypted: bool, told: str
) -> None:
    """Of an encrypted ClientHello: any client can claim to send one. One that does sends nothing under the outer name.

    But it must see our certificate to retry without encryption (ECH); others get an alert.
    """

    def answer(sock: socket.socket) -> None:
        assert sock.recv(1000).startswith(b"GET / ")
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    with Origin(answer, certificate) as server, running(tmp_path, roots, option) as program:
        words = ("-proxy", f"127.0.0.1:{program.address[1]}", "-connect", f"localhost:{server.port}")
        ech = ("-serverinfo", str(0xFE0D)) if encrypted else ()
        hello = ("-servername", "www.example.com", *ech, "-CAfile", program.ca)
        request = "GET / HTTP/1.1\r\nHost: www.example.com\r\n\r\n"
        done = run("openssl", "s_client", "-quiet", *words, *hello, input=request)
        assert done.stdout[: len("HTTP/1.1 200 ")] == told
        why = "www.example.com is denied" if "=www" in option else "server name www.example.com is not localhost"
        assert why in program.tunnels(1)[0]


@pytest.mark.parametrize(("mismatch", "name", "passes"), [
    ("allow", "bank.example", True), ("deny", "bank.example", False), ("deny", "localhost", True),
])  # fmt: skip
def test_a_server_name_beside_an_encrypted_one_passes_for_no_other(
    tmp_path: Path, roots: Path, origin: Origin, mismatch: str, name: str, passes: bool
) -> None:
    """Any client can claim to send an encrypted one."""
    ech = (0xFE0D).to_bytes(2, "big") + (4).to_bytes(2, "big") + bytes(4)
    options = (f"--mismatch={mismatch}", "--bypass=bank.example", "--bypass=localhost")
    with running(tmp_path, roots, *options) as program:
        with tunnel(program.address, f"127.0.0.1:{origin.port}") as sock:
            sock.sendall(records(message(server_name(name.encode()), ech)))
            assert sock.recv(1) in (b"\x15", b"\x16")
        assert ("context=bypassed" in program.tunnels(1)[0]) == passes


def test_a_loop_through_via(program: Program) -> None:
    """Our own pseudonym in Via: the request has been here before."""
    seen: list[bytes] = []

    def keep(sock: gevent.socket.socket) -> None:
        seen.append(sock.recv(65_536))
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    with Origin(keep) as server:
        head = f"GET http://localhost:{server.port}/ HTTP/1.1\r\nHost: a\r\n"
        assert exchange(program.address, f"{head}Via: 1.1 other\r\n\r\n".encode()).status == 200
        via = next(line for line in seen[0].decode().split("\r\n") if "certifier" in line)
        reply = exchange(program.address, f"{head}{via}\r\n\r\n".encode())
        assert (reply.status, "proxy_loop_detected" in reply.headers["proxy-status"]) == (508, True)
        assert connect(program, f"localhost:{server.port}", via).status == 508


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0", "[::]", "[::ffff:127.0.0.1]"])
def test_a_tunnel_to_the_proxy_itself(program: Program, host: str) -> None:
    reply = connect(program, f"{host}:{program.address[1]}")
    assert reply.status == (508 if host != "[::]" else 502)


# Clients that refuse


def certificates_refused(program: Program) -> float | None:
    return value(scrape(program), "certifier_refusals_total", reason="certificate")


def test_a_client_that_refuses_is_told_of_with_what_to_change(tmp_path: Path, origin: Origin, roots: Path) -> None:
    with running(tmp_path, roots) as program:
        refused = run("curl", "-sS", "-x", program.url, "--cacert", roots, f"https://localhost:{origin.port}/")
        assert refused.returncode == 60
        # Newer versions leave without an alert.
        line = program.wait_for("outcome=(client-tls-failed|client-truncated)")
    assert re.search(
        "the client (refused our certificate|left right after the handshake): (probably )?it does not trust the CA",
        line,
    )
    assert "; curl: --cacert ca.crt" in line


def test_a_client_that_refuses_an_operators_certificate_is_not_told_to_trust_our_ca(
    tmp_path: Path, origin: Origin, roots: Path
) -> None:
    path = Store(tmp_path / "certs").path("localhost")
    assert path is not None
    path.parent.mkdir()
    path.write_bytes(TestCA("operator").issue("localhost"))
    with Program(tmp_path, "--store=certs", "--max=2", "--ca=ca", f"--upstream-ca={roots}") as running:
        ours = run("curl", "-sS", "-x", running.url, "--cacert", running.ca, f"https://localhost:{origin.port}/")
        assert ours.returncode == 60
        line = running.wait_for("outcome=(client-tls-failed|client-truncated)")
    assert "; the certificate is an operator's: the client has to trust its issuer, not certifier's CA" in line
    assert "--cacert" not in line


def test_a_client_that_says_nothing_after_the_handshake_is_not_said_to_have_refused(
    tmp_path: Path, roots: Path, origin: Origin
) -> None:
    """It may have, as some just close; a mere check of the handshake, as s_client makes on empty input, has not."""
    with running(tmp_path, roots) as program:
        with secure_tunnel(program, f"localhost:{origin.port}"):
            pass
        program.wait_for("note=.the client left right after the handshake: probably it does not trust the CA")
        assert certificates_refused(program) == 1


def test_a_client_that_leaves_in_the_handshake(tmp_path: Path, roots: Path, origin: Origin) -> None:
    with running(tmp_path, roots) as program:
        with tunnel(program.address, f"localhost:{origin.port}") as sock:
            sock.sendall(real_hello("localhost"))
            assert sock.recv(65_536)
        program.wait_for("note=.the client left in the handshake: probably it does not trust the CA")
        assert certificates_refused(program) == 1


def test_a_client_that_leaves_connections_that_it_does_not_need_has_not_refused(
    tmp_path: Path, roots: Path, origin: Origin
) -> None:
    """As Go does when it sends many requests at once."""
    with running(tmp_path, roots) as program:
        target = f"localhost:{origin.port}"
        with secure_tunnel(program, target) as used:
            assert get(used).status == 200
            with secure_tunnel(program, target):
                pass
            program.wait_for("note=.the client left right after the handshake, and uses this name: ")
        program.tunnels(2)
        with tunnel(program.address, target) as sock:
            sock.sendall(real_hello("localhost"))
            assert sock.recv(65_536)
        program.wait_for("note=.the client left in the handshake, and uses this name: ")
        assert certificates_refused(program) == 0
        with tunnel(program.address, target) as sock, pytest.raises(ssl.SSLCertVerificationError):
            strict_context(roots).wrap_socket(sock, server_hostname="localhost")
        program.wait_for("note=.the client refused our certificate: it does not trust the CA")
        assert certificates_refused(program) == 1


@pytest.mark.parametrize("alert", ["unknown_ca", "internal_error"])
def test_an_alert_right_after_the_handshake_tells_why(program: Program, origin: Origin, alert: str) -> None:
    """Not every alert is about our certificate."""
    seen = len(program.lines)
    with tunnel(program.address, f"localhost:{origin.port}") as sock:
        connection = TLSConnection(sock)
        connection.handshakeClientCert(serverName="localhost")
        list(connection._sendMsg(Alert().create(getattr(AlertDescription, alert), AlertLevel.fatal)))
    line = program.wait_for("outcome=client-tls-error", seen)
    assert f"_ALERT_{alert.upper()}" in line
    assert ("the client refused our certificate: it does not trust the CA" in line) == (alert == "unknown_ca")
    assert ("note=" in line) == (alert == "unknown_ca")


def test_if_both_sides_tls_fails_both_are_told_of(program: Program, tmp_path: Path) -> None:
    (tmp_path / "own.pem").write_bytes(TestCA("unknown").issue("localhost"))
    seen = len(program.lines)
    with Origin(echo, tmp_path / "own.pem") as server, tunnel(program.address, f"localhost:{server.port}") as sock:
        with pytest.raises(ssl.SSLCertVerificationError):
            ssl.create_default_context().wrap_socket(sock, server_hostname="localhost")
    line = program.wait_for("outcome=client-tls-failed", seen)
    assert "the certificate of localhost does not verify" in line
    assert "the client refused our certificate" in line


def test_learned_bypass(tmp_path: Path, roots: Path, origin: Origin, origin_ca: TestCA) -> None:
    with running(tmp_path, roots, "--learn-bypass=2") as program:
        target = f"localhost:{origin.port}"
        assert not untouched(program, target, "localhost", origin_ca, tmp_path)
        with secure_tunnel(program, target) as secure:  # it went on: earlier refusals do not count
            assert get(secure).status == 200
        program.tunnels(2)
        for number in (3, 4):
            assert not untouched(program, target, "localhost", origin_ca, tmp_path)
            program.tunnels(number)
        program.wait_for("127.0.0.1 refused certificates for localhost: tunnelled untouched for an hour")
        assert untouched(program, target, "localhost", origin_ca, tmp_path)
        assert not untouched(program, f"127.0.0.1:{origin.port}", "example.com", origin_ca, tmp_path)


def test_a_handshake_that_fails_for_another_reason_is_no_refusal(
    tmp_path: Path, roots: Path, origin: Origin, origin_ca: TestCA
) -> None:
    with running(tmp_path, roots, "--learn-bypass=1") as program:
        target = f"localhost:{origin.port}"
        context = strict_context(program.ca)
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers("AES128-GCM-SHA256")  # which is not forward secret
        with pytest.raises(ssl.SSLError, match="handshake failure"), secure_tunnel(program, target, context=context):
            pass
        line = program.tunnels(1)[0]
        assert "outcome=client-tls-failed" in line
        assert "note=" not in line
        assert not untouched(program, target, "localhost", origin_ca, tmp_path)
        program.tunnels(2)
        assert certificates_refused(program) == 1


@pytest.mark.parametrize("first", ["the origin speaks", "the origin leaves", "time passes"])
def test_a_client_that_leaves_without_a_word_later_has_not_refused(
    tmp_path: Path, roots: Path, certificate: Path, first: str
) -> None:
    def origin(sock: socket.socket) -> None:
        if first == "the origin speaks":
            sock.sendall(b"220 ready")
        if first != "the origin leaves":
            drain(sock)

    with Origin(origin, certificate) as server, running(tmp_path, roots, "--hello-timeout=3") as program:
        with tunnel(program.address, f"127.0.0.1:{server.port}") as clock:
            with secure_tunnel(program, f"localhost:{server.port}") as secure:
                if first == "time passes":
                    assert clock.recv(1) == b""
                else:
                    assert secure.recv(9) == (b"220 ready" if first == "the origin speaks" else b"")
            assert "note=" not in program.wait_for(" tunnel .* sni=localhost ")


def test_a_client_that_leaves_connections_that_it_does_not_need_is_not_bypassed(
    tmp_path: Path, roots: Path, origin: Origin, origin_ca: TestCA
) -> None:
    """As Go does: of several connections for HTTP/2 that it opens at once, it keeps one."""
    with running(tmp_path, roots, "--learn-bypass=2") as program:
        target = f"localhost:{origin.port}"
        with secure_tunnel(program, target) as secure:
            assert get(secure).status == 200
            for number in range(1, 4):
                with secure_tunnel(program, target):
                    pass
                program.tunnels(number)
            assert not untouched(program, target, "localhost", origin_ca, tmp_path)


def test_a_client_that_only_leaves_is_bypassed(tmp_path: Path, roots: Path, origin: Origin, origin_ca: TestCA) -> None:
    with running(tmp_path, roots, "--learn-bypass=2") as program:
        target = f"localhost:{origin.port}"
        for number in (1, 2):
            with secure_tunnel(program, target):
                pass
            program.tunnels(number)
        assert untouched(program, target, "localhost", origin_ca, tmp_path)


# How much


def test_a_handshake_that_is_not_completed(tmp_path: Path, roots: Path, origin: Origin) -> None:
    with Origin(drain) as silent, running(tmp_path, roots, "--tls-timeout=1") as program:
        with tunnel(program.address, f"localhost:{origin.port}") as sock:
            sock.sendall(real_hello("localhost"))
            while sock.recv(65_536):
                pass
        line = program.tunnels(1)[0]
        assert "outcome=client-tls-failed" in line
        assert "note=" not in line
        with secure_tunnel(program, f"localhost:{silent.port}") as secure:
            reply = get(secure)
        assert (reply.status, reply.reason) == (504, "Origin connection timed out")


def test_a_client_beyond_its_share_costs_an_origin_no_handshake_before_its_turn(tmp_path: Path, roots: Path) -> None:
    """In a flood of new names, most will be refused."""
    names = [f"{number}.example" for number in range(7)]
    stored: list[bool] = []

    def origin(sock: socket.socket) -> None:
        if sock.recv(65_536):
            path = store.path(names[len(stored)])
            assert path
            stored.append(path.exists())

    with Origin(origin) as server, running(tmp_path, roots, "--client-new-names=1") as program:
        store = Store(tmp_path / "certs")
        for name in names:
            with tunnel(program.address, f"127.0.0.1:{server.port}") as sock:
                sock.sendall(real_hello(name))
                assert sock.recv(1) == b"\x16"
    assert stored[-1:] == [True]
    assert len(stored) == 7


def test_connections_past_the_limit_are_told_so(tmp_path: Path, roots: Path, echo_origin: Origin) -> None:
    target = f"localhost:{echo_origin.port}"
    with running(tmp_path, roots, "--max-connections=4", "--max-client-connections=3") as program:
        with tunnel(program.address, target), tunnel(program.address, target), tunnel(program.address, target):
            reply = connect(program, target)
            assert (reply.status, reply.reason) == (429, "Too many connections from this client")
            assert reply.headers["retry-after"] == "1"
            other = socket.create_connection(program.address, timeout=WAIT, source_address=("127.0.0.2", 0))
            with other:
                other.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
                assert read_reply(other).status == 200
                reply = connect(program, target)
                assert (reply.status, reply.reason) == (503, "Too many connections")
                with socket.create_connection(program.address, timeout=WAIT) as begun:
                    begun.sendall(b"\x16")  # the hello timeout, after which there is no alert, is not waited for
                    assert begun.recv(100) == tls.alert(TooManyConnections.alert)
                slow = exchange(program.address, b"CONNECT ")  # the head timeout, which a 408 would name, is ten times
                assert (slow.status, slow.reason) == (503, "Too many connections")  # as long as it is waited for
                assert exchange(program.address, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").status == 200
                metrics = exchange(program.address, b"GET /metrics HTTP/1.0\r\n\r\n").body
                assert b"\ncertifier_connections_max 4.0\n" in metrics
        until(lambda: connect(program, target).status == 200)


def test_no_client_locks_the_others_out(tmp_path: Path, roots: Path, echo_origin: Origin) -> None:
    with running(tmp_path, roots, "--max-connections=20") as program, ExitStack() as open_:
        for _ in range(150):
            idle = socket.create_connection(program.address, timeout=WAIT, source_address=("127.0.0.2", 0))
            open_.enter_context(idle)
        assert connect(program, f"localhost:{echo_origin.port}").status == 200
        assert exchange(program.address, b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n").status == 200


def test_heads_and_hellos_past_their_size(tmp_path: Path, roots: Path, origin: Origin) -> None:
    with running(tmp_path, roots, "--max-head=2000", "--max-hello=4096", "--hello-timeout=1") as program:
        assert connect(program, f"localhost:{origin.port}", "X: " + "x" * 2000).status == 431
        with secure_tunnel(program, f"localhost:{origin.port}") as secure:
            assert get(secure).status == 200
        with tunnel(program.address, f"localhost:{origin.port}") as sock:
            sock.sendall(b"\x16\x03\x01\x20\x00\x01\x00\x1f\xfc" + bytes(0x1FFC))
            assert sock.recv(7) == b"\x15\x03\x03\x00\x02\x02\x32"  # decode_error
        with tunnel(program.address, f"localhost:{origin.port}") as sock:
            assert sock.recv(1) == b""
        program.wait_for("outcome=hello-timeout")


def test_too_many_new_names(tmp_path: Path, roots: Path) -> None:
    """A client beyond its share waits, and after some seconds gets an alert; names in memory are not held up."""
    options = ("--client-new-names=1", "--redirect=127.0.0.1:1")
    with running(tmp_path, roots, *options) as program, ExitStack() as stack:
        context = strict_context(program.ca)
        hellos = [real_hello(f"{number}.example", context=context) for number in range(28)]

        def say(hello: bytes) -> socket.socket:
            sock = stack.enter_context(socket.create_connection(program.address, timeout=WAIT))
            sock.sendall(hello)
            return sock

        start = time.monotonic()
        told = [sock.recv(7) for sock in [say(hello) for hello in hellos[:14]]]
        assert 3.5 < time.monotonic() - start < 9
        assert 3 <= told.count(b"\x15\x03\x03\x00\x02\x02\x50") <= 8  # internal_error
        program.wait_for("outcome=too-many-new-names")
        known = next(number for number, first in enumerate(told) if first.startswith(b"\x16"))
        for hello in hellos[14:]:
            say(hello)
        sock = stack.enter_context(socket.create_connection(program.address, timeout=WAIT))
        with context.wrap_socket(sock, server_hostname=f"{known}.example"):
            pass


def test_an_origin_hears_nothing_of_names_that_are_refused(tmp_path: Path, roots: Path) -> None:
    """No TLS begins with an origin while its name waits for its turn; once it has its turn, it begins at once."""
    heard: list[bytes] = []
    with (
        Origin(lambda sock: heard.append(sock.recv(1))) as origin,
        running(tmp_path, roots, "--client-new-names=1") as program,
        ExitStack() as stack,
    ):
        for number in range(20):
            sock = stack.enter_context(tunnel(program.address, f"127.0.0.1:{origin.port}"))
            sock.sendall(records(message(server_name(f"{number}.example".encode()))))
        for _ in range(8):
            program.wait_for("outcome=too-many-new-names")
            del program.lines[: 1 + next(n for n, line in enumerate(program.lines) if "too-many-new-names" in line)]
        begun = heard.count(b"\x16")
    assert 2 <= begun <= 12


def test_an_idle_tunnel_is_closed(tmp_path: Path, roots: Path, echo_origin: Origin) -> None:
    with running(tmp_path, roots, "--idle-timeout=1") as program:
        with secure_tunnel(program, f"localhost:{echo_origin.port}") as secure:
            secure.sendall(b"x")
            assert secure.recv(1) == b"x"
            with pytest.raises(CUT_OFF):
                secure.recv(1)
        program.wait_for("outcome=idle")


def test_values_in_the_log_are_cut(tmp_path: Path, roots: Path) -> None:
    with running(tmp_path, roots, "--max-log-value=20") as program:
        assert connect(program, "x" * 60 + ".invalid:443").status == 502
        assert f"target={'x' * 20}... " in program.tunnels(1)[0]
