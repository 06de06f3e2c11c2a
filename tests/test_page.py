"""The page in real Chromium: what it shows, by mouse and keyboard, in light and dark, and what it must not do."""

import json
import os
import re
import shlex
import signal
import socket
import ssl
import sys
import urllib.parse
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import gevent
import pytest
from browser import Browser, Page
from lab import WAIT, Origin, Program, exchange, get, reserved_port, run, secure_tunnel
from test_users import ALICE, line
from test_website import BASE, ask

NASTY = "<img src=/x onerror=alert(1)>"
ROWS = "document.querySelectorAll('[role=tabpanel]:not([hidden]) .more').length"
FIRST = "[role=tabpanel]:not([hidden]) .more"


def answers(sock: socket.socket) -> None:
    """Serve a page, with whatever a hostile origin might put into the head of its reply."""
    with sock.makefile("rb") as file:
        while line := file.readline():
            kind = line.split()[1].partition(b"?type=")[2].decode() or "html"
            while file.readline() not in (b"\r\n", b""):
                pass
            body = b"<!doctype html><link rel=icon href=data:,><title>origin</title><p>hello from the origin"
            head = (
                f"HTTP/1.1 200 {NASTY}\r\nContent-Type: text/{kind}\r\nX-Note: {NASTY}\r\nContent-Length: {len(body)}"
            )
            sock.sendall(f"{head}\r\n\r\n".encode() + body)


@pytest.fixture(scope="module")
def origin(certificate: Path) -> Iterator[Origin]:
    with Origin(answers, certificate) as server:
        yield server


@pytest.fixture(scope="module")
def proxy(roots: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    folder = tmp_path_factory.mktemp("proxy")
    with Program(folder, *BASE, f"--upstream-ca={roots}", "--deny=denied.example") as running:
        yield running


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("browser")) as running:
        yield running


@pytest.fixture
def page(browser: Browser, proxy: Program) -> Iterator[Page]:
    """The page, live. At the end there are no complaints, and no request went to another host."""
    opened = browser.open(proxy.url)
    opened.look(1280, 900)
    opened.until("document.querySelector('#link').dataset.state === 'live'")
    yield opened
    assert opened.complaints == []
    assert {urllib.parse.urlsplit(url).netloc for url in opened.urls} == {proxy.url.removeprefix("http://")}
    opened.close()


def visit(proxy: Program, origin: Origin, path: str = "/", name: str = "localhost") -> None:
    with secure_tunnel(proxy, f"localhost:{origin.port}", name) as secure:
        assert get(secure, path).status == 200


def settle(page: Page, proxy: Program) -> None:
    """Wait until the page shows every tunnel so far; the last one may not have ended yet."""
    with gevent.Timeout(WAIT):
        while page.value(ROWS) != len(json.loads(ask(proxy, "/state").body)["tunnels"]):
            pass


def refuse(proxy: Program) -> None:
    exchange(proxy.address, b"CONNECT denied.example:443 HTTP/1.1\r\nHost: denied.example\r\n\r\n")


# What is shown


def test_what_passes_is_shown_while_it_passes(page: Page, proxy: Program, origin: Origin) -> None:
    with secure_tunnel(proxy, f"localhost:{origin.port}") as secure:
        page.until("document.querySelector('#panel-tunnels').innerText.includes('● open')")
        page.until("document.querySelector('#tile-tunnels').innerText === '1'")
        get(secure, "/shown?x=1")
    page.until("document.querySelector('#tile-tunnels').innerText === '0'")
    page.click("#tab-requests")
    page.until("document.querySelector('#panel-requests').innerText.includes('https://test/shown?x=1')")
    refuse(proxy)
    page.click("#tab-refusals")
    page.until("document.querySelector('#panel-refusals').innerText.includes('denied.example:443 is denied')")
    assert re.search(r"policy \d", page.text("#panel-refusals .chips"))
    page.click("#tab-held")
    page.until(f"{ROWS} > 0")
    held = json.loads(ask(proxy, "/state").body)["held"]
    shown = page.text("#panel-held")
    for entry in held:
        assert entry["name"] in shown
        assert entry["serial"] in shown
    assert page.text("#version") == "0.1.0"
    drawn = page.value("[...document.querySelectorAll('.plots svg')].map(svg => svg.getAttribute('aria-label'))")
    assert len(drawn) == 6
    assert re.fullmatch(r"Time to reach an origin\. \d+ in all, 50 % within .* ms, 95 % within .* ms", drawn[4])
    assert page.value("document.querySelector('.plots .series').getAttribute('d').split('L').length") == 300
    right = "(figure) => figure.querySelector('.top').offsetLeft > figure.clientWidth / 2"
    # The label of the maximum covers no bar: those of histograms are mostly on the left.
    assert page.value(f"[...document.querySelectorAll('.plots figure')].map({right})") == [False] * 3 + [True] * 3


