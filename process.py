"""The process as its parent sees it: standard descriptors, signals, output, and how it ends."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from errors import UsageError

HANDLED = (signal.SIGHUP, signal.SIGUSR1)  # blocked until they have handlers: the default action is to end the process
ENDING = (signal.SIGTERM, signal.SIGINT)


def heed_signals() -> None:
    """Let SIGTERM and SIGINT end the process without a traceback until long-running work installs its own handlers."""
    for number in ENDING:
        signal.signal(number, die)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)  # the parent may have blocked them
    signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)


def open_standard() -> None:
    """Open /dev/null for each standard descriptor that is closed: certifier can serve without it.

    Otherwise the next file opened, perhaps a key or certificate, would take its number, and get what is printed there.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115


@contextmanager
def output() -> Iterator[None]:
    """Flush what is printed in this block. Raises ``UsageError`` if that fails; dies of SIGPIPE if the reader left."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # for what is left to flush at exit
        if isinstance(error, BrokenPipeError):
            die(signal.SIGPIPE)
        raise UsageError(f"{error.filename or 'standard output'}: {error.strerror}") from error


def refuse(error: UsageError) -> int:
    """Print the operator's mistake to stderr, and return the exit status."""
    with suppress(OSError):
        sys.stderr.write(" ".join(["certifier:", *str(error).splitlines()]) + "\n")  # in one write: workers share it
        sys.stderr.flush()
    return 2


def die(number: int, _: object = None) -> None:
    """Die of a signal, without a traceback; or exit, as PID 1 of a container, for which the kernel ignores it."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    os._exit(128 + number)
