"""What is recorded of the traffic, tested from outside: the request log, HAR, pcapng, keys."""

import json
import re
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path

import bcrypt
import gevent
import pytest
from browser import Browser
from gevent.socket import wait_read
from lab import (
    WAIT,
    BioClient,
    Origin,
    Program,
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

import sockets

JSON = b'{"a": [1, 2]}'


def json_origin(sock: gevent.socket.socket) -> None:
    """Answer each request with JSON, and repeat the request's head in a field."""
    data = b""
    while True:
        while b"\r\n\r\n" not in data:
            more = sock.recv(65_536)
            if not more:
                return
            data += more
        head, _, data = data.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", head)
        while length and len(data) < int(length[1]):
            data += sock.recv(65_536)
        data = data[int(length[1]) if length else 0 :]
        told = head.replace(b"\r\n", b" | ")
        fields = b"Content-Type: application/json\r\nX-Got: %s\r\nContent-Length: %d\r\n" % (told, len(JSON))
        sock.sendall(b"HTTP/1.1 200 OK\r\n" + fields + b"\r\n" + (b"" if head.startswith(b"HEAD") else JSON))


@pytest.fixture
def server(certificate: Path) -> Iterator[Origin]:
    with Origin(json_origin, certificate) as running:
        yield running


@contextmanager
def watched(folder: Path, roots: Path, *options: str) -> Iterator[Program]:
    with Program(folder, *BASE, f"--upstream-ca={roots}", *options) as program:
        yield program


def curl(program: Program, url: str, *words: str) -> str:
    result = run("curl", "-sS", "-x", program.url, "--cacert", program.ca, *words, url)
    assert result.returncode == 0, result
    return result.stdout


def eventually(path: Path, pattern: str) -> str:
    deadline = time.monotonic() + WAIT
    while not (path.exists() and re.search(pattern, path.read_text())):
        assert time.monotonic() < deadline, path.read_text() if path.exists() else "no file"
        gevent.sleep(0.01)
    return path.read_text()


# The request log


def test_a_line_for_each_request(tmp_path: Path, roots: Path, server: Origin, certificate: Path) -> None:
    with watched(tmp_path, roots, "--log-requests") as program:
        url = f"https://localhost:{server.port}/x?y=1"
        secret = ("-H", "Authorization: Bearer s3cret", "-H", "Cookie: s3cret")
        assert curl(program, url, "-d", "12345", *secret).encode() == JSON
        line = program.wait_for("request .*method=POST")
        assert re.search(
            rf'client=127.0.0.1:\d+ method=POST url="https://localhost:{server.port}/x\?y=1" http=1.1 status=200'
            r" sent=5 received=13 first_ms=[\d.]+ ms=[\d.]+ type=application/json",
            line,
        )
        with Origin(h2_origin, certificate, alpn=["h2"]) as other:
            assert curl(program, f"https://localhost:{other.port}/h2", "--http2") == "h2 ok"
            assert "http=2 status=200 sent=0 received=5" in program.wait_for(f"url=https://localhost:{other.port}/h2")
        with Origin(json_origin) as plain:
            curl(program, f"http://localhost:{plain.port}/plain")
            line = program.wait_for(f"url=http://localhost:{plain.port}/plain")
            assert "method=GET" in line
            assert "status=200 sent=0 received=13" in line
        assert not any("s3cret" in told for told in program.lines)
        assert len([told for told in program.lines if " request " in told]) == 3  # one for each
        state = json.loads(exchange(program.address, b"GET /state HTTP/1.0\r\n\r\n").body)
        assert sum(state["counts"]["requests"].values()) == 3  # even though nobody has looked at the page


@pytest.mark.parametrize("acts", [False, True])
@pytest.mark.parametrize("orderly", [False, True])
@pytest.mark.parametrize("first", ["origin", "client"])
def test_who_cut_off_a_response(
    tmp_path: Path, roots: Path, certificate: Path, first: str, orderly: bool, acts: bool
) -> None:
    """A client ends without close_notify here, as many do: it is not to blame if the origin has ended before."""
    (tmp_path / "tap.py").write_text(f"REWRITE = {acts}\ndef request(exchange): pass\n")

    def half(sock: gevent.socket.socket) -> None:
        assert sock.recv(65_536)
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
        if first == "client":
            wait_read(sock.fileno())  # for its end
        if not orderly:
            socket.socket(fileno=sock.detach()).close()

    with (
        watched(tmp_path, roots, "--log-requests", f"--tap={tmp_path / 'tap.py'}") as program,
        Origin(half, certificate) as server,
    ):
        with secure_tunnel(program, f"localhost:{server.port}") as secure:
            secure.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            until(lambda: secure.recv(65_536).endswith(b"half"))
            if first == "origin":
                with suppress(ssl.SSLEOFError):
                    assert secure.recv(1) == b""
        line = program.wait_for(" request .*received=4 ")
        outcome = "client-truncated" if first == "client" or orderly else "origin-truncated"
        told = '"the response was cut off"' if first == "origin" and orderly else outcome
        assert line.endswith(f" error={told}"), line
        assert f"outcome={outcome}" in program.tunnels(1)[0]


@pytest.mark.parametrize("encrypted", [False, True])
@pytest.mark.parametrize("sent", [3, 10])
def test_a_request_that_was_cut_off_though_it_was_answered(
    tmp_path: Path, roots: Path, certificate: Path, encrypted: bool, sent: int
) -> None:
    def refuse(sock: gevent.socket.socket) -> None:
        head = sock.recv(65_536)
        while not head.endswith(b"\r\n\r\n" + b"x" * sent):
            head += sock.recv(65_536)
        sock.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")

    with (
        watched(tmp_path, roots, "--log-requests") as program,
        Origin(refuse, certificate if encrypted else None) as server,
    ):
        where = f"localhost:{server.port}"
        with ExitStack() as stack:
            if encrypted:
                sock: socket.socket = stack.enter_context(secure_tunnel(program, where))
            else:
                sock = stack.enter_context(socket.create_connection(program.address, timeout=WAIT))
            target = "/" if encrypted else f"http://{where}/"
            head = f"POST {target} HTTP/1.1\r\nHost: {where}\r\nConnection: close\r\nContent-Length: 10\r\n\r\n"
            sock.sendall(head.encode() + b"x" * sent)
            assert read_reply(sock).status == 413
            assert sock.recv(1) == b""
        line = program.wait_for(f" request .*status=413 sent={sent} received=2 ")
        assert line.endswith(' error="the request was cut off"') == (sent < 10), line


def test_what_is_no_http_is_noted_and_goes_on(tmp_path: Path, roots: Path, certificate: Path) -> None:
    with watched(tmp_path, roots, "--log-requests") as program:
        with Origin(websocket_origin, certificate) as server:
            with secure_tunnel(program, f"localhost:{server.port}") as secure:
                secure.sendall(
                    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
                )
                assert secure.recv(12) == b"HTTP/1.1 101"
        assert "status=101" in program.wait_for("request .*upgrade=websocket")
        assert 'note="not decoded: upgraded to websocket"' in program.tunnels(1)[0]

        def shout(sock: gevent.socket.socket) -> None:
            while data := sock.recv(100):
                sock.sendall(data.upper())

        with Origin(shout, certificate) as server, secure_tunnel(program, f"localhost:{server.port}") as secure:
            secure.sendall(b"\0\1hello\r\n")
            assert secure.recv(100) == b"\0\1HELLO\r\n"
        assert 'note="not decoded: not HTTP"' in program.tunnels(2)[1]


@pytest.mark.parametrize("acts", [False, True])
@pytest.mark.parametrize(("orderly", "told"), [(True, False), (False, True)])
def test_a_response_that_ends_with_the_connection(
    tmp_path: Path, roots: Path, certificate: Path, acts: bool, orderly: bool, told: bool
) -> None:
    """Complete, though the client then just leaves, as many do; incomplete if the origin's TLS was truncated."""
    (tmp_path / "tap.py").write_text(f"REWRITE = {acts}\ndef request(exchange): pass\n")

    def handle(sock: gevent.socket.socket) -> None:
        sock.recv(1000)
        sock.sendall(b"HTTP/1.1 200 OK\r\n\r\nto the end")
        if not orderly:
            socket.socket(fileno=sock.detach()).close()

    with (
        watched(tmp_path, roots, "--log-requests", f"--tap={tmp_path / 'tap.py'}") as program,
        Origin(handle, certificate) as server,
    ):
        with secure_tunnel(program, f"localhost:{server.port}") as secure:
            secure.sendall(b"GET /end HTTP/1.1\r\nHost: a\r\n\r\n")
            with suppress(ssl.SSLEOFError):
                while secure.recv(1000):
                    pass
        line = program.wait_for("request .*/end")
        assert "received=10" in line
        assert ("error=origin-truncated" in line) == ("error=" in line) == told


@pytest.mark.parametrize("acts", [False, True])
def test_a_response_that_ends_with_the_connection_though_the_client_was_truncated(
    tmp_path: Path, roots: Path, certificate: Path, acts: bool
) -> None:
    (tmp_path / "tap.py").write_text(f"REWRITE = {acts}\ndef request(exchange): pass\n")

    def handle(sock: gevent.socket.socket) -> None:
        sock.recv(1000)
        wait_read(sock.fileno())  # for the client's end
        sock.sendall(b"HTTP/1.1 200 OK\r\n\r\nto the end")

    with (
        watched(tmp_path, roots, "--log-requests", f"--tap={tmp_path / 'tap.py'}") as program,
        Origin(handle, certificate) as server,
        secure_tunnel(program, f"localhost:{server.port}") as secure,
    ):
        secure.sendall(b"GET /end HTTP/1.1\r\nHost: a\r\n\r\n")
        socket.socket.shutdown(secure, socket.SHUT_WR)  # SSLSocket's own would give up TLS
        line = program.wait_for("request .*/end")
        assert "received=10" in line
        assert "error=" not in line, line


def test_plain_http_in_a_har(tmp_path: Path, roots: Path) -> None:
    """As in a tunnel: the wait is the origin's, trailers are included, the proxy's own fields are not."""
    path = tmp_path / "all.har"

    def handle(sock: gevent.socket.socket) -> None:
        sock.recv(1000)
        gevent.sleep(0.5)
        sock.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-T: 1\r\n\r\n")

    with watched(tmp_path, roots, f"--har={path}") as program, Origin(handle) as server:
        secret = ("--proxy-user", "alice:s3cret", "-H", "Proxy-Connection: keep-alive", "-H", "X-End: 1")
        assert curl(program, f"http://localhost:{server.port}/slow", *secret) == "ok"
        eventually(path, "/slow")
    [entry] = json.loads(path.read_text())["log"]["entries"]
    assert entry["timings"]["send"] < 250 < entry["timings"]["wait"]
    assert entry["response"]["_trailers"] == [{"name": "X-T", "value": "1"}]
    fields = {field["name"].lower() for field in entry["request"]["headers"]}
    assert "x-end" in fields
    assert not [name for name in fields if name.startswith("proxy-")]


def test_who_asked_for_what_and_what_he_got(tmp_path: Path, roots: Path, server: Origin) -> None:
    """Whoever answered: an origin in a tunnel or over plain HTTP, or certifier, which refuses or reaches nobody."""
    users, path = tmp_path / "users", tmp_path / "access.log"
    users.write_bytes(b"alice:" + bcrypt.hashpw(b"pw", bcrypt.gensalt(4)) + b"\n")
    options = (f"--auth={users}", "--log-requests", "--log-format=combined", f"--log-file={path}")
    alice = ("-U", "alice:pw", "-o", "/dev/null")
    with watched(tmp_path, roots, *options) as program, Origin(json_origin) as plain:
        urls = [
            f"https://localhost:{server.port}/in",
            f"http://localhost:{plain.port}/plain",
            "http://nowhere.invalid:80/none",
        ]
        for url in urls:
            curl(program, url, *alice)
        curl(program, urls[1], "-o", "/dev/null")
        odd = b"GET http://u:secret@127.0.0.9/denied HTTP/1.1\r\nHost: a\r\n\r\n"
        assert exchange(program.address, odd).status == 400
        assert exchange(program.address, b"GET /healthz HTTP/1.0\r\n\r\n").status == 200
        for right in (True, False):
            status = run(
                "curl", "-u", f"alice:{'pw' if right else 'no'}", "-w", "%{http_code}", f"{program.url}/metrics"
            )
            assert status.stdout.endswith("200" if right else "401")
        text = eventually(path, "(?s)metrics.*metrics")
    told = re.findall(r'- (\S+) \[.*?\] "(\S+ \S+ HTTP/[\d.]+)" (\d+)', text)
    assert told.pop(1) == ("alice", f"CONNECT localhost:{server.port} HTTP/1.1", "200")
    assert told == [
        ("alice", f"GET {urls[0]} HTTP/1.1", "200"),
        ("alice", f"GET {urls[1]} HTTP/1.1", "200"),
        ("alice", f"GET {urls[2]} HTTP/1.1".replace(":80", ""), "502"),
        ("-", f"GET {urls[1]} HTTP/1.1", "407"),
        ("-", "GET http://127.0.0.9/denied HTTP/1.1", "400"),
        ("-", "GET /healthz HTTP/1.0", "200"),
        ("alice", "GET /metrics HTTP/1.1", "200"),
        ("-", "GET /metrics HTTP/1.1", "401"),
    ]


def test_the_status_of_a_tunnel_is_what_its_client_got(tmp_path: Path, roots: Path, server: Origin) -> None:
    """Directly in TLS, where nothing can be answered, that is nothing until it is relayed."""
    path, target = tmp_path / "access.log", f"localhost:{server.port}"
    options = ("--deny=denied.example", "--log-format=combined", f"--log-file={path}", f"--redirect=tls://{target}")
    with watched(tmp_path, roots, *options) as program:
        for name in ("denied.example", "localhost"):
            with (
                pytest.raises(ssl.SSLError, match="ACCESS_DENIED") if name == "denied.example" else nullcontext(),
                socket.create_connection(program.address, timeout=WAIT) as sock,
                strict_context(program.ca).wrap_socket(sock, server_hostname=name) as secure,
            ):
                assert get(secure, "/").status == 200
        with pytest.raises(ssl.SSLError, match="ACCESS_DENIED"), secure_tunnel(program, target, "denied.example"):
            pass
        eventually(path, f"(?s)CONNECT {target}")
    assert re.findall(r'"CONNECT (\S+) HTTP/1.1" (\d+)', path.read_text()) == [
        ("denied.example:443", "000"),
        ("localhost:443", "200"),
        (target, "200"),
    ]


@pytest.mark.parametrize("form", ["json", "combined"])
def test_formats_and_a_file_that_is_rotated(tmp_path: Path, roots: Path, server: Origin, form: str) -> None:
    path = tmp_path / "access.log"
    options = ("--log-requests", f"--log-format={form}", f"--log-file={path}")
    with watched(tmp_path, roots, *options) as program:
        curl(program, f"https://localhost:{server.port}/one")
        first = eventually(path, "(?s)/one.*(outcome|CONNECT)")
        assert path.stat().st_mode & 0o777 == 0o600
        path.rename(tmp_path / "access.log.1")
        program.process.send_signal(signal.SIGUSR1)
        until(path.exists)
        curl(program, f"https://localhost:{server.port}/two")
        second = eventually(path, "(?s)/two.*(outcome|CONNECT)")
        assert "/one" not in second
        assert not any(" tunnel " in line for line in program.lines)
    request, tunnel = first.splitlines()
    if form == "json":
        assert json.loads(request)["url"].endswith("/one")
        assert json.loads(request)["status"] == 200
        told = json.loads(tunnel)
        assert (told["kind"], told["target"], told["outcome"]) == ("tunnel", f"localhost:{server.port}", "closed")
    else:
        combined = r'127\.0\.0\.1 - - \[[^]]+\] "{} HTTP/1\.1" 200 \d+ "-" "curl/[^"]+"'
        assert re.fullmatch(combined.format(rf"GET https://localhost:{server.port}/one"), request)
        assert re.fullmatch(combined.format(rf"CONNECT localhost:{server.port}"), tunnel)


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGHUP])
def test_packets_go_on_in_a_new_file(tmp_path: Path, roots: Path, server: Origin, number: signal.Signals) -> None:
    path, rotated = tmp_path / "all.pcapng", tmp_path / "all.pcapng.1"
    with watched(tmp_path, roots, f"--pcap={path}") as program:
        curl(program, f"https://localhost:{server.port}/one")
        path.rename(rotated)
        program.process.send_signal(number)
        until(path.exists)
        curl(program, f"https://localhost:{server.port}/two")
        until(lambda: b"/two" in path.read_bytes())
    assert b"/one" in rotated.read_bytes()
    assert b"/two" not in rotated.read_bytes()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--log-file=none/x", "--log-file=none/x: can't write it: No such file or directory"),
        ("--har=none/x", "--har=none/x: can't write it"),
        ("--pcap=none/x", "--pcap=none/x: can't write it"),
        ("--keylog=none/x", "--keylog=none/x: can't write it"),
        ("--log-format=xml", "--log-format=xml: not one of text, json, combined"),
        ("--tap=none.py", "--tap=none.py: can't read it: No such file"),
    ],
)
def test_what_cannot_be_opened_is_one_line(tmp_path: Path, option: str, message: str) -> None:
    result = run(*Program.command(), *BASE, option, "--listen=127.0.0.1:0", cwd=tmp_path)
    assert result.returncode == 2
    assert message in result.stderr.splitlines()[-1]