def test_a_name_without_a_target(page: Page, proxy: Program) -> None:
    """TLS directly on the listener, for what can't be a name."""
    unknown = pytest.raises(ssl.SSLError, match="UNRECOGNIZED_NAME")
    with socket.create_connection(proxy.address, timeout=WAIT) as sock, unknown:
        ssl.create_default_context().wrap_socket(sock, server_hostname="not._.name")
    page.until("document.querySelector('#panel-tunnels').innerText.includes('not._.name')")
    page.click(FIRST)
    assert re.search(r"Server name\s+not\._\.name", page.text("#panel-tunnels .detail"))
    assert "null" not in page.text("#panel-tunnels")


def test_details_on_a_click(page: Page, proxy: Program, origin: Origin) -> None:
    visit(proxy, origin, "/detail")
    page.click("#tab-requests")
    page.until("document.querySelector('#panel-requests').innerText.includes('/detail')")
    page.click("#panel-requests tbody:first-of-type td:nth-child(4)")
    # What a screen reader announces when moving from row to row.
    assert "/detail" in page.value("document.querySelector('#panel-requests .more').ariaLabel")
    detail = page.text("#panel-requests .detail")
    assert f"Origin\n127.0.0.1:{origin.port}" in detail
    assert f"X-Note: {NASTY}" in detail
    levels = page.value(
        "[...document.querySelectorAll('h1, h2, h3, h4, h5, h6')].map(({tagName}) => Number(tagName[1]))"
    )
    assert all(below <= above + 1 for above, below in pairwise(levels))  # screen readers navigate by heading levels
    page.click("#panel-requests tbody:first-of-type td:nth-child(4)")
    assert page.value("document.querySelector('.detail')") is None


def test_a_serial_number_is_shown_in_whole_octets(page: Page) -> None:
    for number, shown in (("3E8", "03:E8"), ("43252F", "43:25:2F"), ("1", "01")):
        assert page.value(f"import('/format.js').then(({{ serial }}) => serial('{number}'))") == shown


def test_a_duration_just_below_the_next_unit_is_that_unit(page: Page) -> None:
    told = {0.9994: "999 ms", 0.9996: "1 s", 59.4: "59 s", 59.5: "1 min 0 s", 119.9: "2 min 0 s", 3599.9: "1 h 0 min"}
    for seconds, shown in told.items():
        assert page.value(f"import('/format.js').then(({{ duration }}) => duration({seconds}))") == shown


def test_text_from_peers_is_never_markup(page: Page, proxy: Program, origin: Origin) -> None:
    visit(proxy, origin, f"/{NASTY.replace(' ', '%20')}")
    with secure_tunnel(proxy, f"localhost:{origin.port}") as secure:
        secure.sendall(f"GET /{NASTY.replace(' ', '/')} HTTP/1.1\r\nHost: x\r\nUser-Agent: {NASTY}\r\n\r\n".encode())
        secure.recv(1)
    page.click("#tab-requests")
    page.until("document.querySelector('#panel-requests').innerText.includes('/<img/')")
    page.click("#panel-requests tbody:first-of-type td:nth-child(4)")
    assert f"User-Agent: {NASTY}" in page.text("#panel-requests .detail")
    assert page.value("document.querySelectorAll('main img, main script').length") == 0


