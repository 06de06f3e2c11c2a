"""``Peers``: the workers of one proxy, as one of them sees them. Whichever is asked answers for all.

Each worker goes on counting where its predecessor in the same place stopped, so that what a dead one counted is not
lost, and no sum ever falls. For that, each saves its totals where they outlive it (``Tallies``): before it reports them
to anybody, and a second after it counted something. So a kill loses what was counted in the last second, and the octets
that open tunnels relayed after a second without any, if nothing else was counted since.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass

import gevent
from gevent.event import Event

from channels import Channels
from snapshot import Cursor, Kept, Snapshot, kept_of, merge, written
from tallies import Tallies

# A worker that does not answer by then, stopped or too busy, counts with its saved totals, without its gauges.
ANSWER_SECONDS = 1.0
KEEP_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Post:
    """A worker's place among the workers; each successor in it continues the counts."""

    number: int
    channels: Channels
    tallies: Tallies

    @property
    def kept(self) -> Kept | None:
        """What the last worker in this place had saved; None if there was none."""
        return _kept(self.tallies, self.number)

    @property
    def is_first(self) -> bool:
        """Whether the worker that starts here is the first of all to accept connections: they start in turn."""
        return self.number == 0 and self.kept is None


def posts(count: int) -> list[Post]:
    """The places of ``count`` workers, to be made before they are forked."""
    channels, tallies = Channels(count), Tallies(count)
    return [Post(number, channels, tallies) for number in range(count)]


class Peers:
    """``own`` is ``Overview.snapshot`` of this worker; ``stirred`` is set whenever it counts something."""

    def __init__(self, post: Post, own: Callable[[Cursor | None], Snapshot], stirred: Event) -> None:
        self._post = post
        self._own = own
        self._stirred = stirred

    def start(self) -> None:
        """Answer the others from now on."""
        self.keep()
        gevent.spawn(self._keep_on)
        gevent.spawn(self._post.channels.serve, self._post.number, self._answer)

    def keep(self) -> None:
        """Save what was counted."""
        self._told(None)

    def snapshot(self, since: Cursor | None) -> Snapshot:
        """A snapshot of all workers, as ``Overview.snapshot`` of one. Waits for them for up to ``ANSWER_SECONDS``."""
        deadline = time.monotonic() + ANSWER_SECONDS
        others = [number for number in range(len(self._post.channels)) if number != self._post.number]
        asked = [gevent.spawn(self._ask, number, since, deadline) for number in others]
        gevent.joinall(asked)
        answers = [greenlet.get() for greenlet in asked]
        silent = [_kept(self._post.tallies, n) for n, answer in zip(others, answers, strict=True) if answer is None]
        return merge(
            [self._told(since), *(answer for answer in answers if answer is not None)],
            [kept for kept in silent if kept is not None],
        )

    def _ask(self, number: int, since: Cursor | None, deadline: float) -> Snapshot | None:
        question = b"" if since is None else str(since).encode()
        try:
            answer: Snapshot = json.loads(self._post.channels.ask(number, question, deadline) or b"")
        except ValueError:
            return None
        return answer

    def _answer(self, question: bytes) -> bytes:
        return written(self._told(Cursor.parse(question.decode()) if question else None))

    def _told(self, since: Cursor | None) -> Snapshot:
        """A snapshot of this worker to be reported, its totals saved: once reported, they must not be lost."""
        snapshot = self._own(since)
        self._post.tallies.keep(self._post.number, json.dumps(kept_of(snapshot)).encode())
        return snapshot

    def _keep_on(self) -> None:
        octets = None
        while True:
            self._stirred.wait()
            gevent.sleep(KEEP_SECONDS)
            self._stirred.clear()
            before, octets = octets, self._told(None)["counts"]["octets"]
            if octets != before:  # octets alone don't set ``stirred``
                self._stirred.set()


def _kept(tallies: Tallies, number: int) -> Kept | None:
    tally = tallies.last(number)
    if tally is None:
        return None
    kept: Kept = json.loads(tally)
    return kept
