"""``Lookout``: many names looked up at once."""

import gevent
import pytest
from gevent.event import Event
from gevent.monkey import get_original
from lab import WAIT, no_garbage, no_memory

from errors import OutOfResources, RetrievalError
from lookout import Lookout
from store import Store
from workers import Workers

pytestmark = pytest.mark.timeout(20)


def test_names_that_are_asked_for_together_are_looked_up_together() -> None:
    asked: list[list[str]] = []

    def stored(names: list[str]) -> set[str]:
        asked.append(names)
        return {name for name in names if name.startswith("known")}

    lookout = Lookout(Workers(1), stored, 10)
    names = [f"{kind}{number}" for number in range(20) for kind in ("known", "new")]
    asking = {name: gevent.spawn(lookout.sees, name) for name in names}
    assert {name: each.get() for name, each in asking.items()} == {name: name.startswith("known") for name in names}
    assert asked == [names]
    assert not lookout.sees("new")
    assert asked == [names, ["new"]]


def test_who_asks_during_a_look_is_in_the_next_one() -> None:
    lookouts: list[gevent.Greenlet[..., bool]] = []
    looking = Event()

    class Slow(Workers):
        def run(self, work, *arguments, **keywords):  # type: ignore[no-untyped-def]
            if not looking.is_set():
                looking.set()
                lookouts.append(gevent.spawn(lookout.sees, "second"))
                gevent.sleep(0)
            return super().run(work, *arguments, **keywords)

    lookout = Lookout(Slow(1), lambda names: {"second"}.intersection(names), 10)
    assert not lookout.sees("first")
    assert lookouts[0].get()


def test_a_look_without_memory_to_begin_reaches_all_and_no_later_look() -> None:
    lookout = Lookout(Workers(1), lambda names: names, 10)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lookout, "_lead", no_memory)
        for each in [gevent.spawn(lookout.sees, name) for name in "ab"]:
            with pytest.raises(RetrievalError, match="could not begin"):
                each.get(timeout=WAIT)
    assert lookout.sees("a")


def test_what_goes_wrong_reaches_all_and_no_later_look() -> None:
    failing = [True]

    def stored(names: list[str]) -> list[str]:
        if failing:
            raise OutOfResources("no more")
        return names

    lookout = Lookout(Workers(1), stored, 10)
    for each in [gevent.spawn(lookout.sees, name) for name in "ab"]:
        with pytest.raises(OutOfResources, match="no more"):
            each.get()
    failing.clear()
    assert lookout.sees("a")


def test_what_goes_wrong_leaves_no_work_for_the_collector() -> None:
    def stored(_: list[str]) -> list[str]:
        raise OutOfResources("no more")

    lookout = Lookout(Workers(1), stored, 10)
    with no_garbage(OutOfResources), pytest.raises(OutOfResources):
        lookout.sees("a")


def test_a_bug_reaches_all_as_an_error_and_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    def stored(_: list[str]) -> list[str]:
        raise ZeroDivisionError

    lookout = Lookout(Workers(1), stored, 10)
    for each in [gevent.spawn(lookout.sees, name) for name in "ab"]:
        with pytest.raises(RetrievalError, match="a bug in certifier"):
            each.get()
    told = [record.message for record in caplog.records if record.name == "certifier.lookout"]
    assert told == ["what is stored can't be looked up"]


def test_a_disk_that_does_not_answer_is_not_waited_for() -> None:
    go_on: list[bool] = []
    sleep = get_original("time", "sleep")

    def stored(names: list[str]) -> list[str]:
        while not go_on:
            sleep(0.01)
        return names

    lookout = Lookout(Workers(1), stored, 0.1)
    with pytest.raises(RetrievalError, match="does not answer in time"):
        lookout.sees("a")
    go_on.append(True)
    assert Lookout(Workers(1), stored, 10).sees("a")


def test_what_the_store_holds(tmp_path) -> None:  # type: ignore[no-untyped-def]
    store = Store(tmp_path / "certs")
    assert not store.holds("a.example.com")
    store.save("a.example.com", b"x")
    assert store.holds("a.example.com")
    assert not store.holds("b.example.com")
    wildcard = store.path("_.example.com")
    assert wildcard is not None
    wildcard.parent.mkdir()
    wildcard.symlink_to("nowhere")  # to be read, and reported
    assert store.holds("b.example.com")
    assert not store.holds("b.example.org")
    assert not store.holds("a" * 250)
