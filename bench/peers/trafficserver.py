"""Apache Traffic Server with its certifier plugin: takes TLS on its port and forwards each request to the origin."""

import os
import pwd
import shutil
from pathlib import Path

from bench.peers import Peer, Setting, first_line, give_away, give_ca

_DEFAULTS = Path("/etc/trafficserver")
_PLUGINS = Path("/usr/lib/trafficserver/modules")
_USER = "trafficserver"  # that Debian's server switches to

_LAYOUT = {
    "prefix": "/usr", "exec_prefix": "/usr", "bindir": "/usr/bin", "sbindir": "/usr/sbin", "includedir": "/usr/include",
    "libdir": "/usr/lib/trafficserver", "libexecdir": str(_PLUGINS),
}  # fmt: skip
_OWN = {
    "sysconfdir": "etc",
    "datadir": "cache",
    "localstatedir": ".",
    "runtimedir": "run",
    "logdir": "log",
    "cachedir": "cache",
}

_RECORDS = """
CONFIG proxy.config.http.server_ports STRING {port}:ip-in={host}:ssl
CONFIG proxy.config.admin.user_id STRING {user}
CONFIG proxy.config.ssl.client.CA.cert.filename STRING {roots}
CONFIG proxy.config.url_remap.pristine_host_hdr INT 1
CONFIG proxy.config.http.keep_alive_enabled_out INT {reuse}
CONFIG proxy.config.crash_log_helper STRING NULL
"""


class TrafficServer(Peer):
    """``reuse``: a connection to the origin serves several clients, as by default."""

    program = "traffic_server"
    install = "apt-get install trafficserver trafficserver-experimental-plugins"

    def __init__(self, reuse: bool = True) -> None:
        self._reuse = reuse
        self.name = "ATS" if reuse else "ATS, no reuse"
        self.note = "no CONNECT: TLS at once, HTTP only, one fixed origin, none held for an idle client" + (
            "; clients share connections to it: one handshake each" if reuse else ""
        )

    connect = False

    def installed(self) -> bool:
        """The plugin is in a separate package."""
        return super().installed() and (_PLUGINS / "certifier.so").exists()

    def version(self) -> str:
        """As printed by ``traffic_server -V``."""
        return first_line(self._program(), "-V").split()[2]

    def prepare(self, setting: Setting) -> None:
        """Copy the package's configuration to a folder of the run, with the run's port, CA and origin."""
        folder = setting.folder
        shutil.copytree(_DEFAULTS, folder / "etc")
        for name in ("run", "log", "cache", "certs"):
            (folder / name).mkdir()
        layout = {**_LAYOUT, **{name: str(folder / path) for name, path in _OWN.items()}}
        (folder / "runroot.yaml").write_text("".join(f"{name}: {path}\n" for name, path in layout.items()))
        certificate, key = give_ca(folder)
        (folder / "serial").write_text("1000\n")
        host, port = setting.listen
        user = _USER if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
        records = _RECORDS.format(host=host, port=port, user=user, roots=setting.roots, reuse=int(self._reuse))
        with (folder / "etc" / "records.config").open("a") as file:
            file.write(records)
        (folder / "etc" / "ssl_multicert.config").write_text(
            f"dest_ip=* ssl_cert_name={certificate} ssl_key_name={key}\n"
        )
        (folder / "etc" / "plugin.config").write_text(
            f"certifier.so --sign-cert={certificate} --sign-key={key} --sign-serial={folder / 'serial'}"
            f" --store={folder / 'certs'} --max=10000\n"
        )
        origin = f"https://{setting.origin[0]}:{setting.origin[1]}/"
        (folder / "etc" / "remap.config").write_text(f"map / {origin}\n")
        give_away(folder, _USER)

    def command(self, setting: Setting) -> list[str]:
        """Without traffic_manager, which would restart it."""
        return [self._program(), f"--run-root={setting.folder / 'runroot.yaml'}"]

    def ready(self, setting: Setting) -> bool:
        """The plugin crashes it on connections that come before all its threads have started."""
        log = setting.folder / "log" / "diags.log"
        return log.exists() and "fully initialized" in log.read_text()

    def ca(self, setting: Setting) -> Path:
        """The one given to it."""
        return setting.folder / "ca.crt"