@pytest.mark.parametrize("option", ["--har=all", "--pcap=all"])
def test_a_file_that_another_certifier_writes_is_one_line(tmp_path: Path, option: str) -> None:
    with Program(tmp_path, *BASE, option):
        result = run(*Program.command(), *BASE, option, "--listen=127.0.0.1:0", cwd=tmp_path)
    message = f"certifier: {option}: another certifier, which may still be stopping, writes it\n"
    assert (result.returncode, result.stderr) == (2, message)


def test_a_start_that_fails_leaves_no_copy_of_the_har(tmp_path: Path) -> None:
    result = run(*Program.command(), *BASE, "--har=all", "--pcap=none/x", "--listen=127.0.0.1:0", cwd=tmp_path)
    message = "certifier: --pcap=none/x: can't write it: No such file or directory\n"
    assert (result.returncode, result.stderr) == (2, message)
    assert not (tmp_path / ".all.spare").exists()
    assert json.loads((tmp_path / "all").read_text())["log"]["entries"] == []


def test_a_har_that_cannot_be_closed_ends_nothing_else(tmp_path: Path) -> None:
    """As in a folder that became read-only."""
    with Program(tmp_path, "--store=certs", "--max=9", "--har=all") as running:
        (tmp_path / ".all.spare").unlink()
        (tmp_path / ".all.spare").mkdir()
        assert running.stop() == 0
    assert "warning: the HAR file can't be closed: " in running.lines[-1]


