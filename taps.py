"""``Taps``: users' own Python files that see the traffic, and may act on it. README, Taps, explains how to write one.

A file defines any of the following; what it does not define costs nothing:

``opened(tunnel)``, ``closed(tunnel)``    a ``Passage``, at its beginning and its end
``data(tunnel, direction, octets)``       plaintext as it passes; ``"sent"`` by the client or ``"received"`` by it
``request(exchange)``                     an ``Exchange`` whose request head is known
``response(exchange)``                    the same when it has ended, its bodies up to ``BODY_MAX`` octets kept
``REWRITE = True``                        ``request`` may change ``method``, ``target`` and ``request_fields`` before
                                          they go on, or return an ``Answer``. Then clients get HTTP/1.1 only.
``FAIL_CLOSED = True``                    what such a ``request`` fails on is refused, and that function stays

Taps run in the tunnel's own greenlets: waiting (for another server, a subprocess, ``time.sleep``) holds up this tunnel
alone; computing holds up all of them, and so does blocking file I/O, in which gevent can't switch greenlets.
A tap that raises is logged with its traceback and, unless it is ``FAIL_CLOSED``, removed; the traffic goes on as if
that call had changed nothing.
"""

import gc
import inspect
import io
import logging
import os
import runpy
import stat
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import gevent

import reading
from answer import Answer as Answer  # users' files import it from here
from errors import Refused, UsageError
from exchange import Exchange, Fields
from recorder import Observer

HOOKS = ("opened", "data", "request", "response", "closed")
BODY_MAX = 1_048_576  # octets of each body that are kept for response(), unless the file says otherwise
_FAILED = "a tap failed on this request"
_FAILURE = object()  # what a hook that failed returns

# Calling one of these only returns an object for something else to run: a tap that should refuse would refuse nothing.
_NEVER_RUN = (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction)

log = logging.getLogger("certifier.taps")


def _uncounted(_: str) -> None:
    """Count nothing."""


@dataclass(slots=True)
class Passage:
    """A tunnel, as a tap sees it."""

    id: int  # also that of its exchanges' ``connection``
    client: str  # address:port
    origin: str  # address:port, as dialled
    target: str  # host:port, as asked for
    name: str  # what the certificate was made for
    user: str | None
    alpn: str | None
    outcome: str | None = None  # set when it has ended
    notes: dict[Any, Any] = field(default_factory=dict)  # for the taps' own use


class Tap:
    """One user's file. ``failed`` is called with the name of a hook that fails. Raises ``UsageError`` if it can't be
    loaded.
    """

    def __init__(self, path: Path, failed: Callable[[str], object] = _uncounted) -> None:
        try:
            reading.content(path, 0)  # whether it can be read; a FIFO or a device may have no end
        except OSError as error:
            raise UsageError(f"--tap={path}: can't read it: {error.strerror}") from error
        beside = str(path.resolve().parent)  # modules there can be imported, unless ours have the same name
        if beside not in sys.path:
            sys.path.append(beside)
        name = f"tap {path.stem}"  # which no file beside it can be imported as
        try:
            names = runpy.run_path(str(path), run_name=name)
            self.body_max = int(names.get("BODY_MAX", BODY_MAX))
        except BaseException as error:
            log.exception("%s can't be loaded", path)
            raise UsageError(f"--tap={path}: {type(error).__name__}: {error}") from error
        module = sys.modules[name] = ModuleType(name)  # pickle looks for the tap's classes there
        module.__dict__.update(names)
        self.path = path
        self._count_failure = failed
        self.rewrites = bool(names.get("REWRITE", False))
        self._hooks: dict[str, Callable[..., object]] = {h: names[h] for h in HOOKS if callable(names.get(h))}
        self._fail_closed = bool(names.get("FAIL_CLOSED", False))
        if not self._hooks:
            raise UsageError(f"--tap={path}: it defines none of {', '.join(HOOKS)}")
        if self._fail_closed and not (self.rewrites and self.wants("request")):
            raise UsageError(f"--tap={path}: FAIL_CLOSED needs REWRITE = True and request(): nothing else can refuse")
        for hook, function in self._hooks.items():
            if any(never(function) for never in _NEVER_RUN):
                raise UsageError(
                    f"--tap={path}: {hook}() is async or yields, so it would never run; make it a plain function"
                )

    def wants(self, *hooks: str) -> bool:
        """Whether it has one of these hooks."""
        return any(hook in self._hooks for hook in hooks)

    def call(self, hook: str, *arguments: object) -> object:
        """What the hook returns; None if there is no such hook, ``_FAILURE`` if it fails: logged, it removes the tap.

        If the tap fails closed, only another hook than ``request`` is removed, and a request that it fails on raises
        ``Refused``.
        """
        function = self._hooks.get(hook)
        if function is None:
            return None
        try:
            return function(*arguments)
        except gevent.GreenletExit:  # not a failure: the tunnel is being ended
            raise
        except BaseException as error:
            # Not all of these are Exceptions: SystemExit and KeyboardInterrupt, which would end the proxy (no signal
            # raises them here), a panic in Rust (PyO3), a Timeout, which is the tap's own: none is started around it.
            self._count_failure(hook)
            if not self._fail_closed:
                log.exception("%s() of %s failed; the tap is taken out", hook, self.path)
                self._hooks.clear()
            elif hook != "request":
                log.exception("%s() of %s failed; it is called no more", hook, self.path)
                self._hooks.pop(hook, None)  # another tunnel's call may have failed meanwhile
            else:
                log.exception("request() of %s failed", self.path)
                raise Refused(_FAILED) from error
            return _FAILURE

    def look(self, exchange: Exchange) -> None:
        """Show its ``request`` the request. What that changes would not go on, so others are not told of it either."""
        asked = _asked(exchange)
        if isinstance(self.call("request", exchange), Answer):
            log.warning("request() of %s returned an Answer, which counts only with REWRITE = True", self.path)
        if (exchange.authority, exchange.method, exchange.target, exchange.request_fields) != asked:
            _restore(exchange, asked)
            log.warning("request() of %s changed the request, which counts only with REWRITE = True", self.path)

    def decide(self, exchange: Exchange) -> Answer | None:
        """Let its ``request`` change the request or answer it. Raises ``Refused`` if it fails, and fails closed."""
        asked = _asked(exchange)
        answer: object = _FAILURE
        try:
            answer = self.call("request", exchange)
        finally:
            if answer is _FAILURE:  # or was refused: others are told of this exchange, too
                _restore(exchange, asked)
        if answer is _FAILURE:
            return None
        if exchange.authority != asked[0]:
            exchange.authority = asked[0]
            log.warning("request() of %s set exchange.authority, which changes no request: it has no effect", self.path)
        if answer is None or isinstance(answer, Answer):
            return answer
        kind = type(answer).__name__  # no more of it: it may hold the request, with passwords and cookies
        log.warning("request() of %s returned a value of type %s, which is not an Answer", self.path, kind)
        if self._fail_closed:
            self._count_failure("request")
            raise Refused(_FAILED)
        return None


