"""certifier as its users start it; on SIGUSR2 it prints what can't be seen in /proc as a line on stderr.

The number of busy greenlets, of blocks allocated by Python's allocator, and of octets allocated by malloc (which
OpenSSL uses). Unused memory is released first.
"""

# ruff: noqa: E402
from gevent import monkey

monkey.patch_all()

import ctypes
import gc
import signal
import sys
from pathlib import Path

import gevent
from greenlet import greenlet

sys.path.insert(0, str(Path(__file__).parent.parent))

import certifier
from staff import Staff

_FIELDS = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"


class Mallinfo(ctypes.Structure):
    """mallinfo(3)"""

    _fields_ = [(name, ctypes.c_size_t) for name in _FIELDS.split()]


def waits(found: greenlet) -> bool:
    """Whether it is one of the ``Staff`` that waits for a connection: these are kept."""
    frame = found.gr_frame  # the innermost frame
    return frame is not None and frame.f_code is Staff._serve.__code__


def tell() -> None:
    gc.collect()
    libc = ctypes.CDLL(None)
    libc.malloc_trim(0)
    libc.mallinfo2.restype = Mallinfo
    info = libc.mallinfo2()
    busy = sum(isinstance(thing, greenlet) and bool(thing) and not waits(thing) for thing in gc.get_objects())
    held = f"greenlets {busy} blocks {sys.getallocatedblocks()} malloc {info.uordblks + info.hblkhd}"
    print(held, file=sys.stderr, flush=True)


if __name__ == "__main__":
    gevent.signal_handler(signal.SIGUSR2, tell)
    sys.exit(certifier.main(sys.argv[1:]))
