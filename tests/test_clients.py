"""Real clients through the proxy: curl, openssl, Node, Python; HTTP/2, WebSocket, much data, slow readers."""

import hashlib
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

import gevent
import h2.config
import h2.connection
import h2.events
import pytest
from gevent.event import Event
from lab import HERE, WAIT, Origin, Program, get, run, secure_tunnel, strict_context, until
from pki import TestCA, key_pem, new_key
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection
from wsproto.events import Request as WSRequest

import sockets

MIB = 1 << 20


def h2_origin(sock: socket.socket) -> None:
    connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
    connection.initiate_connection()
    sock.sendall(connection.data_to_send())
    while data := sock.recv(65_536):
        for event in connection.receive_data(data):
            if isinstance(event, h2.events.RequestReceived):
                assert event.stream_id
                connection.send_headers(event.stream_id, [(":status", "200"), ("content-length", "5")])
                connection.send_data(event.stream_id, b"h2 ok", end_stream=True)
        sock.sendall(connection.data_to_send())


def test_curl_speaks_h2_end_to_end(program: Program, certificate: Path) -> None:
    seen = len(program.lines)
    with Origin(h2_origin, certificate, alpn=["h2", "http/1.1"]) as server:
        result = run(
            "curl", "-sS", "--http2", "-x", program.url, "--cacert", program.ca, "-w", "/%{http_version}",
            f"https://localhost:{server.port}/",
        )  # fmt: skip
    assert result.stdout == "h2 ok/2", result.stderr
    program.wait_for("client_alpn=h2 origin_alpn=h2", seen)


@pytest.mark.parametrize("end", ["close_notify", "reset", "idle", "SIGINT"])
@pytest.mark.parametrize("options", [(), ("--log-requests",)])
def test_curl_takes_nothing_that_was_cut_off_for_complete(
    tmp_path: Path, roots: Path, certificate: Path, end: str, options: tuple[str, ...]
) -> None:
    """It does not mind a missing close_notify: to curl, a FIN alone ends a body that has no length."""
    over = Event()

    def half(sock: socket.socket) -> None:
        sock.recv(65_536)
        sock.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhalf")
        if end == "reset":
            sockets.reset(sock)
            assert isinstance(sock, ssl.SSLSocket)
            socket.socket.close(socket.socket(fileno=sock.detach()))
        elif end != "close_notify":
            if end == "SIGINT":
                running.process.send_signal(signal.SIGINT)
                running.wait_for("stopping: 1 connection")
                while not over.wait(0.2):  # one after another: signals that are pending at the same time merge into one
                    running.process.send_signal(signal.SIGINT)
            over.wait(WAIT)

    words = ("--store=certs", "--max=9", "--ca=ca", f"--upstream-ca={roots}", *options)
    with Origin(half, certificate) as server, Program(tmp_path, *words, "--idle-timeout=1") as running:
        url = f"https://localhost:{server.port}/"
        result = run("curl", "-sS", "-x", running.url, "--cacert", running.ca, url)
        over.set()
    assert result.returncode == (0 if end == "close_notify" else 56), result.stderr


def test_curl_shows_the_reason_of_a_refusal(program: Program) -> None:
    result = run("curl", "-sS", "-v", "-x", program.url, "https://no-such-host.invalid/")
    # The second if there is no network.
    assert re.search("502 Origin name (not found|lookup failed)", result.stderr)
    assert result.returncode != 0


def test_openssl_verifies_strictly(program: Program, origin: Origin) -> None:
    words = [
        "openssl", "s_client", "-proxy", f"127.0.0.1:{program.address[1]}", "-connect", f"127.0.0.1:{origin.port}",
        "-servername", "localhost", "-verify_hostname", "localhost", "-verify_return_error", "-x509_strict",
        "-CAfile",
    ]  # fmt: skip
    good = run(*words, program.ca, input="")
    assert "Verify return code: 0 (ok)" in good.stdout, good
    bad = run(*words, HERE / "tests" / "none.pem", input="")
    assert bad.returncode != 0


NODE = """
const [proxyPort, originPort, ca] = process.argv.slice(2);
const http = require('http'), tls = require('tls'), fs = require('fs');
const request = http.request({host: '127.0.0.1', port: proxyPort, method: 'CONNECT', path: `localhost:${originPort}`});
request.on('connect', (response, socket) => {
  const secure = tls.connect({socket, servername: 'localhost', ca: ca ? fs.readFileSync(ca) : undefined}, () => {
    secure.write('GET /node HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n');
    secure.once('data', (data) => {
      console.log(secure.authorized, data.toString().split('\\r\\n')[0]);
      secure.end();
    });
  });
  secure.on('error', (error) => { console.log(error.code); process.exit(1); });
});
request.end();
"""


