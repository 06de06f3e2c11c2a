"""``Door``: whether a client may use the proxy: connection limits, its address, its user, no loops."""

import socket
from dataclasses import dataclass

import pages
from access import Access
from errors import CertifierError, LoopDetected
from head import RequestHead
from record import Record


@dataclass(slots=True)
class Client:
    """A connected client."""

    sock: socket.socket
    ip: str
    who: str  # address and port
    refusal: CertifierError | None  # if it exceeds a connection limit: the error that answers all but page requests


class Door:
    """Admits clients."""

    def __init__(self, access: Access) -> None:
        self._access = access

    def admit(self, client: Client, head: RequestHead | None, record: Record) -> None:
        """Raise if the client may not use the proxy at all. ``head`` is None for TLS without a CONNECT."""
        if client.refusal is not None:
            raise client.refusal.again()  # the traceback of a raised one refers to the client: a cycle
        if head is None:
            self._access.check(client.ip, None)
            return
        record.user = self._access.check(client.ip, lambda: head.header(b"proxy-authorization"))
        if pages.VIA in head.header(b"via"):
            raise LoopDetected("the request has passed here before, according to its Via field")
