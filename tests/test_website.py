"""The proxy's own pages, as requested by curl: who gets what, with which fields."""

import base64
import json
import os
import plistlib
import re
import shutil
import signal
import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import gevent
import pytest
from lab import (
    WAIT,
    Origin,
    Program,
    Reply,
    exchange,
    get,
    read_reply,
    run,
    secure_tunnel,
    tunnel,
)
from pki import now
from test_board import snapshot_of
from test_health import options
from test_policy import policy
from test_users import ALICE, line

import sockets
from access import Access
from assets import FOLDER, Assets
from board import Board
from feed import MAX_ONLOOKERS, Feed
from health import Health
from issuance import Issuance
from names import Target
from onlookers import Onlookers, Visit
from snapshot import MAX_ROWS, Cursor, Snapshot
from sockets import LINGER_SECONDS
from website import MAX_TOLD, Website
from workers import Workers

BASE = ("--store=certs", "--max=100", "--ca=ca")
PASSWORD = "Basic " + base64.b64encode(b":".join(ALICE)).decode()
PUBLIC = ["/", "/ca.crt", "/ca.der", "/ca.mobileconfig", "/ca.crl", "/page.css", "/page.js", "/icon.svg", "/healthz"]
LIVE = ["/state", "/events", "/metrics"]


def ask(program: Program, path: str, *fields: str, method: str = "GET", host: str = "") -> Reply:
    head = [f"{method} {path} HTTP/1.1", f"Host: {host or program.url.removeprefix('http://')}", *fields]
    with socket.create_connection(program.address, timeout=WAIT) as sock:
        sock.sendall("\r\n".join([*head, "", ""]).encode())
        return read_reply(sock, body=method != "HEAD")


def state(program: Program, since: str = "") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(ask(program, f"/state?since={since}").body)
    return found


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """A proxy with users (--auth)."""
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "users").write_bytes(line(*ALICE))
    with Program(folder, *BASE, "--auth=users") as running:
        yield running


# What there is


@pytest.mark.parametrize("line", ["OPTIONS / HTTP/1.0", "OPTIONS * HTTP/1.1\r\nHost: a"])
def test_what_is_allowed(program: Program, line: str) -> None:
    """HAProxy asks so whether a server is up, unless told otherwise."""
    reply = exchange(program.address, f"{line}\r\n\r\n".encode())
    assert (reply.status, reply.headers["allow"]) == (200, "GET, HEAD, OPTIONS")


@pytest.mark.parametrize("path", PUBLIC)
def test_public_pages(program: Program, guarded: Program, path: str) -> None:
    for running in (program, guarded):
        reply = ask(running, path)
        assert reply.status == 200
        head = ask(running, path, method="HEAD")
        assert (head.status, head.headers["content-length"]) == (200, str(len(reply.body)))
        assert ask(running, path, method="POST").status == 405
        assert ask(running, path, host="evil.example").status == 200
        assert reply.headers["x-content-type-options"] == "nosniff"
        if path != "/healthz":
            assert ask(running, path, f"If-None-Match: {reply.headers['etag']}").status == 304
            assert ask(running, path, f'If-None-Match: "x", W/{reply.headers["etag"]}').status == 304
            assert ask(running, path, 'If-None-Match: "x"').status == 200
            assert reply.headers["cache-control"] == "no-cache"


@pytest.mark.parametrize("path", ["/x", "/../ca.crt", "/index.html", "/trust.html", "/ca", "/page.js/", "//"])
def test_pages_that_there_are_not(program: Program, path: str) -> None:
    assert ask(program, path).status == 404


def test_the_ca_in_its_forms(program: Program, tmp_path: Path) -> None:
    pem = ask(program, "/ca.crt")
    assert pem.body == program.ca.read_bytes()
    assert pem.headers["content-disposition"] == 'attachment; filename="certifier-ca.crt"'
    assert ssl.DER_cert_to_PEM_cert(ask(program, "/ca.der").body).encode() == pem.body
    profile = ask(program, "/ca.mobileconfig")
    assert profile.headers["content-type"] == "application/x-apple-aspen-config"
    assert plistlib.loads(profile.body)["PayloadContent"][0]["PayloadContent"] == ask(program, "/ca.der").body


