"""A log that can't be written does not affect connections. What it looks like is in test_small_rooms.py."""

import logging
import os
import re
import select
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest
from faultlab import Control, Faulty
from gevent.monkey import get_original
from lab import WAIT, exchange, tcp_sockets

import log
from linefile import LineFile


def a_pipe(full: bool, read: bool) -> tuple[int, int]:
    """A pipe, full or empty, whose other end can be read or is closed; both ends."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    while full:
        try:
            os.write(writer, b"x" * 4096)
        except BlockingIOError:
            break
    os.set_blocking(writer, True)
    if not read:
        os.close(reader)
    return reader, writer


def listener_of(pid: int) -> tuple[str, int]:
    """Where a process listens that can't print its address."""
    deadline = time.monotonic() + WAIT
    while time.monotonic() < deadline:
        held = set()
        for path in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # closed meanwhile
                held.add(os.readlink(path))
        for row in tcp_sockets():
            if row[3] == "0A" and f"socket:[{row[9]}]" in held:
                return "127.0.0.1", int(row[1].partition(":")[2], 16)
        time.sleep(0.01)  # it is still starting
    raise AssertionError("it does not listen")


@pytest.mark.parametrize("stderr", ["closed", "/dev/full", "without a reader", "full"])
def test_connections_go_on(tmp_path: Path, stderr: str) -> None:
    program = [*Faulty.command(), "--store=certs", "--max=9", "--ca=ca", "--listen=127.0.0.1:0"]
    shell = {"closed": "2>&-", "/dev/full": "2>/dev/full"}.get(stderr, "")
    reader, writer = a_pipe(full=stderr == "full", read=stderr != "without a reader")
    words = ["sh", "-c", f'exec "$@" {shell}', "sh", *program]
    with subprocess.Popen(words, cwd=tmp_path, stderr=writer) as process:
        try:
            address = listener_of(process.pid)
            control = Control(tmp_path)
            for _ in range(3):
                assert exchange(address, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").status == 200
            # A bug in a greenlet of its own, which gevent would print.
            control.order("arm", "thread resolver._lead", 1, "memory")
            get = b"GET http://a.example.com:%d/ HTTP/1.1\r\nHost: a\r\n\r\n"
            assert exchange(address, get % address[1]).status == 503
            assert exchange(address, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").status == 200
            control.close()
            process.send_signal(signal.SIGTERM)
            assert process.wait(WAIT) == 0
        finally:
            process.kill()
    os.close(writer)
    if stderr != "without a reader":
        os.close(reader)


def test_what_nobody_reads_is_lost_and_counted() -> None:
    """Also a line longer than a pipe's capacity, whose writer would have to wait half-way."""
    reader, writer = a_pipe(full=False, read=True)
    kept = os.dup(2)
    with os.fdopen(reader, "rb", buffering=0) as read:
        os.dup2(writer, 2)
        os.close(writer)
        try:
            log.set_up()
            logger = logging.getLogger("certifier")
            logger.info("short")
            logger.info("%s", "long " * 100_000)
            logger.info("lost")
            text = read.read(1 << 20)
            assert re.match(rb"\S+Z short\n\S+Z (long )+", text)
            logger.info("again")
            told = rb"\S+Z warning: stderr can be written again; lines lost: 2\n"
            assert re.fullmatch(rb"\n\S+Z again\n" + told, read.read(1 << 20))
            logger.info("whole")
            assert re.fullmatch(rb"\S+Z whole\n", read.read(1 << 20))
        finally:
            os.dup2(kept, 2)
            os.close(kept)


FORGED = "2026-11-30T00:00:00.000Z tunnel client=192.0.2.1:1 target=a.example:443 outcome=closed"


def test_an_exceptions_text_passes_for_no_entry_and_does_nothing_to_a_terminal(
    capfd: pytest.CaptureFixture[str],
) -> None:
    log.set_up()
    logger = logging.getLogger("certifier")
    try:
        try:
            raise ValueError(f"x\n{FORGED}\r{FORGED}\x1b[2J\x9b2J\u2028{FORGED}")
        except ValueError as error:
            raise KeyError(f"y\n{FORGED}") from error
    except KeyError:
        logger.exception("a tap failed")
    logger.warning("a bug: %s", f"z\n{FORGED}")
    logger.info("an entry")
    told = capfd.readouterr().err
    assert told.replace("\n", "").isprintable()
    entries = [line.split(" ", 1)[1] for line in told.splitlines() if not line.startswith("  ")]
    assert entries == ["error: a tap failed", f"warning: a bug: z\\n{FORGED}", "an entry"]
    assert f"\n  {FORGED}\\r{FORGED}\\x1b[2J" in told
    assert told.count("\n  Traceback (most recent call last):\n") == 2


@pytest.mark.timeout(10)
def test_another_process_fills_the_pipe_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between our check for room and our write, as workers share stderr. Other writers of it may still block."""
    reader, writer = a_pipe(full=True, read=True)
    kept = os.dup(2)
    os.dup2(writer, 2)
    try:
        file = LineFile(None)
        assert os.get_blocking(2)
        room = get_original("select", "poll")()
        with open(os.devnull, "wb") as free:
            room.register(free, select.POLLOUT)
            monkeypatch.setattr(file, "_poll", room)  # as if polled before the other process wrote
            file.write("lost")
        file.close()
    finally:
        os.dup2(kept, 2)
        for fd in (kept, reader, writer):
            os.close(fd)
