"""certifier.py prune: remove certificates that are no longer needed from the store.

These are certifier's own that have expired and, with --keep and --unused, those not used for long. An
operator's certificate is never removed. A proxy may be running meanwhile.

Usage:
  certifier.py prune [options]

Options:
  --store=<dir>    Where certificates are kept. Required.
  --keep=<n>       Keep the n most recently used of certifier's own, 0 or more.
  --unused=<days>  Remove those not used for this many days, 1 or more.
  --dry-run        Remove nothing, only show what would be removed.
  --json           Print JSON.
  -h --help        Show this and exit.

Exit status 1 if a folder can't be read or a certificate can't be removed. The time of last use is kept to the
hour, as the file's modification time.
"""

import json
import time

from tqdm import tqdm

from commandline import CommandLine
from errors import UsageError
from issuance import open_store, print_failures
from log import escape
from options import store_option
from pruning import DAY_SECONDS, Pruned, prune


def main(argv: list[str], version: str) -> int:
    """Run the subcommand and return its exit status."""
    line = CommandLine(__doc__, argv, version, "prune")
    keep, days = line.number_if_given("--keep", 0), line.number_if_given("--unused", 1)
    unused = None if days is None else days * DAY_SECONDS
    store = open_store(store_option(line))
    dry = line.flag("--dry-run")
    try:
        pruned = prune(store, time.time(), keep, unused, dry, lambda walk: tqdm(walk, unit=" files", disable=None))
    except OSError as error:
        raise UsageError(f"{store.root} can't be pruned: {error.strerror}") from error
    if line.flag("--json"):
        print(json.dumps({"removed": [gone._asdict() for gone in pruned.removed], "kept": pruned.kept, "dry_run": dry}))
    else:
        _print(pruned, dry)
    return int(any([print_failures(pruned.failures, "removed"), print_failures(store.unreadable(), "read")]))


def _print(pruned: Pruned, dry: bool) -> None:
    for gone in pruned.removed:
        print(f"{escape(gone.name)}: {gone.reason}")
    print(f"{len(pruned.removed)} {'would be ' if dry else ''}removed, {pruned.kept} kept")
