"""Who has a turn, who waits for one, and who goes without."""

import time

import gevent
import pytest
from lab import WAIT

from turns import Turns

PAST = 0.0  # a deadline for those who don't wait


def test_so_many_in_all_and_so_many_of_one_client() -> None:
    turns = Turns(3, 2)
    with gevent.Timeout(0.9):  # nobody waits
        assert [turns.take(client, PAST) for client in "aaabb"] == [True, True, False, True, False]
        for client in "aab":
            turns.give_back(client)
        assert [turns.take(client, PAST) for client in "bbbaa"] == [True, True, False, True, False]


@pytest.mark.parametrize(("most", "share", "client"), [(9, 1, "a"), (1, 9, "a"), (1, 9, "b")])
def test_whoever_waits_has_the_turn_that_is_given_back(most: int, share: int, client: str) -> None:
    turns = Turns(most, share)
    assert turns.take("a", PAST)
    waiting = gevent.spawn(turns.take, client, time.monotonic() + WAIT)
    waiting.join(0.01)
    assert not waiting.ready()
    turns.give_back("a")
    assert waiting.get(timeout=WAIT)
    assert not turns.take(client, PAST)
    turns.give_back(client)
    assert turns.take(client, PAST)


@pytest.mark.parametrize("client", ["a", "b"])
@pytest.mark.parametrize("killed", [True, False])
def test_a_wait_in_vain_takes_nothing(client: str, killed: bool) -> None:
    turns = Turns(1, 1)
    assert turns.take("a", PAST)
    if killed:
        waiting = gevent.spawn(turns.take, client, time.monotonic() + WAIT)
        gevent.sleep(0)
        waiting.kill()
    else:
        assert not turns.take(client, PAST)
    turns.give_back("a")
    assert turns.take(client, PAST)
    turns.give_back(client)
    assert not turns._users  # nothing is remembered of clients without a turn
    assert not turns._shares


def test_a_wait_in_vain_for_one_of_all_takes_nothing_of_a_clients_share() -> None:
    turns = Turns(2, 2)
    assert [turns.take(client, PAST) for client in "aba"] == [True, True, False]
    turns.give_back("b")
    assert turns.take("a", PAST)
