import errno
import json
import logging
import os
import re
import resource
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from select import PIPE_BUF

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from watching import Seen

import accesslog
import linefile
import log
from exchange import Exchange, Fields
from linefile import LineFile
from log import MAX_URL, MAX_VALUE
from record import Record
from requestlog import FORMATS, as_json, combined, text

COMBINED = re.compile(  # as log analysers parse it
    r'(\S+) - - \[(\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d \+0000)\] "(\S+) (\S+) HTTP/(\d\.\d)" (\d{3}) (\d+|-)'
    r' "((?:[^"\\]|\\.)*)" "((?:[^"\\]|\\.)*)"'
)


def exchange(
    method: str = "GET", authority: str = "a.example", target: str = "/x", fields: Fields | None = None,
    status: int = 200, kind: bytes = b"text/html; charset=utf-8",
) -> Exchange:  # fmt: skip
    """A finished exchange with known times."""
    recorder = Seen().recorder()
    made = recorder.request(method, authority, target, "1.1", fields or [])
    recorder.response(made, status, "OK", [(b"Content-Type", kind), (b"Set-Cookie", b"secret")], made.began + 0.0123)
    made.started, made.ended = 1795497163.953, made.began + 1.5
    made.request_octets, made.response_octets = 12, 3456
    return made


def test_text() -> None:
    assert text(exchange()) == (
        "2026-11-24T05:12:43.953Z request client=127.0.0.1:50818 method=GET url=https://a.example/x http=1.1 status=200"
        " sent=12 received=3456 first_ms=12.3 ms=1500.0 type=text/html"
    )


def test_json() -> None:
    assert json.loads(as_json(exchange())) == {
        "time": "2026-11-24T05:12:43.953Z", "kind": "request", "client": "127.0.0.1:50818", "method": "GET", "url": "https://a.example/x",
        "http": "1.1", "status": 200, "sent": 12, "received": 3456, "first_ms": 12.3, "ms": 1500.0, "type": "text/html",
        "upgrade": None, "pushed": False, "user": None, "error": None, "note": None,
    }  # fmt: skip


def test_combined() -> None:
    fields = [(b"Referer", b"https://b.example/"), (b"User-Agent", b'a "quoted" agent')]
    made = exchange(fields=fields)
    line = (
        '127.0.0.1 - - [24/Nov/2026:05:12:43 +0000] "GET https://a.example/x HTTP/1.1" 200 3456'
        ' "https://b.example/" "a \\"quoted\\" agent"'
    )
    assert combined(made) == line
    made.connection = replace(made.connection, client="[2001:db8::1]:50818")
    assert combined(made) == line.replace("127.0.0.1", "2001:db8::1")


@pytest.mark.parametrize("form", FORMATS.values())
def test_a_url_is_cut_where_others_are_too_in_every_format(form: Callable[[Exchange], str]) -> None:
    for octets, whole in ((MAX_VALUE + 1, True), (MAX_URL + 1, False)):
        path = "/" + "x" * octets + "end"
        record = Record("127.0.0.1:50818", kind="request", method="GET", url=f"http://a.example{path}")
        record_form = dict(zip(FORMATS.values(), accesslog.FORMATS.values(), strict=True))[form]
        for line in (form(exchange(target=path)), record_form(record)):
            assert (path in line) is whole
            assert "x" * (MAX_URL - 100) in line or whole


def test_of_a_content_type_only_the_media_type_is_told() -> None:
    made = exchange(kind=b' text/html ; charset=utf-8; x="a;b"')
    assert text(made).endswith(" type=text/html")
    assert json.loads(as_json(made))["type"] == "text/html"


def test_who_asked() -> None:
    made = exchange()
    made.connection = replace(made.connection, user='al "ice')
    assert text(made).endswith(r'type=text/html user="al \"ice"')
    assert json.loads(as_json(made))["user"] == 'al "ice'
    assert combined(made).startswith(r"127.0.0.1 - al%20\"ice [24/Nov/2026")


def test_what_did_not_come() -> None:
    made = Seen().recorder().request("GET", "a", "/", "2", [])
    made.error = "no response"
    assert text(made).endswith(' http=2 status=- sent=0 received=0 first_ms=- ms=- type=- error="no response"')
    told = json.loads(as_json(made))
    assert (told["status"], told["first_ms"], told["ms"], told["type"], told["error"]) == (None,) * 4 + ("no response",)
    assert combined(made).endswith('"GET https://a/ HTTP/2.0" 000 - "-" "-"')


