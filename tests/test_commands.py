"""The commands other than the proxy, as their users call them: check, list, prune, warm."""

import errno
import fcntl
import json
import os
import pty
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from hashlib import md5
from pathlib import Path
from typing import NoReturn

import chains
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from gevent.event import Event
from lab import HERE, WAIT, Program, run, until
from pki import TestCA, cert_pem, key_pem, new_key, now
from storeroom import Room
from test_certificates import pem
from test_health import options

import ca
import listing
import prune
import reading
from ca import CaFiles
from check import Check
from issuance import Issuance
from pruning import DAY_SECONDS
from stored import MARK, Entry
from warm import WarmUp

PROGRAM = (sys.executable, str(HERE / "certifier.py"))
SIGN = ("--sign-cert=ca.crt", "--sign-key=ca.key", "--sign-serial=serial.txt")
STORE = "--store=certs"


@pytest.fixture
def room(tmp_path: Path) -> Room:
    """A store with two certificates of our own and an operator's, and the files of its CA."""
    room = Room(tmp_path)
    for file in ("ca.key", "serial.txt"):
        (tmp_path / file).chmod(0o600)
    for name in ("a.example", "127.0.0.1"):
        room.retrieve(name, now())
    room.place(TestCA("operator", parent=TestCA("root")).issue("www.example.com"))
    room.path.chmod(0o600)
    return room


def command(room: Room, *words: str) -> "subprocess.CompletedProcess[str]":
    return run(*PROGRAM, *words, cwd=room.folder)


def in_json(room: Room, *words: str, status: int = 0) -> object:
    result = command(room, *words, "--json")
    assert (result.returncode, result.stderr) == (status, ""), result
    return json.loads(result.stdout)


def names(room: Room) -> list[str]:
    return sorted(entry.name for entry in room.store.entries())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["check"], "--store is required, as in: certifier.py check --store=certs"),
        (["list", "--store=none"], "--store=none: can't read there: No such file or directory"),
        (["prune", STORE, "--keep=x"], "--keep=x: not a whole number of at least 0"),
        (["prune", STORE, "--unused=0"], "--unused=0: not a whole number of at least 1"),
        (["prune", STORE, "--max=3"], "unknown option --max"),
        (
            ["check", STORE, "--sign-cert=x"],
            "without --sign-key and --sign-serial, there is no CA: give all three --sign-*",
        ),
        (["warm", STORE], "<names-file> is missing; see certifier.py warm --help"),
        (["warm", STORE, "names"], "no CA to sign with"),
        (["warm", STORE, "--ca=ca", "none"], "can't read none: No such file"),
        (["warm", STORE, "--ca=ca", "/dev/zero"], "can't read /dev/zero: File too large"),
        (["warm", STORE, "--ca=ca", "a", "b"], "unexpected argument 'b'"),
        (["shred"], "unexpected argument 'shred'; see --help"),
        (["lst", STORE], "unexpected argument 'lst'; did you mean certifier.py list ...?"),
        (
            [STORE, "--max=3", "warm", "names"],
            "unexpected argument 'warm'; did you mean certifier.py warm ...?",
        ),
    ],
)
def test_bad_words_are_one_line_and_exit_2(room: Room, words: list[str], message: str) -> None:
    result = command(room, *words)
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (2, "", 1), result
    assert message in result.stderr


@pytest.mark.parametrize("word", ["check", "list", "prune", "warm"])
def test_each_has_its_manual(room: Room, word: str) -> None:
    result = command(room, word, "--help")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith(f"certifier.py {word}: ")


# list


