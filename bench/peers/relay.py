"""The benchmark's own relays: not peers, but reference points between the floor and a full program."""

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
    words: tuple[str, ...] = ()  # before the module
    module = "bench.relay"

    def version(self) -> str:
        """Its file."""
        return f"{self.module.replace('.', '/')}.py"

    def prepare(self, setting: Setting) -> None:
        """Write a CA."""
        give_ca(setting.folder)

    def command(self, setting: Setting) -> list[str]:
        """It takes the address and the roots."""
        return [sys.executable, "-m", *self.words, self.module, *map(str, setting.listen), str(setting.roots)]

    def environment(self, setting: Setting) -> dict[str, str]:  # noqa: ARG002
        """The path of the package."""
        return {"PYTHONPATH": str(ROOT)}

    def ca(self, setting: Setting) -> Path:
        """The one given to it."""
        return setting.folder / "ca.crt"


class GeventRelay(BareRelay):
    """The same with gevent's sockets, as one would first write it."""

    name = "gevent relay"
    note = "the same in the usual way, for comparison: gevent's sockets, two greenlets per connection"
    words = ("gevent.monkey", "--module")
    module = "bench.gevent_relay"
