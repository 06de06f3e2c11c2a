"""mitmproxy, as ``mitmdump``. It makes its own CA (RSA)."""

from pathlib import Path

from bench.peers import Peer, Setting, first_line


class Mitmproxy(Peer):
    """By default, it buffers a whole body before passing it on."""

    name = "mitmproxy"
    program = "mitmdump"
    install = "pip install mitmproxy (into a venv whose bin/ is in PATH)"

    def version(self) -> str:
        """As printed by ``mitmdump --version``."""
        return first_line(self._program(), "--version").removeprefix("Mitmproxy: ")

    def command(self, setting: Setting) -> list[str]:
        """Its certificates are kept in memory only."""
        return [
            self._program(),
            f"--listen-host={setting.listen[0]}",
            f"--listen-port={setting.listen[1]}",
            f"--set=confdir={setting.folder}",
            f"--set=ssl_verify_upstream_trusted_ca={setting.roots}",
        ]

    def ca(self, setting: Setting) -> Path:
        """It makes its own."""
        return setting.folder / "mitmproxy-ca-cert.pem"
