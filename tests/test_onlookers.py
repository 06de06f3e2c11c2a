import base64
from pathlib import Path

import pytest
from test_users import ALICE, line

from access import Access
from errors import AuthenticationRequired, CertifierError, Refused
from localaddress import same_endpoint
from names import Target
from onlookers import Onlookers, Visit, hosts_of
from patterns import networks
from policy import Policy, Rules
from users import Users

PASSWORD = "Basic " + base64.b64encode(b":".join(ALICE)).decode()
WRONG = "Basic " + base64.b64encode(b"alice:guess").decode()


def visit(ip: str = "127.0.0.1", called: str = "127.0.0.1:8080", **fields: str) -> Visit:
    sent = {name.replace("_", "-").encode(): value for name, value in fields.items()}
    return Visit("GET", "/state", ip, called, Target("127.0.0.1", 8080), lambda name: sent.get(name, ""))


def verdict(onlookers: Onlookers, asked: Visit) -> type[CertifierError] | None:
    try:
        onlookers.check(asked)
    except CertifierError as error:
        return type(error)
    return None


def with_users(tmp_path: Path, rules: Rules | None = None) -> Onlookers:
    (tmp_path / "users").write_bytes(line(*ALICE))
    return Onlookers(Access(Policy(rules or Rules(), same_endpoint), Users(tmp_path / "users")))


@pytest.mark.parametrize(
    ("ip", "allowed"),
    [
        ("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("::ffff:127.0.0.1", True), ("10.0.0.1", False),
        ("192.0.2.1", False), ("::", False), ("fe80::1%eth0", False), ("2001:db8::1", False), ("", False),
    ],
)  # fmt: skip
def test_without_users_it_is_for_this_machine(ip: str, allowed: bool) -> None:
    onlookers = Onlookers(Access(Policy(Rules(), same_endpoint), None))
    assert (verdict(onlookers, visit(ip)) is None) == allowed


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("127.0.0.1:8080", True), ("localhost", True), ("LOCALHOST:8080", True), ("[::1]:8080", True), ("", True),
        ("192.0.2.1", True), ("proxy.lan:8080", True), ("evil.example:8080", False), ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False), ("evil-.example", False), ("e vil", False), ("localhost:", True),
        ("127.0.0.1@evil.example", False), ("0x7f.1", False), ("evil.example:", False),
    ],
)  # fmt: skip
def test_a_name_that_may_be_another_sites_is_refused(host: str, allowed: bool) -> None:
    access = Access(Policy(Rules(), same_endpoint), None)
    onlookers = Onlookers(access, hosts_of((Target("proxy.lan", 8080), Target("127.0.0.1", 0))))
    assert verdict(onlookers, visit(called=host)) is (None if allowed else Refused)


@pytest.mark.parametrize(
    ("site", "allowed"),
    [("", True), ("none", True), ("same-origin", True), ("same-site", False), ("cross-site", False)],
)
def test_another_sites_page_is_refused(site: str, allowed: bool) -> None:
    onlookers = Onlookers(Access(Policy(Rules(), same_endpoint), None))
    asked = visit(sec_fetch_site=site)
    assert verdict(onlookers, asked) is (None if allowed else Refused)
    onlookers.check_client(asked)


@pytest.mark.parametrize("ip", ["127.0.0.1", "192.0.2.1"])
def test_with_users_it_is_for_them_wherever_they_are(tmp_path: Path, ip: str) -> None:
    onlookers = with_users(tmp_path)
    assert verdict(onlookers, visit(ip)) is AuthenticationRequired
    assert verdict(onlookers, visit(ip, authorization=WRONG)) is AuthenticationRequired
    assert verdict(onlookers, visit(ip, authorization="Bearer x")) is AuthenticationRequired
    assert verdict(onlookers, visit(ip, authorization=PASSWORD)) is None
    assert verdict(onlookers, visit(ip, proxy_authorization=PASSWORD)) is None
    # Whatever the Host: no browser sends our password to a site of another name.
    assert verdict(onlookers, visit(ip, authorization=PASSWORD, called="proxy.example")) is None
    # But it sends the proxy's password with every request of a page, even for a name that was made to resolve to us.
    assert verdict(onlookers, visit(ip, proxy_authorization=PASSWORD, called="evil.example")) is AuthenticationRequired
    assert verdict(onlookers, visit(ip, authorization=PASSWORD, sec_fetch_site="cross-site")) is Refused


def test_networks_that_may_not_use_the_proxy_may_not_look(tmp_path: Path) -> None:
    rules = Rules(clients=networks("--allow-from", ("192.0.2.0/24",)))
    onlookers = with_users(tmp_path, rules)
    assert verdict(onlookers, visit("192.0.2.1", authorization=PASSWORD)) is None
    assert verdict(onlookers, visit("198.51.100.1", authorization=PASSWORD)) is Refused
