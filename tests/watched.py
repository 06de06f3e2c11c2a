"""certifier as its users start it, and on SIGUSR2 one more line on stderr with what can't be seen in /proc.

How many greenlets do something, how many blocks Python's allocator has given out, and how many octets malloc (which is
what OpenSSL has). Memory that is not used any more is given back first.
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
    """Whether it is one of the staff that waits for a connection: those are kept."""
    frame = found.gr_frame  # the innermost one
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
