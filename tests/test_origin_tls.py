"""Origins whose TLS is too old or too weak, or that break its rules; and what certifier offers them.

Three kinds of servers: OpenSSL's at security level 0; tlslite-ng's for what OpenSSL no longer does (SSL 3.0, RC4, 3DES,
SHA-1 signatures); and hand-made octets for what no library does: to select what was not offered.
"""

import base64
import re
import socket
import ssl
import time
from contextlib import suppress
from pathlib import Path

import gevent
import pytest
import rawtls
from chains import Made, der, file, make, rsa_key
from gevent.event import Event
from gevent.queue import Queue
from lab import (
    WAIT,
    BioClient,
    BioServer,
    Origin,
    Program,
    Reply,
    exchange,
    get,
    http_origin,
    secure_tunnel,
    strict_context,
    tunnel,
)
from old_tls import KINDS, TODAY, OldServer, lenient_get
from pki import TestCA, new_key
from rawtls import RENEGOTIATION, TLS_1_2, Hello, server_hello
from test_hello import real_hello

from flight import is_costly
from tlsconfig import client_context

MODERN = ssl.OPENSSL_VERSION_INFO >= (3, 5)
LARGEST = "ffdhe3072" if MODERN else "ffdhe8192"  # finite-field group of those that OpenSSL offers by default
# Safe primes with the generator 2: one of 512 bits, and those of RFC 2409 §6.2 and RFC 3526 §3, which begin alike.
_ALIKE = (
    "ffffffffffffffffc90fdaa22168c234c4c6628b80dc1cd129024e088a67cc74020bbea63b139b22514a08798e3404ddef9519b3"
    "cd3a431b302b0a6df25f14374fe1356d6d51c245e485b576625e7ec6f44c42e9a637ed6b0bff5cb6f406b7edee386bfb5a899fa5"
    "ae9f24117c4b1fe649286651ece"
)
PRIMES = {
    512: "b36a333b13c8950cdd6f9b2aacfcdf87f1719d0a5ccbce45b4212b12ee7fb3e0476b77ef0f6282b46957532658"
    "73f8f52decb1a5eb4e50f91e9a47e0969e3c4f",
    1024: _ALIKE + "65381ffffffffffffffff",
    2048: _ALIKE + "45b3dc2007cb8a163bf0598da48361c55d39a69163fa8fd24cf5f83655d23dca3ad961c62f356"
    "208552bb9ed529077096966d670c354e4abc9804f1746c08ca18217c32905e462e36ce3be39e772c180e86039b2783a2ec07a28f"
    "b5c55df06f4c52c9de2bcbf6955817183995497cea956ae515d2261898fa051015728e5a8aacaa68ffffffffffffffff",
}

# A certificate, signed by nobody, whose key has explicit curve parameters: over a 661-bit prime that is one more than a
# multiple of 2**640. Its two points are compressed, and OpenSSL needs a tenth of a second for each square root.
SLOW = (
    "MIICnDCCAoGgAwIBAgIIBO+Ko5InZlgwCgYIKoZIzj0EAwIwDDEKMAgGA1UEAwwBeDAeFw0yNjExMDEwMDAwMDBaFw0yNzAxMDEwMDAwMDBa"
    "MAwxCjAIBgNVBAMMAXgwggImMIIBywYHKoZIzj0CATCCAb4CAQEwXgYHKoZIzj0BAQJTCeJ7AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
    "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAEwgaoEUwAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
    "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAJYsghhdVewaWB2q0QBFMC5NTCn0Zdzymd1HSk5e4qU5ba"
    "ETxX9V0V5mOhpIrhIrVBcpaOblIJk5iZWSzaNgXS7mlKVpfK/smvy8g6JlSTgcLoawrJR0v7BTGFVNTQOAwhlQRUAgZoQrpmdrNlHFJTbUua"
    "2+vNH17JwYBwttEwiWM6UO7g+eA4649iT7gE2CCYQYEXeQYVlkT5eUzdkzFg0tWEQwfwYs7HsxfZTR/gnwr0ONKXUk1qAlMDcUqy2H1eKcDl"
    "lrIQkwer2JUsmxb4Cf2xf1RHmXtr2z0RUAdWSTHtz2EJ6m1VR66WYZNWNjtL53nEcDt9rgSVkYaUaFbkW5XHarSIuvrZWdVFBQIBAQNVAAIG"
    "aEK6ZnazZRxSU21LmtvrzR9eycGAcLbRMIljOlDu4PngOOuPYk+4BNggmEGBF3kGFZZE+XlM3ZMxYNLVhEMH8GLOx7MX2U0f4J8K9DjSl1JN"
    "ajAKBggqhkjOPQQDAgMJADAGAgEFAgEH"
)

