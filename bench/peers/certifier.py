"""certifier itself, from this checkout."""

import sys
from dataclasses import dataclass
from pathlib import Path

from bench.peers import Peer, Setting, first_line

ROOT = Path(__file__).resolve().parent.parent.parent


@dataclass(frozen=True)
class Certifier(Peer):
    """``extra`` are further command-line options, ``capacity`` is ``--max``."""

    extra: tuple[str, ...] = ()
    capacity: int = 10_000
    store: Path = Path("certs")

    name = "certifier"
    program = sys.executable
    install = "make run"

    def version(self) -> str:
        """Its version, the commit if known, and the extra options."""
        version = first_line(sys.executable, str(ROOT / "certifier.py"), "--version").removeprefix("certifier ")
        git = ("git", "-C", str(ROOT), "describe", "--always", "--dirty", "--tags")
        try:
            commit = first_line(*git)
        except OSError:
            commit = ""
        words = [version, commit if commit and " " not in commit else "", " ".join(self.extra)]
        return " ".join(word for word in words if word)

    def command(self, setting: Setting) -> list[str]:
        """The one place where the benchmark knows certifier's options."""
        return [
            sys.executable,
            str(ROOT / "certifier.py"),
            f"--store={self.store}",
            f"--max={self.capacity}",
            "--ca=ca",
            f"--upstream-ca={setting.roots}",
            f"--listen={setting.listen[0]}:{setting.listen[1]}",
            *self.extra,
        ]

    def ca(self, setting: Setting) -> Path:
        """It makes its own."""
        return setting.folder / "ca" / "ca.crt"
