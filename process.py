"""The process, as who started it sees it: its standard descriptors, signals, what it prints, how it ends."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from errors import UsageError

HANDLED = (signal.SIGHUP, signal.SIGUSR1)  # blocked until there is who handles them: by themselves they kill
ENDING = (signal.SIGTERM, signal.SIGINT)


def heed_signals() -> None:
    """Those that end it do so without a word, until what is begun, and may take long, has its own way to end."""
    for number in ENDING:
        signal.signal(number, die)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)  # who starts us may have blocked them
    signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)


def open_standard() -> None:
    """That one of the standard descriptors is closed must not keep us from serving.

    Nor may what we open next have its number: a key or a certificate would get what is written there.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115


@contextmanager
def output() -> Iterator[None]:
    """What is printed in here arrives, else it is a ``UsageError``. Of a reader that has enough (``head``) we die."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # for what is left, at exit
        if isinstance(error, BrokenPipeError):
            die(signal.SIGPIPE)
        raise UsageError(f"{error.filename or 'standard output'}: {error.strerror}") from error


def refuse(error: UsageError) -> int:
    """Say what the operator got wrong; the exit status."""
    with suppress(OSError):
        sys.stderr.write(" ".join(["certifier:", *str(error).splitlines()]) + "\n")  # at once: other workers write, too
        sys.stderr.flush()
    return 2


def die(number: int, _: object = None) -> None:
    """Die of a signal without a word; or exit, as the first process of a container, which the kernel spares."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    os._exit(128 + number)
