import base64
import errno
import os
import stat
from collections.abc import Callable
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path

import chains
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from gevent.threadpool import ThreadPool
from lab import run
from pki import TestCA, cert_pem, key_pem, new_key, now
from test_signer import authority_for

import ca
import cafolder
import certlint
import certpath
import signer
from errors import RetrievalError, UsageError
from keys import generate
from tlsconfig import server_context


def write(folder: Path, authority: TestCA, chain: bytes = b"") -> tuple[Path, Path, Path]:
    paths = folder / "ca.crt", folder / "ca.key", folder / "serial.txt"
    paths[0].write_bytes(authority.pem + chain)
    paths[1].write_bytes(key_pem(authority.key))
    paths[1].chmod(0o600)
    paths[2].write_text("7\n")
    return paths


def test_a_folder_is_made_once(tmp_path: Path) -> None:
    made = cafolder.load(tmp_path / "x" / "ca", now())
    again = cafolder.load(tmp_path / "x" / "ca", now())
    assert made.certificate == again.certificate
    assert made.warnings == again.warnings == ()
    assert made.chain == ()
    modes = {
        name: stat.S_IMODE((tmp_path / "x" / "ca" / name).stat().st_mode) for name in os.listdir(tmp_path / "x" / "ca")
    }
    assert modes["ca.key"] == modes["serial.txt"] == 0o600
    assert modes["ca.crt"] == 0o644
    assert stat.S_IMODE((tmp_path / "x" / "ca").stat().st_mode) == 0o700


def test_several_that_start_at_once_make_one_ca(tmp_path: Path) -> None:
    opened = ThreadPool(4).map(lambda _: cafolder.load(tmp_path / "ca", now()), range(4))
    assert len({found.certificate.serial_number for found in opened}) == 1


def test_the_made_root(tmp_path: Path) -> None:
    certificate = cafolder.load(tmp_path, now()).certificate
    extensions = certificate.extensions
    basic = extensions.get_extension_for_class(x509.BasicConstraints)
    usage = extensions.get_extension_for_class(x509.KeyUsage)
    assert (basic.critical, basic.value.ca, usage.critical) == (True, True, True)
    assert basic.value.path_length is None
    assert (usage.value.key_cert_sign, usage.value.crl_sign, usage.value.digital_signature) == (True, True, False)
    extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    age = now() - certificate.not_valid_before_utc
    assert timedelta(days=2) <= age < timedelta(days=2, minutes=5)
    assert timedelta(days=3640) < certificate.not_valid_after_utc - now() < timedelta(days=3660)
    assert run("openssl", "verify", "-x509_strict", "-CAfile", tmp_path / "ca.crt", tmp_path / "ca.crt").returncode == 0


def test_two_made_roots_differ_in_name(tmp_path: Path) -> None:
    one, two = (cafolder.load(tmp_path / name, now()).certificate for name in "ab")
    assert one.subject != two.subject


@pytest.mark.parametrize("bits", [0, 2048])
def test_an_operators_root(tmp_path: Path, bits: int) -> None:
    files = ca.load(*write(tmp_path, TestCA("op", key=new_key(bits))), now())
    assert (files.chain, files.warnings) == ((), ())


def test_an_intermediate_is_sent_and_its_root_is_not(tmp_path: Path) -> None:
    root = TestCA("root")
    middle = TestCA("middle", parent=root)
    files = ca.load(*write(tmp_path, middle, chain=root.pem), now())
    assert [cert_pem(c) for c in files.chain] == [middle.pem]


