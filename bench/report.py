"""The results in readable form: the table as Markdown, also printed on the terminal, and RESULTS.md."""

from statistics import median

from bench.results import Json

_INTRO = """\
# Benchmark

Made by `make bench` (the table), `make bench-growth` (how cost grows), `make bench-mixed` (latency under mixed
load), `make bench-workers` (what sharing a port costs) and `make bench-price` (what observing the traffic costs). All
figures are in [results.json](results.json). Less is better, except for connections per second.

"""

_MEANING = """\
Each cell has the median of the rounds, their range, and the ratio to the floor. The best of a row is bold.

* CPU is the user and system time of the proxy and all its children, on a core of its own; the origin and the clients
  run on others. `*`: the load side, not the proxy, set the pace, so the proxy was idle at times. `~`: something else on
  the machine took more than 5 % of the proxy's core meanwhile.
* The **floor** is what the proxy's own two ends of TLS cost in memory, with the `ssl` and `cryptography` modules of the
  same Python in the same run. *Warm*: one handshake as a server and one as a client that verifies, both ends made and
  freed; *new name*: these, a P-256 key, a signature and the name's context; *download*: decrypting and encrypting a GB;
  *small request*: decrypting and encrypting the request and the reply; *idle tunnel*: the memory of the two ends. No
  sockets, no HTTP, no disk.
* A *warm connection* is TCP, CONNECT, TLS 1.3 without resumption, one small request and its reply, and close_notify
  both ways, with the name's context in memory. Origins have P-256 certificates. CONNECT names an IP address, so nothing
  is looked up.
* *Idle tunnels* have no figure if the proxy had closed some of them before they were counted.
* The **bare relay** and the **gevent relay** are not peers. `bench/relay.py` is the least that these connections need
  in gevent, without store, policy, limits, deadlines or log: its cost above the floor is sockets, switches and Python.
  `bench/gevent_relay.py` is the same as one would first write it, with gevent's sockets and two greenlets a connection.
* Every proxy runs with its defaults; the settings that a run needs are in `bench/peers/`.
"""

_LOADED = """\
* The floor is measured while the load's cores do handshakes, as they work while a proxy is measured: cores share
  caches, and may be threads of one processor core. Beside it stands what it is while they idle.
"""

_IDLE = "* This floor was measured while the load's cores idled, so the ratios may be too high.\n"

_FLOORS = {"floor_alone": "floor, the load idle", "floor": "floor"}  # older tables lack the former

_SHARED = """\
All ways use the same cores: this is what several processes cost, not what they gain. *Clients* connect at the same
time, each in a closed loop. The fewer there are, the less work a process finds when it gets the core, and the more
often the core switches from one to the other, with cold caches each time.
"""


def table(part: Json) -> str:
    """The table as aligned Markdown."""
    shown = [peer for peer in part["peers"] if peer["figures"]]
    floors = [key for key in _FLOORS if key in part]
    lines = [["", *(_FLOORS[key] for key in floors), *(peer["name"] for peer in shown)]]
    for row in part["rows"]:
        cells = [peer["figures"].get(row["key"]) for peer in shown]
        if not any(cells):
            continue
        columns = list(zip(cells, shown, strict=True))
        rivals = [cell["median"] for cell, peer in columns if cell and not peer.get("reference")]
        best = min(rivals) if len(rivals) > 1 else None
        unit = f", {row['unit']}" if row["unit"] else ""
        told = [
            _cell(cell, not peer.get("reference") and cell["median"] == best) if cell else "-" for cell, peer in columns
        ]
        costs = [part[key].get(row["key"]) for key in floors]
        lines.append([row["title"] + unit, *("" if cost is None else number(cost) for cost in costs), *told])
    return _aligned(lines)


def _cell(cell: Json, bold: bool) -> str:
    value = number(cell["median"])
    words = [f"**{value}**" if bold else value]
    if cell["low"] != cell["high"]:
        words.append(f"({number(cell['low'])}–{number(cell['high'])})")
    if cell["times_floor"]:
        words.append(f"{cell['times_floor']:.2g}×" if cell["times_floor"] < 10 else f"{cell['times_floor']:.0f}×")
    marks = "*" * cell["load_limited"] + "~" * cell["disturbed"]
    return " ".join(words) + (f" {marks}".replace("*", "\\*") if marks else "")


def number(value: float) -> str:
    """Format with three significant digits, or as a whole number from 100 up."""
    if value in (0, 1) or value >= 99.95:
        return f"{value:,.0f}"
    return f"{value:.2f}" if value < 9.995 else f"{value:.1f}"


