import resource

import pytest

from limits import Limits, most_logged

HARD = 4096


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The soft and the hard limit of descriptors, as this process sees them."""
    now = [256, HARD]
    monkeypatch.setattr(resource, "getrlimit", lambda _: tuple(now))

    def change(_: int, wanted: tuple[int, int]) -> None:
        if wanted[0] == resource.RLIM_INFINITY:  # as on macOS
            raise ValueError("current limit exceeds maximum limit")
        now[:] = wanted

    monkeypatch.setattr(resource, "setrlimit", change)
    return now


def test_the_soft_limit_is_raised_and_connections_stay_within_it(limit: list[int]) -> None:
    found = Limits().within_descriptors()
    assert limit == [HARD, HARD]
    assert HARD - 302 < 2 * found.connections <= HARD - 300
    assert found.client_connections == int(found.connections * 0.9)


def test_a_hard_limit_that_is_none_and_can_not_be_had(limit: list[int]) -> None:
    limit[1] = resource.RLIM_INFINITY
    found = Limits().within_descriptors()
    assert limit == [10_240, resource.RLIM_INFINITY]
    assert 2 * found.connections <= 10_240 - 300


def test_contexts_that_log_keys_hold_descriptors(limit: list[int]) -> None:
    assert most_logged(10) == 10
    assert most_logged(10_000) == HARD // 4
    found = Limits().within_descriptors(logged=HARD // 4)
    assert HARD - 303 < 3 * found.connections + HARD // 4 <= HARD - 300


def test_shares_of_workers(limit: list[int]) -> None:
    limit[:] = 100_000, 100_000
    found = Limits(connections=10_000, new_names=50, client_new_names=25).within_descriptors(workers=4)
    assert (found.connections, found.client_connections) == (2500, 2250)
    assert (found.new_names, found.client_new_names) == (13, 7)


def test_each_worker_keeps_descriptors_for_the_others(limit: list[int]) -> None:
    found = Limits().within_descriptors(workers=4)
    most = (HARD - 300) // 2
    assert most - 6 <= found.connections < most


def test_few_descriptors_leave_one_connection_and_one_name(limit: list[int]) -> None:
    limit[:] = 3, 3
    found = Limits().within_descriptors()
    assert (found.connections, found.client_connections, most_logged(10)) == (1, 1, 1)


def test_a_share_of_what_one_client_may_have(limit: list[int]) -> None:
    assert Limits(client_connections=10).within_descriptors(workers=4).client_connections == 3


def test_as_many_descriptors_as_one_likes(limit: list[int]) -> None:
    limit[:] = resource.RLIM_INFINITY, resource.RLIM_INFINITY
    assert most_logged(10_000) == 10_000
    assert Limits().within_descriptors().connections == 10_000
