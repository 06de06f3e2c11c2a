"""certifier.py check: verify the CA and every certificate in the store, and say what each problem means.

Dates, keys, names, signatures and file modes, and the rules of OpenSSL (strict), Apple, Go and browsers. Changes
nothing.

Usage:
  certifier.py check [options]

Options:
  --store=<dir>         Where certificates are kept. Required.
  --ca=<dir>            The CA that signs: ca.crt, ca.key and serial.txt in this folder,
  --sign-cert=<file>    or an operator's own: its certificate,
  --sign-key=<file>     its private key,
  --sign-serial=<file>  and the file with its next serial number.
  --json                Print JSON.
  -h --help             Show this and exit.

Exit status 1 if there is a problem. Without a CA, certifier's certificates are not checked to be signed by it.
"""

import json
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from tqdm import tqdm

import ca
import certificates
import certlint
import leaf
import names
from ca import CaFiles
from certificates import Unreadable
from certlint import Fault
from commandline import CommandLine
from errors import UsageError
from issuance import open_store
from leaf import NotForName, Unusable
from ledger import Ledger
from log import counted, escape
from options import CaOptions, ca_options, store_option
from reading import content, exists
from store import Store
from stored import MAX_FILE, Entry
from tlsconfig import check_descriptors

_MAX_PATH = 4096
_REPLACED = "it is replaced when the name is next asked for"
_READ = "whoever reads a site's private key can pose as that site, with the CA's as any site: chmod go= {}"


class Check:
    """Checks one store. ``checked`` counts certificates."""

    def __init__(self, store: Store, files: CaFiles | None, now: datetime) -> None:
        self.checked = 0
        self._store = store
        self._files = files
        self._now = now
        self._first: dict[tuple[bytes, int], tuple[Path, bytes]] = {}  # (issuer, serial): path and hash

    def folders(self) -> Iterator[tuple[Path, Fault]]:
        """Faults of the store's folders."""
        for folder in (self._store.root, *sorted(self._store.root.glob("???"))):
            if folder.is_symlink() and folder != self._store.root:  # which may be a link itself
                yield folder, Fault("a symbolic link", "certifier writes no certificate there")
            elif stat.S_IMODE(folder.stat().st_mode) & 0o022:
                meaning = "whoever can write there can remove or replace certificates"
                yield folder, Fault("others can write there", f"{meaning}: chmod go-w {_word(folder)}")
        for folder, error in self._store.unreadable():
            fault = Fault(f"it can't be read: {error.strerror}", "what is in it is never used, nor checked")
            yield folder, fault

    def certificate(self, entry: Entry) -> Iterator[tuple[Path, Fault]]:
        """Faults of one certificate and its files."""
        self.checked += 1
        path = entry.path
        try:
            for file in (path, path.with_suffix(".key")):
                exposed = exists(file) and stat.S_IMODE(file.stat().st_mode) & 0o077
                if exposed and b"PRIVATE KEY-----" in content(file, MAX_FILE):
                    yield file, Fault("others can read its private key", _READ.format(_word(file)))
            stem = path.name.removesuffix(".crt")
            called = _called(stem) if self._store.path(stem) is not None else stem
            right = self._store.path(called)
            if right is None:
                yield path, Fault("its name is too long to be stored", "it is never used")
                return
            if right != path:
                what = "it is in the wrong folder" if called == stem else "certifier looks for another file name"
                yield path, Fault(what, f"it is never used: move it to {_word(right)}")
            stored = self._store.read(path)
        except OSError as error:
            if os.path.lexists(path):
                where = Path(error.filename or path)  # perhaps that of its key
                yield where, Fault(f"it can't be read: {error.strerror}", "it is never used")
            else:  # removed meanwhile, perhaps by a proxy with --store-max
                self.checked -= 1
            return
        except ValueError:
            yield path, Fault("its name is not a DNS name", "it is never used")
            return
        is_wildcard = called.startswith("_.")
        name = _covered(stored.pem, called) if is_wildcard else called
        try:
            _, chain = leaf.read(stored, name, self._now)
        except Unusable as why:
            fate = "it would be moved aside when used"
            if entry.ours:
                fate = _REPLACED
            elif isinstance(why, NotForName) and is_wildcard:
                fate = "it is never used"
            yield path, Fault(f"it can't be used: {why}", fate)
            return
        for fault in self._faults(stored.pem, name, chain, entry.ours):
            yield path, fault
        yield from self._repeated(path, chain[0])

    def _faults(self, pem: bytes, name: str, chain: list[x509.Certificate], ours: bool) -> Iterator[Fault]:
        certificate, anchor = chain[0], chain[-1]
        yield from certlint.of_any(certificate)
        yield from certlint.of_leaf(certificate)
        if ours and self._files is not None:
            anchor = self._files.path[-1]  # as far up as its file goes: clients that trust that refuse what any forbids
            if certificate.issuer != self._files.certificate.subject:
                yield Fault("signed by another CA", _REPLACED)
                return
            if tuple(chain[1:]) != self._files.chain:
                yield Fault("its intermediates are not those of the CA's file", _REPLACED)
                return
            if certificate.not_valid_after_utc > self._files.certificate.not_valid_after_utc:
                yield Fault("it outlives its CA", "it stops working when the CA ends")
        yield from certlint.of_chain(pem, name, anchor)

    def _repeated(self, path: Path, certificate: x509.Certificate) -> Iterator[tuple[Path, Fault]]:
        serial = certificate.serial_number
        this = certificate.fingerprint(hashes.SHA256())
        first, other = self._first.setdefault((certificate.issuer.public_bytes(), serial), (path, this))
        if other != this:  # an operator's may be stored once for each of its names
            what = f"it has the same issuer and serial number as {_word(first)}"
            yield path, Fault(what, "Firefox refuses the second that it sees")