@pytest.mark.parametrize("trusted", [True, False])
def test_node(program: Program, origin: Origin, tmp_path: Path, trusted: bool) -> None:
    assert shutil.which("node"), "Node.js is one of the clients that must work"
    (tmp_path / "client.js").write_text(NODE)
    ca = [program.ca] if trusted else []
    result = run("node", tmp_path / "client.js", str(program.address[1]), str(origin.port), *ca)
    if trusted:
        assert result.stdout == "true HTTP/1.1 200 OK\n", result
    else:
        assert result.stdout in ("UNABLE_TO_VERIFY_LEAF_SIGNATURE\n", "SELF_SIGNED_CERT_IN_CHAIN\n"), result


def test_python_with_urllib(program: Program, origin: Origin) -> None:
    script = (
        "import ssl, sys, urllib.request as u\n"
        "c = ssl.create_default_context(cafile=sys.argv[1]); c.verify_flags |= ssl.VERIFY_X509_STRICT\n"
        "o = u.build_opener(u.ProxyHandler({'https': sys.argv[2]}), u.HTTPSHandler(context=c))\n"
        "print(o.open(sys.argv[3], timeout=10).status)"
    )
    result = run(sys.executable, "-c", script, program.ca, program.url, f"https://localhost:{origin.port}/")
    assert result.stdout == "200\n", result.stderr


def test_an_operators_ca_by_the_usual_recipe(tmp_path: Path, roots: Path, origin: Origin) -> None:
    """``openssl req -x509`` makes a CA that lenient clients accept; the warning says what it lacks."""
    run(
        "openssl", "req", "-newkey", "rsa:2048", "-nodes", "-keyout", "ca.key", "-x509", "-days", "365", "-out",
        "ca.cert", "-subj", "/CN=Operator", cwd=tmp_path,
    )  # fmt: skip
    (tmp_path / "serial").write_text("1\n")
    with Program(
        tmp_path, "--store=certs", "--max=9", f"--upstream-ca={roots}",
        "--sign-cert=ca.cert", "--sign-key=ca.key", "--sign-serial=serial",
    ) as running:  # fmt: skip
        assert "no keyUsage" in running.wait_for("warning: the CA certificate ca.cert")
        url = f"https://localhost:{origin.port}/"
        assert run("curl", "-sS", "-x", running.url, "--cacert", tmp_path / "ca.cert", url).returncode == 0
        context = ssl.create_default_context(cafile=str(tmp_path / "ca.cert"))
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        with secure_tunnel(running, f"localhost:{origin.port}", context=context) as secure:
            assert get(secure).status == 200
        with pytest.raises(ssl.SSLCertVerificationError, match="key usage"):
            with secure_tunnel(running, f"localhost:{origin.port}", context=strict_context(tmp_path / "ca.cert")):
                pass


def test_an_intermediate_as_the_signer(tmp_path: Path, roots: Path, origin: Origin) -> None:
    root = TestCA("root", key=new_key(2048))
    middle = TestCA("middle", parent=root)
    (tmp_path / "root.pem").write_bytes(root.pem)
    (tmp_path / "middle.crt").write_bytes(middle.pem + root.pem)
    (tmp_path / "middle.key").write_bytes(key_pem(middle.key))
    (tmp_path / "serial").write_text("1\n")
    with (
        Program(
            tmp_path, "--store=certs", "--max=9", f"--upstream-ca={roots}",
            "--sign-cert=middle.crt", "--sign-key=middle.key", "--sign-serial=serial",
        ) as running,
        secure_tunnel(running, f"localhost:{origin.port}", context=strict_context(tmp_path / "root.pem")) as secure,
        urlopen(f"{running.url}/ca.crt", timeout=WAIT) as offered,
    ):  # fmt: skip
        assert get(secure).status == 200
        assert offered.read() == root.pem  # the root, which this client trusts; an intermediate would lack its issuer


def websocket_origin(sock: socket.socket) -> None:
    connection = WSConnection(ConnectionType.SERVER)
    while data := sock.recv(65_536):
        connection.receive_data(data)
        for event in connection.events():
            if isinstance(event, WSRequest):
                sock.sendall(connection.send(AcceptConnection()))
            elif isinstance(event, BytesMessage):
                sock.sendall(connection.send(BytesMessage(bytes(event.data), message_finished=event.message_finished)))
            elif isinstance(event, CloseConnection):
                sock.sendall(connection.send(event.response()))
                return


