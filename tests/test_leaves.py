import base64
import codecs
import errno
import os
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from pki import TestCA, key_pem, new_key, now
from storeroom import LATER, NAME, Room
from test_signer import authority_for, files

import reading
from errors import RetrievalError
from keys import KeyStock
from leaf import Unsettled, Unusable, read
from leaves import Leaves
from pruning import Bound, prune
from store import Store
from stored import MARK, Entry, Stored
from tlsconfig import server_context


@pytest.mark.parametrize("ahead", [-0.5, 0.5])
def test_an_operators_file_that_was_written_just_now_is_left_alone(room: Room, ahead: float) -> None:
    """Also if the retrieval waited for a thread and the file is newer than the time it was given."""
    room.place(b"half a file")
    when = datetime.now(UTC)
    os.utime(room.path, times=(when.timestamp() + ahead,) * 2)
    with pytest.raises(Unsettled):
        room.retrieve(NAME, when)
    assert room.path.exists()
    os.utime(room.path, times=(when.timestamp() + 4 * ahead,) * 2)  # long ago, or by a clock that is wrong
    assert room.retrieve(NAME, when + LATER) is not None
    assert room.path.with_name(room.path.name + ".rejected").read_bytes() == b"half a file"


@pytest.mark.parametrize("link", [True, False])
@pytest.mark.parametrize("ahead", [-3600, 3600])
def test_an_old_file_that_came_just_now_is_left_alone(room: Room, link: bool, ahead: float) -> None:
    """A copy that preserves its mtime (cp -p, rsync -a), if by another machine's clock, or a symlink: its key may
    still follow.
    """
    key = new_key()
    room.place(room.ca.issue(NAME, key=key, with_key=False))
    os.utime(room.path, times=(time.time() + ahead,) * 2)
    if link:
        old = room.path.rename(room.path.with_name("old.pem"))
        room.path.symlink_to(old)
    with pytest.raises(Unsettled):
        room.retrieve(NAME, datetime.fromtimestamp(room.path.lstat().st_ctime, UTC))
    room.path.with_suffix(".key").write_bytes(key_pem(key))
    leaf = room.retrieve(NAME, now())
    assert leaf
    assert not leaf.ours


def test_what_a_link_leads_to_may_have_been_written_just_now(room: Room) -> None:
    target, when = room.folder / "half.pem", now() + timedelta(hours=1)  # when the link is an hour old
    target.write_bytes(b"half a file")
    os.utime(target, times=(when.timestamp() - 0.5,) * 2)
    room.path.parent.mkdir()
    room.path.symlink_to(target)
    with pytest.raises(Unsettled):
        room.retrieve(NAME, when)


@pytest.mark.parametrize("name", [NAME, "127.0.0.1", "::1"])
def test_made_once_and_then_from_disk(room: Room, name: str) -> None:
    made = room.retrieve(name, now())
    again = room.retrieve(name, now())
    assert made is not None
    assert again is not None
    assert (made.source, again.source) == ("made", "disk")
    assert made.serial == again.serial
    assert room.notes == []
    path = room.store.path(name)
    assert path
    assert path.read_bytes() == MARK + made.pem
    assert made.renew_at < made.not_after
    if name != NAME:  # an operator's for another address
        path.write_bytes(room.ca.issue("127.0.0.2", "::2"))
        room.retrieve(name, now() + LATER)
        assert f"{path} can't be used for {name}: it is not for this name" in room.notes[0]


def test_generation_off(room: Room) -> None:
    assert room.retrieve(NAME, now(), leaves=room.off) is None
    room.retrieve(NAME, now())
    stored = room.retrieve(NAME, now(), leaves=room.off)
    assert stored is not None
    assert stored.source == "disk"


