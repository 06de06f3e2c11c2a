import os
import re
import time
import timeit
from functools import partial
from ipaddress import ip_address, ip_network
from itertools import product
from pathlib import Path

import pytest

from errors import Misdirected, Refused, UsageError
from localaddress import same_endpoint
from names import Target
from patterns import Patterns, networks
from policy import Mismatch, Policy, Rules, is_private


def patterns(*texts: str) -> Patterns:
    return Patterns("--allow", texts)


def policy(**rules: object) -> Policy:
    return Policy(Rules(**rules), same_endpoint)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("pattern", "inside", "outside"),
    [
        ("a.example", ["a.example:1"], ["b.a.example:1", "example:1", "xa.example:1"]),
        ("A.Example.", ["a.example:1"], ["b.example:1"]),
        ("*.example", ["a.example:1", "b.a.example:1"], ["example:1", "xexample:1", "10.0.0.1:1"]),
        ("*", ["a:1", "10.0.0.1:1", "[::1]:1"], []),
        ("*:443", ["a:443"], ["a:444"]),
        ("a.example:443", ["a.example:443"], ["a.example:444"]),
        ("*.example:443", ["a.example:443"], ["a.example:80", "example:443"]),
        ("10.0.0.0/8", ["10.255.1.2:9"], ["11.0.0.1:9", "a10.example:9", "[::a]:1"]),
        ("10.0.0.0/8:25", ["10.1.1.1:25"], ["10.1.1.1:26"]),
        ("127.0.0.1", ["127.0.0.1:9", "[::ffff:127.0.0.1]:1"], ["127.0.0.2:9"]),
        ("::1", ["[::1]:9"], ["[::2]:9", "0.0.0.1:9"]),
        ("[2001:db8::/32]:443", ["[2001:db8::1]:443"], ["[2001:db8::1]:80", "[2001:db9::1]:443"]),
        ("::ffff:0:0/96", ["0.0.0.0:1", "255.255.255.255:1"], ["[::1]:1", "[::fffe:0:0]:1"]),
        ("::fffe:0:0/95", ["[::fffe:ffff:ffff]:1"], ["10.0.0.1:1"]),
        ("a.example:1", ["a.example:1"], ["a.example:2"]),
        ("a.example:65535", ["a.example:65535"], ["a.example:65534"]),
    ],
)
def test_patterns(pattern: str, inside: list[str], outside: list[str]) -> None:
    from names import target

    found = patterns(pattern)
    assert not found.is_empty
    for text in inside:
        assert found.host(target(text)), text
    for text in outside:
        assert not found.host(target(text)), text


@pytest.mark.parametrize(
    "text",
    ["", "a b", "*a.example", "a.*", "10.0.0.1/8", "x:0", "x:65536", "http://x", "*.", "[x]", "[::1", "1::1]", "@"],
)
def test_what_is_no_pattern(text: str) -> None:
    with pytest.raises(UsageError, match="--allow"):
        patterns(text)


def test_an_address_need_be_in_one_of_several_networks_only() -> None:
    found = patterns("10.0.0.0/8", "192.0.2.0/24:443")
    assert found.address(("10.1.2.3", 1))
    assert found.address(("192.0.2.1", 443))
    assert not found.address(("192.0.2.1", 1))
    assert found.host(Target("192.0.2.1", 443))


@pytest.mark.parametrize(
    ("base", "length"),
    [*product(["192.0.2.129"], [0, 1, 31, 32]), *product(["2001:db8::8001"], [0, 1, 31, 32, 96, 127, 128])],
)
def test_networks_of_all_lengths(base: str, length: int) -> None:
    address = ip_address(base)
    network = ip_network((address, length), strict=False)
    found = patterns(str(network))
    for bit in range(address.max_prefixlen):
        other = type(address)(int(address) ^ 1 << bit)
        assert found.address((str(other), 1)) == (other in network)
    assert not found.address(("::1" if address.version == 4 else "127.0.0.1", 1))


def test_a_long_list_of_networks_costs_what_a_short_one_does() -> None:
    """Every connection is checked, at least once for each of its addresses."""
    prices = []
    for count in (10, 50_000):
        found = patterns(*(f"{ip_address(number << 8)}/24" for number in range(0xA0000, 0xA0000 + count)))
        assert found.address(("10.0.1.2", 1))
        asked = partial(found.address, ("9.1.2.3", 1))
        prices.append(min(timeit.repeat(asked, timer=time.process_time, number=100)))
    assert prices[1] < 50 * prices[0]  # a linear scan would cost 5,000 times as much