@pytest.mark.parametrize(
    "bad",
    ["--auth=bad", "--upstream-ca=bad", "--deny=@none", "--tap=bad", "--har=bad", "--keylog=none/x", "--listen=taken"],
)
def test_a_start_that_fails_leaves_earlier_packets_where_they_are(tmp_path: Path, bad: str) -> None:
    """Ten failed starts, as supervisors make them, would push out all earlier files."""
    (tmp_path / "bad").write_text("bad\n")
    path = tmp_path / "all.pcapng"
    path.write_bytes(b"earlier")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bad = bad.replace("taken", f"127.0.0.1:{taken.getsockname()[1]}")
        result = run(*Program.command(), *BASE, f"--pcap={path}", "--listen=127.0.0.1:0", bad, cwd=tmp_path)
    assert result.returncode == 2, result
    assert path.read_bytes() == b"earlier"
    assert not (tmp_path / "all.1.pcapng").exists()


# Records


IMPORTED = """
Promise.all([import("./models/har/har.js"), import("./panels/network/network.js")]).then(async ([har]) => {
    const log = new har.HARFormat.HARRoot(JSON.parse(TEXT)).log;
    const requests = har.Importer.Importer.requestsFromHARLog(log);
    return Promise.all(requests.map(async (request) => {
        const content = await request.requestContentData();
        return [request.requestMethod, request.url(), request.statusCode, request.mimeType, content.text,
                request.duration >= 0];
    }));
})
"""


