"""What a benchmark ran on, for its results."""

import os
import platform
import ssl
from datetime import UTC, datetime
from importlib.metadata import version

from bench.cores import Cores


def describe(where: Cores) -> dict[str, str]:
    """The date, the machine, and the software that both the proxy and the floor use."""
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "cpu": f"{_model()}, {os.cpu_count()} cores: {len(where.proxy)} for the proxy, {len(where.load)} for the load"
        + (" (the same: latencies are of both)" if where.shared else ""),
        "system": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_version()}, {ssl.OPENSSL_VERSION}, gevent {version('gevent')},"
        f" cryptography {version('cryptography')}",
    }


def _model() -> str:
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            key, _, value = line.partition(":")
            if key.strip() in ("model name", "Model"):
                return value.strip()
    return platform.machine()