def test_lists_in_files(tmp_path: Path) -> None:
    path = tmp_path / "list"
    path.write_text("# hosts\n\na.example  # the first\n*.b.example:443\n")
    found = patterns(f"@{path}", "c.example")
    for target in (Target("a.example", 1), Target("x.b.example", 443), Target("c.example", 1)):
        assert found.host(target)
    assert not found.host(Target("d.example", 1))
    path.write_text("\ufeffa.example\n", encoding="utf-8")  # as saved by an editor that writes a byte order mark
    assert patterns(f"@{path}").host(Target("a.example", 1))
    path.write_text("# hosts\n\na.example\nno host\n")
    told = re.escape(f"--allow=@{path}: line 4: 'no host' is not a host")  # which of 100,000
    with pytest.raises(UsageError, match=told):
        patterns(f"@{path}")
    with pytest.raises(UsageError, match=r"^--allow: 'no host' is not a host"):
        patterns("no host")
    path.write_text("x" * 1_000_000)
    with pytest.raises(UsageError, match=r"'x{100}\.\.\.' is not a host"):  # cut to fit a log line
        patterns(f"@{path}")
    path.write_text("a.example  #" + "x" * 1_000_000)
    assert patterns(f"@{path}").host(Target("a.example", 1))
    path.write_text("# hosts\n")
    assert patterns(f"@{path}").is_empty
    path.write_bytes(b"\xff")
    os.mkfifo(tmp_path / "fifo")
    opened = len(os.listdir("/dev/fd"))
    for bad, reason in (
        (path, "not UTF-8"),
        (tmp_path / "none", "No such file or directory"),
        (tmp_path, "Is a directory"),
        (tmp_path / "fifo", "It is a pipe"),
        ("/dev/zero", "a line of 1048576 characters"),
    ):
        with pytest.raises(UsageError, match=f"can't read {re.escape(str(bad))}: {reason}"):
            patterns(f"@{bad}")
    assert len(os.listdir("/dev/fd")) == opened  # each reload would lose one


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("192.168.1.5/24", "192.168.1.0/24"),
        ("192.168.1.5/24:443", "192.168.1.0/24:443"),
        ("[fd00::1/64]:443", "[fd00::/64]:443"),
    ],
)
def test_an_address_with_a_prefix_is_not_a_network_but_nearly(text: str, meant: str) -> None:
    with pytest.raises(UsageError, match=re.escape(f"such as 10.0.0.0/8; did you mean {meant}?")):
        patterns(text)
    if not text.endswith(":443"):
        with pytest.raises(UsageError, match=re.escape(f"fd00::/8; did you mean {meant}?")):
            networks("--allow-from", [text])


@pytest.mark.parametrize("text", ["192.168.1.0/33", "192.168.1.0/24:99999", "no host"])
def test_what_else_is_no_pattern_is_not_guessed_at(text: str) -> None:
    with pytest.raises(UsageError, match=r"such as 10\.0\.0\.0/8$"):
        patterns(text)


def test_clients_by_network() -> None:
    rules = policy(clients=networks("--allow-from", ["10.0.0.0/8", "fe80::/10"]))
    for ip in ("10.1.2.3", "::ffff:10.1.2.3", "fe80::1%eth0"):
        rules.check_client(ip)
    for ip in ("11.0.0.1", "::1", "no address"):
        with pytest.raises(Refused):
            rules.check_client(ip)
    policy().check_client("anything")
    with pytest.raises(UsageError, match="--allow-from=x: not a network"):
        networks("--allow-from", ["x"])


def test_mapped_addresses_are_those_of_ipv4() -> None:
    for pattern in ("::ffff:127.0.0.1", "[::ffff:127.0.0.1]:443", "::ffff:127.0.0.0/104"):
        denied = policy(deny=patterns(pattern))
        with pytest.raises(Refused):
            denied.check_target(Target("127.0.0.1", 443))
        denied.check_target(Target("128.0.0.1", 443))
    clients = policy(clients=networks("--allow-from", ["::ffff:10.0.0.0/104"]))
    clients.check_client("10.1.2.3")
    with pytest.raises(Refused):
        clients.check_client("11.0.0.1")


def test_ports() -> None:
    rules = policy(ports=(range(80, 81), range(1024, 65536)))
    rules.check_target(Target("a", 80))
    rules.check_target(Target("a", 1024))
    for port in (25, 443, 1023):
        with pytest.raises(Refused, match="--ports"):
            rules.check_target(Target("a", port))


def test_deny_by_name_and_by_address() -> None:
    rules = policy(deny=patterns("bad.example", "10.0.0.0/8"))
    for target in (Target("bad.example", 1), Target("10.1.1.1", 1)):
        with pytest.raises(Refused, match="denied"):
            rules.check_target(target)
    good = Target("good.example", 1)
    rules.check_target(good)
    assert rules.permitted(good, [("10.0.0.1", 1), ("192.0.2.1", 1)]) == [("192.0.2.1", 1)]  # the denied one is dropped
    with pytest.raises(Refused, match="none of its addresses is"):
        rules.permitted(good, [("10.0.0.1", 1)])
    with pytest.raises(Refused):
        rules.check_name("bad.example", good, None)
    rules.check_name("other.example", good, None)


