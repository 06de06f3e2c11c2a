"""The fuzz targets: for each of our parsers, a function that takes octets and returns nothing.

It feeds them to the parser and asserts what must hold of the result for any input. The exceptions that the parser is
documented to raise are named in ``@target``; any other that escapes is a finding. ``run.py`` searches for such inputs,
``tests/test_fuzz.py`` replays the corpus.
"""

# ruff: noqa: E402 - as in the program: gevent first
from gevent import monkey

monkey.patch_all()

import base64
import contextlib
import io
import socket
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Protocol, TypeVar

import decoders  # noqa: F401 - registers further targets
import h11
from cryptography import x509
from ground import NOW, Ground
from registry import TARGETS as TARGETS
from registry import corpus as corpus
from registry import target

import ca
import certificates
import certifier
import certlint
import fields
import flight
import leaf
import names
import options
import signer
import tlsconfig
import users
from certificates import Unreadable
from commandline import CommandLine
from errors import CertifierError, ClientError, NotServable, RetrievalError, UsageError
from exchange import Connection
from forward import Forwarding
from head import HeadReader, RequestHead, http_target
from hello import HelloReader
from leaf import Unusable
from ledger import Ledger
from log import escape
from meter import Meter
from names import Target
from patterns import Patterns, networks
from policy import Policy, Rules, is_private
from record import Record
from recorder import Recorder
from serials import SerialFile
from sight import Chorus
from signer import Authority
from stored import MARK, Stored

T_co = TypeVar("T_co", covariant=True)

_MOST_HELLO, _MOST_HEAD = 2048, 1024  # limits that short inputs can exceed
_GROUND = Ground()


class _Reader(Protocol[T_co]):
    def receive(self, data: bytes, /) -> T_co | None: ...


def _in_segments(data: bytes) -> list[bytes]:
    """Segment the octets after the first one, which is the size of a segment."""
    size = (data[0] if data else 0) or len(data) or 1
    return [data[start : start + size] for start in range(1, len(data), size)]


def _longest(segments: list[bytes]) -> int:
    return max(map(len, segments), default=0)


def _outcome(reader: _Reader[T_co], segments: Iterable[bytes]) -> T_co | type[ClientError] | None:
    """The result, None if more is needed, or ``ClientError``: which error it is may depend on the segmentation."""
    try:
        return next((found for segment in segments if (found := reader.receive(segment)) is not None), None)
    except ClientError:
        return ClientError


# What clients and origins send


@target()
def hello(data: bytes) -> None:
    reader = HelloReader(_MOST_HELLO)
    segments = _in_segments(data)
    found = _outcome(reader, segments)
    assert found == _outcome(HelloReader(_MOST_HELLO), [data[1:]])
    assert len(reader.wire) <= 2 * _MOST_HELLO + _longest(segments)
    if found is None or isinstance(found, type):
        return
    assert data[1:].startswith(reader.wire)
    name = Policy(Rules(), lambda *_: False).name_for(found.server_name, "connect.example")
    assert names.dns_name(name) == name
    assert all(0 < len(protocol) < 256 for protocol in found.alpn_protocols)
    assert escape(found.server_name).isprintable()


@target()
def origins_flight(data: bytes) -> None:
    flight.wants_certificate(data)


@target(ClientError)
def head(data: bytes) -> None:
    reader = HeadReader(_MOST_HEAD)
    segments = _in_segments(data)
    found = _outcome(reader, segments)
    whole = _outcome(HeadReader(_MOST_HEAD), [data[1:]])
    assert type(found) is type(whole)
    assert len(reader.rest) <= _MOST_HEAD + _longest(segments)
    if isinstance(found, RequestHead) and isinstance(whole, RequestHead):
        assert (found.method, found.target, found.headers) == (whole.method, whole.target, whole.headers)
        if found.method != "CONNECT":
            _pass_on(found)


def _pass_on(found: RequestHead) -> None:
    """What is forwarded must be a request that can be written, and that parses as the same request."""
    where, path = http_target(found.target, found.method)
    found = replace(found, headers=fields.addressed(found.headers, where))
    request = h11.Request(method=found.method, target=path, headers=fields.for_origin(found))
    written = h11.Connection(h11.CLIENT).send(request)
    assert written is not None
    again = HeadReader(4 * _MOST_HEAD).receive(written)
    assert again is not None
    assert (again.method, again.target, again.has_body) == (found.method, path, found.has_body)
    assert again.header(b"host") == found.header(b"host")


@target(ClientError)
def request_target(data: bytes) -> None:
    where, path = http_target(data.decode("latin-1"))
    assert path.startswith("/")
    assert http_target(f"http://{where}{path}") == (where, path)


@target(CertifierError, OSError)
def exchange(data: bytes) -> None:
    """An exchange: the client's octets and, after three NULs, the origin's, which receives at most one request."""
    request, _, response = data.partition(b"\0\0\0")
    reader = HeadReader()
    found = reader.receive(request)
    if found is None or found.method == "CONNECT":
        return
    where, path = http_target(found.target, found.method)
    found = replace(found, headers=fields.addressed(found.headers, where))
    recorder = Recorder(Connection("a:1", "b:1", "http", str(where)), Chorus(()))
    told = recorder.request(found.method, str(where), path, found.http_version, found.headers)
    client, user = socket.socketpair()
    origin, server = socket.socketpair()
    with client, user, origin, server:
        server.sendall(response)
        user.shutdown(socket.SHUT_WR)
        server.shutdown(socket.SHUT_WR)
        whole = False
        try:
            forwarding = Forwarding(client, origin, found, Record("fuzz"), recorder, told, Meter())
            whole = forwarding.run(where, path, bytes(reader.rest)) is not None
        finally:
            origin.close()
            seen = b"".join(iter(lambda: server.recv(65_536), b""))
            if seen:
                check_request(seen, whole)