def test_a_websocket_echo(program: Program, certificate: Path) -> None:
    message = os.urandom(100_000)
    with (
        Origin(websocket_origin, certificate) as server,
        secure_tunnel(program, f"localhost:{server.port}", alpn=["http/1.1"]) as secure,
    ):
        connection = WSConnection(ConnectionType.CLIENT)
        secure.sendall(connection.send(WSRequest(host="localhost", target="/")))
        got = b""
        while len(got) < len(message):
            connection.receive_data(secure.recv(65_536))
            for event in connection.events():
                if isinstance(event, AcceptConnection):
                    secure.sendall(connection.send(BytesMessage(message)))
                elif isinstance(event, BytesMessage):
                    got += bytes(event.data)
        assert got == message
        secure.sendall(connection.send(CloseConnection(1000)))
        assert secure.recv(100)


# Much data


def rss(program: Program) -> int:
    """Resident octets of the process."""
    text = Path(f"/proc/{program.process.pid}/statm").read_text()
    return int(text.split()[1]) * os.sysconf("SC_PAGE_SIZE")


def descriptors(program: Program) -> int:
    return len(os.listdir(f"/proc/{program.process.pid}/fd"))


def digest_origin(sock: socket.socket) -> None:
    """Read a length and that many octets, send their digest; then send as many octets, and their digest."""
    with sock.makefile("rb") as file:
        length = int(file.readline())
        digest = hashlib.sha256()
        for _ in range(length // MIB):
            digest.update(file.read(MIB))
        sock.sendall(digest.hexdigest().encode())
        block = os.urandom(MIB)
        digest = hashlib.sha256()
        for _ in range(length // MIB):
            digest.update(block)
            sock.sendall(block)
        sock.sendall(digest.hexdigest().encode())


def read_exactly(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = sock.recv(count - len(data))
        assert more
        data += more
    return data


def test_large_transfers_both_ways(program: Program, certificate: Path) -> None:
    length = int(os.environ.get("TRANSFER_MIB", "64")) * MIB
    before = rss(program)
    with Origin(digest_origin, certificate) as server, secure_tunnel(program, f"localhost:{server.port}") as secure:
        secure.sendall(b"%d\n" % length)
        digest = hashlib.sha256()
        block = os.urandom(MIB)
        for _ in range(length // MIB):
            digest.update(block)
            secure.sendall(block)
        assert read_exactly(secure, 64).decode() == digest.hexdigest()
        digest = hashlib.sha256()
        for _ in range(length // MIB):
            digest.update(read_exactly(secure, MIB))
        assert read_exactly(secure, 64).decode() == digest.hexdigest()
    assert rss(program) - before < 8 * MIB


def test_a_client_that_does_not_read(program: Program, certificate: Path) -> None:
    """Back-pressure: the origin is slowed down, and memory stays flat."""
    sent = 0
    stuck = Event()

    def pour(sock: socket.socket) -> None:
        nonlocal sent
        sock.settimeout(2)
        try:
            while sent < 500 * MIB:
                sock.sendall(bytes(MIB))
                sent += MIB
        except TimeoutError:
            stuck.set()

    before = rss(program)
    with Origin(pour, certificate) as server, secure_tunnel(program, f"localhost:{server.port}"):
        assert stuck.wait(30)
        assert sent < 100 * MIB
        assert rss(program) - before < 8 * MIB


def test_small_requests_beside_a_bulk_tunnel(program: Program, certificate: Path, origin: Origin) -> None:
    """How long a request waits is told by what the bulk tunnel relays meanwhile: seconds tell of the machine, too."""
    done = Event()
    poured = 0

    def pour(sock: socket.socket) -> None:
        nonlocal poured
        while not done.is_set():
            sock.sendall(bytes(MIB // 4))
            poured += 1

    with Origin(pour, certificate) as server:
        url = f"https://localhost:{server.port}/"
        # The bulk client is a process of its own, so that the test's own hub is not the bottleneck.
        bulk = ["curl", "-sS", "--http0.9", "-x", program.url, "--cacert", str(program.ca), "-o", "/dev/null", url]
        with subprocess.Popen(bulk, stderr=subprocess.DEVNULL) as process:
            waited = []
            with secure_tunnel(program, f"localhost:{origin.port}") as secure:
                for _ in range(100):
                    start = poured
                    assert get(secure).status == 200
                    waited.append(poured - start)
            done.set()
            process.kill()
    assert sorted(waited)[98] * MIB // 4 <= 64 * MIB  # without giving way: gigabytes


def test_nothing_is_left_behind(program: Program, origin: Origin) -> None:
    """Ended tunnels release their sockets and memory."""
    context = strict_context(program.ca)

    def visit(count: int) -> None:
        for _ in range(count):
            with secure_tunnel(program, f"localhost:{origin.port}", context=context) as secure:
                assert get(secure).status == 200

    visit(1)
    base = descriptors(program)
    for _ in range(3):
        gevent.joinall([gevent.spawn(visit, 5) for _ in range(10)], raise_error=True)
    until(lambda: descriptors(program) <= base)
