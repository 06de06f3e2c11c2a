"""sslsplit. It has no CONNECT: in the field a firewall sends it TCP connections; here it has a fixed target."""

import subprocess
from pathlib import Path

from bench.peers import Peer, Setting, give_ca


class Sslsplit(Peer):
    """Copies the origin's certificate, one new one for each of the origin's."""

    name = "sslsplit"
    program = "sslsplit"
    install = "apt-get install sslsplit"
    note = "no CONNECT: TLS at once; does not verify the origin by default"
    connect = False

    def version(self) -> str:
        """As ``sslsplit -V`` says."""
        done = subprocess.run([self._program(), "-V"], capture_output=True, text=True, timeout=30, check=False)
        return (done.stdout + done.stderr).split()[1]

    def prepare(self, setting: Setting) -> None:
        """A CA."""
        give_ca(setting.folder)

    def command(self, setting: Setting) -> list[str]:
        """In the foreground, with no logs."""
        ends = [str(word) for word in (*setting.listen, *setting.origin)]
        return [self._program(), "-c", "ca.crt", "-k", "ca.key", "https", *ends]

    def ca(self, setting: Setting) -> Path:
        """Given by us."""
        return setting.folder / "ca.crt"
