"""Several workers: whichever is asked answers for all, one that hangs holds up nobody, and no count ever falls."""

import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent.event import Event
from lab import WAIT, Origin, Program, Reply, get, read_reply, secure_tunnel, strict_context, tcp_sockets, until
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families as prometheus
from test_board import closed_tunnel, snapshot_of
from test_metrics import value
from test_supervisor import children
from test_website import BASE, _parsed

import peers
from board import Board
from peers import Peers, Post, posts

REQUEST = len("GET / HTTP/1.1\r\nHost: test\r\n\r\n")


@pytest.fixture
def three(tmp_path: Path, roots: Path) -> Iterator[Program]:
    with Program(tmp_path, *BASE, f"--upstream-ca={roots}", "--workers=3") as running:
        yield running


def accepted_by(process: int, sock: socket.socket) -> bool:
    """Whether a process accepts the other end of a connection, within a short time."""
    port = f":{sock.getsockname()[1]:04X}"
    deadline = time.monotonic() + 0.3
    while time.monotonic() < deadline:
        inodes = {row[9] for row in tcp_sockets() if row[2].endswith(port) and row[9] != "0"}
        if inodes:  # somebody has accepted it
            held = set()
            for fd in os.listdir(f"/proc/{process}/fd"):
                with suppress(FileNotFoundError):  # it closes others meanwhile
                    held.add(os.readlink(f"/proc/{process}/fd/{fd}"))
            return any(f"socket:[{inode}]" in held for inode in inodes)
    return False


def connect(stack: ExitStack, program: Program, worker: int) -> socket.socket:
    """A connection that this worker has accepted."""
    while True:
        sock = stack.enter_context(socket.create_connection(program.address, timeout=WAIT))
        if accepted_by(worker, sock):
            return sock
        sock.close()


def ask(program: Program, worker: int, path: str) -> Reply:
    """A page as served by this worker."""
    with ExitStack() as stack:
        sock = connect(stack, program, worker)
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        return read_reply(sock)


def scrape(program: Program, worker: int) -> list[Metric]:
    return list(prometheus(ask(program, worker, "/metrics").body.decode()))


