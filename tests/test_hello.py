import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from errors import HelloError
from hello import ClientHello, HelloReader, is_old
from limits import Limits

MAX_HELLO = Limits().hello


def real_hello(
    name: str | None = "www.example.com", alpn: list[str] | None = None, context: ssl.SSLContext | None = None
) -> bytes:
    context = context or ssl.create_default_context()
    context.check_hostname = name is not None
    if alpn:
        context.set_alpn_protocols(alpn)
    out = ssl.MemoryBIO()
    tls = context.wrap_bio(ssl.MemoryBIO(), out, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return out.read()


def extension(kind: int, body: bytes) -> bytes:
    return kind.to_bytes(2) + len(body).to_bytes(2) + body


def server_name(*hosts: bytes) -> bytes:
    entries = b"".join(b"\0" + len(h).to_bytes(2) + h for h in hosts)
    return extension(0, len(entries).to_bytes(2) + entries)


def message(*extensions: bytes, padding: int = 0) -> bytes:
    block = b"".join(extensions) + (extension(21, bytes(padding)) if padding else b"")
    body = b"\3\3" + bytes(32) + b"\0" + b"\0\2\x13\1" + b"\1\0" + len(block).to_bytes(2) + block
    return b"\1" + len(body).to_bytes(3) + body


def records(handshake: bytes, size: int = 16_384) -> bytes:
    pieces = [handshake[i : i + size] for i in range(0, len(handshake), size)]
    return b"".join(b"\x16\3\1" + len(p).to_bytes(2) + p for p in pieces)


def old_hello(version: bytes = b"\3\3", unknown: int = 0, behind: bytes = b"") -> bytes:
    """A ClientHello in SSL 2.0 format (RFC 5246 §E.2) that offers AES-GCM with and without ECDHE."""
    ciphers = b"\0\x77\x77" * unknown + b"\0\xc0\x2f\0\xc0\x2b\0\0\x9c\0\0\xff"
    body = b"\1" + version + len(ciphers).to_bytes(2) + b"\0\0\0\x10" + ciphers + bytes(range(16)) + behind
    return (0x8000 + len(body)).to_bytes(2) + body


# Of the largest record, as OpenSSL and GnuTLS accept it; with an octet behind its parts, as GnuTLS does.
OLD_HELLOS = [old_hello(), old_hello(unknown=5449), old_hello(behind=b"x")]


def read(data: bytes, size: int = 1 << 20) -> ClientHello | None:
    reader = HelloReader(MAX_HELLO)
    found = None
    for start in range(0, len(data), size):
        assert found is None
        found = reader.receive(data[start : start + size])
    assert bytes(reader.wire) == data
    return found


@pytest.mark.parametrize("size", [1, 2, 7, 100, 1 << 20])
def test_a_real_hello_however_it_is_cut(size: int) -> None:
    found = read(real_hello(alpn=["h2", "http/1.1"]), size)
    assert found is not None
    assert found.server_name == "www.example.com"
    assert found.alpn_protocols == (b"h2", b"http/1.1")
    assert found.supported_versions == (0x0304, 0x0303)
    assert not found.encrypted_client_hello


def test_every_prefix_of_a_hello_needs_more() -> None:
    data = real_hello()
    for end in range(len(data)):
        assert HelloReader(MAX_HELLO).receive(data[:end]) is None


def test_bytes_behind_the_hello_are_kept() -> None:
    reader = HelloReader(MAX_HELLO)
    data = real_hello() + b"\x17\3\3\0\1x"
    assert reader.receive(data) is not None
    assert bytes(reader.wire) == data


@pytest.mark.parametrize("size", [1, 3, 50])
def test_over_many_records(size: int) -> None:
    data = records(message(server_name(b"a.example"), padding=2000), size)
    assert read(data) == read(data, 1) == ClientHello("a.example", (), ())


def test_without_server_name_and_without_extensions() -> None:
    found = read(real_hello(name=None))
    assert found is not None
    assert found.server_name is None
    body = b"\3\3" + bytes(32) + b"\0\0\2\x13\1\1\0"
    assert read(records(b"\1" + len(body).to_bytes(3) + body)) == ClientHello(None, (), ())


def test_empty_extensions_say_nothing() -> None:
    """OpenSSL, which is fed the same bytes, refuses those that may not be empty."""
    empty = [extension(kind, b"") for kind in (0, 10, 16, 43, 51)]
    assert read(records(message(*empty))) == ClientHello(None, (), ())


@pytest.mark.parametrize("name", [b"../../etc", b"a\0b", b"a\nb", b"\xff", b"x" * 300])
def test_hostile_names_come_out_as_sent(name: bytes) -> None:
    found = read(records(message(server_name(name))))
    assert found is not None
    assert found.server_name == name.decode("latin-1")


def test_names_of_another_type_are_no_host_names() -> None:
    entries = b"\1\0\1x" + b"\0\0\1a" + b"\2\0\0"
    found = read(records(message(extension(0, len(entries).to_bytes(2) + entries))))
    assert found == ClientHello("a", (), ())


def test_post_quantum_size_grease_and_ech() -> None:
    data = records(
        message(extension(0x0A0A, b"\0"), server_name(b"a.example"), extension(0xFE0D, bytes(200)), padding=6000)
    )
    found = read(data)
    assert found is not None
    assert found.encrypted_client_hello


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        b"\x16\2",
        b"\x16\3\1\0\0",  # an empty record
        b"\x16\3\1\xff\xff",  # a record that is too long
        records(b"\2\0\0\1x"),  # a ServerHello
        records(b"\2" + message()[1:]),
        records(b"\1" + (MAX_HELLO + 1).to_bytes(3)),
        records(message(server_name(b"a"), server_name(b"b"))),
        records(message(server_name(b"a", b"b"))),
        records(message(server_name(b""))),
        records(message(extension(0, b"\0\5\0\0\tab"))),
        records(message(extension(0, b"\0\4\0\0\1"), extension(0x0A0A, b""))),  # ends in another extension
        records(message(extension(16, b"\0\1\0"))),
        records(message(extension(16, b"\0\2\2a"), extension(0x0A0A, b""))),
        records(message(extension(16, b"\0\2\1"), extension(0x0A0A, b""))),
        records(message(extension(43, b"\3\3\4"))),
        records(message(extension(43, b"\4\3\4"), extension(0x0A0A, b""))),
        records(message(extension(43, b"\4\3\4\3"), extension(0x0A0A, b""))),
        records(message(extension(0x0A0A, b"abcd")[:-2])),
        records(b"\1\0\0\2\3\3"),
        records(b"\1\0\0\x32" + message(extension(0x0A0A, b"abcd"))[4:-1]),
        records(b"\1\0\0\x2d" + b"\3\3" + bytes(32) + b"\0\0\2\x13\1\1\0" + b"\0\0xx"),
    ],
)
def test_what_is_no_hello(data: bytes) -> None:
    for size in (1, len(data)):
        with pytest.raises(HelloError):
            read(data, size)