def test_without_a_ca(tmp_path: Path) -> None:
    (tmp_path / "certs").mkdir()
    with Program(tmp_path, "--store=certs", "--max=9") as running:
        for path in ("/ca.crt", "/ca.der", "/ca.mobileconfig", "/ca.crl"):
            reply = ask(running, path)
            assert (reply.status, reply.body) == (404, b"certifier has no CA here.\n")
        text = ask(running, "/").body.decode()
        assert "It has no CA" in text
        assert re.findall("curl .*", text) == [f"curl -x {running.url} https://www.example.com/"]
        assert b"There is nothing to trust here" in ask(running, "/", "Accept: text/html").body
        assert ask(running, "/healthz").status == 200


@pytest.mark.skipif(sys.platform != "linux", reason="a path of any octets")
def test_what_is_wrong_with_a_ca_whose_path_is_not_utf_8(tmp_path: Path) -> None:
    ca = tmp_path / os.fsdecode(b"\xff")
    with Program(tmp_path, "--store=certs", "--max=9", f"--ca={ca}") as running:
        shutil.rmtree(ca)
        reply = ask(running, "/healthz")
        assert reply.status == 503
        assert rb"/\udcff/serial.txt: No such file or directory" in reply.body


def test_a_page_for_browsers_and_a_text_for_others(program: Program) -> None:
    text, page = ask(program, "/", "Accept: */*"), ask(program, "/", "Accept: text/html,*/*;q=0.8")
    assert text.headers["content-type"] == "text/plain; charset=utf-8"
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert text.headers["vary"] == page.headers["vary"] == "Accept"
    assert text.headers["etag"] != page.headers["etag"]
    fingerprint = run("openssl", "x509", "-noout", "-sha256", "-fingerprint", "-in", program.ca).stdout
    for reply in (text, page):
        assert fingerprint.strip().partition("=")[2] in reply.body.decode()
        assert f"http://127.0.0.1:{program.address[1]}/ca.crt" in reply.body.decode()
    places = set(re.findall(r"\{\{([a-z_]+)\}\}", "".join(path.read_text() for path in FOLDER.glob("*.html"))))
    known = {"live", "host", "hostname", "port", "user", "login", "cacert", "name", "ends", "fingerprint", "thumbprint"}
    assert places - {"trust", "why"} == known
    named = ask(program, "/", "Accept: text/html", host="proxy.example:99").body.decode()
    assert "curl -x http://proxy.example:99 --cacert certifier-ca.crt https://www.example.com/" in named
    assert "http://proxy.example:99/ca.crt" in named
    assert "-Dhttps.proxyHost=proxy.example -Dhttps.proxyPort=99" in named


def test_a_hostile_host_is_not_shown(program: Program) -> None:
    body = ask(program, "/", "Accept: text/html", host='"><script>alert(1)</script>').body.decode()
    assert "alert" not in body
    assert f"http://127.0.0.1:{program.address[1]}" in body


def test_what_browsers_are_told(program: Program) -> None:
    page = ask(program, "/", "Accept: text/html")
    policy = dict(part.strip().split(" ", 1) for part in page.headers["content-security-policy"].split(";"))
    own = ("script-src", "style-src", "connect-src", "img-src")
    none = ("default-src", "form-action", "frame-ancestors", "base-uri", "trusted-types")
    assert policy == {
        **dict.fromkeys(own, "'self'"),
        **dict.fromkeys(none, "'none'"),
        "require-trusted-types-for": "'script'",
    }
    for path in ("/", "/page.js", "/state"):
        headers = ask(program, path, "Accept: text/html").headers
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["x-frame-options"] == "DENY"
        assert not [name for name in headers if name.startswith("access-control")]


# Who sees live data


@pytest.mark.parametrize("path", LIVE)
def test_live_data_is_for_this_machine_by_its_own_names(program: Program, path: str) -> None:
    assert ask(program, path, method="HEAD").status == 200
    assert ask(program, path, method="HEAD", host="localhost").status == 200
    for reply in (
        ask(program, path, host="evil.example"),
        ask(program, path, "Sec-Fetch-Site: cross-site"),
        ask(program, path, "Sec-Fetch-Site: same-site"),
    ):
        assert reply.status == 403
        assert reply.headers["cache-control"] == "no-store"
    assert ask(program, path, method="POST").status == 405
    # In absolute form, the target's authority counts, not the Host field (RFC 9112 §3.2.2).
    through = ask(program, f"http://localhost:{program.address[1]}{path}", method="HEAD", host="evil.example")
    assert through.status == 200


