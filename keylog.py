"""``KeyLog``: the keys of TLS connections on their way to a file, at no connection's price.

OpenSSL takes the name of a file and nothing else, waits in a write to it, in which everyone would wait, and ends the
connection where one fails. So it is given a file in memory, of ours, which is emptied after each step of a handshake
and after each read. From there lines go to a ``LineFile``, which neither waits nor fails. A pipe would not do: as often
as a peer changes its keys there is a line, thousands in one read, and nobody else could empty the pipe meanwhile.
"""

import fcntl
import os
import ssl
import tempfile
from pathlib import Path
from typing import Any

from linefile import LineFile

_FIRST = b"\n"  # stays: Python writes a heading into a file that is empty
# In the label of keys that a peer changed to. They follow from its first ones, so that no reader of such files wants
# them (RFC 9850 §2.2 has none), and a change is 27 octets to a line's 180: too good a way to fill a disk.
_CHANGED = b"_TRAFFIC_SECRET_N "


class KeyLog:
    """A file (0600 if it is made) to which keys are appended, in the format of RFC 9850. For one process, and its hub.

    The constructor raises ``OSError``; later on a file that can't be written, or a pipe that nobody reads, loses lines,
    with one warning.
    """

    def __init__(self, path: Path) -> None:
        self._lines = LineFile(path)
        self._passing, self._name = _in_memory()
        os.write(self._passing, _FIRST)
        pass_on = self._pass_on

        class Followed(ssl.SSLObject):
            def do_handshake(self) -> None:
                try:
                    super().do_handshake()
                finally:
                    pass_on()

            def read(self, *arguments: Any, **keywords: Any) -> bytes:
                try:
                    return super().read(*arguments, **keywords)
                finally:
                    pass_on()

        self._followed = Followed

    def follow(self, context: ssl.SSLContext) -> None:
        """Log the keys of connections that the context's ``wrap_bio`` will make. Costs a descriptor; ``OSError``."""
        context.sslobject_class = self._followed
        context.keylog_filename = self._name

    def reopen(self) -> None:
        """Go on in a new file, the present one being renamed."""
        self._lines.reopen()

    def _pass_on(self) -> None:
        octets = os.lseek(self._passing, 0, os.SEEK_END) - len(_FIRST)
        if octets:
            lines = os.pread(self._passing, octets, len(_FIRST)).splitlines()
            os.ftruncate(self._passing, len(_FIRST))
            for line in lines:
                if _CHANGED not in line:
                    self._lines.write(line.decode("ascii"))


def _in_memory() -> tuple[int, str]:
    """A descriptor, and the name by which the file behind it can be opened once more."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("keys", os.MFD_CLOEXEC)
        return fd, f"/proc/self/fd/{fd}"
    with tempfile.TemporaryFile() as file:  # macOS
        fd = os.dup(file.fileno())
    fcntl.fcntl(fd, fcntl.F_SETFL, os.O_APPEND)  # what is opened by its name there shares the place of the next write
    return fd, f"/dev/fd/{fd}"
