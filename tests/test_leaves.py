from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat
from pki import TestCA, key_pem, new_key, now
from test_signer import files

from errors import RetrievalError
from keys import KeyStock
from leaves import Leaves
from signer import Authority
from store import MARK, Store, Stored

NAME = "www.example.com"


class Room:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = Store(folder / "certs")
        self.ca = TestCA("one")
        self.leaves = Leaves(self.store, Authority(files(folder, self.ca)), KeyStock("p256"))
        self.off = Leaves(self.store, None, KeyStock("p256"))
        path = self.store.path(NAME)
        assert path is not None
        self.path = path

    def place(self, content: bytes) -> None:
        self.path.parent.mkdir(exist_ok=True)
        self.path.write_bytes(content)


@pytest.fixture
def room(tmp_path: Path) -> Room:
    return Room(tmp_path)


def test_made_once_and_then_from_disk(room: Room) -> None:
    made = room.leaves.retrieve(NAME, now())
    again = room.leaves.retrieve(NAME, now())
    assert made is not None
    assert again is not None
    assert (made.source, again.source) == ("made", "disk")
    assert made.serial == again.serial
    assert made.notes == again.notes == ()
    assert room.path.read_bytes() == MARK + made.pem
    assert made.renew_at < made.not_after


def test_generation_off(room: Room) -> None:
    assert room.off.retrieve(NAME, now()) is None
    room.leaves.retrieve(NAME, now())
    stored = room.off.retrieve(NAME, now())
    assert stored is not None
    assert stored.source == "disk"


@pytest.mark.parametrize("days", [29, 31])
def test_renewed_when_a_third_is_left_but_served_meanwhile(room: Room, days: int) -> None:
    made = room.leaves.retrieve(NAME, now())
    later = now() + timedelta(days=days)
    served = room.leaves.retrieve(NAME, later)
    renewed = room.leaves.retrieve(NAME, later, renew=True)
    assert made
    assert served
    assert renewed
    assert served.serial == made.serial
    assert (served.renew_at <= later) == (renewed.serial != made.serial) == (days > 30)
    if days > 30:
        assert renewed.notes[0].startswith(f"reissuing the certificate for {NAME}: less than a third")
        assert room.path.read_bytes() == MARK + renewed.pem


def test_an_expired_one_is_reissued_at_once(room: Room) -> None:
    made = room.leaves.retrieve(NAME, now())
    later = room.leaves.retrieve(NAME, now() + timedelta(days=46))
    assert made
    assert later
    assert later.serial != made.serial
    assert room.path.read_bytes() == MARK + later.pem


def test_after_another_ca(room: Room) -> None:
    made = room.leaves.retrieve(NAME, now())
    other = Leaves(room.store, Authority(files(room.folder, TestCA("two"))), KeyStock("p256"))
    reissued = other.retrieve(NAME, now())
    assert made is not None
    assert reissued is not None
    assert reissued.notes == (f"reissuing the certificate for {NAME}: it was signed by another CA",)
    assert room.path.read_bytes() == MARK + reissued.pem


@pytest.mark.parametrize("names", [(NAME,), ("*.example.com",), ("a.example", "WWW.example.com")])
def test_an_operators_certificate_is_served_whoever_signed_it(room: Room, names: tuple[str, ...]) -> None:
    room.place(TestCA("stranger").issue(*names, key=new_key(2048)))
    for leaves in (room.leaves, room.off):
        leaf = leaves.retrieve(NAME, now())
        assert leaf is not None
        assert (leaf.source, leaf.notes) == ("disk", ())


def test_an_operators_wildcard(room: Room) -> None:
    path = room.store.path("_.example.com")
    assert path
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(TestCA("stranger").issue("*.example.com"))
    own = room.leaves.retrieve("a.b.example.com", now())
    assert own
    assert own.source == "made"
    leaf = room.leaves.retrieve(NAME, now())
    assert leaf
    assert (leaf.source, leaf.pem) == ("disk", path.read_bytes())


