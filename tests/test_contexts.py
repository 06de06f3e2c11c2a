import os
import ssl
import time
import weakref
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

import gevent
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from gevent.monkey import get_original
from lab import WAIT, no_garbage, no_memory, until
from pki import TestCA, key_pem, new_key, now
from storeroom import NAME, Room
from test_signer import authority_for, files

from admission import Turnstile
from board import Board
from contexts import LOOK_SECONDS, MOST_SESSIONS, WONT_DO_SECONDS, ContextCache
from errors import NotServable, RetrievalError, TooManyNames
from keys import KeyStock
from leaf import Leaf
from leaves import SERVED, Leaves, Wanted
from limits import Limits
from pruning import Bound
from renewals import Renewals
from retrieval import Retrieval
from signer import Authority
from store import Stamp, Store
from workers import Workers


class Counted(Leaves):
    """Counts retrievals, and blocks them while a test holds ``gate``."""

    def __init__(self, store: Store, authority: Authority | None) -> None:
        super().__init__(store, authority, KeyStock("p256"))
        self.count = 0
        self.gate = get_original("_thread", "allocate_lock")()

    def retrieve(self, name: str, now: datetime, notes: list[str], wanted: Wanted = SERVED) -> Leaf | None:
        self.count += 1
        with self.gate:  # blocks this thread, not the hub
            pass
        return super().retrieve(name, now, notes, wanted)


class Clock:
    def __init__(self) -> None:
        self.time = now().timestamp()

    def __call__(self) -> float:
        return self.time

    def advance(self, **delta: float) -> None:
        self.time += timedelta(**delta).total_seconds()


def far_off() -> Turnstile:
    """A turnstile at which "client" has no turn for a minute."""
    clock = Clock()
    stile = Turnstile(Limits(client_new_names=1), clock)
    while stile.at_once("client"):
        pass
    clock.advance(minutes=-1)
    return stile


