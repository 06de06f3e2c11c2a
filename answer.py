"""``Answer``: a tap's response to a client in the origin's stead, and how it is written (RFC 9112)."""

from dataclasses import dataclass
from http import HTTPStatus

import h11

_EMPTY = (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED)


@dataclass(frozen=True, slots=True)
class Answer:
    """A response to the client in the origin's stead. Content-Length is added to ``fields``."""

    status: int
    body: bytes = b""
    fields: tuple[tuple[str, str], ...] = (("Content-Type", "text/plain; charset=utf-8"),)
    reason: str = ""

    def written(self, method: str, closing: bool = True) -> bytes:
        """The response to a request with this method, as octets."""
        server = h11.Connection(h11.SERVER)
        server.receive_data(b"%s / HTTP/1.1\r\nHost: a\r\n\r\n" % method.encode("ascii"))
        server.next_event()
        return (server.send(self.head(closing)) or b"") + self.content(method)

    def content(self, method: str) -> bytes:
        """Its body, in the response to a request with this method (RFC 9112 §6.3)."""
        return b"" if method == "HEAD" or self.status in _EMPTY else self.body

    def head(self, closing: bool) -> h11.Response:
        """Its head. Raises ``h11.LocalProtocolError`` if it is invalid."""
        fields = [*self.fields]
        if self.status != HTTPStatus.NO_CONTENT:  # RFC 9110 §8.6
            fields.append(("Content-Length", str(len(self.body))))
        if closing:
            fields.append(("Connection", "close"))
        phrase = self.reason or (HTTPStatus(self.status).phrase if self.status in set(HTTPStatus) else "")
        if any(c in phrase for c in "\0\r\n"):  # h11 accepts it: a decoded URL, say, could add fields of its own
            raise h11.LocalProtocolError("a reason phrase of several lines")
        head = h11.Response(status_code=self.status, reason=phrase.encode("latin-1", "replace"), headers=fields)
        if any(name == b"transfer-encoding" for name, _ in head.headers):  # it would override the length
            raise h11.LocalProtocolError("Transfer-Encoding, where the body goes out as it is")
        return head