def test_clients_are_to_trust_the_root_where_it_is_known(tmp_path: Path) -> None:
    """OpenSSL's clients except curl, GnuTLS's and others accept no intermediate as a trust anchor."""
    root, stray, former = TestCA("root"), TestCA("stray"), TestCA("root")
    upper = TestCA("upper", parent=root)
    lower = TestCA("lower", parent=upper)
    crossed = TestCA("root", parent=stray, key=root.key)
    longer = TestCA("root", parent=stray, key=root.key, ends=timedelta(days=999))
    one = TestCA("one", parent=former)  # these two have certified each other
    two = TestCA("root", parent=one, key=former.key)
    for authority, chain, trusted in (
        (root, b"", root),
        (upper, root.pem, root),
        (lower, upper.pem + root.pem, root),
        (lower, upper.pem, lower),
        (lower, root.pem, lower),  # a gap
        (lower, root.pem + upper.pem, root),
        (upper, crossed.pem + root.pem, root),
        (upper, longer.pem + root.pem, root),
        (upper, crossed.pem, upper),
        (upper, crossed.pem + stray.pem, stray),
        (upper, stray.pem, upper),
        (upper, former.pem + root.pem, root),  # the same name with another key, which signed none of these
        (upper, former.pem, upper),
        (root, stray.pem, root),
        (one, two.pem + one.pem, one),
    ):
        assert cert_pem(ca.load(*write(tmp_path, authority, chain=chain), now()).anchor) == trusted.pem


@pytest.mark.parametrize(("signer", "own", "root"), [(1, 0, True), (0, 1, True), (1, 1, True), (2, 1, False)])
def test_a_root_is_known_by_what_identifiers_it_has(tmp_path: Path, signer: int, own: int, root: bool) -> None:
    """Keys by their number: 0 has no identifier; the issuer is then identified by its name and serial number."""
    key, other = new_key(), new_key()
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "op")])
    builder = (
        x509.CertificateBuilder(name, name, key.public_key(), 1)
        .not_valid_before(now() - timedelta(days=1))
        .not_valid_after(now() + timedelta(days=99))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    )
    if own:
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    if signer:
        identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key((key, other)[signer - 1].public_key())
    else:
        identifier = x509.AuthorityKeyIdentifier(None, [x509.DirectoryName(name)], 1)
    builder = builder.add_extension(identifier, critical=False)
    paths = write(tmp_path, TestCA("op"))
    paths[0].write_bytes(cert_pem(builder.sign(other if signer == 2 else key, hashes.SHA256())))
    paths[1].write_bytes(key_pem(key))
    assert (ca.load(*paths, now()).chain == ()) == root


def test_a_new_key_that_the_former_one_certified_is_sent(tmp_path: Path) -> None:
    """Under the same name, as in a root key update (RFC 4210 §4.4): clients still trust the former key."""
    former = TestCA("root")
    new = TestCA("root", parent=former)
    found = ca.load(*write(tmp_path, new, chain=former.pem), now())
    assert [cert_pem(c) for c in found.chain] == [new.pem]
    pem = authority_for(found).sign(signer.request("a.example", generate("p256"))[1], "a.example", now(), [])
    (tmp_path / "leaf.pem").write_bytes(pem)
    (tmp_path / "root.pem").write_bytes(former.pem)
    words = "openssl", "verify", "-x509_strict", "-CAfile", "root.pem", "-untrusted", "leaf.pem", "leaf.pem"
    assert run(*words, cwd=tmp_path).stdout == "leaf.pem: OK\n"


def test_one_that_strict_clients_refuse_is_warned_about(tmp_path: Path) -> None:
    files = ca.load(*write(tmp_path, TestCA("op", strict=False)), now())
    assert len(files.warnings) == 1
    assert "keyUsage and no subjectKeyIdentifier" in files.warnings[0]
    assert "openssl req -x509" in files.warnings[0]
    assert "\n" not in files.warnings[0]


