import _ssl
import os
import re
import signal
import ssl
import stat
from contextlib import suppress
from pathlib import Path

import gevent
import pytest
from gevent.monkey import get_original
from gevent.pool import Pool
from lab import Origin, Program, get, run, secure_tunnel, strict_context, tunnel, until
from pki import TestCA
from test_requestlog import largest_file, without_a_wait
from test_rules import BASE
from test_supervisor import children
from tlslite.api import TLSConnection

import keylog
import log
from keylog import KeyLog
from workers import Workers

LINE = re.compile(r"([A-Z_0-9]+) ([0-9a-f]{64}) ([0-9a-f]{64,96})")  # label, client's random, secret: RFC 9850 §2
OF_1_3 = {  # the labels of each connection
    "CLIENT_HANDSHAKE_TRAFFIC_SECRET", "SERVER_HANDSHAKE_TRAFFIC_SECRET", "CLIENT_TRAFFIC_SECRET_0",
    "SERVER_TRAFFIC_SECRET_0", "EXPORTER_SECRET",
}  # fmt: skip
MORE_THAN_A_PIPE_HOLDS = 200  # connections, 1.8 KB each
CHANGES = 500  # key updates, each a line from OpenSSL: together also more than a pipe holds
MEMORY = "/memfd:keys (deleted)"


def labels(text: str) -> dict[str, set[str]]:
    """The labels of each connection, by client random. All lines must be whole."""
    assert text.endswith("\n")
    found: dict[str, set[str]] = {}
    for line in text.splitlines():
        match = LINE.fullmatch(line)
        assert match, line
        found.setdefault(match[2], set()).add(match[1])
    return found


