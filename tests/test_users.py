import base64
import codecs
from pathlib import Path

import bcrypt
import pytest

from errors import UsageError
from users import REMEMBER_SECONDS, Users, credentials_in

ALICE = (b"alice", b"open sesame")


def line(name: bytes, password: bytes, cost: int = 4) -> bytes:
    return name + b":" + bcrypt.hashpw(password, bcrypt.gensalt(cost)) + b"\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "users"
    path.write_bytes(b"# people\n\n \t\n" + line(*ALICE) + line(b"b\xc3\xb6b", b"\xff"))
    return path


def test_names_and_passwords(path: Path) -> None:
    users = Users(path)
    assert users.check(ALICE)
    assert users.check((b"b\xc3\xb6b", b"\xff"))
    for wrong in (
        (b"alice", b"open sesame "),
        (b"alice", b""),
        (b"Alice", ALICE[1]),
        (b"", b""),
        (b"alice", b"x" * 100),
    ):
        assert not users.check(wrong)


def test_names_and_passwords_in_latin_1_are_those_in_utf_8(tmp_path: Path) -> None:
    path = tmp_path / "users"
    path.write_bytes(line("Jörg".encode(), "Straße".encode()) + line(b"J\xf6rg", b"x"))
    users = Users(path)
    assert users.check(("Jörg".encode(), "Straße".encode()))
    assert users.check(("Jörg".encode("latin-1"), "Straße".encode("latin-1")))
    assert users.check((b"J\xf6rg", b"x"))  # an exact match in the file comes first
    assert not users.check(("Jörg".encode("latin-1"), "Strasse".encode("latin-1")))


def test_a_file_by_an_editor_that_marks_its_byte_order(path: Path) -> None:
    path.write_bytes(codecs.BOM_UTF8 + line(*ALICE).replace(b"\n", b" \r\n"))
    assert Users(path).check(ALICE)


def test_a_name_that_does_not_exist_costs_what_some_users_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Always the same cost, in every worker: otherwise the time would tell."""
    path = tmp_path / "users"
    path.write_bytes(line(*ALICE) + line(b"bob", b"x", 5))
    costs: list[int] = []
    check = bcrypt.checkpw

    def checkpw(password: bytes, hashed: bytes) -> bool:
        costs.append(int(hashed[4:6]))
        return check(password, hashed)

    monkeypatch.setattr(bcrypt, "checkpw", checkpw)
    names = [b"name%d" % number for number in range(64)]
    for users in (Users(path), Users(path)):
        # The password of the user whose hash is borrowed lets nobody in.
        assert not any(users.check((name, password)) for name in names for password in (ALICE[1], b"x"))
    one, other = costs[:128], costs[128:]
    assert one == other
    assert one[::2] == one[1::2]
    assert set(one) == {4, 5}


def test_a_password_longer_than_bcrypt_looks_at_is_not_cut(tmp_path: Path) -> None:
    path = tmp_path / "users"
    path.write_bytes(line(b"a", b"x" * 72))
    users = Users(path)
    assert users.check((b"a", b"x" * 72))
    assert not users.check((b"a", b"x" * 73))


def test_verified_pairs_are_remembered_for_a_while(path: Path) -> None:
    time = [0.0]
    users = Users(path, lambda: time[0])
    assert not users.remembered(ALICE)
    users.remember(ALICE)
    assert users.remembered(ALICE)
    assert not users.remembered((b"alic", b"eopen sesame"))
    time[0] = REMEMBER_SECONDS
    assert not users.remembered(ALICE)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no user"),
        (b"alice:secret\n", "line 1 is not of the form name:bcrypt hash"),
        (b"# x\nalice:$apr1$x$y\n", "line 2 is not"),
        # No client can say a name with a colon (RFC 7617 §2).
        (b"alice:x:" + bcrypt.hashpw(b"x", b"$2b$04$" + b"." * 22), "line 1 is not"),
        (b":" + bcrypt.hashpw(b"x", b"$2b$04$" + b"." * 22), "line 1 is not"),
        # bcrypt rejects its salt, in which padding bits are set, as old versions of passlib wrote it.
        (b"alice:$2y$05$uf89VBYagpNiX.hHCCCA0/gUPAzBMD9mGFtXdWDtAsJa7TuzZ7xRe\n", "line 1 is not"),
        (None, "can't read it"),
    ],
)
def test_bad_files(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "users"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=message):
        Users(path)


def test_what_htpasswd_makes(tmp_path: Path) -> None:
    """Recorded output of `htpasswd -nbBC 5 carol secret`."""
    path = tmp_path / "users"
    path.write_text("carol:$2y$05$uf89VBYagpNiX.hHCCCA0ugUPAzBMD9mGFtXdWDtAsJa7TuzZ7xRe\n")
    users = Users(path)
    assert users.check((b"carol", b"secret"))
    assert not users.check((b"carol", b"Secret"))


@pytest.mark.parametrize(
    ("field", "found"),
    [
        ("Basic YWxpY2U6b3BlbiBzZXNhbWU=", ALICE),
        ("basic  YTpiOmM=", (b"a", b"b:c")),
        ("Basic YQ==", None),
        ("Basic ***", None),
        ("Basic YTp*iOmM=", None),
        ("Basic é", None),
        ("Bearer YTpi", None),
        ("", None),
        ("Basic " + base64.b64encode(b"a:b\0c").decode(), None),
    ],
)
def test_credentials(field: str, found: tuple[bytes, bytes] | None) -> None:
    assert credentials_in(field) == found
