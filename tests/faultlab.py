"""certifier under ``faulty.py``, with what its clients need; a client's run, with or without a fault."""

import json
import re
import socket
import ssl
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple, Self

import bcrypt
from lab import HERE, Origin, Program, exchange
from pki import TestCA

from store import Store

SECONDS = 4.0  # a client's timeout: anything longer is a hang
PROXY = b"\r\n\r\n\0\r\nQUIT\n"  # the signature of a PROXY protocol v2 header
ORIGINS = "origins' CA"
FAST = ("--new-names=100000", "--client-new-names=100000")  # no client waits for its turn

# A user's tap, which answers requests for /tap in place of the origin.
TAP = """
from taps import Answer

REWRITE = True

def request(exchange):
    if exchange.target == "/tap":
        open("tap.py", "rb").close()
        return Answer(200)
"""

names = (f"n{number}.example.com" for number in count())  # a new name for each run


class Lab(NamedTuple):
    """What the clients of all scenarios need."""

    origin: Origin
    plain: Origin
    untrusted: Origin
    closing: Origin  # closes at once
    closed: int  # a port on which nothing listens
    origins_ca: bytes


class Ended(Exception):
    """The client received a reply that ends its scenario early."""


class Control:
    """The client side of ``faulty.Control``."""

    def __init__(self, folder: Path) -> None:
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.connect(str(folder / "control"))
        self._file = self._sock.makefile("rw")

    def order(self, *words: object) -> Any:
        """Send a command, and return the answer."""
        self._file.write(json.dumps(words) + "\n")
        self._file.flush()
        return json.loads(self._file.readline())

    def close(self) -> None:
        self._file.close()
        self._sock.close()


class Faulty(Program):
    """certifier under ``faulty.py``."""

    def __init__(self, folder: Path, lab: Lab, *arguments: str) -> None:
        self.lab = lab
        self.clock = 0.0
        roots = folder / "roots.pem"
        roots.write_bytes(lab.origins_ca)
        super().__init__(folder, "--store=certs", "--max=10000", *FAST, f"--upstream-ca={roots}", *arguments)

    @staticmethod
    def command() -> list[str]:
        return [sys.executable, str(HERE / "tests" / "faulty.py"), "control"]

    def __enter__(self) -> Self:
        super().__enter__()
        self._control = Control(self.folder)
        self.order = self._control.order
        trusted = [path for path in (self.ca, self.folder / "trusted.pem") if path.exists()]
        self.trusted = self.lab.origins_ca + b"".join(path.read_bytes() for path in trusted)
        self.order("https", self.lab.origin.port)
        return self

    def __exit__(self, *details: Any) -> None:
        self._control.close()
        super().__exit__(*details)

    def reached(self, *steps: str) -> None:
        """Wait until certifier begins one of the steps, or the fault has happened."""
        self.order("wait", *steps)

    def new_name(self) -> str:
        """A new name, whose folder in the store is new as well: where it exists, saving takes other steps."""
        store = Store(self.folder / "certs")
        return next(name for name in names if (path := store.path(name)) and not path.parent.exists())

    def pass_time(self, seconds: float) -> None:
        self.clock += seconds
        self.order("clock", self.clock)

    @contextmanager
    def client(self) -> Iterator[socket.socket]:
        with socket.create_connection(self.address, timeout=SECONDS) as sock:
            yield sock


Client = Callable[[Faulty, str], str]  # takes a name, returns what it sees


def seen(client: Client, program: Faulty, name: str) -> str:
    """Run a client, and return what it sees."""
    try:
        return client(program, name)
    except Ended as error:
        return str(error)
    except TimeoutError:
        return "hang"
    except ssl.SSLError as error:
        alert = re.search(r"ALERT_(\w+)", error.reason or "")
        return f"alert {alert[1].lower()}" if alert else "cut"
    except (OSError, EOFError):
        return "cut"


