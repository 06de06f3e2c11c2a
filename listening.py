"""The listeners: sockets that are bound before anything else is made, and shared by worker processes."""

import os
import socket

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
    bound: list[list[socket.socket]] = [[] for _ in range(copies)]
    for target in targets:
        if copies > 1:  # another program's workers would share theirs with us
            _listen(target, shared=False).close()
        for number, listeners in enumerate(bound):
            # Port 0 is chosen once.
            where = target if number == 0 else Target(target.host, bound[0][len(listeners)].getsockname()[1])
            listeners.append(_listen(where, shared=copies > 1))
    return bound


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
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or error
        raise UsageError(f"can't listen on {target}: {reason}; choose another with --listen=HOST:PORT") from error
    sockets.tune(listener)  # the sockets that it accepts inherit that
    return listener