def test_a_bad_file_in_a_store_that_is_read_only_is_told_once(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(_: object) -> bool:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(room.store, "reject", read_only)
    room.place(b"rubbish")
    first, second = room.leaves.retrieve(NAME, now()), room.leaves.retrieve(NAME, now())
    assert first
    assert second
    assert [note for note in first.notes if "can't be moved aside: Read-only file system" in note]
    assert not [note for note in second.notes if "moved aside" in note]


def test_an_operators_key_beside_it(room: Room) -> None:
    key = new_key()
    room.place(room.ca.issue(NAME, key=key, with_key=False))
    room.path.with_suffix(".key").write_bytes(key_pem(key))
    leaf = room.off.retrieve(NAME, now())
    assert leaf is not None
    assert leaf.pem.endswith(key_pem(key))


def sealed() -> bytes:
    return new_key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x"))


def bad(ca: TestCA) -> dict[str, bytes]:
    return {
        "no certificate that can be read": b"rubbish",
        "no private key": ca.issue(NAME, with_key=False),
        "belongs to another certificate": ca.issue(NAME, with_key=False) + key_pem(new_key()),
        "passphrase": ca.issue(NAME, with_key=False) + sealed(),
        "can't be read": ca.issue(NAME, with_key=False)
        + b"-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----\n",
        "not for this name": ca.issue("example.com", "*.www.example.com", "*.com"),
        "it ends on": ca.issue(NAME, ends=timedelta(minutes=1)),
        "not valid before": ca.issue(NAME, begins=timedelta(days=1)),
        "no subject alternative name": ca.pem + key_pem(ca.key),
    }


@pytest.mark.parametrize("reason", list(bad(TestCA("x"))))
@pytest.mark.parametrize("generation", [True, False])
def test_an_unusable_operators_file_is_moved_aside(room: Room, reason: str, generation: bool) -> None:
    content = bad(room.ca)[reason]
    room.place(content)
    leaf = (room.leaves if generation else room.off).retrieve(NAME, now())
    aside = room.path.with_name(room.path.name + ".rejected")
    assert aside.read_bytes() == content
    if generation:
        assert leaf is not None
        assert leaf.source == "made"
        assert reason in leaf.notes[0]
    else:
        assert leaf is None


def test_a_damaged_file_of_our_own_is_replaced(room: Room) -> None:
    room.place(MARK + b"rubbish")
    leaf = room.leaves.retrieve(NAME, now())
    assert leaf is not None
    assert "can be read" in leaf.notes[0]
    assert room.path.read_bytes() == MARK + leaf.pem


def test_another_process_wins(room: Room) -> None:
    class Late(Store):
        def load(self, name: str) -> list[Stored]:  # sees nothing: the other process stores after our look
            return []

    winner = room.leaves.retrieve(NAME, now())
    loser = Leaves(Late(room.store.root), Authority(files(room.folder, room.ca)), KeyStock("p256")).retrieve(
        NAME, now()
    )
    assert winner is not None
    assert loser is not None
    assert (loser.serial, loser.source) == (winner.serial, "disk")


def test_a_full_disk_costs_a_warning(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(room.store, "save", full)
    leaf = room.leaves.retrieve(NAME, now())
    assert leaf is not None
    assert leaf.notes == ("the store failed, certificates are in memory only: No space left on device",)
    again = room.leaves.retrieve("other.example", now())
    assert again is not None
    assert again.notes == ()


def test_a_long_name_is_in_memory_only(room: Room) -> None:
    name = ".".join(["a" * 60] * 4)
    one, two = room.leaves.retrieve(name, now()), room.leaves.retrieve(name, now())
    assert one is not None
    assert two is not None
    assert (one.source, one.notes, two.source) == ("made", (), "made")
    assert one.serial != two.serial


@pytest.mark.parametrize("content", ["x", None])
def test_no_serial_no_leaf(room: Room, content: str | None) -> None:
    serial = room.folder / "serial.txt"
    serial.unlink() if content is None else serial.write_text(content)
    with pytest.raises(RetrievalError, match="serial"):
        room.leaves.retrieve(NAME, now())
    assert not room.path.exists()


def test_another_key_type_is_reissued(room: Room) -> None:
    made = room.leaves.retrieve(NAME, now())
    leaves = Leaves(room.store, Authority(files(room.folder, room.ca)), KeyStock("rsa2048"))
    reissued = leaves.retrieve(NAME, now())
    assert made
    assert reissued
    assert reissued.notes == (f"reissuing the certificate for {NAME}: its key is not rsa2048",)