def test_list(room: Room) -> None:
    rows = in_json(room, "list", STORE)
    assert isinstance(rows, list)
    assert [(row["name"], row["made_by"]) for row in rows] == [
        ("127.0.0.1", "certifier"),
        ("a.example", "certifier"),
        ("www.example.com", "operator"),
    ]
    own = rows[1]
    certificate = x509.load_pem_x509_certificate(Path(room.folder, own["path"]).read_bytes())
    assert int(own["serial"], 16) == certificate.serial_number
    assert own["issuer"] == "CN=one"
    assert own["not_after"] == f"{certificate.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}"
    assert own["size"] == Path(room.folder, own["path"]).stat().st_size
    used = datetime.strptime(own["last_use"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    assert abs(used - now()) < timedelta(minutes=5)
    assert rows[2]["last_use"] is None
    head, *lines = command(room, "list", STORE).stdout.splitlines()
    assert head.split() == ["NAME", "SERIAL", "ISSUER", "NOT-AFTER", "SIZE", "LAST-USE"]
    assert [line.split()[:2] for line in lines] == [[row["name"], row["serial"]] for row in rows]


def test_list_tells_what_cannot_be_read(room: Room) -> None:
    room.path.write_bytes(b"rubbish")
    rows = in_json(room, "list", STORE, status=1)
    assert isinstance(rows, list)
    assert rows[2]["error"] == "no certificate that can be read"
    folder_at(room.path)
    rows = in_json(room, "list", STORE, status=1)
    assert isinstance(rows, list)
    assert (rows[2]["error"], rows[2]["made_by"]) == ("Is a directory or no regular file", "operator")


@pytest.mark.parametrize(("name", "lines"), [("list", 4), ("prune", 1)])
def test_list_and_prune_tell_of_a_folder_that_cannot_be_read(room: Room, name: str, lines: int) -> None:
    assert command(room, name, STORE).returncode == 0
    (room.store.root / "0f0").write_text("no folder")
    done = command(room, name, STORE)
    assert done.returncode == 1
    assert done.stderr == "certs/0f0: can't be read: Not a directory\n"
    assert len(done.stdout.splitlines()) == lines  # what is in the others is told


@pytest.mark.parametrize("used", [3e11, -3e11, 1e300])
def test_list_of_a_time_that_is_in_no_calendar(room: Room, used: float) -> None:
    """Some file systems store such times; ext4 does not."""
    (entry,) = [entry for entry in room.store.entries() if entry.name == "a.example"]
    row = listing.row_of(entry._replace(used=used)) or {}
    assert (row["name"], row["last_use"], row["error"]) == ("a.example", None, None)


@pytest.mark.parametrize("word", ["list", "check"])
def test_what_is_no_certificate_by_far_is_not_read(room: Room, word: str) -> None:
    """A FIFO that nobody writes to, and a sparse file of a tebibyte."""
    os.mkfifo(room.path.with_name("fifo.example.crt"))
    with room.path.with_name("huge.example.crt").open("wb") as file:
        file.truncate(1 << 40)
    found = command(room, word, STORE)
    assert found.returncode == 1, found
    assert "no regular file" in found.stdout
    assert "huge.example" in found.stdout


@pytest.mark.parametrize("words", [["list", STORE], ["check", STORE], ["list", "--help"], ["--help"]])
def test_output_that_does_not_arrive(room: Room, words: list[str]) -> None:
    with open("/dev/full", "w") as full:
        failed = subprocess.run([*PROGRAM, *words], cwd=room.folder, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (failed.returncode, failed.stderr) == (2, "certifier: standard output: No space left on device\n")
    reader, writer = os.pipe()
    reading.close(reader)  # closed at once; gevent's os.close may defer it
    with open(writer, "w") as gone:
        left = subprocess.run([*PROGRAM, *words], cwd=room.folder, stdout=gone, stderr=subprocess.PIPE, text=True)
    assert (left.returncode, left.stderr) == (-signal.SIGPIPE, "")


def test_output_that_nobody_wants(room: Room) -> None:
    closed = run("sh", "-c", '"$@" >&-', "sh", *PROGRAM, "list", STORE, cwd=room.folder)
    assert (closed.returncode, closed.stderr) == (0, "")


# prune


def test_prune_where_the_store_is_locked_is_one_line_and_exit_2(room: Room) -> None:
    with (room.store.root / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = command(room, "prune", STORE, "--keep=0")
    assert found.returncode == 2
    assert found.stderr == "certifier: certs can't be pruned: another process holds the lock certs/.lock\n"


def test_prune_tells_of_what_it_cannot_remove(
    room: Room, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As in a folder of another user's: the rest is removed."""
    real = os.unlink

    def unlink(path: str | os.PathLike[str]) -> None:
        if os.fspath(path).endswith("a.example.crt"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        real(path)

    monkeypatch.chdir(room.folder)
    monkeypatch.setattr(os, "unlink", unlink)
    (room.store.root / "0f0").write_text("no folder")
    assert prune.main([STORE, "--keep=0"], "") == 1
    path = room.store.path("a.example")
    assert path
    told = capsys.readouterr()
    assert told.err.splitlines() == [
        f"{path.relative_to(room.folder)}: can't be removed: Permission denied",
        "certs/0f0: can't be read: Not a directory",
    ]
    assert told.out == "127.0.0.1: beyond the 0 most recently used\n1 removed, 1 kept\n"
    assert names(room) == ["a.example", "www.example.com"]


def test_prune_removes_what_expired_and_never_an_operators(room: Room) -> None:
    room.place(TestCA("operator").issue("www.example.com", ends=timedelta(days=-1)))
    room.retrieve("old.example", now() - timedelta(days=60))
    dry = in_json(room, "prune", STORE, "--dry-run")
    assert "old.example" in names(room)
    pruned = in_json(room, "prune", STORE)
    assert isinstance(dry, dict)
    assert isinstance(pruned, dict)
    assert dry["removed"] == pruned["removed"]
    assert (dry["dry_run"], pruned["dry_run"]) == (True, False)
    ((name, reason),) = [gone.values() for gone in pruned["removed"]]
    assert name == "old.example"
    assert reason.startswith("expired on ")
    assert pruned["kept"] == 2
    assert names(room) == ["127.0.0.1", "a.example", "www.example.com"]


def test_prune_by_last_use(room: Room) -> None:
    path = room.store.path("a.example")
    assert path
    used = time.time() - timedelta(days=10).total_seconds()
    os.utime(path, (used, used))
    assert command(room, "prune", STORE, "--unused=11").stdout == "0 removed, 2 kept\n"
    assert command(room, "prune", STORE, "--unused=10").stdout == "a.example: not used for 10 days\n1 removed, 1 kept\n"
    room.retrieve("b.example", now())
    path = room.store.path("127.0.0.1")
    assert path
    os.utime(path, (used, used))
    assert (
        command(room, "prune", STORE, "--keep=1").stdout
        == "127.0.0.1: beyond the 1 most recently used\n1 removed, 1 kept\n"
    )
    assert names(room) == ["b.example", "www.example.com"]


@pytest.mark.parametrize(
    ("ahead", "gone", "kept"), [(30 * DAY_SECONDS, "127.0.0.1", "a.example"), (60, "a.example", "127.0.0.1")]
)
def test_prune_of_what_was_used_by_a_clock_that_was_ahead(room: Room, ahead: float, gone: str, kept: str) -> None:
    """It was not, if only a little: that is a use since the program began."""
    path = room.store.path("127.0.0.1")
    assert path
    used = time.time() + ahead
    os.utime(path, (used, used))
    said = command(room, "prune", STORE, "--keep=1").stdout
    assert said == f"{gone}: beyond the 1 most recently used\n1 removed, 1 kept\n"
    assert names(room) == [kept, "www.example.com"]


# check


def test_check_of_a_good_store(room: Room) -> None:
    assert in_json(room, "check", STORE, *SIGN) == {"checked": 3, "problems": []}
    assert in_json(room, "check", STORE) == {"checked": 3, "problems": []}
    room.path.parent.chmod(0o755)
    assert command(room, "check", STORE, *SIGN).stdout == "3 certificates checked, 0 problems\n"


def test_check_changes_nothing(room: Room) -> None:
    """Not even a lock is made: if root was the first to check, the proxy's user could not open it."""
    (room.folder / "serial.txt.lock").unlink()
    before = {path: path.stat().st_mtime_ns for path in room.folder.rglob("*")}
    command(room, "check", STORE, *SIGN)
    command(room, "check", STORE, "--sign-serial=ca.crt", *SIGN[:2])
    assert {path: path.stat().st_mtime_ns for path in room.folder.rglob("*")} == before


@pytest.mark.parametrize(
    ("curve", "problems"), [(ec.SECP384R1(), []), (ec.SECP521R1(), ["an EC key on the curve P-521"])]
)
def test_check_of_a_key_on_a_longer_curve(room: Room, curve: ec.EllipticCurve, problems: list[str]) -> None:
    """Chromium refuses P-521 in a server's certificate, though not in its CA's."""
    room.place(room.ca.issue("www.example.com", key=ec.generate_private_key(curve), serial=1))
    found = in_json(room, "check", STORE, *SIGN, status=1 if problems else 0)
    assert isinstance(found, dict)
    assert [told["problem"] for told in found["problems"]] == problems


@pytest.mark.parametrize(("longer", "problems"), [(-9, []), (0, ["valid for over 398 days"])])
def test_check_counts_both_ends_of_a_life(room: Room, longer: int, problems: list[str]) -> None:
    ends = timedelta(days=396, seconds=longer)
    room.place(room.ca.issue("www.example.com", begins=timedelta(days=-2), ends=ends, serial=1))
    found = in_json(room, "check", STORE, *SIGN, status=1 if problems else 0)
    assert isinstance(found, dict)
    assert [told["problem"] for told in found["problems"] if "days" in told["problem"]] == problems


def weak(room: Room, **changes: object) -> bytes:
    """A certificate of the room's CA, wrong in one way."""
    key = new_key(bits=1024 if changes.get("short") else 0)
    if changes.get("curve"):
        key = ec.generate_private_key(ec.SECP256K1())
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(room.ca.name)
        .public_key(key.public_key())
        .serial_number(9999)
        .not_valid_before(now() - timedelta(days=2))
        .not_valid_after(now() + timedelta(days=500 if changes.get("long") else 40))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("www.example.com")]), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(room.ca.key.public_key()), critical=False)
    )
    usage = ExtendedKeyUsageOID.CLIENT_AUTH if changes.get("client") else ExtendedKeyUsageOID.SERVER_AUTH
    if not changes.get("bare"):
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    return cert_pem(builder.sign(room.ca.key, hashes.SHA256())) + key_pem(key)


def by_openssl(room: Room, *words: str, key: str = "ec:P-256") -> None:
    """A self-signed certificate with what libraries do not make; ``key`` is a kind of key and, for EC, its curve."""
    kind, _, curve = key.partition(":")
    made = room.folder / "made"
    options = ["-newkey", kind, "-noenc", *(["-pkeyopt", f"ec_paramgen_curve:{curve}"] if curve else [])]
    named = [
        "-subj",
        "/CN=a host",
        "-addext",
        "subjectAltName=DNS:www.example.com",
        "-addext",
        "extendedKeyUsage=serverAuth",
    ]
    done = run("openssl", "req", "-x509", *options, *named, *words, "-keyout", room.path, "-out", made)
    assert done.returncode == 0, done.stderr
    room.place(made.read_bytes() + room.path.read_bytes())


def signed_with(room: Room, digest: chains.Digest) -> None:
    root = chains.make("root", bits=2048)
    room.place(chains.file((chains.make("a host", root, "www.example.com", digest=digest), root)))


def signed_oddly(room: Room) -> None:
    """With ecdsa-with-SHA256, but under a number that nobody has for it."""
    certificate, begin, key = room.path.read_bytes().partition(b"-----BEGIN PRIVATE KEY")
    der = x509.load_pem_x509_certificate(certificate).public_bytes(Encoding.DER)
    known = bytes.fromhex("2a8648ce3d040302")
    assert der.count(known) == 2
    room.place(pem(der.replace(known, known[:-1] + b"\x7f")) + begin + key)


def folder_at(path: Path) -> None:
    path.unlink()
    path.mkdir()


def misname(room: Room, stem: str) -> None:
    """An operator's file in the documented layout, but under a name that is never looked up."""
    folder = room.store.root / md5(stem.encode()).hexdigest()[:3]
    folder.mkdir()
    path = room.path.rename(folder / f"{stem}.crt")
    path.write_bytes(room.ca.issue("www.example.com", "*.example.com", "fe80::1", "127.0.0.1"))
    path.chmod(0o600)


SPOILERS: dict[str, tuple[Callable[[Room], object], str]] = {
    "not a certificate": (lambda room: room.place(b"x"), "holds no certificate that can be read"),
    "without its key": (lambda room: room.place(room.ca.issue("www.example.com", with_key=False)), "no private key"),
    "another name": (lambda room: room.place(room.ca.issue("b.example")), "it is not for this name"),
    "expired": (lambda room: room.place(room.ca.issue("www.example.com", ends=timedelta(0))), "it expired on"),
    "another's key": (
        lambda room: room.place(room.ca.issue("www.example.com", with_key=False) + key_pem(new_key())),
        "its private key belongs to another certificate",
    ),
    "a short key": (lambda room: room.place(weak(room, short=True)), "an RSA key of 1024 bits"),
    "an odd curve": (lambda room: room.place(weak(room, curve=True)), "an EC key on the curve secp256k1"),
    "a key too short to load": (lambda room: room.place(weak(room, short=True)), "OpenSSL refuses the certificate: "),
    "a curve of no handshake": (lambda room: room.place(weak(room, curve=True)), "no handshake succeeds with it: "),
    "a key of another kind": (lambda room: by_openssl(room, key="ed25519"), "a key that is neither RSA nor EC"),
    "a key for RSASSA-PSS": (lambda room: by_openssl(room, key="rsa-pss"), "an RSA key for RSASSA-PSS alone"),
    "a key that may not sign": (
        lambda room: by_openssl(room, "-addext", "keyUsage=critical,keyEncipherment", key="rsa"),
        "keyUsage without digitalSignature",
    ),
    "a serial of zero": (lambda room: by_openssl(room, "-set_serial", "0"), "a serial number that is not positive"),
    "a negative serial": (lambda room: by_openssl(room, "-set_serial", "-5"), "a serial number that is not positive"),
    "a serial of 160 bits": (lambda room: by_openssl(room, "-set_serial", f"{1 << 159}"), "or has over 20 octets"),
    "SHA-1": (lambda room: signed_with(room, "sha1"), "signed with SHA1"),
    "MD5": (lambda room: signed_with(room, "md5"), "signed with MD5"),
    "an algorithm that is none": (signed_oddly, "signed with an algorithm that nobody knows"),
    "a CA's": (lambda room: by_openssl(room, "-addext", "basicConstraints=CA:TRUE"), "a CA certificate in place of"),
    "must-staple": (
        lambda room: by_openssl(room, "-addext", "tlsfeature=status_request"),
        "it must be served with an OCSP response",
    ),
    "a long life": (lambda room: room.place(weak(room, long=True)), "valid for over 502 days"),
    "for clients": (lambda room: room.place(weak(room, client=True)), "extendedKeyUsage without serverAuth"),
    "no usage": (lambda room: room.place(weak(room, bare=True)), "no extendedKeyUsage"),
    "readable": (lambda room: room.path.chmod(0o640), "others can read its private key"),
    "the CA's key readable": (lambda room: (room.folder / "ca.key").chmod(0o604), "others can read the CA's private"),
    "a folder for all": (lambda room: room.path.parent.chmod(0o702), "others can write there"),
    "a folder for a group": (lambda room: room.path.parent.chmod(0o720), "others can write there"),
    "a folder that is none": (lambda room: (room.store.root / "0f0").write_text("x"), "it can't be read: Not a dir"),
    "the wrong folder": (lambda room: room.path.rename(room.store.path("a.example").parent / room.path.name),  # type: ignore[union-attr]
                         "it is in the wrong folder"),
    "in capitals": (lambda room: misname(room, "WWW.example.com"), "certifier looks for another file name"),
    "a star": (lambda room: misname(room, "*.example.com"), "certifier looks for another file name"),
    "an address in capitals": (lambda room: misname(room, "FE80::1"), "certifier looks for another file name"),
    "a number for an address": (lambda room: misname(room, "127.1"), "its name is not a DNS name"),
    "another CA": (lambda room: (room.folder / "ca.key").write_bytes(key_pem(new_key())), "does not belong to the"),
    "a serial file that is behind": (lambda room: (room.folder / "serial.txt").write_text("8"), "it says 8, but"),
    "a directory": (lambda room: folder_at(room.path), "it can't be read"),
    "a serial twice": (lambda room: room.place(room.ca.issue("www.example.com", serial=7)), "same issuer and serial"),
    "a chain that is strictly wrong": (
        lambda room: room.place(TestCA("x", parent=TestCA("y"), strict=False).issue("www.example.com")),
        "OpenSSL in strict mode: CA cert does not include key usage extension",
    ),
}  # fmt: skip


@pytest.mark.parametrize("spoiler", SPOILERS)
def test_check_says_what_is_wrong_and_what_that_means(room: Room, spoiler: str) -> None:
    spoil, problem = SPOILERS[spoiler]
    spoil(room)
    if room.path.exists() and spoiler != "readable":
        room.path.chmod(0o600)
    before = sorted((path, path.stat().st_mtime_ns) for path in room.folder.rglob("*"))
    found = in_json(room, "check", STORE, *SIGN, status=1)
    assert isinstance(found, dict)
    assert any(problem in told["problem"] for told in found["problems"]), found
    assert all(told["meaning"] and told["where"] for told in found["problems"])
    assert sorted((path, path.stat().st_mtime_ns) for path in room.folder.rglob("*")) == before
    text = command(room, "check", STORE, *SIGN)
    assert text.returncode == 1
    assert problem in text.stdout
    count = len(found["problems"])
    assert text.stdout.endswith(f" checked, {count} {'problem' if count == 1 else 'problems'}\n")


def test_check_of_the_serial_file_goes_by_what_certifier_goes_by(room: Room) -> None:
    """An operator's certificate, signed with the same CA by OpenSSL, has a random number: counting never reaches it."""
    room.place(room.ca.issue("www.example.com", serial=1 << 150))
    assert in_json(room, "check", STORE, *SIGN) == {"checked": 3, "problems": []}


def test_check_of_the_serial_file_of_another_program(room: Room) -> None:
    """That of the plugin holds the last number used; its certificates are without their key, which is the CA's."""
    room.place(room.ca.issue("www.example.com", serial=5000, with_key=False))
    (room.folder / "serial.txt").write_text("5000\n")
    found = in_json(room, "check", STORE, *SIGN, status=1)
    assert isinstance(found, dict)
    (told,) = [told for told in found["problems"] if told["problem"].startswith("it says ")]
    assert told["problem"] == "it says 5000, but the store has seen the serial number 5000"
    assert told["meaning"].endswith(f": echo 5001 > {told['where']}")


def test_check_of_a_ca_that_is_not_there(room: Room) -> None:
    """In certifier's own folder a CA is made at start; an operator's must exist."""
    (room.folder / "own").mkdir()
    (room.folder / "own" / "ca.crt").symlink_to("nowhere")
    for words, meaning in (
        (["--ca=none"], "certifier makes a CA there when it starts"),
        (["--ca=own"], "certifier does not start with this CA"),
        ([*SIGN[1:], "--sign-cert=none"], "certifier does not start with this CA"),
    ):
        found = in_json(room, "check", STORE, *words, status=1)
        assert isinstance(found, dict)
        assert [told["meaning"] for told in found["problems"]] == [meaning]


@pytest.mark.parametrize("mode", [0o770, 0o702])
def test_check_of_a_cas_folder_that_others_can_write_to(room: Room, mode: int) -> None:
    folder = room.folder / "own"
    folder.mkdir(mode=0o700)
    for name in ("ca.crt", "ca.key", "serial.txt"):
        (room.folder / name).rename(folder / name)
    assert in_json(room, "check", STORE, "--ca=own") == {"checked": 3, "problems": []}
    folder.chmod(mode)
    found = in_json(room, "check", STORE, "--ca=own", status=1)
    assert isinstance(found, dict)
    assert [(told["where"], told["problem"]) for told in found["problems"]] == [("own", "others can write there")]


def test_check_of_a_store_behind_a_link(room: Room) -> None:
    (room.folder / "elsewhere").symlink_to("certs")
    assert in_json(room, "check", "--store=elsewhere", *SIGN) == {"checked": 3, "problems": []}
    folder = room.path.parent
    folder.rename(room.folder / "aside")
    folder.symlink_to("../aside")
    for store in (STORE, "--store=elsewhere"):
        found = in_json(room, "check", store, *SIGN, status=1)
        assert isinstance(found, dict)
        assert [told["problem"] for told in found["problems"]] == ["a symbolic link"]


def test_check_of_one_certificate_for_each_of_its_names(room: Room) -> None:
    """These are not two certificates with one serial number, but the same one."""
    pem = TestCA("operator", parent=TestCA("root")).issue("www.example.com", "*.example.net", "127.0.0.2")
    for stem in ("www.example.com", "_.example.net", "127.0.0.2"):
        path = room.store.path(stem)
        assert path is not None
        path.parent.mkdir(mode=0o700, exist_ok=True)
        path.write_bytes(pem)
        path.chmod(0o600)
    assert in_json(room, "check", STORE, *SIGN) == {"checked": 5, "problems": []}


def test_check_of_a_wildcard_that_covers_some_names_or_none(room: Room) -> None:
    """It is served for those that it covers, and skipped for others, never moved aside."""
    operator = TestCA("operator", parent=TestCA("root"))
    path = room.store.path("_.example.net")
    assert path is not None
    path.parent.mkdir(mode=0o700, exist_ok=True)
    for names, problems in (
        (["a.example.org", "www.example.net"], []),
        (["a.b.example.net", "example.net"], [("it can't be used: it is not for this name", "it is never used")]),
    ):
        path.write_bytes(operator.issue(*names))
        path.chmod(0o600)
        found = in_json(room, "check", STORE, *SIGN, status=1 if problems else 0)
        assert isinstance(found, dict)
        assert [(told["problem"], told["meaning"]) for told in found["problems"]] == problems
        leaf = room.retrieve("www.example.net", now() + timedelta(minutes=1))
        assert leaf is not None
        assert leaf.source == ("made" if problems else "disk")
        assert path.exists()


@pytest.mark.parametrize("option", ["--store=certs", "--store=../certs", "--ca=../ca", "--sign-serial=serial.txt"])
def test_a_working_directory_that_was_removed_is_one_line_and_exit_2(room: Room, option: str) -> None:
    gone = room.folder / "gone"
    gone.mkdir()
    words = "sh", "-c", 'rmdir "$PWD"; exec "$@"', "sh", *PROGRAM, "check"
    store = () if option.startswith("--store") else (f"--store={room.folder / 'certs'}",)
    result = run(*words, *store, option, cwd=gone)
    name, _, value = option.partition("=")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == f"certifier: {name}: {value} is a relative path, and the working directory was removed\n"
    gone.mkdir()
    assert run(*words, f"--store={room.folder / 'certs'}", cwd=gone).returncode == 0


def test_check_where_the_output_takes_ascii_alone(room: Room) -> None:
    result = run("env", "PYTHONIOENCODING=ascii", *PROGRAM, "check", STORE, "--ca=é", cwd=room.folder)
    assert (result.returncode, result.stderr) == (1, "")
    assert r"can't read \xe9/ca.crt: No such file or directory" in result.stdout


def problems(room: Room, path: Path, files: CaFiles | None = None) -> list[tuple[str, str, str]]:
    """What check says of one file: the suffix of the file that is named, the problem, and what it means."""
    check = Check(room.store, files, now())
    return [(at.suffix, fault.problem, fault.meaning) for at, fault in check.certificate(Entry.of(path))]


@pytest.mark.parametrize(("mode", "told"), [(0o640, True), (0o604, True), (0o600, False)])
@pytest.mark.parametrize("beside", [True, False])
def test_check_of_a_private_key_that_others_can_read(room: Room, mode: int, told: bool, beside: bool) -> None:
    """In the certificate's file, or beside it; then anybody may read the certificate."""
    key = new_key()
    pem = TestCA("operator", parent=TestCA("root")).issue("www.example.com", key=key, with_key=not beside)
    room.path.write_bytes(pem)
    if beside:
        room.path.chmod(0o644)
    file = room.path.with_suffix(".key") if beside else room.path
    if beside:
        file.write_bytes(key_pem(key))
    file.chmod(mode)
    found = problems(room, room.path)
    assert [where for where, _, _ in found] == [file.suffix] * told
    assert all(problem == "others can read its private key" for _, problem, _ in found)


def test_check_says_what_becomes_of_what_can_not_be_used(room: Room) -> None:
    operator = TestCA("operator", parent=TestCA("root"))
    no_names = chains.make("x", None, ca=False)
    odd = operator.issue("no name", "WWW.example.net", "a.example.org")
    for stem, content, fate in (
        ("a.example", MARK + b"rubbish", "it is replaced when the name is next asked for"),
        ("www.example.com", operator.issue("b.example"), "it would be moved aside when used"),
        ("_.example.net", b"rubbish", "it would be moved aside when used"),
        ("_.example.net", chains.file([no_names]), "it would be moved aside when used"),
        ("_.example.net", operator.issue("b.example"), "it is never used"),
        ("_.example.net", odd, None),
    ):
        path = room.store.path(stem)
        assert path is not None
        path.parent.mkdir(mode=0o700, exist_ok=True)
        path.write_bytes(content)
        path.chmod(0o600)
        assert [meaning for _, _, meaning in problems(room, path)] == ([fate] if fate else [])


def test_check_of_a_certificate_that_outlives_its_ca(room: Room) -> None:
    path = room.store.path("a.example")
    assert path is not None
    ends = x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc - now()
    for less, told in ((timedelta(seconds=-2), []), (timedelta(days=1), ["it outlives its CA"])):
        (room.folder / "ca.crt").write_bytes(TestCA("one", key=room.ca.key, ends=ends - less).pem)
        files = ca.load(room.folder / "ca.crt", room.folder / "ca.key", room.folder / "serial.txt", now())
        assert [problem for _, problem, _ in problems(room, path, files)] == told


def test_check_of_one_serial_number_from_two_issuers(room: Room) -> None:
    check = Check(room.store, None, now())
    for issuer, told in (("operator", 0), ("other", 0), ("other", 1)):
        room.path.write_bytes(TestCA(issuer, parent=TestCA("root")).issue("www.example.com", serial=7))
        assert len(list(check.certificate(Entry.of(room.path)))) == told


def test_check_of_a_ca_that_clients_refuse_or_that_ends_soon(room: Room) -> None:
    root = TestCA("one", strict=False, key=new_key(1024), ends=timedelta(days=29))
    (room.folder / "ca.crt").write_bytes(root.pem)
    (room.folder / "ca.key").write_bytes(key_pem(root.key))
    (room.folder / "ca.key").chmod(0o640)
    found = in_json(room, "check", STORE, *SIGN, status=1)
    assert isinstance(found, dict)
    assert [told["problem"] for told in found["problems"] if told["where"].startswith("ca.")] == [
        "an RSA key of 1024 bits",
        "no keyUsage",
        "no subjectKeyIdentifier",
        "it or one above it ends soon",
        "others can read the CA's private key",
    ]


def test_what_is_removed_meanwhile_is_no_problem(room: Room) -> None:
    """A proxy running at the same time may prune the store."""
    check = Check(room.store, None, now())
    for entry in list(room.store.entries()):
        entry.path.unlink()
        assert listing.row_of(entry) is None
        assert list(check.certificate(entry)) == []
        assert check.checked == 0
        entry.path.symlink_to("nowhere")
        assert (listing.row_of(entry) or {})["error"] == "No such file or directory"
        assert len(list(check.certificate(entry))) == 1
        assert check.checked == 1
        check.checked = 0


@pytest.mark.parametrize("target", ["gone.pem", "www.example.com.crt"])
def test_a_link_that_leads_nowhere_is_told(room: Room, target: str) -> None:
    """As an operator makes it to a file that is then moved; the second leads to itself."""
    room.path.unlink()
    room.path.symlink_to(target)
    found = in_json(room, "check", STORE, *SIGN, status=1)
    assert isinstance(found, dict)
    (told,) = found["problems"]
    assert told["where"] == str(room.path.relative_to(room.folder))
    assert told["problem"].startswith("it can't be read: ")
    rows = in_json(room, "list", STORE, status=1)
    assert isinstance(rows, list)
    assert (rows[2]["name"], rows[2]["made_by"]) == ("www.example.com", "operator")
    assert told["problem"] == f"it can't be read: {rows[2]['error']}"
    in_json(room, "prune", STORE, "--keep=0")
    assert room.path.is_symlink()


def test_check_after_another_ca(room: Room) -> None:
    authority = TestCA("two")
    (room.folder / "ca.crt").write_bytes(authority.pem)
    (room.folder / "ca.key").write_bytes(key_pem(authority.key))
    found = in_json(room, "check", STORE, *SIGN, status=1)
    assert isinstance(found, dict)
    assert [told["problem"] for told in found["problems"]] == ["signed by another CA"] * 2


def test_check_of_a_ca_that_those_above_it_do_not_allow(room: Room) -> None:
    above = chains.make("root", path_length=0)
    (room.folder / "ca.crt").write_bytes(chains.make("middle", above, key=room.ca.key).pem + above.pem)
    found = command(room, "check", STORE, *SIGN).stdout
    assert (
        "ca.crt: too far below a CA with pathlen:0\n  clients that trust one above it refuse what it signs\n" in found
    )


def test_check_of_a_ca_that_those_in_its_file_did_not_sign(room: Room) -> None:
    above = chains.make("root")
    (room.folder / "ca.crt").write_bytes(chains.make("middle", above, key=room.ca.key).pem + TestCA("root").pem)
    found = command(room, "check", STORE, *SIGN).stdout
    assert "ca.crt: signed by none of those after it in its file\n  clients that trust one above it refuse" in found


@pytest.mark.parametrize(
    ("fault", "problem"), [("ends", "certificate has expired"), ("signs", "invalid CA certificate"), ("", "")]
)
def test_check_of_a_ca_below_one_that_clients_refuse(room: Room, fault: str, problem: str) -> None:
    """The root is named as the one that they trust: each certificate below it is verified."""
    root = TestCA("root")
    ends = timedelta(days=-1 if fault == "ends" else 365)
    upper = TestCA("upper", parent=root, ends=ends, signs=fault != "signs")
    lower = TestCA("lower", parent=upper, key=room.ca.key)
    (room.folder / "ca.crt").write_bytes(lower.pem + upper.pem + root.pem)
    found = in_json(room, "check", STORE, *SIGN, status=1)
    assert isinstance(found, dict)
    assert [told["problem"] for told in found["problems"]].count("signed by another CA") == 2
    (room.folder / "names").write_text("a.example\n127.0.0.1\n")
    assert command(room, "warm", STORE, *SIGN, "names").returncode == 0
    found = in_json(room, "check", STORE, *SIGN, status=1 if problem else 0)
    assert isinstance(found, dict)
    told = [told["problem"] for told in found["problems"] if told["where"].startswith("certs")]
    assert len(told) == (2 if problem else 0)
    assert set(told) == ({f"OpenSSL in strict mode: {problem}"} if problem else set())


def test_check_of_a_certificate_with_former_intermediates(room: Room) -> None:
    root = TestCA("root")
    lower = TestCA("one", parent=TestCA("upper", parent=root), key=room.ca.key)
    (room.folder / "ca.crt").write_bytes(lower.pem)
    found = in_json(room, "check", STORE, *SIGN, status=1)
    assert isinstance(found, dict)
    told = [(told["problem"], told["meaning"]) for told in found["problems"]]
    replaced = "it is replaced when the name is next asked for"
    assert told == [("its intermediates are not those of the CA's file", replaced)] * 2


# warm


def test_warm_makes_what_is_not_there_and_goes_on(room: Room) -> None:
    (room.folder / "names").write_text(
        "\ufeff# ours\nB.example. # twice\nb.example\n\na.example\n::1\nno name\nä.example\n"
    )
    first = command(room, "warm", STORE, *SIGN, "names", "--json")
    assert first.returncode == 1
    facts = json.loads(first.stdout)
    assert facts["failed"] == [
        {"name": "no name", "reason": "not a DNS name or IP address"},
        {
            "name": "ä.example",
            "reason": "not a DNS name or IP address; an internationalized name is to be given in ASCII, with xn--",
        },
    ]
    assert facts["made"] + facts["present"] == 4
    assert (facts["made"], facts["left"]) == (2, 0)
    assert names(room) == ["127.0.0.1", "::1", "a.example", "b.example", "www.example.com"]
    (room.folder / "names").write_bytes(b"b.example\rc.example\r\n")  # line ends of any system
    again = command(room, "warm", STORE, *SIGN, "names")
    assert (again.returncode, again.stdout) == (0, "1 made, 1 were there, 0 failed\n")


def test_warm_waits_for_an_operators_file_that_is_being_placed(room: Room) -> None:
    """And makes its own instead if the file is never completed."""
    path = room.store.path("half.example")
    assert path is not None
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(room.path.read_bytes()[:200])
    (room.folder / "names").write_text("half.example\n")
    result = command(room, "warm", STORE, *SIGN, "names")
    assert (result.returncode, result.stdout) == (0, "1 made, 0 were there, 0 failed\n")
    assert path.with_name("half.example.crt.rejected").exists()


@pytest.mark.parametrize("present", [True, False])
def test_warm_tells_what_was_made_and_not_stored(room: Room, present: bool) -> None:
    """Also where another CA's certificate is still in place."""
    if present:
        for path in (room.folder / "certs").glob("*/a.example.crt"):
            stored = path.read_bytes()
        other = TestCA("two")
        (room.folder / "ca.crt").write_bytes(other.pem)
        (room.folder / "ca.key").write_bytes(key_pem(other.key))
    name = "a.example" if present else "b.example"
    (room.folder / "names").write_text(f"{name}\n")
    words = (
        "sh",
        "-c",
        'ulimit -f 1; exec "$@"',
        "sh",
        *PROGRAM,
        "warm",
        STORE,
        *SIGN,
        "names",
        "--json",
    )  # ulimit counts blocks of 512 octets
    result = run(*words, cwd=room.folder)
    facts = json.loads(result.stdout)
    assert (result.returncode, facts["made"], facts["left"]) == (1, 0, 0)
    assert facts["failed"] == [{"name": name, "reason": "made, but not stored"}]
    assert "certificates are in memory only: File too large" in result.stderr
    if present:
        assert path.read_bytes() == stored


def test_warm_counts_what_nobody_foresaw_as_failed(
    room: Room, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_memory(_: str) -> NoReturn:
        raise MemoryError("no memory")

    warm_up = WarmUp(Issuance(options(room.folder), now()))
    with monkeypatch.context() as patched:
        patched.setattr("keys.generate", no_memory)
        assert warm_up.run(["b.example"], Event())
    assert warm_up.failed == [{"name": "b.example", "reason": "a bug in certifier: MemoryError('no memory')"}]
    assert "Traceback" in capsys.readouterr().err


def test_warm_makes_nothing_for_a_name_too_long_to_be_stored(room: Room) -> None:
    before = (room.folder / "serial.txt").read_text()
    name = ".".join(["a" * 60] * 4)
    (room.folder / "names").write_text(f"{name}\n")
    result = command(room, "warm", STORE, *SIGN, "names")
    assert (result.returncode, result.stderr) == (1, f"'{name}': the name is too long for the store\n")
    assert (room.folder / "serial.txt").read_text() == before


def test_warm_is_interrupted_and_goes_on(room: Room) -> None:
    wanted = [f"{number}.example" for number in range(3000)]
    words = [*PROGRAM, "warm", STORE, *SIGN, "-"]
    with subprocess.Popen(
        words, cwd=room.folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin
        process.stdin.write("\n".join(wanted))
        process.stdin.close()
        until(lambda: len(names(room)) >= 20)
        process.send_signal(signal.SIGINT)
        assert process.wait(WAIT) == 130
        assert process.stdout
        assert "interrupted with" in process.stdout.read()
    held = len(names(room))
    assert 20 <= held < 3000
    (room.folder / "some").write_text("\n".join(wanted[:30]))
    facts = in_json(room, "warm", STORE, *SIGN, "some")
    assert isinstance(facts, dict)
    assert facts["present"] >= 15
    assert facts["made"] + facts["present"] == 30


def test_warm_shows_its_progress_on_a_terminal(room: Room) -> None:
    (room.folder / "names").write_text("b.example\nc.example\n")
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (24, 80))
    words = [*PROGRAM, "warm", STORE, *SIGN, "names"]
    process = subprocess.Popen(words, cwd=room.folder, stdout=subprocess.PIPE, stderr=slave)
    os.close(slave)
    assert process.communicate(timeout=WAIT)[0] == b"2 made, 0 were there, 0 failed\n"
    shown = b""
    with suppress(OSError):  # EIO once all that a closed terminal had written is read
        while data := os.read(master, 65_536):
            shown += data
    os.close(master)
    assert b"2/2" in shown


# The store of a running proxy


def direct(program: Program, name: str) -> None:
    """Have a certificate made or loaded by a direct TLS handshake."""
    words = ["openssl", "s_client", "-connect", f"127.0.0.1:{program.address[1]}", "-servername", name]
    run(*words, input="")


def test_store_max_bounds_the_store_of_a_running_proxy(tmp_path: Path) -> None:
    with Program(tmp_path, STORE, "--max=100", "--ca=ca", "--store-max=4", "--redirect=127.0.0.1:1") as running:
        for number in range(12):
            direct(running, f"{number}.example")
        running.wait_for(r"removed \d certificates? from the store, unused longest \(--store-max\)")
        until(lambda: len(list((tmp_path / "certs").glob("???/*.crt"))) <= 4)


def mounting(command: str) -> list[str]:
    """A prefix that runs a program in a mount namespace of its own, after a command that mounts something."""
    unshare = ["unshare", "--user", "--map-root-user", "--mount"]
    if sys.platform != "linux" or run(*unshare, "true").returncode:
        pytest.skip("no namespace to mount a file system in")
    return [*unshare, "sh", "-c", f'{command} && exec "$@"', "sh"]


def test_a_store_that_is_read_only(room: Room) -> None:
    """Without a CA it is read, and an unusable file is logged once and skipped; with a CA it is an error."""
    prefix = mounting("mount --bind certs certs && mount -o remount,bind,ro certs")
    bad = room.path.with_name("bad.example.crt")
    bad.write_bytes(b"rubbish")
    path = room.store.path("bad.example")
    assert path
    path.parent.mkdir(exist_ok=True)
    bad.rename(path)
    with Program(room.folder, STORE, "--max=100", "--redirect=127.0.0.1:1", prefix=prefix) as running:
        direct(running, "a.example")
        assert " context=disk " in running.tunnels(1)[0]
        for number in range(2, 4):
            direct(running, "bad.example")
            assert "outcome=http_request_denied" in running.tunnels(number)[-1]
        running.wait_for("skipped, as it can't be moved aside: Read-only file system")
        assert len([line for line in running.lines if "skipped" in line]) == 1
    refused = run(*prefix, *PROGRAM, STORE, "--max=1", *SIGN, "--listen=127.0.0.1:0", cwd=room.folder)
    assert refused.returncode == 2
    assert refused.stderr == "certifier: --store=certs: can't write there: Read-only file system\n"


def test_a_disk_that_is_full_and_then_is_not(tmp_path: Path) -> None:
    """A real one, a tmpfs of 64 KB: served from memory, with one warning, and stored again when there is room."""
    (tmp_path / "certs").mkdir()
    prefix = mounting("mount -t tmpfs -o size=64k none certs")
    with Program(tmp_path, STORE, "--max=100", "--ca=ca", "--redirect=127.0.0.1:1", prefix=prefix) as running:
        for number in range(20):
            direct(running, f"{number}.example")
        running.wait_for("the store failed, certificates are in memory only: No space left on device")
        lines = running.tunnels(20)
        assert all(" context=made " in line for line in lines)
        direct(running, "19.example")
        assert " context=memory " in running.tunnels(21)[-1]
        assert len([line for line in running.lines if "the store failed" in line]) == 1
        root = Path(f"/proc/{running.process.pid}/cwd/certs")
        stored = list(root.glob("???/*.crt"))
        assert 0 < len(stored) < 20
        for path in stored:
            path.unlink()
        direct(running, "new.example")
        assert [path.name for path in root.glob("???/*")] == ["new.example.crt"]