def _aligned(lines: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    told = [
        "| " + " | ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)) + " |" for line in lines
    ]
    told.insert(
        1, "|" + "|".join("-" * (width + 1) + ":" if n else "-" * (width + 2) for n, width in enumerate(widths)) + "|"
    )
    return "\n".join(told)


def notes(part: Json) -> str:
    """Versions, differences, what failed, and what to install."""
    lines = []
    for peer in part["peers"]:
        if peer["problem"]:
            lines.append(f"* {peer['name']} failed: {peer['problem']}")
        elif not peer["installed"]:
            lines.append(f"* {peer['name']} is not installed: {peer['install']}")
        else:
            lines.append(f"* {peer['name']}: {peer['version']}" + (f"; {peer['note']}" if peer["note"] else ""))
    return "\n".join(lines)


def machine(told: dict[str, str]) -> str:
    """The date and the machine, on one line."""
    return f"{told['date']}; {told['cpu']}; {told['system']}; Python {told['python']}."


def curve(part: Json) -> str:
    """A curve's points as a table."""
    lines = [[part["x"], *part["columns"]]]
    lines += [[f"{point[0]:,.0f}", *map(number, point[1:])] for point in part["points"]]
    return _aligned(lines)


def mixed(parts: Json) -> str:
    """Latencies under other loads."""
    lines = [
        [
            "warm connections, one at a time",
            "quiet: p50 / p99, ms",
            "beside it: p50 / p99, ms",
            "p99, ratio",
            "the other load",
        ]
    ]
    for part in parts.values():
        quiet, loaded = (
            [number(median(part[f"{kind}_{share}"])) for share in ("p50", "p99")] for kind in ("quiet", "loaded")
        )
        lines.append([part["title"], " / ".join(quiet), " / ".join(loaded), f"{part['times']:.1f}", part["facts"][-1]])
    return _aligned(lines)


def workers(part: Json) -> str:
    """What several workers cost relative to one: median ratio and range over the rounds."""
    lines = [["", "clients", "warm connection, CPU ms", "ratio to one", "busiest, % of it", "connections per second"]]
    for load in part["loads"]:
        one = load["ways"][0]["cpu"]
        for way in load["ways"]:
            cpu, busiest, rate = (median(way[key]) for key in ("cpu", "busiest", "rate"))
            times = [mine / alone for mine, alone in zip(way["cpu"], one, strict=True)]
            spread = f"{median(times):.2f}" + (f" ({min(times):.2f}–{max(times):.2f})" if way["cpu"] is not one else "")
            told = f"{load['clients']}", number(cpu), spread, f"{busiest:.0f}", f"{rate:,.0f}"
            lines.append([way["title"], *told])
    return _aligned(lines)


def price(part: Json) -> str:
    """What each way of observing costs, and how much more than none."""
    lines = [["what is on", "small request, µs", "more", "GB, s", "more"]]
    small, bulk = (median(part["ways"]["nothing"][key]) for key in ("small", "bulk"))
    for way, rounds in part["ways"].items():
        line = [way]
        for key, off, digits in (("small", small, 0), ("bulk", bulk, 2)):
            value = median(rounds[key])
            line += [f"{value:.{digits}f}", "" if way == "nothing" else f"{value - off:+.{digits}f}"]
        lines.append(line)
    return _aligned(lines)


def document(parts: Json) -> str:
    """The text of RESULTS.md."""
    text = _INTRO
    if "table" in parts:
        part = parts["table"]
        text += f"![The table as a plot](results.svg)\n\n{machine(part['machine'])}\n\n{table(part)}\n\n"
        text += f"{_MEANING}{_LOADED if 'floor_alone' in part else _IDLE}\n{notes(part)}\n"
    if "growth" in parts:
        text += "\n## How cost grows\n\n![How cost grows](growth.svg)\n"
        for part in parts["growth"].values():
            text += (
                f"\n### {part['title']}\n\ncertifier {part['version']}. {machine(part['machine'])}\n\n{curve(part)}\n"
            )
    if "mixed" in parts:
        told = next(iter(parts["mixed"].values()))
        text += f"\n## Latency under mixed load\n\ncertifier {told['version']}. {machine(told['machine'])}\n\n"
        text += f"{mixed(parts['mixed'])}\n"
    if "workers" in parts:
        part = parts["workers"]
        rounds = len(part["loads"][0]["ways"][0]["cpu"])
        text += f"\n## Several workers\n\ncertifier {part['version']}, {rounds} rounds. "
        text += f"{machine(part['machine'])}\n\n{workers(part)}\n\n{_SHARED}"
    if "price" in parts:
        part = parts["price"]
        text += f"\n## What observing costs\n\ncertifier {part['version']}, CPU. {machine(part['machine'])}\n\n"
        text += f"{price(part)}\n"
    return text
