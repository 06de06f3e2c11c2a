"""proxy.py with TLS interception. It signs with the openssl command line, and ignores the server_name."""

from pathlib import Path

from bench import pki
from bench.peers import Peer, Setting, first_line, give_ca

# It resolves the CONNECT host, but the benchmark's names are not in DNS: all are on this machine.
_PLUGIN = """\
from proxy.http.proxy import HttpProxyBasePlugin


class Loopback(HttpProxyBasePlugin):
    def resolve_dns(self, host, port):
        return "127.0.0.1", None
"""


class ProxyPy(Peer):
    """One process per core; here it has one core."""

    name = "proxy.py"
    program = "proxy"
    install = "pip install proxy.py (into a venv whose bin/ is in PATH), apt-get install openssl"
    note = "its CONNECT holds the name, answered by a plugin without a look-up"
    by_name = True

    def version(self) -> str:
        """As printed by ``proxy --version``."""
        return first_line(self._program(), "--version")

    def prepare(self, setting: Setting) -> None:
        """Write a CA, the key for all leaves, and the plugin."""
        give_ca(setting.folder)
        (setting.folder / "leaf.key").write_bytes(pki.key_pem(pki.new_key()))
        (setting.folder / "loopback.py").write_text(_PLUGIN)

    def command(self, setting: Setting) -> list[str]:
        """Its certificates go to a folder of the run; the default is in the user's home."""
        return [
            self._program(),
            f"--hostname={setting.listen[0]}",
            f"--port={setting.listen[1]}",
            "--ca-cert-file=ca.crt",
            "--ca-key-file=ca.key",
            "--ca-signing-key-file=leaf.key",
            f"--ca-cert-dir={setting.folder / 'made'}",
            f"--ca-file={setting.roots}",
            "--plugins=loopback.Loopback",
        ]

    def environment(self, setting: Setting) -> dict[str, str]:
        """The path of the plugin, and a home directory to write to."""
        return {"PYTHONPATH": str(setting.folder), "HOME": str(setting.folder)}

    def ca(self, setting: Setting) -> Path:
        """The one given to it."""
        return setting.folder / "ca.crt"
