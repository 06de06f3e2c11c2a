"""A name's turn: new names wait for it, or are refused; stored ones need none."""

import os
import time
from collections.abc import Iterable

import gevent
import pytest
from pki import key_pem, new_key
from storeroom import NAME, Room
from test_contexts import Clock, Counted, far_off

from admission import Turnstile
from contexts import ContextCache
from errors import RetrievalError, TooManyNames
from keys import KeyStock
from leaf import Unsettled
from leaves import Leaves
from limits import Limits
from retrieval import Retrieval, settled
from workers import Workers

LIMITS = Limits(new_names=8, client_new_names=1024)


def left(stile: Turnstile) -> int:
    """Take all turns that are available at once; return how many there were."""
    return next(number for number in range(100) if not stile.at_once("client"))


def test_a_new_name_is_made_once_its_turn_has_come(room: Room) -> None:
    clock = Clock()
    stile = Turnstile(LIMITS, clock)
    left(stile)
    leaves = Counted(room.store, room.leaves._authority)
    made = ContextCache(2, leaves, Workers(), turnstile=stile).get(NAME, "client")
    assert made is not None
    assert (made.source, leaves.count) == ("made", 1)  # nothing was stored, and nothing was read before its turn
    clock.advance(seconds=1 / LIMITS.new_names)
    assert left(stile) == 0  # the one that is due by now was taken


def test_who_has_a_turn_waits_for_no_lookup(room: Room) -> None:
    looked_up: list[str] = []

    class Looked(Leaves):
        def stored(self, names: Iterable[str]) -> set[str]:
            looked_up.extend(names)
            return super().stored(looked_up)

    leaves = Looked(room.store, room.leaves._authority, KeyStock("p256"))
    assert ContextCache(2, leaves, Workers()).get("a.example", "client")
    assert looked_up == []
    assert ContextCache(2, leaves, Workers(), turnstile=far_off()).get("a.example", "client")
    assert set(looked_up) == {"a.example"}


def test_what_is_stored_waits_for_no_turn_and_what_is_not_is_refused_at_once(room: Room) -> None:
    room.place(room.ca.issue(NAME))
    contexts = ContextCache(2, room.leaves, Workers(), turnstile=far_off())
    found = contexts.get(NAME, "client")
    assert found is not None
    assert found.source == "disk"
    with pytest.raises(TooManyNames):
        contexts.start("other.example", "client")  # does not even begin


def test_a_stored_one_that_cannot_be_served_waits_for_the_turn_of_the_one_that_takes_its_place(
    room: Room, caplog: pytest.LogCaptureFixture
) -> None:
    """What is told of it does not wait."""
    room.place(b"rubbish")
    clock = Clock()
    clock.advance(minutes=1)  # it is at rest by then
    contexts = ContextCache(2, room.leaves, Workers(), clock, far_off())
    with pytest.raises(TooManyNames):
        contexts.get(NAME, "client")
    assert [record.getMessage().rpartition("; ")[2] for record in caplog.records] == [
        f"moved aside as {room.path.name}.rejected"
    ]


def test_what_is_stored_gives_no_turn_back_where_none_was_taken(room: Room) -> None:
    room.place(room.ca.issue(NAME))
    stile = Turnstile(LIMITS, Clock())
    left(stile)
    assert ContextCache(2, room.leaves, Workers(), turnstile=stile).get(NAME, "client")
    assert left(stile) == 0


def test_only_a_client_without_a_turn_is_in_a_crowd(room: Room) -> None:
    stile = Turnstile(Limits(client_new_names=1), Clock())
    contexts = ContextCache(2, room.leaves, Workers(), turnstile=stile)
    left(stile)
    assert (contexts.crowded("client"), contexts.crowded("other")) == (True, False)


def test_a_wait_for_a_retrieval_that_does_not_end_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retrieval.RETRIEVAL_SECONDS", 0.01)
    with pytest.raises(RetrievalError, match="no certificate in time"):
        Retrieval().wait()


def test_others_go_on_between_two_attempts() -> None:
    placed: list[str] = []
    gevent.spawn(placed.append, "key")
    attempts: list[list[str]] = []

    def attempt() -> None:
        attempts.append([*placed])
        if len(attempts) == 1:
            raise Unsettled

    settled(attempt)
    assert attempts == [[], ["key"]]


def test_without_a_ca_nobody_waits_for_a_turn(room: Room) -> None:
    assert ContextCache(2, room.off, Workers(), turnstile=far_off()).get(NAME, "client") is None
    stile = Turnstile(LIMITS, Clock())
    assert ContextCache(2, room.off, Workers(), turnstile=stile).get(NAME, "client") is None
    assert left(stile) == left(Turnstile(LIMITS, Clock()))  # nor is one used up


@pytest.mark.parametrize(("source", "renewed", "taken"), [("made", False, 1), ("disk", False, 0), ("made", True, 1)])
def test_a_turn_is_given_back_that_was_taken_and_not_needed(room: Room, source: str, renewed: bool, taken: int) -> None:
    """A renewal takes no turn."""
    stile, clock = Turnstile(LIMITS, Clock()), Clock()
    contexts = ContextCache(2, room.leaves, Workers(), clock, stile)
    if source == "disk":
        room.place(room.ca.issue(NAME))
    found = contexts.get(NAME, "client")
    assert found
    assert found.source == source
    if renewed:
        room.place(room.ca.issue(NAME))
        clock.advance(days=31)
        contexts.renew()
        found = contexts.find(NAME)
        assert found
        assert found.source == "disk"
    assert left(stile) == left(Turnstile(LIMITS, Clock())) - taken


def test_a_wait_for_a_thread_does_not_count_towards_a_files_age(room: Room) -> None:
    """The key of a certificate that was placed during that wait may still follow."""
    clock, workers = Clock(), Workers(1)
    clock.advance(seconds=-10)
    contexts = ContextCache(2, room.leaves, workers, clock)
    reader, writer = os.pipe()
    try:
        busy = gevent.spawn(workers.run, os.read, reader, 1)
        found = gevent.spawn(contexts.get, NAME)
        gevent.idle()
        key = new_key()
        room.path.parent.mkdir(exist_ok=True)
        room.path.write_bytes(room.ca.issue(NAME, key=key, with_key=False))
        clock.time = time.time()
        os.write(writer, b"x")
        assert busy.get() == b"x"
    finally:
        os.close(reader)
        os.close(writer)
    gevent.spawn_later(0.1, room.path.with_suffix(".key").write_bytes, key_pem(key))
    context = found.get()
    assert context
    assert (context.source, context.ours) == ("disk", False)