@pytest.fixture
def leaves(room: Room) -> Counted:
    return Counted(room.store, room.leaves._authority)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_retrieval_that_fails_leaves_no_work_for_the_collector(
    room: Room, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """After thousands of refusals, a garbage collection would stall all connections."""

    class Failing(Leaves):
        def retrieve(self, *_: object, **__: object) -> Leaf | None:
            raise TooManyNames("no")

    contexts = ContextCache(2, Failing(room.store, None, KeyStock("p256")), Workers(), clock)
    with no_garbage(Retrieval, TooManyNames), pytest.raises(TooManyNames, match="no"):
        contexts.get("a.example")
    assert not caplog.records  # it is in the client's line


def test_memory_then_store(leaves: Counted, clock: Clock) -> None:
    contexts = ContextCache(2, leaves, Workers(), clock)
    made = contexts.get("a.example")
    assert made is not None
    assert contexts.find("a.example") is made
    assert contexts.get("a.example") is made
    assert leaves.count == 1
    assert (len(contexts), contexts.capacity) == (1, 2)
    contexts.get("b.example")
    contexts.get("c.example")
    assert contexts.find("a.example") is None
    again = contexts.get("a.example")
    assert again is not None
    assert (made.source, again.source, again.serial) == ("made", "disk", made.serial)


def test_one_retrieval_for_all_who_wait_and_the_hub_goes_on(leaves: Counted) -> None:
    contexts = ContextCache(2, leaves, Workers())
    with leaves.gate:
        waiters = [gevent.spawn(contexts.get, "a.example") for _ in range(50)]
        until(lambda: leaves.count)
        gevent.sleep(0.01)
        assert not any(waiter.ready() for waiter in waiters)
    assert len({id(waiter.get(timeout=WAIT)) for waiter in waiters}) == 1
    assert leaves.count == 1


def test_those_who_ask_for_one_name_in_a_crowd_have_one_retrieval(leaves: Counted, room: Room) -> None:
    """Finding out whether it is stored takes a while; the others arrive in the meantime."""
    room.place(room.ca.issue(NAME))
    contexts = ContextCache(2, leaves, Workers(), turnstile=far_off())
    waiters = [gevent.spawn(contexts.get, NAME, "client") for _ in range(5)]
    assert len({id(waiter.get(timeout=WAIT)) for waiter in waiters}) == 1
    assert leaves.count == 1


def test_a_retrieval_under_way_is_for_those_without_a_turn_too(leaves: Counted, clock: Clock) -> None:
    stile = Turnstile(Limits(client_new_names=1), clock)
    contexts = ContextCache(2, leaves, Workers(), turnstile=stile)
    with leaves.gate:
        under_way = contexts.start("a.example", "client")
        until(lambda: leaves.count)
        while stile.at_once("client"):
            pass
        clock.advance(minutes=-1)
        with pytest.raises(TooManyNames):
            contexts.start("b.example", "client")
        assert contexts.start("a.example", "client") is under_way
    assert under_way.wait()


def test_contexts_are_counted_by_where_they_came_from(leaves: Counted, clock: Clock, room: Room) -> None:
    board, began = Board(clock), time.monotonic()
    contexts = ContextCache(2, leaves, Workers(), clock, board=board)
    assert contexts.get(NAME)
    assert contexts.get(NAME)
    contexts.clear()
    assert contexts.get(NAME)
    clock.advance(days=31)
    contexts.renew()
    (room.folder / "serial.txt").write_text("x")
    with pytest.raises(RetrievalError):
        contexts.get("a.example")
    assert ContextCache(2, room.off, Workers(), clock, board=board).get("a.example") is None
    sources = ("memory", "disk", "made", "renewed", "none", "failed")
    assert board.kept()["counts"]["retrievals"] == dict.fromkeys(sources, 1)
    times = board.histograms["retrieval"].data()
    assert sum(times["counts"]) == 2  # from disk, and made
    assert 0 < times["sum"] <= time.monotonic() - began


@pytest.mark.parametrize("source", ["disk", "made"])
def test_rsa_4096_does_not_stall_the_hub(tmp_path: Path, source: str) -> None:
    """Neither an operator's RSA-4096 leaves nor an RSA-4096 CA: others wait for less than a fifth of the time for which
    the validation of such a key would hold the GIL (median of ten names).
    """
    authority = TestCA("big", key=new_key(4096))
    store = Store(tmp_path / "certs")
    contexts = ContextCache(99, Leaves(store, authority_for(files(tmp_path, authority)), KeyStock("p256")), Workers())
    key = new_key(4096)
    names = [f"host{n}.example" for n in range(10)]
    for path, name in [(store.path(name), name) for name in names if source == "disk"]:
        assert path
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(authority.issue(name, key=key))
    stalls = []
    for name in names:
        waiter = gevent.spawn(contexts.get, name)
        worst = 0.0
        while not waiter.ready():
            start = time.monotonic()
            gevent.sleep(0.001)
            worst = max(worst, time.monotonic() - start)
        context = waiter.get()
        assert context
        assert context.source == source
        stalls.append(worst)
    start = time.monotonic()
    load_pem_private_key(key_pem(key), password=None)
    assert sorted(stalls)[5] < (time.monotonic() - start) / 5


def test_an_error_reaches_all_and_is_not_kept(leaves: Counted, room: Room, caplog: pytest.LogCaptureFixture) -> None:
    contexts = ContextCache(2, leaves, Workers())
    serial = room.folder / "serial.txt"
    serial.write_text("x")
    waiters = [gevent.spawn(contexts.get, "a.example") for _ in range(5)]
    gevent.joinall(waiters)
    assert all(isinstance(waiter.exception, RetrievalError) for waiter in waiters)
    assert leaves.count == 1
    assert [record.name for record in caplog.records].count("certifier.contexts") == 1  # it is logged once
    serial.write_text("5\n")
    assert contexts.get("a.example")


def test_a_bug_in_a_retrieval_reaches_all_as_an_error(
    leaves: Counted, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    contexts = ContextCache(2, leaves, Workers())
    monkeypatch.setattr(leaves, "retrieve", broken)
    with pytest.raises(RetrievalError, match="a bug in certifier"):
        contexts.get("a.example")
    assert "ZeroDivisionError" in caplog.text


def test_a_retrieval_without_memory_to_begin_is_no_retrieval_under_way(leaves: Counted) -> None:
    """A new greenlet's first frame is memory of its own, which ``ulimit -v`` may refuse: none of its lines runs."""
    contexts = ContextCache(2, leaves, Workers())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contexts, "_lead", no_memory)
        waiters = [gevent.spawn(contexts.get, "a.example") for _ in range(5)]
        gevent.joinall(waiters, timeout=WAIT)
    assert all(isinstance(waiter.exception, RetrievalError) for waiter in waiters)
    assert contexts.get("a.example")


def test_the_client_that_asked_first_may_leave(leaves: Counted) -> None:
    contexts = ContextCache(2, leaves, Workers())
    with leaves.gate:
        first, second = (gevent.spawn(contexts.get, "a.example") for _ in range(2))
        gevent.sleep(0)
        first.kill()
    assert second.get(timeout=WAIT)
    assert leaves.count == 1


def test_a_wont_do_is_remembered_for_some_seconds(room: Room, clock: Clock) -> None:
    leaves = Counted(room.store, None)
    contexts = ContextCache(2, leaves, Workers(), clock)
    assert not contexts.generates
    for _ in range(3):
        assert contexts.get("www.example.com") is None
    assert leaves.count == 1
    room.place(TestCA("x").issue("www.example.com"))
    assert contexts.get("www.example.com") is None
    clock.advance(seconds=WONT_DO_SECONDS)
    assert contexts.get("www.example.com")


def test_a_wont_do_is_no_older_than_its_look_at_the_disk(room: Room, clock: Clock) -> None:
    """What was placed after that is noticed in time, however long the disk took."""

    class Slow(Leaves):
        def retrieve(self, name: str, now: datetime, notes: list[str], wanted: Wanted = SERVED) -> Leaf | None:
            found = super().retrieve(name, now, notes, wanted)
            clock.advance(seconds=WONT_DO_SECONDS)
            return found

    contexts = ContextCache(2, Slow(room.store, None, KeyStock("p256")), Workers(), clock)
    assert contexts.get(NAME) is None
    room.place(room.ca.issue(NAME))
    assert contexts.get(NAME)


def test_a_wont_do_is_forgotten_once_there_is_a_certificate(room: Room, clock: Clock) -> None:
    contexts = ContextCache(1, room.off, Workers(), clock)
    assert contexts.get(NAME) is None
    room.retrieve("b.example", now())
    room.place(room.ca.issue(NAME))
    clock.advance(seconds=WONT_DO_SECONDS)
    for name in (NAME, "b.example"):  # which takes its place
        assert contexts.get(name)
    clock.advance(seconds=-WONT_DO_SECONDS)  # the clock was ahead
    assert contexts.get(NAME)


def test_clear_forgets_what_was_not_to_be_had(room: Room, clock: Clock) -> None:
    contexts = ContextCache(2, room.off, Workers(), clock)
    assert contexts.get(NAME) is None
    room.place(TestCA("x").issue(NAME))
    contexts.clear()
    assert contexts.get(NAME)


def test_a_retrieval_that_is_killed_is_an_error_and_no_wont_do(room: Room) -> None:
    """As at the program's shutdown: no tunnel may pass untouched because of that."""

    class Killed(Leaves):
        def retrieve(self, *_: object, **__: object) -> Leaf | None:
            raise gevent.GreenletExit

    contexts = ContextCache(2, Killed(room.store, room.leaves._authority, KeyStock("p256")), Workers())
    with pytest.raises(RetrievalError, match="shutting down"):
        contexts.get(NAME)


def shake_hands(server: ssl.SSLContext, client: ssl.SSLContext) -> None:
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        client.wrap_bio(to_client, to_server, server_hostname="a.example"),
        server.wrap_bio(to_server, to_client, server_side=True),
    )
    for step in range(3):
        with suppress(ssl.SSLWantReadError):
            ends[step % 2].do_handshake()
    ends[1].do_handshake()
    with suppress(ssl.SSLWantReadError):
        ends[1].unwrap()  # OpenSSL drops sessions of connections that break off


