"""``/metrics`` as Prometheus reads it; and that the dashboard and the alerts query metrics that exist."""

import json
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from lab import HERE, WAIT, Origin, Program, exchange, get, http_origin, run, secure_tunnel, until
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as prometheus
from test_board import closed_tunnel, snapshot_of
from test_website import BASE, ask

import errors
from admission import TOLD_OF_CLIENT
from board import Board
from errors import CertifierError
from metrics import expose
from snapshot import merge
from taps import HOOKS

DASHBOARD = HERE / "examples" / "grafana.json"
ALERTS = HERE / "examples" / "alerts.yml"


def value(families: list[Metric], name: str, **labels: str) -> float | None:
    found = [s.value for family in families for s in family.samples if s.name == name and s.labels == labels]
    assert len(found) <= 1, (name, labels)
    return found[0] if found else None


def scrape(program: Program) -> list[Metric]:
    reply = ask(program, "/metrics")
    assert reply.headers["content-type"].startswith("text/plain; version=")
    return list(prometheus(reply.body.decode()))


@pytest.fixture(scope="module")
def used(roots: Path, certificate: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """A proxy that has relayed some traffic."""
    folder = tmp_path_factory.mktemp("used")
    options = (*BASE, f"--upstream-ca={roots}", "--deny=denied.example")
    with Origin(http_origin, certificate) as origin, Program(folder, *options) as running:
        exchange(running.address, b"CONNECT denied.example:443 HTTP/1.1\r\nHost: denied.example\r\n\r\n")
        for _ in range(3):
            with secure_tunnel(running, f"localhost:{origin.port}") as secure:
                assert get(secure).status == 200
                secure.unwrap()
        running.tunnels(4)
        yield running


def test_what_is_counted(used: Program) -> None:
    families = scrape(used)
    expected: list[tuple[str, dict[str, str], float]] = [
        ("certifier_tunnels_total", {"outcome": "closed"}, 3),
        ("certifier_tunnels_total", {"outcome": "http_request_denied"}, 1),
        ("certifier_refusals_total", {"reason": "policy"}, 1),
        ("certifier_retrievals_total", {"source": "made"}, 1),
        ("certifier_retrievals_total", {"source": "memory"}, 2),
        ("certifier_bytes_total", {"direction": "sent"}, 3 * len("GET / HTTP/1.1\r\nHost: test\r\n\r\n")),
        ("certifier_retrieval_seconds_count", {}, 1),
        ("certifier_retrieval_seconds_bucket", {"le": "+Inf"}, 1),
        ("certifier_dial_seconds_count", {}, 3),
        ("certifier_connections", {}, 1),
        ("certifier_tunnels_open", {}, 0),
        ("certifier_contexts", {}, 1),
        ("certifier_contexts_max", {}, 100),
        ("certifier_workers", {}, 1),
        ("certifier_workers_max", {}, 1),
        ("certifier_healthy", {}, 1),
        ("certifier_build_info", {"version": "0.1.0"}, 1),
    ]
    for name, labels, number in expected:
        assert value(families, name, **labels) == number, name
    ends = x509.load_pem_x509_certificate(used.ca.read_bytes()).not_valid_after_utc.timestamp()
    assert value(families, "certifier_ca_not_after_timestamp_seconds") == ends
    assert (value(families, "certifier_cpu_seconds_total") or 0) > 0
    assert (value(families, "certifier_memory_bytes") or 0) > 1e6
    before = value(families, "certifier_connections_accepted_total")
    assert before
    assert value(scrape(used), "certifier_connections_accepted_total") == before + 1


def test_what_alerts_count_begins_with_zero() -> None:
    """Otherwise Prometheus sees no increase when the first of a kind appears, even if it is a hundred at once."""
    snapshot = snapshot_of(Board())
    snapshot["facts"] |= {"ca_ends": None, "workers": 1}
    families = list(prometheus(expose(snapshot, True, "")[1].decode()))
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, CertifierError)]
    for reason in {kind.refusal for kind in kinds if kind.refusal} | {"certificate"}:
        assert value(families, "certifier_refusals_total", reason=reason) == 0, reason
    for source in ("memory", "disk", "made", "renewed", "none", "failed"):
        assert value(families, "certifier_retrievals_total", source=source) == 0, source
    for file in ("log", "har", "pcap", "keylog"):
        assert value(families, "certifier_records_lost_total", file=file) == 0, file
    for outcome in ("done", "failed"):
        assert value(families, "certifier_reloads_total", outcome=outcome) == 0, outcome
    for hook in HOOKS:
        assert value(families, "certifier_tap_failures_total", function=hook) == 0, hook
    for name in ("tunnels", "plain_requests"):
        assert value(families, f"certifier_{name}_total", outcome="failed") == 0, name


