"""The TLS that clients get: every possible cipher suite is offered, and what must be refused is tried."""

import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import gevent
import pytest
import rawtls
from gevent.event import Event
from gevent.queue import Queue
from lab import CUT_OFF, WAIT, Origin, Program, get, run, secure_tunnel, strict_context, talk, tunnel
from rawtls import TLS_1_0, TLS_1_1, TLS_1_2, TLS_1_3, Hello, client_hello, usual
from test_metrics import scrape, value
from tlslite.api import AlertDescription, AlertLevel, HandshakeSettings, TLSConnection
from tlslite.messages import Alert

from contexts import MOST_SESSIONS

MODERN = ssl.OPENSSL_VERSION_INFO >= (3, 5)
HANDSHAKE_FAILURE, PROTOCOL_VERSION, INAPPROPRIATE_FALLBACK = 40, 70, 86

SUITES_1_3 = {
    0x1301: "TLS_AES_128_GCM_SHA256",
    0x1302: "TLS_AES_256_GCM_SHA384",
    0x1303: "TLS_CHACHA20_POLY1305_SHA256",
}
# TLS 1.2: ECDHE with AEAD only.
SUITES = {
    "p256": {
        0xC02B: "ECDHE-ECDSA-AES128-GCM-SHA256",
        0xC02C: "ECDHE-ECDSA-AES256-GCM-SHA384",
        0xCCA9: "ECDHE-ECDSA-CHACHA20-POLY1305",
    },
    "rsa2048": {
        0xC02F: "ECDHE-RSA-AES128-GCM-SHA256",
        0xC030: "ECDHE-RSA-AES256-GCM-SHA384",
        0xCCA8: "ECDHE-RSA-CHACHA20-POLY1305",
    },
}