def test_upgrade_push_and_note() -> None:
    made = exchange(status=101)
    made.upgrade, made.pushed, made.note = "web socket", True, 'a "note"'
    assert text(made).endswith(r' type=text/html upgrade="web socket" pushed=yes note="a \"note\""')
    told = json.loads(as_json(made))
    assert (told["upgrade"], told["pushed"], told["note"]) == ("web socket", True, 'a "note"')


@pytest.mark.parametrize("form", FORMATS)
def test_no_secret_is_logged(form: str) -> None:
    fields = [
        (b"Authorization", b"Basic secret"), (b"Cookie", b"secret"), (b"Referer", b"https://u:secret@b.example/@x"),
        (b"Proxy-Authorization", b"secret"),
    ]  # fmt: skip
    for made in (
        exchange(authority="user:secret@a.example", target="/@path", fields=fields),
        exchange(target="https://user:secret@a.example/@path", fields=fields),
        exchange(target="HTTP://:secret@@a.example/@path", fields=fields),
    ):
        line = FORMATS[form](made)
        assert "secret" not in line
        assert "://a.example/@path" in line
    assert "a.example:443" in FORMATS[form](exchange("CONNECT", target="secret@a.example:443"))
    assert "secret" not in FORMATS[form](exchange("CONNECT", target="secret@a.example:443"))


PEERS = st.text(st.characters(max_codepoint=255), max_size=60)


@given(PEERS, PEERS, PEERS, PEERS)
@example("GET https://other.example/", "a", "b", "c")
@example("", "a", "b", "c")
def test_nothing_from_a_peer_breaks_a_line_or_a_value(method: str, authority: str, target: str, value: str) -> None:
    content = value.encode("latin-1")
    made = exchange(method, authority, "/" + target, [(b"Referer", content), (b"User-Agent", content)], kind=content)
    made.upgrade = made.error = value
    for form in FORMATS.values():
        assert re.fullmatch(r"[ -~]+", form(made))
    words = re.findall(r'(?:\A| )([a-z_]+)=((?:[^" =\\]+|"(?:[^"\\]|\\.)*"))(?= |\Z)', text(made))
    assert [key for key, _ in words] == [
        "client", "method", "url", "http", "status", "sent", "received", "first_ms", "ms", "type", "upgrade", "error",
    ]  # fmt: skip
    assert json.loads(as_json(made))["method"] == method
    found = COMBINED.fullmatch(combined(made))
    assert found
    assert (found[5], found[6], found[7]) == ("1.1", "200", "3456")


def test_long_values_are_cut() -> None:
    for form in FORMATS.values():
        assert (
            len(form(exchange(target="/" + "\xff" * 10 * MAX_URL, fields=[(b"Referer", b"x" * 10**6)]))) < 10 * MAX_URL
        )
        made = exchange("M" * 10**6, kind=b"\xff" * 10**6)
        made.upgrade = made.error = made.note = "\xff" * 10**6
        made.connection = replace(made.connection, user="u" * 10**6)
        assert len(form(made)) < 30 * MAX_VALUE
    long = exchange(target="/" + "x" * MAX_URL)
    for form, word in ((text, r" url=(\S+)"), (as_json, r'"url": "([^"]+)"'), (combined, r'"GET (\S+)')):
        found = re.search(word, form(long))
        assert found is not None
        assert found[1].endswith("x...")  # all mark it as cut


# The file


@contextmanager
def largest_file(octets: int) -> Iterator[None]:
    """As if the disk were full beyond that."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (octets, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_lines_are_appended_and_the_file_is_ours_alone(tmp_path: Path) -> None:
    path = tmp_path / "log"
    for word in ("one", "two"):
        file = LineFile(path)
        file.write(word)
        file.close()
    assert path.read_text() == "one\ntwo\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_each_line_is_there_at_once(tmp_path: Path) -> None:
    file = LineFile(tmp_path / "log")
    file.write("one")
    assert (tmp_path / "log").read_text() == "one\n"
    file.close()


def test_reopened_after_a_rename(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    log.set_up()
    path = tmp_path / "log"
    file = LineFile(path)
    file.write("old")
    path.rename(tmp_path / "log.1")
    file.write("still old")
    file.reopen()
    file.write("new")
    assert ((tmp_path / "log.1").read_text(), path.read_text()) == ("old\nstill old\n", "new\n")
    path.unlink()
    path.mkdir()
    file.reopen()
    file.write("into the void")
    assert "can't reopen" in capfd.readouterr().err
    file.close()


@pytest.mark.timeout(10)
def test_a_fifo_that_nobody_reads(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Nobody waits for a reader, not even when it is reopened; a later reader reads on."""
    log.set_up()
    path = tmp_path / "log"
    os.mkfifo(path)
    with pytest.raises(OSError, match="No such device"):
        LineFile(path)
    with open(path, "rb", 0, opener=without_a_wait):
        file = LineFile(path)
    file.write("lost")
    file.reopen()
    assert "can't reopen" in capfd.readouterr().err
    with open(path, "rb", 0, opener=without_a_wait) as reader:
        file.reopen()
        file.write("read")
        assert reader.read(4096) == b"read\n"
    file.close()


