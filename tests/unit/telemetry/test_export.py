"""Whatever the collector does, nobody waits, and each span ends in exactly one counter."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from support.stack import eventually

from extproc.telemetry.export import Exporter

FAST = {"OTEL_BSP_SCHEDULE_DELAY": "1", "OTEL_BSP_MAX_QUEUE_SIZE": "10", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "4"}


class Collector(SpanExporter):
    """Does as the test says."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.result: SpanExportResult | Exception = SpanExportResult.SUCCESS
        self.open = threading.Event()
        self.open.set()
        self.asked = threading.Event()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Take a batch, once `open`."""
        self.asked.set()
        self.open.wait(150)
        self.batches.append(len(spans))
        if isinstance(self.result, Exception):
            raise self.result
        return self.result

    def shutdown(self) -> None:
        """A call that is stuck is broken off."""
        self.open.set()


@contextmanager
def exporting(collector: Collector, environ: dict[str, str] | None = None) -> Iterator[Exporter]:
    """An exporter, closed at the end; all of its spans are then accounted for."""
    exporter = Exporter(collector, FAST if environ is None else environ)
    try:
        yield exporter
    finally:
        exporter.close(5.0)
    assert exporter.added == exporter.flushed
    assert exporter.queued == 0


def fill(exporter: Exporter, count: int) -> None:
    """Add so many spans."""
    for _ in range(count):
        exporter.add(ReadableSpan("x"))


def test_spans_are_exported_in_batches() -> None:
    """None larger than the limit."""
    collector = Collector()
    with exporting(collector) as exporter:
        fill(exporter, 9)
        eventually(lambda: exporter.flushed == 9, "the export")
        assert exporter.exported == 9
    assert sum(collector.batches) == 9
    assert max(collector.batches) <= 4


@pytest.mark.parametrize("result", [SpanExportResult.FAILURE, RuntimeError("a prompt")], ids=["refuses", "raises"])
def test_a_collector_that_refuses(result: SpanExportResult | Exception, caplog: pytest.LogCaptureFixture) -> None:
    """Its spans have failed, the next ones are tried again, and no exception's text is told."""
    collector = Collector()
    collector.result = result
    with exporting(collector) as exporter:
        fill(exporter, 3)
        eventually(lambda: exporter.failed == 3, "the failure")
        collector.result = SpanExportResult.SUCCESS
        fill(exporter, 2)
        eventually(lambda: exporter.exported == 2, "the recovery")
    assert "a prompt" not in caplog.text


def test_a_collector_that_is_stuck() -> None:
    """The queue fills, what is beyond it is dropped, adding returns at once, and the stop is in time."""
    collector = Collector()
    collector.open.clear()
    exporter = Exporter(collector, FAST)
    fill(exporter, 1)
    assert collector.asked.wait(150)
    fill(exporter, 50)
    assert exporter.queued == 10
    assert exporter.dropped == 40
    exporter.close(0.2)
    assert exporter.added == exporter.flushed == 51


def test_what_is_queued_is_exported_at_the_end() -> None:
    """The delay is not waited for."""
    collector = Collector()
    with exporting(collector, {"OTEL_BSP_SCHEDULE_DELAY": "3600000"}) as exporter:
        fill(exporter, 3)
    assert exporter.exported == 3


def test_after_the_end(caplog: pytest.LogCaptureFixture) -> None:
    """What comes then is dropped."""
    with exporting(Collector()) as exporter:
        pass
    fill(exporter, 2)
    assert exporter.dropped == 2


@pytest.mark.parametrize("value", ["", "none", "-1", "0"])
def test_odd_limits_are_the_defaults(value: str) -> None:
    """A wrong variable is no reason to lose spans."""
    with exporting(Collector(), dict.fromkeys(FAST, value)) as exporter:
        fill(exporter, 20)
    assert exporter.exported == 20
