import gevent
import pytest

from errors import TooManyOnlookers
from feed import Feed


def test_each_tick_wakes_those_who_wait() -> None:
    feed = Feed()
    with feed.look() as ticks:
        next(ticks)  # at once
        waiting = gevent.spawn(next, ticks)
        gevent.sleep(0)
        assert not waiting.ready()
        feed.tick()
        assert waiting.get(timeout=5) is None


def test_a_slow_one_is_not_waited_for_and_finds_one_tick_at_most() -> None:
    feed = Feed()
    with feed.look() as ticks:
        next(ticks)
        for _ in range(1000):
            feed.tick()
        waiting = gevent.spawn(next, ticks)
        gevent.sleep(0)
        assert not waiting.ready()
        feed.tick()
        assert waiting.get(timeout=5) is None


def test_so_many_may_look() -> None:
    feed = Feed(most=2)
    with feed.look(), feed.look():
        assert feed.onlookers == 2
        with pytest.raises(TooManyOnlookers), feed.look():
            raise AssertionError
    assert feed.onlookers == 0
    with feed.look():
        assert feed.onlookers == 1


def test_the_end() -> None:
    feed = Feed()
    with feed.look() as ticks:
        next(ticks)
        waiting = gevent.spawn(list, ticks)
        gevent.sleep(0)
        feed.close()
        assert waiting.get(timeout=5) == []
    with feed.look() as ticks:
        assert list(ticks) == []