def test_markup_and_foreign_hosts_are_out_of_reach_even_for_a_bug(browser: Browser, proxy: Program) -> None:
    """The counterpart of every test that finds no complaints: here there must be some."""
    page = browser.open(proxy.url)
    assert (
        page.value("(() => { try { document.body.innerHTML = '<b>x' } catch (e) { return e.name } })()") == "TypeError"
    )
    assert page.value("fetch('http://127.0.0.2:9/').then(() => 'sent', e => e.name)") == "TypeError"
    page.value("void document.body.append(Object.assign(document.createElement('img'), {src: 'http://127.0.0.2:9/'}))")
    page.value("void document.body.setAttribute('style', 'color: red')")
    page.until("true")
    said = "\n".join(page.complaints)
    for directive in ("TrustedHTML", "connect-src", "img-src", "style-src"):
        assert directive in said, said
    page.close()


def test_an_empty_table_says_why_it_is_empty(page: Page) -> None:
    """Also if a filter matched nothing before and then all rows went, as those of bypasses do after an hour."""
    said = page.value("""import('/table.js').then(({ Table }) => {
      const table = new Table("names", [{ title: "Name", text: ({ key }) => key }], () => [], "No name yet.");
      const shown = [[[], "None has these words."], [[{ key: "a" }]], [[]]];
      return shown.map((rows) => { table.show(...rows); return table.box.lastChild.textContent; });
    })""")
    assert (said[0], said[2]) == ("None has these words.", "No name yet.")


def test_a_plot_without_data_yet(page: Page) -> None:
    """As the page has them until it may look, which with many viewers takes a while: nothing can be read out."""
    said = page.value("""import('/plot.js').then(({ Timeline, Bars }) => {
      const sent = { name: "sent", color: "blue", of: (sample) => sample.sent };
      const data = { bounds: [1], counts: [2, 0] };
      const shown = [
        [new Timeline("Octets", [sent], String, 1), (plot) => plot.show([{ at: 7, sent: 3 }], 7)],
        [new Timeline("Octets", [{ ...sent, stacked: true }], String, 1), (plot) => plot.show([{ at: 7, sent: 3 }], 7)],
        [new Bars("Time", "accent", "none"), (plot) => plot.show(data)],
      ];
      return shown.map(([plot, show]) => {
        document.body.append(plot.figure);
        plot.svg.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowLeft" }));
        plot.svg.dispatchEvent(new PointerEvent("pointerleave"));
        const before = [plot.svg.getAttribute("aria-label"), plot.reading.textContent];
        show(plot);
        plot.figure.remove();
        return [...before, plot.reading.textContent];
      });
    })""")
    assert said[0] == said[1] == ["Octets", "", "Now: 3 sent"]
    assert said[2] == ["Time", "", "2 in all, 50 % within 500 ms, 95 % within 950 ms"]


# By keyboard


def test_the_filter(page: Page, proxy: Program, origin: Origin) -> None:
    visit(proxy, origin, name="www.example.com")
    refuse(proxy)
    page.until("document.querySelector('#panel-tunnels').innerText.includes('denied.example')")
    page.until("document.querySelector('#panel-tunnels').innerText.includes('www.example.com')")
    everything = page.value(ROWS)
    page.press("/")
    page.write("denied -certificate")
    page.until(f"0 < {ROWS} && {ROWS} < {everything}")
    assert "www.example.com" not in page.text("#panel-tunnels")
    assert re.fullmatch(r"\d+ of \d+ shown\.", page.text("#shown"))
    page.press("Escape")
    page.until(f"{ROWS} >= {everything}")
    page.write("sni:www.example")
    page.until(f"0 < {ROWS} && {ROWS} < {everything}")
    assert "denied.example" not in page.text("#panel-tunnels")
    page.write("nothing-has-this")
    page.until("document.querySelector('#panel-tunnels').innerText.includes('No row has all of these words.')")