@pytest.mark.parametrize("tickets", [False, True])
def test_sessions_of_clients_without_tickets_do_not_pile_up(room: Room, leaves: Counted, tickets: bool) -> None:
    contexts = ContextCache(2, leaves, Workers())
    first = contexts.get("a.example")
    assert first is not None
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.load_verify_locations(cadata=room.ca.pem.decode())
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    if not tickets:
        client.options |= ssl.OP_NO_TICKET
    for _ in range(MOST_SESSIONS):
        shake_hands(first.ssl, client)
        contexts.relieve("a.example", first)
    assert (contexts.find("a.example"), contexts._renewals._due) == (first, {})
    shake_hands(first.ssl, client)
    contexts.relieve("a.example", first)
    contexts.relieve("a.example", first)
    if tickets:
        assert (contexts.find("a.example"), contexts._renewals._due) == (first, {})
        return
    until(lambda: contexts.find("a.example") is not first)
    again = contexts.find("a.example")
    assert again is not None
    assert (again.serial, again.source, again.ssl.session_stats()["number"]) == (first.serial, "disk", 0)
    contexts.relieve("a.example", first)  # from a connection that still uses the old one
    assert (contexts.find("a.example"), contexts._renewals._due) == (again, {})
    assert leaves.count == 2


def test_renewed_in_the_background_while_the_present_one_is_served(
    leaves: Counted, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    contexts = ContextCache(2, leaves, Workers(), clock)
    made = contexts.get("a.example")
    assert made is not None
    clock.advance(days=31)
    with leaves.gate:
        for _ in range(3):
            assert contexts.find("a.example") is made
            gevent.sleep(0)
    until(lambda: contexts.find("a.example") is not made)
    renewed = contexts.find("a.example")
    assert renewed is not None
    assert renewed.serial != made.serial
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("INFO", "renewed the certificate for a.example")
    ]
    assert leaves.count == 2