# What certifier offers to origins, and what it does not (RFC 8447 and RFC 9155 say why).
SUITES_1_3 = {0x1301, 0x1302, 0x1303}
SUITES_1_2 = {
    0xC02B, 0xC02C, 0xC02F, 0xC030, 0xCCA8, 0xCCA9,  # ECDHE, AEAD
    0xC023, 0xC024, 0xC027, 0xC028,  # CBC with SHA-2, for origins that have nothing better
}  # fmt: skip
LIES = {
    "RSA_EXPORT_WITH_RC4_40_MD5": 0x0003,
    "RSA_EXPORT_WITH_DES40_CBC_SHA": 0x0008,
    "DHE_RSA_EXPORT_WITH_DES40_CBC_SHA": 0x0014,
    "NULL_WITH_NULL_NULL": 0x0000,
    "RSA_WITH_NULL_SHA256": 0x003B,
    "ECDHE_ECDSA_WITH_NULL_SHA": 0xC006,
    "RSA_WITH_RC4_128_SHA": 0x0005,
    "ECDHE_ECDSA_WITH_RC4_128_SHA": 0xC007,
    "RSA_WITH_DES_CBC_SHA": 0x0009,
    "RSA_WITH_3DES_EDE_CBC_SHA": 0x000A,
    "ECDHE_ECDSA_WITH_3DES_EDE_CBC_SHA": 0xC008,
    "DH_anon_WITH_AES_128_GCM_SHA256": 0x00A6,
    "ECDH_anon_WITH_AES_128_CBC_SHA": 0xC018,
    "RSA_WITH_AES_128_GCM_SHA256": 0x009C,
    "DH_RSA_WITH_AES_128_GCM_SHA256": 0x00A0,
    "ECDHE_ECDSA_WITH_AES_128_CBC_SHA": 0xC009,
    "PSK_WITH_AES_128_GCM_SHA256": 0x00A8,
    "AES_128_GCM_SHA256, of TLS 1.3": 0x1301,
}


@pytest.fixture(scope="module")
def rsa_leaf(origin_ca: TestCA) -> Made:
    return make("leaf", Made(origin_ca.certificate, origin_ca.key), "localhost", bits=2048)


def directly(port: int, roots: Path) -> Reply:
    """What a strict client gets without the proxy."""
    with socket.create_connection(("127.0.0.1", port), timeout=WAIT) as sock:
        with strict_context(roots).wrap_socket(sock, server_hostname="localhost") as secure:
            return get(secure)


def refused(program: Program, port: int) -> Reply:
    with secure_tunnel(program, f"localhost:{port}") as secure:
        reply = get(secure)
    assert (reply.status, reply.reason) == (502, "Origin TLS handshake failed")
    assert b"secret" not in reply.body
    assert b"localhost" in reply.body
    return reply


@pytest.mark.parametrize("kind", KINDS)
def test_old(program: Program, rsa_leaf: Made, roots: Path, kind: str) -> None:
    server = OldServer(rsa_leaf, KINDS[kind])
    with Origin(server) as origin:
        assert lenient_get(origin.port, KINDS[kind]).endswith(b"secret")
        server.heard = b""
        with pytest.raises(ssl.SSLError, match="ALERT"):
            directly(origin.port, roots)
        reply = refused(program, origin.port)
    assert "error=tls_alert_received" in reply.headers["proxy-status"]
    assert b"localhost ended TLS with the alert " in reply.body
    assert server.heard == b""


ALERTS = {40: "handshake_failure", 70: "protocol_version", 80: "internal_error"} | {
    112: "unrecognized_name",  # which OpenSSL names unlike the others
    120: "no_application_protocol",  # for which Python has no name
}


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert(program: Program, alert: int) -> None:
    def answer(sock: socket.socket) -> None:
        rawtls.read_hello(sock)
        sock.sendall(bytes((21, 3, 3, 0, 2, 2, alert)))

    with Origin(answer) as origin:
        reply = refused(program, origin.port)
    assert "error=tls_alert_received" in reply.headers["proxy-status"]
    assert reply.body.decode().endswith(f"localhost ended TLS with the alert {ALERTS[alert]}\n")