def test_developer_tools_of_a_browser_open_a_har(tmp_path: Path, roots: Path, server: Origin) -> None:
    """By Chromium's own importer, as when the file is dropped into its Network tab."""
    path = tmp_path / "all.har"
    urls = [f"https://localhost:{server.port}/{name}" for name in ("one", "two?a=b")]
    with watched(tmp_path, roots, f"--har={path}") as program:
        for url in urls:
            curl(program, url)
        eventually(path, "two")
    with Browser(tmp_path) as browser:
        found = browser.developer_tools().value(IMPORTED.replace("TEXT", json.dumps(path.read_text())))
    assert found == [["GET", url, 200, "application/json", JSON.decode(), True] for url in urls]


def test_a_response_in_a_har_has_its_own_version(tmp_path: Path, roots: Path, certificate: Path) -> None:
    def old(sock: socket.socket) -> None:
        folded = b"X: a\r\n b\r\n" if b"/h11" in sock.recv(65_536) else b""  # which it alone parses: see heads.py
        sock.sendall(b"HTTP/1.0 200 OK\r\n" + folded + b"Content-Length: 2\r\n\r\nok")

    path = tmp_path / "all.har"
    with (
        watched(tmp_path, roots, f"--har={path}") as program,
        Origin(old) as plain,
        Origin(old, certificate) as secure,
    ):
        here = f"https://localhost:{secure.port}/"
        for url in (f"http://localhost:{plain.port}/", here, f"{here}h11"):
            assert curl(program, url) == "ok"
    versions = [
        (entry["request"]["httpVersion"], entry["response"]["httpVersion"])
        for entry in json.loads(path.read_text())["log"]["entries"]
    ]
    assert versions == [("HTTP/1.1", "HTTP/1.0")] * 3


