"""certifier.py list: what is in the store.

Usage:
  certifier.py list [options]

Options:
  --store=<dir>  Where certificates are kept. Required.
  --json         An array of JSON objects, one per line.
  -h --help      Show this and exit.

Exit status 1 if a certificate can't be read. LAST-USE is kept to the hour; an operator's certificate has none.
"""

import json
import os
import sys
from datetime import UTC, datetime

from tqdm import tqdm

import certificates
import reading
from certificates import Unreadable
from commandline import CommandLine
from issuance import open_store, print_failures
from log import escape
from options import store_option
from stored import MAX_FILE, Entry

COLUMNS = ("name", "serial", "issuer", "not_after", "size", "last_use")


def main(argv: list[str], version: str) -> int:
    """Run the subcommand and return its exit status."""
    line = CommandLine(__doc__, argv, version, "list")
    store = open_store(store_option(line))
    found = [row_of(entry) for entry in tqdm(store.entries(), unit=" files", disable=None)]
    rows = [row for row in found if row is not None]
    rows.sort(key=lambda row: str(row["name"]))
    if line.flag("--json"):
        print("[" + ",\n".join(json.dumps(row) for row in rows) + "]")
    else:
        _print_table(rows)
    return 1 if print_failures(store.unreadable(), "read") or any(row["error"] for row in rows) else 0


def row_of(entry: Entry) -> dict[str, object] | None:
    """The listed facts of a certificate; None if it was removed meanwhile."""
    row: dict[str, object] = {
        "name": entry.name,
        "serial": None,
        "issuer": None,
        "not_before": None,
        "not_after": None,
        "size": entry.size,
        "last_use": _used(entry.used) if entry.ours else None,
        "made_by": "certifier" if entry.ours else "operator",
        "path": str(entry.path),
        "error": None,
    }
    try:
        certificate = certificates.first(reading.content(entry.path, MAX_FILE))
        row["serial"] = f"{certificate.serial_number:X}"
        row["issuer"] = certificate.issuer.rfc4514_string()
        row["not_before"] = _time(certificate.not_valid_before_utc)
        row["not_after"] = _time(certificate.not_valid_after_utc)
    except OSError as error:
        if not os.path.lexists(entry.path):
            return None
        row["error"] = error.strerror
    except Unreadable:
        row["error"] = "no certificate that can be read"
    return row


def _used(moment: float) -> str | None:
    """A file's time as text; None if it is beyond what ``datetime`` can express."""
    try:
        return _time(datetime.fromtimestamp(moment, UTC))
    except (ValueError, OverflowError):
        return None


def _time(when: datetime) -> str:
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")


def _print_table(rows: list[dict[str, object]]) -> None:
    lines = [[title.upper().replace("_", "-") for title in COLUMNS]]
    for row in rows:
        values = ["-" if row[column] is None else escape(row[column]) for column in COLUMNS]
        if row["error"]:
            values[2] = escape(row["error"])
        lines.append(values)
    widths = [max(len(line[n]) for line in lines) for n in range(len(COLUMNS))]
    for line in lines:
        text = "  ".join(value.ljust(width) for value, width in zip(line, widths, strict=True))
        sys.stdout.write(text.rstrip() + "\n")
