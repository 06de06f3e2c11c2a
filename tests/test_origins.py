"""Origins that must not be trusted: each is first tried with a strict client, then through certifier.

Not an octet passes between them and the client, which gets a page that says why.
"""

import os
import re
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from bad_chains import BAD, BAD_NAMES, GOOD, GOOD_NAMES, NARROW, Roots
from chains import Made, file, make
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from lab import WAIT, Origin, Program, Reply, get, http_origin, run, secure_tunnel, strict_context

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


@pytest.fixture(scope="module")
def their_roots() -> Roots:
    return Roots()


@pytest.fixture(scope="module")
def trusted(their_roots: Roots, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trusted") / "roots.pem"
    path.write_bytes(their_roots.pem)
    return path


@pytest.fixture(scope="module")
def careful(trusted: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    folder = tmp_path_factory.mktemp("careful")
    with Program(folder, "--store=certs", "--max=100", "--ca=ca", f"--upstream-ca={trusted}") as running:
        yield running


class Site(Origin):
    """Serves any chain, and keeps what clients send after the handshake."""

    def __init__(self, chain: list[Made], folder: Path, version: ssl.TLSVersion, host: str = "127.0.0.1") -> None:
        self.heard = b""
        path = folder / "site.pem"
        path.write_bytes(file(chain))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_ciphers("ALL:@SECLEVEL=0")  # otherwise OpenSSL would not load the weak ones
        context.load_cert_chain(path)
        context.maximum_version = version
        super().__init__(self._listen, context, host=host)
        self.host = host

    def _listen(self, sock: socket.socket) -> None:
        first = sock.recv(1)
        self.heard += first
        if first:
            http_origin(sock)


def directly(site: Site, name: str, trusted: Path) -> Reply:
    """What a strict client gets without the proxy."""
    with socket.create_connection((site.host, site.port), timeout=WAIT) as sock:
        with strict_context(trusted).wrap_socket(sock, server_hostname=name) as secure:
            return get(secure)


def through(program: Program, site: Site, name: str) -> Reply:
    target = f"[{site.host}]:{site.port}" if ":" in site.host else f"{site.host}:{site.port}"
    with secure_tunnel(program, target, name) as secure:
        return get(secure)


@contextmanager
def refused(program: Program, site: Site, name: str, trusted: Path, reason: str) -> Iterator[Reply]:
    with pytest.raises(ssl.SSLCertVerificationError, match=reason):
        directly(site, name, trusted)
    with not_trusted(program, site, name, reason) as reply:
        yield reply


@contextmanager
def not_trusted(program: Program, site: Site, name: str, reason: str) -> Iterator[Reply]:
    """The error page that says so; nothing the client sent may have reached the site."""
    reply = through(program, site, name)
    assert (reply.status, reply.reason) == (502, "Origin certificate not trusted")
    assert reply.headers["proxy-status"].startswith("certifier; error=tls_certificate_error; details=")
    text = reply.body.decode()
    assert text.startswith(f"certifier: the certificate of {name} does not verify: ")
    assert re.search(reason, text)
    yield reply
    assert site.heard == b""


@pytest.mark.parametrize("version", VERSIONS, ids=["1.2", "1.3"])
@pytest.mark.parametrize("kind", BAD)
def test_bad(
    careful: Program, their_roots: Roots, trusted: Path, tmp_path: Path, kind: str, version: ssl.TLSVersion
) -> None:
    chain, reason = BAD[kind]
    with Site(chain(their_roots), tmp_path, version) as site, refused(careful, site, "localhost", trusted, reason):
        pass


@pytest.mark.parametrize("version", VERSIONS, ids=["1.2", "1.3"])
@pytest.mark.parametrize("kind", GOOD)
def test_good(
    careful: Program, their_roots: Roots, trusted: Path, tmp_path: Path, kind: str, version: ssl.TLSVersion
) -> None:
    with Site(GOOD[kind](their_roots), tmp_path, version) as site:
        assert directly(site, "localhost", trusted).status == 200
        assert through(careful, site, "localhost").status == 200


def gnutls(site: Site, trusted: Path) -> str:
    """The output of a client that requires RSA keys of 2048 bits, as OpenSSL does not; empty if it trusts the site."""
    result = run(
        "gnutls-cli", "--priority=NORMAL:%PROFILE_MEDIUM", f"--x509cafile={trusted}", f"--port={site.port}",
        "localhost", stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert ("The certificate is trusted" in result.stdout) == (result.returncode == 0), result
    return "" if result.returncode == 0 else result.stdout


@pytest.mark.parametrize("version", VERSIONS, ids=["1.2", "1.3"])
@pytest.mark.parametrize("kind", NARROW)
def test_narrow(
    careful: Program, their_roots: Roots, trusted: Path, tmp_path: Path, kind: str, version: ssl.TLSVersion
) -> None:
    with Site(NARROW[kind](their_roots), tmp_path, version) as site:
        assert "insecure algorithm" in gnutls(site, trusted)
        with not_trusted(careful, site, "localhost", r"RSA key of \d+ bits"):
            pass


@pytest.mark.parametrize("kind", ["RSA 2048", "with an intermediate"])
def test_not_narrow(their_roots: Roots, trusted: Path, tmp_path: Path, kind: str) -> None:
    """The client of ``test_narrow`` accepts these; ``test_good`` checks them through certifier."""
    with Site(GOOD[kind](their_roots), tmp_path, ssl.TLSVersion.TLSv1_3) as site:
        assert gnutls(site, trusted) == ""


def loopback(name: str) -> str:
    return "::1" if ":" in name else "127.0.0.1"


@pytest.mark.parametrize(("names", "asked"), BAD_NAMES)
def test_bad_names(
    careful: Program, their_roots: Roots, trusted: Path, tmp_path: Path, names: list[str], asked: str
) -> None:
    chain = [make("leaf", their_roots.good, *names)]
    with ExitStack() as stack:
        site = stack.enter_context(Site(chain, tmp_path, ssl.TLSVersion.TLSv1_3, loopback(asked)))
        stack.enter_context(refused(careful, site, asked, trusted, "not valid for"))


@pytest.mark.parametrize(("names", "asked"), GOOD_NAMES)
def test_good_names(
    careful: Program, their_roots: Roots, trusted: Path, tmp_path: Path, names: list[str], asked: str
) -> None:
    with Site([make("leaf", their_roots.good, *names)], tmp_path, ssl.TLSVersion.TLSv1_3, loopback(asked)) as site:
        assert directly(site, asked, trusted).status == 200
        assert through(careful, site, asked).status == 200


def test_a_site_that_certifier_itself_vouches_for(careful: Program, trusted: Path, tmp_path: Path) -> None:
    """certifier does not trust its own CA for origins: its key may be stolen, or shared by many installations."""
    key = load_pem_private_key((careful.folder / "ca" / "ca.key").read_bytes(), None)
    authority = Made(x509.load_pem_x509_certificate(careful.ca.read_bytes()), key)  # type: ignore[arg-type]
    leaf = make("leaf", authority, "localhost")
    with Site([leaf, authority], tmp_path, ssl.TLSVersion.TLSv1_3) as site:
        assert directly(site, "localhost", careful.ca).status == 200
        site.heard = b""
        with refused(careful, site, "localhost", trusted, "self.signed certificate in"):
            pass


def test_each_connection_is_verified(careful: Program, their_roots: Roots, trusted: Path, tmp_path: Path) -> None:
    """No verdict and no session is reused: what verified a moment ago does not count."""
    context = strict_context(careful.ca)
    good, bad = GOOD["as it should be"](their_roots), BAD["expired"][0](their_roots)
    with Site(good, tmp_path, ssl.TLSVersion.TLSv1_3) as site:
        with secure_tunnel(careful, f"127.0.0.1:{site.port}", "localhost", context=context) as secure:
            assert get(secure).status == 200
            session = secure.session
    with Site(bad, tmp_path, ssl.TLSVersion.TLSv1_3) as site, refused(careful, site, "localhost", trusted, "expired"):
        target = f"127.0.0.1:{site.port}"
        with secure_tunnel(careful, target, "localhost", context=context, session=session) as secure:
            assert secure.session_reused
            assert get(secure).reason == "Origin certificate not trusted"


def test_the_page_tells_no_secret_and_escapes(careful: Program, their_roots: Roots, tmp_path: Path) -> None:
    for kind in ("wrong name with markup", "a name with a NUL"):
        seen = len(careful.lines)
        with Site(BAD[kind][0](their_roots), tmp_path, ssl.TLSVersion.TLSv1_3) as site:
            with secure_tunnel(careful, f"127.0.0.1:{site.port}", "localhost") as secure:
                secure.sendall(
                    b"GET /path-secret?query-secret HTTP/1.1\r\nHost: <b>host-secret\r\n"
                    b"Cookie: cookie-secret\r\nAuthorization: Bearer bearer-secret\r\nX: <script>\x1b[31m\r\n\r\n"
                )
                whole = b""
                while data := secure.recv(65_536):
                    whole += data
        head, _, body = whole.partition(b"\r\n\r\n")
        fields = head.lower().split(b"\r\n")[1:]
        assert head.startswith(b"HTTP/1.1 502 Origin certificate not trusted\r\n")
        assert b"content-type: text/plain; charset=utf-8" in fields
        assert b"x-content-type-options: nosniff" in fields
        assert b"cache-control: no-store" in fields
        assert not any(line.startswith(b"set-cookie") for line in fields)
        assert body.endswith(b"\n")
        assert body[:-1].decode("ascii").isprintable()
        for word in (b"secret", b"<", b"script", os.fsencode(careful.folder), b"PRIVATE", b"Traceback"):
            assert word not in whole, word
        line = careful.wait_for(f"target=127.0.0.1:{site.port} .*outcome=tls_certificate_error", seen)
        assert "secret" not in line
        assert line.isprintable()


@pytest.mark.parametrize("sni", ["<script>.example", "a\r\nSet-Cookie: b=c", "\x1b[31m", "é.example", "../../x"])
def test_a_server_name_with_markup(careful: Program, their_roots: Roots, tmp_path: Path, sni: str) -> None:
    """It is not a valid host name, so the CONNECT host counts."""
    seen = len(careful.lines)
    with Site(BAD["expired"][0](their_roots), tmp_path, ssl.TLSVersion.TLSv1_3) as site:
        target = f"127.0.0.1:{site.port}"
        words = ["openssl", "s_client", "-proxy", careful.url.removeprefix("http://"), "-connect", target, "-quiet"]
        reply = run(*words, "-servername", sni, input="GET / HTTP/1.1\r\nHost: x\r\n\r\n").stdout
    assert reply.startswith("HTTP/1.1 502 ")
    assert "certifier: the certificate of 127.0.0.1 does not verify: " in reply
    assert sni not in reply
    line = careful.wait_for(f"target={target} .*outcome=tls_certificate_error", seen)
    assert line.isprintable()
    assert line.isascii()


def test_without_verification_they_would_have_been_heard(their_roots: Roots, trusted: Path, tmp_path: Path) -> None:
    """Verification is all that keeps the client's requests from these sites."""
    options = ["--store=certs", "--max=9", "--ca=ca", f"--upstream-ca={trusted}", "--no-verify-upstream"]
    with Program(tmp_path, *options) as program:
        for chain in (*(chain for chain, _ in BAD.values()), *NARROW.values()):
            with Site(chain(their_roots), tmp_path, ssl.TLSVersion.TLSv1_3) as site:
                assert through(program, site, "localhost").status == 200
                assert site.heard == b"G"


def test_the_systems_roots_are_trusted_and_further_ones_besides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    systems, further = make("the system's"), make("a further one")
    (tmp_path / "system.pem").write_bytes(systems.pem)
    (tmp_path / "further.pem").write_bytes(further.pem)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "system.pem"))
    with Program(tmp_path, "--store=certs", "--max=9", "--ca=ca", "--upstream-ca=further.pem") as program:
        for root in (systems, further):
            with Site([make("leaf", root, "localhost")], tmp_path, ssl.TLSVersion.TLSv1_3) as site:
                assert through(program, site, "localhost").status == 200


def test_an_intermediate_alone_may_be_trusted(tmp_path: Path) -> None:
    """As in strict mode since Python 3.13."""
    middle = make("intermediate", make("A root that is not trusted"))
    (tmp_path / "trusted.pem").write_bytes(middle.pem)
    words = ("--store=certs", "--max=9", "--ca=ca", "--upstream-ca=trusted.pem")
    with (
        Site([make("leaf", middle, "localhost")], tmp_path, ssl.TLSVersion.TLSv1_3) as site,
        Program(tmp_path, *words) as running,
        secure_tunnel(running, f"localhost:{site.port}") as secure,
    ):
        assert get(secure).status == 200
