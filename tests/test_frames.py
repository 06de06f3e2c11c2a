import pytest
from hyperframe.frame import ContinuationFrame, DataFrame, Frame, HeadersFrame, PingFrame, PushPromiseFrame

from exchange import Unreadable
from frames import DATA, HEADERS, MAX_BLOCK, MAX_FRAMES, MAX_PAYLOAD, PUSH_PROMISE, Frames

Found = list[tuple[int, int, bytes | None]]  # kind, stream, content or payload


def read(data: bytes, size: int = 1 << 20) -> Found:
    """The complete frames; the content is None for frames of no interest."""
    frames, found, content = Frames(), [], b""
    for start in range(0, len(data), size):
        piece, at = data[start : start + size], 0
        while True:
            if not frames.inside:
                at = frames.enter(piece, at)
                if not frames.inside:
                    break
            if frames.kept:
                at = frames.keep(piece, at)
            else:
                first, end, at = frames.skip(piece, at)
                content += piece[first:end]
            if frames.left:
                break
            frames.inside = False
            if not frames.kept:
                found.append((frames.kind, frames.stream, content if frames.kind == DATA else None))
            elif (payload := frames.payload()) is not None:
                found.append((frames.kind, frames.stream, payload))
            content = b""
    return found


def wire(*frames: Frame) -> bytes:
    return b"".join(frame.serialize() for frame in frames)


GOOD = [
    (DataFrame(1, b"abc"), (DATA, 1, b"abc")),
    (DataFrame(1, b""), (DATA, 1, b"")),
    (DataFrame(1, b"abc", pad_length=5, flags=["PADDED"]), (DATA, 1, b"abc")),
    (DataFrame(1, b"abc", flags=["PADDED"]), (DATA, 1, b"abc")),
    (DataFrame(1, b"", pad_length=255, flags=["PADDED"]), (DATA, 1, b"")),
    (DataFrame(1, bytes(MAX_PAYLOAD + 1)), (DATA, 1, bytes(MAX_PAYLOAD + 1))),
    (PingFrame(0, bytes(8)), (6, 0, None)),
    (HeadersFrame(3, b"block", flags=["END_HEADERS"]), (HEADERS, 3, b"block")),
    (HeadersFrame(3, b"block", flags=["END_HEADERS", "PADDED"], pad_length=3), (HEADERS, 3, b"block")),
    (HeadersFrame(3, b"b", flags=["END_HEADERS", "PRIORITY"], depends_on=1, exclusive=True), (HEADERS, 3, b"b")),
    (HeadersFrame(3, b"b", flags=["END_HEADERS", "PADDED", "PRIORITY"], pad_length=9), (HEADERS, 3, b"b")),
    (PushPromiseFrame(3, 2, b"b", flags=["END_HEADERS", "PADDED"], pad_length=1), (PUSH_PROMISE, 3, b"\0\0\0\2b")),
]


@pytest.mark.parametrize("size", [1, 8, 9, 10, 1 << 20])
def test_frames_however_they_are_cut(size: int) -> None:
    assert read(wire(*[frame for frame, _ in GOOD]), size) == [expected for _, expected in GOOD]


@pytest.mark.parametrize("size", [1, 1 << 20])
@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"\0\0\1\x10\x08\0\0\0\0\xff", (0x10, 0, None)),  # PADDED in a PRIORITY_UPDATE
        (b"\0\0\5\5\x24\0\0\0\3\0\0\0\2b", (PUSH_PROMISE, 3, b"\0\0\0\2b")),  # PRIORITY
        (b"\0\0\1\0\0\x80\0\0\1a", (DATA, 1, b"a")),  # the bit before the stream identifier
    ],
)
def test_what_means_nothing_in_a_frame_is_ignored(data: bytes, found: tuple[int, int, bytes | None], size: int) -> None:
    """RFC 9113 §4.1."""
    assert read(data, size) == [found]


@pytest.mark.parametrize("size", [1, 1 << 20])
def test_continuations_belong_to_what_they_continue(size: int) -> None:
    data = wire(
        HeadersFrame(3, b"one ", flags=["PADDED", "PRIORITY"], pad_length=2),
        ContinuationFrame(3, b""),
        ContinuationFrame(3, b"two "),
        ContinuationFrame(3, b"three", flags=["END_HEADERS"]),
        PushPromiseFrame(3, 2, b"a", flags=[]),
        ContinuationFrame(3, b"b", flags=["END_HEADERS"]),
        HeadersFrame(5, b"four", flags=["END_HEADERS"]),
    )
    assert read(data, size) == [
        (HEADERS, 3, b"one two three"), (PUSH_PROMISE, 3, b"\0\0\0\2ab"), (HEADERS, 5, b"four"),
    ]  # fmt: skip


@pytest.mark.parametrize("size", [1, 1 << 20])
@pytest.mark.parametrize(
    "data",
    [
        wire(ContinuationFrame(1, b"")),
        wire(HeadersFrame(1, b"a"), ContinuationFrame(3, b"")),
        wire(HeadersFrame(1, b"a"), DataFrame(1, b"")),
        wire(HeadersFrame(1, b"a"), HeadersFrame(1, b"a")),
        b"\0\0\1\0\x08\0\0\0\1\1",  # DATA with a pad length of one, but no padding
        b"\0\0\4\0\x08\0\0\0\1\4abc",
        b"\0\0\0\1\x0c\0\0\0\1",  # HEADERS without a pad length
        b"\0\0\2\1\x0c\0\0\0\1\2a",
        b"\0\0\4\1\x24\0\0\0\1\0\0\0\0",  # with an incomplete priority
        wire(HeadersFrame(1, bytes(MAX_PAYLOAD + 1))),
        wire(HeadersFrame(1, bytes(MAX_PAYLOAD)), ContinuationFrame(1, bytes(MAX_BLOCK - MAX_PAYLOAD + 1))),
        wire(HeadersFrame(1, b""), *[ContinuationFrame(1, b"a")] * (MAX_FRAMES // 10)),
    ],
)
def test_malformed_frames(data: bytes, size: int) -> None:
    with pytest.raises(Unreadable):
        read(data, size)