def test_one_as_easy_rsa_makes_it_is_warned_about(tmp_path: Path) -> None:
    paths = write(tmp_path, TestCA("op"))
    (tmp_path / "easy.cnf").write_text(
        "[req]\nprompt = no\ndistinguished_name = name\nx509_extensions = ca\n[name]\nCN = Easy-RSA CA\n[ca]\n"
        "basicConstraints = CA:TRUE\nsubjectKeyIdentifier = hash\nkeyUsage = cRLSign, keyCertSign\n"
    )
    words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-noenc", "-config", "easy.cnf"]
    made = run(*words, "-out", paths[0], "-keyout", paths[1], cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    found = ca.load(*paths, now())
    pem = authority_for(found).sign(signer.request("a.example", generate("p256"))[1], "a.example", now(), [])
    (tmp_path / "leaf.pem").write_bytes(pem)
    verify = "openssl", "verify", "-CAfile", paths[0]
    assert run(*verify, tmp_path / "leaf.pem").returncode == 0
    assert "not marked critical" in run(*verify, "-x509_strict", tmp_path / "leaf.pem").stderr
    (warning,) = found.warnings
    assert "has basicConstraints that are not critical: Python 3.13 and newer and other strict" in warning


def test_an_intermediate_that_does_not_say_who_signed_it_is_warned_about(tmp_path: Path) -> None:
    (warning,) = ca.load(*write(tmp_path, TestCA("middle", parent=TestCA("root"), strict=False)), now()).warnings
    assert "no authorityKeyIdentifier: Python 3.13" in warning


def test_one_that_is_not_for_servers_is_warned_about(tmp_path: Path) -> None:
    paths = write(tmp_path, TestCA("op"))
    for usage, told in ((chains.CLIENT, 1), (chains.ANY, 1), (chains.SERVER, 0)):
        made = chains.make("op", eku=usage)
        paths[0].write_bytes(made.pem)
        paths[1].write_bytes(key_pem(made.key))
        found = ca.load(*paths, now())
        assert len(found.warnings) == told
        assert all("without serverAuth: OpenSSL and" in warning for warning in found.warnings)
        pem = authority_for(found).sign(signer.request("a.example", generate("p256"))[1], "a.example", now(), [])
        (tmp_path / "leaf.pem").write_bytes(pem)
        verified = run("openssl", "verify", "-purpose", "sslserver", "-CAfile", paths[0], tmp_path / "leaf.pem")
        assert (verified.returncode != 0) == bool(told)


def test_one_that_clients_refuse_for_its_key_or_signature_is_warned_about(tmp_path: Path) -> None:
    paths = write(tmp_path, TestCA("op"))
    root = chains.make("root", bits=2048, digest="sha1")
    for made, told in (
        (root, []),  # nobody verifies a root's own signature
        (chains.make("middle", root, bits=2048), []),
        (chains.make("short", bits=1024), ["an RSA key of 1024 bits;"]),
    ):
        paths[0].write_bytes(made.pem)
        paths[1].write_bytes(key_pem(made.key))
        warnings = ca.load(*paths, now()).warnings
        assert len(warnings) == len(told)
        assert all(words in warning for words, warning in zip(told, warnings, strict=True))


def test_one_that_those_above_it_do_not_allow_is_warned_about(tmp_path: Path) -> None:
    """By basicConstraints, RFC 5280 §4.2.1.9: OpenSSL refuses what it signs, and does so only then."""
    flat, deep, root = (chains.make("root", path_length=most) for most in (0, 1, None))
    # The same name with a new key: self-issued ones don't count.
    new, allowed = chains.make("root", flat), chains.make("root", deep)
    below, too_far = chains.make("below", deep), chains.make("upper", flat, path_length=0)
    for above, told in (
        ((root,), None),
        ((deep,), None),
        ((allowed, deep), None),
        ((chains.version_1("root"),), None),
        ((flat,), "too far below a CA with pathlen:0;"),
        ((new, flat), "too far below a CA with pathlen:0;"),
        ((below, deep), "too far below a CA with pathlen:1;"),
        ((too_far, flat), "too far below a CA with pathlen:0;"),
        (
            (chains.make("low", below, path_length=0), below, deep),
            "too far below a CA with pathlen:0 and one with pathlen:1;",
        ),
        ((chains.make("a.example", root, "a.example"), root), "signed by a certificate that is no CA's;"),
    ):
        made = chains.make("middle", above[0])
        paths = write(tmp_path, TestCA("op"))
        paths[0].write_bytes(chains.file((made, *above)))
        paths[1].write_bytes(key_pem(made.key))
        found = ca.load(*paths, now())
        assert len(found.warnings) == (told is not None)
        assert all(f": {told} clients that trust one above it refuse" in warning for warning in found.warnings)
        pem = authority_for(found).sign(signer.request("a.example", generate("p256"))[1], "a.example", now(), [])
        (tmp_path / "leaf.pem").write_bytes(pem)
        (tmp_path / "root.pem").write_bytes(above[-1].pem)
        verify = "openssl", "verify", "-CAfile", tmp_path / "root.pem", "-untrusted", paths[0]
        assert (run(*verify, tmp_path / "leaf.pem").returncode != 0) == bool(told)


def test_one_that_those_in_its_file_did_not_sign_is_warned_about(tmp_path: Path) -> None:
    """Then nothing that clients could use is sent after a leaf: they know its root, but not who signed it."""
    root, former = TestCA("root"), TestCA("upper")
    upper = TestCA("upper", parent=root)
    lower = TestCA("lower", parent=upper)
    for authority, chain, told in (
        (lower, upper.pem + root.pem, False),
        (lower, upper.pem, False),
        (lower, b"", False),  # clients may know the one above it
        (lower, lower.pem, False),
        (root, former.pem, False),
        (lower, root.pem, True),
        (lower, former.pem, True),  # the right name, but another key
        (lower, lower.pem + root.pem, True),
    ):
        paths = write(tmp_path, authority, chain=chain)
        found = ca.load(*paths, now())
        assert [": signed by none of those after it in its file; clients" in w for w in found.warnings] == [True] * told
        pem = authority_for(found).sign(signer.request("a.example", generate("p256"))[1], "a.example", now(), [])
        (tmp_path / "leaf.pem").write_bytes(pem)
        (tmp_path / "root.pem").write_bytes(root.pem)
        verify = "openssl", "verify", "-CAfile", tmp_path / "root.pem", "-untrusted", paths[0], tmp_path / "leaf.pem"
        assert run(*verify).returncode != 0 or not told


def test_one_below_a_weak_one_is_warned_about(tmp_path: Path) -> None:
    """OpenSSL and others refuse what it signs."""
    root = chains.make("root", bits=2048, digest="sha1")  # nobody verifies a root's own signature
    for above, told in (
        ((root,), ""),
        ((chains.make("upper", root, bits=2048), root), ""),
        ((chains.make("short", bits=1024),), "above it, an RSA key of 1024 bits;"),
    ):
        made = chains.make("middle", above[0])
        paths = write(tmp_path, TestCA("op"))
        paths[0].write_bytes(chains.file((made, *above)))
        paths[1].write_bytes(key_pem(made.key))
        found = ca.load(*paths, now())
        assert len(found.warnings) == bool(told)
        assert all(told in warning for warning in found.warnings)
        pem = authority_for(found).sign(signer.request("a.example", generate("p256"))[1], "a.example", now(), [])
        (tmp_path / "leaf.pem").write_bytes(pem)
        (tmp_path / "root.pem").write_bytes(above[-1].pem)
        verify = "openssl", "verify", "-auth_level", "2", "-CAfile", tmp_path / "root.pem", "-untrusted", paths[0]
        assert (run(*verify, tmp_path / "leaf.pem").returncode != 0) == bool(told)


def test_one_with_an_intermediate_that_openssl_does_not_send_is_refused(tmp_path: Path) -> None:
    """Or each connection would fail, and have its leaf made anew."""
    root = chains.make("root", bits=2048)
    upper = chains.make("upper", root, bits=2048)
    sha1 = chains.make("upper", root, bits=2048, digest="sha1")
    small = chains.make("upper", root, bits=1024)
    for path, told in (
        ((upper, root), None),
        ((sha1, root), "md too weak; intermediates need"),
        ((small, root), "key too small; intermediates need"),
        ((chains.make("middle", sha1), sha1, root), "md too weak; intermediates need"),
        ((chains.make("middle", small), small, root), "key too small; intermediates need"),
        ((chains.make("middle", upper), upper, root), None),
        ((chains.make("middle", upper, bits=2048, digest="sha1"), upper), "md too weak; intermediates need"),
        ((chains.make("middle", upper, bits=1024), upper), "key too small; intermediates need"),
        ((root, chains.make("lower", root)), None),  # below it, not above: of no use, and no harm
    ):
        paths = write(tmp_path, TestCA("op"))
        paths[0].write_bytes(chains.file(path))
        paths[1].write_bytes(key_pem(path[0].key))
        refused = None
        try:
            found = ca.load(*paths, now())
        except UsageError as error:
            refused = str(error)
        if refused is not None:
            assert told is not None
            assert told in refused
            assert "\n" not in refused
        else:  # as of OpenSSL 3.6, with SHA-1
            assert told is None or "md too weak" in told
            assert len(found.warnings) == bool(told)
            assert not any("signed by none" in warning for warning in found.warnings)
            key, csr = signer.request("a.example", generate("p256"))
            server_context(authority_for(found).sign(csr, "a.example", now(), []) + key)


@pytest.mark.parametrize("encoding", ["named_curve", "explicit"])
def test_a_curve_that_is_described_and_not_named_is_warned_about(tmp_path: Path, encoding: str) -> None:
    """OpenSSL rejects all that such a CA signs, strict or not; Go can't even parse it."""
    paths = write(tmp_path, TestCA("op"))
    words = ["openssl", "req", "-x509", "-newkey", "ec", "-noenc", "-subj", "/CN=op"]
    for option in ("ec_paramgen_curve:P-256", f"ec_param_enc:{encoding}"):
        words += ["-pkeyopt", option]
    made = run(*words, "-addext", "keyUsage=critical,keyCertSign,cRLSign", "-out", paths[0], "-keyout", paths[1])
    assert made.returncode == 0, made.stderr
    found = ca.load(*paths, now())
    pem = authority_for(found).sign(signer.request("a.example", generate("p256"))[1], "a.example", now(), [])
    (tmp_path / "leaf.pem").write_bytes(pem)
    if encoding == "named_curve":
        assert run("openssl", "verify", "-CAfile", paths[0], tmp_path / "leaf.pem").returncode == 0
        assert found.warnings == ()
    else:
        assert "explicit ECC" in run("openssl", "verify", "-CAfile", paths[0], tmp_path / "leaf.pem").stderr
        (warning,) = found.warnings
        assert "whose curve is described, not named; OpenSSL, Go" in warning


def test_a_key_that_others_can_read_is_warned_about(tmp_path: Path) -> None:
    paths = write(tmp_path, TestCA("op"))
    assert ca.load(*paths, now()).warnings == ()
    for mode in (0o640, 0o604):
        paths[1].chmod(mode)
        (warning,) = ca.load(*paths, now()).warnings
        assert f"others can read the CA's key {paths[1]}" in warning


def encrypted_key(folder: Path) -> None:
    key = new_key()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    (folder / "ca.key").write_bytes(pem)


def key_of_another_kind(folder: Path) -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    (folder / "ca.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def key_for_pss_alone(folder: Path) -> None:
    words = "openssl req -x509 -noenc -newkey rsa-pss -pkeyopt rsa_keygen_bits:2048 -keyout ca.key -out ca.crt"
    run(*words.split(), "-subj", "/CN=op", "-addext", "keyUsage=critical,keyCertSign", cwd=folder)


def altered_key(old: str, new: str, key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> bytes:
    """A key with other octets at one place of its DER."""
    der = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    assert der.count(bytes.fromhex(old)) == 1
    text = base64.encodebytes(der.replace(bytes.fromhex(old), bytes.fromhex(new)))
    return b"-----BEGIN PRIVATE KEY-----\n" + text + b"-----END PRIVATE KEY-----\n"


def of_nobody_elses_kind(folder: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    (folder / "ca.key").write_bytes(altered_key("2a8648ce3d0201", "2a8648ce3d027f", key))


def of_a_wrong_length(folder: Path) -> None:
    """Ed448 has longer keys than Ed25519."""
    key = ed25519.Ed25519PrivateKey.generate()
    (folder / "ca.key").write_bytes(altered_key("06032b6570", "06032b6571", key))


def wrong_key_with_a_chain(folder: Path) -> None:
    root = TestCA("root")
    write(folder, TestCA("middle", parent=root), chain=root.pem)
    (folder / "ca.key").write_bytes(key_pem(new_key()))


def folder_for_serial(folder: Path) -> None:
    (folder / "serial.txt").unlink()
    (folder / "serial.txt").mkdir()


def link_to_itself(folder: Path) -> None:
    (folder / "serial.txt").unlink()
    (folder / "serial.txt").symlink_to("serial.txt")


def key_for_certificate(folder: Path) -> None:
    (folder / "ca.crt").write_bytes((folder / "ca.key").read_bytes())


def cut_short(folder: Path) -> None:
    path = folder / "ca.crt"
    path.write_bytes(path.read_bytes()[:-40] + (folder / "ca.key").read_bytes())


def in_der(folder: Path) -> None:
    path = folder / "ca.crt"
    path.write_bytes(x509.load_pem_x509_certificate(path.read_bytes()).public_bytes(Encoding.DER))


def key_in_der(folder: Path) -> None:
    (folder / "ca.key").write_bytes(new_key().private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()))


def root_before_it(folder: Path) -> None:
    ca_file = folder / "ca.crt"
    ca_file.write_bytes(TestCA("root").pem + ca_file.read_bytes())


def rewrite(name: str = "op", **options: object) -> Callable[[Path], None]:
    return lambda folder: write(folder, TestCA(name, **options)) and None  # type: ignore[arg-type]


BAD: list[tuple[Callable[[Path], object], str]] = [
    (encrypted_key, "passphrase"),
    (lambda f: (f / "ca.key").write_bytes(key_pem(new_key())), "does not belong to the certificate in .*crt$"),
    (wrong_key_with_a_chain, "does not belong to the certificate in .*crt$"),
    (root_before_it, "does not belong to .*, but to one below it, which has to come first"),
    (lambda f: (f / "ca.key").write_text("-----BEGIN x"), "no usable PEM private key$"),
    (lambda f: (f / "ca.key").write_text(""), "no usable PEM private key$"),
    (of_nobody_elses_kind, "no usable PEM private key$"),
    (of_a_wrong_length, "no usable PEM private key$"),
    (key_in_der, "no usable PEM private key: it is in another form; OpenSSL converts DER: openssl pkey"),
    (lambda f: (f / "ca.key").unlink(), "can't read"),
    (lambda f: (f / "ca.crt").write_text("-----BEGIN x"), "no PEM certificate that can be read: (?!it is in)"),
    (lambda f: (f / "ca.crt").write_text(""), "no PEM certificate that can be read: it is empty$"),
    (key_for_certificate, "no PEM certificate that can be read: it has PRIVATE KEY instead$"),
    (cut_short, "no PEM certificate that can be read: (?!it (is|has))"),
    (in_der, "no PEM certificate that can be read: it is in another form; OpenSSL converts DER: openssl x509"),
    (lambda f: (f / "ca.crt").unlink(), "can't read"),
    (lambda f: (f / "serial.txt").write_text("x"), "decimal number"),
    (lambda f: (f / "serial.txt").unlink(), "echo 1000 >"),
    (folder_for_serial, "can't use the serial file .*: Is a directory or no regular file$"),
    (link_to_itself, "Too many levels of symbolic links"),
    (rewrite(is_ca=False), "not a CA certificate"),
    (lambda f: (f / "ca.crt").write_bytes(chains.version_1("op").pem), "not a CA certificate"),
    (rewrite(name=""), "has an empty subject"),
    (rewrite(signs=False), "may not sign certificates"),
    (key_of_another_kind, "neither RSA nor EC"),
    (key_for_pss_alone, "RSASSA-PSS alone"),
    (rewrite(ends=timedelta(days=-1)), "expired on .* remove it: the next start makes another"),
    (rewrite(ends=timedelta()), "expired on"),
    (rewrite(begins=timedelta(days=1)), "not valid before"),
]


@pytest.mark.parametrize(("spoil", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_files(tmp_path: Path, spoil: Callable[[Path], object], message: str) -> None:
    paths = write(tmp_path, TestCA("op"))
    ca.load(*paths, now())
    spoil(tmp_path)
    with pytest.raises(UsageError, match=message) as raised:
        ca.load(*paths, now())
    assert "\n" not in str(raised.value)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"can't use or make a CA in .*file: it is not a folder"):
        cafolder.load(tmp_path / "file", now())


@pytest.mark.parametrize("name", ["ca.crt", "ca.key"])
def test_a_link_to_a_file_that_is_not_there_is_told_and_nothing_is_made(tmp_path: Path, name: str) -> None:
    """A disk that is not mounted yet, perhaps: another CA must not be made meanwhile."""
    link = tmp_path / "ca" / name
    link.parent.mkdir()
    link.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match=f"{name} is a link to a file that does not exist"):
        cafolder.load(link.parent, now())
    assert sorted(os.listdir(link.parent)) == [".lock", name]
    paths = cafolder.files_in(tmp_path / "other")
    cafolder.load(tmp_path / "other", now())
    for path in paths:
        (link.parent / path.name).unlink(missing_ok=True)
        (link.parent / path.name).symlink_to(path)
    found = cafolder.load(link.parent, now())
    assert found.certificate == ca.load(*paths, now()).certificate
    assert found.warnings == ()  # the mode of the key counts, not that of the link


def test_a_ca_in_a_folder_that_cannot_be_written_to_is_not_said_to_be_missing(tmp_path: Path) -> None:
    cafolder.load(tmp_path, now())
    (tmp_path / ".lock").unlink()
    (tmp_path / ".lock").mkdir()  # not even root can open it for writing
    with pytest.raises(UsageError, match=r"can't use the CA in .*, which must be writable: Is a directory; --sign-"):
        cafolder.load(tmp_path, now())


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_a_serial_file_that_cannot_be_written_may_be_so_for_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """A lock is beside it, perhaps another user's, and a longer number replaces it."""
    paths = write(tmp_path, TestCA("op"))

    def read_only(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as mounted:
        mounted.setattr("io.open", read_only)
        with pytest.raises(
            UsageError, match=rf"{os.strerror(code)}; it and its folder .*, and so must \S+serial\.txt\.lock if"
        ):
            ca.load(*paths, now())
    ca.load(*paths, now())


def test_a_certificate_that_cannot_be_seen_is_not_taken_for_missing(tmp_path: Path) -> None:
    """It may be a symbolic link into an inaccessible folder: nothing is created."""
    (tmp_path / "ca.crt").symlink_to("ca.crt")
    with pytest.raises(UsageError, match=r"can't use or make a CA in .*: Too many levels of symbolic links"):
        cafolder.load(tmp_path, now())
    assert {path.name for path in tmp_path.iterdir()} == {".lock", "ca.crt"}


def test_the_end_of_the_ca_is_told_thirty_days_ahead(tmp_path: Path) -> None:
    files = ca.load(*write(tmp_path, TestCA("op", ends=timedelta(days=100))), now())
    assert files.expiry_warning(now() + timedelta(days=69)) is None
    assert "ends on" in (files.expiry_warning(now() + timedelta(days=70)) or "")


@pytest.mark.parametrize("root", [True, False])
def test_the_end_of_one_above_the_ca_is_told_too(tmp_path: Path, root: bool) -> None:
    """Clients that trust the root verify each certificate below it, and most of them the root itself."""
    days = timedelta(days=100)
    top = TestCA("top", ends=days if root else 3 * days)
    middle = TestCA("middle", parent=top, ends=3 * days if root else days)
    stray = TestCA("stray", ends=days / 4)  # above nothing
    files = ca.load(*write(tmp_path, TestCA("op", middle, ends=2 * days), middle.pem + top.pem + stray.pem), now())
    assert files.expiry_warning(now() + timedelta(days=69)) is None
    told = "a certificate above the CA's, in the same file, {} on "
    assert (files.expiry_warning(now() + timedelta(days=70)) or "").startswith(told.format("ends"))
    assert (files.expiry_warning(now() + timedelta(days=101)) or "").startswith(told.format("expired"))
    assert (files.expiry_warning(now() + timedelta(days=171)) or "").startswith("the CA certificate ends on ")
    alone = ca.load(*write(tmp_path, TestCA("op", middle, ends=2 * days)), now())
    assert alone.expiry_warning(now() + timedelta(days=71)) is None


def test_a_former_certificate_of_one_above_the_ca_is_not_told_of(tmp_path: Path) -> None:
    """Clients find the present one beside it."""
    root = TestCA("root")
    former = TestCA("upper", parent=root, ends=timedelta(days=-1))
    present = TestCA("upper", parent=root, key=former.key)
    lower = TestCA("lower", parent=former)
    for chain in ([former, present, root], [present, former, root]):
        files = ca.load(*write(tmp_path, lower, b"".join(above.pem for above in chain)), now())
        assert files.expiry_warning(now()) is None
    files = ca.load(*write(tmp_path, lower, former.pem + root.pem), now())
    assert "expired on" in (files.expiry_warning(now()) or "")


def limits(permitted: tuple[str, ...] = (), excluded: tuple[str, ...] = ()) -> x509.NameConstraints:
    def subtrees(texts: tuple[str, ...]) -> list[x509.GeneralName] | None:
        return [x509.IPAddress(ip_network(t)) if "/" in t else x509.DNSName(t) for t in texts] or None

    return x509.NameConstraints(subtrees(permitted), subtrees(excluded))


NAMES = ("a.example", "x.a.example", "xa.example", "b.example", "192.0.2.1", "192.0.3.1", "2001:db8::1")


@pytest.mark.parametrize(
    ("constraints", "permitted"),
    [
        (limits(("a.example",)), {"a.example", "x.a.example", "2001:db8::1"}),
        (limits(("A.Example", "b.example")), {"a.example", "x.a.example", "b.example", "2001:db8::1"}),
        (limits((".a.example",)), {"x.a.example", "2001:db8::1"}),
        (limits((), ("a.example",)), {*NAMES} - {"a.example", "x.a.example"}),
        (limits(("example",), ("x.a.example",)), {"a.example", "xa.example", "b.example", "2001:db8::1"}),
        (limits((), ("x.a.example", "192.0.2.0/24")), {*NAMES} - {"x.a.example", "192.0.2.1"}),
        (limits(("192.0.2.0/24",)), {*NAMES} - {"192.0.3.1", "2001:db8::1"}),
        (limits(("2001:db8::/32", "a.example")), {"a.example", "x.a.example", "2001:db8::1"}),
        (limits((), ("0.0.0.0/0", "")), {"2001:db8::1"}),
    ],
)
def test_name_constraints_permit_what_openssl_takes(constraints: x509.NameConstraints, permitted: set[str]) -> None:
    authority = TestCA("limited", limits=constraints)
    for name in NAMES:
        faults = [*certlint.of_chain(authority.issue(name), name, authority.certificate)]
        assert (not faults, certpath.permits(constraints, name)) == (name in permitted,) * 2, (name, faults)


@pytest.mark.parametrize("above", [False, True])
def test_a_ca_signs_only_for_names_that_its_constraints_permit(tmp_path: Path, above: bool) -> None:
    """Clients would refuse the others, and say of some that they don't trust the CA."""
    top = TestCA("top", limits=limits(("a.example",)) if above else None)
    lower = TestCA("lower", parent=top, limits=None if above else limits(("a.example",)))
    authority = authority_for(ca.load(*write(tmp_path, lower, top.pem), now()))
    for name in ("x.a.example", "b.example"):
        key, csr = signer.request(name, generate("p256"))
        if name == "b.example":
            with pytest.raises(RetrievalError, match=r"the CA may not sign for b\.example, by its nameConstraints"):
                authority.sign(csr, name, now(), [])
        else:
            pem = authority.sign(csr, name, now(), [])
            assert not [*certlint.of_chain(pem + key, name, top.certificate)]
    assert (tmp_path / "serial.txt").read_text() == "8\n"  # none was taken for the other