@pytest.mark.parametrize("path", LIVE)
def test_with_users_live_data_is_for_them(guarded: Program, path: str) -> None:
    refused = ask(guarded, path)
    assert refused.status == (401 if path == "/metrics" else 403)
    assert ("www-authenticate" in refused.headers) == (path == "/metrics")
    assert ask(guarded, path, f"Authorization: {PASSWORD}", method="HEAD").status == 200
    assert ask(guarded, path, f"Proxy-Authorization: {PASSWORD}", method="HEAD").status == 200
    assert ask(guarded, path, "Authorization: Basic eDp5").status == refused.status


def test_signing_in(program: Program, guarded: Program) -> None:
    asked = ask(guarded, "/sign-in")
    assert asked.status == 401
    assert asked.headers["www-authenticate"] == 'Basic realm="certifier", charset="UTF-8"'
    for reply in (
        ask(guarded, "/sign-in", "Accept: text/html", f"Authorization: {PASSWORD}"),
        ask(program, "/sign-in", "Accept: text/html"),
    ):
        assert reply.status == 200
        assert 'data-live="yes"' in reply.body.decode()
    page = ask(guarded, "/", "Accept: text/html").body.decode()
    assert 'data-live="sign-in"' in page
    signed_in = ask(guarded, "/", "Accept: text/html", f"Authorization: {PASSWORD}").body.decode()
    assert 'data-live="yes"' in signed_in
    assert 'data-live="no"' in ask(program, "/", "Accept: text/html", host="evil.example").body.decode()


def test_with_users_what_is_to_be_copied_names_one(program: Program, guarded: Program) -> None:
    for running, user, login in ((program, "", ""), (guarded, "--proxy-user NAME ", "NAME:PASSWORD@")):
        where = running.url.removeprefix("http://")
        text = ask(running, "/").body.decode()
        assert re.findall("curl .*", text) == [
            f"curl -x http://{where} {user}--cacert certifier-ca.crt https://www.example.com/",
            f"curl http://{where}/ca.crt -o certifier-ca.crt",
        ]
        page = ask(running, "/", "Accept: text/html").body.decode()
        assert page.count(f"curl -x http://{where} {user}--cacert certifier-ca.crt https") == 2
        assert f"export http_proxy=http://{login}{where} https_proxy=http://{login}{where}<" in page
        assert f"git config --global http.proxy http://{login}{where}\n" in page


# Live data


def test_what_is_done_now(tmp_path: Path, roots: Path, origin: Origin) -> None:
    target = f"localhost:{origin.port}"
    with Program(tmp_path, *BASE, f"--upstream-ca={roots}", "--deny=denied.example") as running:
        before = state(running)
        assert (before["tunnels"], before["open"], before["held"]) == ([], [], [])
        exchange(running.address, b"CONNECT denied.example:443 HTTP/1.1\r\nHost: denied.example\r\n\r\n")
        with secure_tunnel(running, target) as secure:
            assert get(secure).status == 200
            (row,) = state(running)["open"]
            assert (row["target"], row["sni"], row["context"]) == (target, "localhost", "made")
            assert row["sent"] == len("GET / HTTP/1.1\r\nHost: test\r\n\r\n")
            assert state(running)["gauges"]["tunnels"] == 1
        running.wait_for("sni=localhost")
        after = state(running)
        assert after["open"] == []
        refused, ended = after["tunnels"]
        assert (refused["refused"], refused["target"]) == ("policy", "denied.example:443")
        assert (ended["key"], ended["refused"]) == (row["key"], None)
        assert after["refusals"] == [refused]
        (held,) = after["held"]
        assert (held["name"], held["source"], held["ours"]) == ("localhost", "made", True)
        assert held["used"] <= after["now"] < held["not_after"]
        (request,) = after["requests"]
        assert (request["method"], request["status"]) == ("GET", 200)
        assert after["counts"]["retrievals"] == {"made": 1}
        assert after["counts"]["refusals"] == {"policy": 1}
        assert sum(after["histograms"]["dial"]["counts"]) == 1
        assert sum(after["histograms"]["retrieval"]["counts"]) == 1
        cursor = f"{int(after['now'])};" + ";".join(f"{name}={number}" for name, number in after["seen"].items())
        assert state(running, cursor)["tunnels"] == []
        with secure_tunnel(running, target):
            pass
        running.tunnels(3)
        (news,) = state(running, cursor)["tunnels"]
        assert news["context"] == "memory"


