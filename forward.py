"""Plain HTTP: one request forwarded to its origin, and the response brought back; h11 speaks HTTP/1 on both sides.

Each exchange has a connection of its own to the origin, so that no request meets one that is being closed.
"""

import socket
from collections.abc import Iterable

import gevent
import h11

import sockets
from errors import ClientError, OriginError, OriginGone, OriginProtocolError, OriginSilent
from head import RequestHead
from log import Record
from names import Target
from pages import NAME

QUIET_SECONDS = 300.0  # how long either side may say nothing while we wait for it: long polls end before that
_CHUNK = 65_536

Headers = list[tuple[bytes, bytes]]

# RFC 9110 §7.6.1, and the fields that were meant for us.
_HOP_BY_HOP = {
    b"connection", b"keep-alive", b"proxy-connection", b"proxy-authorization", b"proxy-authenticate",
    b"te", b"transfer-encoding", b"upgrade",
}  # fmt: skip


class Exchange:
    """One request from a client's socket to an origin's, and the response back."""

    def __init__(self, client: socket.socket, origin: socket.socket, head: RequestHead, record: Record) -> None:
        self._client = client
        self._origin = origin
        self._head = head
        self._server = head.connection  # our side towards the client
        self._user_agent = h11.Connection(h11.CLIENT)  # our side towards the origin
        self._record = record
        self._uploaded = False  # the whole request was read and passed on
        self._client_error: ClientError | None = None

    def run(self, target: Target, path: str, rest: bytes) -> bytes | None:
        """Do the exchange; ``rest`` is what came behind the head.

        What came behind the whole request, when the connection can serve another one, else None. Raises a
        ``CertifierError`` where the client can still be sent its reply, ``OSError`` where it is cut off instead.
        """
        for sock in (self._client, self._origin):
            sock.settimeout(QUIET_SECONDS)
        if rest:  # h11 takes b"" for the end
            self._server.receive_data(rest)
        request = h11.Request(
            method=self._head.method, target=path or "/", headers=_request_headers(self._head, target)
        )
        try:
            self._origin.sendall(self._user_agent.send(request) or b"")
        except OSError as error:
            raise OriginGone(f"{target} closed the connection") from error
        if self._head.has_body:
            upload = gevent.spawn(self._upload)
            try:
                self._download(target)
            finally:
                upload.kill()
        else:
            self._upload()  # the end of the request, which is here: no wait, and known before the response comes
            self._download(target)
        if not self._uploaded:
            sockets.last_word(self._client, b"")
            return None
        if self._server.our_state is not h11.DONE or self._server.their_state is not h11.DONE:
            return None
        return self._server.trailing_data[0]

    def _upload(self) -> None:
        """Pass the request's body on as it comes. Only this greenlet writes to the origin now."""
        try:
            while True:
                event = self._server.next_event()
                if event is h11.NEED_DATA:
                    data = self._client.recv(_CHUNK)
                    if not data:
                        raise ClientError("the request ended in its body")
                    self._server.receive_data(data)
                    continue
                if isinstance(event, h11.Data):
                    self._record.sent += len(event.data)
                    out = self._user_agent.send(event)
                elif isinstance(event, h11.EndOfMessage):
                    self._uploaded = True
                    out = self._user_agent.send(h11.EndOfMessage(headers=event.headers.raw_items()))
                else:
                    return
                try:
                    if out:
                        self._origin.sendall(out)
                except OSError:
                    self._uploaded = False
                    return  # the origin has closed; it may have answered before
                if self._uploaded:
                    return
        except (h11.RemoteProtocolError, ClientError, OSError) as error:
            self._client_error = ClientError(f"the request's body could not be read: {error}")
            sockets.shut(self._origin)  # the origin must not take half a request for a whole one

    def _download(self, target: Target) -> None:
        """Pass the response on as it comes, interim ones (RFC 9110 §15.2) too."""
        began = closed = False
        while True:
            try:
                event = self._user_agent.next_event()
                if event is h11.NEED_DATA:
                    data = self._origin.recv(_CHUNK)
                    closed = not data
                    self._user_agent.receive_data(data)
                    continue
            except (h11.RemoteProtocolError, OSError) as error:
                failure = self._client_error or _origin_error(target, error, closed)
                if began:
                    raise ConnectionAbortedError(str(failure)) from error
                raise failure from error
            if isinstance(event, h11.InformationalResponse):
                if self._head.http_version != "1.0" and event.status_code != 101:  # we asked for no upgrade
                    self._send(h11.InformationalResponse(status_code=event.status_code, headers=_plain(event)))
            elif isinstance(event, h11.Response):
                began = True
                self._record.status = event.status_code
                headers = _response_headers(event)
                if not self._uploaded:
                    headers.append((b"Connection", b"close"))
                self._send(h11.Response(status_code=event.status_code, reason=event.reason, headers=headers))
            elif isinstance(event, h11.Data):
                self._record.received += len(event.data)
                self._send(event)
            elif isinstance(event, h11.EndOfMessage):
                self._send(h11.EndOfMessage(headers=event.headers.raw_items()))
                return
            else:  # ConnectionClosed, or PAUSED after a 101, where a response should be
                raise self._client_error or _origin_error(target, None, closed)

    def _send(self, event: h11.Event) -> None:
        data = self._server.send(event)
        if data:
            self._client.sendall(data)


def _origin_error(target: Target, error: Exception | None, closed: bool) -> OriginError:
    if isinstance(error, TimeoutError):
        return OriginSilent(f"{target} sent nothing for {QUIET_SECONDS:.0f} s")
    if closed or isinstance(error, OSError):
        return OriginGone(f"{target} closed the connection before it had answered")
    return OriginProtocolError(f"{target} sent a malformed response: {error or 'an upgrade that was not asked for'}")


def _end_to_end(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """The fields that are not hop-by-hop: those of RFC 9110 §7.6.1 and those that Connection names."""
    headers = list(headers)
    named = {
        option.strip().lower() for key, value in headers if key.lower() == b"connection" for option in value.split(b",")
    }
    return [(k, v) for k, v in headers if k.lower() not in _HOP_BY_HOP and k.lower() not in named]


def _plain(event: h11.InformationalResponse) -> Headers:
    return _end_to_end(event.headers.raw_items())


def _request_headers(head: RequestHead, target: Target) -> Headers:
    """Host is the target's, whatever the client's said (RFC 9112 §3.2.2)."""
    host = str(target) if target.port != 80 else str(target).removesuffix(":80")
    headers = [(b"Host", host.encode("ascii"))]
    for key, value in _end_to_end(head.headers):
        if key.lower() == b"max-forwards" and head.method in ("TRACE", "OPTIONS") and value.isdigit():
            value = b"%d" % max(0, int(value) - 1)
        if key.lower() != b"host":
            headers.append((key, value))
    if head.header(b"transfer-encoding"):
        headers.append((b"Transfer-Encoding", b"chunked"))
    headers.append((b"Via", f"{head.http_version} {NAME}".encode("ascii")))
    headers.append((b"Connection", b"close"))
    return headers


def _response_headers(response: h11.Response) -> Headers:
    chunked = any(key == b"transfer-encoding" for key, _ in response.headers)
    headers = _end_to_end(response.headers.raw_items())
    if chunked:  # it overrides a Content-Length (RFC 9112 §6.3), which would be false without it
        headers = [(k, v) for k, v in headers if k.lower() != b"content-length"]
    version = response.http_version.decode("ascii")
    return [*headers, (b"Via", f"{version} {NAME}".encode("ascii"))]
