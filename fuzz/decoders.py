"""The passive HTTP decoders: they report the same exchanges however the octets are segmented, and end each one once.

An input is a conversation in segments, each preceded by an octet: its high bit says who speaks (set: the origin), the
other bits how many octets follow.
"""

import json

from registry import target

import bodies
import requestlog
from exchange import Connection, Exchange
from harentry import entry
from http1 import Http1
from http2 import PREFACE, Http2
from recorder import Capture, Malformed, Observer, Recorder

Segments = list[tuple[bool, bytes]]

_BODY, _BODIES = 1000, 5000  # limits of captured octets, per body and for all together


class _Keeper(Observer):
    """Collects the exchanges that have ended."""

    def __init__(self) -> None:
        self.done: list[Exchange] = []
        self._open: set[int] = set()
        self.notes: list[str] = []

    def request(self, exchange: Exchange) -> None:
        assert exchange.id not in self._open
        self._open.add(exchange.id)

    def ended(self, exchange: Exchange) -> None:
        self._open.remove(exchange.id)
        self.done.append(exchange)

    def noted(self, connection: Connection, what: str, malformed: Malformed | None) -> None:  # noqa: ARG002
        self.notes.append(what)

    def check(self) -> None:
        assert not self._open
        assert len(self.notes) <= 1


@target()
def http1(data: bytes) -> None:
    _decode(Http1, _segments(data))


@target()
def http2(data: bytes) -> None:
    _decode(Http2, [(False, PREFACE), *_segments(data)])


def _decode(kind: type[Http1 | Http2], segments: Segments) -> None:
    found, notes = _run(kind, segments)
    single = [(origin, data[at : at + 1]) for origin, data in segments for at in range(len(data))]
    for other in (single, _joined(segments)):
        others, other_notes = _run(kind, other)
        assert ([_facts(exchange) for exchange in others], other_notes) == ([_facts(e) for e in found], notes)
    for exchange in found:
        json.dumps(entry(exchange, _BODY // 2))
        for line in (requestlog.text(exchange), requestlog.as_json(exchange), requestlog.combined(exchange)):
            assert line.isprintable()
        bodies.text(exchange.response_content, exchange.content_type)


def _run(kind: type[Http1 | Http2], segments: Segments) -> tuple[list[Exchange], list[str]]:
    keeper = _Keeper()
    observer: Observer = keeper
    connection = Connection("192.0.2.1:1", "192.0.2.2:443", "https", "a.example")
    decoder = kind(Recorder(connection, observer, Capture(_BODY, _BODIES)))
    for origin, data in segments:
        (decoder.received if origin else decoder.sent)(data)
    decoder.closed()
    keeper.check()
    return keeper.done, keeper.notes


def _segments(data: bytes) -> Segments:
    found, at = [], 0
    while at < len(data):
        size = data[at] & 0x7F
        found.append((data[at] > 0x7F, data[at + 1 : at + 1 + size]))
        at += 1 + size
    return found


def _joined(segments: Segments) -> Segments:
    """Merge successive segments from the same side."""
    found: Segments = []
    for origin, data in segments:
        if found and found[-1][0] is origin:
            found[-1] = origin, found[-1][1] + data
        else:
            found.append((origin, data))
    return found


def _facts(exchange: Exchange) -> tuple[object, ...]:
    return (
        exchange.method, exchange.url, exchange.request_fields, exchange.status, exchange.response_fields,
        exchange.trailers, exchange.request_octets, exchange.response_octets, exchange.request_body,
        exchange.response_body, exchange.upgrade, exchange.error,
    )  # fmt: skip