def test_a_fifo_that_takes_no_more(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    log.set_up()
    path = tmp_path / "log"
    os.mkfifo(path)
    lost: list[int] = []
    with open(path, "rb", 0, opener=without_a_wait) as reader:
        file = LineFile(path, lost.append)
        while not lost:
            file.write("x" * 5000)
        file.write("lost")
        assert (
            capfd.readouterr().err.count(f"can't write {path}: it takes no more; lines are lost until it can be") == 1
        )
        while len(reader.read(1 << 20)) == 1 << 20:
            pass
        file.write("one")
        file.write("two")
        assert reader.read(4096) == b"\none\ntwo\n"  # the first one that was lost is there in part
        assert f"{path} can be written again; lines lost: 2" in capfd.readouterr().err
    assert lost == [1, 1]
    file.close()


@pytest.mark.parametrize("size", [PIPE_BUF - 1, 12_000])
def test_a_line_of_another_worker_does_not_come_amid_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """The other one writes to the same pipe right after our first write, so a long line must not need a second."""
    path = tmp_path / "log"
    os.mkfifo(path)
    with open(path, "rb", 0, opener=without_a_wait) as reader:
        one, other = LineFile(path), LineFile(path)
        write, once = os.write, [other]

        def followed(fd: int, data: bytes) -> int:
            put = write(fd, data)
            if once:
                once.pop().write("other")
            return put

        monkeypatch.setattr(os, "write", followed)
        one.write("x" * size)
        assert reader.read(65_536) == b"x" * size + b"\nother\n"
        one.close()
        other.close()


def without_a_wait(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        LineFile(tmp_path / "none" / "log")


def test_a_full_disk_is_told_once_and_never_raised(capfd: pytest.CaptureFixture[str]) -> None:
    log.set_up()
    file = LineFile(Path("/dev/full"))
    for _ in range(3):
        file.write("x")
    err = capfd.readouterr().err
    assert err.count("/dev/full") == 1
    assert f"warning: can't write /dev/full: {os.strerror(errno.ENOSPC)}; lines are lost until it can be" in err
    file.close()


def test_a_line_torn_by_a_full_disk_spoils_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    handler = logging.Handler()  # stderr is a file here, and would be full as well
    handler.emit = lambda record: told.append(record.getMessage())  # type: ignore[method-assign]
    monkeypatch.setattr(linefile.log, "handlers", [handler])
    monkeypatch.setattr(linefile.log, "propagate", False)
    path = tmp_path / "log"
    file = LineFile(path)
    with largest_file(8):
        for word in ("one", "two-two", "three"):
            file.write(word)
    file.write("four")
    file.write("five")
    assert path.read_text() == "one\nfour\nfive\n"
    lost, again = told
    assert f": {os.strerror(errno.EFBIG)}; lines are lost until it can be" in lost
    assert again.endswith("can be written again; lines lost: 2")
    file.close()


@pytest.mark.parametrize("both", [True, False], ids=["both lose", "one loses"])
def test_a_line_of_another_worker_that_a_full_disk_tore_spoils_no_other(tmp_path: Path, both: bool) -> None:
    path = tmp_path / "log"
    one, other = LineFile(path), LineFile(path)
    with largest_file(8):
        one.write("one")
        one.write("two-two")
        if both:
            other.write("three")
    other.write("four")
    one.write("five")
    assert path.read_text() == "one\nfour\nfive\n"
    with largest_file(path.stat().st_size + 2):
        one.write("six")
        other.write("seven")
    os.truncate(path, 0)
    other.write("eight")
    one.write("nine")
    assert path.read_text() == "eight\nnine\n"
    one.close()
    other.close()


def test_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    file = LineFile(None)
    file.write("one")
    file.reopen()
    file.close()
    os.write(2, b"open still\n")
    assert capfd.readouterr().err == "one\nopen still\n"