def main(argv: list[str], version: str) -> int:
    """Run the subcommand and return its exit status."""
    line = CommandLine(__doc__, argv, version, "check")
    chosen = ca_options(line)
    if chosen.missing:
        raise UsageError(f"without {chosen.missing}, there is no CA: give all three --sign-*, or --ca, or neither")
    check_descriptors()  # or each certificate would be blamed
    store = open_store(store_option(line))
    now = datetime.now(UTC)
    files, found = _check_ca(chosen, now)
    check = Check(store, files, now)
    found += check.folders()
    for entry in tqdm(store.entries(), unit=" certificates", disable=None):
        found += check.certificate(entry)
    found += _check_serial(files, store)
    problems = [{"where": str(where), "problem": fault.problem, "meaning": fault.meaning} for where, fault in found]
    if line.flag("--json"):
        print(json.dumps({"checked": check.checked, "problems": problems}))
    else:
        for problem in problems:
            told = f"{_word(problem['where'])}: {problem['problem']}\n  {problem['meaning']}\n"
            sys.stdout.write(told.encode("ascii", "backslashreplace").decode())  # paths and names may hold any octets
        print(f"{counted(check.checked, 'certificate')} checked, {counted(len(problems), 'problem')}")
    return 1 if problems else 0


def _called(stem: str) -> str:
    """The file stem that certifier looks for, given one that may be in capitals, or a wildcard with its star.

    Raises ``ValueError`` for what is not a name.
    """
    wild = stem.startswith(("*.", "_."))
    name = names.dns_name(stem[2:]) if wild else names.host_name(stem)
    if name is None:
        raise ValueError("no name")
    return f"_.{name}" if wild else name


def _covered(pem: bytes, called: str) -> str:
    """A name to check an operator's wildcard for: one that it covers, if it covers any; it need not cover all."""
    above = called.removeprefix("_.")
    held: list[str] = []
    with suppress(Unreadable):
        sans = certificates.extension(certificates.first(pem), x509.SubjectAlternativeName)
        held += sans.get_values_for_type(x509.DNSName) if sans is not None else ()
    below = (name for name in map(names.dns_name, held) if name is not None and name.partition(".")[2] == above)
    return next(below, f"any.{above}")


def _word(path: object) -> str:
    """A path as one word of the output: names in the store may hold any octets, newlines among them."""
    return escape(path, _MAX_PATH)


def _check_ca(chosen: CaOptions, now: datetime) -> tuple[CaFiles | None, list[tuple[Path, Fault]]]:
    """The CA, if certifier can start with it, and its faults."""
    paths = chosen.files
    if paths is None:
        return None, []
    try:
        files = ca.load(*paths, now, makes_lock=False)  # one of this user's might lock out the proxy's
    except UsageError as error:
        made = chosen.folder is not None and not os.path.lexists(paths[0])
        fate = "certifier makes a CA there when it starts" if made else "certifier does not start with this CA"
        return None, [(paths[0], Fault(str(error), fate))]
    above = certlint.of_path(files.path, files.others)
    faults = (*certlint.of_any(files.certificate), *certlint.of_ca(files.certificate), *above)
    found = [(paths[0], fault) for fault in faults]
    warning = files.expiry_warning(now)
    if warning is not None:
        found.append((paths[0], Fault("it or one above it ends soon", warning)))
    if stat.S_IMODE(paths[1].stat().st_mode) & 0o077:
        found.append((paths[1], Fault("others can read the CA's private key", _READ.format(_word(paths[1])))))
    if chosen.folder is not None and stat.S_IMODE(chosen.folder.stat().st_mode) & 0o022:
        meaning = "whoever can write there can put a CA of their own in this one's place"
        found.append((chosen.folder, Fault("others can write there", f"{meaning}: chmod go-w {_word(chosen.folder)}")))
    return files, found


def _check_serial(files: CaFiles | None, store: Store) -> list[tuple[Path, Fault]]:
    """Whether the serial file is behind what the store has seen: what it remembers, or its certificates."""
    if files is None:
        return []
    ledger = Ledger(store.root, files.certificate)
    try:
        highest = max(ledger.highest(), ledger.read(lambda _: None))
    except OSError:  # of a folder that can't be read, which is a fault of its own
        highest = ledger.highest()
    if files.serials.peek() > highest:
        return []
    fault = Fault(
        f"it says {files.serials.peek()}, but the store has seen the serial number {highest}",
        "numbers would be used twice, if not by certifier then by others:"
        f" echo {highest + 1} > {_word(files.serials.path)}",
    )
    return [(files.serials.path, fault)]
