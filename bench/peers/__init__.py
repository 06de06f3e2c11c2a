"""The proxies under test, certifier and its peers: how to start each one, intercepting, with its default settings.

Only what a run needs is set: the port, the CA, the origin's roots, a folder of its own. All else is as the project or
Debian's package ships it. A proxy that can make its own CA does; the others get a P-256 one.
"""

import os
import shutil
import subprocess
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from bench import pki
from bench.client import Address

_SBIN = ("/usr/sbin", "/sbin", "/usr/local/sbin")  # servers are installed there, often outside a user's PATH


@dataclass(frozen=True, slots=True)
class Setting:
    """What a proxy is started with. ``roots`` is the PEM file to verify the origin with."""

    folder: Path  # its own, empty at first
    listen: Address
    origin: Address
    roots: Path


class Peer(ABC):
    """A kind of proxy. ``prepare`` is called once before ``command``, with the same folder."""

    name: str
    program: str  # the executable that must be installed
    install: str  # how to install it
    note: str = ""  # how it differs from the others in this benchmark, for the reader of the results
    connect = True  # whether it takes CONNECT; else clients begin TLS at once
    by_name = False  # whether the CONNECT target must be the server name
    reference = False  # whether it serves only for comparison, and can't be the best in a row

    def path(self) -> str | None:
        """The path of the executable; None if it is not installed."""
        return shutil.which(self.program, path=os.pathsep.join((os.environ.get("PATH", ""), *_SBIN)))

    def installed(self) -> bool:
        """Whether it can be measured here."""
        return self.path() is not None

    @abstractmethod
    def version(self) -> str:
        """The installed version."""

    def prepare(self, setting: Setting) -> None:  # noqa: B027 - some need nothing
        """Write its configuration."""

    @abstractmethod
    def command(self, setting: Setting) -> list[str]:
        """The command line that starts it in the foreground."""

    def ready(self, setting: Setting) -> bool:  # noqa: ARG002
        """Whether it may be connected to, for a proxy that early connections would crash."""
        return True

    def environment(self, setting: Setting) -> dict[str, str]:  # noqa: ARG002
        """Environment variables that it needs in addition to this process's own."""
        return {}

    @abstractmethod
    def ca(self, setting: Setting) -> Path:
        """The certificate of its CA; it exists once the proxy runs."""

    def _program(self) -> str:
        path = self.path()
        assert path is not None  # called only if it is installed
        return path


def give_ca(folder: Path) -> tuple[Path, Path]:
    """Write a new CA for a proxy that makes none; return the paths of certificate and key."""
    authority = pki.authority("bench proxy")
    certificate, key = folder / "ca.crt", folder / "ca.key"
    certificate.write_bytes(authority.pem)
    key.write_bytes(authority.key_pem)
    key.chmod(0o600)
    return certificate, key


def first_line(*words: str) -> str:
    """The first line of a command's output."""
    done = subprocess.run(words, capture_output=True, text=True, timeout=30, check=False)
    return (done.stdout or done.stderr).partition("\n")[0].strip()


def give_away(folder: Path, user: str) -> None:
    """As root, give a folder to the user that a server switches to by default."""
    if os.geteuid() != 0:
        return
    for path in (folder, *folder.rglob("*")):
        shutil.chown(path, user)
