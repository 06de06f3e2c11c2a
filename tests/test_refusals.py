import pytest

from record import Record
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
    clock.time = 600.0
    assert refusals.learned() == [(ALICE, LEARNED_SECONDS - 600)]
    clock.time = LEARNED_SECONDS
    assert refusals.learned() == []
    assert not refusals.bypasses(ALICE)
    assert not refusals.refused(ALICE)  # counting starts over


def test_a_client_that_went_on_has_not_refused() -> None:
    refusals = Refusals(2)
    for _ in range(5):
        assert not refusals.refused(ALICE)
        refusals.accepted(ALICE)
    assert not refusals.bypasses(ALICE)


def test_a_client_that_uses_a_name_does_not_refuse_it_by_leaving() -> None:
    clock, record = Clock(), Record("10.0.0.1:1")
    refusals = Refusals(0, clock)
    refusals.opened(ALICE, record)
    assert not refusals.uses(ALICE)  # the tunnel was not used yet
    record.progress = record
    assert not refusals.uses(ALICE)  # nor yet
    record.sent = 1
    assert refusals.uses(ALICE)
    assert not refusals.uses(Pair(ALICE.client, "x.example"))
    refusals.ended(ALICE, record)
    assert not refusals.uses(ALICE)
    refusals.accepted(ALICE)
    clock.time = 9.9
    assert refusals.uses(ALICE)
    clock.time = 10.0
    assert not refusals.uses(ALICE)


def test_of_several_tunnels_each_counts_until_it_ends() -> None:
    records = [Record("10.0.0.1:1"), Record("10.0.0.1:2")]
    refusals = Refusals()
    for record in records:
        refusals.opened(ALICE, record)
    records[0].progress = records[0]
    records[0].sent = 1
    refusals.ended(ALICE, records[1])
    assert refusals.uses(ALICE)
    refusals.ended(ALICE, records[0])
    assert not refusals.uses(ALICE)
    assert not refusals._open  # nothing is remembered of a pair without a tunnel


def test_a_client_that_uses_a_name_refuses_it_by_saying_so() -> None:
    refusals = Refusals(2)
    refusals.accepted(ALICE)
    assert [refusals.refused(ALICE) for _ in range(2)] == [False, True]


def test_what_is_learned_is_told_once() -> None:
    refusals = Refusals(1)
    assert [refusals.refused(ALICE) for _ in range(3)] == [True, False, False]


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        ("TLSV1_ALERT_UNKNOWN_CA", "does not trust the CA"),
        ("SSLV3_ALERT_BAD_CERTIFICATE", "pins another"),
        ("SSLV3_ALERT_CERTIFICATE_UNKNOWN", "pins another"),
        ("SSLV3_ALERT_CERTIFICATE_EXPIRED", "clock"),
        ("SSLV3_ALERT_UNSUPPORTED_CERTIFICATE", "--key-type"),
        ("SSLV3_ALERT_CERTIFICATE_REVOKED", "--crl-url"),
        ("TLSV1_ALERT_ACCESS_DENIED", "pins another"),
    ],
)
def test_meanings(reason: str, text: str) -> None:
    assert text in (meaning(reason) or "")


@pytest.mark.parametrize("reason", [None, "", "NO_SHARED_CIPHER", "TLSV1_ALERT_PROTOCOL_VERSION", "UNKNOWN_CA_X"])
def test_what_is_no_refusal(reason: str | None) -> None:
    assert meaning(reason) is None


@pytest.mark.parametrize(
    ("user_agent", "text"),
    [
        ("curl/8.5.0", "curl: --cacert"),
        ("git/2.39.5", "git: GIT_SSL_CAINFO="),  # not a configuration: a clone has none yet
        ("Go-http-client/1.1", "Go: "),
        ('pip/24.0 {"implementation":{"name":"CPython","version":"3.11.2"},"python":"3.11.2"}', "pip: "),
        ("python-requests/2.32.3", "Python: "),
        ("Python/3.11 aiohttp/3.9.5", "Python: "),
        ("npm/10.8.2 node/v20.19.0 linux x64 workspaces/false", "npm: "),
        ("node", "Node.js: "),
        ("undici", "Node.js: "),
        ("Java/17.0.11", "Java: "),
        ("Java-http-client/17.0.11", "Java: "),
        ("Apache-HttpClient/4.5.14 (Java/17.0.11)", "Java: "),
        ("Debian APT-HTTP/1.3 (2.6.1)", "apt: "),
        ("Wget/1.21.3", "wget: "),
        ("Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0", "Firefox: "),
        ("Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/128.0.0.0 Safari/537.36",
         "Chrome: "),
        ("", "make it trust ca.crt: the page at the proxy's own address and README, Trust the CA, tell how"),
    ],
)  # fmt: skip
def test_settings(user_agent: str, text: str) -> None:
    assert setting(user_agent).startswith(text)
