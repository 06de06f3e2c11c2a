"""Abusive loads, each followed by a good request, and by a check that the proxy holds no more than before.

Short by default, in seconds; with ``SOAK=1``, as ``make soak`` sets it, long, in minutes.
"""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from abuse import duplex, hellos, origins, plainly, requests, resources, slow
from abuse.site import Site, running

LONG = bool(os.environ.get("SOAK"))

pytestmark = pytest.mark.timeout(600 if LONG else 40)

Load = Callable[[Site, int], None]

# Repetitions in the short form, and in the long one.
LOADS: dict[Load, tuple[int, int]] = {
    slow.slow_clients: (160, 4000),
    slow.half_open: (63, 2100),
    slow.idle_tunnels: (200, 2000),
    hellos.odd_hellos: (28, 2000),
    hellos.broken_hellos: (80, 4000),
    hellos.names_that_are_none: (70, 4000),
    requests.bad_connect_targets: (len(requests.BAD_TARGETS), 4000),
    requests.smuggling: (len(requests.KINDS), 2000),
    origins.garbage: (2 * len(origins.NO_HTTP + origins.CUT_OFF), 2000),
    origins.ends_in_the_handshake: (40, 2000),
    origins.never_answers: (30, 600),
    origins.firehose: (10, 100),
    origins.crumbs: (4, 40),
    origins.answers_in_advance: (10, 1000),
    resources.out_of_descriptors: (2, 24),
}


@pytest.fixture(scope="module")
def site(roots: Path, certificate: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with running(tmp_path_factory.mktemp("site"), roots, certificate) as found:
        yield found


@pytest.mark.parametrize("load", LOADS, ids=lambda load: load.__name__)
def test_load(site: Site, load: Load) -> None:
    load(site, min(LOADS[load]))  # threads are started when they are first needed
    held(site, load, LOADS[load])


def test_what_is_left_is_seen(site: Site) -> None:
    """The counterpart: a tunnel that stays open, a log line that is not ours."""
    with site.tunnel():
        held = site.program.vitals()
    # Compared with what is left, not with what was before: what a start does in the background may have gone on then.
    less = held._replace(greenlets=held.greenlets - 1, descriptors=held.descriptors - 2)
    assert not held.within(less.and_growth())
    site.program.settled(less)
    site.program.check_log()
    site.program.lines.append("forged by a peer")
    with pytest.raises(AssertionError, match="forged"):
        site.program.check_log()
    site.program.lines.pop()


def test_unique_names(tmp_path: Path, roots: Path, certificate: Path) -> None:
    options = ("--store-max=500", "--new-names=100000", "--client-new-names=100000")
    with running(tmp_path, roots, certificate, *options, redirected=True) as site:
        # This fills the memory; before the long form, all else that is remembered by name, too.
        hellos.unique_names(site, (100, 1500)[LONG])
        held(site, hellos.unique_names, (300, 20_000))
        assert len(list(tmp_path.glob("certs/???/*.crt"))) <= 500


def test_names_past_the_rate(tmp_path: Path, roots: Path, certificate: Path) -> None:
    with running(tmp_path, roots, certificate, "--client-new-names=10", redirected=True) as site:
        hellos.names_past_the_rate(site, 400)  # now the page's rows and the memory are full
        held(site, hellos.names_past_the_rate, (100, 400))


def test_connections(tmp_path: Path, roots: Path, certificate: Path) -> None:
    with running(tmp_path, roots, certificate, "--max-connections=50", "--max-client-connections=40") as site:
        held(site, resources.past_the_connections, (100, 5000))


WAITS = "import gevent\ndef data(tunnel, direction, octets): gevent.sleep(0.0005 * (len(octets) % 7))\n"


ACTS = f"""{WAITS}
from taps import Answer
REWRITE = True
def request(exchange):
    return Answer(403, b"no") if exchange.target == "/answered" else None
"""


LOOKS = ("--tap=tap.py", "--har=all.har", "--pcap=all.pcapng", "--log-requests")


@pytest.mark.parametrize(
    ("load", "untouched", "tap"),
    [
        (duplex.of_any_protocol, False, ""),
        (duplex.of_any_protocol, True, ""),
        (duplex.of_any_protocol, False, WAITS),
        (duplex.of_http, False, ""),
        (duplex.of_http1, False, ACTS),
        (plainly.each_its_own, False, ""),
        (plainly.each_its_own, False, ACTS),
    ],
    ids=[
        "unseen",
        "untouched",
        "before all that look",
        "before a guard",
        "before a tap that acts",
        "plain",
        "plain, before that",
    ],
)
def test_every_octet_arrives(
    tmp_path: Path, roots: Path, certificate: Path, load: Load, untouched: bool, tap: str
) -> None:
    (tmp_path / "tap.py").write_text(tap)
    options = LOOKS if tap else ("--mismatch=deny",) if load is duplex.of_http else ()
    with running(tmp_path, roots, certificate, *options, untouched=untouched) as site:
        load(site, (72, 1200)[LONG])  # allocates what is needed once, and fills most of what is remembered of targets
        held(site, load, (96, 4800))


def held(site: Site, load: Load, sizes: tuple[int, int]) -> None:
    """Apply a load; nothing of it may be left."""
    before, began = site.program.vitals(), time.monotonic()
    load(site, sizes[LONG])
    site.good()
    after = site.program.settled(before)
    took = time.monotonic() - began
    print(f"\n{load.__name__} {sizes[LONG]} times, {took:.1f} s\n  before {before}\n  after  {after}")
    site.program.check_log()
