from collections import OrderedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lab import no_garbage

from lru import LRU, _Node


def test_a_hit_moves_to_the_head_and_the_tail_falls_out() -> None:
    lru: LRU[str, int] = LRU(2)
    lru.put("a", 1)
    lru.put("b", 2)
    assert lru.get("a") == 1
    lru.put("c", 3)
    assert list(lru) == ["c", "a"]
    assert lru.get("b") is None


def test_put_of_a_held_key_replaces_and_evicts_nothing() -> None:
    lru: LRU[str, int] = LRU(2)
    lru.put("a", 1)
    lru.put("b", 2)
    lru.put("a", 3)
    assert list(lru) == ["a", "b"]
    assert lru.get("a") == 3


def test_peek_and_replace_move_nothing() -> None:
    lru: LRU[str, int] = LRU(2)
    lru.put("a", 1)
    lru.put("b", 2)
    lru.replace("a", 3)
    assert lru.peek("a") == 3
    lru.replace("c", 4)
    assert lru.peek("c") is None
    assert list(lru) == ["b", "a"]


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
            if len(model) > capacity:
                model.popitem(last=False)
            lru.put(key, number)
        assert list(lru) == list(reversed(model))
        assert len(lru) == len(model)


def test_what_is_dropped_is_free_at_once() -> None:
    """Without the garbage collector, which may not run for days: contexts hold memory and descriptors."""
    with no_garbage(_Node):
        lru: LRU[int, int] = LRU(3)
        for key in range(5):
            lru.put(key, key)
        del lru
