"""The listeners: sockets that are bound before anything else is made, and shared by worker processes."""

import os
import socket
from collections.abc import Iterable
from contextlib import suppress

import sockets
from errors import UsageError
from names import Target, ip_of
from options import Options

_BACKLOG = 1024


def bind(targets: tuple[Target, ...], copies: int) -> list[list[socket.socket]]:
    """For each of so many worker processes a socket for each target. Raises ``UsageError``.

    The copies share an address (SO_REUSEPORT): the kernel spreads connections over them, each in a queue of its own,
    which outlives the worker as long as another process holds the socket too.
    """
    if copies == 1:
        return [[_listen(target, shared=False) for target in targets]]
    bound: list[list[socket.socket]] = [[] for _ in range(copies)]
    for target in targets:
        _listen(target, shared=False).close()  # another program's workers would share theirs with us
        # Port 0 is chosen once, and by a socket of its own: one that rests would lose a port that it was not bound to.
        with _listen(target, shared=True) as first:
            where = Target(target.host, first.getsockname()[1])
            for listeners in bound:
                listeners.append(_listen(where, shared=True))
    return bound


def rest(listeners: Iterable[socket.socket]) -> None:
    """Get no more connections, as the kernel gives them to the copies then, and cut those off that wait.

    The addresses stay, to listen on again.
    """
    for listener in listeners:
        # Done to one that rests it would count for what that accepts later.
        if listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            with suppress(OSError):  # systems other than Linux may have no such thing
                listener.shutdown(socket.SHUT_RDWR)


def resume(listeners: Iterable[socket.socket]) -> None:
    """Listen again, if they rest. Raises ``UsageError``: another program may listen there now."""
    for listener in listeners:
        try:
            listener.listen(_BACKLOG)
        except OSError as error:
            raise _refused(Target(*listener.getsockname()[:2]), error) from error


def close(listeners: Iterable[socket.socket]) -> None:
    """In this process, have them no more: whoever else holds them keeps them open."""
    for listener in listeners:
        listener.close()


def check_openness(chosen: Options) -> None:
    """Raise ``UsageError`` for a proxy that strangers could use unasked."""
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
        listener = socket.create_server(tuple(target), family=family, backlog=_BACKLOG, reuse_port=shared)
    except OSError as error:
        raise _refused(target, error) from error
    sockets.tune(listener)  # the sockets that it accepts inherit that
    return listener


def _refused(target: Target, error: OSError) -> UsageError:
    reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or error
    return UsageError(f"can't listen on {target}: {reason}; choose another with --listen=HOST:PORT")
