"""The metrics of a snapshot, in the text formats of Prometheus and OpenMetrics, by Prometheus' own library.

Nothing is counted here: on each request, what the boards of all processes have counted is read.
"""

import re
from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from histogram import HistogramData
from snapshot import Snapshot

# By the board's name for it: name, help, labels. The key of a count holds the labels' values, separated by spaces.
_COUNTERS = {
    "connections": ("connections_accepted", "Connections accepted.", ()),
    "tunnels": ("tunnels", "Tunnels that ended, by how: closed, or the word that the log has for it.", ("outcome",)),
    "plain": ("plain_requests", "Plain-HTTP requests that ended, by how.", ("outcome",)),
    "octets": ("bytes", "Octets of content relayed: sent by clients, received by them.", ("direction",)),
    "retrievals": (
        "retrievals",
        "Certificates looked up: found in memory, read from disk, made, renewed (made or read anew) in the background,"
        " none to be had, failed.",
        ("source",),
    ),
    "refusals": (
        "refusals",
        "What was refused, by the rule; certificate: by a client that did not take ours.",
        ("reason",),
    ),
    "requests": (
        "requests",
        "HTTP transactions that were looked at, by method and class of status.",
        ("method", "code"),
    ),
    "lost": ("records_lost", "Lines, exchanges and packets that could not be written, by their file.", ("file",)),
    "reloads": ("reloads", "Times that each of its processes read its files anew (SIGHUP), by how.", ("outcome",)),
    "taps": ("tap_failures", "Calls of a tap's functions that failed (--tap), by function.", ("function",)),
}
# Labels that are exported from the start, as 0. A burst between two scrapes may be the first of its kind: in a series
# that begins with it, Prometheus sees no increase, and no alert fires.
_FROM_ZERO: dict[str, tuple[str, ...]] = {
    "tunnels": ("failed",),
    "plain": ("failed",),
    "retrievals": ("memory", "disk", "made", "renewed", "none", "failed"),
    "refusals": (
        "authentication", "certificate", "client-connections", "connections", "loop", "mismatch", "new-names",
        "no-name", "not-tls", "policy",
    ),
    "lost": ("log", "har", "pcap", "keylog"),
    "reloads": ("done", "failed"),
    "taps": ("opened", "data", "request", "response", "closed"),
}  # fmt: skip
_GAUGES = {
    "workers": ("workers", "Its processes that answer, without the supervisor of --workers."),
    "connections": ("connections", "Connections of clients that are open."),
    "tunnels": ("tunnels_open", "Tunnels that are open."),
    "connections_max": ("connections_max", "Most connections (--max-connections)."),
    "contexts": ("contexts", "Names whose certificate is in memory, in each of its processes."),
    "contexts_max": ("contexts_max", "Most names kept in memory (--max, of each of its processes)."),
    "onlookers": ("onlookers", "Clients that watch live data."),
    "learned": (
        "learned_bypasses",
        "Pairs of client and name that pass untouched, in each of its processes (--learn-bypass).",
    ),
    "memory_bytes": ("memory_bytes", "Memory in use by its processes, without the supervisor of --workers."),
}
_HISTOGRAMS = {
    "retrieval": ("retrieval_seconds", "From a certificate's being missed in memory to its being there."),
    "dial": ("dial_seconds", "Look-up and TCP connection to an origin, where it succeeded."),
    "first_byte": ("first_byte_seconds", "From a request's head to that of its response, where they were looked at."),
}
_ODD_VERSION = re.compile(r"version=(?![0-9]{1,3}(?:\.[0-9]{1,3}){0,3}\s*(?:[;,]|\Z))")


def expose(snapshot: Snapshot, healthy: bool, accept: str) -> tuple[str, bytes]:
    """Media type and text for a client that sent ``accept`` as its Accept field."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(snapshot, healthy))
    # The library parses versions as numbers, and echoes some as they came: a field with any other version is ignored.
    encode, kind = choose_encoder("" if _ODD_VERSION.search(accept) else accept)
    return kind, encode(registry)


class _Collector(Collector):
    def __init__(self, snapshot: Snapshot, healthy: bool) -> None:
        self._snapshot = snapshot
        self._healthy = healthy

    def collect(self) -> Iterator[Metric]:
        snapshot = self._snapshot
        for kind, (name, about, labels) in _COUNTERS.items():
            counts = dict.fromkeys(_FROM_ZERO.get(kind, ()), 0) | snapshot["counts"].get(kind, {})
            yield _counter(name, about, labels, counts)
        for kind, (name, about) in _GAUGES.items():
            yield GaugeMetricFamily(f"certifier_{name}", about, snapshot["gauges"].get(kind, 0))
        for kind, (name, about) in _HISTOGRAMS.items():
            yield _histogram(name, about, snapshot["histograms"][kind])
        about = "CPU time used by its processes, without the supervisor of --workers."
        yield CounterMetricFamily("certifier_cpu_seconds", about, snapshot["cpu_seconds"])
        facts = snapshot["facts"]
        yield GaugeMetricFamily("certifier_healthy", "1 while /healthz says ok, else 0.", self._healthy)
        yield GaugeMetricFamily(
            "certifier_start_time_seconds", "When it was started, since the epoch.", snapshot["started"]
        )
        about = "How many of its processes should answer (--workers)."
        yield GaugeMetricFamily("certifier_workers_max", about, facts["workers"])
        if facts["ca_ends"] is not None:
            yield GaugeMetricFamily(
                "certifier_ca_not_after_timestamp_seconds", "When the CA certificate ends.", facts["ca_ends"]
            )
        yield InfoMetricFamily("certifier_build", "Which certifier it is.", {"version": facts["version"]})


def _counter(name: str, about: str, labels: tuple[str, ...], counts: dict[str, int]) -> CounterMetricFamily:
    family = CounterMetricFamily(f"certifier_{name}", about, labels=labels)
    for key, number in sorted(counts.items()):
        family.add_metric(key.split(" ") if labels else (), number)
    return family


def _histogram(name: str, about: str, data: HistogramData) -> HistogramMetricFamily:
    family = HistogramMetricFamily(f"certifier_{name}", about)
    family.add_metric((), list(_buckets(data)), data["sum"])
    return family


def _buckets(data: HistogramData) -> Iterable[tuple[str, float]]:
    """The buckets, cumulative as Prometheus wants them."""
    total = 0
    for bound, number in zip([*data["bounds"], float("inf")], data["counts"], strict=True):
        total += number
        yield ("+Inf" if bound == float("inf") else str(bound)), total
