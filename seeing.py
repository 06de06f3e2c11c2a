"""Builds the ``Sight`` from the operator's options: opens the files and loads the taps.

Raises ``UsageError`` for what can't be opened or loaded.
"""

import errno
import io
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeVar

from accesslog import AccessLog
from board import Board
from errors import UsageError
from har import HarFile
from harqueue import HarQueue
from keylog import KeyLog
from linefile import LineFile
from options import SIGN, Options, SightOptions
from pcap import PcapFile
from policy import Policy
from recorder import Capture, Observer
from sight import Sight
from taps import Tap, Taps
from workers import Workers

T = TypeVar("T")


class Seeing:
    """The ``Sight`` of a proxy, and the files behind it."""

    def __init__(
        self,
        chosen: SightOptions,
        policy: Policy,
        workers: Workers,
        version: str,
        worker: int | None,
        board: Board,
        keylog: KeyLog | None,
    ) -> None:
        lost = board.lost
        log_file = partial(LineFile, lost=partial(lost, "log"))
        lines = log_file(None) if chosen.log_file is None else _opened("--log-file", chosen.log_file, log_file)
        self.access_log = AccessLog(lines, chosen.log_format)
        observers: list[Observer] = [self.access_log] if chosen.log_requests else []
        if chosen.taps and isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(line_buffering=True)  # what taps print appears at once, even if the worker dies
        self._taps = Taps([Tap(path, board.tap_failed) for path in chosen.taps])
        body_max = self._taps.body_max
        self._har = None
        if chosen.har is not None:
            har = _opened(
                "--har", _own(chosen.har, worker), lambda p: HarFile(p, version, chosen.har_body_max, chosen.har_max)
            )
            self._har = HarQueue(har, workers, partial(lost, "har"))
            observers.append(self._har)
            body_max = max(body_max, chosen.har_body_max)
        self._pcap = None
        if chosen.pcap is not None:  # last, as it rotates earlier files
            try:
                self._pcap = _opened(
                    "--pcap", _own(chosen.pcap, worker), lambda p: PcapFile(p, version, partial(lost, "pcap"))
                )
            except UsageError:
                self.close()  # or the copy of the HAR file would stay behind
                raise
        self._keylog = keylog
        capture = Capture(body_max) if body_max else None
        self.sight = Sight(policy, observers, self._taps, capture, self._pcap, board)

    def reopen(self) -> None:
        """Reopen the files, as they may have been renamed. A HAR file notices that by itself."""
        self.access_log.reopen()
        if self._pcap is not None:
            self._pcap.reopen()
        if self._keylog is not None:
            self._keylog.reopen()

    def close(self) -> None:
        """Write what the taps' files and the HAR file still buffer."""
        self._taps.close()
        if self._har is not None:
            self._har.close()


def check_apart(chosen: Options) -> None:
    """Raise ``UsageError`` if a file to be written is named by another option too, and would be overwritten."""
    sight = chosen.sight
    written = {"--log-file": sight.log_file, "--har": sight.har, "--pcap": sight.pcap, "--keylog": sight.keylog}
    uses: dict[str, str] = {}
    for option, path in (*written.items(), *_others(chosen)):
        if path is None:
            continue
        try:
            where = os.path.realpath(path)
        except OSError as error:
            raise UsageError(f"{option}: there is no {path}, as the working directory was removed") from error
        if where in uses:
            raise UsageError(f"{uses[where]} and {option} can't both be {path}: it would be overwritten")
        if option in written and (os.path.isfile(where) or not os.path.exists(where)):  # /dev/null may be shared
            uses[where] = option


def _others(chosen: Options) -> Iterator[tuple[str, Path | str | None]]:
    """Other options, and the files that they name."""
    rules, ca = chosen.rules, chosen.leaves.ca
    yield from zip(SIGN if ca.folder is None else ("--ca",) * len(SIGN), ca.files or (), strict=False)
    yield from (("--tap", path) for path in chosen.sight.taps)
    yield from (("--auth", rules.auth), ("--upstream-ca", chosen.upstream_ca))
    for option, texts in (("--allow", rules.allow), ("--deny", rules.deny), ("--bypass", rules.bypass)):
        yield from ((option, text[1:]) for text in texts if text.startswith("@"))


def key_log(chosen: SightOptions, board: Board) -> KeyLog | None:
    """The log of TLS keys, if the operator wants one."""
    if chosen.keylog is None:
        return None
    return _opened("--keylog", chosen.keylog, partial(KeyLog, lost=partial(board.lost, "keylog")))


def _own(path: Path, worker: int | None) -> Path:
    """The path of a file that only one process may write: each worker has its own."""
    return path if worker is None else path.with_name(f"{path.stem}-w{worker}{path.suffix}")


def _opened(option: str, path: Path, make: Callable[[Path], T]) -> T:
    try:
        return make(path)
    except BlockingIOError as error:  # its lock is held
        raise UsageError(f"{option}={path}: another certifier, which may still be stopping, writes it") from error
    except OSError as error:
        unread = error.errno == errno.ENXIO and path.is_fifo()
        why = "nothing reads that FIFO yet: start its reader first" if unread else error.strerror
        raise UsageError(f"{option}={path}: can't write it: {why}") from error
    except ValueError as error:  # such as "." and "/", which have no name
        raise UsageError(f"{option}={path}: not the name of a file") from error
