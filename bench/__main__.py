"""Measures certifier and those of its peers that are installed, side by side: ``python -m bench``.

Prints what it finds and writes results.json, RESULTS.md, results.svg and growth.svg to a folder.
"""

import argparse
import os
import signal
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from bench import cores, floor, growth, machine, mixed, plot, price, report, rows, sharing, tunnels
from bench.figures import rows as table_rows
from bench.lab import Lab
from bench.origin import Origin
from bench.peers import Peer, registry
from bench.peers.certifier import Certifier
from bench.plan import QUICK, Plan
from bench.results import Results, Table

_GROWTH = {
    "names": growth.names,
    "store": growth.store,
    "tunnels": growth.tunnels,
    "shared": growth.shared_tunnels,
    "row": growth.row,
}
_MIXED = {"flood": mixed.flood, "bulk": mixed.bulk}
_DISK = "/var/tmp"  # on a disk; /tmp is often in memory, where fsync costs nothing


def main(argv: list[str]) -> int:
    """Run the chosen parts; return 1 if a proxy failed."""
    chosen = _parser().parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that proxies are stopped and folders removed
    plan = _plan(chosen)
    where = cores.divide(chosen.cores)
    certifier = Certifier(tuple(chosen.option))
    results = Results(chosen.out)
    failed = False
    with (
        cores.on(where.load),
        Origin(where, plan.own_names) as origin,
        tempfile.TemporaryDirectory(dir=chosen.work, prefix="bench-") as folder,
    ):
        Path(folder).chmod(0o755)  # some proxies switch to a user of their own
        lab = Lab(where, origin, plan, Path(folder))
        told = machine.describe(where)
        for part in dict.fromkeys(chosen.part or ["table"]):
            print(f"{part}:", file=sys.stderr, flush=True)
            if part in _GROWTH:
                results.put_curve(part, told, certifier.version(), _GROWTH[part](certifier, lab))
                print(report.curve(results.parts["growth"][part]))
            elif part in _MIXED:
                results.put_mixed(part, told, certifier.version(), _MIXED[part](certifier, lab))
                print(report.mixed({part: results.parts["mixed"][part]}))
            elif part == "workers":
                results.put_workers(told, certifier.version(), sharing.measure(certifier, lab))
                print(report.workers(results.parts["workers"]))
            elif part == "price":
                results.put_price(told, certifier.version(), price.measure(certifier, lab))
                print(report.price(results.parts["price"]))
            else:
                peers = [peer for peer in registry.every(certifier) if not chosen.only or peer.name in chosen.only]
                table = _table(peers, lab, told)
                failed = bool(table.problems)
                results.parts["table"] = table.as_json()
                print(report.table(results.parts["table"]), report.notes(results.parts["table"]), sep="\n\n")
            _write(results)  # now: the next part may take minutes, and be interrupted
    return int(failed)


def _write(results: Results) -> None:
    results.save()
    (results.folder / "RESULTS.md").write_text(report.document(results.parts))
    for name, drawing in plot.drawings(results.parts).items():
        (results.folder / name).write_text(drawing)


def _table(peers: list[Peer], lab: Lab, told: dict[str, str]) -> Table:
    """Interleave the rounds of all proxies, so that other activity on the machine affects all of them alike."""
    table = Table(table_rows(lab.plan), peers, told)
    for number in range(lab.plan.rounds):
        scale = lab.plan.floor_scale
        table.add_floor(floor.measure(lab.where, scale), floor.measure_alone(lab.where, scale))
        for peer in peers:
            if not peer.installed() or peer.name in table.problems:
                continue
            print(f"  round {number + 1}: {peer.name}", file=sys.stderr, flush=True)
            try:
                table.add(peer, rows.measure(peer, lab))
            except (RuntimeError, OSError) as error:  # the other peers are still measured
                table.problems[peer.name] = str(error).strip().splitlines()[-1]
                print(f"  {peer.name}: {error}", file=sys.stderr, flush=True)
    return table


def _plan(chosen: argparse.Namespace) -> Plan:
    plan = QUICK if chosen.quick else Plan()
    few, many = plan.tunnels
    return replace(plan, rounds=chosen.rounds or plan.rounds, tunnels=(few, min(many, tunnels.most())))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__, allow_abbrev=False)
    parts = ("table", *_GROWTH, *_MIXED, "workers", "price")
    parser.add_argument("--part", action="append", choices=parts, help="what to measure; repeatable [table]")
    names = [peer.name for peer in registry.every(Certifier())]
    told = f"of the proxies in the table, only this; repeatable: {', '.join(map(repr, names))}"
    parser.add_argument("--only", action="append", choices=names, metavar="PROXY", help=told)
    parser.add_argument("--rounds", type=_number, help="of the table, mixed loads, workers and prices [3]")
    parser.add_argument("--quick", action="store_true", help="little of everything: to see that it works")
    parser.add_argument("--cores", type=_number, default=1, help="for the proxy [1]")
    parser.add_argument(
        "--option", action="append", default=[], help="a further word of certifier's command line; repeatable"
    )
    parser.add_argument("--out", type=Path, default=Path("build/bench"), help="where the results go [build/bench]")
    parser.add_argument(
        "--work", type=_folder, default=_DISK, help=f"where proxies have their folders, on a disk [{_DISK}]"
    )
    return parser


def _folder(text: str) -> Path:
    if not os.access(text, os.W_OK | os.X_OK) or not os.path.isdir(text):
        raise argparse.ArgumentTypeError(f"{text}: not a folder that can be written to")
    return Path(text).absolute()  # each proxy runs in a folder of its own


def _number(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: not a whole number of at least 1")
    return int(text)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