def test_rows_and_tabs_by_keyboard(page: Page, proxy: Program, origin: Origin) -> None:
    for name in ("localhost", "www.example.com", "example.com"):
        visit(proxy, origin, name=name)
    settle(page, proxy)
    page.press("/")
    page.press("ArrowDown")
    focus = "document.activeElement"
    page.until(f"{focus}.matches('.more')")
    page.press("ArrowDown")
    page.press("ArrowDown")
    page.press("ArrowUp")
    at = f"[...document.querySelectorAll('#panel-tunnels .more')].indexOf({focus})"
    assert page.value(at) == 1
    page.press("Enter")
    page.until(f"{focus}.getAttribute('aria-expanded') === 'true'")
    key = page.value(f"{focus}.ariaLabel")
    refuse(proxy)  # a row is inserted above: the focus stays where it is
    page.until(f"{at} === 2")
    assert page.value(f"{focus}.ariaLabel") == key
    assert page.value("document.querySelectorAll('#panel-tunnels .more[tabindex=\"0\"]').length") == 1
    page.value("document.querySelector('#tab-tunnels').focus()")
    page.press("ArrowRight")
    assert page.value(f"{focus}.id") == "tab-requests"
    assert page.value("document.querySelector('#panel-requests').hidden") is False
    page.press("ArrowLeft")
    page.press("ArrowLeft")
    assert page.value(f"{focus}.id") == "tab-learned"
    page.value("document.querySelector('.plots svg').focus()")
    page.press("ArrowLeft")
    assert re.match(r"\d\d:\d\d:\d\d: ", page.text(".plots .reading"))


def test_rows_open_by_keyboard_while_text_is_selected(page: Page, proxy: Program, origin: Origin) -> None:
    visit(proxy, origin)
    settle(page, proxy)
    page.value(f"document.querySelector({json.dumps(FIRST)}).focus()")
    page.value("getSelection().selectAllChildren(document.querySelector('.fingerprint'))")  # as "Copy" may leave it
    assert page.value("getSelection().isCollapsed") is False
    page.press("Enter")
    assert page.value("document.querySelectorAll('#panel-tunnels .detail').length") == 1


def test_the_focus_stays_among_the_rows_when_its_own_falls_off(page: Page) -> None:
    page.look(1280, 900, motion="reduce")  # or it would be seen to scroll only later
    told = page.value("""import('/table.js').then(({ Table }) => {
        const table = new Table("", [{ title: "", text: (row) => row.key }], () => [["Its number", "1"]], "");
        document.body.append(table.box);
        const show = (...keys) => {
            table.show(keys.map((key) => ({ key })));
            return document.activeElement.ariaLabel;
        };
        show("3", "2", "1");
        const last = [...table.table.querySelectorAll(".more")][2];
        last.click();
        scrollTo({ top: 0, behavior: "instant" });  // the user reads something else
        const seen = [show("4", "3", "2", "1"), show("5", "4", "3", "2"), show("2", "6"), show(), scrollY];
        table.box.remove();
        return seen;
    })""")
    assert told == ["1", "2", "2", None, 0]


def test_what_is_open_is_used_by_keyboard_and_copied_while_it_changes(
    page: Page, proxy: Program, origin: Origin
) -> None:
    facts = "document.querySelector('#panel-tunnels .facts')"
    with secure_tunnel(proxy, f"localhost:{origin.port}") as secure:
        page.until("document.querySelector('#panel-tunnels').innerText.includes('● open')")
        page.click("#panel-tunnels tbody:first-of-type td:nth-child(4)")
        page.value(f"getSelection().selectAllChildren({facts}.querySelector('dd'))")
        selected = page.value("getSelection().toString()")
        page.press("Tab")
        get(secure, "/while-it-is-open")
        for _ in range(2):  # it is open longer each second
            before = page.text("#panel-tunnels .facts")
            page.until(f"{facts}.innerText !== {json.dumps(before)}")
        assert page.value("getSelection().toString()") == selected
        assert re.search(r"Received by the client\n\d+ B", page.text("#panel-tunnels .facts"))
        page.press("Enter")
        page.until("document.querySelector('#panel-requests').innerText.includes('/while-it-is-open')")
        assert page.value("document.activeElement.id") == "tab-requests"  # what was pressed is out of sight


