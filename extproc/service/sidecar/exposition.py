"""The supervisor's own metrics: what is under way now, and the state of processes and disk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from extproc import __version__
from extproc.journal import directory
from extproc.journal.directory import SEGMENTS
from extproc.journal.lines import Listing, Series
from extproc.journal.segment import CLOSED, COMPRESSED, OPEN, Name
from extproc.journal.timing import BUCKETS
from extproc.service.sidecar.figures import Figures, Times
from extproc.service.sidecar.follower import FollowerProcess
from extproc.service.sidecar.workers import Workers
from extproc.telemetry import openmetrics

_STATES = {OPEN: "open", CLOSED: "closed", COMPRESSED: "compressed"}


class Exposition:
    """All workers as one, the follower, and the journal's directory, asked when somebody scrapes."""

    def __init__(
        self,
        data_dir: Path,
        floor_bytes: int | None,
        workers: Workers,
        follower: FollowerProcess,
        shipper: FollowerProcess | None = None,
    ) -> None:
        self._data_dir = data_dir
        self._floor_bytes = floor_bytes
        self._workers = workers
        self._follower = follower
        self._shipper = shipper
        self._registry = CollectorRegistry()
        self._registry.register(self)
        self._listing = Listing(data_dir)
        self._listed: list[Series] | None = None
        self._sizes: dict[Name, int] = {}
        """Of the segments that change no more, as long as the same are there."""

    def _names(self) -> list[Name]:
        try:
            listed = self._listing.series()
        except OSError:
            return []
        if listed is not self._listed:
            self._listed, self._sizes = listed, {}
        return [name for series in listed for name in series.names]

    async def text(self, *, open_metrics: bool = False) -> bytes:
        """The follower's metrics and ours, in Prometheus's text format or OpenMetrics'."""
        followers = await self._follower.metrics(open_metrics=open_metrics)
        if open_metrics:
            return openmetrics.joined(followers, openmetrics.text(self._registry))
        return followers + generate_latest(self._registry)

    def describe(self) -> list[Metric]:
        """Nothing: registering must not ask anybody."""
        return []

    def collect(self) -> Iterator[Metric]:
        build = GaugeMetricFamily("extproc_build_info", "Always 1.", labels=["version"])
        build.add_metric([__version__], 1)
        yield build
        yield from self._of_workers(self._workers.figures())
        yield from self._of_processes()
        yield from self._of_the_journal()
        if self._shipper is not None:
            yield from _of_shipping(self._shipper)

    def _of_workers(self, figures: Figures) -> Iterator[Metric]:
        yield _gauge("extproc_exchanges_in_flight", "Exchanges that have begun and not ended.", figures.in_flight)
        yield _gauge("extproc_journal_queue_depth", "Records that wait for the writers.", figures.queue_depth)
        yield _counter("extproc_unaudited", "Requests and answers that passed without a record.", figures.unaudited)
        yield _counter("extproc_refused", "Requests that were refused, being not recordable.", figures.refused)
        yield _counter(
            "extproc_hold_failures", "Held requests that Envoy's buffers had no room for.", figures.hold_failures
        )
        quarantined = CounterMetricFamily(
            "extproc_quarantined",
            "Requests in quarantine: those that passed, and were only counted, too.",
            labels=["mode"],
        )
        quarantined.add_metric(["shadow"], figures.quarantine_shadowed)
        quarantined.add_metric(["refuse"], figures.quarantine_refused)
        quarantined.add_metric(["route"], figures.quarantine_routed)
        yield quarantined
        yield _counter("extproc_access_entries", "Entries of Envoy's access log that came.", figures.access_entries)
        yield _counter("extproc_access_entries_lost", "Those that could not be written.", figures.access_entries_lost)
        malformed = figures.access_malformed
        yield _counter("extproc_access_messages_malformed", "Messages that were none of Envoy's.", malformed)
        yield _histogram("extproc_journal_sync_seconds", "A sync of a segment.", figures.sync)
        yield _histogram("extproc_gate_wait_seconds", "A reply that waited for the disk.", figures.gate)

    def _of_processes(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("extproc_worker_up", "1 while the worker runs and is well.", labels=["worker"])
        restarts = CounterMetricFamily("extproc_worker_restarts", "Times it was started again.", labels=["worker"])
        for index, (well, count) in enumerate(self._workers.worker_status()):
            up.add_metric([str(index)], int(well))
            restarts.add_metric([str(index)], count)
        failed = CounterMetricFamily("extproc_worker_failed_starts", "Times it could not start.", labels=["worker"])
        for index, count in enumerate(self._workers.failed_starts()):
            failed.add_metric([str(index)], count)
        yield up
        yield restarts
        yield failed
        writable = self._workers.is_writable()
        yield _gauge("extproc_journal_writable", "1 while every worker can write its journal.", int(writable))
        follower = self._follower
        yield _gauge("extproc_follower_up", "1 while the follower runs.", int(follower.up))
        yield _counter("extproc_follower_restarts", "Times it was started again.", follower.restarts)
        yield _gauge("extproc_follower_lag_seconds", "How far it is behind.", follower.lag_seconds or 0.0)
        yield _gauge(
            "extproc_follower_behind_bytes", "What it has still to read.", follower.state.get("behind_bytes", 0)
        )
        behind, failures = (follower.state.get(f"index_{name}", 0) for name in ("behind_bytes", "failures"))
        yield _gauge("extproc_index_behind_bytes", "What the index has not of the journal.", behind)
        yield _counter("extproc_index_failures", "Times the index could not be written; it is tried again.", failures)

    def _of_the_journal(self) -> Iterator[Metric]:
        names = self._names()
        found = dict.fromkeys(_STATES.values(), 0) | Counter(_STATES[name.state] for name in names)
        total = 0
        for name in names:
            size = self._sizes.get(name)
            if size is None:
                size = _size(self._data_dir / SEGMENTS / str(name))
                if name.state != OPEN:
                    self._sizes[name] = size
            total += size
        segments = GaugeMetricFamily("extproc_journal_segments", "Segments on disk.", labels=["state"])
        for state, count in found.items():
            segments.add_metric([state], count)
        yield segments
        yield _gauge("extproc_journal_bytes", "Bytes of the segments, bodies in files of their own left out.", total)
        free, floor = directory.space(self._data_dir, self._floor_bytes)
        yield _gauge("extproc_journal_free_bytes", "Free bytes of the journal's file system.", free)
        yield _gauge("extproc_journal_free_floor_bytes", "With fewer the journal counts as full.", floor)


def _of_shipping(shipper: FollowerProcess) -> Iterator[Metric]:
    state = shipper.state
    yield _gauge("extproc_ship_up", "1 while the process that ships to the bucket runs.", int(shipper.up))
    lag = shipper.lag_seconds or 0.0
    yield _gauge("extproc_ship_lag_seconds", "Age of the oldest closed segment that is not in the bucket.", lag)
    yield _gauge("extproc_ship_behind_bytes", "Size of all such segments.", state.get("behind_bytes", 0))
    yield _counter("extproc_ship_objects", "Objects that were made in the bucket.", state.get("objects", 0))
    yield _counter("extproc_ship_failures", "Rounds that a bucket cut short, and conflicts.", state.get("failures", 0))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0  # closed, compressed or deleted since it was listed


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(name, text, value=value)


def _histogram(name: str, text: str, times: Times) -> Metric:
    bounds = [*(str(bound) for bound in BUCKETS), "+Inf"]
    buckets = list(zip(bounds, accumulate(times.counts), strict=True))
    return HistogramMetricFamily(name, text, buckets=buckets, sum_value=times.sum)