def test_a_name_in_constant_use_is_renewed_as_soon_as_that_is_due(leaves: Counted, clock: Clock) -> None:
    contexts = ContextCache(2, leaves, Workers(), clock)
    made = contexts.get("a.example")
    assert made is not None
    clock.time = made.renew_at - 2 * LOOK_SECONDS
    for _ in range(2):
        assert contexts.find("a.example") is made
        until(lambda: not made.refreshing)
        clock.advance(seconds=LOOK_SECONDS)
    assert leaves.count == 1
    contexts.find("a.example")
    until(lambda: contexts.find("a.example") is not made)


def test_what_is_due_on_disk_is_renewed_once_it_is_used(room: Room, leaves: Counted, clock: Clock) -> None:
    """Else names soon evicted from memory, and programs that run for seconds, would never have theirs renewed."""
    room.retrieve(NAME, now())
    stored = room.path.read_bytes()
    contexts = ContextCache(1, leaves, Workers(), clock)
    clock.advance(days=31)
    found = contexts.get(NAME)
    assert found is not None
    assert found.source == "disk"  # the connection does not wait for it
    contexts.get("a.example")
    until(lambda: room.path.read_bytes() != stored)
    again = contexts.get(NAME)
    assert again is not None
    assert (again.serial > found.serial, leaves.count) == (True, 4)


def test_a_renewal_and_a_check_without_memory_to_begin_are_done_later(leaves: Counted, clock: Clock) -> None:
    contexts = ContextCache(2, leaves, Workers(), clock)
    made = contexts.get("a.example")
    assert made is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contexts, "_refresh", no_memory)
        patch.setattr(contexts._renewals, "_run", no_memory)
        clock.advance(seconds=LOOK_SECONDS)
        assert contexts.find("a.example") is made
        until(lambda: not made.refreshing)
        clock.advance(days=31)
        assert contexts.find("a.example") is made  # which has its renewal begin, in vain
        gevent.sleep(0)
        assert list(contexts._renewals._due) == ["a.example"]
    clock.advance(days=1)
    assert contexts.find("a.example") is made
    until(lambda: not contexts._renewals._due)
    assert contexts.find("a.example") is not made


@pytest.mark.parametrize("capacity", [1, 9])
def test_many_that_are_due_are_renewed_one_after_the_other(leaves: Counted, clock: Clock, capacity: int) -> None:
    """After a long stop, all are due; all at once, they would take all threads, with RSA keys for minutes."""
    waits, release = os.pipe()
    renewals = []

    class Slow(Counted):
        def retrieve(self, name: str, now: datetime, notes: list[str], wanted: Wanted = SERVED) -> Leaf | None:
            if wanted.renew:
                renewals.append(name)
                assert get_original("select", "select")([waits], [], [], 10)[0]  # blocks this thread, not the hub
            return super().retrieve(name, now, notes, wanted)

    contexts = ContextCache(capacity, Slow(leaves._store, leaves._authority), Workers(2), clock)

    def serial(name: str) -> int:
        found = contexts.get(name)
        assert found is not None
        return found.serial

    names = [f"{n}.example" for n in range(4)]
    made = [serial(name) for name in names]
    clock.advance(days=31)
    try:
        for name in names * 2:
            assert serial(name)
        until(lambda: renewals)
        with gevent.Timeout(WAIT):
            assert serial("new.example")
        assert renewals == names[:1]
    finally:
        os.close(release)
    until(lambda: not contexts._renewals._due)  # asked for meanwhile, one may be read again
    assert renewals == names
    assert all(serial(name) > old for name, old in zip(names, made, strict=True))
    os.close(waits)


