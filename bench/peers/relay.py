"""The benchmark's own bare relay: not a peer, but a reference point between the floor and a full program."""

import sys
from pathlib import Path

from bench.peers import Peer, Setting, give_ca
from bench.peers.certifier import ROOT


class BareRelay(Peer):
    """Serves names from memory, signs on its only thread, and does nothing else."""

    name = "bare relay"
    program = sys.executable
    install = "make run"
    note = "the least in gevent and MemoryBIO, for comparison: no store, policy, limits, deadlines, log"
    reference = True

    def version(self) -> str:
        """Its file."""
        return "bench/relay.py"

    def prepare(self, setting: Setting) -> None:
        """Write a CA."""
        give_ca(setting.folder)

    def command(self, setting: Setting) -> list[str]:
        """It takes the address and the roots."""
        words = ("-m", "bench.relay")
        return [sys.executable, *words, *map(str, setting.listen), str(setting.roots)]

    def environment(self, setting: Setting) -> dict[str, str]:  # noqa: ARG002
        """The path of the package."""
        return {"PYTHONPATH": str(ROOT)}

    def ca(self, setting: Setting) -> Path:
        """The one given to it."""
        return setting.folder / "ca.crt"
