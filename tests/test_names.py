import pytest
from hypothesis import given
from hypothesis import strategies as st

import names
from errors import ClientError
from names import Target

LABEL_63 = "a" * 63
NAME_253 = ".".join([LABEL_63] * 3 + ["b" * 61])


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("www.example.com", "www.example.com"),
        ("WWW.Example.COM.", "www.example.com"),
        ("localhost", "localhost"),
        ("_dmarc.example.com", "_dmarc.example.com"),
        ("a_b.example", "a_b.example"),
        ("xn--mnchen-3ya.de", "xn--mnchen-3ya.de"),
        ("1.2.3.example", "1.2.3.example"),
        ("a-", "a-"),
        (NAME_253, NAME_253),
        (NAME_253 + ".", NAME_253),
    ],
)
def test_dns_names(text: str, name: str) -> None:
    assert names.dns_name(text) == name


@pytest.mark.parametrize(
    "text",
    [
        "", ".", "..", "a..b", ".a", "a..", "../x", "a/b", "a\\b", "a\0b", "a\n", "a b", "-a.example", "b.-a.example",
        "_", "_.example.com", "a._.b", "*.example.com", "127.0.0.1", "127.1", "0x7f", "a.0x", "a.0xff", "2130706433",
        "::1", "[::1]", "a:1", "é.example", "ａ.example", "a" * 64, NAME_253 + "c", "a.b%00", "x" * 5000,  # noqa: RUF001
        "\u212aelvin.example",  # the Kelvin sign, whose lower case is k
    ],
)  # fmt: skip
def test_what_is_no_dns_name(text: str) -> None:
    assert names.dns_name(text) is None


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("::1", "::1"),
        ("0:0:0:0:0:0:0:1", "::1"),
        ("2001:DB8::A", "2001:db8::a"),
        ("::ffff:10.0.0.1", "10.0.0.1"),  # otherwise lists of IPv4 networks could be bypassed
        ("::ffff:a00:1", "10.0.0.1"),
        ("2001:0db8:0000:0000:0000:0000:192.168.100.200", "2001:db8::c0a8:64c8"),  # no address has a longer text
    ],
)
def test_addresses_are_canonical(text: str, name: str) -> None:
    assert names.host_name(text) == name


@pytest.mark.parametrize("text", ["fe80::1%eth0", "127.1", "0177.0.0.1", "1.2.3.4.5", "::g", "[::1]"])
def test_what_is_no_host(text: str) -> None:
    assert names.host_name(text) is None


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("example.com:443", "example.com", 443),
        ("[::1]:8443", "::1", 8443),
        ("127.0.0.1:1", "127.0.0.1", 1),
        ("EXAMPLE.com.:65535", "example.com", 65535),
    ],
)
def test_targets(text: str, host: str, port: int) -> None:
    assert names.target(text) == Target(host, port)
    assert names.target(str(Target(host, port))) == Target(host, port)


@pytest.mark.parametrize(
    "text",
    [
        "", ":", "a", "a:", ":443", "a:0", "a:65536", "a:-1", "a:+1", "a: 1", "a:1 ", "a:٣", "a:443:443", "::1:443",
        "[::1]", "[::1]443", "[a]:443", "[127.0.0.1]:443", "a/b:443", "u@a:443", "a\r\nb:443",
        "http://a:80", "a:4430000", "[::1:443", "[::12:443", "::1]:443", "1::1]:443", "[[::1]:443", "a:443\n",
        "[fe80::1%eth0]:443",
    ],
)  # fmt: skip
def test_malformed_targets(text: str) -> None:
    with pytest.raises(ClientError, match="not a valid host and port"):
        names.target(text)


def test_what_is_said_of_a_malformed_target_has_no_password() -> None:
    with pytest.raises(ClientError, match=r"^not a valid host and port: it has user information$"):
        names.target("alice:s3cret@a:443")
    with pytest.raises(ClientError, match=r"^not a valid host and port: 'a:443:443'$"):
        names.target("a:443:443")


def test_the_default_port() -> None:
    assert names.target("a", default_port=80) == Target("a", 80)
    assert names.target("a:81", default_port=80) == Target("a", 81)
    assert names.target("[::1]", default_port=80) == Target("::1", 80)
    assert names.target("a:", default_port=80) == Target("a", 80)  # RFC 3986 §3.2.3
    assert names.target("[::1]:", default_port=80) == Target("::1", 80)
    with pytest.raises(ClientError):
        names.target("a::", default_port=80)


@given(st.text(max_size=300))
def test_a_name_is_safe_and_canonical_or_none(text: str) -> None:
    name = names.host_name(text)
    if name is not None:
        assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789._-:")
        assert len(name) <= 253
        assert not name.startswith((".", "-"))
        assert names.host_name(name) == name
