"""Several worker processes with one port, store and serial file; what becomes of them, and of their connections."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import gevent
import pytest
from lab import (
    HERE,
    WAIT,
    Origin,
    Program,
    exchange,
    forget_failures,
    get,
    run,
    secure_tunnel,
    serial_of,
    tcp_sockets,
    until,
)
from test_rules import BASE

import listening
from errors import UsageError
from names import Target

OWN_PAGE = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


def children(program: Program) -> list[int]:
    listed = Path(f"/proc/{program.process.pid}/task/{program.process.pid}/children").read_text()
    return [int(process) for process in listed.split()]


def established(process: int) -> int:
    """The number of connections that a process holds, not counting its listeners."""
    sockets = set()
    for fd in Path(f"/proc/{process}/fd").iterdir():
        try:
            found = re.fullmatch(r"socket:\[(\d+)\]", os.readlink(fd))
        except OSError:
            continue
        if found:
            sockets.add(found[1])
    rows = [line.split() for line in Path(f"/proc/{process}/net/tcp").read_text().splitlines()[1:]]
    return sum(row[3] == "01" and row[9] in sockets for row in rows)


@pytest.fixture
def two(tmp_path: Path, roots: Path) -> Iterator[Program]:
    with Program(tmp_path, *BASE, f"--upstream-ca={roots}", "--workers=2") as running:
        yield running


def test_connections_are_spread_and_certificates_are_one(two: Program, origin: Origin) -> None:
    workers = children(two)
    assert len(workers) == 2
    with ExitStack() as stack:
        for _ in range(100):
            stack.enter_context(socket.create_connection(two.address, timeout=WAIT))
        until(lambda: sum(map(established, workers)) == 100)
        held = [established(worker) for worker in workers]
    assert min(held) >= 25  # of 100, spread at random: fewer only once in a million runs
    serials = set()
    for _ in range(20):
        with secure_tunnel(two, f"localhost:{origin.port}") as secure:
            assert get(secure).status == 200
            serials.add(serial_of(secure))
    assert len(serials) == 1


def test_a_worker_that_dies_takes_only_its_own_tunnels_and_is_replaced(two: Program, echo_origin: Origin) -> None:
    victim, survivor = children(two)
    with ExitStack() as stack:
        tunnels = []
        while not (established(victim) and established(survivor)):
            tunnels.append(stack.enter_context(secure_tunnel(two, f"localhost:{echo_origin.port}")))
        for secure in tunnels:
            secure.sendall(b"x")
            assert secure.recv(1) == b"x"
        mine = established(victim) // 2
        os.kill(victim, signal.SIGKILL)
        two.wait_for(r"worker 0 \(process \d+\) died: SIGKILL; it is replaced")
        alive = 0
        for secure in tunnels:
            try:
                secure.sendall(b"y")
                alive += secure.recv(1) == b"y"
            except OSError:
                forget_failures()
        assert alive == len(tunnels) - mine
    for _ in range(20):  # none is refused or waits forever: the supervisor keeps the accept queue
        with secure_tunnel(two, f"localhost:{echo_origin.port}") as secure:
            secure.sendall(b"z")
            assert secure.recv(1) == b"z"
    now = children(two)
    assert len(now) == 2
    assert survivor in now
    assert victim not in now


def test_each_worker_has_a_pause_of_its_own(two: Program) -> None:
    """The deaths of others, as when memory runs out, are none of its own."""
    for process in children(two):
        os.kill(process, signal.SIGKILL)
    for number in range(2):
        two.wait_for(rf"worker {number} \(process \d+\) died: SIGKILL; it is replaced in 2 s")


def test_a_worker_that_dies_of_a_signal_without_a_name_is_replaced(two: Program) -> None:
    os.kill(children(two)[0], signal.SIGRTMIN + 1)
    two.wait_for(rf"worker 0 \(process \d+\) died: signal {signal.SIGRTMIN + 1}; it is replaced")
    assert two.process.poll() is None


def test_a_successor_makes_no_new_ca(two: Program) -> None:
    """Even if the CA certificate is missing for a moment: clients would see two CAs."""
    two.ca.unlink()
    os.kill(children(two)[0], signal.SIGKILL)
    two.wait_for("certifier: can't read ca/ca.crt: No such file or directory")
    two.wait_for(r"worker 0 \(process \d+\) died: exit status 2; it is replaced")
    assert not two.ca.exists()


def test_signals_wait_for_a_worker_that_is_starting(two: Program, echo_origin: Origin) -> None:
    """Their default action would kill it."""
    victim, survivor = children(two)
    os.kill(victim, signal.SIGKILL)
    two.wait_for(r"worker 0 \(process \d+\) died: SIGKILL; it is replaced")
    deadline = time.monotonic() + WAIT
    while not (new := set(children(two)) - {victim, survivor}):
        assert time.monotonic() < deadline
        gevent.sleep(0.001)
    (successor,) = new
    for number in (signal.SIGHUP, signal.SIGUSR1):
        os.kill(successor, number)
    while established(successor) == 0:
        assert time.monotonic() < deadline
        with secure_tunnel(two, f"localhost:{echo_origin.port}") as secure:
            secure.sendall(b"z")
            assert secure.recv(1) == b"z"
            if established(successor):
                break
    assert set(children(two)) == {survivor, successor}
    two.wait_for("reloaded: ")


def test_signals_are_passed_on(tmp_path: Path, roots: Path, origin: Origin, echo_origin: Origin) -> None:
    (tmp_path / "denied").write_text("none.example\n")
    log = tmp_path / "access.log"
    options = ("--workers=2", "--deny=@denied", f"--log-file={log}", f"--upstream-ca={roots}")
    with Program(tmp_path, *BASE, *options) as running:
        workers = children(running)
        with secure_tunnel(running, f"localhost:{echo_origin.port}") as secure:
            (tmp_path / "denied").write_text("localhost\n")
            running.reload()
            until(lambda: len([line for line in running.lines if "reloaded: " in line]) == 2)
            head = f"CONNECT localhost:{origin.port} HTTP/1.1\r\nHost: a\r\n\r\n".encode()
            assert {exchange(running.address, head).status for _ in range(20)} == {403}
            running.process.send_signal(signal.SIGTERM)
            running.wait_for("stopping: 1 connection has 10 s to finish")
            await_refusal(running)
            secure.sendall(b"last")
            assert secure.recv(4) == b"last"
        assert running.process.wait(WAIT) == 0
        assert [state(worker) for worker in workers] == ["Z", "Z"]  # they have ended too


def test_a_worker_that_dies_as_all_end_is_told_of(two: Program, echo_origin: Origin) -> None:
    with secure_tunnel(two, f"localhost:{echo_origin.port}") as secure:
        secure.sendall(b"x")
        assert secure.recv(1) == b"x"
        (its,) = (worker for worker in children(two) if established(worker))
        two.process.send_signal(signal.SIGTERM)
        two.wait_for("stopping: 1 connection has 10 s to finish")
        os.kill(its, signal.SIGKILL)
        assert two.stop() == 0
    assert [line for line in two.lines if re.search(rf"error: worker \d \(process {its}\) died: SIGKILL$", line)]
    forget_failures()


def await_refusal(program: Program) -> None:
    """Wait until nobody listens: no client may be left in the accept queue of a process that accepts no more."""
    deadline = time.monotonic() + WAIT
    while time.monotonic() < deadline:
        try:
            socket.create_connection(program.address, timeout=WAIT).close()
        except ConnectionRefusedError:
            return
        except ConnectionResetError:  # it connected as the listeners closed
            continue
    raise AssertionError("still listening")


def test_workers_end_with_a_supervisor_that_is_killed(two: Program) -> None:
    workers = children(two)
    two.process.kill()
    two.process.wait(WAIT)
    until(lambda: {state(worker) for worker in workers} == {"Z"})
    two.stop()
    told = sorted(line.partition(" error: ")[2] for line in two.lines if "supervisor" in line)
    assert told == [f"worker {number} ends: the supervisor died" for number in (0, 1)]
    two.lines.clear()


def test_workers_that_are_told_to_end_miss_no_supervisor(two: Program) -> None:
    assert two.stop() == 0
    assert not [line for line in two.lines if "supervisor" in line]


def state(process: int) -> str:
    """Its state as in proc(5); that of a zombie if it is gone."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