def test_har(tmp_path: Path, roots: Path, server: Origin) -> None:
    path = tmp_path / "all.har"
    with watched(tmp_path, roots, f"--har={path}", "--har-body-max=100") as program:
        curl(program, f"https://localhost:{server.port}/a", "-d", "x=1")
        curl(program, f"https://localhost:{server.port}/b")
        eventually(path, "/b")
        json.loads(path.read_text())  # valid while it is being written
        curl(program, f"https://localhost:{server.port}/c")
        tunnels = program.tunnels(3)
    entries = json.loads(path.read_text())["log"]["entries"]
    assert {f"client={entry['_client']}" for entry in entries} == {line.split()[2] for line in tunnels}
    assert [entry["request"]["url"].rpartition("/")[2] for entry in entries] == ["a", "b", "c"]
    assert entries[0]["request"]["postData"]["text"] == "x=1"
    assert json.loads(entries[0]["response"]["content"]["text"]) == json.loads(JSON)
    assert path.stat().st_mode & 0o777 == 0o600


def test_pcap(tmp_path: Path, roots: Path, server: Origin, certificate: Path) -> None:
    path = tmp_path / "all.pcapng"
    with watched(tmp_path, roots, f"--pcap={path}") as program:
        curl(program, f"https://localhost:{server.port}/a")
        with Origin(h2_origin, certificate, alpn=["h2"]) as other:
            curl(program, f"https://localhost:{other.port}/b", "--http2")
        program.tunnels(2)
        words: list[str | Path] = ["tshark", "-r", path, "-d", "tcp.port==1-65535,http", "-T", "fields"]
        shown = run(*words, "-e", "http.request.uri", "-e", "http2.headers.path", "-e", "tcp.dstport", timeout=60)
        assert shown.returncode == 0, shown.stderr
        rows = [line.split("\t") for line in shown.stdout.splitlines()]
        assert ["/a", "", str(server.port)] in rows
        assert ["", "/b", str(other.port)] in rows