def opened(process: int, name: str) -> list[Path]:
    """A process's descriptors of a file."""
    found = []
    for fd in Path(f"/proc/{process}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            if os.readlink(fd) == name:
                found.append(fd)
    return found


def read_all(fd: int) -> bytes:
    """All that is in a pipe now."""
    data = b""
    with suppress(BlockingIOError):
        while more := os.read(fd, 65_536):
            data += more
    return data


# The log, in memory


class Ends:
    """A client's and a server's context, which shake hands without a socket."""

    def __init__(self, folder: Path) -> None:
        authority = TestCA("keys")
        (folder / "leaf.pem").write_bytes(authority.issue("a.example"))
        self.server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.server.load_cert_chain(folder / "leaf.pem")
        self.client = ssl.create_default_context(cadata=authority.pem.decode())

    def meet(self, name: str = "a.example", workers: Workers | None = None) -> None:
        """A handshake, whose steps may be taken on threads, and a word each way, read on the hub."""
        there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = self.client.wrap_bio(back, there, server_hostname=name)
        server = self.server.wrap_bio(there, back, server_side=True)
        for end in (client, server, client, server, client):
            with suppress(ssl.SSLWantReadError):
                workers.run(end.do_handshake) if workers else end.do_handshake()
        for writer, reader in ((client, server), (server, client)):
            writer.write(b"word")
            assert reader.read(4) == b"word"


@pytest.fixture
def ends(tmp_path: Path) -> Ends:
    return Ends(tmp_path)


@pytest.mark.parametrize("system", ["Linux", "macOS"])
@pytest.mark.parametrize("side", ["client", "server"])
def test_the_keys_of_either_side(
    tmp_path: Path, ends: Ends, side: str, system: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if system == "macOS":
        monkeypatch.delattr(os, "memfd_create")
    keys = KeyLog(tmp_path / "keys")
    keys.follow(getattr(ends, side))
    ends.meet()
    assert list(labels((tmp_path / "keys").read_text()).values()) == [OF_1_3]
    ends.client.maximum_version = ssl.TLSVersion.TLSv1_2
    ends.meet()
    assert list(labels((tmp_path / "keys").read_text()).values()) == [OF_1_3, {"CLIENT_RANDOM"}]


def test_no_keys_of_others(tmp_path: Path, ends: Ends) -> None:
    KeyLog(tmp_path / "keys").follow(ssl.create_default_context())
    ends.meet()
    assert (tmp_path / "keys").read_text() == ""


def test_the_keys_of_a_handshake_that_fails(tmp_path: Path, ends: Ends) -> None:
    """They are not left to the next handshake: many failures would fill the pipe."""
    KeyLog(tmp_path / "keys").follow(ends.client)
    with pytest.raises(ssl.SSLCertVerificationError):
        ends.meet("b.example")
    (found,) = labels((tmp_path / "keys").read_text()).values()
    assert found < OF_1_3
    ends.client.check_hostname = False
    ends.meet("b.example")
    assert list(labels((tmp_path / "keys").read_text()).values()) == [found, OF_1_3]


def test_a_full_disk_costs_lines_and_no_handshake(tmp_path: Path, ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log.log, "handlers", [])
    before = "# kept\n" * 1000
    (tmp_path / "keys").write_text(before)
    KeyLog(tmp_path / "keys").follow(ends.server)
    with largest_file(len(before)):
        ends.meet()
    assert (tmp_path / "keys").read_text() == before
    ends.meet()
    assert list(labels((tmp_path / "keys").read_text().removeprefix(before)).values()) == [OF_1_3]


def test_no_keys_are_lost_while_steps_run_on_threads(tmp_path: Path, ends: Ends) -> None:
    """Lines may come between a look at the file in memory and emptying it."""
    workers, count = Workers(), 1000
    keys = KeyLog(tmp_path / "keys")
    keys.follow(ends.server)
    gevent.joinall([gevent.spawn(ends.meet, workers=workers) for _ in range(count)], raise_error=True)
    ends.meet()  # passes on what the last threads left
    assert list(labels((tmp_path / "keys").read_text()).values()) == [OF_1_3] * (count + 1)


def test_steps_on_threads_that_take_long_do_not_fill_the_memory(
    tmp_path: Path, ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the hub logs meanwhile is passed on as always."""
    monkeypatch.setattr(keylog, "_MOST", 20_000)
    began: list[int] = []
    go_on = get_original("_thread", "allocate_lock")()
    go_on.acquire()

    def wait_on_a_thread(*_: object) -> None:
        if get_original("_thread", "get_ident")() != hub:
            began.append(1)
            go_on.acquire()

    hub = get_original("_thread", "get_ident")()
    # gevent's own knows sockets only.
    _ssl._SSLContext.sni_callback.__set__(ends.server, wait_on_a_thread)  # type: ignore[union-attr]
    keys = KeyLog(tmp_path / "keys")
    keys.follow(ends.server)
    apart = gevent.spawn(ends.meet, workers=Workers())
    try:
        until(lambda: began)
        for _ in range(100):
            ends.meet()
            assert os.fstat(keys._passing).st_size < 22_000
        assert list(labels((tmp_path / "keys").read_text()).values()) == [OF_1_3] * 100
    finally:
        go_on.release()
    apart.get()
    ends.meet()  # passes on what the thread left
    assert list(labels((tmp_path / "keys").read_text()).values()) == [OF_1_3] * 102


def test_what_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        KeyLog(tmp_path / "none" / "keys")
    with pytest.raises(IsADirectoryError):
        KeyLog(tmp_path)


# The program


def connect(program: Program, origin: Origin, count: int) -> None:
    """Make so many connections, ten at a time."""
    context = strict_context(program.ca)

    def one(_: int) -> int:
        with secure_tunnel(program, f"localhost:{origin.port}", context=context) as secure:
            return get(secure).status

    assert Pool(10).map(one, range(count)) == [200] * count


def warnings(program: Program) -> list[str]:
    """The warnings about lines that were lost."""
    return [line for line in program.lines if "warning: can't write" in line or "were lost" in line]


@pytest.mark.parametrize("reads", [False, True])
def test_a_fifo_whose_reader_pauses_holds_nobody_up(tmp_path: Path, roots: Path, origin: Origin, reads: bool) -> None:
    path = tmp_path / "keys"
    os.mkfifo(path)
    reader = without_a_wait(str(path), os.O_RDONLY)
    got = b""
    try:
        with Program(tmp_path, *BASE, f"--upstream-ca={roots}", f"--keylog={path}") as program:
            for _ in range(MORE_THAN_A_PIPE_HOLDS // 10):
                connect(program, origin, 10)
                if reads:
                    got += read_all(reader)
            assert get_health(program) == "ok\n"
            if reads:
                assert warnings(program) == []
                assert list(labels(got.decode()).values()) == [OF_1_3] * (2 * MORE_THAN_A_PIPE_HOLDS)
            else:
                program.wait_for(
                    f"can't write {re.escape(str(path))}: it takes no more; lines are lost until it can be"
                )
                assert len(warnings(program)) == 1
                before = read_all(reader)
                assert labels(before[: before.rindex(b"\n") + 1].decode())
                connect(program, origin, 1)
                program.wait_for(r"keys can be written again; lines lost: \d+")
                again = read_all(reader).lstrip(b"\n").decode()  # the end of a torn line
                assert OF_1_3 in labels(again).values()
            assert program.stop() == 0
    finally:
        os.close(reader)


@pytest.mark.parametrize("changes", [0, CHANGES])
def test_who_changes_keys_on_and_on(tmp_path: Path, roots: Path, echo_origin: Origin, changes: int) -> None:
    """Lines that no handshake collects block nobody, and do not fill the disk."""
    path = tmp_path / "keys"
    target = f"localhost:{echo_origin.port}"
    with Program(tmp_path, *BASE, f"--upstream-ca={roots}", f"--keylog={path}") as program:
        with tunnel(program.address, target) as sock:
            connection = TLSConnection(sock)
            connection.handshakeClientCert(serverName="localhost")
            for _ in range(changes):
                list(connection.send_keyupdate_request(0))
            connection.write(b"word")
            assert connection.read(4, 4) == b"word"
            memory, *_ = opened(program.process.pid, MEMORY)
            assert memory.stat().st_size == 1
            connection.close()
        assert list(labels(path.read_text()).values()) == [OF_1_3] * 2


def get_health(program: Program) -> str:
    return run("curl", "-sS", f"{program.url}/healthz").stdout


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (stat.S_IFIFO, "nothing reads that FIFO yet: start its reader first"),
        (stat.S_IFSOCK, "No such device or address"),  # no reader would help
    ],
)
def test_what_nobody_reads_is_one_line(tmp_path: Path, kind: int, why: str) -> None:
    os.mknod(tmp_path / "keys", kind | 0o600)
    result = run(*Program.command(), *BASE, "--listen=127.0.0.1:0", "--keylog=keys", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (2, f"certifier: --keylog=keys: can't write it: {why}\n")


def test_a_reload_leaves_no_descriptors_behind(tmp_path: Path, roots: Path, origin: Origin) -> None:
    """For the names in memory: with thousands of them, a few reloads would use up all descriptors."""
    names = ("localhost", "www.example.com", "example.com")
    with Program(tmp_path, *BASE, f"--upstream-ca={roots}", "--keylog=keys") as program:
        for _ in range(4):
            for name in names:
                with secure_tunnel(program, f"localhost:{origin.port}", server_name=name) as secure:
                    assert get(secure).status == 200
            program.reload()
        until(lambda: len(opened(program.process.pid, MEMORY)) <= 2)  # the one, and that of the context for origins


def test_what_the_environment_names_is_not_opened_beside_keylog(
    tmp_path: Path, roots: Path, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not opened otherwise: Python itself would do so, at start and at SIGHUP."""
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "none" / "keys"))
    with Program(tmp_path, *BASE, f"--upstream-ca={roots}", "--keylog=keys") as program:
        monkeypatch.delenv("SSLKEYLOGFILE")  # Python would use it in this process, too
        connect(program, origin, 1)
        program.reload()
    assert list(labels((tmp_path / "keys").read_text()).values()) == [OF_1_3] * 2


def test_a_fifo_of_the_environment_that_nobody_reads_any_more_holds_no_reload_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "keys")
    reader = os.open(tmp_path / "keys", os.O_RDONLY | os.O_NONBLOCK)
    monkeypatch.setenv("SSLKEYLOGFILE", "keys")
    with Program(tmp_path, *BASE) as program:
        os.close(reader)
        program.reload()


