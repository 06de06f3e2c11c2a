"""An observer that records what it sees, and functions that feed a conversation to a decoder."""

from collections.abc import Callable, Iterable
from typing import Protocol

from exchange import Connection, Exchange
from recorder import Capture, Malformed, Observer, Recorder

CLIENT, ORIGIN = 0, 1

Conversation = list[tuple[int, bytes]]  # who sends what


class Seen(Observer):
    """Records everything reported to it."""

    def __init__(self) -> None:
        self.begun: list[Exchange] = []
        self.done: list[Exchange] = []
        self.notes: list[str] = []

    def request(self, exchange: Exchange) -> None:
        assert exchange.status is None
        self.begun.append(exchange)

    def ended(self, exchange: Exchange) -> None:
        assert exchange in self.begun
        assert exchange not in self.done
        self.done.append(exchange)

    def noted(self, connection: Connection, what: str, malformed: Malformed | None) -> None:
        self.notes.append(what)

    def recorder(self, limit: int | None = None) -> Recorder:
        capture = None if limit is None else Capture(limit)
        return Recorder(connection(), self, capture)


class Decoder(Protocol):
    watching: bool

    def sent(self, data: bytes) -> None: ...
    def received(self, data: bytes) -> None: ...
    def closed(self, error: str | None = None) -> None: ...


def connection() -> Connection:
    return Connection("127.0.0.1:50818", "192.0.2.1:443", "https", "fallback.example")


def play(decoder: Decoder, conversation: Iterable[tuple[int, bytes]], size: int = 1 << 20) -> None:
    """Feed the conversation to the decoder, in segments of at most ``size`` octets."""
    for who, data in conversation:
        say = decoder.sent if who == CLIENT else decoder.received
        for start in range(0, len(data), size):
            say(data[start : start + size])


def watched(
    decode: Callable[[Recorder], Decoder],
    conversation: Conversation,
    size: int = 1 << 20,
    limit: int | None = 100,
    error: str | None = None,
) -> Seen:
    """What a decoder reports for a whole conversation, with bodies captured up to ``limit`` octets."""
    seen = Seen()
    decoder = decode(seen.recorder(limit))
    play(decoder, conversation, size)
    decoder.closed(error)
    assert not decoder.watching
    assert len(seen.done) == len(seen.begun)
    assert len(seen.notes) <= 1
    return seen


def watched_in_pieces(
    decode: Callable[[Recorder], Decoder],
    conversation: Conversation,
    limit: int | None = 100,
    error: str | None = None,
) -> Seen:
    """The same; asserts that it does not depend on the segmentation."""
    seen = watched(decode, conversation, limit=limit, error=error)
    for size in (1, 2, 3, 9, 17):
        again = watched(decode, conversation, size, limit, error)
        assert summary(again) == summary(seen)
        assert again.notes == seen.notes
    return seen


def kept(body: bytearray | None) -> bytes | None:
    return None if body is None else bytes(body)


def facts(exchange: Exchange) -> tuple[object, ...]:
    """All that is known of an exchange, except its ID and the values of its times."""
    times = (exchange.first_byte, exchange.request_ended, exchange.ended)
    return (
        exchange.method, exchange.url, exchange.target, exchange.version, exchange.request_fields, exchange.status,
        exchange.reason, exchange.response_fields, exchange.trailers, exchange.request_octets, exchange.response_octets,
        exchange.request_body, exchange.response_body, exchange.upgrade, exchange.pushed, exchange.error,
        [moment is None for moment in times],
    )  # fmt: skip


def summary(seen: Seen) -> list[tuple[object, ...]]:
    return [facts(exchange) for exchange in seen.done]
