"""What observing the traffic costs: CPU per request and per GB with each way of observing it, and with none."""

from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

from bench.lab import Lab
from bench.peers.certifier import Certifier
from bench.rows import bulk, small

_RESPONSE = """\
count = 0


def response(exchange):
    global count
    count += 1
"""
_DATA = """\
octets = 0


def data(tunnel, direction, data):
    global octets
    octets += len(data)
"""
_REWRITE = """\
REWRITE = True


def request(exchange):
    return None
"""
_TAPS = {"response": _RESPONSE, "data": _DATA, "rewrite": _REWRITE}

WAYS = {  # what is on, and the command-line options for it
    "nothing": (),
    "`--log-requests`": ("--log-requests", "--log-file=log"),
    "`--har`": ("--har=traffic.har",),
    "`--pcap`": ("--pcap=traffic.pcapng",),
    "`--tap` with `data`": ("--tap={taps}/data.py",),
    "`--tap` with `response`": ("--tap={taps}/response.py",),
    "`--tap` that may rewrite": ("--tap={taps}/rewrite.py",),
    "`--keylog`": ("--keylog=keys",),
}


@dataclass(slots=True)
class Price:
    """One way of observing: microseconds of CPU per request, seconds of CPU per GB, one value per round."""

    small: list[float] = field(default_factory=list)
    bulk: list[float] = field(default_factory=list)


def measure(certifier: Certifier, lab: Lab) -> dict[str, Price]:
    """Measure all ways in turn in each round, each on a freshly started proxy."""
    taps = lab.folder / "taps"
    taps.mkdir()
    taps.chmod(0o755)
    for name, text in _TAPS.items():
        (taps / f"{name}.py").write_text(text)
    plan = replace(lab.plan, bulk_seconds=lab.plan.bulk_seconds / 2)  # the traffic is written to disk
    found = {way: Price() for way in islice(WAYS, plan.ways)}
    for _ in range(plan.rounds):
        for way in found:
            words = WAYS[way]
            peer = replace(certifier, extra=(*certifier.extra, *(word.format(taps=taps) for word in words)))
            with lab.start(peer) as proxy:
                found[way].small.append(small(proxy, plan)["small"].value)
                found[way].bulk.append(bulk(proxy, plan)["bulk"].value)
                _made(proxy.setting.folder, words)
    return found


def _made(folder: Path, words: tuple[str, ...]) -> None:
    """Check that the requested file is not empty: an option that does nothing would look cheap."""
    for word in words:
        _, _, name = word.partition("=")
        if name and not name.endswith(".py") and not any(file.stat().st_size for file in folder.glob(f"{name}*")):
            raise RuntimeError(f"{word} wrote nothing")
