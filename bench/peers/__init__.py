"""The proxies that are measured, certifier and its peers: how each is started to intercept, on its defaults.

What a run must set is set: the port, the CA, the origin's roots, a folder of its own. All else is what the project or
Debian's package ships. A proxy that makes a CA of its own does; the others are given a P-256 one.
"""

import os
import shutil
import subprocess
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from bench import pki
from bench.client import Address

_SBIN = ("/usr/sbin", "/sbin", "/usr/local/sbin")  # where servers are, and often not in a user's PATH


@dataclass(frozen=True, slots=True)
class Setting:
    """What a proxy is started with. ``roots`` is the PEM file that the origin is to be verified with."""

    folder: Path  # its own, empty at first
    listen: Address
    origin: Address
    roots: Path


class Peer(ABC):
    """A kind of proxy. ``prepare`` comes once before ``command``, in the same folder."""

    name: str
    program: str  # the executable that must be installed
    install: str  # how
    note: str = ""  # how it differs from the others in this benchmark, for the reader of the results
    connect = True  # whether it takes a CONNECT; else it is spoken TLS to at once
    by_name = False  # whether its CONNECT must hold the server name
    reference = False  # whether it is there for comparison alone, and no figure of its is the best

    def path(self) -> str | None:
        """The executable; None where it is not installed."""
        return shutil.which(self.program, path=os.pathsep.join((os.environ.get("PATH", ""), *_SBIN)))

    def installed(self) -> bool:
        """Whether it can be measured here."""
        return self.path() is not None

    @abstractmethod
    def version(self) -> str:
        """Of what is installed."""

    def prepare(self, setting: Setting) -> None:  # noqa: B027 - some need nothing
        """Write its configuration."""

    @abstractmethod
    def command(self, setting: Setting) -> list[str]:
        """What starts it in the foreground."""

    def ready(self, setting: Setting) -> bool:  # noqa: ARG002
        """Whether it may be connected to, for one that does not bear it earlier."""
        return True

    def environment(self, setting: Setting) -> dict[str, str]:  # noqa: ARG002
        """What it needs beside this process's own environment."""
        return {}

    @abstractmethod
    def ca(self, setting: Setting) -> Path:
        """The certificate of the CA that it signs with, once it runs."""

    def _program(self) -> str:
        path = self.path()
        assert path is not None  # it is asked for only where it is installed
        return path


def give_ca(folder: Path) -> tuple[Path, Path]:
    """Write a new CA for a proxy that makes none: certificate and key."""
    authority = pki.authority("bench proxy")
    certificate, key = folder / "ca.crt", folder / "ca.key"
    certificate.write_bytes(authority.pem)
    key.write_bytes(authority.key_pem)
    key.chmod(0o600)
    return certificate, key


def first_line(*words: str) -> str:
    """The first line that a command prints."""
    done = subprocess.run(words, capture_output=True, text=True, timeout=30, check=False)
    return (done.stdout or done.stderr).partition("\n")[0].strip()


def give_away(folder: Path, user: str) -> None:
    """As root, give a folder to the user that a server changes to by default."""
    if os.geteuid() != 0:
        return
    for path in (folder, *folder.rglob("*")):
        shutil.chown(path, user)
