import pytest

from refusals import LEARNED_SECONDS, Pair, Refusals, meaning, setting

ALICE = Pair("10.0.0.1", "bank.example")


class Clock:
    time = 0.0

    def __call__(self) -> float:
        return self.time


def test_nothing_is_learned_unless_asked_for() -> None:
    refusals = Refusals()
    assert not any(refusals.refused(ALICE) for _ in range(100))
    assert not refusals.bypasses(ALICE)


def test_a_pair_is_bypassed_for_an_hour_after_so_many_refusals() -> None:
    clock = Clock()
    refusals = Refusals(3, clock)
    assert [refusals.refused(ALICE) for _ in range(3)] == [False, False, True]
    assert refusals.bypasses(ALICE)
    assert refusals.learned() == [(ALICE, LEARNED_SECONDS)]
    for other in (Pair("10.0.0.2", ALICE.name), Pair(ALICE.client, "x.example")):
        assert not refusals.bypasses(other)
    clock.time = LEARNED_SECONDS
    assert refusals.learned() == []
    assert not refusals.bypasses(ALICE)
    assert not refusals.refused(ALICE)  # counted anew


def test_a_client_that_went_on_has_not_refused() -> None:
    refusals = Refusals(2)
    for _ in range(5):
        assert not refusals.refused(ALICE)
        refusals.accepted(ALICE)
    assert not refusals.bypasses(ALICE)


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        ("TLSV1_ALERT_UNKNOWN_CA", "does not trust the CA"),
        ("SSLV3_ALERT_BAD_CERTIFICATE", "pins another"),
        ("SSLV3_ALERT_CERTIFICATE_UNKNOWN", "pins another"),
        ("SSLV3_ALERT_CERTIFICATE_EXPIRED", "clock"),
    ],
)
def test_meanings(reason: str, text: str) -> None:
    assert text in (meaning(reason) or "")


@pytest.mark.parametrize("reason", [None, "", "NO_SHARED_CIPHER", "TLSV1_ALERT_PROTOCOL_VERSION", "UNKNOWN_CA_X"])
def test_what_is_no_refusal(reason: str | None) -> None:
    assert meaning(reason) is None


def test_settings() -> None:
    assert "--cacert" in setting("curl/8.0")
    assert "NODE_EXTRA_CA_CERTS" in setting("undici")
    assert "NODE_EXTRA_CA_CERTS" in setting("node")
    assert "npm config" in setting("npm/10.2.4 node/v20.11.1 linux x64 workspaces/false")
    assert "PIP_CERT" in setting(
        'pip/24.0 {"ci":null,"cpu":"x86_64","implementation":{"name":"CPython"},"python":"3.11.2"}'
    )
    assert "REQUESTS_CA_BUNDLE" in setting("python-requests/2.31.0")
    assert "/ca.crt" in setting("")