@pytest.mark.parametrize("days", [29, 31])
def test_renewed_when_a_third_is_left_but_served_meanwhile(room: Room, days: int) -> None:
    made = room.retrieve(NAME, now())
    later = now() + timedelta(days=days)
    served = room.retrieve(NAME, later)
    renewed = room.retrieve(NAME, later, renew=True)
    assert made
    assert served
    assert renewed
    assert served.serial == made.serial
    assert (served.renew_at <= later) == (renewed.serial != made.serial) == (days > 30)
    if days > 30:
        assert room.notes == []  # nothing to warn of
        assert room.path.read_bytes() == MARK + renewed.pem


def test_an_expired_one_is_reissued_at_once(room: Room) -> None:
    made = room.retrieve(NAME, now())
    later = room.retrieve(NAME, now() + timedelta(days=46))
    assert made
    assert later
    assert later.serial != made.serial
    assert room.path.read_bytes() == MARK + later.pem


def test_after_another_ca(room: Room) -> None:
    made = room.retrieve(NAME, now())
    other = Leaves(room.store, authority_for(files(room.folder, TestCA("two"))), KeyStock("p256"))
    reissued = room.retrieve(NAME, now(), leaves=other)
    assert made is not None
    assert reissued is not None
    assert room.notes == [f"reissued the certificate for {NAME}: it was signed by another CA"]
    assert room.path.read_bytes() == MARK + reissued.pem


def test_nothing_is_said_to_be_reissued_by_a_ca_that_has_expired(room: Room) -> None:
    room.retrieve(NAME, now())
    other = Leaves(room.store, authority_for(files(room.folder, TestCA("two"))), KeyStock("p256"))
    with pytest.raises(RetrievalError, match="expired"):
        room.retrieve(NAME, now() + timedelta(days=40_000), leaves=other)
    assert room.notes == []


def test_after_an_intermediate_was_added_to_the_file_of_the_ca(room: Room) -> None:
    """Clients that trust only the root could not verify the leaf stored before."""
    upper = TestCA("upper", parent=TestCA("root"))
    lower = TestCA("lower", parent=upper)
    alone = Leaves(room.store, authority_for(files(room.folder, lower)), KeyStock("p256"))
    whole = Leaves(room.store, authority_for(files(room.folder, lower, chain=upper.pem)), KeyStock("p256"))
    made = room.retrieve(NAME, now(), leaves=alone)
    assert made is not None
    assert upper.pem not in made.pem
    reissued = room.retrieve(NAME, now(), leaves=whole)
    assert reissued is not None
    assert lower.pem + upper.pem in reissued.pem
    assert room.notes[0] == f"reissued the certificate for {NAME}: its intermediate certificates are not the CA's"
    assert room.path.read_bytes() == MARK + reissued.pem
    again = room.retrieve(NAME, now(), leaves=whole)
    assert again is not None
    assert again.pem == MARK + reissued.pem


def test_after_the_ca_was_issued_anew_with_another_key_identifier(room: Room) -> None:
    made = room.retrieve(NAME, now())
    room.ca.pem = TestCA("one", key=room.ca.key, strict=False).pem  # without an identifier: the key's hash, as before
    alike = Leaves(room.store, authority_for(files(room.folder, room.ca)), KeyStock("p256"))
    stored = room.retrieve(NAME, now(), leaves=alike)
    assert made is not None
    assert stored is not None
    assert stored.serial == made.serial
    extension = x509.SubjectKeyIdentifier(b"another")
    room.ca.pem = TestCA("one", key=room.ca.key, identifier=extension).pem
    other = Leaves(room.store, authority_for(files(room.folder, room.ca)), KeyStock("p256"))
    assert room.retrieve(NAME, now(), leaves=other) is not None
    assert room.notes[-1] == f"reissued the certificate for {NAME}: the CA's certificate has another key identifier now"


