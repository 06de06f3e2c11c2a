"""A clock that was ahead and is set back: what was done meanwhile is dated in the future, and is done anew."""

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from lab import until
from pki import TestCA
from storeroom import NAME, Room
from test_contexts import Clock
from test_downloads import downloads
from test_store import PEM

from contexts import LOOK_SECONDS, ContextCache
from workers import Workers


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.mark.parametrize("days", [1, 30])
def test_a_clock_that_was_ahead_and_is_set_back(room: Room, clock: Clock, days: int) -> None:
    """A leaf that is not valid yet is not served, and files are checked as before."""
    contexts = ContextCache(2, room.leaves, Workers(), clock)
    clock.advance(days=days)
    made = contexts.get(NAME)
    clock.advance(days=-days)
    present = contexts.get(NAME)
    assert made
    assert present
    assert (present is made) is (days == 1)
    assert present.not_before <= clock.time < present.not_after
    room.place(TestCA("operator").issue(NAME))
    clock.advance(seconds=LOOK_SECONDS)
    contexts.find(NAME)
    until(lambda: contexts.find(NAME) is not present)
    placed = contexts.find(NAME)
    assert placed
    assert not placed.ours


def test_a_renewal_that_failed_while_the_clock_was_ahead_is_tried_again(
    room: Room, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    contexts = ContextCache(2, room.leaves, Workers(), clock)
    made = contexts.get(NAME)
    serial = room.folder / "serial.txt"
    serial.write_text("x")
    clock.advance(days=44)
    contexts.renew()
    assert f"the present certificate for {NAME} stays in use" in caplog.text
    serial.write_text("5\n")
    clock.advance(days=-10)
    contexts.renew()
    assert contexts.find(NAME) is not made


def test_a_wont_do_while_the_clock_was_ahead(room: Room, clock: Clock) -> None:
    contexts = ContextCache(2, room.off, Workers(), clock)
    clock.advance(days=30)
    assert contexts.get(NAME) is None
    clock.advance(days=-30)
    room.place(TestCA("x").issue(NAME))
    assert contexts.get(NAME)


def test_the_crl_of_a_clock_that_was_ahead_and_is_set_back(tmp_path: Path) -> None:
    clock = Clock()
    offered = downloads(tmp_path, TestCA("op"), clock)
    clock.advance(days=30)
    offered.revocation_list()
    clock.advance(days=-30)
    crl = x509.load_der_x509_crl(offered.revocation_list())
    assert crl.last_update_utc < datetime.fromtimestamp(clock.time, UTC)


def test_a_use_that_was_noted_by_a_clock_that_was_ahead(room: Room) -> None:
    saved = room.store.save("a.example", PEM)
    assert saved is not None
    os.utime(saved.path, (1e6, 1e6))
    room.store.touch(saved, 1000)
    assert saved.path.stat().st_mtime == 1000
