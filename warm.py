"""certifier.py warm: make the certificates for a list of names ahead of time.

Names with a good certificate in the store are skipped: run it again to go on where it was interrupted.

Usage:
  certifier.py warm [options] <names-file>

Options:
  --store=<dir>         Where certificates are kept; made if missing. Required.
  --ca=<dir>            The CA: ca.crt, ca.key and serial.txt in this folder, made on first use,
  --sign-cert=<file>    or an operator's own: its certificate (PEM, followed by its chain),
  --sign-key=<file>     its private key (PEM, without a passphrase),
  --sign-serial=<file>  and the file with its next serial number.
  --key-type=<type>     Type of the leaves' keys: p256, p384, rsa2048, rsa3072 or rsa4096 [default: p256].
  --days=<n>            How many days a leaf is valid, 1 to 397 [default: 45].
  --crl-url=<url>       The CRL distribution point of the leaves.
  --json                Print what was done as JSON.
  -h --help             Show this and exit.

One name or IP address per line; empty lines and anything after a # are skipped; - reads standard input.
Exit status 1 if a certificate could not be made, 130 if interrupted.
"""

import io
import json
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from typing import NoReturn

import gevent
from gevent.event import Event
from gevent.pool import Pool
from tqdm import tqdm

import names
import reading
from commandline import CommandLine
from errors import CertifierError, UsageError
from issuance import Issuance
from leaf import Leaf
from leaves import Wanted
from options import leaf_options
from retrieval import settled
from workers import Workers


class WarmUp:
    """Makes certificates in parallel. Counts those made and those already stored, and records why others failed."""

    def __init__(self, issuance: Issuance) -> None:
        self.made = 0
        self.present = 0
        self.failed: list[dict[str, str]] = []
        self._issuance = issuance
        self._workers = Workers(os.cpu_count() or 1)

    def run(self, wanted: list[str], stop: Event) -> bool:
        """Process each name; stop early, and return False, if ``stop`` is set."""
        pool = Pool(2 * (os.cpu_count() or 1))
        with tqdm(total=len(wanted), unit=" names", disable=None) as bar:
            for text in wanted:
                if stop.is_set():
                    break
                pool.spawn(self._one, text, bar)
            pool.join()
        return not stop.is_set()

    def _one(self, text: str, bar: "tqdm[NoReturn]") -> None:
        notes: list[str] = []
        try:
            leaf = self._retrieve(text, notes)
        except CertifierError as error:
            self.failed.append({"name": text, "reason": str(error)})
        except Exception as error:  # top level of this greenlet: this name has to be counted, too
            self.failed.append({"name": text, "reason": f"a bug in certifier: {error!r}"})
            notes.append(traceback.format_exc())
        else:
            self.made += leaf.source == "made"
            self.present += leaf.source != "made"
        for note in notes:
            bar.write(note, file=sys.stderr)
        bar.update()

    def _retrieve(self, text: str, notes: list[str]) -> Leaf:
        name = names.host_name(text)
        if name is None:
            raise UsageError(f"not a DNS name or IP address{names.hint(text)}")
        if self._issuance.store.path(name) is None:
            raise UsageError("the name is too long for the store")
        retrieve = self._issuance.leaves.retrieve
        leaf = settled(lambda: self._workers.run(retrieve, name, datetime.now(UTC), notes, Wanted(renew=True)))
        assert leaf is not None  # there is a CA
        if not leaf.in_store:
            raise UsageError("made, but not stored")
        return leaf


def main(argv: list[str], version: str) -> int:
    """Run the subcommand and return its exit status."""
    line = CommandLine(__doc__, argv, version, "warm", operands=["<names-file>"])
    chosen = leaf_options(line)
    if chosen.ca.missing:
        raise UsageError(f"without {chosen.ca.missing}, no certificates are signed: give all three --sign-*, or --ca")
    if chosen.ca.files is None:
        raise UsageError("no CA to sign with: give --ca=<dir>, or all three --sign-*")
    wanted = list(dict.fromkeys(_names_in(line.required("<names-file>", "--store=certs --ca=ca names.txt"))))
    warm_up = WarmUp(Issuance(chosen, datetime.now(UTC), tell=partial(print, file=sys.stderr)))
    stop = Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        gevent.signal_handler(number, stop.set)
    finished = warm_up.run(wanted, stop)
    _report(warm_up, len(wanted), line.flag("--json"))
    if not finished:
        return 130
    return 1 if warm_up.failed else 0


def _names_in(path: str) -> Iterator[str]:
    try:
        with open(0 if path == "-" else path, "rb") as file:
            content = reading.rest(file).decode("utf-8-sig", errors="replace")
    except OSError as error:
        raise UsageError(f"can't read {path}: {error.strerror}") from error
    for text in io.StringIO(content, newline=None):  # which takes line ends of any system
        name = text.partition("#")[0].strip()
        if name:
            yield name


def _report(warm_up: WarmUp, wanted: int, as_json: bool) -> None:
    left = wanted - warm_up.made - warm_up.present - len(warm_up.failed)
    if as_json:
        facts = {"made": warm_up.made, "present": warm_up.present, "failed": warm_up.failed, "left": left}
        print(json.dumps(facts))
        return
    for failure in warm_up.failed:
        print(f"{failure['name']!r}: {failure['reason']}", file=sys.stderr)
    rest = f", interrupted with {left} left: run it again to go on" if left else ""
    print(f"{warm_up.made} made, {warm_up.present} were there, {len(warm_up.failed)} failed{rest}")