def test_the_end_of_a_tunnel_in_a_pcap(tmp_path: Path, roots: Path, server: Origin, certificate: Path) -> None:
    """FINs where it was orderly, else a reset by the side that cut it off."""

    def left(sock: gevent.socket.socket) -> None:
        assert sock.recv(65_536)
        sockets.reset(sock)
        raise ConnectionAbortedError  # or its close_notify would go first

    path = tmp_path / "all.pcapng"
    with watched(tmp_path, roots, f"--pcap={path}") as program, Origin(left, certificate) as other:
        for orderly in (True, False):
            with tunnel(program.address, f"localhost:{server.port}") as sock:
                client = BioClient(sock, strict_context(program.ca), "localhost")
                if orderly:
                    client.close_notify()
                    assert client.read() == b""
            program.wait_for("outcome=closed" if orderly else "outcome=client-truncated")
        with secure_tunnel(program, f"localhost:{other.port}") as secure:
            secure.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            with suppress(OSError):
                secure.recv(1)
        program.wait_for("outcome=origin-reset")
    words: list[str | Path] = ["tshark", "-r", path, "-Y", "tcp.flags.fin==1 || tcp.flags.reset==1", "-T", "fields"]
    shown = run(*words, "-e", "tcp.stream", "-e", "tcp.flags", "-e", "tcp.srcport", timeout=60)
    assert shown.returncode == 0, shown.stderr
    rows = [line.split("\t") for line in shown.stdout.splitlines()]
    assert [(stream, int(flags, 16) & 5) for stream, flags, _ in rows] == [("0", 1), ("0", 1), ("1", 4), ("2", 4)]
    assert rows[2][2] != str(server.port)
    assert rows[3][2] == str(other.port)


