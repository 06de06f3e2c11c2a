"""The first bytes of a tunnel: whether its client speaks TLS, and its ClientHello."""

import socket
import time

import sockets
from errors import HelloError, HelloTimeout
from hello import ALERT, CHANGE_CIPHER_SPEC, HANDSHAKE, ClientHello, HelloReader, is_old
from limits import Limits

CLOSED_SECONDS = 1.0  # wait for a client's first bytes after the origin's close: a silent one waits for the origin's
_RECV = 16_384


def read_hello(
    client: socket.socket, origin: socket.socket | None, data: bytes, limits: Limits, patient: bool = False
) -> tuple[ClientHello | None, bytes]:
    """The ClientHello and all bytes received. None: the client does not use TLS, or the origin spoke first.

    ``data`` was read before. Without an origin, only the client is waited for. Raises ``HelloError``, ``OSError`` if
    the client was lost, or ``HelloTimeout`` if neither side has sent enough in time; if ``patient``, the first byte of
    either side may take as long as a tunnel may be idle.
    """
    reader = HelloReader(limits.hello)
    seconds = limits.idle_timeout
    try:
        if patient and origin is not None and not data:
            sockets.either(client, origin, time.monotonic() + seconds)
        seconds = limits.hello_timeout
        return _read(client, origin, data, reader, time.monotonic() + seconds)
    except TimeoutError as error:
        if not sockets.ran_out(error):
            raise
        raise HelloTimeout(f"no complete ClientHello within {seconds:.0f} s") from error


def _read(
    client: socket.socket, origin: socket.socket | None, data: bytes, reader: HelloReader, deadline: float
) -> tuple[ClientHello | None, bytes]:
    closed = False  # whether the origin has closed
    soon = deadline  # for the client's first bytes
    begun = b""  # not known yet to be TLS records, or an SSL 2.0 ClientHello, without server_name
    while True:
        if data:
            begun += data
            dropped = _is_dropped(begun)
            if reader.wire or begun[0] == HANDSHAKE or dropped:
                hello, begun = reader.receive(begun), b""
                if hello is not None:
                    return hello, bytes(reader.wire)
            elif old := is_old(begun):
                raise HelloError("a ClientHello in the form of SSL 2.0")
            elif old is False and dropped is False:
                return None, begun
        if origin is not None and not closed and sockets.either(client, origin, deadline):
            if not sockets.has_ended(origin):
                return None, bytes(reader.wire) or begun
            # A client that soon speaks TLS is to be told inside TLS that the origin has closed.
            closed, soon = True, min(deadline, time.monotonic() + CLOSED_SECONDS)
        silent = closed and not reader.wire
        try:
            sockets.arm(client, soon if silent else deadline)
            data = client.recv(_RECV)
        except TimeoutError:
            if silent:
                return None, begun
            raise
        if not data:
            if reader.wire:
                raise HelloError("the client closed in the middle of its ClientHello")
            return None, begun


def _is_dropped(data: bytes) -> bool | None:
    """Whether it begins with a record that some servers skip: Go's a warning alert, GnuTLS' a ChangeCipherSpec.

    It is to be refused: otherwise the server_name in the ClientHello after it would go unseen. None while there are too
    few octets to tell.
    """
    if data[0] not in (ALERT, CHANGE_CIPHER_SPEC):
        return False
    return data[1] == 3 if len(data) > 1 else None
