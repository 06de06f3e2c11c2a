"""Origins that require a client certificate, which certifier lacks: a page says so, with TLS 1.2 and 1.3.

Those that only ask for one must work. OpenSSL and Go send different alerts; some servers send none, and close.
"""

import re
import shutil
import signal
import socket
import ssl
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import gevent
import h2.config
import h2.connection
import h2.events
import pytest
import rawtls
from gevent.event import Event
from lab import (
    CUT_OFF,
    WAIT,
    BioClient,
    BioServer,
    Origin,
    Program,
    Reply,
    get,
    http_origin,
    read_reply,
    run,
    secure_tunnel,
    strict_context,
    talk,
    tunnel,
)
from pki import TestCA, new_key

from errors import OriginAlert, OriginTlsError, OriginWantsCertificate
from flight import is_tls, wants_certificate
from upstream import broke

ASK = [(":method", "GET"), (":scheme", "https"), (":authority", "localhost"), (":path", "/")]

Start = Callable[[Path, bool, str], AbstractContextManager[int]]


@contextmanager
def openssl(certificate: Path, required: bool, version: str) -> Iterator[int]:
    """Run ``openssl s_server``, which serves a page; yield its port."""
    with talk(
        "openssl", "s_server", "-accept", "127.0.0.1:0", "-cert", certificate, "-key", certificate, "-www",
        "-Verify" if required else "-verify", "1", "-tls1_2" if version == "1.2" else "-tls1_3",
    ) as process:  # fmt: skip
        assert process.stdout is not None
        found = next(match for line in process.stdout if (match := re.match(r"ACCEPT .*:(\d+)$", line)))
        yield int(found[1])