def answer(sock: socket.socket) -> None:
    """An origin that answers each complete request until the client leaves. Accepts a PROXY protocol header first."""
    with sock.makefile("rb") as file:
        if file.peek(len(PROXY)).startswith(PROXY):
            file.read(int.from_bytes(file.read(16)[14:]))
        while head := list(iter(file.readline, b"\r\n")) if file.peek(1) else []:
            length = [int(line.partition(b":")[2]) for line in head if line.lower().startswith(b"content-length:")]
            body = file.read(sum(length))
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)


class Run(NamedTuple):
    """The results of a run."""

    sees: str
    lines: list[str]  # of the log
    logs: list[str]  # outcomes in the log lines of connections
    odd: list[str]  # lines that are not in the log's format
    fired: bool
    steps: dict[str, int]
    left: dict[str, int]


def run(program: Faulty, client: Client, name: str, step: str = "", nth: int = 0, error: str = "") -> Run:
    """Run a client while the nth call of a step fails, and wait until everything has settled."""
    program.order("arm", step, nth, error)
    sees = seen(client, program, name)
    settled = program.order("settle")
    mark = f"mark {settled['mark']}"
    program.wait_for(f"^{mark}$")
    end = program.lines.index(mark)
    lines = program.lines[:end]
    del program.lines[: end + 1]
    logs = [found[1] for line in lines if (found := re.search(r"Z (?:tunnel|request|page) .* outcome=(\S+)", line))]
    odd = [line for line in lines if not re.match(r"\d{4}-\d\d-\d\dT[\d:.]+Z ", line)]
    return Run(sees, lines, logs, odd, settled["fired"], settled["steps"], settled["left"])


def _set_up(folder: Path) -> None:
    """Write the files that the programs' options need."""
    (folder / "list").write_text("bypassed.example.com\n")
    (folder / "tap.py").write_text(TAP)
    (folder / "users").write_bytes(b"alice:" + bcrypt.hashpw(b"sesame", bcrypt.gensalt(4)) + b"\n")
    path = Store(folder / "certs").path("_.known.example.com")
    assert path
    path.parent.mkdir()
    authority = TestCA("operator's CA")
    (folder / "trusted.pem").write_bytes(authority.pem)
    pem = authority.issue("*.known.example.com")
    cut = pem.index(b"-----BEGIN PRIVATE")
    path.write_bytes(pem[:cut])
    path.with_suffix(".key").write_bytes(pem[cut:])


@contextmanager
def _lab(folder: Path) -> Iterator[Lab]:
    paths = []
    authorities = [TestCA(ORIGINS), TestCA("another CA")]
    for number, authority in enumerate(authorities):
        paths.append(folder / f"{number}.pem")
        paths[-1].write_bytes(authority.issue("*.example.com", "*.known.example.com"))
    with (
        Origin(answer, paths[0]) as origin,
        Origin(answer) as plain,
        Origin(answer, paths[1]) as untrusted,
        Origin(lambda _: None) as closing,
        socket.socket() as closed,
    ):
        for server in (origin, untrusted):
            assert server._context
            server._context.num_tickets = 0  # they would arrive with the first response, or before it
        closed.bind(("127.0.0.1", 0))
        yield Lab(origin, plain, untrusted, closing, closed.getsockname()[1], authorities[0].pem)


@contextmanager
def programs(new_folder: Callable[[str], Path]) -> Iterator[Callable[[str], Faulty]]:
    """Yields a function that returns the program for a string of options, started once."""
    with ExitStack() as stack:
        lab = stack.enter_context(_lab(new_folder("lab")))

        @cache
        def started(options: str) -> Faulty:
            folder = new_folder("faulty")
            _set_up(folder)
            words = options.format(plain=lab.plain.port, tls=lab.origin.port).split()
            program = stack.enter_context(Faulty(folder, lab, *words))
            exchange(program.address, b"GET http://127.0.0.1:%d/ HTTP/1.1\r\nHost: a\r\n\r\n" % lab.plain.port)
            program.order("start")
            run(program, lambda *_: "", "")
            return program

        yield started
