"""HTTP/2 answers to a client's first request, as read by a real HTTP/2 client (h2)."""

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.settings
import pytest

import errors
import pages
from answering import Http2Reader, Http2Request
from errors import ClientError, OriginWantsCertificate

ERROR = OriginWantsCertificate("a.example wants\r\na client certificate\x1b[31m")


def client(*methods: str, first: int = 1) -> h2.connection.H2Connection:
    """A client that has sent requests, its first one on stream ``first``."""
    connection = h2.connection.H2Connection(h2.config.H2Configuration())
    connection.initiate_connection()
    for number, method in enumerate(methods):
        fields = [(":method", method), (":scheme", "https"), (":authority", "a.example"), (":path", "/")]
        connection.send_headers(first + 2 * number, fields, end_stream=method not in ("POST", "PUT"))
    return connection


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PURGE"])
@pytest.mark.parametrize("first", [1, 13])  # some clients use low streams for something else
def test_the_first_request(method: str, first: int) -> None:
    octets = client(method, "GET", first=first).data_to_send()
    assert Http2Reader().receive(octets) == Http2Request(first, method)
    reader = Http2Reader()
    by_octets = (reader.receive(bytes((octet,))) for octet in octets)
    assert next(request for request in by_octets if request) == Http2Request(first, method)
    assert Http2Reader().receive(client().data_to_send()) is None


@pytest.mark.parametrize(
    "octets",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        client().data_to_send() + bytes.fromhex("000001010400000001ff"),  # a block that can't be decoded
        client().data_to_send() + bytes.fromhex("000001090400000001") + b"x",  # a CONTINUATION without HEADERS
        client().data_to_send() + bytes.fromhex("ffffff010400000001"),  # a frame of 16 MiB
        client().data_to_send() + bytes.fromhex("000065010400000001") + b"\x20" * 100 + b"\x82",  # 101 octets
    ],
)
def test_what_is_no_request(octets: bytes) -> None:
    with pytest.raises(ClientError):
        Http2Reader().receive(octets)


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_the_answer(method: str) -> None:
    connection = client(method, "GET")
    connection.clear_outbound_data_buffer()
    events = connection.receive_data(pages.for_error_2(ERROR, 1, method == "HEAD"))
    response = next(event for event in events if isinstance(event, h2.events.ResponseReceived))
    fields = {name.decode(): value.decode() for name, value in response.headers}
    data = b"".join(event.data for event in events if isinstance(event, h2.events.DataReceived))
    body = b"certifier: a.example wants??a client certificate?[31m\n"
    assert data == (b"" if method == "HEAD" else body)
    assert fields[":status"] == "502"
    assert fields["content-length"] == str(len(body))
    assert fields["content-type"] == "text/plain; charset=utf-8"
    assert fields["x-content-type-options"] == "nosniff"
    assert fields["proxy-status"].startswith('certifier; error=tls_alert_received; details="a.example wants??a client')
    assert "connection" not in fields  # RFC 9113 §8.2.2
    assert any(isinstance(event, h2.events.StreamEnded) for event in events)
    goaway = next(event for event in events if isinstance(event, h2.events.ConnectionTerminated))
    assert (goaway.last_stream_id, goaway.error_code) == (1, h2.errors.ErrorCodes.NO_ERROR)


@pytest.mark.parametrize("size", [0, 100])
def test_the_answer_to_a_client_that_keeps_no_table(size: int) -> None:
    """No HPACK table, or a small one, as with libraries that save memory, or nghttp and ``--header-table-size=0``."""
    connection = client("GET")
    connection.update_settings({h2.settings.SettingCodes.HEADER_TABLE_SIZE: size})
    events = connection.receive_data(pages.for_error_2(ERROR, 1, False))
    response = next(event for event in events if isinstance(event, h2.events.ResponseReceived))
    assert dict(response.headers)[b":status"] == b"502"


def test_no_request_no_answer() -> None:
    events = client().receive_data(pages.for_error_2(ERROR, 0, False))
    assert any(isinstance(event, h2.events.ConnectionTerminated) for event in events)
    assert not any(isinstance(event, h2.events.ResponseReceived) for event in events)


@pytest.mark.parametrize("kind", [errors.OriginTimeout, errors.OutOfResources])
def test_fields_of_the_error(kind: type[errors.CertifierError]) -> None:
    events = client("GET").receive_data(pages.for_error_2(kind("x"), 1, False))
    fields = dict(next(event for event in events if isinstance(event, h2.events.ResponseReceived)).headers)
    assert fields[b":status"].decode() == str(kind.status)
    assert fields.get(b"retry-after", b"").decode() == kind.fields.get("Retry-After", "")
