"""Users' own Python files: what they are told, what they may do, and what becomes of those that fail."""

import json
import re
import socket
import stat
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest
from lab import (
    CUT_OFF,
    HERE,
    WAIT,
    BioClient,
    Origin,
    Program,
    cut_off,
    echo,
    exchange,
    get,
    read_reply,
    run,
    secure_tunnel,
    strict_context,
    tunnel,
    until,
)
from test_clients import h2_origin, websocket_origin
from test_rules import BASE
from test_seeing import JSON, curl, json_origin, watched
from test_website import ask

from errors import UsageError
from exchange import MAX_FIELDS
from taps import HOOKS, Answer, Tap

LOGGING = """
seen = open("seen", "a", buffering=1)
def opened(tunnel):
    tunnel.notes["octets"] = 0
    print("opened", tunnel.target, tunnel.name, tunnel.alpn, file=seen)
def data(tunnel, direction, octets):
    tunnel.notes["octets"] += len(octets)
    print(direction, type(octets).__name__, file=seen)
def request(exchange):
    print("request", exchange.method, exchange.url, exchange.status, file=seen)
def response(exchange):
    print("response", exchange.status, bytes(exchange.response_body), file=seen)
def closed(tunnel):
    print("closed", tunnel.outcome, tunnel.notes["octets"] > 100, file=seen)
"""


@pytest.fixture
def server(certificate: Path) -> Iterator[Origin]:
    with Origin(json_origin, certificate) as running:
        yield running


def tap(folder: Path, text: str) -> str:
    (folder / "tap.py").write_text(text)
    return f"--tap={folder / 'tap.py'}"


def got(reply_head: str) -> str:
    """What the origin got, from the X-Got field of its reply."""
    found = re.search(r"(?i)x-got: ([^\r\n]*)", reply_head)
    assert found
    return found[1]


@pytest.mark.parametrize("options", [[], ["--workers=2"]], ids=["one", "workers"])
def test_what_is_printed_is_seen_at_once(tmp_path: Path, roots: Path, server: Origin, options: list[str]) -> None:
    """Even when stdout is a file or a pipe, as in a container."""
    words = [*BASE, f"--upstream-ca={roots}", tap(tmp_path, "def request(exchange): print(exchange.url)"), *options]
    with Program(tmp_path, *words, prefix=["sh", "-c", 'unset PYTHONUNBUFFERED; exec "$@" >printed', "sh"]) as program:
        url = f"https://localhost:{server.port}/x"
        curl(program, url)
        assert (tmp_path / "printed").read_text() == f"{url}\n"


HOLDING = [
    "out = open('out', 'a')\ndef request(exchange): out.write(exchange.url)",
    """
import csv
written = {}
def request(exchange):
    if exchange.authority not in written:
        written[exchange.authority] = csv.writer(open("out", "a"), lineterminator="")
    written[exchange.authority].writerow([exchange.url])
""",
]


@pytest.mark.parametrize("text", HOLDING, ids=["global", "later"])
@pytest.mark.parametrize("options", [[], ["--workers=2"]], ids=["one", "workers"])
def test_what_its_files_hold_back_is_written_at_the_end(
    tmp_path: Path, roots: Path, server: Origin, options: list[str], text: str
) -> None:
    with Program(tmp_path, *BASE, f"--upstream-ca={roots}", tap(tmp_path, text), *options) as program:
        curl(program, f"https://localhost:{server.port}/x")
        assert (tmp_path / "out").read_text() == ""
    assert (tmp_path / "out").read_text() == f"https://localhost:{server.port}/x"


def test_all_that_is_told(tmp_path: Path, roots: Path, server: Origin) -> None:
    with watched(tmp_path, roots, tap(tmp_path, LOGGING)) as program:
        url = f"https://localhost:{server.port}/x"
        curl(program, url)
        program.tunnels(1)
        lines = (tmp_path / "seen").read_text().splitlines()
    assert lines[0].startswith(f"opened localhost:{server.port} localhost ")
    assert f"request GET {url} None" in lines
    assert f"response 200 {JSON!r}" in lines
    assert lines[-1] == "closed closed True"
    assert {"sent bytes", "received bytes"} <= set(lines)


def test_a_tunnel_that_ends_by_a_refusal_is_told_so(tmp_path: Path, roots: Path, server: Origin) -> None:
    with watched(tmp_path, roots, tap(tmp_path, LOGGING), "--mismatch=deny") as program:
        with secure_tunnel(program, f"localhost:{server.port}") as secure:
            assert get(secure, host="b.example").status == 421
        program.tunnels(1)
        assert (tmp_path / "seen").read_text().splitlines()[-1] == "closed refused False"