@pytest.fixture(scope="session")
def go_server(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("go") is None:
        pytest.skip("no Go here: its alert is told of by test_what_alerts_mean")
    path = tmp_path_factory.mktemp("go") / "wants"
    source = Path(__file__).with_name("wants.go")
    built = run("go", "build", "-o", path, source, timeout=200, env={"PATH": "/usr/bin:/bin", "HOME": str(path.parent)})
    assert built.returncode == 0, built.stderr
    return path


# Go 1.20 and later compile their library first: half a minute of CPU, and machines may be busy.
@pytest.fixture(params=["openssl", pytest.param("go", marks=pytest.mark.timeout(240))])
def start(request: pytest.FixtureRequest) -> Start:
    if request.param == "openssl":
        return openssl
    program = request.getfixturevalue("go_server")

    @contextmanager
    def go(certificate: Path, required: bool, version: str) -> Iterator[int]:
        need = "require" if required else "request"
        with talk(program, certificate, need, version) as process:
            assert process.stdout is not None
            yield int(process.stdout.readline())

    return go


def get_directly(port: int, roots: Path) -> Reply:
    with socket.create_connection(("127.0.0.1", port), timeout=WAIT) as sock:
        with strict_context(roots).wrap_socket(sock, server_hostname="localhost") as secure:
            return get(secure)


def says_so(reply: Reply, status: str = "tls_alert_received") -> bool:
    assert (reply.status, reply.reason) == (502, "Origin wants a client certificate")
    assert reply.headers["proxy-status"].startswith(f"certifier; error={status}; details=")
    assert reply.body == (
        b"certifier: localhost wants a client certificate, which certifier does not have: "
        b"let it pass unread with --bypass=localhost\n"
    )
    return True


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_required(program: Program, certificate: Path, roots: Path, start: Start, version: str) -> None:
    seen = len(program.lines)
    with start(certificate, True, version) as port:
        with pytest.raises(OSError, match=r"(?i)alert|reset"):
            get_directly(port, roots)
        with secure_tunnel(program, f"localhost:{port}") as secure:
            assert says_so(get(secure))
        with secure_tunnel(program, f"localhost:{port}") as secure:
            reply = get(secure, method="HEAD")
            assert (reply.status, secure.recv(1)) == (502, b"")
        with tunnel(program.address, f"localhost:{port}") as sock:
            client = BioClient(sock, strict_context(program.ca), "localhost")
            client.close_notify()  # it sends no request, and is told all the same
            assert client.read().startswith(b"HTTP/1.1 502 ")
    program.wait_for(r"status=502 outcome=tls_alert_received detail=.localhost wants a client certificate", seen)


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_asked_for_and_not_needed(program: Program, certificate: Path, start: Start, version: str) -> None:
    seen = len(program.lines)
    with start(certificate, False, version) as port, secure_tunnel(program, f"localhost:{port}") as secure:
        assert secure.version() == "TLSv1.3"
        secure.sendall(b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n")
        assert re.match(rb"HTTP/1.0 200 ", secure.recv(65_536))
        ours = secure.getsockname()[1]  # an earlier origin may have had the same port
    assert f"origin_tls=TLSv{version}" in program.wait_for(f"client=127.0.0.1:{ours} .*outcome=", seen)


@pytest.mark.parametrize("version", ["1.2", "1.3"])
@pytest.mark.parametrize("option", ["--http1.1", "--http2", "--head", "-dx"])
def test_curl(program: Program, certificate: Path, go_server: Path, version: str, option: str) -> None:
    words = ["curl", "-sS", "-i", option, "-x", program.url, "--cacert", str(program.ca), "-m", "15"]
    with talk(go_server, certificate, "require", version) as process:
        assert process.stdout is not None
        result = run(*words, f"https://localhost:{int(process.stdout.readline())}/")
    assert result.returncode == 0, result.stderr
    over_2 = version == "1.3" and option != "--http1.1"  # with TLS 1.2 it is known before the client's handshake
    assert ("HTTP/2 502" if over_2 else "HTTP/1.1 502 Origin wants a client certificate") in result.stdout
    assert ("localhost wants a client certificate, which" in result.stdout.split("\n\n")[-1]) is (option != "--head")


def wanting(certificate: Path, version: ssl.TLSVersion) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    context.maximum_version = version
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def test_many_requests_at_once(program: Program, certificate: Path) -> None:
    """The first is answered; the others are reported as not processed."""
    context = wanting(certificate, ssl.TLSVersion.TLSv1_3)
    context.set_alpn_protocols(["h2"])
    with Origin(http_origin, context) as server:
        with secure_tunnel(program, f"localhost:{server.port}", alpn=["h2"]) as secure:
            assert secure.selected_alpn_protocol() == "h2"
            connection = h2.connection.H2Connection(h2.config.H2Configuration())
            connection.initiate_connection()
            for stream in (3, 5, 7):
                connection.send_headers(stream, ASK, end_stream=True)
            secure.sendall(connection.data_to_send())
            events: list[h2.events.Event] = []
            while data := secure.recv(65_536):
                events += connection.receive_data(data)
    responses = [event for event in events if isinstance(event, h2.events.ResponseReceived)]
    assert [(event.stream_id, dict(event.headers)[b":status"]) for event in responses] == [(3, b"502")]
    goaway = next(event for event in events if isinstance(event, h2.events.ConnectionTerminated))
    assert goaway.last_stream_id == 3


@pytest.mark.parametrize("first", ["origin", "client"])
def test_an_alert_and_a_reset_that_meet_a_request(program: Program, certificate: Path, first: str) -> None:
    """The request can't be passed on, and the reason is read only after that: the client is told all the same."""
    ready, go, gone = Event(), Event(), Event()

    def handler(sock: socket.socket) -> None:
        server = BioServer(sock, certificate)
        sock.sendall(server.flight())
        server.complete()
        server.came.write(b"\x17\x03\x03\x00\x20" + bytes(32))  # a forged record, which provokes an alert
        with pytest.raises(ssl.SSLError):
            server.tls.read(1)
        ready.set()
        assert go.wait(WAIT)
        sock.sendall(server.goes.read())
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        socket.close(sock.detach())  # at once: gevent's socket would close later, in its loop
        gone.set()

    with Origin(handler) as server, secure_tunnel(program, f"localhost:{server.port}") as secure:
        assert ready.wait(WAIT)
        program.process.send_signal(signal.SIGSTOP)
        while Path(f"/proc/{program.process.pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
            pass
        try:
            if first == "client":
                secure.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            go.set()
            assert gone.wait(WAIT)
            if first == "origin":
                secure.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        finally:
            program.process.send_signal(signal.SIGCONT)
        assert read_reply(secure).status == 502
        assert secure.recv(1) == b""


def test_an_origin_that_lets_in_again_is_let_in(program: Program, certificate: Path) -> None:
    context = wanting(certificate, ssl.TLSVersion.TLSv1_3)
    with Origin(http_origin, context) as server:
        with secure_tunnel(program, f"localhost:{server.port}") as secure:
            assert says_so(get(secure))
        context.verify_mode = ssl.CERT_NONE
        with secure_tunnel(program, f"localhost:{server.port}") as secure:
            assert get(secure).status == 200


# A TLS 1.2 origin that gives no reason: only its CertificateRequest shows it.

REQUEST = rawtls.message(13, bytes((1, 64)) + rawtls.numbers(2, [0x0403]) + rawtls.vector(2, b""))


def raw_flight(authority: TestCA, hello: rawtls.Hello, *, asks: bool) -> bytes:
    key = new_key()
    first = rawtls.server_hello(rawtls.ECDHE_ECDSA, {rawtls.RENEGOTIATION: b"\x00"})
    flight = rawtls.flight(hello, first, authority.issue("localhost", key=key, with_key=False), key)
    done = rawtls.message(rawtls.SERVER_HELLO_DONE, b"")
    return rawtls.records(rawtls.HANDSHAKE, flight + (REQUEST if asks else b"") + done)


@pytest.mark.parametrize("asks", [True, False])
@pytest.mark.parametrize("how", ["reset", "close", "alert"])
def test_an_origin_that_ends_it(program: Program, origin_ca: TestCA, asks: bool, how: str) -> None:
    def end(sock: socket.socket) -> None:
        hello = rawtls.read_hello(sock)
        assert isinstance(hello, rawtls.Hello)
        sock.sendall(raw_flight(origin_ca, hello, asks=asks))
        kind, _ = rawtls.read_record(sock)  # the empty Certificate, and the ClientKeyExchange
        assert kind == rawtls.HANDSHAKE
        if how == "reset":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif how == "alert":
            sock.sendall(rawtls.records(rawtls.ALERT, b"\x02\x28"))  # handshake_failure, as RFC 5246 §7.4.6 has it

    with Origin(end) as server, secure_tunnel(program, f"localhost:{server.port}") as secure:
        reply = get(secure)
    if asks:
        assert says_so(reply, "tls_alert_received" if how == "alert" else "connection_terminated")
    else:
        assert reply.reason == "Origin TLS handshake failed"
        text = b"ended TLS with the alert handshake_failure" if how == "alert" else b"closed the connection in the TLS"
        assert text in reply.body


def test_what_else_is_wrong_is_not_taken_for_it(program: Program, roots: Path, tmp_path: Path) -> None:
    """The origin asks for a certificate, and its own is not trusted."""
    path = tmp_path / "stranger.pem"
    path.write_bytes(TestCA("a stranger").issue("localhost"))
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        with Origin(http_origin, wanting(path, version)) as server:
            with secure_tunnel(program, f"localhost:{server.port}") as secure:
                assert get(secure).reason == "Origin certificate not trusted"


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("TLSV13_ALERT_CERTIFICATE_REQUIRED", OriginWantsCertificate),
        ("SSLV3_ALERT_BAD_CERTIFICATE", OriginWantsCertificate),  # Go, Java
        ("SSLV3_ALERT_CERTIFICATE_UNKNOWN", OriginWantsCertificate),
        ("SSLV3_ALERT_NO_CERTIFICATE", OriginWantsCertificate),
        ("TLSV1_ALERT_UNKNOWN_CA", OriginWantsCertificate),
        ("SSLV3_ALERT_HANDSHAKE_FAILURE", OriginAlert),
        ("TLSV1_ALERT_ACCESS_DENIED", OriginAlert),
        ("TLSV1_UNRECOGNIZED_NAME", OriginAlert),
        ("DH_KEY_TOO_SMALL", OriginTlsError),
    ],
)
def test_what_alerts_mean(reason: str, kind: type[OriginTlsError]) -> None:
    assert type(broke("a.example", reason)) is kind


def test_flights(origin_ca: TestCA) -> None:
    hello = rawtls.Hello(rawtls.TLS_1_2, bytes(32), b"", (), (), {})
    alert = rawtls.records(rawtls.ALERT, b"\x02\x28")
    asking, other = raw_flight(origin_ca, hello, asks=True), raw_flight(origin_ca, hello, asks=False)
    assert wants_certificate(asking + alert)
    assert wants_certificate(asking, closed=True)
    assert not wants_certificate(asking)  # it was certifier that stopped
    assert not wants_certificate(other + alert)
    assert not wants_certificate(b"", closed=True)
    whole = len(asking) - 4 - len(REQUEST)
    assert not wants_certificate(asking[:whole], closed=True)
    assert not wants_certificate(asking[:-1], closed=True)  # not read yet, so not answered
    assert not wants_certificate(asking + alert[:-1])
    assert not wants_certificate(b"HTTP/1.1 400 Bad Request\r\n\r\n", closed=True)
    assert is_tls(b"")  # OpenSSL can fail before anything is received


@contextmanager
def renegotiating(certificate: Path, roots: Path) -> Iterator["tuple[int, subprocess.Popen[str]]"]:
    """``openssl s_server`` on TLS 1.2, which asks for a certificate when ``R`` is written to its standard input."""
    words: list[str | Path] = ["openssl", "s_server", "-accept", "127.0.0.1:0", "-tls1_2", "-CAfile", roots]
    with talk(*words, "-cert", certificate, "-key", certificate) as process:
        assert process.stdout is not None
        found = next(match for line in process.stdout if (match := re.match(r"ACCEPT .*:(\d+)$", line)))
        yield int(found[1]), process


def say_when(process: "subprocess.Popen[str]", seen: str, word: str) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    assert any(line == seen for line in process.stdout)
    process.stdin.write(word)
    process.stdin.flush()


def test_renegotiation(program: Program, certificate: Path, roots: Path) -> None:
    """As Apache and IIS do for some pages: it is refused at once, though nothing else is to be sent."""
    with renegotiating(certificate, roots) as (port, process):
        with secure_tunnel(program, f"localhost:{port}") as secure:
            secure.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            say_when(process, "Host: localhost\n", "R\n")
            reply = read_reply(secure)
    assert (reply.status, reply.reason) == (502, "Origin wants to renegotiate TLS")
    assert b"localhost wants to renegotiate TLS, most likely for a client certificate" in reply.body
    assert "error=tls_protocol_error" in reply.headers["proxy-status"]


def test_renegotiation_behind_a_response(program: Program, certificate: Path, roots: Path) -> None:
    """What was sent before arrives, followed by an abrupt end."""
    with renegotiating(certificate, roots) as (port, process):
        with secure_tunnel(program, f"localhost:{port}") as secure:
            secure.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            say_when(process, "Host: localhost\n", "HTTP/1.1 200 OK\n")
            assert rawtls.read(secure, 16) == b"HTTP/1.1 200 OK\n"
            say_when(process, "\n", "R\n")
            with pytest.raises(CUT_OFF):
                secure.recv(1)


MUCH = 4096
PING = bytes((0, 0, 8, 6, 0, 0, 0, 0, 0)) + b"8 octets"  # RFC 9113 §6.7


class Gate:
    """A relay to an origin that holds back what the origin sends after its first flight."""

    def __init__(self, port: int, much: int = MUCH) -> None:
        self.heard = Event()  # the client has sent more than a handshake takes
        self.open = Event()
        self._port = port
        self._much = much

    def __call__(self, sock: socket.socket) -> None:
        with socket.create_connection(("127.0.0.1", self._port), timeout=WAIT) as origin:
            upward = gevent.spawn(self._upward, sock, origin)
            sock.sendall(origin.recv(65_536))
            assert self.open.wait(WAIT)
            while data := origin.recv(65_536):
                sock.sendall(data)
            upward.kill()

    def _upward(self, sock: socket.socket, origin: socket.socket) -> None:
        octets = 0
        while data := sock.recv(65_536):
            octets += len(data)
            if octets > self._much:
                self.heard.set()
            with suppress(OSError):
                origin.sendall(data)


@pytest.fixture(scope="module")
def watching(roots: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """A proxy that decodes what passes."""
    folder = tmp_path_factory.mktemp("watching")
    options = ["--store=certs", "--max=9", "--ca=ca", "--log-requests", f"--upstream-ca={roots}"]
    with Program(folder, *options) as running:
        yield running


@pytest.mark.parametrize("which", ["program", "watching"])
@pytest.mark.parametrize("alpn", ["http/1.1", "h2"])
def test_an_origin_that_is_far_away(request: pytest.FixtureRequest, certificate: Path, alpn: str, which: str) -> None:
    """Its alert arrives when the tunnel is already relaying and waits for the client again."""
    program: Program = request.getfixturevalue(which)
    context = wanting(certificate, ssl.TLSVersion.TLSv1_3)
    context.set_alpn_protocols([alpn])
    connection = h2.connection.H2Connection(h2.config.H2Configuration())
    connection.initiate_connection()
    with Origin(http_origin, context) as server:
        gate = Gate(server.port)
        with Origin(gate) as relay, secure_tunnel(program, f"localhost:{relay.port}", alpn=[alpn]) as secure:
            if alpn == "h2":
                secure.sendall(connection.data_to_send() + MUCH // len(PING) * PING)
            else:
                secure.sendall(b"GET / HTTP/1.1\r\nX: " + MUCH * b"x")
            assert gate.heard.wait(WAIT)
            gate.open.set()
            if alpn == "h2":
                connection.send_headers(1, ASK, end_stream=True)
                secure.sendall(connection.data_to_send())
                events = connection.receive_data(secure.recv(65_536))
                response = next(event for event in events if isinstance(event, h2.events.ResponseReceived))
                assert dict(response.headers)[b":status"] == b"502"
            else:
                secure.sendall(b"\r\n\r\n")
                assert says_so(read_reply(secure))


def test_a_client_that_says_too_much_for_one_who_listens_late(program: Program, certificate: Path) -> None:
    """The start of its request is lost by then: it is told that none was seen, and not left waiting."""
    context = wanting(certificate, ssl.TLSVersion.TLSv1_3)
    context.set_alpn_protocols(["h2"])
    connection = h2.connection.H2Connection(h2.config.H2Configuration())
    connection.initiate_connection()
    with Origin(http_origin, context) as server:
        most = 50 * MUCH  # more than is ever read at once, as may arrive with the end of a handshake
        gate = Gate(server.port, most)
        with Origin(gate) as relay, secure_tunnel(program, f"localhost:{relay.port}", alpn=["h2"]) as secure:
            secure.sendall(connection.data_to_send() + (most // len(PING) + 1) * PING)
            assert gate.heard.wait(WAIT)
            gate.open.set()
            connection.send_headers(1, ASK, end_stream=True)
            secure.sendall(connection.data_to_send())
            events: list[h2.events.Event] = []
            while not any(isinstance(event, h2.events.ConnectionTerminated) for event in events):
                data = secure.recv(65_536)
                assert data
                events += connection.receive_data(data)
    assert not any(isinstance(event, h2.events.ResponseReceived) for event in events)