def test_keys_decrypt_a_capture_of_both_sides(tmp_path: Path, roots: Path, server: Origin) -> None:
    keys, wire = tmp_path / "keys", tmp_path / "wire.pcapng"
    with watched(tmp_path, roots, f"--keylog={keys}") as program:
        program.wait_for("the keys of all connections are written to")
        ports = [program.address[1], server.port]
        words = ["tshark", "-i", "lo", "-w", wire, "-f", " or ".join(f"tcp port {port}" for port in ports)]
        with subprocess.Popen(list(map(str, words)), stderr=subprocess.PIPE, text=True) as capture:
            assert capture.stderr
            while "Capturing" not in (line := capture.stderr.readline()):
                assert line, "tshark can't capture"
            try:
                deadline = time.monotonic() + WAIT
                until(lambda: wire.exists() and wire.stat().st_size)
                curl(program, f"https://localhost:{server.port}/secret")
                program.tunnels(1)
                size = -1
                while size != (size := wire.stat().st_size) or size < 5000:
                    assert time.monotonic() < deadline
                    gevent.sleep(0.3)
            finally:
                capture.send_signal(signal.SIGINT)
                capture.communicate(timeout=WAIT)
        for port in ports:
            shown = run(
                "tshark", "-r", wire, "-o", f"tls.keylog_file:{keys}", "-Y", f"http.request and tcp.port=={port}",
                # Both are set: tshark may take either port for another protocol.
                "-d", f"tcp.port=={server.port},tls", "-d", f"tcp.port=={program.address[1]},http",
                "-T", "fields", "-e", "http.request.method", "-e", "http.request.uri", timeout=60,
            )  # fmt: skip
            assert "GET\t/secret" in shown.stdout, (port, shown)
        without = run("tshark", "-r", wire, "-Y", "http.request.method==GET", timeout=60)
        assert "secret" not in without.stdout
    assert keys.stat().st_mode & 0o777 == 0o600


def test_sslkeylogfile_does_the_same(
    tmp_path: Path, roots: Path, server: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = tmp_path / "keys"
    monkeypatch.setenv("SSLKEYLOGFILE", str(keys))
    with watched(tmp_path, roots) as program:
        monkeypatch.delenv("SSLKEYLOGFILE")
        curl(program, f"https://localhost:{server.port}/")
    randoms = {line.split()[1] for line in keys.read_text().splitlines() if line.startswith("CLIENT_TRAFFIC_SECRET_0")}
    assert len(randoms) == 2  # the client's connection, and the one to the origin


def test_nothing_is_seen_unless_it_is_asked_for(program: Program, origin: Origin) -> None:
    seen = len(program.lines)
    with secure_tunnel(program, f"localhost:{origin.port}") as secure:
        assert get(secure).status == 200
    program.wait_for("tunnel", seen)
    assert not any(" request " in line for line in program.lines[seen:])
    assert exchange(program.address, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").status == 200