# Like process 1 of a container: orphans become its children.
SUBREAPER = "import ctypes, os, sys; ctypes.CDLL(None).prctl(36, 1, 0, 0, 0); os.execv(sys.argv[1], sys.argv[1:])"
LEAVING = "import os\nos.system('sleep 0.1 & echo $! >> orphans')\ndef opened(tunnel): pass\n"


@pytest.mark.skipif(sys.platform != "linux", reason="prctl(2)")
def test_orphans_of_others_are_no_workers(tmp_path: Path) -> None:
    """A process that a tap leaves in the background ends up as a child of process 1."""
    (tmp_path / "tap.py").write_text(LEAVING)
    prefix = (sys.executable, "-c", SUBREAPER)
    with Program(tmp_path, *BASE, "--workers=2", "--tap=tap.py", prefix=prefix) as running:
        first, second = [int(orphan) for orphan in (tmp_path / "orphans").read_text().split()]
        until(lambda: {state(first), state(second)} == {"Z"})
        running.reload()
        assert len(children(running)) == 2


def test_one_worker_buries_orphans_of_others(tmp_path: Path) -> None:
    prefix = ("unshare", "--pid", "--fork", "--kill-child")
    if sys.platform != "linux" or run(*prefix, "true").returncode:
        pytest.skip("needs Linux, and to be allowed a namespace for processes")
    os.mkfifo(tmp_path / "held")
    (tmp_path / "tap.py").write_text("import os\nos.system('cat held &')\ndef opened(tunnel): pass\n")
    with Program(tmp_path, *BASE, "--tap=tap.py", prefix=prefix) as running:
        (first,) = children(running)
        listed = Path(f"/proc/{first}/task/{first}/children")
        with (tmp_path / "held").open("wb"):
            assert len(listed.read_text().split()) == 1
        until(lambda: not listed.read_text())
        os.kill(first, signal.SIGTERM)
        assert running.process.wait(WAIT) == 0