def test_everything_is_reached_by_tab(page: Page) -> None:
    seen = set()
    for _ in range(60):
        page.press("Tab")
        seen.add(page.value("document.activeElement.id || document.activeElement.textContent.slice(0, 20)"))
    assert {"Skip to content", "tab-tunnels", "filter", "pause", "Copy", "PEM .crt", "curl", "Chrome on Linux"} <= seen


def test_pausing(page: Page, proxy: Program, origin: Origin) -> None:
    page.click("#pause")
    before, seconds = page.value(ROWS), page.text("#uptime")
    visit(proxy, origin)
    page.until(f"document.querySelector('#uptime').innerText !== {json.dumps(seconds)}")
    assert page.value(ROWS) == before
    page.click("#pause")
    page.until(f"{ROWS} > {before}")


# How it looks

_CONTRAST = """(() => {
  const parts = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((c) => c / 255)
    .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (node) => {
    for (; node; node = node.parentElement) {
      const color = parts(getComputedStyle(node).backgroundColor);
      if (color.length === 3 || color[3] === 1) return color;
    }
  };
  const poor = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let looked = 0;
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !node.checkVisibility()) continue;
    const [one, other] = [light(parts(getComputedStyle(node).color)), light(ground(node))].sort((a, b) => b - a);
    looked += 1;
    if ((one + 0.05) / (other + 0.05) < 4.5) poor.push(`${node.tagName}.${node.className}: ${node.textContent}`);
  }
  return {looked, poor};
})()"""


# Of the table that is shown: how wide its first long column is, and what of it is out of sight.
_ROOM = """(() => {
  const panel = document.querySelector("[role=tabpanel]:not([hidden])");
  const box = panel.querySelector(".table-box");
  return [panel.querySelector("td.long").clientWidth, box.scrollWidth - box.clientWidth];
})()"""


def test_no_word_of_a_peer_takes_the_room_of_the_url(page: Page, proxy: Program, origin: Origin) -> None:
    page.click("#tab-requests")
    with secure_tunnel(proxy, f"localhost:{origin.port}") as secure:
        secure.sendall(b"M" * 32 + b" /" + b"u" * 200 + b"?type=" + b"t" * 250 + b" HTTP/1.1\r\nHost: test\r\n\r\n")
        secure.recv(1)
        page.until(f"document.querySelector('#panel-requests').innerText.includes('{'t' * 250}')")
    wide, hidden = page.value(_ROOM)
    assert wide > 150
    assert hidden == 0
    titles = page.value("[...document.querySelectorAll('#panel-requests tr')[1].cells].map((cell) => cell.title)")
    assert titles[2] == "M" * 32  # what is cut
    assert titles[-1] == ""  # what is not


@pytest.mark.parametrize("width", [700, 820])
def test_names_have_room_on_a_tablet(page: Page, proxy: Program, origin: Origin, width: int) -> None:
    visit(proxy, origin, "/tablet")
    page.look(width, 900, motion="reduce")
    for tab in ("tunnels", "requests"):
        page.click(f"#tab-{tab}")
        page.until(f"{ROWS} > 0")
        wide, hidden = page.value(_ROOM)
        assert wide > width / 4
        assert hidden == 0
        page.click(FIRST)
        assert "Client" in page.text("[role=tabpanel]:not([hidden]) .detail")  # whose column is left out


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
def test_contrast_and_width(page: Page, proxy: Program, origin: Origin, scheme: str, width: int) -> None:
    visit(proxy, origin)
    refuse(proxy)
    page.look(width, 740, scheme, motion="reduce")
    page.value("document.querySelector('#trust details').open = true")
    for tab in ("tunnels", "requests", "refusals", "held"):
        page.click(f"#tab-{tab}")
        page.until(f"{ROWS} > 0")
        page.click(FIRST)
        found = page.value(_CONTRAST)
        assert found["looked"] > 50
        assert found["poor"] == []
        assert page.value("document.documentElement.scrollWidth") <= width
    folder = os.environ.get("CERTIFIER_PICTURES")  # for people to look at
    if folder:
        page.picture(Path(folder) / f"{scheme}-{width}.png", whole=True)


