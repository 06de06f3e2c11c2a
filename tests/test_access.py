"""Names and passwords: guessing is slowed down, crowds nobody out, and costs what checking a user costs."""

import time
from pathlib import Path

import bcrypt
import gevent
import pytest
from gevent.monkey import get_original
from lab import WAIT, until
from test_policy import policy
from test_rules import b64
from test_users import line

import access
from access import Access
from errors import AuthenticationRequired, Refused, TooManyConnections
from patterns import networks
from turns import Turns
from users import Users


@pytest.fixture
def door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Access:
    monkeypatch.setattr(access, "FAILURE_SECONDS", 0.05)
    monkeypatch.setattr(access, "_WAITING", 2)
    (tmp_path / "users").write_bytes(line(b"alice", b"sesame"))
    return Access(policy(), Users(tmp_path / "users"))


def come(door: Access, pair: str, client: str = "192.0.2.1") -> str | None:
    return door.check(client, lambda: f"Basic {b64(pair)}")


def test_wrong_passwords_are_answered_late_and_use_nothing_up(door: Access) -> None:
    for _ in range(5):  # more than may be verified at once
        start = time.monotonic()
        with pytest.raises(AuthenticationRequired, match="is wrong"):
            come(door, "alice:guess")
        assert time.monotonic() - start >= 0.04
    assert come(door, "alice:sesame") == "alice"


def test_whoever_waits_for_the_reply_to_a_wrong_password_takes_no_place(
    door: Access, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a few who guess would keep all others out."""
    monkeypatch.setattr(access, "FAILURE_SECONDS", WAIT)
    asked = list[bytes]()
    check = bcrypt.checkpw

    def checkpw(password: bytes, hashed: bytes) -> bool:
        asked.append(password)
        return check(password, hashed)

    monkeypatch.setattr(bcrypt, "checkpw", checkpw)

    def passes() -> bool:
        try:
            return come(door, "alice:sesame", "192.0.2.2") == "alice"
        except TooManyConnections:
            return False

    wrong = [gevent.spawn(come, door, "alice:guess") for _ in range(2)]
    try:
        until(lambda: len(asked) == 2)  # they have taken both places
        until(passes)
        assert not any(each.ready() for each in wrong)
    finally:
        gevent.killall(wrong)


def test_a_verified_password_is_not_verified_again(door: Access, monkeypatch: pytest.MonkeyPatch) -> None:
    assert come(door, "alice:sesame") == "alice"
    monkeypatch.setattr(bcrypt, "checkpw", lambda *_: False)
    assert come(door, "alice:sesame") == "alice"
    with pytest.raises(AuthenticationRequired):
        come(door, "alice:guess")


def test_a_client_of_another_network_is_refused_whatever_it_knows(tmp_path: Path) -> None:
    (tmp_path / "users").write_bytes(line(b"alice", b"sesame"))
    door = Access(policy(clients=networks("--allow-from", ["192.0.2.0/24"])), Users(tmp_path / "users"))
    assert come(door, "alice:sesame") == "alice"
    for pair in ("alice:sesame", "alice:guess"):  # nor is it told which of the two is right
        with pytest.raises(Refused) as caught:
            come(door, pair, "198.51.100.1")
        assert not isinstance(caught.value, AuthenticationRequired)


@pytest.mark.parametrize("share", [1, 3])
def test_only_so_many_passwords_wait_to_be_verified(door: Access, monkeypatch: pytest.MonkeyPatch, share: int) -> None:
    """One client takes no more than its share of the places."""
    door._turns = Turns(2, share)
    least = min(share, 2)
    asked, go_on = list[bytes](), list[bool]()
    check, sleep = bcrypt.checkpw, get_original("time", "sleep")

    def slow(password: bytes, hashed: bytes) -> bool:
        asked.append(password)
        while not go_on:
            sleep(0.005)
        return check(password, hashed)

    monkeypatch.setattr(bcrypt, "checkpw", slow)
    first = [gevent.spawn(come, door, "alice:sesame") for _ in range(least)]
    until(lambda: len(asked) == least)
    try:
        with pytest.raises(TooManyConnections):
            come(door, "alice:sesame")
        if share == 1:
            first.append(gevent.spawn(come, door, "alice:sesame", "192.0.2.2"))
            until(lambda: len(asked) == 2)
        with pytest.raises(TooManyConnections):
            come(door, "alice:sesame", "192.0.2.3")
    finally:
        go_on.append(True)
    assert [each.get(timeout=WAIT) for each in first] == ["alice", "alice"]
    assert come(door, "alice:sesame") == "alice"