def test_names_that_wait_for_renewal_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that finds the queue full is renewed at a later use; one that waits already, once."""
    monkeypatch.setattr("renewals._MOST", 2)
    renewed: list[str] = []
    due = Renewals(renewed.append)
    for name in ("a", "b", "a", "c"):
        due.soon(name)
    until(lambda: not due._due)
    assert renewed == ["a", "b"]
    due.soon("c")
    until(lambda: not due._due)
    assert renewed == ["a", "b", "c"]


def test_a_renewal_that_fails_leaves_the_present_one_in_use(
    leaves: Counted, clock: Clock, room: Room, caplog: pytest.LogCaptureFixture
) -> None:
    contexts = ContextCache(2, leaves, Workers(), clock)
    made = contexts.get("a.example")
    (room.folder / "serial.txt").write_text("x")
    clock.advance(days=31)
    assert contexts.find("a.example") is made
    until(lambda: "the present certificate for a.example stays in use" in caplog.text)
    assert contexts.find("a.example") is made
    contexts.renew()
    clock.advance(seconds=LOOK_SECONDS)
    assert contexts.find("a.example") is made
    until(lambda: not (made is None or made.refreshing or contexts._renewals._due))
    assert leaves.count == 2  # the next attempt comes later
    (room.folder / "serial.txt").write_text("5\n")
    clock.advance(minutes=2)
    contexts.find("a.example")
    until(lambda: contexts.find("a.example") is not made)


def test_an_operators_file_is_picked_up_in_use(
    leaves: Counted, clock: Clock, room: Room, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    contexts = ContextCache(2, leaves, Workers(), clock)
    made = contexts.get("www.example.com")
    room.place(TestCA("operator").issue("www.example.com"))
    assert contexts.find("www.example.com") is made
    clock.advance(seconds=LOOK_SECONDS)
    assert contexts.find("www.example.com") is made  # no connection waits for the look at the disk
    until(lambda: contexts.find("www.example.com") is not made)
    placed = contexts.find("www.example.com")
    assert placed is not None
    assert placed.source == "disk"
    assert not caplog.records  # certifier has renewed nothing
    room.path.unlink()
    clock.advance(seconds=LOOK_SECONDS)
    contexts.find("www.example.com")
    until(lambda: contexts.find("www.example.com") is not placed)


def test_an_operators_file_that_goes_is_a_wont_do_again(
    clock: Clock, room: Room, caplog: pytest.LogCaptureFixture
) -> None:
    leaves = Counted(room.store, None)
    contexts = ContextCache(2, leaves, Workers(), clock)
    room.place(TestCA("operator").issue("www.example.com"))
    assert contexts.get("www.example.com")
    room.path.unlink()
    clock.advance(seconds=LOOK_SECONDS)
    contexts.find("www.example.com")
    until(lambda: contexts.find("www.example.com") is None)
    assert contexts.get("www.example.com") is None
    assert not caplog.records


def test_an_expired_one_is_never_served(leaves: Counted, clock: Clock, room: Room) -> None:
    contexts = ContextCache(2, leaves, Workers(), clock)
    made = contexts.get("a.example")
    assert made is not None
    clock.advance(days=44, hours=23, minutes=56)
    assert contexts.find("a.example") is None
    renewed = contexts.get("a.example")
    assert renewed is not None
    assert renewed.serial != made.serial


def test_the_files_of_a_name_in_use_are_looked_at_once_in_a_while(leaves: Counted, clock: Clock, room: Room) -> None:
    """Each look compares them with what the one before it found."""
    looks: list[float] = []
    stamps: list[Stamp] = []

    class Looked(Store):
        def look(self, name: str, stamp: Stamp, ours: bool, now: float) -> Stamp | None:
            looks.append(now - start)
            stamps.append(stamp)
            return super().look(name, stamp, ours, now)

    store = Looked(leaves._store.root)
    contexts = ContextCache(2, Leaves(store, leaves._authority, KeyStock("p256")), Workers(), clock)
    made = contexts.get(NAME)
    assert made is not None
    start, made_with = clock.time, made.stamp
    os.utime(room.path, (start - 60,) * 2)
    for _ in range(12):
        assert contexts.find(NAME) is made
        until(lambda: not made.refreshing)
        clock.advance(seconds=LOOK_SECONDS / 4)
    assert looks == [LOOK_SECONDS, 2 * LOOK_SECONDS]
    assert stamps == [made_with, room.store.stamp(NAME)]


def test_looks_at_a_disk_that_hangs_do_not_pile_up(leaves: Counted, clock: Clock) -> None:
    waits, release = os.pipe()
    looks = []

    class Hanging(Store):
        def look(self, name: str, stamp: Stamp, ours: bool, now: float) -> Stamp | None:
            looks.append(name)
            assert get_original("select", "select")([waits], [], [], 10)[0]  # blocks this thread, not the hub
            return super().look(name, stamp, ours, now)

    hanging = Leaves(Hanging(leaves._store.root), leaves._authority, KeyStock("p256"))
    workers = Workers(9)
    contexts = ContextCache(2, hanging, workers, clock)
    made = contexts.get(NAME)
    for _ in range(4):
        clock.advance(seconds=LOOK_SECONDS)
        assert contexts.find(NAME) is made
        gevent.sleep(0)
    until(lambda: looks)
    try:
        workers.run(int)  # whatever was queued before has started by now
        assert looks == [NAME]
    finally:
        os.close(release)
    until(lambda: not made or not made.refreshing)
    clock.advance(seconds=LOOK_SECONDS)
    contexts.find(NAME)
    until(lambda: looks == [NAME, NAME])
    os.close(waits)


def test_what_clear_drops_is_freed_little_by_little(leaves: Counted) -> None:
    """OpenSSL takes a while to free each one, and the hub is blocked meanwhile."""
    contexts = ContextCache(100, leaves, Workers())
    dropped = [weakref.ref(contexts.get(f"{n}.example").ssl) for n in range(100)]  # type: ignore[union-attr]
    contexts.clear()
    most, before = 0, len(dropped)
    with gevent.Timeout(WAIT):
        while before:
            gevent.sleep(0)
            left = sum(ref() is not None for ref in dropped)
            most, before = max(most, before - left), left
    assert most < 50


def test_what_was_retrieved_before_clear_is_not_kept(leaves: Counted, room: Room) -> None:
    contexts = ContextCache(2, leaves, Workers())
    other = authority_for(files(room.folder, TestCA("two")))
    with leaves.gate:
        waiter = gevent.spawn(contexts.get, "a.example")
        until(lambda: leaves.count == 1)
        leaves.use(other)
        contexts.clear()
    context = waiter.get(timeout=WAIT)
    assert context
    assert contexts.find("a.example") is context
    assert leaves.count == 2
    path = room.store.path("a.example")
    assert path
    assert other.fault(x509.load_pem_x509_certificate(path.read_bytes()), ()) is None


def test_what_is_due_is_renewed_though_nobody_asks(leaves: Counted, clock: Clock) -> None:
    """So that no connection waits for it later; the order of use stays as it was."""
    contexts = ContextCache(3, leaves, Workers(), clock)
    made = {name: contexts.get(name) for name in ("a.example", "b.example")}
    contexts.renew()
    assert leaves.count == 2
    clock.advance(days=31)
    contexts.renew()
    assert leaves.count == 4
    assert list(contexts._contexts) == ["b.example", "a.example"]
    clock.advance(days=15)  # past the expiry of the first two
    for name, old in made.items():
        context = contexts.find(name)
        assert context
        assert old
        assert context.serial > old.serial


def test_what_is_forgotten_while_others_are_renewed_stays_out(
    leaves: Counted, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    contexts = ContextCache(3, leaves, Workers(), clock)
    for name in ("a.example", "b.example"):
        contexts.get(name)
    clock.advance(days=31)
    with leaves.gate:
        renewing = gevent.spawn(contexts.renew)
        until(lambda: leaves.count > 2)
        contexts.clear()
    renewing.get(timeout=WAIT)
    assert len(contexts) == 0
    assert not caplog.records


def test_use_is_told_and_a_renewal_is_none(leaves: Counted, clock: Clock) -> None:
    contexts = ContextCache(2, leaves, Workers(), clock)
    contexts.get(NAME)
    assert [context.used for _, context in contexts.held(9)] == [clock.time]
    clock.advance(days=1)
    contexts.find(NAME)
    used = clock.time
    clock.advance(days=31)
    contexts.renew()
    assert leaves.count == 2
    assert [context.used for _, context in contexts.held(9)] == [used]


def used_on_disk(room: Room) -> float:
    return room.path.stat().st_mtime


def test_a_renewal_is_no_use_of_what_is_stored(leaves: Counted, clock: Clock, room: Room) -> None:
    """Else nothing in memory would ever count as unused, and prune would have nothing to remove."""
    first, second = (ContextCache(2, leaves, Workers(), clock) for _ in range(2))  # two processes on one store
    for contexts in (first, second):
        contexts.get(NAME)
    stored = room.path.read_bytes()
    used = clock.time - 60
    os.utime(room.path, (used, used))
    clock.advance(days=31)
    for contexts in (first, second):
        contexts.renew()
    assert room.path.read_bytes() != stored
    assert used_on_disk(room) == used
    assert len({contexts.held(1)[0][1].serial for contexts in (first, second)}) == 1


@pytest.mark.parametrize("used", [True, False])
def test_what_was_pruned_is_stored_again_when_it_is_used(leaves: Counted, clock: Clock, room: Room, used: bool) -> None:
    """Else it would be back at each renewal, as if it were new."""
    contexts = ContextCache(2, leaves, Workers(), clock)
    made = contexts.get(NAME)
    room.path.unlink()
    clock.advance(days=31)
    if used:
        contexts.find(NAME)
    else:
        contexts.renew()
    until(lambda: made is not None and contexts.held(1)[0][1].serial != made.serial)
    assert room.path.exists() is used


def test_use_is_noted_though_the_certificate_is_due(leaves: Counted, clock: Clock, room: Room) -> None:
    contexts = ContextCache(2, leaves, Workers(), clock)
    made = contexts.get(NAME)
    used = clock.time - 60
    os.utime(room.path, (used, used))
    clock.advance(days=31)
    assert contexts.find(NAME) is made
    until(lambda: contexts.find(NAME) is not made)
    assert used_on_disk(room) > used


@pytest.mark.parametrize(("generates", "days", "step"), [(True, 0, 120), (False, 31, 10)])
def test_what_is_as_new_as_can_be_had_is_not_read_at_each_use(
    room: Room, clock: Clock, generates: bool, days: int, step: int
) -> None:
    """Neither long before its renewal is due, nor after, if renewal is impossible."""
    room.retrieve(NAME, now())
    leaves, workers = Counted(room.store, room.leaves._authority if generates else None), Workers(1)
    contexts = ContextCache(2, leaves, workers, clock)
    clock.advance(days=days)
    found = contexts.get(NAME)
    for _ in range(3):
        clock.advance(seconds=step)
        assert contexts.find(NAME) is found
        gevent.sleep(0)
        workers.run(int)  # the look is done by now: the thread works in order
    assert leaves.count == 1


@pytest.mark.parametrize("key", [False, True])
def test_pruned_from_the_store_and_still_served(leaves: Counted, clock: Clock, room: Room, key: bool) -> None:
    """With an operator's key or without: it may be left of what was removed, or be placed before its certificate."""
    contexts = ContextCache(2, leaves, Workers(), clock)
    if key:
        room.path.parent.mkdir()
        room.path.with_suffix(".key").write_bytes(b"for another certificate")
    made = contexts.get("www.example.com")
    assert made
    for pruned in (False, True, True):
        if pruned:
            room.path.unlink(missing_ok=True)
        clock.advance(seconds=LOOK_SECONDS)
        assert contexts.find("www.example.com") is made
        until(lambda: not made.refreshing)
    assert leaves.count == 1


