import subprocess
import sys

import pytest
from lab import HERE, WAIT

import tallies
from tallies import Tallies


def test_the_latest_one_is_kept_for_each() -> None:
    kept = Tallies(3)
    assert kept.last(1) is None
    for number in range(5):
        kept.keep(1, b"one %d" % number * (5 - number))
        kept.keep(2, b"two")
    assert [kept.last(number) for number in range(3)] == [None, b"one 4", b"two"]
    kept.keep(1, b"")
    assert kept.last(1) == b""


def test_a_torn_one_leaves_the_one_before_it() -> None:
    kept = Tallies(1)
    for tally in (b"first", b"second", b"third"):
        kept.keep(0, tally)
    at = kept._memory.find(b"third")
    kept._memory[at : at + 2] = b"xx"
    assert kept.last(0) == b"second"
    kept.keep(0, b"fourth")
    assert kept.last(0) == b"fourth"


def test_one_that_is_too_long_is_a_bug() -> None:
    kept = Tallies(2)
    longest = bytes(tallies._HALF - tallies._HEAD.size)
    kept.keep(0, b"good")
    kept.keep(0, longest)
    with pytest.raises(ValueError, match=f"a tally of {len(longest) + 1} octets"):
        kept.keep(0, longest + b"x")
    assert (kept.last(0), kept.last(1)) == (longest, None)


KILLED = """
import os, signal
from tallies import Tallies
kept = Tallies(1)
def latest():
    tally = kept.last(0) or b"0"
    number = tally[:len(tally) // 7000 or 1]
    assert tally == number * 7000 or tally == b"0"
    return int(number)
for turn in range(50):
    before = latest()
    told, tells = os.pipe()
    child = os.fork()
    if child == 0:
        number = latest()
        while True:
            number += 1
            kept.keep(0, b"%d" % number * 7000)
            if number % 8 == 0:
                os.write(tells, b".")
    os.read(told, 1)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert latest() > before
    os.close(told), os.close(tells)
"""


def test_a_writer_that_is_killed_leaves_a_whole_one() -> None:
    done = subprocess.run([sys.executable, "-c", KILLED], cwd=HERE, capture_output=True, text=True, timeout=WAIT)
    assert (done.returncode, done.stderr) == (0, "")
