"""``KeyLog``: writes the keys of TLS connections to a file, for which no connection waits or fails.

Python's ssl accepts only a file name, blocks in writes to that file, and with it the hub, and ends the connection if a
write fails. So it gets a file of ours in memory, which is read after each step of a handshake and after each read, and
emptied unless it is small and a step is under way on a thread. From there lines go to a ``LineFile``, which neither
blocks nor fails. A pipe would not do: each key update of a peer adds a line, thousands in one read, and nothing else
could drain the pipe meanwhile.
"""

import fcntl
import os
import ssl
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gevent.monkey import get_original

from linefile import LineFile

_FIRST = b"\n"  # stays: Python writes a heading into an empty file
# In the label of keys after a key update. They derive from the first ones, so no reader of such files needs them
# (RFC 9850 §2.2 has none), and an update of 27 octets adds a line of 180: too cheap a way for a peer to fill a disk.
_CHANGED = b"_TRAFFIC_SECRET_N "
# Octets in memory above which a line of a thread's may be lost. An origin's long flights can keep threads busy without
# a pause, while another peer changes keys: then the file would never be emptied.
_MOST = 1 << 24

_thread = get_original("_thread", "get_ident")
_new_lock = get_original("_thread", "allocate_lock")  # for pool threads, where gevent's must not be used


class KeyLog:
    """A file (created with mode 0600) to which keys are appended, in the format of RFC 9850. For one process and hub.

    The constructor raises ``OSError``. Later, lines are lost, with one warning, while the file can't be written or
    nobody reads the pipe; ``lost`` is called with the number of each loss.
    """

    def __init__(self, path: Path, lost: Callable[[int], object] | None = None) -> None:
        self._lines = LineFile(path, lost)
        self._passing, self._name = _in_memory()
        os.write(self._passing, _FIRST)
        self._at = len(_FIRST)  # octets read so far
        self._lock = _new_lock()  # held for microseconds
        self._apart = 0  # steps under way on threads
        begin, end, pass_on, hub = self._begin_apart, self._end_apart, self._pass_on, _thread()

        class Followed(ssl.SSLObject):
            def do_handshake(self) -> None:
                apart = _thread() != hub
                if apart:
                    begin()
                try:
                    super().do_handshake()
                finally:
                    if apart:
                        end()  # what it logged is passed on by the next step or read on the hub
                    else:
                        pass_on()

            def read(self, *arguments: Any, **keywords: Any) -> bytes:
                try:
                    return super().read(*arguments, **keywords)
                finally:
                    pass_on()

        self._followed = Followed

    def follow(self, context: ssl.SSLContext) -> None:
        """Log the keys of the context's ``wrap_bio`` connections. Takes a file descriptor; raises ``OSError``."""
        context.sslobject_class = self._followed
        context.keylog_filename = self._name

    def reopen(self) -> None:
        """Continue in a new file, after the present one was renamed."""
        self._lines.reopen()

    def _begin_apart(self) -> None:
        with self._lock:
            self._apart += 1

    def _end_apart(self) -> None:
        with self._lock:
            self._apart -= 1

    def _pass_on(self) -> None:
        with self._lock:  # no step begins on a thread meanwhile, whose lines could be cut off unread
            octets = os.lseek(self._passing, 0, os.SEEK_END) - self._at
            if not octets:
                return
            text = os.pread(self._passing, octets, self._at)
            whole = text[: text.rfind(b"\n") + 1]  # a thread may be writing a line
            self._at += len(whole)
            if not self._apart or self._at > _MOST:
                os.ftruncate(self._passing, len(_FIRST))
                self._at = len(_FIRST)
        for line in whole.splitlines():
            if _CHANGED not in line:
                self._lines.write(line.decode("ascii"))


def _in_memory() -> tuple[int, str]:
    """A file descriptor, and a name by which its file can be opened again."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("keys", os.MFD_CLOEXEC)
        return fd, f"/proc/self/fd/{fd}"
    with tempfile.TemporaryFile() as file:  # macOS
        fd = os.dup(file.fileno())
    fcntl.fcntl(fd, fcntl.F_SETFL, os.O_APPEND)  # a file opened by its /dev/fd name shares the offset
    return fd, f"/dev/fd/{fd}"