def test_reloads_are_counted_by_how_they_ended(tmp_path: Path) -> None:
    denied = tmp_path / "denied"

    def reload(content: str) -> None:
        denied.write_text(content)
        program.process.send_signal(signal.SIGHUP)

    def reloads() -> list[float | None]:
        families = scrape(program)
        return [value(families, "certifier_reloads_total", outcome=outcome) for outcome in ("done", "failed")]

    denied.write_text("a.example\n")
    with Program(tmp_path, *BASE, "--deny=@denied") as program:
        assert reloads() == [0, 0]
        reload("b.example\n")
        until(lambda: reloads() == [1, 0])
        reload("no pattern/\n")
        until(lambda: reloads() == [1, 1])
        reload("c.example\n")
        until(lambda: reloads() == [2, 1])


def test_what_is_closed_unheard_is_counted(tmp_path: Path) -> None:
    """A client with so many connections past its limit that no more of them are answered."""
    with Program(tmp_path, *BASE, "--max-client-connections=1") as program, ExitStack() as opened:
        first = opened.enter_context(socket.create_connection(program.address, timeout=WAIT))
        socks = [opened.enter_context(socket.create_connection(program.address, timeout=WAIT)) for _ in range(105)]
        assert [sock.recv(1) for sock in socks[TOLD_OF_CLIENT:]] == [b""] * 5
        opened.close()
        assert first.fileno() == -1
        until(lambda: value(scrape(program), "certifier_connections") == 1)
        assert value(scrape(program), "certifier_refusals_total", reason="client-connections") == 5


def test_what_files_do_not_take_is_counted(tmp_path: Path, roots: Path, certificate: Path) -> None:
    options = (
        *BASE,
        f"--upstream-ca={roots}",
        "--log-file=/dev/full",
        "--keylog=/dev/full",
        "--har=har",
        "--pcap=pcap",
    )
    with Origin(http_origin, certificate) as origin, Program(tmp_path, *options) as program:
        for _ in range(2):
            with secure_tunnel(program, f"localhost:{origin.port}") as secure:
                assert get(secure).status == 200
                secure.unwrap()
        until(lambda: value(scrape(program), "certifier_tunnels_total", outcome="closed") == 2)
        families = scrape(program)
    lost = {
        file: value(families, "certifier_records_lost_total", file=file) for file in ("log", "har", "pcap", "keylog")
    }
    assert (lost.pop("log") or 0) >= 3  # both tunnels, and each look at the metrics
    assert lost == {"har": 0, "pcap": 0, "keylog": 2 * 2 * 5}  # TLS 1.3 has five secrets


def test_their_names_are_by_prometheus_conventions(used: Program) -> None:
    assert shutil.which("promtool"), "promtool is missing: see .ci/run"
    text = ask(used, "/metrics").body
    checked = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, timeout=20)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, b"")


def test_openmetrics_for_who_asks_for_it(used: Program) -> None:
    reply = ask(used, "/metrics", "Accept: application/openmetrics-text; version=1.0.0; charset=utf-8")
    assert reply.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert reply.body.endswith(b"# EOF\n")
    families = list(openmetrics(reply.body.decode()))  # type: ignore[no-untyped-call]
    assert value(families, "certifier_tunnels_total", outcome="closed") == 3


@pytest.mark.parametrize("version", ["x.y.z", "1.x", "1.", "", "9" * 5000, "2.5.\xe9", "1.0.0 x"])
@pytest.mark.parametrize("kind", ["text/plain", "application/openmetrics-text"])
def test_the_plain_format_for_a_version_that_is_none(used: Program, kind: str, version: str) -> None:
    reply = ask(used, "/metrics", f"Accept: {kind};version={version}, {kind};version=1.0.0")
    assert reply.status == 200
    assert reply.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert list(prometheus(reply.body.decode()))