def test_http_2_is_seen_by_who_only_looks_and_not_spoken_before_who_acts(
    tmp_path: Path, roots: Path, certificate: Path
) -> None:
    with Origin(h2_origin, certificate, alpn=["h2", "http/1.1"]) as server:
        url = f"https://localhost:{server.port}/x"
        with watched(tmp_path, roots, tap(tmp_path, LOGGING)) as program:
            assert curl(program, url, "--http2", "-w", "%{http_version}") == "h2 ok2"
        assert f"request GET {url} None" in (tmp_path / "seen").read_text()
        with watched(tmp_path, roots, tap(tmp_path, "REWRITE = True\ndef request(exchange): pass")) as program:
            with secure_tunnel(program, f"localhost:{server.port}", alpn=["h2", "http/1.1"]) as secure:
                assert secure.selected_alpn_protocol() == "http/1.1"


@pytest.mark.parametrize("hook", ["opened(tunnel)", "data(a, b, c)", "request(exchange)", "response(e)", "closed(t)"])
@pytest.mark.parametrize("acts", [True, False])
def test_one_that_fails_is_taken_out_and_the_traffic_goes_on(
    tmp_path: Path, roots: Path, server: Origin, hook: str, acts: bool
) -> None:
    text = f"REWRITE = {acts}\ndef {hook}:\n    1 / 0\n"
    with watched(tmp_path, roots, tap(tmp_path, text)) as program:
        for _ in range(2):
            assert curl(program, f"https://localhost:{server.port}/x").encode() == JSON
        name = hook.partition("(")[0]
        program.wait_for(rf"error: {name}\(\) of .*tap.py failed; the tap is taken out")
        program.wait_for("ZeroDivisionError")
        assert len([line for line in program.lines if "taken out" in line]) == 1
        counted = ask(program, "/metrics").body.decode()
        assert dict(re.findall(r'certifier_tap_failures_total{function="(\w+)"} (\S+)', counted)) == {
            function: "1.0" if function == name else "0.0" for function in HOOKS
        }
        program.lines = [line for line in program.lines if "Traceback" not in line]  # this one is expected


@pytest.mark.parametrize("raised", ["SystemExit('enough')", "KeyboardInterrupt", "BaseException", "gevent.Timeout(1)"])
def test_one_that_wants_to_end_all_is_taken_out_as_well(
    tmp_path: Path, roots: Path, server: Origin, raised: str
) -> None:
    text = f"import gevent\ndef request(exchange):\n    raise {raised}\n"
    with watched(tmp_path, roots, tap(tmp_path, text)) as program:
        for _ in range(2):
            assert curl(program, f"https://localhost:{server.port}/x").encode() == JSON
        program.wait_for(r"error: request\(\) of .*tap.py failed; the tap is taken out")
        program.lines = [line for line in program.lines if "Traceback" not in line]  # this one is expected


FAILING = """
REWRITE = FAIL_CLOSED = True
def opened(tunnel):
    raise ValueError("of no consequence")
def request(exchange):
    exchange.method = exchange.authority = None  # what it had begun to change is not what others are told
    if exchange.target == "/raises":
        raise SystemExit
    if exchange.target == "/panics":
        raise type("PanicException", (BaseException,), {})
    if exchange.target == "/strange":
        return "no answer"
    exchange.method, exchange.authority = "GET", "test"
"""


PROXIES = """
import weakref
class Gone: pass
class Lazy:
    @property
    def __class__(self):
        raise RuntimeError("not now")
gone, lazy = weakref.proxy(Gone()), Lazy()
out = open("out", "w")
out.write("held back")
def request(exchange): pass
"""


def test_proxy_objects_do_not_hinder_the_end(tmp_path: Path) -> None:
    """A tap or what it imports may hold some whose class can't be asked for."""
    with Program(tmp_path, *BASE, tap(tmp_path, PROXIES)) as program:
        pass
    assert (program.process.returncode, (tmp_path / "out").read_text()) == (0, "held back")


@pytest.mark.parametrize("path", ["/raises", "/panics", "/strange"])
def test_one_that_fails_closed_stays_and_what_it_fails_on_is_refused(
    tmp_path: Path, roots: Path, server: Origin, path: str
) -> None:
    heard: list[bytes] = []
    with (
        watched(tmp_path, roots, tap(tmp_path, FAILING), "--log-requests") as program,
        Origin(lambda sock: heard.append(sock.recv(65_536))) as plain,
    ):
        for _ in range(2):
            with secure_tunnel(program, f"localhost:{server.port}") as secure:
                assert get(secure).status == 200
                refused = get(secure, path)
                assert (refused.status, b"a tap failed on this request" in refused.body) == (403, True)
            asked = f"GET http://localhost:{plain.port}{path} HTTP/1.1\r\nHost: a\r\n\r\n"
            assert exchange(program.address, asked.encode()).status == 403
        program.wait_for(rf"request .*method=GET url=https://test{path} .*status=403")
        until(lambda: heard == [b"", b""])
        assert len([line for line in program.lines if "opened() of " in line and "is called no more" in line]) == 1
        metrics = ask(program, "/metrics").body
        assert b'certifier_tap_failures_total{function="request"} 4.0\n' in metrics
        program.lines = [line for line in program.lines if "Traceback" not in line]  # these are expected


