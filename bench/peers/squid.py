"""Squid with ``ssl_bump``: peeks at the ClientHello, then bumps everything."""

import subprocess
from pathlib import Path

from bench.peers import Peer, Setting, first_line, give_away, give_ca

_CERTGEN = "/usr/lib/squid/security_file_certgen"
_USER = "proxy"  # that Debian's Squid switches to

_CONFIG = """\
http_port {host}:{port} tls-cert={folder}/both.pem ssl-bump generate-host-certificates=on
sslcrtd_program {certgen} -s {folder}/certs -M 64MB
tls_outgoing_options cafile={roots}
acl hello at_step SslBump1
ssl_bump peek hello
ssl_bump bump all
http_access allow localhost
access_log stdio:{folder}/access.log
cache_log {folder}/cache.log
pid_filename {folder}/squid.pid
coredump_dir {folder}
pinger_enable off
shutdown_lifetime 1 second
"""


class Squid(Peer):
    """One worker, with helper processes that generate certificates."""

    name = "Squid"
    program = "squid"
    install = "apt-get install squid-openssl"

    def installed(self) -> bool:
        """The plain package has no ``ssl_bump``."""
        return super().installed() and Path(_CERTGEN).exists()

    def version(self) -> str:
        """As printed by ``squid -v``."""
        return first_line(self._program(), "-v").removeprefix("Squid Cache: Version ")

    def prepare(self, setting: Setting) -> None:
        """Write a CA, the configuration, and the certificate store."""
        certificate, key = give_ca(setting.folder)
        (setting.folder / "both.pem").write_bytes(certificate.read_bytes() + key.read_bytes())
        host, port = setting.listen
        text = _CONFIG.format(host=host, port=port, folder=setting.folder, roots=setting.roots, certgen=_CERTGEN)
        (setting.folder / "squid.conf").write_text(text)
        store = setting.folder / "certs"
        subprocess.run([_CERTGEN, "-c", "-s", store, "-M", "64MB"], check=True, capture_output=True)
        give_away(setting.folder, _USER)

    def command(self, setting: Setting) -> list[str]:
        """Without a master process, in the foreground."""
        return [self._program(), "-N", "-f", str(setting.folder / "squid.conf")]

    def ca(self, setting: Setting) -> Path:
        """The one given to it."""
        return setting.folder / "ca.crt"