def test_high_contrast_leaves_the_colours_that_tell_lines_apart(page: Page) -> None:
    page.look(1280, 900, motion="reduce", forced="active")  # without it, colours change over 150 ms
    page.click("#pause")
    style = "(selector, pseudo) => getComputedStyle(document.querySelector(selector), pseudo)"
    keys = page.value(f"['blue', 'orange'].map((key) => ({style})(`.key.${{key}}`, '::before').backgroundColor)")
    assert keys == page.value(f"['blue', 'orange'].map((key) => ({style})(`.plots g.${{key}}`).color)")
    assert len(set(keys)) == 2
    ground = f"({style})('body').backgroundColor"
    for state in ("'#link', '::before'", "'#pause'"):
        assert page.value(f"({style})({state}).backgroundColor !== {ground}")


def test_nothing_moves_for_who_does_not_want_it(page: Page, proxy: Program, origin: Origin) -> None:
    moving = "getComputedStyle(document.querySelector('tbody.new > tr')).animationName"
    for motion, moves in (("no-preference", "arrive"), ("reduce", "none")):
        page.look(1280, 900, motion=motion)
        visit(proxy, origin)
        page.until(f"{ROWS} > 0")
        before = page.value(ROWS)
        visit(proxy, origin)
        page.until(f"{ROWS} > {before}")
        assert page.value(moving) == moves


# Who may look


def test_without_a_password_it_is_told_how_to_sign_in(browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "users").write_bytes(line(*ALICE))
    with Program(tmp_path, *BASE, "--auth=users") as running:
        page = browser.open(running.url)
        assert page.text(".when-sign-in") == "Live data is for users of this proxy. Sign in"
        assert "certifier-ca.crt" in page.text("#trust")
        assert page.value("document.querySelector('#now').checkVisibility()") is False
        assert not [url for url in page.urls if "events" in url]
        name, password = (urllib.parse.quote(part) for part in ALICE)
        page.go(f"{running.url.replace('://', f'://{name}:{password}@')}/sign-in")
        page.until("document.querySelector('#link').dataset.state === 'live'")
        assert page.value("location.pathname") == "/"
        assert page.complaints == []
        page.close()


def test_without_javascript(browser: Browser, proxy: Program) -> None:
    page = browser.open("about:blank")
    page.call("Emulation.setScriptExecutionDisabled", value=True)
    page.go(proxy.url)
    assert "Live data needs JavaScript" in page.text("noscript")
    assert "Get the certificate" in page.text("#trust")
    assert page.value("document.querySelector('#now').checkVisibility()") is False
    page.click("summary")
    assert page.value("document.querySelector('#trust pre').checkVisibility()") is True
    page.close()


def test_it_finds_its_proxy_again(browser: Browser, tmp_path: Path) -> None:
    with reserved_port() as port:
        words = (*BASE, f"--listen=127.0.0.1:{port}")
        with Program(tmp_path, *words, listen=False) as first:
            page = browser.open(first.url)
            page.until("document.querySelector('#link').dataset.state === 'live'")
        page.until("document.querySelector('#link').dataset.state === 'off'")
        with Program(tmp_path, *words, listen=False) as second:
            page.until("document.querySelector('#link').dataset.state === 'live'")
            refuse(second)
            page.until("document.querySelector('#panel-tunnels').innerText.includes('denied.example')")
            page.close()


def test_a_clock_that_is_set_back(page: Page) -> None:
    told = page.value("""import('/live.js').then(({ Live }) => {
        const live = new Live(() => {}, () => {});
        live.source.close();
        const take = (now, ...seconds) => live.take({
            now, open: [], tunnels: [], requests: [], refusals: [], history: seconds.map((at) => ({ at })),
        });
        take(5000, 4999, 5000, 5001);
        const before = live.history.map(({ at }) => at);
        take(1000, 999, 1000);
        return [before, live.history.map(({ at }) => at)];
    })""")
    assert told == [[4999, 5000, 5001], [999, 1000]]


