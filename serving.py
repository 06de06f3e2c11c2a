"""Serving: accept connections until a signal comes, then let tunnels finish."""

import gc
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

import gevent
from gevent.event import Event
from gevent.monkey import get_original

import listening
from acceptor import Acceptor
from limits import Limits
from process import HANDLED
from program import Program
from staff import Staff

DRAIN_SECONDS = 10.0  # how long tunnels may go on after SIGTERM or SIGINT
_LAST_SECONDS = 3.0  # for threads that a tap has started
_TOGETHER = 0.5  # seconds in which a SIGINT and the supervisor's SIGTERM are one Ctrl-C; a later SIGINT is a second
# How long a pool thread may keep the GIL while the hub, and with it all connections, waits. Python's default: 5 ms.
_SWITCH_SECONDS = 0.0001
_COLLECT = 20_000, 20, 20  # thresholds of the garbage collector: connections leave few cycles
_ONLY_TOLD = 200  # connections beyond the limit, accepted only to be refused or for our own pages

log = logging.getLogger("certifier")


def serve(
    program: Program, listeners: list[socket.socket], limits: Limits, ready: Callable[[], None], stop: Event
) -> None:
    """Serve until ``stop`` is set or SIGTERM or SIGINT comes. ``ready`` is called when connections are accepted."""
    sys.setswitchinterval(_SWITCH_SECONDS)
    program.policy.listeners += [listener.getsockname()[:2] for listener in listeners]
    staff = Staff(limits.connections + _ONLY_TOLD)
    servers = [Acceptor(listener, program.proxy.handle, staff) for listener in listeners]
    gevent.signal_handler(signal.SIGHUP, gevent.spawn, program.reload)
    gevent.signal_handler(signal.SIGUSR1, gevent.spawn, program.seeing.reopen)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)
    interrupted, again = Event(), Event()

    def interrupt() -> None:
        (again if interrupted.is_set() else interrupted).set()
        stop.set()

    def cut_off() -> None:
        """Cut off all connections at a second Ctrl-C: the user does not want to wait.

        A second SIGTERM does not mean that: systemd sends one to each process, and the supervisor one to each worker.
        """
        again.wait()
        staff.kill(timeout=1)

    gevent.signal_handler(signal.SIGTERM, stop.set)
    gevent.signal_handler(signal.SIGINT, interrupt)
    if os.getpid() == 1:  # as PID 1 of a container we inherit orphans: gevent then reaps all children
        gevent.get_hub().loop.install_sigchld()
    gevent.spawn(program.keep_house)
    program.meet_peers()
    gc.collect()
    gc.freeze()  # what exists now is permanent: no collection need look at it again
    gc.set_threshold(*_COLLECT)
    for server in servers:
        server.start()
    ready()
    stop.wait()
    for server in servers:
        server.take_queued(listening.BACKLOG)
    listening.rest(listeners)  # not just closed: if this worker alone was told to end, the supervisor holds them, too
    for server in servers:
        server.close()
    program.stop_pages()
    program.proxy.let_go()
    if len(staff):
        left = "1 connection has" if len(staff) == 1 else f"{len(staff)} connections have"
        log.info("stopping: %s %.0f s to finish", left, DRAIN_SECONDS)
    gevent.spawn(cut_off)
    gevent.spawn_later(_TOGETHER, interrupted.set)
    staff.join(timeout=DRAIN_SECONDS)
    staff.kill(timeout=1)
    program.close()


def leave(status: int) -> NoReturn:
    """Exit. Threads that a tap has started have some seconds for what they are at: Python would wait without end."""
    threads = [
        thread for thread in threading.enumerate() if thread is not threading.main_thread() and not thread.daemon
    ]
    if threads:
        names = ", ".join(thread.name for thread in threads)
        log.warning("waiting %.0f s at most for threads that are not daemons: %s", _LAST_SECONDS, names)
        with suppress(RuntimeError):  # no more threads to be had
            get_original("_thread", "start_new_thread")(_exit_later, (status,))
    sys.exit(status)


def _exit_later(status: int) -> None:
    get_original("time", "sleep")(_LAST_SECONDS)
    os._exit(status)
