"""``Results``: the contents of results.json: ``table``, ``growth`` and ``mixed`` by part, ``workers``, ``price``.

A run replaces the parts it measured and leaves the others; each part records its own date and machine.
"""

import json
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from bench.figures import Figures, Row
from bench.floor import Floor
from bench.growth import Curve
from bench.mixed import Mixed
from bench.peers import Peer
from bench.price import Price
from bench.sharing import Way

Json = dict[str, Any]
FOREIGN = 0.05  # share of the proxy's cores that other processes may use before the report marks the figure


class Results:
    """``parts`` is plain JSON."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.parts: Json = {}
        path = folder / "results.json"
        if path.exists():
            self.parts = json.loads(path.read_text())

    def save(self) -> None:
        """Write results.json."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "results.json").write_text(json.dumps(self.parts, indent=1, ensure_ascii=False) + "\n")

    def put_curve(self, part: str, machine: dict[str, str], version: str, curve: Curve) -> None:
        """Store one part of how cost grows."""
        self.parts.setdefault("growth", {})[part] = {"machine": machine, "version": version, **asdict(curve)}

    def put_mixed(self, part: str, machine: dict[str, str], version: str, mixed: Mixed) -> None:
        """Store one part of the mixed loads."""
        self.parts.setdefault("mixed", {})[part] = {
            "machine": machine, "version": version, "times": mixed.times, **asdict(mixed)
        }  # fmt: skip

    def put_workers(self, machine: dict[str, str], version: str, found: dict[int, list[Way]]) -> None:
        """Store what sharing a port costs, by the number of concurrent clients."""
        loads = [{"clients": clients, "ways": [asdict(way) for way in ways]} for clients, ways in found.items()]
        self.parts["workers"] = {"machine": machine, "version": version, "loads": loads}

    def put_price(self, machine: dict[str, str], version: str, prices: dict[str, Price]) -> None:
        """Store what observing costs."""
        ways = {way: asdict(price) for way, price in prices.items()}
        self.parts["price"] = {"machine": machine, "version": version, "ways": ways}


class Table:
    """Collects the rounds of all proxies."""

    def __init__(self, rows: list[Row], peers: list[Peer], machine: dict[str, str]) -> None:
        self._rows = rows
        self._machine = machine
        self._floors: list[Floor] = []
        self._floors_alone: list[Floor] = []
        self._peers = peers
        self._rounds: dict[str, list[Figures]] = {peer.name: [] for peer in peers}
        self.problems: dict[str, str] = {}

    def add_floor(self, floor: Floor, alone: Floor) -> None:
        """Add the floor measured in a round, and the one measured while the load's cores idled."""
        self._floors.append(floor)
        self._floors_alone.append(alone)

    def add(self, peer: Peer, figures: Figures) -> None:
        """Add a proxy's figures from a round."""
        self._rounds[peer.name].append(figures)

    def as_json(self) -> Json:
        """All rounds, with the median, the range and the ratio to the floor for each row."""
        floors = _medians(self._floors)
        peers = []
        for peer in self._peers:
            rounds = self._rounds[peer.name]
            figures = {row.key: cell for row in self._rows if (cell := _cell(row, rounds, floors.get(row.key)))}
            peers.append(
                {"name": peer.name, "installed": peer.installed(), "install": peer.install, "note": peer.note}
                | {"reference": peer.reference, "version": peer.version() if peer.installed() else None}
                | {"problem": self.problems.get(peer.name), "figures": figures}
            )
        return {
            "machine": self._machine,
            "rows": [asdict(row) for row in self._rows],
            "floor": floors,
            "floor_alone": _medians(self._floors_alone),
            "peers": peers,
        }


def _medians(floors: list[Floor]) -> dict[str, float]:
    """The median of each row that has a floor."""
    rounds = [asdict(floor) for floor in floors]
    return {key: round(median(found[key] for found in rounds), 4) for key in rounds[0]}


def _cell(row: Row, rounds: list[Figures], floor: float | None) -> Json | None:
    figures = [figures[row.key] for figures in rounds if row.key in figures]
    if not figures:
        return None
    values = [round(figure.value, 4) for figure in figures]
    middle = median(values)
    return {
        "median": middle,
        "low": min(values),
        "high": max(values),
        "rounds": values,
        "times_floor": round(middle / floor, 2) if floor else None,
        "load_limited": any(figure.load_limited for figure in figures),
        "disturbed": any(figure.foreign > FOREIGN for figure in figures),
    }
