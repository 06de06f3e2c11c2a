"""What a process and all its descendants used: CPU in nanoseconds where the kernel tells them, and resident memory."""

import os
import time
from contextlib import suppress

_TICKS = os.sysconf("SC_CLK_TCK")
_KIB = 1024


def tree(root: int) -> list[int]:
    """The process and its living descendants."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with suppress(OSError):  # it ended meanwhile
                children.setdefault(int(_stat(int(entry))[1]), []).append(int(entry))
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found


def cpu_seconds(root: int) -> dict[int, float]:
    """User and system time of each process of the tree, with that of its children that have ended."""
    used = {}
    for pid in tree(root):
        with suppress(OSError):
            ended = sum(map(int, _stat(pid)[13:15])) / _TICKS  # cutime, cstime
            # The clock of another process, as clock_getcpuclockid(3) makes it: nanoseconds, ended threads included.
            used[pid] = time.clock_gettime((~pid << 3) | 2) + ended
    return used


def rss_kib(root: int) -> int:
    """Resident memory of the tree; what processes share is counted in each."""
    total = 0
    for pid in tree(root):
        with suppress(OSError), open(f"/proc/{pid}/statm", encoding="ascii") as file:
            total += int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return total // _KIB


def _stat(pid: int) -> list[str]:
    """The fields of /proc/<pid>/stat behind the name, which may hold anything: state, ppid, ... (proc(5))."""
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
        return file.read().rpartition(")")[2].split()
