"""The command line, and the structure that the repository promises."""

import ast
import errno
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest
from lab import HERE, WAIT, Origin, Program, get, run, secure_tunnel, strict_context, until
from pki import TestCA, key_pem, new_key
from test_ca import encrypted_key

import certifier
import har
import options
import reading
import signer
import tlsconfig
from commandline import CommandLine
from errors import UsageError
from limits import Limits
from version import VERSION

GOOD = ["--store=certs", "--max=9"]


def write_new_ca(folder: Path) -> TestCA:
    authority = TestCA("op")
    (folder / "ca.crt").write_bytes(authority.pem)
    (folder / "ca.key").write_bytes(key_pem(authority.key))
    return authority


def write_ca(folder: Path) -> None:
    authority = write_new_ca(folder)
    (folder / "serial").write_text("1\n")
    (folder / "leaf.crt").write_bytes(authority.issue("a.example", key=authority.key))
    (folder / "rubbish").write_text("rubbish")
    (folder / "sealed").mkdir()
    encrypted_key(folder / "sealed")
    (folder / "other.key").write_bytes(key_pem(new_key()))


def refuses(address: tuple[str, int]) -> bool:
    """Whether nobody listens there."""
    with socket.socket() as sock:
        return sock.connect_ex(address) != 0


SIGN = ["--sign-cert=ca.crt", "--sign-key=ca.key", "--sign-serial=serial"]

BAD = [
    ([], "--store is required"),
    (["--store=certs"], "--max is required"),
    (["--max=1"], "--store is required"),
    (["--store=certs", "--max=0"], "--max=0: not a whole number of at least 1"),
    (["--store=certs", "--max=x"], "--max=x: not a whole number"),
    (["--store=certs", "--max=-1"], "--max=-1: not a whole number"),
    (["--store=certs", f"--max={10**15}"], f"--max={10**15}: not a whole number from 1 to 999999999999999 (names"),
    (["--store=certs", "--max=1.5"], "not a whole number"),
    (["--store=certs", "--max=٣"], "not a whole number"),
    ([*GOOD, "--lsten=a:1"], "unknown option --lsten; did you mean --listen?"),
    ([*GOOD, "--sign=x"], "unknown option --sign;"),
    ([*GOOD, "--listen"], "--listen needs a value"),
    ([*GOOD, "--keylog", "--log-requests"], "--keylog needs a value"),
    ([*GOOD, "--keylog", "--log-request"], "--keylog needs a value"),
    ([*GOOD, "--keylog", "-h"], "--keylog needs a value"),
    ([*GOOD, "--no-verify-upstream=1"], "takes no value"),
    ([*GOOD, "--max=3"], "--max is given twice"),
    ([*GOOD, "stray"], "unexpected argument 'stray'"),
    ([*GOOD, "-x"], "unknown option -x"),
    ([*GOOD, "--listen=8080"], "--listen=8080: not HOST:PORT"),
    ([*GOOD, "--listen=127.0.0.1:99999"], "not HOST:PORT"),
    ([*GOOD, "--redirect=tls://x"], "--redirect=tls://x: not HOST:PORT or tls://HOST:PORT"),
    ([*GOOD, "--redirect=https://a:1"], "not HOST:PORT or tls://HOST:PORT"),
    ([*GOOD, "--redirect=a:0"], "not HOST:PORT"),
    ([*GOOD, "--listen=a\nb"], "certifier: --listen=a b: not HOST:PORT"),
    ([*GOOD, "--key-type=dsa"], "--key-type=dsa: not one of p256, p384"),
    ([*GOOD, "--crl-url=https://x/"], "not an http:// URL, such as"),
    ([*GOOD, "--crl-url=http://x/ y"], "not an http:// URL"),
    ([*GOOD, "--crl-url=http://[x/"], "not an http:// URL"),
    ([*GOOD, "--crl-url=http://x:y/"], "not an http:// URL"),
    ([*GOOD, "--crl-url=http://x:0/"], "not an http:// URL"),
    ([*GOOD, "--crl-url=http:///ca.crl"], "not an http:// URL"),
    ([*GOOD, "--crl-url=http://x/é"], "not an http:// URL"),
    ([*GOOD, "--crl-url=http://x/\x7f"], "not an http:// URL"),
    *[
        ([*GOOD, f"--ports={bad}"], f"--ports={bad}: not a list")
        for bad in ("0", "9-8", "1-65536", "http", "1,,2", "٣")
    ],
    ([*GOOD, "--store-max=0"], "--store-max=0: not a whole number of at least 1"),
    ([*GOOD, "--days=0"], "--days=0: not a whole number from 1 to 397"),
    ([*GOOD, "--days=398"], "not a whole number from 1 to 397"),
    ([*GOOD, f"--days={10**15}"], "not a whole number from 1 to 397"),
    ([*GOOD, "--ca=ca", "--sign-key=k"], "can't both be given"),
    ([*GOOD, "--upstream-ca=none.pem"], "--upstream-ca=none.pem: can't read it: No such file"),
    (
        [*GOOD, "--upstream-ca=rubbish"],
        "no PEM certificate; OpenSSL converts DER: openssl x509 -inform der -in rubbish ",
    ),
    ([*GOOD, "--upstream-ca=other.key"], "--upstream-ca=other.key: holds no PEM certificate\n"),
    ([*GOOD, *SIGN[:2], "--sign-serial=rubbish"], "must hold one positive decimal number"),
    ([*GOOD, *SIGN[:2], "--sign-serial=none"], "can't use the serial file none"),
    ([*GOOD, SIGN[0], "--sign-key=sealed/ca.key", SIGN[2]], "has a passphrase"),
    ([*GOOD, SIGN[0], "--sign-key=other.key", SIGN[2]], "does not belong to the certificate"),
    ([*GOOD, SIGN[0], "--sign-key=none", SIGN[2]], "can't read none"),
    ([*GOOD, "--sign-cert=leaf.crt", *SIGN[1:]], "is not a CA certificate"),
    ([*GOOD, "--sign-cert=rubbish", *SIGN[1:]], "holds no PEM certificate that can be read: "),
    (["--store=rubbish", "--max=1"], "--store=rubbish: can't read there: Not a directory"),
    (["--store=rubbish", "--max=1", *SIGN], "--store=rubbish: can't write there: it is not a folder"),
    (["--store=rubbish/x", "--max=1"], "can't write there: Not a directory"),
    ([*GOOD, "--ca=rubbish"], "can't use or make a CA in rubbish: it is not a folder"),
    ([*GOOD, "--har=."], "--har=.: can't write it: Is a directory"),
    ([*GOOD, "--har=/"], "--har=/: not the name of a file"),
    ([*GOOD, "--pcap=/"], "--pcap=/: "),
    (["--max=9", f"--store={'a' * 300}"], "a: can't read there: File name too long"),
    ([*GOOD, "--tap=none.py"], "--tap=none.py: can't read it: No such file"),
    ([*GOOD, "--tap=/dev/zero"], "--tap=/dev/zero: can't read it: Is a directory or no regular file"),
    ([*GOOD, "--tap=fifo"], "--tap=fifo: can't read it: Is a directory or no regular file"),
    ([*GOOD, "--auth=/dev/zero"], "--auth=/dev/zero: can't read it: File too large"),
    ([*GOOD, "--auth=fifo"], "--auth=fifo: holds no user"),
    ([*GOOD, "--upstream-ca=/dev/zero"], "--upstream-ca=/dev/zero: can't read it: File too large"),
    ([*GOOD, SIGN[0], "--sign-key=/dev/zero", SIGN[2]], "can't read /dev/zero: File too large"),
    ([*GOOD, "--deny=@/dev/zero"], "--deny=@/dev/zero: can't read /dev/zero: a line of 1048576 characters or more"),
    ([*GOOD, "--allow=a b"], "certifier: --allow: 'a b' is not a host"),
    (
        [*GOOD, "--bypass=a b"],
        "certifier: --bypass: 'a b' is not a host, *.host, host:port or network such as 10.0.0.0/8\n",
    ),
    ([*GOOD, "--bypass=*.exämple"], "; an internationalized name is to be given in ASCII, with xn--\n"),
    ([*GOOD, "--allow-from=a"], "certifier: --allow-from=a: not a network"),
    ([*GOOD, "--log-file=x", "--har=./x"], "--log-file and --har can't both be x"),
    ([*GOOD, "--har=x", "--pcap=x"], "--har and --pcap can't both be x"),
    ([*GOOD, "--ca=ca", "--pcap=ca/ca.key"], "--pcap and --ca can't both be ca/ca.key"),
    ([*GOOD, *SIGN, "--log-file=serial"], "--log-file and --sign-serial can't both be serial"),
    ([*GOOD, "--keylog=new", "--deny=@new"], "--keylog and --deny can't both be new"),
]