def check_request(seen: bytes, whole: bool = True) -> bool:
    """Assert that what an origin received is one unambiguously framed request, and nothing else.

    Returns whether it is complete, which it must be if ``whole``.
    """
    reader = HeadReader(1 << 20)
    found = reader.receive(seen)
    assert found is not None, seen
    keys = [name.lower() for name, _ in found.headers]
    assert keys.count(b"host") == 1, seen
    assert keys.count(b"content-length") + keys.count(b"transfer-encoding") <= 1, seen
    connection = found.connection
    assert connection is not None, seen  # no CONNECT
    if reader.rest:
        connection.receive_data(bytes(reader.rest))
    event = connection.next_event()
    while isinstance(event, h11.Data):
        event = connection.next_event()
    ended = isinstance(event, h11.EndOfMessage)
    assert ended or not whole, seen
    assert not (ended and connection.trailing_data[0]), seen
    return ended


# Names


@target()
def name(data: bytes) -> None:
    found = names.host_name(data.decode("latin-1"))
    if found is not None:
        assert names.host_name(found) == found
        path = _GROUND.store.path(found)
        assert path is None or path.parent.parent == _GROUND.store.root
        assert escape(found) == found
        is_private(found)
        _GROUND.take_server_name(found)


@target(ClientError)
def host_and_port(data: bytes) -> None:
    found = names.target(data.decode("latin-1"), lowest_port=0)
    assert names.target(str(found), lowest_port=0) == found


@target()
def certificate_for(data: bytes) -> None:
    """A certificate can be issued for every name, and is valid for it."""
    found = names.host_name(data.decode("latin-1"))
    if found is not None:
        key, csr = signer.request(found, _GROUND.key)
        pem = _GROUND.authority.sign(csr, found, NOW, [])
        made, _ = leaf.read(Stored(pem + key, True, Path()), found, NOW)
        tlsconfig.server_context(made.pem)


# What the operator writes


@target(UsageError)
def patterns(data: bytes) -> None:
    texts = [text for text in data.decode("latin-1").split("\n") if not text.startswith("@")]
    with contextlib.suppress(UsageError):
        networks("--allow-from", texts)
    listed = Patterns("--deny", texts)
    for text in texts:
        if (found := names.host_name(text)) is not None:
            assert listed.host(Target(found, 1))


@target(UsageError)
def patterns_file(data: bytes) -> None:
    listed = Patterns("--allow", [f"@{_GROUND.file('patterns', data)}"])
    assert listed.host(Target("www.example.com", 1)) in (True, False)


@target()
def credentials(data: bytes) -> None:
    found = users.credentials_in(data.decode("latin-1"))
    assert found is None or (b":" not in found[0] and b"\0" not in found[1])


@target(UsageError, SystemExit)  # --help and --version exit
def command_line(data: bytes) -> None:
    words = data.replace(b"\0", b"").decode("utf-8", "surrogateescape").split("\n")
    with contextlib.redirect_stdout(io.StringIO()):
        options.proxy_options(CommandLine(certifier.__doc__ or "", words, "fuzz"))


# What is on the disk


@target(Unusable)
def stored(data: bytes) -> None:
    """``KEY`` stands for the key of the corpus's certificates."""
    pem = data.replace(b"KEY\n", _GROUND.key_pem)
    found, (certificate, *behind) = leaf.read(Stored(pem, pem.startswith(MARK), Path()), "a.example", NOW)
    assert found.renew_at <= found.not_after
    _GROUND.authority.fault(certificate, behind)
    with contextlib.suppress(NotServable):
        tlsconfig.server_context(found.pem)


@target(Unusable)
def stored_der(data: bytes) -> None:
    """The same, with DER in place of PEM, so that Base64 does not hinder the fuzzer."""
    stored(_pem(data) + _GROUND.key_pem)


@target(Unreadable)
def judged(data: bytes) -> None:
    """What ``check`` says about a certificate, given as DER."""
    certificate = certificates.first(_pem(data))
    list(certlint.of_any(certificate))
    list(certlint.of_leaf(certificate))
    if certificates.extension(certificate, x509.BasicConstraints) is not None:
        list(certlint.of_ca(certificate))


def _pem(der: bytes) -> bytes:
    return b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(der) + b"-----END CERTIFICATE-----\n"


@target(UsageError)
def ca_certificate(data: bytes) -> None:
    path, key = _GROUND.file("ca.crt", data.replace(b"KEY\n", b"")), _GROUND.file("ca.key", _GROUND.key_pem)
    files = ca.load(path, key, _GROUND.file("serial.txt", b"1\n"), NOW)
    files.expiry_warning(NOW)
    with contextlib.suppress(RetrievalError):
        Authority(files, _GROUND.ledger).revocation_list(NOW)


@target(RetrievalError)
def serial_file(data: bytes) -> None:
    serials = SerialFile(_GROUND.file("serial", data))
    before = serials.peek()
    (taken,) = serials.take(_GROUND.ledger, [])
    assert before <= taken < serials.peek()


@target(RetrievalError)
def ledger(data: bytes) -> None:
    """The ledger's file and, after a NUL, a certificate in the store, with any content."""
    kept, _, pem = data.partition(b"\0")
    store = _GROUND.file("store/abc/a.crt", pem).parent.parent
    ours = Ledger(store, _GROUND.files.certificate)
    ours.note(1)
    _GROUND.file(next(store.glob(".serials/*")), kept)
    serials = SerialFile(_GROUND.file("serial", b"7\n"))
    serials.prepare(ours, print)
    assert serials.take(ours, [])[0] > 0
    assert ours.highest() > 0