def test_a_proxy_that_falls_silent_is_not_called_live(browser: Browser, tmp_path: Path) -> None:
    """Its machine may have lost power or network, with nobody left to close the connection."""
    with Program(tmp_path, *BASE) as running:
        page = browser.open(running.url)
        page.until("document.querySelector('#link').dataset.state === 'live'")
        page.look(320, 700)
        running.process.send_signal(signal.SIGSTOP)
        try:
            page.until("document.querySelector('#link').dataset.state === 'off'")
            assert page.value("document.documentElement.scrollWidth") == 320  # the message fits: nothing overflows
        finally:
            running.process.send_signal(signal.SIGCONT)
        page.until("document.querySelector('#link').dataset.state === 'live'")
        page.close()


def test_the_first_news_may_take_their_time(browser: Browser, proxy: Program) -> None:
    """The first event may be a megabyte, ten seconds on a slow line: a page that reconnects too soon never gets it."""
    asked = []

    def back(onward: socket.socket, sock: socket.socket) -> None:
        with suppress(OSError):
            while data := onward.recv(65_536):
                sock.sendall(data)
            sock.close()

    def relay(sock: socket.socket) -> None:
        with socket.create_connection(proxy.address, timeout=WAIT) as onward:
            gevent.spawn(back, onward, sock)
            while data := sock.recv(65_536):
                if data.startswith(b"GET /events"):
                    asked.append(data)
                    gevent.sleep(6)  # a slow line
                onward.sendall(data)

    with Origin(relay) as slow:
        page = browser.open(f"http://127.0.0.1:{slow.port}/")
        page.until("document.querySelector('#link').dataset.state === 'live'")
        page.close()
    assert len(asked) == 1


# Trust


def test_copying(browser: Browser, page: Page) -> None:
    text = page.text(".intro pre")
    browser.call("Browser.grantPermissions", permissions=["clipboardReadWrite", "clipboardSanitizedWrite"])
    page.value("""void (window.said = new MutationObserver((all) => {
        for (const { target } of all) target.dataset.said = (target.dataset.said ?? "") + target.innerText;
    }))""")  # a button says it for 2 s only
    for button in (".intro button", ".authority button"):
        page.value(f"said.observe(document.querySelector('{button}'), {{childList: true}})")
    page.click(".intro button")
    page.until("document.querySelector('.intro button').dataset.said?.startsWith('Copied')")
    assert page.value("navigator.clipboard.readText()") == text
    # As over http:// to another machine, where there is no clipboard:
    page.value("void Object.defineProperty(navigator, 'clipboard', {value: undefined})")
    page.click(".authority button")
    page.until("document.querySelector('.authority button').dataset.said?.startsWith('Selected')")
    assert page.value("String(getSelection())") == page.text(".fingerprint")


def commands(proxy: Program, client: str, undo: bool = False) -> str:
    """The commands that the page gives for a client, as one script; or those that undo the last ones."""
    found: str = ask(proxy, "/", "Accept: text/html").body.decode()
    section = re.search(rf"<(?:summary|h3)>{client}</(?:summary|h3)>(.*?)</(?:details|li)>", found, re.DOTALL)
    assert section, client
    _, said, after = section[1].partition("To undo:") if undo else ("", "", section[1])
    assert said or not undo, client
    texts = re.findall(r"<pre><code>(.*?)</code></pre>", after, re.DOTALL)
    return "\n".join(text.replace("&quot;", '"') for text in texts[:1])