@pytest.mark.parametrize(("lived", "left"), [(timedelta(days=365), 10), (timedelta(minutes=16), 4)])
def test_served_until_five_minutes_before_the_end_or_a_tenth_of_a_life_of_minutes(
    room: Room, lived: timedelta, left: int
) -> None:
    ends = timedelta(minutes=left)
    room.place(TestCA("operator").issue(NAME, begins=-lived, ends=ends))
    when = now()
    found = room.retrieve(NAME, when)
    assert found is not None
    assert found.source == "disk"
    margin = min(timedelta(minutes=5), (lived + ends) / 10)
    assert timedelta(seconds=-30) < found.not_after - when - (ends - margin) <= timedelta()
    assert found.renew_at == found.not_after  # an operator's is not renewed, so it is not due before its end
    for moment, served in (
        (found.not_before - timedelta(seconds=1), False),
        (found.not_before, True),
        (found.not_after - timedelta(seconds=1), True),
        (found.not_after, False),
    ):
        stored = Stored(found.pem, ours=False, path=room.path)
        with nullcontext() if served else pytest.raises(Unusable):
            assert read(stored, NAME, moment)[0] == replace(found, stamp=())


def test_without_a_ca_one_of_our_own_is_served_to_its_end(room: Room) -> None:
    made = room.retrieve(NAME, now())
    found = room.retrieve(NAME, now() + timedelta(days=31), renew=True, leaves=room.off)
    assert made
    assert found
    assert found.serial == made.serial