def test_the_store_of_a_running_proxy_stays_within_its_bound(room: Room, clock: Clock) -> None:
    leaves = Leaves(room.store, room.leaves._authority, KeyStock("p256"), Bound(room.store, 10))
    contexts = ContextCache(100, leaves, Workers(), clock)
    room.place(TestCA("operator").issue("www.example.com"))
    for number in range(40):
        contexts.get(f"{number}.example")
    until(lambda: len(list(room.store.paths())) <= 11)
    names = {entry.name for entry in room.store.entries()}
    assert "www.example.com" in names
    assert len(names) >= 5


def test_rsa_keys_are_made_ahead_once_one_was_taken(room: Room, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keys.AHEAD", 1)
    keys = KeyStock("rsa2048")
    contexts = ContextCache(2, Leaves(room.store, room.leaves._authority, keys), Workers(), clock)
    for name in (NAME, "a.example"):
        assert contexts.get(name)
        until(lambda: keys.is_full)


def test_a_store_is_tidied_by_one_at_a_time(leaves: Counted, clock: Clock) -> None:
    """Tidying starts every hour, and after leaves have been made; calls meanwhile do nothing."""
    under_way: list[int] = []
    found: list[int] = []

    class Tidying(Counted):
        def tidy(self, now: datetime) -> tuple[str, ...]:
            under_way.append(1)
            get_original("time", "sleep")(0.05)  # on a pool thread
            found.append(len(under_way))
            under_way.pop()
            return ()

    contexts = ContextCache(2, Tidying(leaves._store, None), Workers(), clock)
    tidying = [gevent.spawn(contexts.tidy) for _ in range(3)]
    gevent.joinall(tidying, raise_error=True)
    assert found == [1]


def test_what_is_made_while_a_store_is_tidied_is_tidied_too(leaves: Counted, clock: Clock) -> None:
    waits, release = os.pipe()
    tidied: list[int] = []

    class Tidying(Counted):
        is_tidy = False

        def tidy(self, now: datetime) -> tuple[str, ...]:
            tidied.append(self.count)
            assert get_original("select", "select")([waits], [], [], 10)[0]  # blocks this thread, not the hub
            return ()

    contexts = ContextCache(2, Tidying(leaves._store, leaves._authority), Workers(), clock)
    try:
        contexts.get("a.example")
        until(lambda: tidied)
        contexts.get("b.example")
    finally:
        os.close(release)
    until(lambda: tidied == [1, 2])
    os.close(waits)


def test_what_is_tidy_is_not_tidied(leaves: Counted, clock: Clock) -> None:
    tidied: list[datetime] = []

    class Tidy(Counted):
        def tidy(self, now: datetime) -> tuple[str, ...]:
            tidied.append(now)
            return ()

    workers = Workers(1)
    contexts = ContextCache(2, Tidy(leaves._store, leaves._authority), workers, clock)
    assert contexts.get(NAME)
    gevent.sleep(0)
    workers.run(int)  # whatever was queued before is done by now
    assert tidied == []


def test_what_openssl_refuses_is_moved_aside_or_made_anew(room: Room, leaves: Counted, clock: Clock) -> None:
    contexts = ContextCache(2, leaves, Workers(), clock)
    room.place(room.ca.issue(NAME, key=new_key(1024)))
    clock.advance(seconds=60)
    made = contexts.get(NAME)
    assert made is not None
    assert made.source == "made"
    assert room.path.with_name(room.path.name + ".rejected").exists()
    contexts.clear()
    stored = room.path.read_bytes()
    room.place(stored.replace(b"-----END CERTIFICATE-----", b"-----END CERTIFICATE-----,"))
    again = contexts.get(NAME)
    assert again is not None
    assert (again.source, again.serial) == ("made", made.serial + 1)
    contexts.clear()
    last = contexts.get(NAME)
    assert last is not None
    assert (last.source, last.serial) == ("disk", again.serial)


def test_what_openssl_has_no_memory_for_stays_where_it_is(
    room: Room, leaves: Counted, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That says nothing about the certificate, which is an operator's."""

    def fail(*_: object, **__: object) -> None:
        error = ssl.SSLError(1, "out of memory")
        error.reason = "MALLOC_FAILURE"
        raise error

    contexts = ContextCache(2, leaves, Workers(), clock)
    room.place(room.ca.issue(NAME))
    stored = room.path.read_bytes()
    clock.advance(seconds=60)
    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(ssl.SSLContext, "load_cert_chain", fail)
        with pytest.raises(RetrievalError, match="for now: malloc failure"):
            contexts.get(NAME)
    assert room.path.read_bytes() == stored
    found = contexts.get(NAME)
    assert found is not None
    assert (found.source, found.ours) == ("disk", False)


def test_what_openssl_refuses_is_not_made_again_and_again(leaves: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise NotServable("no")

    monkeypatch.setattr("contexts.server_context", refuse)
    with pytest.raises(NotServable):
        ContextCache(2, leaves, Workers()).get("a.example")
    assert leaves.count == 1


def test_what_openssl_refuses_costs_one_more_retrieval_and_no_more(
    leaves: Counted, clock: Clock, room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else files that can't be moved aside would be tried for ever, one after the other."""

    def refuse(*_: object) -> None:
        raise NotServable("no")

    monkeypatch.setattr("contexts.server_context", refuse)
    room.place(room.ca.issue(NAME))
    below = room.store.path("_.example.com")
    assert below
    below.parent.mkdir(exist_ok=True)
    below.write_bytes(room.ca.issue("*.example.com"))
    clock.advance(seconds=60)
    with pytest.raises(NotServable):
        ContextCache(2, leaves, Workers(), clock).get(NAME)
    assert leaves.count == 2
    assert (room.path.exists(), below.exists()) == (False, True)