class Taps(Observer):
    """All taps. As an ``Observer`` it passes exchanges on to them."""

    def __init__(self, taps: list[Tap]) -> None:
        self._taps = taps
        self.rewrites = any(tap.rewrites for tap in taps)
        self.body_max = max((tap.body_max for tap in taps if tap.wants("response")), default=0)

    def wants(self, *hooks: str) -> bool:
        """Whether one of them has one of these hooks."""
        return any(tap.wants(*hooks) for tap in self._taps)

    def opened(self, passage: Passage) -> None:
        """A tunnel begins."""
        self._tell("opened", passage)

    def data(self, passage: Passage, direction: str, octets: bytes) -> None:
        """Plaintext passes."""
        self._tell("data", passage, direction, octets)

    def closed(self, passage: Passage) -> None:
        """A tunnel has ended."""
        self._tell("closed", passage)

    def request(self, exchange: Exchange) -> None:
        """Call the taps that only observe; ``decide`` calls those that act."""
        for tap in self._taps:
            if not tap.rewrites and tap.wants("request"):
                tap.look(exchange)

    def ended(self, exchange: Exchange) -> None:
        """An exchange has ended."""
        self._tell("response", exchange)

    def close(self) -> None:
        """Flush the taps' open files, which Python does not do for objects still alive when the process ends."""
        if not self._taps:
            return
        gc.unfreeze()  # objects frozen when serving began, too
        for file in gc.get_objects():  # wherever and whenever a tap opened them
            # Its type, not its class: asked for that, a weak proxy whose referent is gone raises, and a lazy one acts.
            if issubclass(type(file), io.TextIOWrapper | io.BufferedWriter | io.BufferedRandom):
                with suppress(OSError, ValueError):  # a full disk, or a closed file
                    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):  # a pipe could block
                        file.flush()

    def decide(self, exchange: Exchange) -> Answer | None:
        """Let the taps that act change the exchange's request head, or answer it; the first answer counts."""
        for tap in self._taps:
            if tap.rewrites:
                answer = tap.decide(exchange)
                if answer is not None:
                    return answer
        return None

    def _tell(self, hook: str, *arguments: object) -> None:
        for tap in self._taps:
            tap.call(hook, *arguments)


def _asked(exchange: Exchange) -> tuple[str, str, str, Fields]:
    """The request as it is now. A tap may have set its fields to whatever: ``judge`` looks at them in the end."""
    fields = exchange.request_fields
    return exchange.authority, exchange.method, exchange.target, fields[:] if isinstance(fields, list) else fields


def _restore(exchange: Exchange, asked: tuple[str, str, str, Fields]) -> None:
    exchange.authority, exchange.method, exchange.target, exchange.request_fields = asked
