"""A log that can't be written: connections know nothing of it. What it looks like is in test_small_rooms.py."""

import logging
import os
import re

import log


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


def test_what_nobody_reads_is_lost_and_counted() -> None:
    """A line longer than what a pipe takes, too, whose writer would have to wait in its middle."""
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
            told = rb"\S+Z warning: stderr can be written again; 2 lines were lost\n"
            assert re.fullmatch(rb"\n\S+Z again\n" + told, read.read(1 << 20))
            logger.info("whole")
            assert re.fullmatch(rb"\S+Z whole\n", read.read(1 << 20))
        finally:
            os.dup2(kept, 2)
            os.close(kept)