def test_a_client_that_refuses_is_a_refusal(program: Program, origin: Origin) -> None:
    seen = len(program.lines)
    with tunnel(program.address, f"localhost:{origin.port}") as sock, suppress(ssl.SSLError):
        ssl.create_default_context().wrap_socket(sock, server_hostname="www.example.com")
    program.wait_for("the client refused our certificate", seen)
    assert "certificate" in [row["refused"] for row in state(program)["refusals"]]


@contextmanager
def events(program: Program, *fields: str) -> Iterator[Iterator[tuple[str, dict[str, Any]]]]:
    """The id and the data of each server-sent event."""
    with socket.create_connection(program.address, timeout=WAIT) as sock:
        head = "\r\n".join(["GET /events HTTP/1.1", "Host: localhost", *fields, "", ""])
        sock.sendall(head.encode())
        assert read_reply(sock).headers["content-type"] == "text/event-stream; charset=utf-8"
        with sock.makefile("r", encoding="utf-8") as file:
            yield _parsed(file)


def _parsed(file: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    fields = {}
    for text in file:
        name, _, value = text.rstrip("\n").partition(": ")
        if name:
            fields[name] = value
        elif fields:
            yield fields["id"], json.loads(fields["data"])


def test_events_come_once_a_second_with_what_is_news(program: Program, origin: Origin) -> None:
    began = time.monotonic()
    with events(program) as news:
        first, whole = next(news)
        assert whole["gauges"]["onlookers"] == 1
        with secure_tunnel(program, f"localhost:{origin.port}") as secure:
            get(secure)
        rows = [row for _, data in (next(news) for _ in range(2)) for row in data["tunnels"]]
        while not rows:  # the tunnel ended after both of them
            rows = next(news)[1]["tunnels"]
        assert [row["target"] for row in rows] == [f"localhost:{origin.port}"]
        assert 1 < time.monotonic() - began < WAIT
    with events(program, f"Last-Event-ID: {first}") as news:
        _, data = next(news)
        assert [row["key"] for row in data["tunnels"]] == [rows[0]["key"]]


def website(folder: Path, gather: Callable[[Cursor | None], Snapshot]) -> Website:
    health = Health(Issuance(options(folder), now()), Workers())
    return Website(Assets(), Onlookers(Access(policy(), None)), health, Feed(), gather)


def visit(path: str) -> Visit:
    return Visit("GET", path, "127.0.0.1", "localhost", Target("localhost", 80), lambda _: "")


def test_so_many_states_are_sent_at_once(tmp_path: Path) -> None:
    """Each may have megabytes, and clients may not read."""
    site = website(tmp_path, lambda _: snapshot_of(Board()))
    under_way = [site.page(visit("/state")) for _ in range(MAX_TOLD)]
    assert {answer.status for answer in under_way} == {200}
    assert site.page(visit("/state")).status == 503
    one, other, *_ = under_way
    assert one.stream is not None
    assert list(one.stream) == []  # all of it was sent
    again = site.page(visit("/state"))
    assert again.status == 200
    assert site.page(visit("/state")).status == 503
    assert other.stream is not None
    other.stream.close()  # its client has left
    assert site.page(visit("/state")).status == 200


@pytest.mark.parametrize("path", ["/state", "/events"])
def test_others_run_between_two_who_look(tmp_path: Path, path: str) -> None:
    """All viewers wake at the same time, and each snapshot takes some milliseconds."""
    turns = 0
    met: list[int] = []

    def gather(_: Cursor | None) -> Snapshot:
        met.append(turns)
        return snapshot_of(Board())

    def others() -> None:
        nonlocal turns
        while len(met) < 8:
            turns += 1
            sockets.give_way()

    site = website(tmp_path, gather)
    viewers = [gevent.spawn(site.page, visit(path)) for _ in range(8)]
    gevent.spawn(others)
    gevent.joinall(viewers, timeout=WAIT, raise_error=True)
    assert len(set(met)) == 8


def test_a_slow_reader_gets_all_of_a_large_page(tmp_path: Path, roots: Path, origin: Origin) -> None:
    """The whole state may be megabytes: more than the kernel buffers, and seconds of a slow line."""
    request = b"GET / HTTP/1.1\r\nHost: test\r\n" + b"X-Field: %s\r\n" % (b"x" * 290) * 38 + b"\r\n"
    with Program(tmp_path, *BASE, f"--upstream-ca={roots}", "--log-requests") as running:
        with secure_tunnel(running, f"localhost:{origin.port}") as sock:
            for _ in range(MAX_ROWS):
                sock.sendall(request)
                with sock.makefile("rb") as file:
                    while not (line := file.readline()).startswith(b"Content-Length: "):
                        assert line
                    file.read(2 + int(line.split()[1]))
        with socket.socket() as sock:
            sock.settimeout(WAIT)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect(running.address)
            sock.sendall(b"GET /state HTTP/1.1\r\nHost: localhost\r\n\r\n")
            time.sleep(2 * LINGER_SECONDS)
            reply = read_reply(sock)
        assert len(json.loads(reply.body)["requests"]) == MAX_ROWS


def test_only_so_many_may_look(tmp_path: Path) -> None:
    with Program(tmp_path, *BASE) as running:
        open_ones = [events(running) for _ in range(MAX_ONLOOKERS)]
        for one in open_ones:
            next(one.__enter__())
        refused = ask(running, "/events")
        assert (refused.status, refused.headers["retry-after"]) == (503, "1")
        assert state(running)["gauges"]["onlookers"] == MAX_ONLOOKERS
        open_ones.pop().__exit__(None, None, None)
        deadline = time.monotonic() + WAIT
        while state(running)["gauges"]["onlookers"] == MAX_ONLOOKERS:  # a departed client is noticed at the next write
            assert time.monotonic() < deadline
        with events(running) as news:
            next(news)
        for one in open_ones:
            one.__exit__(None, None, None)


def test_who_looks_does_not_hold_up_the_end(tmp_path: Path) -> None:
    with Program(tmp_path, *BASE) as running, events(running) as news:
        next(news)
        began = time.monotonic()
        running.process.send_signal(signal.SIGTERM)
        for _ in news:
            pass
        assert running.process.wait(WAIT) == 0
        assert time.monotonic() - began < 5


def test_who_begins_to_look_at_the_end_sees_an_end(tmp_path: Path) -> None:
    """On a connection opened beforehand, as browsers do."""
    with Program(tmp_path, *BASE) as running:
        with socket.create_connection(running.address, timeout=WAIT) as sock:
            exchange(running.address, b"GET /healthz HTTP/1.0\r\n\r\n")  # accepted after the other one
            running.process.send_signal(signal.SIGTERM)
            running.wait_for("stopping: 1 connection")
            sock.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            head, _, body = b"".join(iter(lambda: sock.recv(65_536), b"")).partition(b"\r\n\r\n")
        assert (head.split()[1], body) == (b"200", b"")
        assert running.process.wait(WAIT) == 0


def test_pages_past_the_limit_of_connections(tmp_path: Path) -> None:
    with Program(tmp_path, *BASE, "--max-connections=1") as running:
        with socket.create_connection(running.address) as idle:
            idle.sendall(b"GET ")
            assert ask(running, "/metrics").status == 200
            with events(running) as news:
                assert next(news)[1]["gauges"]["connections"] == 2
            refused = exchange(running.address, b"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example\r\n\r\n")
            assert refused.status == 503


# Health


def test_health(tmp_path: Path) -> None:
    with Program(tmp_path, *BASE) as running:
        assert run("curl", "-sSf", f"{running.url}/healthz").stdout == "ok\n"
        (tmp_path / "certs").rename(tmp_path / "gone")
        deadline = time.monotonic() + WAIT
        while (reply := ask(running, "/healthz")).status == 200:  # health is checked every few seconds
            assert time.monotonic() < deadline
        assert (reply.status, reply.reason) == (503, "Not Ready")
        assert reply.body == b"the store can't be written: No such file or directory\n"


# The log


def test_own_pages_are_told_apart_in_the_log(program: Program) -> None:
    before = len(program.lines)
    ask(program, "/page.css")
    assert re.search(
        r" page client=127\.0\.0\.1:\d+ target=- .*status=200 outcome=closed", program.wait_for("page", before)
    )