@pytest.mark.parametrize(("words", "message"), BAD, ids=[" ".join(words) or "none" for words, _ in BAD])
def test_every_bad_value_is_one_line_and_exit_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    write_ca(tmp_path)
    os.mkfifo(tmp_path / "fifo")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("certifier.serve", lambda *_: None)
    assert certifier.main(["--listen=127.0.0.1:0", *words]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert re.fullmatch(r"certifier: [^\n]+\n", err)
    assert message in err


@pytest.mark.parametrize("option", ["--ca=ca", "--log-file=log", "--tap=tap.py"])
def test_a_working_directory_that_was_removed_is_one_line_and_exit_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], option: str
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert certifier.main([f"--store={tmp_path}", "--max=9", option]) == 2
    assert re.fullmatch(rf"certifier: {option.partition('=')[0]}: [^\n]+ removed\n", capfd.readouterr().err)


@pytest.mark.parametrize("option", ["--open", "--keylog=keys", "--upstream-ca=ca.crt"])
def test_a_system_without_proc_is_one_line_and_exit_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], option: str
) -> None:
    write_ca(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("certifier.serve", lambda *_: None)
    monkeypatch.setattr("tlsconfig._DESCRIPTORS", str(tmp_path / "none"))
    for words in ([*GOOD, "--listen=127.0.0.1:0", option], ["check", GOOD[0]]):  # which would blame each certificate
        assert certifier.main(words) == 2
        assert re.fullmatch(r"certifier: there is no /proc, [^\n]+\n", capfd.readouterr().err)


@pytest.mark.parametrize("option", ["--open", "--keylog=keys", "--upstream-ca=ca.crt"])
def test_a_system_that_forbids_files_in_memory_is_one_line_and_exit_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], option: str
) -> None:
    def forbidden(*_: object) -> int:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    write_ca(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("certifier.serve", lambda *_: None)
    with monkeypatch.context() as filtered:
        filtered.setattr(os, "memfd_create", forbidden)
        for words in ([*GOOD, "--listen=127.0.0.1:0", option], ["check", GOOD[0]]):
            assert certifier.main(words) == 2
            expected = r"certifier: OpenSSL can't be given certificates, [^\n]+: memfd_create: [^\n]+\n"
            assert re.fullmatch(expected, capfd.readouterr().err)
    assert certifier.main([*GOOD, "--listen=127.0.0.1:0", option]) == 0


def test_as_a_process(tmp_path: Path) -> None:
    program = [sys.executable, str(HERE / "certifier.py")]
    bad = run(*program, "--store=certs", "--max=0", cwd=tmp_path)
    assert (bad.returncode, bad.stdout, bad.stderr.count("\n")) == (2, "", 1)
    version = run(*program, "--version", cwd=tmp_path)
    assert (version.returncode, version.stdout) == (0, f"certifier {VERSION}\n")
    manual = run(*program, "--help", cwd=tmp_path)
    assert manual.returncode == 0
    assert certifier.__doc__
    assert manual.stdout.strip() == certifier.__doc__.strip()
    for more in ("--max", "--no", "--max=x"):
        again = run(*program, "--help", more, cwd=tmp_path)
        assert (again.returncode, again.stdout) == (0, manual.stdout)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        used = run(*program, *GOOD, f"--listen={where}", cwd=tmp_path)
    assert used.returncode == 2
    assert (
        used.stderr
        == f"certifier: can't listen on {where}: Address already in use; choose another with --listen=HOST:PORT\n"
    )


def test_a_copy_without_its_page_leaves_no_files(tmp_path: Path) -> None:
    (tmp_path / "copy" / "page").mkdir(parents=True)
    for path in HERE.glob("*.py"):
        shutil.copy(path, tmp_path / "copy")
    options = [*GOOD, "--listen=127.0.0.1:0", "--har=all.har", "--pcap=all.pcapng"]
    refused = run(sys.executable, tmp_path / "copy" / "certifier.py", *options, cwd=tmp_path)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert re.fullmatch(r"certifier: the page's files in [^\n]+ are incomplete: [^\n]+\n", refused.stderr)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["certs", "copy"]


@pytest.mark.parametrize("flag", ["-P", "-I", "-O"])
def test_how_python_is_started(tmp_path: Path, flag: str) -> None:
    """Without the program's folder in the path, or without assertions."""
    ended = run(sys.executable, flag, HERE / "certifier.py", "warm", GOOD[0], "--ca=ca", "-", cwd=tmp_path, input="a\n")
    assert (ended.returncode, ended.stdout) == (0, "1 made, 0 were there, 0 failed\n")


@pytest.mark.parametrize("words", [GOOD, ["list", GOOD[0]], ["--help"]])
def test_without_the_manual_is_one_line_and_exit_2(tmp_path: Path, words: list[str]) -> None:
    ended = run(sys.executable, "-OO", HERE / "certifier.py", *words, cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert re.fullmatch(r"certifier: [^\n]+ -OO [^\n]+\n", ended.stderr)


def test_why_it_does_not_start_is_one_write(tmp_path: Path) -> None:
    """The lines of other workers must not come between."""
    reader, writer = os.pipe2(os.O_DIRECT)  # a packet for each write
    with open(reader, "rb", buffering=0) as lines:
        with open(writer, "wb") as stderr:
            command = [sys.executable, str(HERE / "certifier.py"), "--max=9"]
            subprocess.run(command, cwd=tmp_path, stderr=stderr, timeout=WAIT, check=False)
        assert re.fullmatch(rb"certifier: --store is required, as in: .+\n", lines.read(4096))


OPENED = """
import os, sys
sys.path.insert(0, sys.argv[1])
import certifier
print(certifier.main(["list", "--store=."]), *(os.readlink(f"/proc/self/fd/{number}") for number in (0, 2)))
"""


def test_what_is_opened_is_no_standard_descriptor(tmp_path: Path) -> None:
    """Even if the parent process closed those."""
    command = ["sh", "-c", 'exec "$@" 0<&- 2>&-', "sh", sys.executable, "-c", OPENED, str(HERE)]
    assert run(*command, cwd=tmp_path).stdout.splitlines()[-1] == "0 /dev/null /dev/null"


def test_a_host_to_listen_on_that_is_unknown(tmp_path: Path) -> None:
    """What Python adds to the reason is not for operators."""
    command = [sys.executable, str(HERE / "certifier.py"), *GOOD, "--listen=none.invalid:80", "--open"]
    result = run(*command, cwd=tmp_path)
    assert result.returncode == 2
    assert re.fullmatch(r"certifier: can't listen on none\.invalid:80: [^()\n]+; choose another .+\n", result.stderr)


def test_some_of_the_three_files_turn_generation_off_and_it_says_so(tmp_path: Path) -> None:
    write_ca(tmp_path)
    with Program(tmp_path, *GOOD, *SIGN[:2]) as running:
        running.wait_for(r"without --sign-serial, no certificates are signed: give all three --sign-\*, or --ca")
        running.wait_for("no CA: only names in the store are intercepted; --ca=<dir> makes one")
        running.wait_for(f"^see: {running.url}/ in a browser$")
        assert not any(line.startswith("try:") for line in running.lines)


def test_an_operators_ca_is_told_at_start(tmp_path: Path) -> None:
    folder = tmp_path / "our CA"
    folder.mkdir()
    write_ca(folder)
    with Program(tmp_path, *GOOD, *(word.replace("=", "=our CA/") for word in SIGN)) as running:
        running.wait_for("^CA certificate: our CA/ca.crt$")
        running.wait_for(f"^try: curl -x {running.url} --cacert 'our CA/ca.crt' ")
        running.wait_for(f"^see: {running.url}/ in a browser$")


def test_a_new_ca_is_told_once(tmp_path: Path) -> None:
    """Who mistypes --ca is to see why clients no longer trust anything."""
    told = "Z made a new CA in ca: clients must trust its ca.crt$"
    with Program(tmp_path, *GOOD, "--ca=ca") as running:
        running.wait_for(told)
    with Program(tmp_path, *GOOD, "--ca=ca") as running:
        running.wait_for("^try: curl")
        assert not [line for line in running.lines if re.search(told, line)]


def test_an_unverified_upstream_is_said_loudly(tmp_path: Path) -> None:
    with Program(tmp_path, *GOOD, "--no-verify-upstream") as running:
        running.wait_for("ORIGINS ARE NOT VERIFIED")


def test_a_system_without_roots_is_told_at_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, roots: Path) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("SSL_CERT_FILE", "none")
    monkeypatch.setenv("SSL_CERT_DIR", "empty")
    warning = "no root certificates, so no origin is trusted"
    with Program(tmp_path, *GOOD) as running:
        running.wait_for(warning)
    for option in (f"--upstream-ca={roots}", "--no-verify-upstream", "--redirect=127.0.0.1:9"):
        with Program(tmp_path, *GOOD, option) as running:
            pass
        assert not any(warning in line for line in running.lines)


@pytest.mark.parametrize(
    ("file", "folder", "found"),
    [("roots.pem", "none", True), ("none", "full", True), ("none", "empty", False), ("none", "none", False)],
)
def test_where_a_system_has_roots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, folder: str, found: bool
) -> None:
    for name in ("full", "empty"):
        (tmp_path / name).mkdir()
    for path in (tmp_path / "roots.pem", tmp_path / "full" / "root.pem"):
        path.touch()
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / file))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / folder))
    assert tlsconfig.system_has_roots() == found