def test_without_a_ca_a_store_that_cannot_be_read_is_an_error(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """The unreadable file may be for this name; None would let the tunnel pass untouched."""

    content = reading.content_and_stat

    def fails(path: Path, most: int) -> tuple[bytes, os.stat_result]:
        if path.suffix == ".crt":
            raise OSError(5, "Input/output error")
        return content(path, most)

    room.place(room.ca.issue(NAME))
    monkeypatch.setattr("reading.content_and_stat", fails)
    with pytest.raises(RetrievalError, match="can't read the stored certificate"):
        room.retrieve(NAME, now(), leaves=room.off)
    assert room.retrieve(NAME, now())
    assert room.path.exists()


def test_what_is_used_is_touched_or_it_would_be_pruned(room: Room) -> None:
    room.retrieve(NAME, now())
    os.utime(room.path, times=(time.time() - 86_400,) * 2)
    room.retrieve(NAME, now())
    assert time.time() - room.path.stat().st_mtime < 3600


@pytest.mark.parametrize("names", [(NAME,), ("*.example.com",), ("a.example", "WWW.example.com")])
def test_an_operators_certificate_is_served_whoever_signed_it(room: Room, names: tuple[str, ...]) -> None:
    room.place(TestCA("stranger").issue(*names, key=new_key(2048)))
    for leaves in (room.leaves, room.off):
        leaf = room.retrieve(NAME, now(), leaves=leaves)
        assert leaf is not None
        assert (leaf.source, room.notes) == ("disk", [])


def test_an_operators_wildcard(room: Room) -> None:
    path = room.store.path("_.example.com")
    assert path
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(TestCA("stranger").issue("*.example.com"))
    own = room.retrieve("a.b.example.com", now())
    assert own
    assert own.source == "made"
    leaf = room.retrieve(NAME, now())
    assert leaf
    assert (leaf.source, leaf.pem) == ("disk", path.read_bytes())


def test_an_operators_wildcard_that_is_broken_is_moved_aside(room: Room) -> None:
    """Only a wildcard for other names is skipped and left in place."""
    path = room.store.path("_.example.com")
    assert path
    path.parent.mkdir(exist_ok=True)
    for content, stays in ((b"rubbish", False), (room.ca.issue("*.example.org"), True)):
        path.write_bytes(content)
        os.utime(path, times=(time.time() - 10,) * 2)
        assert room.retrieve(NAME, now() + LATER)
        assert path.exists() == stays
    assert path.with_name(path.name + ".rejected").read_bytes() == b"rubbish"


def test_a_file_that_changed_meanwhile_stays_and_is_not_said_to_be_moved_aside(room: Room) -> None:
    class Changed(Store):
        def reject(self, stored: Stored) -> bool:
            stored.path.write_bytes(b"other")
            return super().reject(stored)

    leaves = Leaves(Changed(room.store.root), room.leaves._authority, KeyStock("p256"))
    room.place(b"rubbish")
    leaf = room.retrieve(NAME, now() + LATER, leaves=leaves)
    assert leaf
    assert not leaf.in_store
    assert room.notes == [f"{room.path} can't be used for {NAME}: it holds no certificate that can be read"]
    assert room.path.read_bytes() == b"other"


def test_a_bad_file_in_a_store_that_is_read_only_is_told_once(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(_: object) -> bool:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(room.store, "reject", read_only)
    when = now() + LATER
    room.place(b"rubbish")
    assert room.retrieve(NAME, when)
    assert [note for note in room.notes if "can't be moved aside: Read-only file system" in note]
    assert room.retrieve(NAME, when)
    assert not [note for note in room.notes if "moved aside" in note]


def test_an_operators_key_beside_it(room: Room) -> None:
    key = new_key()
    room.place(room.ca.issue(NAME, key=key, with_key=False))
    room.path.with_suffix(".key").write_bytes(key_pem(key))
    leaf = room.retrieve(NAME, now(), leaves=room.off)
    assert leaf is not None
    assert leaf.pem.endswith(key_pem(key))


def test_an_operators_key_before_its_certificate(room: Room) -> None:
    key = new_key()
    room.place(key_pem(key) + room.ca.issue(NAME, key=key, with_key=False))
    leaf = room.retrieve(NAME, now(), leaves=room.off)
    assert leaf is not None
    server_context(leaf.pem)


def test_an_operators_key_by_a_windows_editor(room: Room) -> None:
    key = new_key()
    room.place(codecs.BOM_UTF8 + room.ca.issue(NAME, key=key, with_key=False).replace(b"\n", b"\r\n"))
    room.path.with_suffix(".key").write_bytes(codecs.BOM_UTF8 + key_pem(key).replace(b"\n", b"\r\n"))
    leaf = room.retrieve(NAME, now(), leaves=room.off)
    assert leaf is not None
    server_context(leaf.pem)


def test_an_old_certificate_whose_key_is_being_placed_is_left_alone(room: Room) -> None:
    room.place(room.ca.issue(NAME, with_key=False))
    room.path.with_suffix(".key").write_bytes(key_pem(new_key())[:50])
    with pytest.raises(Unsettled):
        room.retrieve(NAME, now())
    assert room.path.exists()


def sealed() -> bytes:
    return new_key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x"))


def of_an_unknown_curve() -> bytes:
    der = new_key().private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    curve, unknown = bytes.fromhex("2a8648ce3d030107"), bytes.fromhex("2a8648ce3d03017f")
    assert curve in der
    text = base64.encodebytes(der.replace(curve, unknown))
    return b"-----BEGIN PRIVATE KEY-----\n" + text + b"-----END PRIVATE KEY-----\n"


def bad(ca: TestCA) -> dict[str, bytes]:
    return {
        "no certificate that can be read": b"rubbish",
        "no private key": ca.issue(NAME, with_key=False),
        "belongs to another certificate": ca.issue(NAME, with_key=False) + key_pem(new_key()),
        "passphrase": ca.issue(NAME, with_key=False) + sealed(),
        "can't be read": ca.issue(NAME, with_key=False)
        + b"-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----\n",
        "its private key can't be read": ca.issue(NAME, with_key=False) + of_an_unknown_curve(),
        "not for this name": ca.issue("example.com", "*.www.example.com", "*.com"),
        "it ends on": ca.issue(NAME, ends=timedelta(minutes=1)),
        "not valid before": ca.issue(NAME, begins=timedelta(days=1)),
        "no subject alternative name": ca.pem + key_pem(ca.key),
        "its first certificate, which has to be the server's, has no": ca.pem + ca.issue(NAME),
        "it holds no certificate that can be read": ca.issue(NAME)
        + b"-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n",
    }


@pytest.mark.parametrize("reason", list(bad(TestCA("x"))))
@pytest.mark.parametrize("generation", [True, False])
def test_an_unusable_operators_file_is_moved_aside(room: Room, reason: str, generation: bool) -> None:
    content = bad(room.ca)[reason]
    room.place(content)
    leaf = room.retrieve(NAME, now() + LATER, leaves=room.leaves if generation else room.off)
    aside = room.path.with_name(room.path.name + ".rejected")
    assert aside.read_bytes() == content
    assert reason in room.notes[0]
    if generation:
        assert leaf is not None
        assert leaf.source == "made"
    else:
        assert leaf is None


def test_a_damaged_file_of_our_own_is_replaced(room: Room) -> None:
    room.place(MARK + b"rubbish")
    leaf = room.retrieve(NAME, now())
    assert leaf is not None
    assert "can be read" in room.notes[0]
    assert room.path.read_bytes() == MARK + leaf.pem


def test_another_process_wins(room: Room) -> None:
    class Late(Store):
        def load(self, *_: object) -> list[Stored]:  # finds nothing: the other process stores its own after our lookup
            return []

    winner = room.retrieve(NAME, now())
    late = Leaves(Late(room.store.root), authority_for(room.files), KeyStock("p256"))
    loser = room.retrieve(NAME, now(), leaves=late)
    assert winner is not None
    assert loser is not None
    assert (loser.serial, loser.source) == (winner.serial, "disk")


def test_a_full_disk_costs_a_warning(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(room.store, "save", full)
        leaf = room.retrieve(NAME, now())
        assert leaf is not None
        assert not leaf.in_store
        failed = ["the store failed, certificates are in memory only: No space left on device"]
        assert room.notes == failed
        again = room.retrieve("other.example", now())
        assert again is not None
        assert room.notes == []
    long = room.retrieve(".".join(["a" * 60] * 4), now())
    assert long is not None
    assert (long.in_store, room.notes) == (False, [])
    assert room.retrieve("third.example", now()) is not None
    assert room.notes == ["the store can be written again"]
    assert room.retrieve("fourth.example", now()) is not None
    assert room.notes == []
    monkeypatch.setattr(room.store, "save", full)
    assert room.retrieve("fifth.example", now()) is not None
    assert room.notes == failed  # a new failure is reported again


def test_a_store_with_many_processes_on_it_stays_within_its_bound(room: Room) -> None:
    """Though each stores only a few; also after a change of CA, whose serial numbers start over."""
    number = count(1)
    for authority in (TestCA("one"), TestCA("two")):
        signer = authority_for(files(room.folder, authority))
        processes = [Leaves(room.store, signer, KeyStock("p256"), Bound(room.store, 20)) for _ in range(8)]
        most = 0
        for _ in range(10):
            for leaves in processes:
                room.retrieve(f"{next(number)}.example", now(), leaves=leaves)
                leaves.tidy(now())
                most = max(most, len(list(room.store.paths())))
        assert 18 <= most <= 21


def test_a_store_that_is_just_full_loses_nothing(room: Room) -> None:
    """An operator's do not count. Later serial numbers may be lower by far, as another CA's: they are counted too."""
    bound = Bound(room.store, 10)
    room.place(room.ca.issue(NAME))
    for number in range(10):
        room.store.save(f"{number}.example", room.ca.issue(NAME))
    bound.saved(1000)
    assert bound.keep(time.time()) is None
    room.store.save("10.example", room.ca.issue(NAME))
    bound.saved(3)
    pruned = bound.keep(time.time())
    assert pruned is not None
    assert (len(pruned.removed), pruned.kept) == (2, 9)


def test_what_is_removed_while_a_store_is_pruned_is_passed_over(room: Room) -> None:
    for name in "ab":
        room.store.save(f"{name}.example", room.ca.issue(NAME, ends=timedelta(days=-1)))

    def walk(entries: Iterable[Entry]) -> Iterator[Entry]:
        for entry in entries:
            if entry.name == "a.example":
                entry.path.unlink()
            yield entry

    assert [gone.name for gone in prune(room.store, time.time(), walk=walk).removed] == ["b.example"]


def test_what_a_bounded_store_loses_is_told(room: Room) -> None:
    bounded = Leaves(room.store, room.leaves._authority, KeyStock("p256"), Bound(room.store, 2))
    told = list[tuple[str, ...]]()
    for name, leaves in zip("abcdef", (bounded,) * 3 + (room.leaves,) * 2 + (bounded,), strict=True):
        room.retrieve(f"{name}.example", now(), leaves=leaves)
        told.append(leaves.tidy(now()))
    one, three = "1 certificate", "3 certificates"
    lost = [(f"removed {what} from the store, unused longest (--store-max)",) for what in (one, three)]
    assert told == [(), (), lost[0], (), (), lost[1]]


def test_what_keeps_a_store_above_its_bound_is_told_once(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    bounded = Leaves(room.store, room.leaves._authority, KeyStock("p256"), Bound(room.store, 2))
    real = os.unlink
    kept = room.store.path("b.example")

    def unlink(path: str | os.PathLike[str]) -> None:
        if os.fspath(path) == os.fspath(str(kept)):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        real(path)

    monkeypatch.setattr(os, "unlink", unlink)
    told = list[str]()
    for age, name in enumerate("abcdef"):
        room.retrieve(f"{name}.example", now() - timedelta(hours=10 - age), leaves=bounded)
        told += bounded.tidy(now())
    assert told.count(f"the store can't be kept to --store-max: {kept} can't be removed: Permission denied") == 1
    assert len(told) > 1  # of the others, that they are removed
    assert kept in set(room.store.paths())


def test_a_bounded_store_is_not_walked_through_for_each_new_name(room: Room) -> None:
    walks = []

    class Walked(Store):
        def entries(self) -> Iterator[Entry]:
            walks.append(1)
            return super().entries()

    store = Walked(room.store.root)
    leaves = Leaves(store, room.leaves._authority, KeyStock("p256"), Bound(store, 20))
    for number in range(60):
        room.retrieve(f"{number}.example", now(), leaves=leaves)
        leaves.tidy(now())
    assert len(walks) <= 30  # once full, one count and one prune for every third name


def test_a_long_name_is_in_memory_only(room: Room) -> None:
    name = ".".join(["a" * 60] * 4)
    one, two = room.retrieve(name, now()), room.retrieve(name, now())
    assert one is not None
    assert two is not None
    assert (one.source, room.notes, two.source) == ("made", [], "made")
    assert one.serial != two.serial


@pytest.mark.parametrize("content", ["x", None])
def test_no_serial_no_leaf(room: Room, content: str | None) -> None:
    serial = room.folder / "serial.txt"
    serial.unlink() if content is None else serial.write_text(content)
    with pytest.raises(RetrievalError, match=re.escape(str(serial))):
        room.retrieve(NAME, now())
    assert not room.path.exists()


def test_another_key_type_is_reissued(room: Room) -> None:
    made = room.retrieve(NAME, now())
    leaves = Leaves(room.store, authority_for(room.files), KeyStock("rsa2048"))
    reissued = room.retrieve(NAME, now(), leaves=leaves)
    assert made
    assert reissued
    assert room.notes == [f"reissued the certificate for {NAME}: its key is not rsa2048"]


def test_keys_of_another_process_are_left_as_it_wants_them(room: Room) -> None:
    """Otherwise two processes that share a store but want different keys would reissue each other's forever."""
    other = Leaves(room.store, authority_for(room.files), KeyStock("rsa2048"))
    made = room.retrieve(NAME, now(), leaves=other)
    os.utime(room.path, times=(time.time() - 86_400,) * 2)  # as after a renewal, which does not count as use
    found = room.retrieve(NAME, now())  # by a process that started before it was stored
    assert made
    assert found
    assert (found.source, found.serial, room.notes) == ("disk", made.serial, [])
