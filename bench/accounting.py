"""What a process and all its descendants use: CPU time, of living processes to the nanosecond, and resident memory."""

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
            with suppress(OSError):  # it has ended in the meantime
                children.setdefault(int(_stat(int(entry))[1]), []).append(int(entry))
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found


def cpu_seconds(root: int) -> dict[int, float]:
    """User and system time of each process in the tree, including that of its children that have been reaped."""
    used = {}
    for pid in tree(root):
        with suppress(OSError):
            ended = sum(map(int, _stat(pid)[13:15])) / _TICKS  # cutime, cstime
            # The ID that clock_getcpuclockid(3) returns for that process: nanoseconds, including ended threads.
            used[pid] = time.clock_gettime((~pid << 3) | 2) + ended
    return used


def rss_kib(root: int) -> int:
    """Resident memory of the tree; shared pages count once for each process."""
    total = 0
    for pid in tree(root):
        with suppress(OSError), open(f"/proc/{pid}/statm", encoding="ascii") as file:
            total += int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return total // _KIB


def _stat(pid: int) -> list[str]:
    """The fields of /proc/<pid>/stat after the name, which may contain anything: state, ppid, ... (proc(5))."""
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
        return file.read().rpartition(")")[2].split()