def test_what_the_page_says_works(proxy: Program, origin: Origin, tmp_path: Path) -> None:
    where = f"https://localhost:{origin.port}/"
    home = tmp_path / "home"
    (home / ".mozilla/firefox/x.default-esr").mkdir(parents=True)
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "no_proxy": ""}

    def sh(script: str) -> str:
        done = run("sh", "-euc", script, cwd=tmp_path, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    sh(commands(proxy, "Get the certificate"))
    assert (tmp_path / "certifier-ca.crt").read_bytes() == proxy.ca.read_bytes()
    through = commands(proxy, "Send it here")
    python = f"{shlex.quote(sys.executable)} -c 'import urllib.request as u; print(u.urlopen(\"{where}\").read())'"
    assert "hello" in sh(commands(proxy, "curl").replace("https://www.example.com/", where))
    assert "hello" in sh(f"{through}\n{commands(proxy, 'Python')}\n{python}")
    with pytest.raises(AssertionError, match="CERTIFICATE_VERIFY_FAILED"):
        sh(f"{through}\n{python}")
    sh(commands(proxy, "git"))
    assert sh("git config --global http.sslCAInfo") == f"{tmp_path}/certifier-ca.crt\n"
    sh(commands(proxy, "git", undo=True))
    assert sh("git config --global --list") == ""
    nss = home / ".mozilla/firefox/x.default-esr"
    database = shlex.quote(f"sql:{nss}")
    sh(f"certutil -N -d {database} --empty-password\n{commands(proxy, 'Firefox')}")
    assert "certifier" in sh(f"certutil -L -d {database}")
    sh(commands(proxy, "Firefox", undo=True))
    assert "certifier" not in sh(f"certutil -L -d {database}")


def test_whatever_lasts_can_be_undone(proxy: Program) -> None:
    assert commands(proxy, "Node.js", undo=True) == "npm config delete cafile"
    assert commands(proxy, "Java", undo=True) == "sudo keytool -delete -cacerts -storepass changeit -alias certifier"
    words = ("openssl", "x509", "-noout", "-sha1", "-fingerprint", "-in", proxy.ca)
    thumbprint = run(*words).stdout.strip().partition("=")[2].replace(":", "")
    assert commands(proxy, "Windows", undo=True) == rf"Remove-Item Cert:\CurrentUser\Root\{thumbprint}"
    assert f" -Z {thumbprint} " in commands(proxy, "macOS", undo=True)
    for system in ("Debian, Ubuntu", "Fedora, RHEL", "Chrome on Linux"):
        assert commands(proxy, system, undo=True)


@pytest.mark.parametrize("trusted", [True, False])
def test_chromium_itself_through_the_proxy(roots: Path, origin: Origin, tmp_path: Path, trusted: bool) -> None:
    """It trusts the CA if set up as the page says, and sees its own visit in the page, loaded through the proxy too."""
    with Program(tmp_path, *BASE, f"--upstream-ca={roots}", "--allow=localhost") as proxy:
        _browse(proxy, origin, tmp_path, trusted)


def _browse(proxy: Program, origin: Origin, tmp_path: Path, trusted: bool) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "certifier-ca.crt").write_bytes(proxy.ca.read_bytes())
    if trusted:
        script = commands(proxy, "Chrome on Linux")
        done = run("sh", "-euc", script, cwd=home, env={"PATH": os.environ["PATH"], "HOME": str(home)})
        assert done.returncode == 0, done.stderr
    where = f"https://localhost:{origin.port}/chromium"
    # Loopback goes through the proxy, too.
    flags = (f"--proxy-server={proxy.url}", "--proxy-bypass-list=<-loopback>")
    with Browser(tmp_path, *flags) as browser:
        shown = browser.open(proxy.url)
        shown.until("document.querySelector('#link').dataset.state === 'live'")
        page = browser.open(where)
        shown.front()
        if trusted:
            assert page.text("p") == "hello from the origin"
            assert page.complaints == []
            shown.click("#tab-requests")
            shown.until(f"document.querySelector('#panel-requests').innerText.includes('{where}')")
            row = (
                "[...document.querySelectorAll('#panel-requests tbody')].find((r) => r.innerText.includes('/chromium'))"
            )
            shown.value(f"{row}.querySelector('.more').click()")
            detail = shown.text("#panel-requests .detail")
            assert re.search("User-Agent: .*Chrome/", detail)
        else:
            assert "ERR_CERT_AUTHORITY_INVALID" in page.text("body")
            shown.click("#tab-refusals")
            shown.press("/")
            shown.write("refused:certificate")
            shown.until(f"{ROWS} > 0")
            shown.click(FIRST)
            assert "does not trust the CA" in shown.text("#panel-refusals .detail")
        assert shown.complaints == []
