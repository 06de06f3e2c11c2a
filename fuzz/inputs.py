"""Inputs for a target, derived from its corpus, for hypothesis to draw."""

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

_MOST_CUTS = 4
_FEW = 12  # octets


def inputs(seeds: list[bytes]) -> SearchStrategy[bytes]:
    """A seed with some spans overwritten, removed or repeated; sometimes random octets."""

    @st.composite
    def changed(draw: DrawFn) -> bytes:
        data = draw(st.sampled_from(seeds))
        for _ in range(draw(st.integers(0, _MOST_CUTS))):
            start = draw(st.integers(0, len(data)))
            end = min(len(data), start + draw(st.integers(0, _FEW)))
            data = data[:start] + draw(st.binary(max_size=_FEW) | st.just(data[start:end] * 2)) + data[end:]
        return data

    return changed() | st.binary(max_size=300)
