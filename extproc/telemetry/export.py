"""Spans on their way to the collector: a bounded queue, one thread, and nobody who waits.

A collector that is down, slow, refuses or says nothing costs spans and nothing else. Each span ends in exactly one
counter: `exported`, `failed` (the collector did not take it in time) or `dropped` (the queue was full). The limits are
OpenTelemetry's own variables, `OTEL_BSP_*` and `OTEL_EXPORTER_OTLP_*`.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Final

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

log = logging.getLogger("extproc.telemetry")

QUEUE: Final = 8192
BATCH: Final = 512
DELAY_MS: Final = 1000
"""Our defaults; the variables of the same meaning override them."""


class Exporter:
    """Exports in the background. `add` and the counters are for any thread."""

    def __init__(self, exporter: SpanExporter, environ: Mapping[str, str]) -> None:
        self.exported = 0
        self.failed = 0
        self.dropped = 0
        self.added = 0
        """Spans that were given to `add`, so that added == exported + failed + dropped + queued."""
        self._exporter = exporter
        self._most = _number(environ, "OTEL_BSP_MAX_QUEUE_SIZE", QUEUE)
        self._batch = min(_number(environ, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", BATCH), self._most)
        self._delay = _number(environ, "OTEL_BSP_SCHEDULE_DELAY", DELAY_MS) / 1000
        self._queue: deque[ReadableSpan] = deque()
        self._wake = threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="span-export", daemon=True)
        self._thread.start()

    @property
    def queued(self) -> int:
        """Spans that wait, without those that are just being exported."""
        return len(self._queue)

    @property
    def flushed(self) -> int:
        """How many spans are out of our hands."""
        return self.exported + self.failed + self.dropped

    def add(self, span: ReadableSpan) -> None:
        """Queue a span. Returns at once; a full queue drops it."""
        self.added += 1
        if len(self._queue) >= self._most or self._closing:
            self.dropped += 1
            return
        self._queue.append(span)
        if len(self._queue) >= self._batch:
            self._wake.set()

    def close(self, timeout: float) -> None:
        """Export what is queued, for at most so many seconds; the rest is dropped."""
        self._closing = True
        self._wake.set()
        self._thread.join(timeout)
        if self._thread.is_alive():
            self._exporter.shutdown()  # breaks the call that is stuck, or its waiting
            self._thread.join(timeout)
        self.dropped += len(self._queue)
        self._queue.clear()

    def _run(self) -> None:
        while not (self._closing and not self._queue):
            if len(self._queue) < self._batch and not self._closing:
                self._wake.wait(self._delay)
                self._wake.clear()
            batch = [self._queue.popleft() for _ in range(min(self._batch, len(self._queue)))]
            if batch:
                self._export(batch)
        self._exporter.shutdown()

    def _export(self, batch: Sequence[ReadableSpan]) -> None:
        try:
            result = self._exporter.export(batch)
        except Exception as error:  # noqa: BLE001 - whatever it is, the follower goes on
            log.warning("spans could not be exported: %s", type(error).__name__)
            result = SpanExportResult.FAILURE
        if result is SpanExportResult.SUCCESS:
            self.exported += len(batch)
        else:
            self.failed += len(batch)


def _number(environ: Mapping[str, str], name: str, default: int) -> int:
    try:
        number = int(environ.get(name) or default)
    except ValueError:
        return default
    return number if number > 0 else default
