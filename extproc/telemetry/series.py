"""Counters and histograms as tables: a row for each set of labels, found by one look-up and counted by one addition.

    total = Counters("extproc_gaps", "Requests that ...", ("direction",))
    total.labels("request").inc()
    registry.register(total)

One thread counts, another one may collect. The library's own counters take a lock, look at each label and go through
each bucket, for every exchange that passes.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Generic, TypeVar

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.samples import Exemplar
from prometheus_client.utils import floatToGoString

Shown = Mapping[str, str] | None
"""What leads from a figure to one exchange: the labels of its exemplar."""


class Counter:
    """One row."""

    __slots__ = ("exemplar", "value")

    def __init__(self) -> None:
        self.value = 0.0
        self.exemplar: Exemplar | None = None

    def inc(self, amount: float = 1, shown: Shown = None) -> None:
        """Count, of a thing that may be shown."""
        self.value += amount
        if shown is not None:
            self.exemplar = Exemplar(dict(shown), amount, time.time())


class Histogram:
    """One row: how many were in each bucket, which ends with its bound."""

    __slots__ = ("_bounds", "counts", "exemplars", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0
        self.exemplars: dict[int, Exemplar] = {}

    def observe(self, value: float, shown: Shown = None) -> None:
        """Count a value into its bucket."""
        bucket = bisect_left(self._bounds, value)
        self.counts[bucket] += 1
        self.total += value
        if shown is not None:
            self.exemplars[bucket] = Exemplar(dict(shown), value, time.time())


R = TypeVar("R", Counter, Histogram)


class _Table(ABC, Generic[R]):
    """The rows of one metric, by the values of its labels."""

    def __init__(self, name: str, text: str, labels: Sequence[str]) -> None:
        self._name = name
        self._text = text
        self._labels = labels
        self._rows: dict[tuple[str, ...], R] = {}
        if not labels:
            self.labels()

    def labels(self, *values: str) -> R:
        """The row with these labels, made where there is none."""
        row = self._rows.get(values)
        if row is None:
            if len(values) != len(self._labels):
                raise ValueError(f"{self._name} has the labels {self._labels}, got {values}")
            row = self._rows[values] = self._new()
        return row

    @abstractmethod
    def _new(self) -> R: ...

    def describe(self) -> Iterable[Metric]:
        """What the registry asks for before there is anything to collect."""
        return self.collect()

    @abstractmethod
    def collect(self) -> Iterable[Metric]:
        """The metric as it is now."""


class Counters(_Table[Counter]):
    """A metric that only grows. Its name is given without the `_total` that it gets when it is shown."""

    def _new(self) -> Counter:
        return Counter()

    def collect(self) -> Iterable[Metric]:
        family = CounterMetricFamily(self._name, self._text, labels=self._labels)
        for values, row in list(self._rows.items()):
            family.add_metric(values, row.value, exemplar=row.exemplar)
        return [family]


class Histograms(_Table[Histogram]):
    """A metric of values in buckets."""

    def __init__(self, name: str, text: str, labels: Sequence[str], bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        text_of: Callable[[float], str] = floatToGoString
        self._shown = [text_of(bound) for bound in (*bounds, float("inf"))]
        super().__init__(name, text, labels)

    def _new(self) -> Histogram:
        return Histogram(self._bounds)

    def collect(self) -> Iterable[Metric]:
        family = HistogramMetricFamily(self._name, self._text, labels=self._labels)
        for values, row in list(self._rows.items()):
            counts, exemplars, up_to = list(row.counts), dict(row.exemplars), 0
            buckets: list[tuple[str, float] | tuple[str, float, Exemplar]] = []
            for number, bound in enumerate(self._shown):
                up_to += counts[number]
                exemplar = exemplars.get(number)
                buckets.append((bound, up_to) if exemplar is None else (bound, up_to, exemplar))
            family.add_metric(values, buckets, row.total)
        return [family]
