import pytest

from admission import QUEUE_SECONDS, TOLD_OF_CLIENT, Admission, Turnstile
from errors import TooManyConnections, TooManyNames, TooManyOfClient
from limits import Limits


def test_connections_are_counted_in_all_and_by_client() -> None:
    doors = Admission(Limits(connections=3, client_connections=2))
    assert [doors.enter("a"), doors.enter("a"), doors.enter("b")] == [None] * 3
    refusal = doors.enter("b")
    assert isinstance(refusal, TooManyConnections)
    assert "--max-connections" in str(refusal)
    assert doors.count == 4
    doors.leave("b", refused=True)
    doors.leave("b")
    refusal = doors.enter("a")
    assert isinstance(refusal, TooManyOfClient)
    assert "--max-client-connections" in str(refusal)
    doors.leave("a", refused=True)
    for _ in range(2):
        doors.leave("a")
    assert doors.count == 0
    assert doors._clients == doors._refused == {}
    assert doors.enter("a") is None


def test_connections_past_a_clients_limit_take_nobodys_place() -> None:
    doors = Admission(Limits(connections=3, client_connections=2))
    assert [doors.enter("a"), doors.enter("a")] == [None] * 2
    for number in range(100):
        assert isinstance(doors.enter("a"), TooManyOfClient)
        assert doors.hears("a") == (number < TOLD_OF_CLIENT)
    assert doors.enter("b") is None


class Clock:
    time = 1000.0

    def __call__(self) -> float:
        return self.time


def turnstile(monkeypatch: pytest.MonkeyPatch, **limits: int) -> tuple[Turnstile, Clock, list[float]]:
    clock, slept = Clock(), list[float]()
    monkeypatch.setattr("gevent.sleep", slept.append)
    return Turnstile(Limits(**limits), clock), clock, slept


def test_a_burst_passes_at_once_then_the_rate_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    stile, clock, _ = turnstile(monkeypatch, new_names=100, client_new_names=10)
    passed = sum(stile.at_once("a") for _ in range(100))
    assert passed in (40, 41)  # four seconds of its rate, and the one that is due
    assert stile.at_once("b")  # another client is not held up by that
    clock.time += 1
    assert sum(stile.at_once("a") for _ in range(100)) in (10, 11)


def test_who_comes_faster_waits_and_then_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    stile, _, slept = turnstile(monkeypatch, new_names=1000, client_new_names=10)
    while stile.at_once("a"):
        pass
    for _ in range(49):
        assert not stile.is_full("a")
        stile.wait("a")
    assert slept == sorted(slept)
    assert slept[0] == pytest.approx(0, abs=0.11)
    assert slept[-1] <= QUEUE_SECONDS
    while slept[-1] < QUEUE_SECONDS - 0.1:
        stile.wait("a")
    with pytest.raises(TooManyNames, match=r"^a asks for .* \(--client-new-names\)$"):
        stile.wait("a")
    assert stile.is_full("a")
    assert not stile.is_full("b")
    stile.wait("b")
    assert slept[-1] == 0


def test_all_clients_together_are_held_to_a_rate_and_a_flood_takes_no_turn_that_it_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stile, _, slept = turnstile(monkeypatch, new_names=20, client_new_names=10)
    for _ in range(1000):
        stile.at_once("flood")
    assert sum(stile.at_once("b") for _ in range(100)) >= 20
    assert sum(stile.at_once("c") for _ in range(100)) <= 1
    assert stile.crowded("d")
    while not stile.is_full("e"):
        stile.wait(f"client {len(slept)}")
    with pytest.raises(TooManyNames, match=r"^all clients together ask for .* \(--new-names\)$"):
        stile.wait("e")


@pytest.mark.parametrize(("of_all", "of_one"), [(8, 800), (800, 8)])
def test_a_pass_that_was_not_needed_is_given_back(monkeypatch: pytest.MonkeyPatch, of_all: int, of_one: int) -> None:
    stile, _, _ = turnstile(monkeypatch, new_names=of_all, client_new_names=of_one)
    for _ in range(1000):
        assert stile.at_once("a")
        stile.give_back("a")
    while stile.at_once("a"):
        pass
    stile.give_back("a")
    assert [stile.at_once("a"), stile.at_once("a")] == [True, False]


def test_a_pass_can_be_given_back_for_a_client_that_was_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("admission._CLIENTS", 1)
    stile, _, _ = turnstile(monkeypatch, new_names=10, client_new_names=10)
    assert [stile.at_once("a"), stile.at_once("b")] == [True, True]
    stile.give_back("a")


def test_it_is_crowded_as_long_as_the_next_one_would_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    stile, clock, _ = turnstile(monkeypatch, new_names=1000, client_new_names=10)
    assert not stile.crowded("a")
    while not stile.crowded("a"):
        assert stile.at_once("a")
    assert not stile.at_once("a")
    assert not stile.crowded("b")
    clock.time += 0.11
    assert not stile.crowded("a")


def test_a_pass_that_is_due_at_this_very_moment_needs_no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    stile, clock, slept = turnstile(monkeypatch, new_names=16, client_new_names=8)  # no rounding
    assert sum(stile.at_once("a") for _ in range(100)) == 4 * 8 + 1
    assert stile.crowded("a")
    clock.time += 1 / 8
    assert not stile.crowded("a")
    assert stile.at_once("a")
    for _ in range(5 * 8):
        assert not stile.is_full("a")
        stile.wait("a")
    assert slept[-1] == QUEUE_SECONDS == 5
    assert stile.is_full("a")