def test_a_port_that_speaks_plain_http(program: Program) -> None:
    def answer(sock: socket.socket) -> None:
        rawtls.read_hello(sock)
        sock.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

    with Origin(answer) as origin:
        body = refused(program, origin.port).body.decode()
    assert body.endswith("what answers there for localhost does not speak TLS\n")


def test_what_breaks_an_origin_comes_with_its_flight(program: Program, certificate: Path) -> None:
    """It is longer than what OpenSSL looks at: the rest must not hide the reason."""

    def flight_and_more(sock: socket.socket) -> None:
        alert = bytes((rawtls.ALERT, 3, 3, 0, 2, 2, 80))  # not encrypted
        sock.sendall(BioServer(sock, certificate).flight() + alert)
        while sock.recv(65_536):
            pass

    with Origin(flight_and_more) as origin:
        body = refused(program, origin.port).body.decode()
    # The latter is what OpenSSL 3.5 calls it.
    assert body.endswith(("localhost failed: bad record type\n", "localhost failed: record layer failure\n"))


@pytest.mark.parametrize("kind", TODAY)
def test_not_old(program: Program, rsa_leaf: Made, roots: Path, kind: str) -> None:
    with Origin(OldServer(rsa_leaf, TODAY[kind])) as origin:
        assert directly(origin.port, roots).body == b"secret"
        with secure_tunnel(program, f"localhost:{origin.port}") as secure:
            assert get(secure).body == b"secret"


def pem(label: str, content: bytes) -> str:
    return f"-----BEGIN {label}-----\n{base64.encodebytes(content).decode()}-----END {label}-----\n"


def finite_field(certificate: Path, folder: Path, bits: int) -> ssl.SSLContext:
    """The context of a server that offers only DHE, in a group of the given size."""
    prime = der(2, b"\0" + bytes.fromhex(PRIMES[bits]))
    path = folder / "dh.pem"
    path.write_text(pem("DH PARAMETERS", der(0x30, prime + der(2, b"\2"))))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("DHE-RSA-AES128-GCM-SHA256:@SECLEVEL=0")
    context.load_cert_chain(certificate)
    context.load_dh_params(str(path))
    return context


@pytest.fixture
def rsa_certificate(rsa_leaf: Made, tmp_path: Path) -> Path:
    path = tmp_path / "rsa.pem"
    path.write_bytes(file([rsa_leaf]))
    return path


def lenient() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")
    return context


@pytest.mark.parametrize("asks", [False, True])
@pytest.mark.parametrize("bits", [1024, 2048])
def test_a_finite_field(
    program: Program, rsa_certificate: Path, roots: Path, tmp_path: Path, bits: int, asks: bool
) -> None:
    """DHE alone is refused, weak or not: the origin's group could take seconds. OpenSSL accepts the strong one."""
    context = finite_field(rsa_certificate, tmp_path, bits)
    if asks:  # the CertificateRequest must not be taken for the cause
        context.verify_mode = ssl.CERT_OPTIONAL
    with Origin(http_origin, context) as origin:
        with socket.create_connection(("127.0.0.1", origin.port), timeout=WAIT) as sock:
            with lenient().wrap_socket(sock) as secure:
                assert get(secure).status == 200
        if bits == 1024:
            with pytest.raises(ssl.SSLError, match="DH_KEY_TOO_SMALL"):
                directly(origin.port, roots)
        else:
            assert directly(origin.port, roots).status == 200
        reply = refused(program, origin.port)
    assert "error=tls_alert_received" in reply.headers["proxy-status"]
    assert b"ended TLS with the alert handshake_failure" in reply.body