FORKS = """
import errno, os, signal, sys
sys.path.insert(0, sys.argv[1])
from gevent import monkey
monkey.patch_all()
import log, supervisor
fork, count = supervisor._fork, iter(range(99))
def failing():
    if next(count) == int(sys.argv[2]):
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
    return fork()
supervisor._fork, supervisor._SHORT_LIFE, supervisor._MAX_PAUSE = failing, 0.0, 0.1
def work(number, tells, lifeline):
    with open("started", "a+") as file:
        print(number, *sorted(os.listdir("/proc/self/fd"), key=int), file=file, flush=True)
        file.seek(0)
        if len(file.readlines()) == 5:
            os.kill(os.getppid(), signal.SIGTERM)
    os.write(tells, b".")
    return 1
log.set_up()
sys.exit(supervisor.Supervisor(2, work, [(), ()]).run(lambda: print("ready", flush=True)))
"""


@pytest.mark.parametrize("failing", [0, 1])
def test_a_first_worker_that_cannot_be_forked_is_an_error(tmp_path: Path, failing: int) -> None:
    ended = run(sys.executable, "-c", FORKS, HERE, str(failing), cwd=tmp_path)
    assert ended.returncode == 1
    assert f"error: worker {failing} can't be started: Resource temporarily unavailable" in ended.stderr
    assert "ready" not in ended.stdout