def test_the_limit_on_the_wire() -> None:
    reader = HelloReader(MAX_HELLO)
    reader.receive(b"\x16\3\1\0\4\1\0\xff\0")
    with pytest.raises(HelloError, match=rf"records are larger than {2 * MAX_HELLO} octets \(--max-hello\)"):
        reader.receive(b"\x16\3\1\0\1x" * (2 * MAX_HELLO // 6 + 1))
    reader = HelloReader(1024)
    assert reader.receive(b"\x16\3\1\x40\0\1" + bytes(2042)) is None  # a single record, not complete yet
    with pytest.raises(HelloError, match=r"records are larger than 2048 octets \(--max-hello\)"):
        reader.receive(b"x")


@pytest.mark.parametrize("second", [b"\x17", b"\x15", b"\x16\2"])
def test_what_comes_between_the_records_of_a_hello(second: bytes) -> None:
    whole = records(message(server_name(b"a.example")), 40)
    reader = HelloReader(MAX_HELLO)
    assert reader.receive(whole[:45]) is None
    with pytest.raises(HelloError, match="not a TLS handshake record"):
        reader.receive(second + whole[45 + len(second) :])


@pytest.mark.parametrize(
    "data",
    [*OLD_HELLOS, old_hello(b"\3\1"), old_hello(b"\x7f\0")],
    ids=["usual", "largest", "trailing", "TLS 1.0", "7F00"],
)
def test_the_form_of_ssl_2_is_known_as_soon_as_it_can_be(data: bytes) -> None:
    assert [is_old(data[:end]) for end in range(1, 20)] == [None] * 10 + [True] * 9


@pytest.mark.parametrize(
    ("other", "known"),
    [
        (b"\x7f", 1),
        (b"\xc1", 1),
        (b"\xc0\1", 2),  # longer than a record may be
        (b"\x80\x08", 2),  # too short
        (b"\x80\x35\2", 3),
        (b"\x94\0\1\xa4ping\x90", 6),  # MessagePack-RPC
        (b"\x80\x28\1\3\3\0\x10\0\0\0\x10", 11),  # its parts are longer than the whole
        (b"\x80\x19\1\3\3\0\0\0\0\0\x10", 11),  # without a cipher
    ],
)
def test_what_has_not_the_form_of_ssl_2_is_known_as_soon_as_it_can_be(other: bytes, known: int) -> None:
    found = [is_old(other[:end]) for end in range(1, len(other) + 1)]
    assert found == [None] * (known - 1) + [False] * (len(other) + 1 - known)


@pytest.mark.parametrize(
    ("shares", "groups", "finite"),
    [
        ((29, 0x0100), (0x0100, 29), False),  # the first share counts
        ((0x0100, 29), (29, 0x0100), True),
        ((0x7777, 0x01FF, 29), (29,), True),
        ((0x7777,), (0x0100, 0x0200, 25), False),  # without one, a curve is preferred
        ((4588, 0x0104), (4588, 0x0104), True),  # X25519MLKEM768, which OpenSSL has from 3.5 on
        ((4588,), (4588, 0x0104), True),
        ((), (4587, 4588, 4589, 0x0104), True),
        ((4588, 29, 0x0104), (4588, 0x0104, 29), False),
        ((4588,), (4588, 0x0104, 29), False),
        ((4588,), (4588,), False),
        ((), (0x7777, 0x0100), True),
        ((), (0x7777, 0x0200), False),
    ],
)
def test_the_kind_of_key_exchange(shares: tuple[int, ...], groups: tuple[int, ...], finite: bool) -> None:
    listed = b"".join(group.to_bytes(2) for group in groups)
    shared = b"".join(group.to_bytes(2) + b"\0\1x" for group in shares)
    found = read(
        records(
            message(extension(10, len(listed).to_bytes(2) + listed), extension(51, len(shared).to_bytes(2) + shared))
        )
    )
    assert found == ClientHello(None, (), (), finite_field=finite)


def test_the_limit_of_key_shares() -> None:
    """OpenSSL searches all groups for each share, so the work is their product."""
    groups = extension(10, b"\x7d\0" + b"\x77\x77" * 16_000)
    share = b"\x77\x77\0\1x"
    assert read(records(message(groups, extension(51, b"\1\xf4" + share * 100)))) == ClientHello(None, (), ())
    with pytest.raises(HelloError, match="more than 100 key shares"):
        read(records(message(groups, extension(51, b"\x7d\0" + share * 6400))))


def test_the_limit_of_a_hello() -> None:
    size = (MAX_HELLO + 1 - 4).to_bytes(3)
    with pytest.raises(HelloError, match=f"larger than {MAX_HELLO} octets"):
        HelloReader(MAX_HELLO).receive(b"\x16\3\1\0\4\1" + size)
    assert HelloReader(MAX_HELLO + 1).receive(b"\x16\3\1\0\4\1" + size) is None


@given(st.binary(max_size=200))
def test_garbage_in_a_record_raises_nothing_else(body: bytes) -> None:
    """Nor does the result depend on how the octets are split."""
    for data in (body, records(body), records(b"\1" + len(body).to_bytes(3) + body)):
        assert told([data]) == told([data[at : at + 1] for at in range(len(data))])


def told(pieces: list[bytes]) -> ClientHello | type[HelloError] | None:
    reader = HelloReader(MAX_HELLO)
    try:
        return next((found for piece in pieces if (found := reader.receive(piece)) is not None), None)
    except HelloError:
        return HelloError
