"""sslsplit. It has no CONNECT: normally a firewall redirects TCP connections to it; here it has a fixed target."""

import subprocess
from pathlib import Path

from bench.peers import Peer, Setting, give_ca


class Sslsplit(Peer):
    """Copies the origin's certificates: one new one for each of them."""

    name = "sslsplit"
    program = "sslsplit"
    install = "apt-get install sslsplit"
    note = "no CONNECT: TLS at once; does not verify the origin by default"
    connect = False

    def version(self) -> str:
        """As printed by ``sslsplit -V``."""
        done = subprocess.run([self._program(), "-V"], capture_output=True, text=True, timeout=30, check=False)
        return (done.stdout + done.stderr).split()[1]

    def prepare(self, setting: Setting) -> None:
        """Write a CA."""
        give_ca(setting.folder)

    def command(self, setting: Setting) -> list[str]:
        """In the foreground, without logs."""
        ends = [str(word) for word in (*setting.listen, *setting.origin)]
        return [self._program(), "-c", "ca.crt", "-k", "ca.key", "https", *ends]

    def ca(self, setting: Setting) -> Path:
        """The one given to it."""
        return setting.folder / "ca.crt"