@pytest.mark.parametrize(
    ("text", "message"),
    [("def request(", "SyntaxError"), ("1 / 0", "ZeroDivisionError"), ("x = 1", "it defines none of opened, data"),
     ("async def request(exchange): pass", r"request\(\) is async or yields, so it would never run"),
     ("def response(exchange): yield", r"response\(\) is async or yields"),
     ("raise SystemExit", "SystemExit"), ("BODY_MAX = 'x'\ndef request(exchange): pass", "ValueError"),
     ("FAIL_CLOSED = True\ndef request(exchange): pass", "FAIL_CLOSED needs REWRITE = True and request"),
     ("FAIL_CLOSED = REWRITE = True\ndef opened(tunnel): pass", "FAIL_CLOSED needs REWRITE = True and request")],
)  # fmt: skip
def test_one_that_cannot_be_loaded(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "tap.py").write_text(text)
    with pytest.raises(UsageError, match=message):
        Tap(tmp_path / "tap.py")


def test_what_stands_beside_one_can_be_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "log.py").write_text("beside = True")  # certifier's own log module takes precedence
    (tmp_path / "beside_the_tap.py").write_text("def request(exchange): return 'seen'")
    (tmp_path / "tap_it.py").write_text("from beside_the_tap import request")  # may be named after the tap
    (tmp_path / "it.py").write_text("from tap_it import request; from log import escape")
    assert Tap(tmp_path / "it.py").call("request", None) == "seen"


def test_what_a_tap_defines_can_be_pickled(tmp_path: Path) -> None:
    """As a recorder does that keeps what it saw in a ``shelve``."""
    (tmp_path / "keeping.py").write_text("""
import dataclasses, pickle, typing
@dataclasses.dataclass
class Seen:
    url: "typing.Any"
def request(exchange):
    return typing.get_type_hints(Seen), pickle.loads(pickle.dumps(Seen(exchange)))
def response(exchange):
    pickle.dumps(type("Unknown", (), {})())
""")
    tap = Tap(tmp_path / "keeping.py")
    told: Any = tap.call("request", "https://test/")
    assert (told[0], told[1].url) == ({"url": Any}, "https://test/")
    tap.call("response", None)
    assert not tap.wants("response")  # that one failed


CHANGING = """
REWRITE = True
from taps import Answer
def request(exchange):
    if exchange.target == "/answered":
        return Answer(418, b"short and stout", (("X-Pot", "tea"),))
    if exchange.target == "/strange":
        return "no answer"
    if exchange.target == "/bad":
        exchange.request_fields.append((b"Content-Length", b"7"))
    if exchange.target == "/headed":
        exchange.method = "HEAD"
    if exchange.target == "/connected":
        exchange.method = "CONNECT"
    if exchange.target == "/split":
        exchange.request_fields.append((b"X", b"a\\r\\nY: b"))
    if exchange.target.startswith("/change"):
        exchange.method, exchange.target = "PUT", "/changed"
        exchange.request_fields.append((b"X-Added", b"1"))
"""


