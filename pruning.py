"""Pruning a store: expired and long unused certificates of certifier's own are removed, an operator's never."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import certificates
import reading
from certificates import Unreadable
from store import Failures, Store
from stored import MAX_FILE, TOUCH_SECONDS, Entry

DAY_SECONDS = 86_400.0
_SLACK = 10  # a running proxy prunes to a tenth below its bound, so that not every new name causes a walk

Walk = Callable[[Iterable[Entry]], Iterable[Entry]]


class Removed(NamedTuple):
    """A certificate that was removed, and why."""

    name: str
    reason: str


class Pruned(NamedTuple):
    """What became of certifier's own certificates."""

    removed: list[Removed]
    kept: int
    failures: Failures  # of those kept: what can't be removed, and why


def prune(
    store: Store,
    now: float,
    keep: int | None = None,
    unused: float | None = None,
    dry: bool = False,
    walk: Walk = lambda entries: entries,
) -> Pruned:
    """Remove certificates of certifier's own: expired, unused for ``unused`` seconds, or beyond the ``keep`` last used.

    ``now`` is in seconds since the epoch. With ``dry`` nothing is removed. Blocks on the disk; for a pool thread.
    """
    doomed: list[tuple[Entry, str]] = []
    good: list[Entry] = []
    for entry in walk(store.entries()):
        if entry.ours:
            reason = _reason(entry, now, unused)
            if reason is None:
                good.append(entry)
            else:
                doomed.append((entry, reason))
    if keep is not None:
        # A use in the future was noted while the clock was ahead: until then it would outrank those really in use.
        good.sort(key=lambda entry: entry.used if entry.used - now <= TOUCH_SECONDS else 0.0, reverse=True)
        doomed += [(entry, f"beyond the {keep} most recently used") for entry in good[keep:]]
        good = good[:keep]
    failures: Failures = []
    removed = [Removed(entry.name, reason) for entry, reason in doomed if dry or store.remove(entry, failures)]
    return Pruned(removed, len(good) + len(doomed) - len(removed), failures)


def _reason(entry: Entry, now: float, unused: float | None) -> str | None:
    if unused is not None and now - entry.used >= unused:
        return f"not used for {(now - entry.used) / DAY_SECONDS:.0f} days"
    try:
        end = certificates.first(reading.content(entry.path, MAX_FILE)).not_valid_after_utc
    except OSError:
        return None
    except Unreadable:
        return "holds no certificate that can be read"
    return f"expired on {end:%Y-%m-%d %H:%M} UTC" if now >= end.timestamp() else None


class Bound:
    """Keeps a store to ``most`` certificates of certifier's own, or about that many if several processes share it.

    The serial numbers tell how many were made since the last count, by whichever process.
    """

    def __init__(self, store: Store, most: int) -> None:
        self._store = store
        self._most = most
        self._latest = 0  # the serial number of the last certificate saved
        self._counted = 0  # the same at the last count
        self._room = 0  # how many may be made until the next count

    def saved(self, serial: int) -> None:
        """Note that a certificate was stored."""
        self._latest = serial

    def keep(self, now: float) -> Pruned | None:
        """Prune if necessary, and return what became of the certificates. Blocks on the disk; one call at a time."""
        latest = self._latest
        if abs(latest - self._counted) < self._room:  # abs: much lower ones are another CA's
            return None
        held = sum(entry.ours for entry in self._store.entries())
        pruned = None
        if held > self._most:
            pruned = prune(self._store, now, keep=self._most - self._most // _SLACK)
            held = pruned.kept
        self._counted, self._room = latest, max(1, self._most - held + 1)
        return pruned