def state(program: Program, worker: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(ask(program, worker, "/state").body)
    return found


def do(program: Program, origin: Origin, tunnels: int) -> None:
    before = sum(" tunnel " in line for line in program.lines)
    for _ in range(tunnels):
        with secure_tunnel(program, f"localhost:{origin.port}") as secure:
            assert get(secure).status == 200
            secure.unwrap()
    program.tunnels(before + tunnels)


def counted(families: list[Metric]) -> tuple[float | None, ...]:
    retrievals = [value(families, "certifier_retrievals_total", source=s) or 0 for s in ("memory", "disk", "made")]
    return (
        value(families, "certifier_tunnels_total", outcome="closed"),
        value(families, "certifier_bytes_total", direction="sent"),
        value(families, "certifier_dial_seconds_count"),
        sum(retrievals),
    )


def of(tunnels: int) -> tuple[float, ...]:
    return (tunnels, tunnels * REQUEST, tunnels, tunnels)


# The program


def test_whichever_is_asked_answers_for_all(three: Program, origin: Origin) -> None:
    do(three, origin, 40)
    workers = children(three)
    for worker in workers:
        assert counted(scrape(three, worker)) == of(40)
        shown = state(three, worker)
        assert len({row["key"].partition("-")[0] for row in shown["tunnels"]}) == 3
        assert [row["ended"] for row in shown["tunnels"]] == sorted(row["ended"] for row in shown["tunnels"])
        assert len(shown["tunnels"]) == 40
        assert [entry["name"] for entry in shown["held"]] == ["localhost"]
        assert shown["gauges"]["contexts"] == 3
        assert shown["gauges"]["contexts_max"] == 300
        while sum(sample["connections"] for sample in shown["history"]) < 40:  # the current second is no sample yet
            shown = state(three, worker)
    accepted = [value(scrape(three, worker), "certifier_connections_accepted_total") or 0 for worker in workers]
    assert 40 < accepted[0] < accepted[1] < accepted[2]
    started = [value(scrape(three, worker), "certifier_start_time_seconds") for worker in workers]
    assert len(set(started)) == 1


def test_open_tunnels_of_all_and_what_is_asked_in_them(three: Program, origin: Origin) -> None:
    target = f"localhost:{origin.port}"
    workers = children(three)
    state(three, workers[0])  # from now on all workers have an onlooker
    with ExitStack() as stack:
        tunnels = [stack.enter_context(secure_tunnel(three, target)) for _ in range(20)]
        for number, secure in enumerate(tunnels):
            get(secure, f"/{number}")
        for worker in workers:
            shown = state(three, worker)
            assert shown["gauges"]["tunnels"] == len(shown["open"]) == 20
            asked = {f"https://test/{number}" for number in range(20)}
            assert {row["url"] for row in shown["requests"]} == asked
        three.process.send_signal(signal.SIGHUP)  # which disturbs nobody
        assert get(tunnels[0]).status == 200


def test_the_feed_tells_what_all_do(three: Program, origin: Origin) -> None:
    with ExitStack() as stack:
        sock = connect(stack, three, children(three)[1])
        sock.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        read_reply(sock)
        news = _parsed(stack.enter_context(sock.makefile("r", encoding="utf-8")))
        _, whole = next(news)
        assert (whole["tunnels"], len(whole["seen"])) == ([], 3)
        do(three, origin, 60)  # so many that each worker gets some; fewer than once in 10**10 runs one gets none
        rows: list[str] = []
        while len(rows) < 60:
            _, told = next(news)
            rows += [row["key"] for row in told["tunnels"]]
        assert len(set(rows)) == len(rows) == 60  # each once
        assert len({key.partition("-")[0] for key in rows}) == 3


def test_what_a_killed_worker_had_counted_stays(three: Program, origin: Origin) -> None:
    do(three, origin, 20)
    assert counted(scrape(three, children(three)[0])) == of(20)
    for turn in range(2):
        victim = children(three)[turn]
        before = len(three.lines)
        os.kill(victim, signal.SIGKILL)
        three.wait_for(rf"process {victim}\) died: SIGKILL", before)
        alive = [worker for worker in children(three) if worker != victim]
        for worker in alive:
            assert counted(scrape(three, worker)) == of(20)
        until(lambda: len(children(three)) == 3)  # one that lived for a few seconds is not replaced at once
    do(three, origin, 20)
    for worker in children(three):
        assert counted(scrape(three, worker)) == of(40)


def test_a_worker_that_is_told_to_end_leaves_what_it_counted(three: Program, origin: Origin) -> None:
    do(three, origin, 20)
    victim = children(three)[2]
    os.kill(victim, signal.SIGTERM)  # before anybody asked, or a second had passed
    three.wait_for(rf"process {victim}\) died: exit status 0")
    assert counted(scrape(three, children(three)[0])) == of(20)


def test_what_is_lost_as_a_worker_ends_is_counted(tmp_path: Path, roots: Path, certificate: Path) -> None:
    def half(sock: socket.socket) -> None:
        sock.recv(65_536)
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + bytes(50_000))
        sock.recv(1)

    words = (*BASE, f"--upstream-ca={roots}", "--workers=2", "--har=all.har")
    with (
        Origin(half, certificate) as origin,
        Program(tmp_path, *words, prefix=("prlimit", "--fsize=20000")) as running,  # too few octets for the exchange
    ):
        victim = children(running)[1]
        with ExitStack() as stack:
            sock = connect(stack, running, victim)
            sock.sendall(f"CONNECT localhost:{origin.port} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            assert read_reply(sock).status == 200
            secure = stack.enter_context(strict_context(running.ca).wrap_socket(sock, server_hostname="localhost"))
            secure.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert secure.recv(1) == b"H"
            os.kill(victim, signal.SIGTERM)
            running.wait_for("stopping: 1 connection")
        running.wait_for("can't write the HAR file")
        running.wait_for(rf"process {victim}\) died: exit status 0")
        lost = scrape(running, children(running)[0])
        assert value(lost, "certifier_records_lost_total", file="har") == 1
        assert value(lost, "certifier_records_lost_total", file="log") == 0


def test_a_worker_that_hangs_holds_up_nobody(tmp_path: Path, roots: Path, origin: Origin) -> None:
    with Program(tmp_path, *BASE, f"--upstream-ca={roots}", "--workers=2") as running:
        do(running, origin, 20)
        one, other = children(running)
        assert counted(scrape(running, one)) == of(20)
        os.kill(other, signal.SIGSTOP)
        try:
            with ExitStack() as stack:
                sock = connect(stack, running, one)
                began = time.monotonic()
                sock.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
                families = list(prometheus(read_reply(sock).body.decode()))
                assert peers.ANSWER_SECONDS <= time.monotonic() - began < 2
            assert counted(families) == of(20)
            assert value(families, "certifier_contexts_max") == 100  # the stopped worker's gauges are left out
            assert (value(families, "certifier_workers"), value(families, "certifier_workers_max")) == (1, 2)
        finally:
            os.kill(other, signal.SIGCONT)
        for worker in (one, other):
            families = scrape(running, worker)
            assert counted(families) == of(20)
            assert value(families, "certifier_contexts_max") == 200
            assert (value(families, "certifier_workers"), value(families, "certifier_workers_max")) == (2, 2)


def test_all_let_their_tunnels_finish(three: Program, echo_origin: Origin) -> None:
    workers = children(three)
    with ExitStack() as stack:
        tunnels = []
        took: set[int] = set()
        while took != set(workers):  # the kernel chooses one at random
            secure = stack.enter_context(secure_tunnel(three, f"localhost:{echo_origin.port}"))
            secure.sendall(b"first")
            assert secure.recv(5) == b"first"
            tunnels.append(secure)
            took |= {worker for worker in workers if accepted_by(worker, secure)}
        three.process.send_signal(signal.SIGTERM)
        until(lambda: len([line for line in three.lines if "stopping: " in line]) == 3)
        with pytest.raises(ConnectionRefusedError):  # not left in the accept queue of a worker that accepts no more
            socket.create_connection(three.address, timeout=WAIT)
        for secure in tunnels:
            secure.sendall(b"last")
            assert secure.recv(4) == b"last"
    assert three.process.wait(WAIT) == 0
    lines = three.tunnels(len(tunnels))
    assert all("outcome=closed" in line or "outcome=client-" in line for line in lines)


def test_with_nobody_looking_nothing_runs(three: Program, echo_origin: Origin) -> None:
    def switches() -> int:
        processes = [three.process.pid, *children(three)]
        told = [Path(f"/proc/{process}/status").read_text() for process in processes]
        return sum(int(line.split()[1]) for text in told for line in text.splitlines() if "ctxt_switches" in line)

    with ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(secure_tunnel(three, f"localhost:{echo_origin.port}"))
        deadline = time.monotonic() + WAIT
        while True:  # until the last counts have been kept, too
            before = switches()
            gevent.sleep(2.5)
            if switches() == before:
                break
            assert time.monotonic() < deadline


# Peers


@pytest.fixture
def post_of() -> Iterator[Callable[[int], list[Post]]]:
    made: list[Post] = []

    def make(count: int) -> list[Post]:
        made.extend(posts(count))
        return made

    yield make
    made[0].channels.close()


def worker(post: Post) -> tuple[Board, Peers, Event]:
    stirred = Event()
    board = Board(kept=post.kept, stirred=stirred.set)
    return board, Peers(post, lambda since: snapshot_of(board, *([] if since is None else [since])), stirred), stirred


def test_what_was_counted_is_kept_within_a_second_though_nobody_asks(
    monkeypatch: pytest.MonkeyPatch, post_of: Callable[[int], list[Post]]
) -> None:
    monkeypatch.setattr(peers, "KEEP_SECONDS", 0.05)
    (post,) = post_of(1)
    assert post.kept is None
    board, made, stirred = worker(post)
    made.start()
    gevent.sleep(0)
    closed_tunnel(board)
    board.meter.sent = 5

    def kept() -> tuple[float, float]:
        assert post.kept is not None
        counts = post.kept["counts"]
        return counts["tunnels"].get("closed", 0), counts["octets"]["sent"]

    until(lambda: kept() == (1, 5))
    board.meter.sent = 9  # wakes nobody, but is seen at the next look
    until(lambda: kept() == (1, 9))
    until(lambda: not stirred.is_set())
    successor, _, _ = worker(post)
    assert successor.kept()["counts"]["tunnels"] == {"closed": 1}


def test_what_was_told_is_kept_at_once(post_of: Callable[[int], list[Post]]) -> None:
    first, second = post_of(2)
    board, made, _ = worker(first)
    closed_tunnel(board)
    assert made.snapshot(None)["counts"]["tunnels"] == {"closed": 1}
    assert first.kept is not None
    assert first.kept["counts"]["tunnels"] == {"closed": 1}
    other, asked, _ = worker(second)
    closed_tunnel(other)
    assert asked.snapshot(None)["counts"]["tunnels"] == {"closed": 2}


def test_an_answer_that_was_cut_short_is_none(
    monkeypatch: pytest.MonkeyPatch, post_of: Callable[[int], list[Post]]
) -> None:
    monkeypatch.setattr(peers, "ANSWER_SECONDS", WAIT)
    first, second = post_of(2)
    _, made, _ = worker(first)
    board, _, _ = worker(second)
    closed_tunnel(board)
    server = gevent.spawn(second.channels.serve, 1, lambda _: json.dumps(snapshot_of(board)).encode()[:-9])
    try:
        began = time.monotonic()
        assert made.snapshot(None)["counts"]["tunnels"] == {}
        assert time.monotonic() - began < peers.ANSWER_SECONDS
    finally:
        server.kill()
