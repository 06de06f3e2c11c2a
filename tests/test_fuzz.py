"""The corpus replayed, and some mutations of it; ``make fuzz`` searches further."""

import pytest
from hypothesis import HealthCheck, given, settings
from inputs import inputs
from targets import TARGETS, check_request, corpus

EXAMPLES = 100


@pytest.mark.parametrize("name", TARGETS)
def test_inputs_that_are_kept(name: str) -> None:
    for path in corpus(name):
        try:
            TARGETS[name](path.read_bytes())
        except Exception as error:
            raise AssertionError(path) from error


@pytest.mark.parametrize("name", TARGETS)
def test_inputs_like_them(name: str) -> None:
    # The same in every run: findings belong to make fuzz, not to whoever happens to test something else.
    @settings(max_examples=EXAMPLES, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(inputs([path.read_bytes() for path in corpus(name)]))
    def changed(data: bytes) -> None:
        TARGETS[name](data)

    changed()


def test_a_target_that_fails_is_seen() -> None:
    """The counterpart: a harness does fail on what it asserts."""
    with pytest.raises(AssertionError):
        check_request(b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n")