def test_allow_by_name_or_by_address() -> None:
    rules = policy(allow=patterns("good.example", "192.0.2.0/24"))
    assert rules.permitted(Target("good.example", 1), [("10.0.0.1", 1)]) == [("10.0.0.1", 1)]
    addresses = [("10.0.0.1", 1), ("192.0.2.9", 1)]
    assert rules.permitted(Target("other.example", 1), addresses) == [("192.0.2.9", 1)]
    with pytest.raises(Refused):
        rules.permitted(Target("other.example", 1), [("10.0.0.1", 1)])
    rules.check_name("good.example", Target("192.0.2.1", 1), ("192.0.2.1", 1))
    rules.check_name("other.example", Target("192.0.2.1", 1), ("192.0.2.1", 1))
    rules.check_name("good.example", Target("192.0.2.1", 1), ("10.0.0.1", 1))
    for address in (("10.0.0.1", 1), None):
        with pytest.raises(Refused):
            rules.check_name("other.example", Target("good.example", 1), address)
    rules.check_allowed_name(Target("good.example", 1))
    with pytest.raises(Refused):
        rules.check_allowed_name(Target("other.example", 1))
    policy().check_allowed_name(Target("other.example", 1))


def test_what_is_not_allowed_by_name_is_refused_before_it_is_looked_up() -> None:
    """Otherwise a client that may reach nothing could still leak data through DNS, to a name server of its own."""
    with pytest.raises(Refused, match="is not allowed"):
        policy(allow=patterns("good.example")).check_target(Target("secret.evil.example", 443))
    policy(allow=patterns("good.example", "192.0.2.0/24")).check_target(Target("other.example", 443))


def test_bypass_by_a_server_name_only_where_there_is_no_other() -> None:
    rules = policy(bypass=patterns("bank.example", "192.0.2.0/24"))
    assert rules.bypasses(Target("bank.example", 443), None)
    assert rules.bypasses(Target("x.example", 443), ("192.0.2.1", 443))
    assert rules.bypasses(Target("198.51.100.1", 443), None, "bank.example")
    assert not rules.bypasses(Target("evil.example", 443), None, "bank.example")
    assert not rules.bypasses(Target("198.51.100.1", 443), None, "x.example")
    assert not rules.bypasses(Target("198.51.100.1", 443), None)
    assert not rules.bypasses(Target("x.example", 443), ("198.51.100.1", 443))
    assert not policy().bypasses(Target("bank.example", 443), None)


def test_mismatches() -> None:
    assert policy(mismatch=Mismatch.LOG).check_mismatch("server name", "a", "b") == "server name a is not b"
    told = policy(mismatch=Mismatch.LOG).check_mismatch("Host", "u:secret@b", "b")
    assert told == "Host b, with user information, is not b"
    with pytest.raises(Misdirected, match="server name a is not b"):
        policy(mismatch=Mismatch.DENY).check_mismatch("server name", "a", "b")


PRIVATE = [
    "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.1.1", "100.100.100.200",
    "192.0.0.192", "0.0.0.0", "255.255.255.255", "224.0.0.1", "::1", "::", "fe80::1", "fd00:ec2::254", "ff02::1",
    "::ffff:10.0.0.1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::a00:1", "2002:a00:1::", "2001:0:4136:e378:8000:63bf:f5ff:fffe",
    "168.63.129.16", "::7f00:1", "::ffff:0:7f00:1", "3fff::1", "5f00::1", "192.88.99.1", "fec0::1", "no address",
]  # fmt: skip
PUBLIC = ["8.8.8.8", "168.63.129.17", "2606:4700::1111", "64:ff9b::808:808", "::ffff:8.8.8.8"]


def test_private_addresses() -> None:
    assert [ip for ip in PRIVATE if not is_private(ip)] == []
    assert [ip for ip in PUBLIC if is_private(ip)] == []
    rules = policy(deny_private=True)
    target = Target("a.example", 1)
    assert rules.permitted(target, [("10.0.0.1", 1), ("8.8.8.8", 1)]) == [("8.8.8.8", 1)]
    with pytest.raises(Refused, match="--deny-private"):
        rules.permitted(target, [("169.254.169.254", 1)])


@pytest.mark.parametrize(
    ("denied", "address"),
    [
        ("127.0.0.0/8", "0.0.0.0"), ("127.0.0.0/8", "::ffff:0.0.0.0"), ("::1", "::"), ("0.0.0.0", "0.0.0.0"),
        ("192.0.2.0/24", "64:ff9b::192.0.2.1"), ("64:ff9b::/96", "64:ff9b::192.0.2.1"),
        ("127.0.0.0/8:443", "0.0.0.0"), ("[::1]:443", "::"), ("192.0.2.1:443", "64:ff9b::192.0.2.1"),
    ],
)  # fmt: skip
def test_an_address_that_leads_to_a_denied_one_is_denied_too(denied: str, address: str) -> None:
    found = policy(deny=Patterns("--deny", (denied,)))
    with pytest.raises(Refused):
        found.permitted(Target(address, 443), [(address, 443)])
    other = "8.8.8.8"
    assert found.permitted(Target(other, 443), [(other, 443)]) == [(other, 443)]
