"""``flood``: clients that ask for new names at a fixed rate, however fast they are served.

Each sends a CONNECT and a ClientHello for a name not requested before, waits for the first octets of the answer and
leaves: that costs the load side little and the proxy a certificate. asyncio, since thousands may wait at once.
"""

import asyncio
import socket
import ssl
from contextlib import suppress
from dataclasses import dataclass

from bench.client import Client
from bench.origin import ZONE

_TICK = 0.02  # seconds between bursts
_MOST_OPEN = 4000  # connections; beyond that, the rest of a burst is skipped, and counted as such
_PATIENCE = 10.0  # limit in seconds for one connection
_TLS = 0x16


@dataclass(slots=True)
class Flood:
    """The outcome: ``served`` clients got a handshake record, ``refused`` ones an alert, a close or a timeout."""

    sent: int = 0
    skipped: int = 0
    served: int = 0
    refused: int = 0


def flood(client: Client, rate: int, seconds: float, prefix: str) -> Flood:
    """Ask for ``rate`` names per second, ``<prefix><number>`` each."""
    return asyncio.run(_flood(client, rate, seconds, prefix))


async def _flood(client: Client, rate: int, seconds: float, prefix: str) -> Flood:
    result = Flood()
    loop = asyncio.get_running_loop()
    began = loop.time()
    number = 0
    running: set[asyncio.Task[None]] = set()
    while (now := loop.time() - began) < seconds:
        while number < now * rate:
            if len(running) < _MOST_OPEN:
                task = loop.create_task(_ask(client, f"{prefix}{number}.{ZONE}", result))
                running.add(task)
                task.add_done_callback(running.discard)
            else:
                result.skipped += 1
            number += 1
        await asyncio.sleep(_TICK)
    for task in running:
        task.cancel()
    return result


async def _ask(client: Client, name: str, result: Flood) -> None:
    loop = asyncio.get_running_loop()
    answer = b""
    with socket.socket() as sock:
        sock.setblocking(False)
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(_PATIENCE):
                await loop.sock_connect(sock, client.proxy)
                await loop.sock_sendall(sock, client.connect_request(name))
                result.sent += 1
                await loop.sock_recv(sock, 4096)
                await loop.sock_sendall(sock, _hello(name))
                answer = await loop.sock_recv(sock, 4096)
    if answer[:1] == bytes((_TLS,)):
        result.served += 1
    else:
        result.refused += 1


_CONTEXT = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _hello(name: str) -> bytes:
    out = ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        _CONTEXT.wrap_bio(ssl.MemoryBIO(), out, server_hostname=name).do_handshake()
    return out.read()
