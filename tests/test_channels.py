import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import gevent
import pytest
from lab import WAIT

import sockets
from channels import Channels


def soon(seconds: float = WAIT) -> float:
    return time.monotonic() + seconds


@contextmanager
def serving(channels: Channels, number: int, answer: Callable[[bytes], bytes]) -> Iterator[None]:
    server = gevent.spawn(channels.serve, number, answer)
    try:
        yield
    finally:
        server.kill()


def test_who_serves_ends_with_close(caplog: pytest.LogCaptureFixture) -> None:
    channels = Channels(1)
    server = gevent.spawn(channels.serve, 0, lambda question: question)
    gevent.sleep(0)
    channels.close()
    server.get(timeout=WAIT)
    assert caplog.text == ""


@pytest.fixture
def channels() -> Iterator[Channels]:
    made = Channels(3)
    yield made
    made.close()


def test_each_answers_what_it_is_asked(channels: Channels) -> None:
    assert len(channels) == 3
    with serving(channels, 0, lambda question: b"0" + question), serving(channels, 2, lambda _: b"2" * 1_000_000):
        assert channels.ask(0, b"a b", soon()) == b"0a b"
        assert channels.ask(0, b"", soon()) == b"0"
        asked = [gevent.spawn(channels.ask, 2, b"", soon()) for _ in range(8)]
        gevent.joinall(asked)
        assert {greenlet.get() for greenlet in asked} == {b"2" * 1_000_000}


def test_one_that_does_not_answer_is_not_waited_for_past_the_deadline(channels: Channels) -> None:
    began = time.monotonic()
    assert channels.ask(1, b"", soon(0.1)) is None
    assert 0.1 <= time.monotonic() - began < WAIT

    def slow(question: bytes) -> bytes:
        gevent.sleep(2 * WAIT)
        return question

    with serving(channels, 1, slow):
        assert channels.ask(1, b"", soon(0.1)) is None


def test_the_successor_finds_what_still_waits_for_an_answer(channels: Channels) -> None:
    asked: list[bytes] = []
    for number in range(5):
        assert channels.ask(0, b"%d" % number, soon(0.01)) is None
    waiting = gevent.spawn(channels.ask, 0, b"5", soon())
    gevent.sleep(0)

    def answer(question: bytes) -> bytes:
        asked.append(question)
        return question

    with serving(channels, 0, answer):
        assert waiting.get(timeout=WAIT) == b"5"
    assert asked == [b"5"]  # the others no longer wait for an answer


def test_questions_do_not_pile_up(channels: Channels) -> None:
    deadline = soon()
    asked = [gevent.spawn(channels.ask, 0, b"", deadline) for _ in range(400)]
    gevent.sleep(0)
    refused = [greenlet.get() for greenlet in asked if greenlet.ready()]
    assert 0 < len(refused) < 400
    assert set(refused) == {None}
    assert time.monotonic() < deadline
    gevent.killall(asked)


def test_others_run_between_two_answers(channels: Channels) -> None:
    """All may be asked for at once, and each takes some milliseconds."""
    turns = 0
    met: list[int] = []

    def others() -> None:
        nonlocal turns
        while len(met) < 8:
            turns += 1
            sockets.give_way()

    def answer(question: bytes) -> bytes:
        met.append(turns)
        return question

    asked = [gevent.spawn(channels.ask, 0, b"", soon()) for _ in range(8)]
    gevent.sleep(0)  # all questions wait
    with serving(channels, 0, answer):
        gevent.spawn(others)
        gevent.joinall(asked, raise_error=True)
    assert len(set(met)) == 8