@pytest.mark.parametrize("device", ["/dev/full", "/dev/null"])
def test_a_full_disk_is_told_once_and_connections_pass(
    tmp_path: Path, roots: Path, origin: Origin, device: str
) -> None:
    with Program(tmp_path, *BASE, f"--upstream-ca={roots}", f"--keylog={device}") as program:
        connect(program, origin, 3)
    lost = warnings(program)  # now that all its lines have been read
    if device == "/dev/full":
        assert len(lost) == 1
        assert "can't write /dev/full: No space left on device" in lost[0]
    else:
        assert lost == []


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGHUP])
def test_several_workers_write_one_file_and_go_on_in_a_new_one(
    tmp_path: Path, roots: Path, origin: Origin, number: signal.Signals
) -> None:
    path, old = tmp_path / "keys", tmp_path / "keys.1"
    count = 20
    options = (f"--upstream-ca={roots}", f"--keylog={path}", "--workers=2")
    with Program(tmp_path, *BASE, *options) as program:
        connect(program, origin, count)
        assert list(labels(path.read_text()).values()) == [OF_1_3] * (2 * count)
        assert path.stat().st_mode & 0o777 == 0o600
        path.rename(old)
        connect(program, origin, 1)  # without a signal, it goes on in the same file
        assert (len(labels(old.read_text())), path.exists()) == (2 * count + 2, False)
        program.process.send_signal(number)
        until(lambda: all(opened(worker, str(path)) for worker in children(program)))
        connect(program, origin, count)
        assert list(labels(path.read_text()).values()) == [OF_1_3] * (2 * count)
        assert len(labels(old.read_text())) == 2 * count + 2