@pytest.mark.parametrize(("group", "costly"), [("", False), ("secp384r1", True), (LARGEST, True)])
def test_another_group(program: Program, origin_ca: TestCA, tmp_path: Path, group: str, costly: bool) -> None:
    """A TLS 1.3 origin may insist on a finite-field group, which Python can't disable: it is computed on a thread."""
    (tmp_path / "leaf.pem").write_bytes(origin_ca.issue("localhost"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "leaf.pem")
    if group:
        context.set_ecdh_curve(group)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = lenient().wrap_bio(to_client, to_server), context.wrap_bio(to_server, to_client, server_side=True)
    for end in ends:
        with suppress(ssl.SSLWantReadError):
            end.do_handshake()
    flight = bytearray(to_client.read())
    assert is_costly(flight) == costly
    assert is_costly(b"\x16\3\3\0\4" + flight[5:9] + flight)  # split over records, which hides the group
    with Origin(http_origin, context) as origin, secure_tunnel(program, f"localhost:{origin.port}") as secure:
        assert get(secure).status == 200


class Liar:
    """A handler that answers a ClientHello with a given flight, and notes what kind of record comes next."""

    def __init__(
        self, authority: TestCA, first: bytes, scheme: int = 0, parameters: bytes | None = None, bits: int = 0
    ) -> None:
        self._key = rsa_key(bits) if bits else new_key()
        self._certificate = authority.issue("localhost", key=self._key, with_key=False)
        self._first = first
        self._what = scheme, parameters
        self.heard: Queue[int] = Queue()  # content types of records

    def __call__(self, sock: socket.socket) -> None:
        hello = rawtls.read_hello(sock)
        assert isinstance(hello, Hello)
        flight = rawtls.flight(hello, self._first, self._certificate, self._key, *self._what)
        flight += rawtls.message(rawtls.SERVER_HELLO_DONE, b"")
        sock.sendall(rawtls.records(rawtls.HANDSHAKE, flight))
        with suppress(EOFError, OSError):
            self.heard.put(rawtls.read_record(sock)[0])


SAFE = {RENEGOTIATION: b"\x00"}
ALONE = rawtls.ECDHE_ECDSA


@pytest.mark.parametrize(
    ("first", "scheme", "reason"),
    [
        *[(server_hello(suite, SAFE), 0, "CIPHER_RETURNED") for suite in LIES.values()],
        *[
            (server_hello(ALONE, SAFE, version), 0, "UNSUPPORTED_PROTOCOL|WRONG_SSL_VERSION")
            for version in (rawtls.SSL_3, rawtls.TLS_1_0, rawtls.TLS_1_1)
        ],
        (server_hello(ALONE, SAFE), rawtls.ECDSA_SHA1, "WRONG_SIGNATURE_TYPE"),
        (server_hello(ALONE, SAFE, compression=1), 0, "COMPRESSION"),
        (server_hello(ALONE, {}), 0, "UNSAFE_LEGACY_RENEGOTIATION"),
        (server_hello(ALONE, SAFE, random=bytes(24) + b"DOWNGRD\1"), 0, "INAPPROPRIATE_FALLBACK"),
    ],
    ids=[*LIES, "SSL 3.0", "TLS 1.0", "TLS 1.1", "SHA-1", "compression", "RFC 5746", "downgraded"],
)
def test_lies(program: Program, origin_ca: TestCA, roots: Path, first: bytes, scheme: int, reason: str) -> None:
    liar = Liar(origin_ca, first, scheme)
    with Origin(liar) as origin:
        with pytest.raises(ssl.SSLError) as caught:
            directly(origin.port, roots)
        assert re.search(reason, caught.value.reason)
        assert liar.heard.get(timeout=WAIT) == rawtls.ALERT
        reply = refused(program, origin.port)
        assert liar.heard.get(timeout=WAIT) == rawtls.ALERT
    assert "error=tls_protocol_error" in reply.headers["proxy-status"]
    assert caught.value.reason.lower().replace("_", " ") in reply.body.decode()


@pytest.mark.parametrize("bits", [512, 2048])
def test_an_export_group(program: Program, origin_ca: TestCA, roots: Path, bits: int) -> None:
    """Logjam: DHE although it was not offered, in a 512-bit group, which OpenSSL can't serve, or in a good one."""
    prime = bytes.fromhex(PRIMES[bits])
    parameters = b"".join(rawtls.vector(2, number) for number in (prime, b"\2", bytes(1) + prime[1:]))
    liar = Liar(origin_ca, server_hello(rawtls.DHE_RSA, SAFE), 0, parameters, 2048)
    with Origin(liar) as origin:
        with pytest.raises(OSError, match="DH_KEY_TOO_SMALL" if bits == 512 else "EOF|reset"):
            directly(origin.port, roots)
        assert liar.heard.get(timeout=WAIT) == (rawtls.ALERT if bits == 512 else rawtls.HANDSHAKE)
        assert b"wrong cipher returned" in refused(program, origin.port).body
        assert liar.heard.get(timeout=WAIT) == rawtls.ALERT


def test_a_handshake_without_end(program: Program) -> None:
    """OpenSSL skips HelloRequests in a handshake: without a limit, all of them would be kept until the deadline."""
    sent: Queue[int] = Queue()

    def flood(sock: socket.socket) -> None:
        rawtls.read_hello(sock)
        requests = rawtls.records(rawtls.HANDSHAKE, rawtls.message(0, b"") * 4096)
        octets = 0
        with suppress(OSError):
            while octets < 50_000_000:  # within the deadline
                sock.sendall(requests)
                octets += len(requests)
        sent.put(octets)

    with Origin(flood) as origin:
        assert b"failed: more than 262144 octets of handshake" in refused(program, origin.port).body
        assert sent.get(timeout=WAIT) < 50_000_000


def test_a_chain_that_takes_seconds_to_read(program: Program, origin_ca: TestCA, tmp_path: Path) -> None:
    """It holds up nobody else, though OpenSSL reads it in a single call; the origin itself is good."""
    wrapped = "\n".join(re.findall(".{1,64}", SLOW))
    slow = f"-----BEGIN CERTIFICATE-----\n{wrapped}\n-----END CERTIFICATE-----\n"
    (tmp_path / "chain.pem").write_bytes(origin_ca.issue("localhost") + slow.encode() * 14)

    def ask() -> Reply:
        with secure_tunnel(program, f"localhost:{origin.port}") as secure:
            return get(secure)

    with Origin(http_origin, tmp_path / "chain.pem") as origin:
        asking = gevent.spawn(ask)
        began, longest = time.monotonic(), 0.0
        while not asking.ready():
            asked = time.monotonic()
            assert exchange(program.address, b"GET /healthz HTTP/1.0\r\n\r\n").status == 200
            longest = max(longest, time.monotonic() - asked)
        assert asking.get().status == 200
        assert longest < (time.monotonic() - began) / 2


def test_no_lie(program: Program, origin_ca: TestCA) -> None:
    """The same flight without a fault gets a ClientKeyExchange."""
    liar = Liar(origin_ca, server_hello(ALONE, SAFE))
    with Origin(liar) as origin:
        assert b"closed the connection in the TLS handshake" in refused(program, origin.port).body
    assert liar.heard.get(timeout=WAIT) == rawtls.HANDSHAKE


LENIENT = """
openssl_conf = all
[all]
ssl_conf = ssl
[ssl]
system_default = lenient
[lenient]
MinProtocol = TLSv1
CipherString = ALL:@SECLEVEL=0
Options = UnsafeLegacyServerConnect,UnsafeLegacyRenegotiation,ServerPreference
"""


def test_a_lenient_system(origin_ca: TestCA, roots: Path, tmp_path: Path) -> None:
    """certifier ignores what openssl.cnf permits system-wide, towards both origins and clients."""
    (tmp_path / "openssl.cnf").write_text(LENIENT)
    options = ["--store=certs", "--max=9", "--ca=ca", f"--upstream-ca={roots}"]
    liar = Liar(origin_ca, server_hello(ALONE, {}))
    with (
        Program(tmp_path, *options, prefix=["env", f"OPENSSL_CONF={tmp_path}/openssl.cnf"]) as program,
        Origin(liar) as origin,
    ):
        check_offer(offer(program, "localhost", ["h2", "http/1.1"]))
        assert b"unsafe legacy renegotiation disabled" in refused(program, origin.port).body
        with tunnel(program.address, f"localhost:{origin.port}") as sock:
            every = [0xC02B, 0xC009, 0x002F, 0xC013]
            sock.sendall(rawtls.client_hello(every, rawtls.usual("localhost"), rawtls.TLS_1_1))
            assert rawtls.read_hello(sock) == 70  # protocol_version


class Recorder:
    """A handler that keeps the ClientHello and closes."""

    def __call__(self, sock: socket.socket) -> None:
        hello = rawtls.read_hello(sock)
        assert isinstance(hello, Hello)
        self.hello = hello


def offer(program: Program, host: str, alpn: list[str] | None) -> Hello:
    recorder = Recorder()
    with Origin(recorder) as origin, secure_tunnel(program, f"{host}:{origin.port}", alpn=alpn) as secure:
        assert get(secure).status == 502
    return recorder.hello


def test_what_is_offered(program: Program) -> None:
    check_offer(offer(program, "localhost", ["h2", "http/1.1"]))


def check_offer(hello: Hello) -> None:
    assert hello.version == TLS_1_2  # RFC 8446 §4.1.2: the real versions are in supported_versions
    assert set(hello.numbers(rawtls.VERSIONS, 1)) == {rawtls.TLS_1_3, TLS_1_2}
    assert set(hello.suites) - {rawtls.RENEGOTIATION_SCSV} == SUITES_1_3 | SUITES_1_2
    assert rawtls.RENEGOTIATION_SCSV in hello.suites or RENEGOTIATION in hello.extensions  # RFC 5746 §3.4
    assert not set(LIES.values()) & (set(hello.suites) - SUITES_1_3)
    assert hello.compressions == (0,)
    groups = hello.numbers(rawtls.GROUPS)
    assert {rawtls.X25519, rawtls.SECP256R1} <= set(groups)
    assert all(group >= 23 for group in groups)  # RFC 8422 §5.1.1 deprecates those below
    shares = rawtls.key_shares(hello)
    assert rawtls.X25519 in shares
    if MODERN:
        assert groups[0] == shares[0] == rawtls.X25519_MLKEM768
    schemes = hello.numbers(rawtls.SCHEMES)
    assert not [scheme for scheme in schemes if scheme >> 8 in (1, 2)]  # HashAlgorithm of RFC 5246: MD5 and SHA-1
    assert {0x0403, 0x0804} <= set(schemes)
    assert hello.extensions[rawtls.SERVER_NAME] == rawtls.vector(2, b"\0" + rawtls.vector(2, b"localhost"))
    assert rawtls.EXTENDED_MASTER_SECRET in hello.extensions
    assert rawtls.HEARTBEAT not in hello.extensions
    assert rawtls.EARLY_DATA not in hello.extensions
    assert rawtls.PRE_SHARED_KEY not in hello.extensions
    assert rawtls.COMPRESS_CERTIFICATE not in hello.extensions


def test_compressed_certificates_are_not_wanted() -> None:
    """OpenSSL 3.2 and later ask for them if built with zlib, as Debian's are; earlier versions don't know them."""
    assert client_context(None, verify=True, keylog=None).options & 1 << 33


def test_no_server_name_for_an_address(program: Program) -> None:
    assert rawtls.SERVER_NAME not in offer(program, "127.0.0.1", None).extensions  # RFC 6066 §3


@pytest.mark.parametrize("alpn", [None, ["http/1.1"], ["h2", "http/1.1"], ["http/1.1", "acme-tls/1", "h2"]])
def test_protocols_are_those_of_the_client(program: Program, alpn: list[str] | None) -> None:
    extension = offer(program, "localhost", alpn).extensions.get(rawtls.ALPN)
    wanted = b"".join(rawtls.vector(1, protocol.encode()) for protocol in alpn or [])
    assert extension == (rawtls.vector(2, wanted) if alpn else None)


@pytest.mark.parametrize(
    ("ciphers", "curve"),
    [
        ("ECDHE-ECDSA-AES128-GCM-SHA256", None),
        ("ECDHE-ECDSA-CHACHA20-POLY1305", None),
        ("ECDHE-ECDSA-AES256-SHA384", None),  # CBC
        (None, None),
        (None, "secp384r1"),  # after a HelloRetryRequest, as certifier sends no share for it
        (None, "secp521r1"),
    ],
)
def test_what_is_taken(program: Program, certificate: Path, ciphers: str | None, curve: str | None) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    if ciphers is not None:
        context.set_ciphers(ciphers)
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    if curve is not None:
        context.set_ecdh_curve(curve)
    before = len(program.lines)
    with Origin(http_origin, context) as origin, secure_tunnel(program, f"localhost:{origin.port}") as secure:
        assert get(secure).status == 200
        ours = secure.getsockname()[1]  # an earlier origin may have had the same port
    version = "TLSv1.2" if ciphers else "TLSv1.3"
    assert f"origin_tls={version}" in program.wait_for(f"client=127.0.0.1:{ours} .*outcome=", before)


def test_finished_goes_with_the_request(program: Program, certificate: Path) -> None:
    """In one segment, if the client did the same and the name's certificate is in memory.

    That it does not wait for a request is tested in test_proxy.py.
    """
    heard: list[bytes] = []
    request = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"

    def one_read(sock: socket.socket) -> None:
        server = BioServer(sock, certificate)
        sock.sendall(server.flight())
        server.complete()
        heard.append(server.tls.read(1000))
        server.tls.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        sock.sendall(server.goes.read())

    with Origin(http_origin, certificate) as origin, secure_tunnel(program, f"localhost:{origin.port}"):
        pass
    with Origin(one_read) as origin, tunnel(program.address, f"localhost:{origin.port}") as sock:
        client = BioClient(sock, strict_context(program.ca), "localhost", early=request)
        assert client.read().startswith(b"HTTP/1.1 204 ")
    assert heard == [request]


def test_finished_does_not_wait_for_a_certificate(roots: Path, certificate: Path, tmp_path: Path) -> None:
    """The client's handshake never ends here: the origin gets it while the certificate is made, or not at all."""
    complete = Event()
    with (
        Program(tmp_path, "--store=certs", "--max=9", "--ca=ca", f"--upstream-ca={roots}") as fresh,
        Origin(lambda _: complete.set(), certificate) as origin,
        tunnel(fresh.address, f"localhost:{origin.port}") as sock,
    ):
        sock.sendall(real_hello("localhost"))
        assert complete.wait(WAIT)


def test_finished_does_not_wait_for_a_tap(roots: Path, certificate: Path, tmp_path: Path) -> None:
    """The certificate is in memory, so nothing else has sent it before."""
    complete = Event()

    def greet(sock: socket.socket) -> None:
        complete.set()
        http_origin(sock)

    (tmp_path / "tap.py").write_text(
        "import os, time\nopen_tunnels = []\ndef opened(tunnel):\n    open_tunnels.append(tunnel)\n"
        "    while len(open_tunnels) > 1 and not os.path.exists('go'):\n        time.sleep(0.01)\n"
    )
    words = ("--store=certs", "--max=9", "--ca=ca", f"--upstream-ca={roots}", "--tap=tap.py")
    with Origin(greet, certificate) as origin, Program(tmp_path, *words) as running:
        with secure_tunnel(running, f"localhost:{origin.port}") as secure:
            assert get(secure).status == 200
        complete.clear()
        with secure_tunnel(running, f"localhost:{origin.port}") as secure:
            assert complete.wait(WAIT)
            (tmp_path / "go").touch()
            assert get(secure).status == 200


def test_what_an_origin_says_with_the_end_of_its_handshake(program: Program, certificate: Path) -> None:
    """In the same segment: it would be left waiting until the origin says more."""
    over = Event()

    def greet(sock: socket.socket) -> None:
        server = BioServer(sock, certificate, ssl.TLSVersion.TLSv1_2)
        sock.sendall(server.flight())
        server.complete()
        server.tls.write(b"220 hello")
        sock.sendall(server.goes.read())
        over.wait(WAIT)

    with Origin(greet) as origin, secure_tunnel(program, f"localhost:{origin.port}") as secure:
        assert secure.recv(100) == b"220 hello"
        over.set()


def test_a_hello_retry_request(program: Program) -> None:
    """On the wire: the second ClientHello has exactly the share that was asked for."""
    hellos = []

    def retry(sock: socket.socket) -> None:
        hello = rawtls.read_hello(sock)
        assert isinstance(hello, Hello)
        extensions = {
            rawtls.VERSIONS: rawtls.TLS_1_3.to_bytes(2),
            rawtls.KEY_SHARES: rawtls.SECP384R1.to_bytes(2),
        }
        first = server_hello(0x1301, extensions, random=rawtls.RETRY, session=hello.session)
        sock.sendall(rawtls.records(rawtls.HANDSHAKE, first))
        kind, _ = rawtls.read_record(sock)
        assert kind == rawtls.CHANGE_CIPHER_SPEC
        hellos.append(rawtls.read_hello(sock))

    with Origin(retry) as origin:
        refused(program, origin.port)
    assert isinstance(hellos[0], Hello)
    assert rawtls.key_shares(hellos[0]) == [rawtls.SECP384R1]