def test_sighup_takes_a_new_ca_and_keeps_tunnels(tmp_path: Path, roots: Path, echo_origin: Origin) -> None:
    write_ca(tmp_path)
    target = f"localhost:{echo_origin.port}"
    with Program(tmp_path, *GOOD, *SIGN, f"--upstream-ca={roots}") as running:
        before = strict_context(tmp_path / "ca.crt")
        with secure_tunnel(running, target, context=before) as secure:
            (tmp_path / "ca.key").write_text("rubbish")
            running.process.send_signal(signal.SIGHUP)
            running.wait_for("not reloaded, what was in force stays: ca.key holds no usable PEM private key")
            with secure_tunnel(running, target, context=before):
                pass
            write_new_ca(tmp_path)
            running.process.send_signal(signal.SIGHUP)
            running.wait_for("reloaded: CA, stored certificates, roots of origins, lists and users")
            with secure_tunnel(running, target, context=strict_context(tmp_path / "ca.crt")):
                pass
            running.wait_for("reissued the certificate for localhost: it was signed by another CA")
            assert run("curl", "-sS", f"{running.url}/ca.crt").stdout == (tmp_path / "ca.crt").read_text()
            secure.sendall(b"still here")
            assert secure.recv(100) == b"still here"


def test_what_a_crash_left_is_removed_at_the_next_start(tmp_path: Path) -> None:
    """From the store and from beside the CA's files."""
    with Program(tmp_path, *GOOD, "--ca=ca"):
        pass
    left = [tmp_path / folder / ".certifier-0-1-1.tmp" for folder in ("certs", "ca")]
    kept = tmp_path / "ca" / "notes.tmp"
    for path in (*left, kept):
        path.touch()
    with Program(tmp_path, *GOOD, "--ca=ca") as running:
        running.wait_for("removed 2 temporary files that a crash had left")
    assert [path for path in (*left, kept) if path.exists()] == [kept]