@pytest.fixture(scope="module", params=SUITES)
def key_type(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def proxy(key_type: str, roots: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    folder = tmp_path_factory.mktemp(key_type)
    options = ["--store=certs", "--max=9", "--ca=ca", f"--key-type={key_type}", f"--upstream-ca={roots}"]
    with Program(folder, *options) as running:
        yield running


def answer(proxy: Program, origin: Origin, hello: bytes) -> Hello | int:
    """The answer to a ClientHello: a ServerHello, or the description of an alert."""
    with tunnel(proxy.address, f"localhost:{origin.port}") as sock:
        sock.sendall(hello)
        return rawtls.read_hello(sock)


def accepted(proxy: Program, origin: Origin, extensions: Mapping[int, bytes]) -> set[int]:
    """The cipher suites that certifier accepts, out of all possible ones."""
    found = set()
    for start in range(0, 0x10000, 0x4000):  # one hello can't hold them all
        left = set(range(start, start + 0x4000)) - {rawtls.FALLBACK_SCSV}
        while isinstance(hello := answer(proxy, origin, client_hello(left, extensions)), Hello):
            found.add(hello.suites[0])
            left -= found
        assert hello == HANDSHAKE_FAILURE
    return found


NEW = {rawtls.VERSIONS: rawtls.vector(1, TLS_1_3.to_bytes(2)), rawtls.KEY_SHARES: rawtls.vector(2, b"")}
ALL = [*SUITES_1_3, *SUITES["p256"], *SUITES["rsa2048"]]


def test_suites(proxy: Program, origin: Origin, key_type: str) -> None:
    """No static RSA, no CBC, no RC4, no 3DES, no NULL, no EXPORT, no anonymous, no PSK, no CCM, nothing unassigned."""
    assert accepted(proxy, origin, usual("localhost")) == set(SUITES[key_type])
    assert accepted(proxy, origin, usual("localhost") | NEW) == set(SUITES_1_3)


def test_each_suite_works(proxy: Program, origin: Origin, key_type: str) -> None:
    for name in SUITES[key_type].values():
        context = strict_context(proxy.ca)
        context.set_ciphers(name)
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        with secure_tunnel(proxy, f"localhost:{origin.port}", context=context) as secure:
            assert get(secure).status == 200
            assert secure.cipher() is not None
            assert secure.cipher()[0] == name  # type: ignore[index]
    for name in SUITES_1_3.values():
        result = run(*s_client(proxy, origin), "-tls1_3", "-ciphersuites", name, input="").stdout
        assert f"Cipher is {name}" in result
        assert "Verify return code: 0 (ok)" in result


def s_client(proxy: Program, origin: Origin) -> list[str | Path]:
    return [
        "openssl", "s_client", "-proxy", proxy.url.removeprefix("http://"), "-connect", f"localhost:{origin.port}",
        "-servername", "localhost", "-CAfile", proxy.ca,
    ]  # fmt: skip


@pytest.mark.parametrize("version", [rawtls.SSL_3, TLS_1_0, TLS_1_1])
def test_old_versions(proxy: Program, origin: Origin, version: int) -> None:
    every = [*ALL, 0x002F, 0xC009, 0xC013, 0x0005, 0x000A]
    alerts = {PROTOCOL_VERSION, HANDSHAKE_FAILURE}  # OpenSSL sends the latter for SSL 3.0
    assert answer(proxy, origin, client_hello(every, usual("localhost"), version)) in alerts
    extensions = usual("localhost") | {rawtls.VERSIONS: rawtls.vector(1, version.to_bytes(2))}
    assert answer(proxy, origin, client_hello(every, extensions)) == PROTOCOL_VERSION


@pytest.mark.parametrize("option", ["-tls1", "-tls1_1"])
def test_old_versions_by_openssl(proxy: Program, origin: Origin, option: str) -> None:
    result = run(*s_client(proxy, origin), option, "-cipher", "ALL:@SECLEVEL=0", input="")
    assert "alert protocol version" in result.stderr


def test_what_a_server_hello_says(proxy: Program, origin: Origin) -> None:
    extensions = usual("localhost") | {
        rawtls.EXTENDED_MASTER_SECRET: b"",
        rawtls.HEARTBEAT: b"\1",
        rawtls.ENCRYPT_THEN_MAC: b"",
    }
    hello = answer(proxy, origin, client_hello(ALL, extensions, compressions=b"\1\x40\0"))
    assert isinstance(hello, Hello)
    assert hello.version == TLS_1_2
    assert hello.random.endswith(b"DOWNGRD\1")  # RFC 8446 §4.1.3: it could have negotiated 1.3
    assert hello.compressions == (0,)
    assert hello.extensions[rawtls.RENEGOTIATION] == b"\0"  # RFC 5746 §3.6
    assert rawtls.EXTENDED_MASTER_SECRET in hello.extensions  # RFC 7627
    assert rawtls.HEARTBEAT not in hello.extensions
    hello = answer(proxy, origin, client_hello(ALL, usual("localhost") | NEW))
    assert isinstance(hello, Hello)
    assert hello.extensions[rawtls.VERSIONS] == TLS_1_3.to_bytes(2)


def test_a_version_that_was_fallen_back_to(proxy: Program, origin: Origin) -> None:
    hello = client_hello([*ALL, rawtls.FALLBACK_SCSV], usual("localhost"))
    assert answer(proxy, origin, hello) == INAPPROPRIATE_FALLBACK
    both = NEW | {rawtls.VERSIONS: rawtls.numbers(1, [TLS_1_3, TLS_1_2])}
    assert isinstance(
        answer(proxy, origin, client_hello([*ALL, rawtls.FALLBACK_SCSV], usual("localhost") | both)), Hello
    )


def test_grease(proxy: Program, origin: Origin) -> None:
    """RFC 8701: unknown values are ignored."""
    extensions = {0x1A1A: b"", **usual("localhost"), **NEW, 0xFAFA: b"\0"}
    extensions[rawtls.VERSIONS] = rawtls.numbers(1, [0x2A2A, TLS_1_3])
    extensions[rawtls.GROUPS] = rawtls.numbers(2, [0x3A3A, rawtls.X25519])
    assert isinstance(answer(proxy, origin, client_hello([0x4A4A, *ALL], extensions)), Hello)


@pytest.mark.parametrize("group", [rawtls.X25519, rawtls.SECP256R1, rawtls.SECP384R1, 25, 30])
def test_groups(proxy: Program, origin: Origin, group: int) -> None:
    extensions = usual("localhost") | {rawtls.GROUPS: rawtls.numbers(2, {group, rawtls.SECP256R1})}
    assert isinstance(answer(proxy, origin, client_hello(ALL, extensions)), Hello)
    for offered in ([group], [0x0100, group]):  # a finite field is no reason to refuse if there is a curve
        extensions = usual("localhost") | NEW | {rawtls.GROUPS: rawtls.numbers(2, offered)}
        retry = answer(proxy, origin, client_hello(ALL, extensions))
        assert isinstance(retry, Hello)
        assert retry.random == rawtls.RETRY
        assert retry.extensions[rawtls.KEY_SHARES] == group.to_bytes(2)


@pytest.mark.parametrize("group", [1, 19, 21, 22])
def test_small_groups(proxy: Program, origin: Origin, group: int) -> None:
    """sect163k1, secp192r1, secp224r1, secp256k1."""
    extensions = usual("localhost") | {rawtls.GROUPS: rawtls.numbers(2, [group])}
    assert answer(proxy, origin, client_hello(ALL, extensions)) == HANDSHAKE_FAILURE
    assert answer(proxy, origin, client_hello(ALL, extensions | NEW)) == HANDSHAKE_FAILURE


@pytest.mark.parametrize("group", range(256, 261))
def test_finite_fields(proxy: Program, origin: Origin, group: int) -> None:
    """RFC 7919's groups: with 8192 bits, a handshake costs OpenSSL a tenth of a second and the client nothing."""
    alone = usual("localhost") | NEW | {rawtls.GROUPS: rawtls.numbers(2, [group])}
    assert answer(proxy, origin, client_hello(ALL, alone)) == HANDSHAKE_FAILURE
    both = alone | {rawtls.GROUPS: rawtls.numbers(2, [group, rawtls.X25519])}
    share = group.to_bytes(2) + rawtls.vector(2, (2).to_bytes((256, 384, 512, 768, 1024)[group - 256]))
    first = both | {rawtls.KEY_SHARES: rawtls.vector(2, share)}
    assert answer(proxy, origin, client_hello(ALL, first)) == HANDSHAKE_FAILURE
    retry = answer(proxy, origin, client_hello(ALL, both))
    assert isinstance(retry, Hello)
    assert retry.extensions[rawtls.KEY_SHARES] == rawtls.X25519.to_bytes(2)


@pytest.mark.parametrize("hybrid", [0x11EB, 0x11EC, 0x11ED])
def test_finite_fields_behind_a_hybrid(proxy: Program, origin: Origin, hybrid: int) -> None:
    """Of a curve and ML-KEM. An OpenSSL that does not know it takes what comes next."""
    finite = 0x0104

    def offered(*groups: int) -> dict[int, bytes]:
        return usual("localhost") | NEW | {rawtls.GROUPS: rawtls.numbers(2, groups)}

    sizes = ((hybrid, 1216), (finite, 1024))
    shares = b"".join(group.to_bytes(2) + rawtls.vector(2, (2).to_bytes(octets)) for group, octets in sizes)
    both = {rawtls.KEY_SHARES: rawtls.vector(2, shares)}
    assert answer(proxy, origin, client_hello(ALL, offered(hybrid, finite))) == HANDSHAKE_FAILURE
    assert answer(proxy, origin, client_hello(ALL, offered(hybrid, finite) | both)) == HANDSHAKE_FAILURE
    retry = answer(proxy, origin, client_hello(ALL, offered(hybrid, finite, rawtls.X25519)))
    assert isinstance(retry, Hello)
    assert int.from_bytes(retry.extensions[rawtls.KEY_SHARES]) in (rawtls.X25519, rawtls.X25519_MLKEM768)


@pytest.mark.skipif(not MODERN, reason="OpenSSL 3.5 and newer have X25519MLKEM768")
def test_the_post_quantum_group(proxy: Program, origin: Origin) -> None:
    groups = [rawtls.X25519, rawtls.X25519_MLKEM768]
    extensions = usual("localhost") | NEW | {rawtls.GROUPS: rawtls.numbers(2, groups)}
    retry = answer(proxy, origin, client_hello(ALL, extensions))
    assert isinstance(retry, Hello)
    assert retry.extensions[rawtls.KEY_SHARES] == rawtls.X25519_MLKEM768.to_bytes(2)
    result = run(*s_client(proxy, origin), "-tls1_3", "-groups", "X25519MLKEM768", input="")
    assert "Verify return code: 0 (ok)" in result.stdout


def test_signatures_with_sha1(proxy: Program, origin: Origin) -> None:
    extensions = usual("localhost") | {rawtls.SCHEMES: rawtls.numbers(2, [0x0203, 0x0201, 0x0101])}
    assert answer(proxy, origin, client_hello(ALL, extensions)) == HANDSHAKE_FAILURE
    assert answer(proxy, origin, client_hello(ALL, extensions | NEW)) == HANDSHAKE_FAILURE


def test_keys_are_fresh(proxy: Program, origin: Origin) -> None:
    """Neither the server's random nor its ephemeral key is reused."""
    shares, randoms = set(), set()
    for _ in range(5):
        with tunnel(proxy.address, f"localhost:{origin.port}") as sock:
            sock.sendall(client_hello(ALL, usual("localhost")))
            flight = rawtls.read_flight(sock)
        randoms.add(flight[rawtls.SERVER_HELLO][2:34])
        shares.add(flight[rawtls.SERVER_KEY_EXCHANGE][4:36])
    assert len(shares) == len(randoms) == 5


def test_a_hello_retry_request(proxy: Program, origin: Origin) -> None:
    """With another library's client, which sends no share; OpenSSL's always sends one that certifier takes.

    Nor does a ticket permit early data, which could be replayed (RFC 8446 §8).
    """
    settings = HandshakeSettings()
    settings.keyShares = []
    settings.minVersion = (3, 4)
    with tunnel(proxy.address, f"localhost:{origin.port}") as sock:
        connection = TLSConnection(sock)
        connection.handshakeClientCert(settings=settings, serverName="localhost")
        assert connection.version == (3, 4)
        connection.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert connection.read(max=4096, min=15).startswith(b"HTTP/1.1 200 OK")
        (ticket,) = connection.tickets
        assert rawtls.EARLY_DATA not in [extension.extType for extension in ticket.extensions]


def test_renegotiation(proxy: Program, origin: Origin) -> None:
    """``R`` makes openssl ask for it; the refusing alert is sent at once, though nothing else is to be sent."""
    with talk(*s_client(proxy, origin), "-tls1_2") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("R\n")
        process.stdin.flush()
        said = process.stdout.read()
    assert "RENEGOTIATING" in said
    assert "no renegotiation" in said
    assert "Compression: NONE" in said
    assert "Secure Renegotiation IS supported" in said


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_sessions(proxy: Program, origin: Origin, version: ssl.TLSVersion) -> None:
    """A session is resumed for its own name only."""
    context = strict_context(proxy.ca)
    context.maximum_version = version

    def session(name: str, before: ssl.SSLSession | None = None) -> tuple[bool | None, ssl.SSLSession | None]:
        target = f"127.0.0.1:{origin.port}"
        with secure_tunnel(proxy, target, name, context=context, session=before) as secure:
            assert get(secure).status == 200
            return secure.session_reused, secure.session

    reused, first = session("localhost")
    assert not reused
    assert session("localhost", first)[0]
    assert not session("www.example.com", first)[0]


def test_sessions_of_clients_without_tickets_do_not_pile_up(proxy: Program, origin: Origin) -> None:
    context = strict_context(proxy.ca)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_TICKET

    def visit() -> None:
        with secure_tunnel(proxy, f"127.0.0.1:{origin.port}", "www.example.com", context=context) as secure:
            assert get(secure).status == 200
            secure.unwrap()

    def renewed() -> float:
        return value(scrape(proxy), "certifier_retrievals_total", source="renewed") or 0

    before = renewed()
    for _ in range(MOST_SESSIONS):
        visit()
    with gevent.Timeout(WAIT):
        while renewed() == before:
            visit()  # a visit during the look at the files leaves the renewal to the next


def test_a_client_that_uploads_and_leaves(proxy: Program, certificate: Path) -> None:
    """It never reads: with an unread session ticket, its close would be a reset that cuts off the upload under way."""
    blocked = Event()
    heard: list[int] = []
    seen = len(proxy.lines)

    def slow(sock: socket.socket) -> None:
        blocked.wait(WAIT)
        count = 0
        while data := sock.recv(65_536):
            count += len(data)
        heard.append(count)  # not reached after a truncation

    with Origin(slow, certificate) as origin, tunnel(proxy.address, f"localhost:{origin.port}") as sock:
        came, goes = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = strict_context(proxy.ca).wrap_bio(came, goes, server_hostname="localhost")
        while client.version() is None or goes.pending:
            try:
                client.do_handshake()
            except ssl.SSLWantReadError:
                sock.sendall(goes.read())
                came.write(sock.recv(65_536))
            else:
                sock.sendall(goes.read())
        count, rest = 0, b""
        sock.settimeout(0.5)
        with suppress(TimeoutError):  # until all buffers in between are full, as the origin reads nothing
            while True:
                count += client.write(bytes(16_384))
                rest = goes.read()
                while rest:
                    rest = rest[sock.send(rest) :]
        blocked.set()
        with suppress(ssl.SSLWantReadError):
            client.unwrap()
        sock.settimeout(WAIT)
        sock.sendall(rest + goes.read())
        sock.close()
        proxy.wait_for(f" tunnel .*:{origin.port} .* client_tls=TLSv1.3 .* sent={count} .* outcome=closed$", seen)
    assert heard == [count]


class InTwo:
    """A socket that writes once, and all that follows when told to."""

    def __init__(self, sock: socket.socket) -> None:
        self.rest: bytes | None = None
        self.recv = sock.recv
        self._send = sock.sendall

    def sendall(self, data: bytes) -> None:
        if self.rest is None:
            self.rest = b""
            self._send(data)
        else:
            self.rest += data

    def send(self, data: bytes) -> int:
        self.sendall(data)
        return len(data)


def test_a_client_that_refuses_with_its_last_flight(proxy: Program, certificate: Path) -> None:
    """It says goodbye as well, in the same segment: that does not make its end an orderly one."""
    ends: Queue[Exception | None] = Queue()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    context.num_tickets = 0  # which may draw a reset, before or after the origin is told the end

    def hear(sock: socket.socket) -> None:
        try:
            assert not sock.recv(100)
        except CUT_OFF as error:
            ends.put(error)
        else:
            ends.put(None)

    seen = len(proxy.lines)
    with Origin(hear, context) as origin, tunnel(proxy.address, f"localhost:{origin.port}") as sock:
        both = InTwo(sock)
        client = TLSConnection(both)
        settings = HandshakeSettings()
        settings.minVersion = (3, 4)
        client.handshakeClientCert(settings=settings, serverName="localhost")
        for level, what in (AlertLevel.fatal, AlertDescription.unknown_ca), (AlertLevel.warning, 0):
            list(client._sendMsg(Alert().create(what, level)))
        assert both.rest
        sock.sendall(both.rest)
        ours = sock.getsockname()[1]  # an earlier origin may have had the same port
        line = proxy.wait_for(f" tunnel client=127.0.0.1:{ours} .*outcome=", seen)
        assert "outcome=client-tls-error detail=TLSV1_ALERT_UNKNOWN_CA" in line
        assert ends.get(timeout=WAIT) is not None
