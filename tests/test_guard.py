"""Requests whose Host differs from the name that was connected to, for each value of ``--mismatch``."""

from contextlib import nullcontext

import pytest
from test_policy import policy
from watching import connection

from errors import Misdirected
from exchange import Exchange
from guard import Guard
from policy import Mismatch
from record import Record
from recorder import Malformed


def guard(what: Mismatch) -> tuple[Guard, Record]:
    record = Record("192.0.2.1:1")
    return Guard(policy(mismatch=what), "a.example", record), record


def asks(authority: str) -> Exchange:
    return Exchange(connection(), "GET", authority, "/", "1.1", [], 0.0, 0.0)


@pytest.mark.parametrize("what", Mismatch)
@pytest.mark.parametrize("authority", ["b.example", "b.example:443", "no name", "", "a.example@b.example"])
def test_another_host(what: Mismatch, authority: str) -> None:
    """A malformed one counts as another host, too: an origin may read a name in it."""
    found, record = guard(what)
    for _ in range(3):
        found.request(asks(authority))
    assert (found.refusal is not None) == (what is Mismatch.DENY)
    with pytest.raises(Misdirected) if what is Mismatch.DENY else nullcontext():
        found.check()
    assert (record.remark or "").count("Host") == (what is Mismatch.LOG)  # once per tunnel


def test_when_a_client_that_is_refused_can_be_told() -> None:
    """In place of the one response that it awaits, as long as that has not begun."""
    found, _ = guard(Mismatch.DENY)
    assert found.answerable
    one, other = asks("a.example"), asks("b.example")
    found.request(one)
    assert found.answerable
    found.request(other)
    assert not found.answerable
    found.ended(one)
    assert found.answerable
    other.status = 200
    assert not found.answerable
    found.ended(other)
    assert found.answerable
    found.noted(connection(), "malformed request head", Malformed.CLIENT)
    assert found.answerable
    found.request(one)
    found.noted(connection(), "malformed request head", Malformed.CLIENT)
    found.ended(one)
    assert not found.answerable
    found.noted(connection(), "malformed request head", Malformed.CLIENT)
    assert not found.answerable


def test_what_the_client_is_told_is_the_status_of_the_request_that_awaits_a_response() -> None:
    found, _ = guard(Mismatch.DENY)
    ended, awaits = asks("a.example"), asks("b.example")
    found.request(ended)
    found.ended(ended)
    found.request(awaits)
    found.answered(421)
    assert (ended.status, awaits.status) == (None, 421)


def test_behind_what_is_no_response_nobody_can_be_told() -> None:
    found, _ = guard(Mismatch.ALLOW)
    found.noted(connection(), "malformed response: a response without a request", Malformed.ORIGIN)
    assert not found.answerable


@pytest.mark.parametrize("authority", ["a.example", "A.Example", "A.Example:443", "a.example.:8443"])
def test_the_same_host(authority: str) -> None:
    found, record = guard(Mismatch.DENY)
    found.request(asks(authority))
    assert (found.refusal, record.remark) == (None, None)


@pytest.mark.parametrize("what", Mismatch)
def test_what_cannot_be_decoded(what: Mismatch) -> None:
    found, record = guard(what)
    found.noted(connection(), "upgraded to websocket", None)
    assert found.refusal is None
    found.noted(connection(), "malformed request head", Malformed.CLIENT)
    assert (found.refusal is not None) == (what is Mismatch.DENY)
    assert record.remark
