"""``Door``: who comes in, and may have what he asks for: the limits of connections, his address, his name, no loops."""

import socket
from dataclasses import dataclass

import pages
from access import Access
from errors import CertifierError, LoopDetected
from head import RequestHead
from record import Record


@dataclass(slots=True)
class Client:
    """Who connected."""

    sock: socket.socket
    ip: str
    who: str  # address and port
    refusal: CertifierError | None  # why there is nothing for it but that, past a limit of connections


class Door:
    """Lets clients in."""

    def __init__(self, access: Access) -> None:
        self._access = access

    def admit(self, client: Client, head: RequestHead | None, record: Record) -> None:
        """Raise where the client may not have what it asks for, whatever that is. Without a head it speaks TLS."""
        if client.refusal is not None:
            raise client.refusal
        if head is None:
            self._access.check(client.ip, None)
            return
        record.user = self._access.check(client.ip, lambda: head.header(b"proxy-authorization"))
        if pages.VIA in head.header(b"via"):
            raise LoopDetected("the request has passed here before, according to its Via field")
