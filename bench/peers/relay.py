"""The bare relay of this benchmark's own: no peer, but a mark between the floor and a program."""

import sys
from pathlib import Path

from bench.peers import Peer, Setting, give_ca
from bench.peers.certifier import ROOT


class BareRelay(Peer):
    """Serves names from memory, signs on its one thread, and has nothing else."""

    name = "bare relay"
    program = sys.executable
    install = "make run"
    note = "the least in gevent and MemoryBIO, for comparison: no store, policy, limits, deadlines, log"
    reference = True

    def version(self) -> str:
        """Its file."""
        return "bench/relay.py"

    def prepare(self, setting: Setting) -> None:
        """A CA."""
        give_ca(setting.folder)

    def command(self, setting: Setting) -> list[str]:
        """Address and roots."""
        words = ("-m", "bench.relay")
        return [sys.executable, *words, *map(str, setting.listen), str(setting.roots)]

    def environment(self, setting: Setting) -> dict[str, str]:  # noqa: ARG002
        """Where the package is."""
        return {"PYTHONPATH": str(ROOT)}

    def ca(self, setting: Setting) -> Path:
        """Given by us."""
        return setting.folder / "ca.crt"