def test_of_several_processes() -> None:
    both = [Board(name="one"), Board(name="two")]
    for board in both:
        closed_tunnel(board)
        board.meter.sent = 5
        board.retrieved("disk", 0.003)
    snapshots = [snapshot_of(board) for board in both]
    for snapshot in snapshots:
        snapshot["facts"] |= {"ca_ends": None, "workers": 3}
        snapshot["gauges"] |= {"contexts": 2, "contexts_max": 9, "workers": 1}
        snapshot["cpu_seconds"] = 1.5
    families = list(prometheus(expose(merge(snapshots), False, "")[1].decode()))
    assert value(families, "certifier_tunnels_total", outcome="closed") == 2
    assert value(families, "certifier_bytes_total", direction="sent") == 10
    assert value(families, "certifier_retrieval_seconds_bucket", le="0.002") == 0
    assert value(families, "certifier_retrieval_seconds_bucket", le="0.005") == 2
    assert value(families, "certifier_cpu_seconds_total") == 3
    assert value(families, "certifier_contexts") == 4
    assert value(families, "certifier_contexts_max") == 18
    assert value(families, "certifier_workers") == 2
    assert value(families, "certifier_workers_max") == 3
    assert value(families, "certifier_healthy") == 0
    assert value(families, "certifier_ca_not_after_timestamp_seconds") is None


# The examples


def test_alerts(tmp_path: Path) -> None:
    checked = run("promtool", "check", "rules", ALERTS)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    tested = run("promtool", "test", "rules", HERE / "tests" / "alerts.yml")
    assert tested.returncode == 0, tested.stdout + tested.stderr
    bad = tmp_path / "bad.yml"
    bad.write_text(ALERTS.read_text().replace("== 0", "== ="))
    assert run("promtool", "check", "rules", bad).returncode != 0


def known(program: Program) -> dict[str, set[str]]:
    """The labels of each metric."""
    found: dict[str, set[str]] = {}
    for family in scrape(program):
        suffixes = ("", "_bucket", "_count", "_sum") if family.type == "histogram" else ("",)
        name = f"{family.name}_total" if family.type == "counter" else family.name
        for suffix in suffixes:
            found[f"{name}{suffix}"] = {"le"} if suffix == "_bucket" else set()
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    return found


def expressions() -> list[str]:
    dashboard = json.loads(DASHBOARD.read_text())
    found = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    found += [variable["query"]["query"] for variable in dashboard["templating"]["list"] if "refresh" in variable]
    return found + [annotation["expr"] for annotation in dashboard["annotations"]["list"]]


def test_every_metric_that_is_shown_or_alerted_on_exists(used: Program) -> None:
    there = known(used)
    rules = re.findall(r"^ +expr: (\|\n(?: {10,}.*\n)+|.*\n)", ALERTS.read_text(), re.MULTILINE)
    assert len(rules) == 13
    seen = set()
    for expression in [*expressions(), *rules]:
        names = re.findall(r"certifier_[a-z_]+", re.sub(r'"[^"]*"', "", expression))
        assert names or "up{" in expression
        for name in names:
            assert name in there, (name, expression)
            seen.add(name)
        for name, matchers in re.findall(r"(certifier_[a-z_]+)\{([^}]*)\}", expression):
            labels = set(re.findall(r"([a-z_]+)\s*(?:=~|!~|!=|=)", matchers)) - {"instance"}
            assert labels <= there[name] or not there[name], (name, labels)
    # And every metric that is exposed is used, except those about the onlookers themselves.
    unseen = {name for name in there if name.startswith("certifier_")} - seen
    assert {name for name in unseen if not name.endswith(("_sum", "_count", "_bucket"))} <= {
        "certifier_onlookers", "certifier_retrieval_seconds", "certifier_dial_seconds", "certifier_first_byte_seconds",
    }  # fmt: skip


def test_the_dashboard_is_one_that_grafana_takes() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    assert dashboard["schemaVersion"] >= 36
    assert dashboard["uid"] == "certifier"
    assert len({panel["id"] for panel in panels()}) == len(panels())
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        assert panel["type"] in ("stat", "timeseries", "heatmap")
        assert panel["title"]
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert max(x for x, _ in cells) < 24, panel["title"]
        assert not cells & taken, panel["title"]
        taken |= cells
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references) > 0
        for target in panel["targets"]:
            assert target["expr"].count("(") == target["expr"].count(")")
            assert target["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


def test_its_expressions_are_ones_that_prometheus_parses(tmp_path: Path) -> None:
    """As recording rules, with Grafana's own variables filled in."""
    rules = []
    for number, expression in enumerate(expressions()):
        if not expression.startswith("label_values"):
            filled = expression.replace("$__rate_interval", "5m").replace("$instance", ".*")
            rules.append({"record": f"panel:{number}", "expr": filled})
    path = tmp_path / "rules.json"  # JSON is YAML
    path.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))
    checked = run("promtool", "check", "rules", path)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert f"{len(rules)} rules found" in checked.stdout
