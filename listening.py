"""The listeners: bound before worker processes are forked, which share their addresses."""

import signal
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

import sockets
from errors import UsageError
from names import Target, ip_of
from options import Options

BACKLOG = 1024  # connections that the kernel keeps while we are busy: more than arrive in a tenth of a second


def bind(targets: tuple[Target, ...], copies: int) -> list[list[socket.socket]]:
    """Bind a socket to each target, for each of ``copies`` worker processes. Raises ``UsageError``.

    The copies share an address (SO_REUSEPORT). The kernel spreads connections over their accept queues, each of which
    outlives its worker as long as another process holds the socket too.
    """
    if copies == 1:
        return [[_listen(target, shared=False) for target in targets]]
    bound: list[list[socket.socket]] = [[] for _ in range(copies)]
    for target in targets:
        _listen(target, shared=False).close()  # or another program's workers could share the address with ours
        # For port 0, a socket of its own chooses the port: ``rest`` would lose a port that was not bound explicitly.
        with _listen(target, shared=True) as first:
            where = Target(target.host, first.getsockname()[1])
            for listeners in bound:
                listeners.append(_listen(where, shared=True))
    return bound


def rest(listeners: Iterable[socket.socket]) -> None:
    """Stop listening: the kernel gives new connections to the other copies, and resets those in the accept queue.

    The sockets stay bound, to listen again.
    """
    for listener in listeners:
        # A socket that does not listen would hand the shutdown down to the connections that it accepts later.
        if listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            with suppress(OSError):  # systems other than Linux may not support this
                listener.shutdown(socket.SHUT_RDWR)


@contextmanager
def resting_after(seconds: float, listeners: Iterable[socket.socket]) -> Iterator[None]:
    """Let them rest once this block has taken so long. By SIGALRM, as no greenlet runs while a program starts."""
    signal.signal(signal.SIGALRM, lambda *_: rest(listeners))
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # a thread may have been given the signal just now


def resume(listeners: Iterable[socket.socket]) -> None:
    """Listen again after ``rest``. Raises ``UsageError``: another program may listen there now."""
    for listener in listeners:
        try:
            listener.listen(BACKLOG)
        except OSError as error:
            raise _refused(Target(*listener.getsockname()[:2]), error) from error


def close(listeners: Iterable[socket.socket]) -> None:
    """Close this process's descriptors. Other processes that hold the sockets keep them open."""
    for listener in listeners:
        listener.close()


def check_openness(chosen: Options) -> None:
    """Raise ``UsageError`` if strangers could use the proxy and the operator has not said that they may."""
    guarded = chosen.open or chosen.rules.auth is not None or chosen.rules.allow_from
    for target in chosen.listen:
        ip = ip_of(target.host)
        loopback = ip.is_loopback if ip is not None else target.host == "localhost"
        if not loopback and not guarded:
            raise UsageError(
                f"--listen={target}: whoever reaches that address could use the proxy; say who may with"
                " --auth=<file> or --allow-from=<cidr>, or --open for everyone"
            )


def _listen(target: Target, shared: bool) -> socket.socket:
    family = socket.AF_INET6 if ":" in target.host else socket.AF_INET
    try:
        listener = socket.create_server(tuple(target), family=family, backlog=BACKLOG, reuse_port=shared)
    except OSError as error:
        raise _refused(target, error) from error
    sockets.tune(listener)  # accepted sockets inherit this
    return listener


def _refused(target: Target, error: OSError) -> UsageError:
    cause = error.__context__ if isinstance(error.__context__, OSError) else error  # create_server adds to its text
    reason = cause.strerror or cause
    return UsageError(f"can't listen on {target}: {reason}; choose another with --listen=HOST:PORT")