def test_a_worker_that_cannot_be_forked_is_forked_later(tmp_path: Path) -> None:
    ended = run(sys.executable, "-c", FORKS, HERE, "2", cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (0, "ready\n"), ended
    assert re.search("error: worker [01] can't be started: Resource temporarily unavailable", ended.stderr)
    held = [line.split()[1:] for line in (tmp_path / "started").read_text().splitlines()]
    assert len(held) >= 5
    assert {len(descriptors) for descriptors in held} == {len(held[0])}, held  # nothing of the others, dead or alive


def test_a_worker_whose_successor_cannot_start_gets_no_connections(tmp_path: Path) -> None:
    """They would wait in its accept queue: with one bad file on disk, half of all connections would."""
    listens = ("--listen=127.0.0.1:0", "--listen=127.0.0.2:0")
    with Program(tmp_path, *BASE, "--workers=2", *listens, listen=False) as running:
        other = int(running.wait_for(r"^listening on 127.0.0.2:\d+$").rpartition(":")[2])
        running.ca.with_name("ca.key").write_text("rubbish")
        os.kill(children(running)[0], signal.SIGKILL)
        running.wait_for(r"worker 0 \(process \d+\) died: exit status 2; it is replaced")
        for address in (running.address, ("127.0.0.2", other)):
            assert {exchange(address, OWN_PAGE).status for _ in range(30)} == {200}


def test_a_worker_whose_successor_starts_slowly_gets_no_connections(tmp_path: Path) -> None:
    """They would wait in its accept queue until it has started."""
    tap, held = tmp_path / "tap.py", tmp_path / "held"
    tap.write_text("opened = id")
    os.mkfifo(held)
    with Program(tmp_path, *BASE, "--workers=2", "--tap=tap.py") as running:
        victim, survivor = children(running)
        tap.write_text("open('held').close(); opened = id")
        os.kill(victim, signal.SIGKILL)
        until(lambda: listeners(running.address[1]) == 1)
        assert {exchange(running.address, OWN_PAGE).status for _ in range(30)} == {200}
        with held.open("wb"):  # returns once it is being read
            assert len(children(running)) == 2
        assert await_successor(running, survivor)
        assert listeners(running.address[1]) == 2


def listeners(port: int) -> int:
    """How many sockets listen on a port."""
    return sum(row[1].endswith(f":{port:04X}") and row[3] == "0A" for row in tcp_sockets())


def test_a_worker_that_dies_again_and_again_gets_no_connections_until_it_is_replaced(two: Program) -> None:
    """They would wait in its accept queue during the pause: half of all connections, for up to 30 s."""
    survivor, victim = children(two)
    for pause in (2, 4):
        if pause > 2:
            victim = await_successor(two, survivor)
        os.kill(victim, signal.SIGKILL)
        two.wait_for(rf"worker 1 \(process {victim}\) died: SIGKILL; it is replaced in {pause} s")
    assert {exchange(two.address, OWN_PAGE).status for _ in range(30)} == {200}
    assert children(two) == [survivor]  # it served them all
    assert await_successor(two, survivor)


def await_successor(program: Program, survivor: int) -> int:
    """Wait until the other of two workers accepts connections; return its process id."""
    deadline = time.monotonic() + WAIT
    while True:
        assert time.monotonic() < deadline
        with socket.create_connection(program.address, timeout=WAIT) as sock:
            sock.sendall(b"GET /")
            gevent.sleep(0.01)
            for worker in children(program):
                if worker != survivor and established(worker):
                    return worker


def test_a_worker_that_is_told_to_end_gets_no_connections(two: Program, echo_origin: Origin) -> None:
    """They would wait in its accept queue until its tunnels end. A memory watchdog may send it SIGTERM."""
    victim, survivor = children(two)
    with ExitStack() as stack:
        while not established(victim):
            stack.enter_context(secure_tunnel(two, f"localhost:{echo_origin.port}"))
        os.kill(victim, signal.SIGTERM)
        two.wait_for("stopping: ")
        assert {exchange(two.address, OWN_PAGE).status for _ in range(30)} == {200}
        assert children(two) == [victim, survivor]
    two.wait_for(rf"worker 0 \(process {victim}\) died: exit status 0; it is replaced")
    assert await_successor(two, survivor)


SERVERS = """
import os, sys
from contextlib import suppress
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from gevent import monkey
monkey.patch_all()
import gevent, listening, log, supervisor
from names import Target
supervisor._SHORT_LIFE, supervisor._MAX_PAUSE = 0.0, 0.1
bound = listening.bind((Target("127.0.0.1", 0),), 2)
def work(number, tells, lifeline):
    gevent.reinit()
    if Path("bad").exists():
        return 2
    listening.close(bound[1 - number])
    listening.resume(bound[number])
    os.write(tells, b".")
    while True:
        with suppress(OSError), bound[number][0].accept()[0] as sock:
            if Path("bad").exists():
                return 1
            sock.sendall(b"%d" % number)
log.set_up()
sys.exit(supervisor.Supervisor(2, work, bound).run(lambda: print(bound[0][0].getsockname()[1], flush=True)))
"""


def test_where_no_worker_can_start_connections_are_refused_until_one_can(tmp_path: Path) -> None:
    words = [sys.executable, "-c", SERVERS, str(HERE)]
    with subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout
        address = ("127.0.0.1", int(process.stdout.readline()))

        def who() -> str:
            """Who answers: a worker's number, "refused", or nobody if the listener closes meanwhile."""
            try:
                with socket.create_connection(address, timeout=WAIT) as sock:
                    return sock.recv(1).decode()
            except ConnectionRefusedError:
                return "refused"
            except ConnectionResetError:
                return ""

        def answers() -> set[str]:
            return {who() for _ in range(30)}

        until(lambda: answers() == {"0", "1"})
        (tmp_path / "bad").touch()
        until(lambda: answers() == {"refused"})
        (tmp_path / "bad").unlink()
        until(lambda: answers() == {"0", "1"})
        process.terminate()
        assert process.wait(WAIT) == 0


def test_what_is_wrong_is_one_line_and_exit_2(tmp_path: Path) -> None:
    (tmp_path / "serial.txt").write_text("x")
    for words in (["--workers=0"], ["--workers=2", "--bypass=a b"], ["--workers=2", "--upstream-ca=none"]):
        bad = run(*Program.command(), *BASE, *words, cwd=tmp_path)
        assert bad.returncode == 2, bad
        assert bad.stderr.count("\n") == 1
        assert bad.stderr.startswith("certifier: ")


@pytest.mark.parametrize("workers", [1, 2])
def test_another_programs_workers_are_not_joined(two: Program, workers: int) -> None:
    """SO_REUSEPORT would allow it, and half of all connections would meet the other CA."""
    words = [f"--listen=127.0.0.1:{two.address[1]}", f"--workers={workers}"]
    other = run(*Program.command(), *BASE, *words, cwd=two.folder)
    assert other.returncode == 2
    assert "Address already in use" in other.stderr


def test_what_another_program_took_while_we_rested_is_told() -> None:
    ((ours,), (others,)) = listening.bind((Target("127.0.0.1", 0),), 2)
    with ours, others:
        address = ours.getsockname()
        listening.rest([ours, others])
        listening.resume([ours])  # nobody has
        listening.rest([ours])
        with (
            socket.create_server(address),
            pytest.raises(UsageError, match=r"^can't listen on .+: Address already in use"),
        ):
            listening.resume([ours])


def test_few_descriptors_are_told_of(tmp_path: Path) -> None:
    with Program(tmp_path, *BASE, prefix=("prlimit", "--nofile=500")) as running:
        assert any("leaves room for only 100 connections per process" in line for line in running.lines)


def test_more_workers_than_descriptors_are_one_line_and_exit_2(tmp_path: Path) -> None:
    result = run(
        "prlimit", "--nofile=60", *Program.command(), *BASE, "--listen=127.0.0.1:0", "--workers=40", cwd=tmp_path
    )
    assert (result.returncode, result.stderr.splitlines()[-1]) == (
        2,
        "certifier: --workers=40: can't start so many here: Too many open files",
    )


IGNORING = """
import os, signal, sys
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
os.execv(sys.argv[1], sys.argv[1:])
"""


def test_the_dead_are_seen_though_we_were_started_ignoring_them(tmp_path: Path) -> None:
    with Program(tmp_path, *BASE, "--workers=2", prefix=(sys.executable, "-c", IGNORING)) as running:
        os.kill(children(running)[1], signal.SIGKILL)
        running.wait_for(r"worker 1 \(process \d+\) died: SIGKILL; it is replaced")
        assert running.stop() == 0


CROWDED = """
import os, resource, sys
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
for _ in range(1024):
    os.set_inheritable(os.open(os.devnull, os.O_RDONLY), True)
os.execv(sys.argv[1], sys.argv[1:])
"""


def test_descriptors_past_1023(tmp_path: Path) -> None:
    """Such descriptors occur with many workers on several listeners."""
    with Program(tmp_path, *BASE, "--workers=2", prefix=(sys.executable, "-c", CROWDED)) as running:
        assert len(children(running)) == 2


def test_auto_is_a_worker_for_each_core_and_none_for_one_core(tmp_path: Path) -> None:
    with Program(tmp_path, *BASE, "--workers=auto") as running:
        count = len(os.sched_getaffinity(0))
        assert len(children(running)) == (count if count > 1 else 0)


def test_no_serial_twice_and_no_update_lost_over_workers(tmp_path: Path) -> None:
    with Program(tmp_path, *BASE, "--workers=3", "--redirect=127.0.0.1:1", "--client-new-names=1000") as running:
        first = int((tmp_path / "ca" / "serial.txt").read_text())
        words = ["openssl", "s_client", "-connect", running.url[7:], "-servername"]
        clients = [
            subprocess.Popen([*words, f"{n % 20}.example"], stdin=subprocess.DEVNULL, stdout=-1, stderr=-1, text=True)
            for n in range(60)
        ]
        assert all("-----BEGIN CERTIFICATE" in client.communicate(timeout=WAIT)[0] for client in clients)
    listed = run(*Program.command(), "list", "--store=certs", cwd=tmp_path).stdout.splitlines()[1:]
    serials = [line.split()[1] for line in listed]
    assert len(serials) == len(set(serials)) == 20
    assert int((tmp_path / "ca" / "serial.txt").read_text()) > first + 19
