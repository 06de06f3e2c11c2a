"""tshark, to verify the files that we write for it."""

import shutil
from pathlib import Path

from lab import run

HTTP = ("-d", "tcp.port==1-65535,http")  # as documented, for HTTP/2 on any port


def fields(path: Path, *names: str, options: tuple[str, ...] = HTTP, only: str = "") -> list[tuple[str, ...]]:
    """These fields of each packet that matches the display filter ``only``."""
    assert shutil.which("tshark"), "tshark is missing: apt-get install tshark"
    words = [word for name in names for word in ("-e", name)]
    result = run("tshark", "-n", *options, "-r", path, "-Y", only, "-T", "fields", "-E", "separator=|", *words)
    assert result.returncode == 0, result.stderr
    return [tuple(line.split("|")) for line in result.stdout.splitlines()]