def test_answers_changes_and_their_order(tmp_path: Path, roots: Path, server: Origin) -> None:
    with watched(tmp_path, roots, tap(tmp_path, CHANGING), "--log-requests") as program:
        with secure_tunnel(program, f"localhost:{server.port}") as secure:
            for path in ("/a", "/answered", "/change", "/answered", "/b"):  # pipelined
                secure.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            replies = [read_reply(secure) for _ in range(5)]
            assert [reply.status for reply in replies] == [200, 418, 200, 418, 200]
            assert (replies[1].body, replies[1].headers["x-pot"]) == (b"short and stout", "tea")
            assert replies[0].headers["x-got"].startswith("GET /a HTTP/1.1")
            assert replies[2].headers["x-got"].startswith("PUT /changed HTTP/1.1")
            assert replies[2].headers["x-got"].endswith("X-Added: 1")
            assert get(secure, "/answered", "HEAD").status == 418
            assert get(secure, "/strange").status == 200
            secure.sendall(
                b"POST /change HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
            )
        program.wait_for("returned a value of type str, which is not an Answer")
        program.wait_for("request .*url=https://localhost/answered .*status=418")
        program.wait_for("request .*method=PUT url=https://localhost/changed .*status=200")
        with secure_tunnel(program, f"localhost:{server.port}") as secure:  # with a body that is not read
            secure.sendall(b"POST /answered HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n")
            reply = read_reply(secure)
            assert (reply.status, reply.headers["connection"]) == (418, "close")
            assert secure.recv(1) == b""
        for path in ("/bad", "/split", "/headed", "/connected"):
            with secure_tunnel(program, f"localhost:{server.port}") as secure:
                assert get(secure, path).status == 403
        with Origin(json_origin) as plain:
            where = f"http://localhost:{plain.port}"
            assert exchange(program.address, f"GET {where}/answered HTTP/1.1\r\nHost: a\r\n\r\n".encode()).status == 418
            reply = exchange(program.address, f"GET {where}/change HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            assert reply.headers["x-got"].startswith("PUT /changed HTTP/1.1")
            head = f"GET {where}/change HTTP/1.1\r\nHost: a\r\nConnection: X-Added\r\n\r\n"
            assert "X-Added: 1" in exchange(program.address, head.encode()).headers["x-got"]
            many = b"a: b\r\n" * MAX_FIELDS
            for path, fields in (
                ("/bad", b""),
                ("/split", b""),
                ("/headed", b""),
                ("/connected", b""),
                ("/many", many),
            ):
                ask = b"GET %s%s HTTP/1.1\r\nHost: a\r\n%s\r\n" % (where.encode(), path.encode(), fields)
                before = len(program.lines)
                assert exchange(program.address, ask).status == 403
                program.wait_for("request .*(outcome=http_request_denied|error=)", before)


ELSEWHERE = """
REWRITE = True
def request(exchange):
    others = [field for field in exchange.request_fields if field[0].lower() != b"host"]
    exchange.request_fields = [*others, (b"Host", b"other")] if exchange.version == "1.1" else others
"""


def test_a_host_that_a_tap_sets_is_what_the_origin_is_told(tmp_path: Path, roots: Path, server: Origin) -> None:
    """In plain HTTP too, where certifier sets Host to the target if the tap leaves none."""
    with watched(tmp_path, roots, tap(tmp_path, ELSEWHERE)) as program, Origin(json_origin) as plain:
        with secure_tunnel(program, f"localhost:{server.port}") as secure:
            assert "Host: other" in get(secure).headers["x-got"]
        ask = "GET http://localhost:%d/ HTTP/%s\r\nHost: a\r\n\r\n"
        for version, host in (("1.1", "other"), ("1.0", f"localhost:{plain.port}")):
            got = exchange(program.address, (ask % (plain.port, version)).encode()).headers["x-got"]
            assert re.findall("Host: ([^ |]*)", got) == [host], got


@pytest.mark.parametrize("workers", [1, 2])
def test_what_a_tap_has_registered_for_the_end_is_called_in_each_worker(
    tmp_path: Path, roots: Path, workers: int
) -> None:
    text = """
import atexit, os
atexit.register(lambda: open(f"ended-{os.getpid()}", "x").close())
def request(exchange): pass
"""
    with watched(tmp_path, roots, tap(tmp_path, text), f"--workers={workers}") as program:
        assert program.stop() == 0
        assert len([*tmp_path.glob("ended-*")]) == workers


THREADS = """
import threading, time
def write():
    time.sleep(0.3)
    open("written", "w").close()
    threading.Event().wait({wait})
threading.Thread(target=write, name="exporter", daemon={daemon}).start()
def request(exchange): pass
"""


@pytest.mark.parametrize(("wait", "daemon", "waits"), [(None, False, True), (0, False, True), (None, True, False)])
def test_a_thread_of_a_tap_does_not_hold_up_the_end_for_long(
    tmp_path: Path, roots: Path, wait: float | None, daemon: bool, waits: bool
) -> None:
    with watched(tmp_path, roots, tap(tmp_path, THREADS.format(wait=wait, daemon=daemon))) as program:
        assert program.stop() == 0
        assert any("threads that are not daemons: exporter" in line for line in program.lines) == waits
        assert not waits or (tmp_path / "written").exists()


LOOKING = """
def request(exchange):
    exchange.method, exchange.target, exchange.authority = "PUT", "/changed", "other.example"
    exchange.request_fields.append((b"X-Added", b"1"))
    if exchange.connection.scheme == "http":
        exchange.request_fields = exchange.authority = None
"""


def test_what_a_tap_that_only_looks_changes_is_not_told_to_others(tmp_path: Path, roots: Path, server: Origin) -> None:
    """Else the log would tell of a request that nobody made."""
    with watched(tmp_path, roots, tap(tmp_path, LOOKING), "--log-requests") as program, Origin(json_origin) as plain:
        with secure_tunnel(program, f"localhost:{server.port}") as secure:
            assert get(secure, "/asked").headers["x-got"].startswith("GET /asked HTTP/1.1")
        program.wait_for("request .*method=GET url=https://test/asked .*status=200")
        ask = f"GET http://localhost:{plain.port}/asked HTTP/1.1\r\nHost: a\r\n\r\n"
        assert exchange(program.address, ask.encode()).status == 200
        program.wait_for(rf"request .*method=GET url=http://localhost:{plain.port}/asked .*status=200")
        warned = [line for line in program.lines if "changed the request, which counts only with REWRITE" in line]
        assert len(warned) == 2


HALF_DONE = """
REWRITE = True
def request(exchange):
    exchange.target = "/changed"
    exchange.request_fields.append((b"X-Added", b"1"))
    1 / 0
"""


def test_what_a_tap_changed_before_it_failed_does_not_go_on(tmp_path: Path, roots: Path, server: Origin) -> None:
    (tmp_path / "first.py").write_text(CHANGING.replace("/changed", "/half"))
    options = (f"--tap={tmp_path / 'first.py'}", tap(tmp_path, HALF_DONE), "--log-requests")
    with watched(tmp_path, roots, *options) as program:
        with secure_tunnel(program, f"localhost:{server.port}") as secure:
            got = get(secure, "/change").headers["x-got"]
            assert got.startswith("PUT /half HTTP/1.1")  # by the first tap
            assert got.count("X-Added") == 1
        program.wait_for("request .*method=PUT url=https://test/half .*status=200")
        program.lines = [line for line in program.lines if "Traceback" not in line]  # this one is expected


@pytest.mark.parametrize(("left", "passes"), [("(f for f in fields)", True), ("tuple(fields)", True), ("None", False)])
def test_what_a_tap_leaves_in_place_of_a_list_of_fields_reaches_who_checks_it(
    tmp_path: Path, roots: Path, server: Origin, left: str, passes: bool
) -> None:
    text = "REWRITE = True\ndef request(exchange):\n    fields = exchange.request_fields\n"
    (tmp_path / "second.py").write_text("REWRITE = True\ndef request(exchange): pass\n")
    options = (tap(tmp_path, f"{text}    exchange.request_fields = {left}\n"), f"--tap={tmp_path / 'second.py'}")
    with watched(tmp_path, roots, *options) as program, secure_tunnel(program, f"localhost:{server.port}") as secure:
        assert get(secure).status == (200 if passes else 403)


def test_a_tap_cannot_send_a_request_to_another_host_and_is_told_so(
    tmp_path: Path, roots: Path, server: Origin
) -> None:
    text = "REWRITE = True\ndef request(exchange):\n    exchange.authority = None\n"
    with watched(tmp_path, roots, tap(tmp_path, text), "--log-requests") as program:
        with secure_tunnel(program, f"localhost:{server.port}") as secure:
            assert get(secure, "/asked").status == 200
        program.wait_for("set exchange.authority, which changes no request")
        program.wait_for("request .*url=https://test/asked .*status=200")


def test_a_plain_http_request_that_a_tap_holds_at_the_end_is_logged(tmp_path: Path, roots: Path) -> None:
    text = "import time\nREWRITE = True\ndef request(exchange):\n    open('asked', 'w').close()\n    time.sleep(100)\n"
    with (
        watched(tmp_path, roots, "--log-requests", tap(tmp_path, text)) as program,
        Origin(json_origin) as plain,
        socket.create_connection(program.address, timeout=WAIT) as sock,
    ):
        sock.sendall(b"GET http://localhost:%d/ HTTP/1.1\r\nHost: a\r\n\r\n" % plain.port)
        until((tmp_path / "asked").exists)
        assert cut_off(program, sock) == b""
        program.wait_for(rf"request .*url=http://localhost:{plain.port}/ .*error=.cut off")


def test_pipelined_requests_in_the_segment_of_finished(tmp_path: Path, roots: Path, server: Origin) -> None:
    """TLS 1.3 clients may send requests along with it; the second waits for the response to the first."""
    with watched(tmp_path, roots, tap(tmp_path, CHANGING)) as program:
        with tunnel(program.address, f"localhost:{server.port}") as sock:
            early = b"GET /a HTTP/1.1\r\nHost: localhost\r\n\r\n" * 2
            client = BioClient(sock, strict_context(program.ca), "localhost", early)
            replies = b""
            while replies.count(JSON) < 2:
                data = client.read()
                assert data
                replies += data


def test_who_only_looks_at_plain_http_does_not_cut_it(tmp_path: Path, roots: Path) -> None:
    with watched(tmp_path, roots, "--log-requests") as program, Origin(json_origin) as plain:
        fields = b"a: b\r\n" * MAX_FIELDS + b"X-Last: 1\r\nContent-Length: 4\r\n"
        ask = b"POST http://localhost:%d/ HTTP/1.1\r\nHost: a\r\n%s\r\nbody" % (plain.port, fields)
        reply = exchange(program.address, ask)
        assert reply.status == 200
        assert "X-Last: 1" in reply.headers["x-got"]
        assert reply.headers["x-got"].count("a: b") == MAX_FIELDS


def test_bodies_pass_a_tap_that_acts_and_what_it_cannot_judge_does_not(
    tmp_path: Path, roots: Path, certificate: Path, server: Origin
) -> None:
    with watched(tmp_path, roots, tap(tmp_path, "REWRITE = True\ndef request(exchange): pass")) as program:
        (tmp_path / "big").write_bytes(b"x" * 3_000_000)
        for words in (["-d", "a=1"], ["--data-binary", f"@{tmp_path / 'big'}"]):
            assert curl(program, f"https://localhost:{server.port}/", *words).encode() == JSON
        of_http = (b"GET  / HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        of_others = (b"\0\1\2\r\n\r\n", b"0\f\2\1\1`", b"EHLO a\r\n")  # LDAP and SMTP then wait for an answer
        for rubbish in of_http + of_others:
            with secure_tunnel(program, f"localhost:{server.port}") as secure:
                secure.sendall(rubbish)
                assert read_reply(secure).status == 403
        with Origin(websocket_origin, certificate) as other:
            with secure_tunnel(program, f"localhost:{other.port}") as secure:
                secure.sendall(
                    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
                )
                assert read_reply(secure, body=False).status == 101
                secure.sendall(b"\x82\x83\0\0\0\0abc")  # a masked binary message
                assert secure.recv(100) == b"\x82\x03abc"


@pytest.mark.parametrize("judge", ["tap", "--mismatch=deny"])
def test_trailers_which_nobody_has_seen_do_not_pass_where_requests_are_judged(
    tmp_path: Path, roots: Path, server: Origin, judge: str
) -> None:
    """Some origins take them for another request. In plain HTTP, which is framed anew, they can be left out."""
    heard: list[bytes] = []

    def hear(sock: socket.socket) -> None:
        data = b""
        while not data.endswith(b"\r\n0\r\n\r\n"):
            more = sock.recv(65_536)
            assert more
            data += more
        heard.append(data)
        sock.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")

    option = judge if judge != "tap" else tap(tmp_path, "REWRITE = True\ndef request(exchange): pass")
    body = b"2\r\nhi\r\n0\r\n"
    trailers = b"A: /b HTTP/1.1\r\nX: y\r\n\r\n"
    with watched(tmp_path, roots, option) as program, Origin(hear) as plain:
        head = "POST {} HTTP/1.1\r\nHost: {}\r\nTransfer-Encoding: chunked\r\n\r\n"
        for end in (b"\r\n", trailers):
            with secure_tunnel(program, f"localhost:{server.port}") as secure:
                secure.sendall(head.format("/", "localhost").encode() + body + end)
                if end != trailers or judge == "tap":
                    assert read_reply(secure).status == (403 if end == trailers else 200)
                else:  # it might be answered at any time
                    with pytest.raises(CUT_OFF):
                        read_reply(secure)
        host = f"localhost:{plain.port}"
        asked = head.format(f"http://{host}/", host).encode() + body + trailers
        assert exchange(program.address, asked).status == 204
        assert heard[0].endswith(b"\r\n\r\n" + body + b"\r\n")


def test_what_comes_with_the_request_for_an_upgrade(tmp_path: Path, roots: Path, certificate: Path) -> None:
    """Passed on once the upgrade is accepted, even if it is empty lines or no HTTP head, and even if no more comes."""
    upgrade = b"Connection: upgrade\r\nUpgrade: x\r\n\r\n"

    def switch(sock: socket.socket) -> None:
        ask = b""
        while not ask.endswith(b"\r\n\r\n"):
            ask += sock.recv(1)
        sock.sendall(b"HTTP/1.1 101 Switching Protocols\r\n" + upgrade)
        echo(sock)

    with watched(tmp_path, roots, tap(tmp_path, "REWRITE = True\ndef request(exchange): pass")) as program:
        with Origin(switch, certificate) as origin, secure_tunnel(program, f"localhost:{origin.port}") as secure:
            secure.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n" + upgrade + b"\n\nEARLY\n\n")
            assert read_reply(secure, body=False).status == 101
            assert secure.recv(100) == b"\n\nEARLY\n\n"


def test_an_answer_of_one_that_only_looks_is_told_of(tmp_path: Path, roots: Path, server: Origin) -> None:
    text = "from taps import Answer\ndef request(exchange):\n    return Answer(403)\n"
    with watched(tmp_path, roots, tap(tmp_path, text)) as program:
        assert curl(program, f"https://localhost:{server.port}/x").encode() == JSON
        program.wait_for("returned an Answer, which counts only with REWRITE = True")


def test_what_a_tap_returns_in_place_of_an_answer_is_not_logged(tmp_path: Path, roots: Path, server: Origin) -> None:
    """It may be the exchange, as in other proxies' add-ons."""
    text = "REWRITE = True\ndef request(exchange): return exchange\n"
    with watched(tmp_path, roots, tap(tmp_path, text)) as program:
        curl(program, f"https://localhost:{server.port}/", "-H", "Authorization: s3cret")
        program.wait_for("returned a value of type Exchange, which is not an Answer")
    assert "s3cret" not in "\n".join(program.lines)


def test_a_tap_may_wait(tmp_path: Path, roots: Path, server: Origin) -> None:
    """Only its own tunnel waits."""
    text = (
        "import os, time\ndef request(exchange):\n    open(exchange.target[1:], 'w').close()\n"
        "    while exchange.target == '/slow' and not os.path.exists('go'):\n        time.sleep(0.01)\n"
    )
    with watched(tmp_path, roots, tap(tmp_path, text)) as program:
        slow = gevent.spawn(curl, program, f"https://localhost:{server.port}/slow")
        until((tmp_path / "slow").exists)
        curl(program, f"https://localhost:{server.port}/fast")
        (tmp_path / "go").touch()
        assert slow.get(timeout=WAIT).encode() == JSON


@pytest.mark.parametrize(
    ("hook", "acts"), [("opened", False), ("request", False), ("data", False), ("opened", True), ("request", True)]
)
def test_the_handshake_with_the_origin_does_not_wait_for_a_tap(
    tmp_path: Path, roots: Path, certificate: Path, hook: str, acts: bool
) -> None:
    text = (
        f"import os, time\nREWRITE = {acts}\ndef {hook}(*_):\n    open('waits', 'w').close()\n"
        "    while not os.path.exists('go'):\n        time.sleep(0.01)\n"
    )

    def lets_it_go(sock: socket.socket) -> None:  # after the handshake
        until((tmp_path / "waits").exists)
        (tmp_path / "go").touch()
        json_origin(sock)

    with watched(tmp_path, roots, tap(tmp_path, text)) as program, Origin(lets_it_go, certificate) as origin:
        assert curl(program, f"https://localhost:{origin.port}/").encode() == JSON


def test_a_client_that_is_gone_when_its_answer_comes(tmp_path: Path, roots: Path, server: Origin) -> None:
    """It is logged and told as any other that resets its connection."""
    text = (
        "import os, sys, time\nfrom taps import Answer\nREWRITE = True\ndef request(exchange):\n"
        "    open('asked', 'w').close()\n    while not os.path.exists('go'):\n        time.sleep(0.01)\n"
        "    return Answer(403)\ndef closed(tunnel):\n    print('told', tunnel.outcome, file=sys.stderr)\n"
    )
    with watched(tmp_path, roots, tap(tmp_path, text)) as program:
        with secure_tunnel(program, f"localhost:{server.port}") as secure:
            secure.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            until((tmp_path / "asked").exists)
            secure.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        (tmp_path / "go").touch()
        program.wait_for("told client-reset")
        program.wait_for("outcome=client-reset")


def test_answers() -> None:
    assert Answer(404).written("GET").startswith(b"HTTP/1.1 404 Not Found\r\n")
    assert Answer(799, b"x", reason="Odd").written("GET").startswith(b"HTTP/1.1 799 Odd\r\n")
    assert Answer(200, b"body").written("HEAD").endswith(b"\r\n\r\n")
    assert Answer(204, b"body", (), "Fine").written("GET") == b"HTTP/1.1 204 Fine\r\nConnection: close\r\n\r\n"
    assert Answer(304, b"body").written("GET").endswith(b"\r\n\r\n")


@pytest.mark.parametrize(("method", "content"), [("HEAD", False), ("GET", True)])
def test_a_refusal_of_head_has_no_content(
    tmp_path: Path, roots: Path, server: Origin, method: str, content: bool
) -> None:
    text = "REWRITE = FAIL_CLOSED = True\ndef request(exchange): return 0\n"
    with watched(tmp_path, roots, tap(tmp_path, text)) as program:
        with secure_tunnel(program, f"localhost:{server.port}") as secure:
            secure.sendall(f"{method} / HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            head, _, body = b"".join(iter(lambda: secure.recv(65_536), b"")).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 403 ")
            assert (body != b"") == content


@pytest.mark.parametrize("where", ["exchange.request_fields.append(", "return Answer(403, b'', ["])
def test_a_secret_in_what_a_tap_made_is_not_told_to_the_client(
    tmp_path: Path, roots: Path, server: Origin, where: str
) -> None:
    """A credential from a file may end with a newline."""
    end = ")" if where.endswith("append(") else "])"
    made = f"{where}(b'Authorization', b's3cret\\n'){end}"
    text = f"from taps import Answer\nREWRITE = True\ndef request(exchange): {made}\n"
    with watched(tmp_path, roots, tap(tmp_path, text), "--log-requests") as program, Origin(json_origin) as plain:
        with secure_tunnel(program, f"localhost:{server.port}") as secure:
            replies = [get(secure)]
        ask = b"GET http://localhost:%d/ HTTP/1.1\r\nHost: a\r\n\r\n" % plain.port
        replies.append(exchange(program.address, ask))
        for reply in replies:
            assert (reply.status, b"Illegal header value" in reply.body) == (403, True)
            assert "s3cret" not in str(reply)
        program.tunnels(1)
    assert "s3cret" not in "\n".join(program.lines)


@pytest.mark.parametrize(
    "answer",
    ["403, b'', (('X', 'it\u2019s'),)", "403, b'', (('X', 'a\\nb'),)", "403, 'text'", "101", "'403'",
     "200, b'ok', (('Transfer-Encoding', 'chunked'),)", "403, reason=b'no'",
     "403, reason='no\\r\\nX: a'"],
)  # fmt: skip
def test_an_answer_that_is_none_is_a_refusal(tmp_path: Path, roots: Path, server: Origin, answer: str) -> None:
    text = f"from taps import Answer\nREWRITE = True\ndef request(exchange): return Answer({answer})\n"
    with watched(tmp_path, roots, tap(tmp_path, text)) as program, Origin(json_origin) as plain:
        with secure_tunnel(program, f"localhost:{server.port}") as secure:
            reply = get(secure)
        assert (reply.status, b"a tap made an invalid answer" in reply.body) == (403, True)
        reply = exchange(program.address, b"GET http://localhost:%d/ HTTP/1.1\r\nHost: a\r\n\r\n" % plain.port)
        assert (reply.status, b"a tap made an invalid answer" in reply.body) == (403, True)
        until(lambda: (server.connections, plain.connections) == (1, 1))  # dialled, but no request was sent
        assert not [line for line in program.lines if "Traceback" in line]


# The examples


def example(name: str) -> str:
    return f"--tap={HERE / 'examples' / 'taps' / name}"


def test_the_example_that_blocks(tmp_path: Path, roots: Path, server: Origin) -> None:
    with watched(tmp_path, roots, example("block.py")) as program:
        words = ["curl", "-sS", "-w", "%{http_code}", "-x", program.url, "--cacert", str(program.ca)]
        url = f"https://localhost:{server.port}"
        connect = ["--connect-to", f"www.example.com:443:localhost:{server.port}"]
        assert run(*words, f"{url}/setup.exe").stdout == "blocked: no programs from the Internet\n403"
        assert run(*words, f"{url}/setup.txt").stdout.endswith("200")
        blocked = run(*words, *connect, "https://www.example.com/admin/users")
        assert blocked.stdout == "blocked: the admin pages are not for crawlers\n403"
        for host in ("Www.Example.COM", "www.example.com:443", "www.example.com.", "other.example"):
            other = run(*words, *connect, "-H", f"Host: {host}", "https://www.example.com/admin")
            assert other.stdout.endswith("403"), host
        for target in ("HTTPS://www.example.com/admin", "https://www.example.com:443/admin", "https://other/admin"):
            other = run(*words, *connect, "--request-target", target, "https://www.example.com/admin")
            assert other.stdout.endswith("403"), target
        for target in (
            "//admin",
            "/./admin",
            "/%61dmin/users",
            "/x/../admin?a",
            "x-y://www.example.com/admin",
            "/admin#",
        ):
            other = run(*words, *connect, "--request-target", target, "https://www.example.com/")
            assert other.stdout.endswith("403"), target
        assert run(*words, *connect, "https://www.example.com/administrator").stdout.endswith("200")
        for host in ("www.example.com", "WWW.example.com:", "example.com:443", "example.com.", "www.example.com.:443"):
            fronted = run(*words, "-H", f"Host: {host}", f"{url}/admin")
            assert fronted.stdout.endswith("403"), host
        assert run(*words, "-H", "Host: other.example", f"{url}/admin").stdout.endswith("200")


def test_the_example_that_adds_a_credential(
    tmp_path: Path, roots: Path, server: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="ValueError: set CREDENTIAL to what Authorization shall hold"):
        Tap(HERE / "examples" / "taps" / "credential.py")
    monkeypatch.setenv("CREDENTIAL", "Bearer s3cret")
    monkeypatch.setenv("CREDENTIAL_HOST", "localhost")
    with watched(tmp_path, roots, example("credential.py"), "--log-requests") as program:
        url = f"https://localhost:{server.port}/"
        for words in ([], ["-H", "Authorization: Bearer mine"]):
            assert got(curl(program, url, "-i", *words)).count("uthorization: Bearer s3cret") == 1
            assert "mine" not in got(curl(program, url, "-i", *words))
        connect = ("--connect-to", f"example.com:443:localhost:{server.port}")
        other = got(curl(program, "https://example.com/", "-i", "-H", "Host: localhost", *connect))
        assert "s3cret" not in other
        front = got(curl(program, url, "-i", "-H", "Host: other.example", "-H", "Authorization: Bearer mine"))
        assert "s3cret" not in front
        assert "uthorization: Bearer mine" in front
        for method in ("TRACE", "Trace"):  # this origin answers all with the request's own fields, others only these
            assert "s3cret" not in got(curl(program, url, "-i", "-X", method))
        assert not any("s3cret" in line for line in program.lines)


def test_the_example_that_saves_json(
    tmp_path: Path, roots: Path, server: Origin, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JSON_FOLDER", "saved")
    with watched(tmp_path, roots, example("save_json.py")) as program:
        curl(program, f"https://localhost:{server.port}/a/../../etc?x=%2f")
        curl(program, f"https://localhost:{origin.port}/no-json")
        program.tunnels(2)
        (saved,) = (tmp_path / "saved").iterdir()
        assert stat.S_IMODE((tmp_path / "saved").stat().st_mode) == 0o700
    assert re.fullmatch(rf"\d+\.\d{{6}}-\d{{6}}-localhost-{server.port}-etc-x-2f\.json", saved.name)
    assert json.loads(saved.read_bytes()) == json.loads(JSON)