def test_the_end_waits_for_a_reload(tmp_path: Path, roots: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its thread is in OpenSSL, and would crash while OpenSSL is torn down."""
    fifo = tmp_path / "roots"
    os.mkfifo(fifo)
    monkeypatch.setenv("SSL_CERT_FILE", str(fifo))
    starting = Program(tmp_path, *GOOD)
    fifo.write_bytes(roots.read_bytes())
    with starting as running:
        running.process.send_signal(signal.SIGHUP)
        with fifo.open("wb") as reading:  # returns once it is being read
            running.process.terminate()
            until(lambda: refuses(running.address))
            reading.write(roots.read_bytes())
        assert running.stop() == 0
    assert any("reloaded" in line for line in running.lines)


@pytest.mark.parametrize("name", ["ca.crt", "ca.key", "users", "roots"])
def test_a_fifo_that_nobody_writes_to_holds_no_reload_up(tmp_path: Path, name: str) -> None:
    """Nor does it hold up the next one, once the file is back."""
    write_ca(tmp_path)
    (tmp_path / "users").write_text("alice:$2y$05$" + "." * 53 + "\n")
    shutil.copy(tmp_path / "ca.crt", tmp_path / "roots")
    with Program(tmp_path, *GOOD, *SIGN, "--auth=users", "--upstream-ca=roots") as running:
        path = (tmp_path / name).rename(tmp_path / "aside")
        os.mkfifo(tmp_path / name)
        running.process.send_signal(signal.SIGHUP)
        running.wait_for("not reloaded, what was in force stays: ")
        path.rename(tmp_path / name)
        running.reload()


def test_a_key_from_a_pipe(tmp_path: Path) -> None:
    write_ca(tmp_path)
    reader, writer = os.pipe()
    os.write(writer, (tmp_path / "ca.key").read_bytes())
    reading.close(writer)  # at once: gevent's waits for its loop, that for the program, and that for the pipe's end
    words = (*GOOD, *SIGN, f"--sign-key=/proc/{os.getpid()}/fd/{reader}")
    with Program(tmp_path, *(word for word in words if word != "--sign-key=ca.key")):
        pass
    os.close(reader)


def test_sighup_takes_new_roots_of_origins(tmp_path: Path, roots: Path, origin: Origin) -> None:
    (tmp_path / "roots").write_bytes(TestCA("others' CA").pem)
    with Program(tmp_path, *GOOD, "--ca=ca", "--upstream-ca=roots") as running:
        for status in (502, 200):
            with secure_tunnel(running, f"localhost:{origin.port}") as secure:
                assert get(secure).status == status
            (tmp_path / "roots").write_bytes(roots.read_bytes())
            running.reload()


def test_the_crl_that_leaves_point_to(tmp_path: Path) -> None:
    with Program(tmp_path, *GOOD, "--ca=ca", "--crl-url=http://127.0.0.1:8080/ca.crl") as running:
        crl = tmp_path / "ca.crl"
        fetched = run("curl", "-sS", "-o", crl, "-w", "%{http_code} %{content_type}", f"{running.url}/ca.crl")
        assert fetched.stdout == "200 application/pkix-crl"
        through = run("curl", "-sS", "-x", running.url, "-o", tmp_path / "again", f"{running.url}/ca.crl")
        assert (through.returncode, (tmp_path / "again").read_bytes()) == (0, crl.read_bytes())
        shown = run("openssl", "crl", "-in", crl, "-inform", "DER", "-noout", "-text", "-CAfile", running.ca)
        assert "verify OK" in shown.stderr
        assert "No Revoked Certificates" in shown.stdout


def test_a_ca_near_its_end_is_told_at_start(tmp_path: Path) -> None:
    authority = TestCA("op", ends=timedelta(days=20))
    (tmp_path / "ca.crt").write_bytes(authority.pem)
    (tmp_path / "ca.key").write_bytes(key_pem(authority.key))
    (tmp_path / "serial").write_text("1\n")
    with Program(tmp_path, *GOOD, *SIGN) as running:
        running.wait_for("warning: the CA certificate ends on")


def test_several_listeners(tmp_path: Path) -> None:
    with Program(tmp_path, *GOOD, "--listen=127.0.0.1:0", "--listen=[::1]:0", listen=False) as running:
        running.wait_for(r"^listening on 127.0.0.1:\d+$")
        port = int(running.wait_for(r"^listening on \[::1\]:\d+$").rpartition(":")[2])
        result = run("curl", "-sS", "-g", f"http://[::1]:{port}/")
        assert "TLS-intercepting" in result.stdout
        loop = run("curl", "-sS", "-g", "-x", running.url, f"http://[::1]:{port}/")
        assert loop.stdout.startswith("certifier: a TLS-intercepting")


def test_options_are_checked_values() -> None:
    assert certifier.__doc__
    words = [*GOOD, "--listen=[::1]:0", "--listen", "localhost:1", "--redirect=tls://A.example:2"]
    chosen = options.proxy_options(CommandLine(certifier.__doc__, words, "v"))
    assert [str(target) for target in chosen.listen] == ["[::1]:0", "localhost:1"]
    assert (str(chosen.redirect), chosen.redirect_tls, chosen.capacity) == ("a.example:2", True, 9)
    assert chosen.verify_upstream
    assert chosen.rules.ports == (range(80, 81), range(443, 444), range(1024, 65536))
    words = ["--store=--certs", f"--max={10**15 - 1}", "--store-max", "1", "--ports=1, 9-9"]
    chosen = options.proxy_options(CommandLine(certifier.__doc__, words, "v"))
    assert (str(chosen.leaves.store), chosen.capacity, chosen.store_max) == ("--certs", 10**15 - 1, 1)
    assert chosen.rules.ports == (range(1, 2), range(9, 10))
    with pytest.raises(UsageError):
        options.proxy_options(CommandLine(certifier.__doc__, [*GOOD, "--redirect=a"], "v"))


@pytest.mark.parametrize(
    ("option", "lowest", "highest"),
    [
        *[
            (f"--{what}", 1, None)
            for what in ("max-connections", "max-client-connections", "new-names", "learn-bypass")
        ],
        *[(f"--{what}-timeout", 1, None) for what in ("head", "hello", "dial", "tls", "idle")],
        ("--client-new-names", 1, None),
        ("--store-max", 1, None),
        ("--workers", 1, options.MAX_WORKERS),
        ("--days", 1, options.MAX_DAYS),
        ("--max-head", 1024, None),
        ("--max-hello", 1024, 1 << 20),
        ("--max-log-value", 16, None),
        ("--har-body-max", 0, None),
        ("--har-max", 100_000, None),
    ],
)
def test_how_small_and_large_a_number_may_be(option: str, lowest: int, highest: int | None) -> None:
    def chosen(number: int) -> options.Options:
        return options.proxy_options(CommandLine(certifier.__doc__ or "", [*GOOD, f"{option}={number}"], "v"))

    most = 10**15 - 1 if highest is None else highest
    assert chosen(lowest) != chosen(most)
    for number in (lowest - 1, most + 1):
        with pytest.raises(UsageError, match=rf"^{option}={number}: not a whole number "):
            chosen(number)


HELD = """
import os, sys
open("held").read()
sys.path.remove(os.environ["PYTHONPATH"])
del sys.modules["docopt"]
import docopt
"""


def hold(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A FIFO that a program started in the folder reads to its end during its imports."""
    (folder / "docopt.py").write_text(HELD)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    os.mkfifo(folder / "held")
    return folder / "held"


def signalled(process: "subprocess.Popen[bytes]", pid: int, number: signal.Signals) -> int:
    """Signal until it ends: between Python's last look for signals and a read that blocks, one is only noted."""
    deadline = time.monotonic() + WAIT
    while time.monotonic() < deadline:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
        with suppress(subprocess.TimeoutExpired):
            return process.wait(1)
    return process.wait(0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("how", ["alone", "first", "workers", "warm"])
@pytest.mark.parametrize("at", ["import", "ca.crt"])
def test_a_start_that_takes_long_can_be_broken_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, number: signal.Signals, at: str
) -> None:
    write_ca(tmp_path)
    if at == "import":
        fifo = hold(tmp_path, monkeypatch)
    else:
        fifo = tmp_path / at
        fifo.unlink()
        os.mkfifo(fifo)
    prefix = ["unshare", "--pid", "--fork", "--kill-child"] if how == "first" else []
    if prefix and (sys.platform != "linux" or run(*prefix, "true").returncode):
        pytest.skip("needs Linux, and to be allowed a namespace for processes")
    serving = [*GOOD, *SIGN, "--listen=127.0.0.1:0"]
    words = {"workers": [*serving, "--workers=2"], "warm": ["warm", GOOD[0], *SIGN, "-"]}
    command = [*prefix, sys.executable, str(HERE / "certifier.py"), *words.get(how, serving)]
    with subprocess.Popen(command, cwd=tmp_path, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        with fifo.open("wb"):  # returns once it is being read
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            status = signalled(process, int(children[0]) if prefix else process.pid, number)
        assert process.stderr
        assert process.stderr.read() == b""
    supervised = how == "workers" and at == "ca.crt"
    assert status == (128 + number if how == "first" else 0 if supervised else -number)


def test_a_reload_that_is_asked_for_in_the_first_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fifo = hold(tmp_path, monkeypatch)
    starting = Program(tmp_path, *GOOD)
    with fifo.open("wb"):
        starting.process.send_signal(signal.SIGHUP)
    with starting as running:
        running.wait_for("reloaded")


def test_a_hangup_ends_a_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fifo = hold(tmp_path, monkeypatch)
    command = [sys.executable, str(HERE / "certifier.py"), "warm", GOOD[0], "--ca=ca", "-"]

    def unignored() -> None:  # as nohup has it ignored, in these tests too
        signal.signal(signal.SIGHUP, signal.SIG_DFL)

    with subprocess.Popen(command, cwd=tmp_path, stdin=subprocess.DEVNULL, preexec_fn=unignored) as process:
        with fifo.open("wb"):
            process.send_signal(signal.SIGHUP)
        assert process.wait(WAIT) == -signal.SIGHUP


BLOCKING = """
import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("workers", [1, 2])
def test_who_started_us_with_signals_blocked_can_end_us(tmp_path: Path, workers: int, number: signal.Signals) -> None:
    prefix = (sys.executable, "-c", BLOCKING)
    with Program(tmp_path, *GOOD, f"--workers={workers}", prefix=prefix) as running:
        assert running.stop(number) == 0


# The shape of the repository

ROOMS = sorted(path.stem for path in HERE.glob("*.py"))
FORBIDDEN = {  # what a module must not import (ARCHITECTURE.md)
    "errors": set(ROOMS) - {"errors"},
    "lru": set(ROOMS) - {"lru"} | {"logging", "ssl", "threading", "gevent"},
    "hello": {"socket", "ssl", "gevent"},
    "head": {"socket", "ssl", "gevent"},
    "exchange": set(ROOMS) - {"exchange", "bodies"} | {"socket", "ssl", "gevent", "logging"},
    "recorder": set(ROOMS) - {"recorder", "exchange"} | {"socket", "ssl", "gevent", "logging"},
    "packets": set(ROOMS) - {"packets", "exchange", "pcap"} | {"socket", "ssl", "gevent", "logging"},
    "response": set(ROOMS) - {"response", "exchange", "heads", "framing"} | {"socket", "ssl", "gevent", "logging"},
    "framing": {"socket", "ssl", "gevent", "logging", "h11"},
    "heads": set(ROOMS) - {"heads", "exchange"} | {"socket", "ssl", "gevent", "logging"},
    "http1": {"socket", "ssl", "gevent", "logging"},
    "frames": {"socket", "ssl", "gevent", "logging", "hpack"},
    "headerblocks": set(ROOMS) - {"headerblocks", "exchange"} | {"socket", "ssl", "gevent", "logging"},
    "http2": {"socket", "ssl", "gevent", "logging", "hpack"},
    "openstreams": {"socket", "ssl", "gevent", "logging", "hpack", "http2"},
    "watcher": {"socket", "ssl", "gevent", "tunnel", "tls"},
    "requestlog": {"socket", "ssl", "gevent", "http1", "http2", "watcher"},
    "har": {"socket", "ssl", "gevent", "logging", "http1", "http2", "watcher"},  # runs on a pool thread
    "harentry": {"socket", "ssl", "gevent", "logging"},
    "bodies": set(ROOMS) - {"bodies"} | {"socket", "ssl", "gevent", "logging"},
    "pcap": {"socket", "ssl", "gevent", "http1", "http2", "watcher"},
    "names": {"socket", "ssl", "gevent"},
    "localaddress": set(ROOMS) - {"localaddress", "names", "errors"} | {"ssl", "gevent", "logging"},
    "policy": {"socket", "ssl", "gevent", "hello", "tls", "sockets"},
    "store": {"cryptography", "gevent", "logging"},
    "serials": {"cryptography", "gevent", "logging"},
    "batch": set(ROOMS) - {"batch"} | {"cryptography", "logging"},
    "files": set(ROOMS) - {"files", "reading"} | {"cryptography", "logging"},
    "reading": set(ROOMS) - {"reading"} | {"cryptography", "logging"},
    "ledger": {"gevent", "logging", "ssl", "socket"},
    "leaf": {"gevent", "logging", "ssl", "socket", "signer"},
    "certlint": {"gevent", "logging", "socket", "store"},
    "ca": {"gevent", "logging", "socket", "store", "cafolder"},
    "cafolder": {"gevent", "logging", "socket", "store"},
    "certpath": {"gevent", "logging", "socket", "store", "ca"},
    "tlsconfig": {"gevent", "logging", "socket"},
    "website": {"socket", "ssl", "gevent", "proxy", "contexts", "board", "overview"},
    "onlookers": {"socket", "ssl", "gevent", "proxy", "website"},
    "downloads": {"socket", "ssl", "store", "website"},
    "assets": set(ROOMS) - {"assets", "errors"} | {"socket", "ssl", "gevent", "logging"},
    "health": {"socket", "ssl", "logging", "store", "website"},
    "feed": set(ROOMS) - {"feed", "errors"} | {"socket", "ssl", "logging"},
    "history": set(ROOMS) - {"history", "snapshot"} | {"socket", "ssl", "gevent", "logging"},
    "meter": set(ROOMS) - {"meter"} | {"socket", "ssl", "gevent", "logging"},
    "tallies": set(ROOMS) - {"tallies"} | {"socket", "ssl", "gevent", "logging"},
    "channels": set(ROOMS) - {"channels", "sockets"} | {"ssl"},
    "peers": set(ROOMS) - {"peers", "channels", "snapshot", "tallies"} | {"socket", "ssl", "logging"},
    "histogram": set(ROOMS) - {"histogram"} | {"socket", "ssl", "gevent", "logging"},
    "snapshot": set(ROOMS) - {"snapshot", "histogram"} | {"socket", "ssl", "gevent", "logging"},
    "rows": {"socket", "ssl", "gevent", "logging", "board", "website"},
    "board": {"socket", "ssl", "gevent", "logging", "website", "metrics", "proxy", "contexts"},
    "metrics": set(ROOMS) - {"metrics", "snapshot", "histogram"} | {"socket", "ssl", "gevent", "logging"},
    "signer": {"store", "socket", "ssl", "gevent", "logging"},
    "leaves": {"socket", "ssl", "gevent", "logging", "threading"},
    "contexts": {"socket", "proxy", "tunnel"},
    "tls": {"names", "policy", "contexts", "hello"},
    "tunnel": {"ssl", "names", "policy", "contexts"},
    "upstream": {"proxy", "contexts", "policy", "hello"},
    "interception": {"cryptography", "store", "signer", "leaves", "ca", "ssl"},
    "bypassing": {"ssl", "cryptography", "contexts", "tls", "tunnel", "upstream"},
    "relaying": {"ssl", "policy", "contexts", "upstream", "hello"},
    "proxy": {"ssl", "cryptography", "store", "signer", "leaves", "ca"},
    "keylog": set(ROOMS) - {"keylog", "linefile"} | {"socket", "logging", "threading"},
    "process": set(ROOMS) - {"process", "errors"} | {"socket", "ssl", "gevent", "logging"},
    "workers": set(ROOMS) - {"workers", "errors"} | {"logging", "threading"},
    "certifier": {"tls", "hello", "tunnel"},
}


def imports(module: str) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse((HERE / f"{module}.py").read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found


def reached(module: str) -> set[str]:
    """The rooms that it uses, directly or by way of others."""
    found: set[str] = set()
    new = imports(module) & set(ROOMS)
    while new:
        found |= new
        new = {name for room in new for name in imports(room)} & set(ROOMS) - found
    return found


@pytest.mark.parametrize("module", sorted(FORBIDDEN))
def test_a_room_knows_nothing_of(module: str) -> None:
    assert module in ROOMS
    assert not imports(module) & FORBIDDEN[module]


def test_no_import_cycles() -> None:
    graph = {module: imports(module) & set(ROOMS) for module in ROOMS}
    done: set[str] = set()
    while len(done) < len(ROOMS):
        free = {module for module in ROOMS if module not in done and graph[module] <= done}
        assert free, f"a cycle among {set(ROOMS) - done}"
        done |= free


def test_gevent_patches_before_any_other_import() -> None:
    body = ast.parse((HERE / "certifier.py").read_text()).body
    first, second = [ast.unparse(node) for node in body[1:3]]
    assert (first, second) == ("from gevent import monkey", "monkey.patch_all()")


def test_defaults_in_the_code_are_those_of_the_manual() -> None:
    chosen = options.proxy_options(CommandLine(certifier.__doc__ or "", GOOD, "v"))
    assert chosen.limits == Limits()
    assert chosen.leaves.days == signer.DAYS
    assert chosen.sight.har_max == har.MAX_SIZE


def test_every_room_has_tests_or_is_told_where() -> None:
    small = dict.fromkeys(("errors", "record", "pages", "resolver"), "small_rooms")
    elsewhere = {
        "certifier": "program",
        "options": "program",
        **dict.fromkeys(("tls", "streams", "greeting", "door"), "proxy"),
        "ambiguity": "http1",
        **dict.fromkeys(("headerblocks", "openstreams"), "http2"),
        **dict.fromkeys(("context", "renewals"), "contexts"),
        "plain": "forward",
        "interception": "proxy",
        "relaying": "proxy",
        "workers": "contexts",
        "leaf": "leaves",
        **dict.fromkeys(("cafolder", "certpath"), "ca"),
        "answer": "taps",
        "verdict": "rewriting",
        "stored": "store",
        "acceptor": "faults",
        "localaddress": "policy",
        "reading": "odd_files",
        "tlsconfig": "proxy",
        "flight": "client_certificates",
        "patterns": "policy",
        "dialing": "rules",
        "bypassing": "rules",
        "ruleset": "rules",
        **dict.fromkeys(("process", "serving", "version"), "program"),
        "listening": "supervisor",
        **dict.fromkeys(("sight", "accesslog"), "seeing"),
        "linefile": "requestlog",
        "witness": "taps",
        "recorder": "exchange",
        "packets": "pcap",
        **dict.fromkeys(("fields", "response", "upload"), "forward"),
        "commandline": "program",
        **dict.fromkeys(("histogram", "history", "meter", "rows", "snapshot"), "board"),
        "overview": "website",
        **dict.fromkeys(("check", "listing", "prune", "pruning", "certlint", "warm", "issuance"), "commands"),
        **small,
    }
    for module in ROOMS:
        own = HERE / "tests" / f"test_{module}.py"
        assert own.exists() != (module in elsewhere), module
        tests = own.with_name(f"test_{elsewhere.get(module, module)}.py")
        runs_all = re.search(r"\bProgram\b|\bfaultlab\b", tests.read_text())
        assert runs_all or module in reached(f"tests/{tests.stem}"), module


def test_the_readme_names_every_option() -> None:
    readme = (HERE / "README.md").read_text()
    assert certifier.__doc__
    for option in re.findall(r"^  (?:-h )?(--[a-z-]+)", certifier.__doc__, re.MULTILINE):
        assert f"`{option}" in readme, option


def test_the_script_of_the_readme(tmp_path: Path) -> None:
    """As a CI job uses it: it waits for the proxy, or ends with it and says why, and fails if the job does."""
    (script,) = re.findall(r"```sh\n(: >certifier\.log\n.*?)```", (HERE / "README.md").read_text(), re.DOTALL)
    script = script.replace("python certifier.py", f"'{sys.executable}' '{HERE / 'certifier.py'}'")
    done = run("sh", "-c", script, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "ok\n"), done.stderr
    assert json.loads((tmp_path / "all.har").read_text())["log"]["version"] == "1.2"
    (tmp_path / "all.har").unlink()
    for job, status in (("(exit 3)", 3), ("kill $$", 1)):  # it fails, or is cancelled
        failed = run("sh", "-c", script.replace("curl http://$proxy/healthz", job), cwd=tmp_path)
        assert (failed.returncode, failed.stdout) == (status, ""), failed.stderr
        assert json.loads((tmp_path / "all.har").read_text())["log"]["version"] == "1.2"
        (tmp_path / "all.har").unlink()
    unstarted = run("sh", "-c", script.replace("--max=1000", "--max=0"), cwd=tmp_path)
    assert unstarted.returncode == 1
    assert unstarted.stdout == "certifier: --max=0: not a whole number of at least 1 (names kept in memory)\n"


def test_what_the_readme_has_made_is_not_committed(tmp_path: Path) -> None:
    shutil.copy(HERE / ".gitignore", tmp_path)
    assert run("git", "init", "-q", cwd=tmp_path).returncode == 0
    made = ["ca.key", "serial.txt", "serial.txt.lock", "ca/ca.key", "certs/.lock", "users", "keys", "certifier.log"]
    made += ["all.har", ".all.har.spare", "all.1.har", "all-w0.har", "all.pcapng", "json/1.json"]
    assert run("git", "check-ignore", *made, cwd=tmp_path).stdout.split() == made


def test_the_tests_that_security_md_names_are_there() -> None:
    named = set(re.findall(r"`(test_\w+)`", (HERE / "SECURITY.md").read_text()))
    there = {
        node.name
        for path in (HERE / "tests").glob("test_*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef)
    }
    assert named
    assert not named - there


def test_architecture_md_tells_of_every_room() -> None:
    told = set(re.findall(r"`(\w+)\.py`", (HERE / "ARCHITECTURE.md").read_text()))
    assert not set(ROOMS) - told
    assert not {room for room in told if not (HERE / f"{room}.py").exists()}


WITHOUT_PIP = """#!/bin/sh
test "$2" != venv || { mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && exit 1; }
"""


def test_a_virtual_environment_that_could_not_be_made_whole_is_made_again(tmp_path: Path) -> None:
    """As on a Debian without python3-venv, which leaves an environment with Python but no pip."""
    for name in ("Makefile", "requirements.txt"):
        shutil.copy(HERE / name, tmp_path)
    (tmp_path / "mine" / "bin").mkdir(parents=True)  # other files beside it stay
    (tmp_path / "mine" / "notes").touch()
    (tmp_path / "python").write_text(WITHOUT_PIP)
    (tmp_path / "python").chmod(0o755)
    for _ in range(2):
        made = run("make", "PYTHON=./python", "VENV=mine", "mine/run.stamp", cwd=tmp_path)
        assert made.returncode == 2
        assert "-m venv" in made.stdout
        assert sorted(os.listdir(tmp_path / "mine")) == ["bin", "notes"]


def test_the_checks_run_in_a_folder_with_a_space_in_its_name(tmp_path: Path) -> None:
    folder = tmp_path / "my work"
    (folder / ".venv" / "bin").mkdir(parents=True)
    for tool in ("ruff", "mypy", "python"):
        (folder / ".venv" / "bin" / tool).write_text("#!/bin/sh\n")
        (folder / ".venv" / "bin" / tool).chmod(0o755)
    (folder / "examples").mkdir()
    (folder / "examples" / "redirect.sh").write_text('echo "run by $PYTHON"\n')
    shutil.copy(HERE / "Makefile", folder)
    done = run("make", "check", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert f"run by {folder}/.venv/bin/python" in done.stdout.splitlines()


def test_the_example_runs_where_no_host_is_to_be_proxied() -> None:
    environment = {**os.environ, "PYTHON": sys.executable, "NO_PROXY": "*", "no_proxy": "*"}
    done = run("sh", HERE / "examples" / "redirect.sh", env=environment)
    assert done.returncode == 0, done.stderr
    assert "seen: POST api.example.com/v1/orders" in done.stdout
