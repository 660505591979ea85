"""Counters and histograms as tables: what a scrape shows of them is what the library's own would show."""

from __future__ import annotations

import prometheus_client
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from extproc.telemetry import openmetrics
from extproc.telemetry.series import Counters, Histograms

BOUNDS = (0.0005, 0.01, 1.0, 2.5, 67108864.0)


def text(registry: CollectorRegistry) -> list[str]:
    """What a scrape shows, without when a row was made."""
    lines = generate_latest(registry).decode().splitlines()
    return [line for line in lines if "_created" not in line]


@given(st.lists(st.tuples(st.sampled_from(["a", 'q"uo\\te', "\n"]), st.floats(0, 1e9)), max_size=20))
def test_the_same_as_the_librarys(values: list[tuple[str, float]]) -> None:
    """Whatever was counted, bounds included, and labels that need escaping."""
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    counters, histograms = Counters("c", "Counted.", ("name",)), Histograms("h", "Seen.", ("name",), BOUNDS)
    ours.register(counters)
    ours.register(histograms)
    counter = prometheus_client.Counter("c", "Counted.", ("name",), registry=theirs)
    histogram = prometheus_client.Histogram("h", "Seen.", ("name",), buckets=BOUNDS, registry=theirs)
    for name, value in [*values, *((name, bound) for name, _ in values for bound in BOUNDS)]:
        counters.labels(name).inc(value)
        histograms.labels(name).observe(value)
        counter.labels(name).inc(value)
        histogram.labels(name).observe(value)
    assert text(ours) == text(theirs)


def test_without_labels_there_is_a_row_at_once() -> None:
    """So that its first time is an increase."""
    registry = CollectorRegistry()
    registry.register(Counters("c", "Counted.", ()))
    registry.register(Histograms("h", "Seen.", (), (1.0,)))
    assert {"c_total 0.0", 'h_bucket{le="1.0"} 0.0', 'h_bucket{le="+Inf"} 0.0'} <= set(text(registry))


def test_what_leads_to_an_exchange() -> None:
    """The last of each bucket, in OpenMetrics alone."""
    registry = CollectorRegistry()
    counters, histograms = Counters("c", "Counted.", ("name",)), Histograms("h", "Seen.", (), (1.0, 2.0))
    registry.register(counters)
    registry.register(histograms)
    counters.labels("a").inc(1, {"trace_id": "t1"})
    for value, trace in ((0.5, "t2"), (0.75, "t3"), (5.0, "t4")):
        histograms.labels().observe(value, {"trace_id": trace})
    lines = openmetrics.text(registry).decode()
    assert 'c_total{name="a"} 1.0 # {trace_id="t1"} 1.0 ' in lines
    assert 'h_bucket{le="1.0"} 2.0 # {trace_id="t3"} 0.75 ' in lines
    assert 'h_bucket{le="2.0"} 2.0\n' in lines
    assert 'h_bucket{le="+Inf"} 3.0 # {trace_id="t4"} 5.0 ' in lines
    assert "trace_id" not in "".join(text(registry))


def test_labels_that_are_not_the_metrics() -> None:
    """Are a mistake of ours, and told at once."""
    with pytest.raises(ValueError, match="has the labels"):
        Counters("c", "Counted.", ("name",)).labels()
