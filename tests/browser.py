"""Headless Chromium, driven by the DevTools protocol over a pipe; collects all errors and warnings."""

import base64
import contextlib
import fcntl
import itertools
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any, Self

import gevent
from gevent.event import AsyncResult, Event
from gevent.os import make_nonblocking, nb_read, nb_write
from lab import WAIT

_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--remote-debugging-pipe",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",  # else it phones home
]
_KEYS = {"Enter": ("\r", 13), "Escape": ("", 27), "Tab": ("", 9), " ": (" ", 32), "/": ("/", 191)} | {
    f"Arrow{name}": ("", 37 + number) for number, name in enumerate(("Left", "Up", "Right", "Down"))
}


class Browser:
    """A browser with a home, profile and trust store of its own in ``folder``."""

    def __init__(self, folder: Path, *flags: str) -> None:
        program = shutil.which("chromium")
        assert program, "chromium is missing: apt-get install chromium"
        (folder / "home").mkdir(exist_ok=True)
        commands, answers = os.pipe(), os.pipe()
        # Chromium expects them as 3 and 4. Moved above these first, so that dup2() overwrites neither.
        ours = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10) for fd in (commands[0], answers[1])]

        def place() -> None:
            for number, fd in zip((3, 4), ours, strict=True):
                os.dup2(fd, number)

        self._process = subprocess.Popen(
            [program, *_FLAGS, f"--user-data-dir={folder / 'profile'}", *flags, "about:blank"],
            env={**os.environ, "HOME": str(folder / "home")},
            preexec_fn=place,
            pass_fds=(3, 4),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for fd in (commands[0], answers[1], *ours):
            os.close(fd)
        self._out, self._in = commands[1], answers[0]
        make_nonblocking(self._out)
        make_nonblocking(self._in)
        self._numbers = itertools.count(1)
        self._waiting: dict[int, AsyncResult[dict[str, Any]]] = {}
        self.pages: dict[str, Page] = {}
        self._reader = gevent.spawn(self._read)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(AssertionError, OSError):
            self.call("Browser.close")
        try:
            self._process.wait(timeout=WAIT)
        finally:
            self._process.kill()
            self._reader.kill()
            os.close(self._out)
            os.close(self._in)

    def call(self, method: str, session: str | None = None, **params: object) -> dict[str, Any]:
        number = next(self._numbers)
        message: dict[str, Any] = {"id": number, "method": method, "params": params}
        if session is not None:
            message["sessionId"] = session
        result = self._waiting[number] = AsyncResult()
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[nb_write(self._out, data) :]
        answer = result.get(timeout=WAIT)
        assert answer is not None
        assert "error" not in answer, (method, answer)
        found: dict[str, Any] = answer["result"]
        return found

    def open(self, url: str) -> "Page":
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = self.pages[session] = Page(self, session, target)
        for domain in ("Runtime", "Log", "Network", "Page"):
            page.call(f"{domain}.enable")
        page.go(url)
        return page

    def developer_tools(self) -> "Page":
        """A DevTools window that inspects nothing: DevTools modules can be imported in it."""
        target = self.call("Target.createTarget", url="devtools://devtools/bundled/devtools_app.html")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = self.pages[session] = Page(self, session, target)
        page.until("location.protocol === 'devtools:' && document.readyState === 'complete'")
        return page

    def _read(self) -> None:
        buffer = b""
        while data := nb_read(self._in, 1 << 20):
            *messages, buffer = (buffer + data).split(b"\0")
            for text in messages:
                message: dict[str, Any] = json.loads(text)
                if "id" in message:
                    self._waiting.pop(message["id"]).set(message)
                elif message.get("sessionId") in self.pages:
                    self.pages[message["sessionId"]].told(message["method"], message["params"])


class Page:
    """A tab. ``complaints`` are its errors and warnings, ``urls`` what it has requested."""

    def __init__(self, browser: Browser, session: str, target: str) -> None:
        self._browser = browser
        self._session = session
        self._target = target
        self.complaints: list[str] = []
        self.urls: list[str] = []
        self._loaded = Event()

    def told(self, method: str, params: dict[str, Any]) -> None:
        if method == "Page.loadEventFired":
            self._loaded.set()
        elif method == "Network.requestWillBeSent":
            self.urls.append(params["request"]["url"])
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.complaints.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(str(params["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.complaints.append(str(params["args"]))

    def call(self, method: str, **params: object) -> dict[str, Any]:
        return self._browser.call(method, self._session, **params)

    def front(self) -> None:
        """Bring this tab to the front; the others become hidden."""
        self.call("Page.bringToFront")

    def close(self) -> None:
        self._browser.call("Target.closeTarget", targetId=self._target)

    def go(self, url: str) -> None:
        self._loaded.clear()
        self.call("Page.navigate", url=url)
        assert self._loaded.wait(WAIT), url

    def value(self, expression: str) -> Any:
        """The value of a JavaScript expression, or of the promise that it returns."""
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, (expression, answer["exceptionDetails"])
        return answer["result"].get("value")

    def until(self, condition: str) -> None:
        """Wait until a JavaScript condition is true in the page."""
        look = f"({condition}) ? done(true) : performance.now() > end ? done(false) : setTimeout(look, 20)"
        wait = f"const end = performance.now() + {WAIT * 500}; const look = () => {look}; look();"
        assert self.value(f"new Promise((done) => {{ {wait} }})"), (condition, self.text("body"), self.complaints)

    def text(self, selector: str) -> str:
        return str(self.value(f"document.querySelector({json.dumps(selector)}).innerText"))

    def press(self, key: str) -> None:
        text, code = _KEYS.get(key, (key, 0))
        common = {"key": key, "text": text, "windowsVirtualKeyCode": code}
        self.call("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", **common)
        self.call("Input.dispatchKeyEvent", type="keyUp", **{**common, "text": ""})

    def write(self, text: str) -> None:
        self.call("Input.insertText", text=text)

    def click(self, selector: str) -> None:
        found = f"document.querySelector({json.dumps(selector)})"
        self.value(f"{found}.scrollIntoView({{block: 'center', behavior: 'instant'}})")
        box = self.value(f"{found}.getBoundingClientRect().toJSON()")
        where = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2, "button": "left", "clickCount": 1}
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, **where)

    def look(
        self, width: int, height: int, scheme: str = "light", motion: str = "no-preference", forced: str = "none"
    ) -> None:
        """Emulate a viewport size, a colour scheme, a preference for reduced motion, and forced colours."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        features = {"prefers-color-scheme": scheme, "prefers-reduced-motion": motion, "forced-colors": forced}
        self.call("Emulation.setEmulatedMedia", features=[{"name": n, "value": v} for n, v in features.items()])

    def picture(self, path: Path, whole: bool = False) -> None:
        """Save the visible part, or the whole page, as PNG."""
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(shot))
