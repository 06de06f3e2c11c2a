from collections import OrderedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lru import LRU


def test_a_hit_moves_to_the_head_and_the_tail_falls_out() -> None:
    lru: LRU[str, int] = LRU(2)
    assert lru.put("a", 1) is None
    assert lru.put("b", 2) is None
    assert lru.get("a") == 1
    assert lru.put("c", 3) == "b"
    assert list(lru) == ["c", "a"]
    assert lru.get("b") is None
    assert "b" not in lru


def test_put_of_a_held_key_replaces_and_evicts_nothing() -> None:
    lru: LRU[str, int] = LRU(2)
    lru.put("a", 1)
    lru.put("b", 2)
    assert lru.put("a", 3) is None
    assert list(lru) == ["a", "b"]
    assert lru.get("a") == 3


def test_asking_whether_a_key_is_held_does_not_move_it() -> None:
    lru: LRU[str, int] = LRU(2)
    lru.put("a", 1)
    lru.put("b", 2)
    assert "a" in lru
    assert lru.put("c", 3) == "a"


@pytest.mark.parametrize("capacity", [0, -1])
def test_a_capacity_below_one_is_refused(capacity: int) -> None:
    with pytest.raises(ValueError, match="at least one"):
        LRU(capacity)


@given(st.integers(1, 5), st.lists(st.tuples(st.sampled_from(["get", "put", "pop"]), st.integers(0, 7))))
def test_it_behaves_as_an_ordered_dict(capacity: int, steps: list[tuple[str, int]]) -> None:
    lru: LRU[int, int] = LRU(capacity)
    model: OrderedDict[int, int] = OrderedDict()
    for number, (step, key) in enumerate(steps):
        if step == "get":
            if key in model:
                model.move_to_end(key)
            assert lru.get(key) == model.get(key)
        elif step == "pop":
            assert lru.pop(key) == model.pop(key, None)
        else:
            model[key] = number
            model.move_to_end(key)
            fell = model.popitem(last=False)[0] if len(model) > capacity else None
            assert lru.put(key, number) == fell
        assert list(lru) == list(reversed(model))
        assert len(lru) == len(model)
