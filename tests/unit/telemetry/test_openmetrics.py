"""OpenMetrics' text format."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from extproc.telemetry import openmetrics


def registry(name: str) -> CollectorRegistry:
    """One counter that has counted one thing, with an exemplar."""
    made = CollectorRegistry()
    Counter(name, "A thing.", registry=made).inc(1, {"trace_id": "a" * 32})
    return made


@pytest.mark.parametrize("with_first", [True, False])
def test_two_texts_are_one(with_first: bool) -> None:
    """A parser takes it, which wants one end, at the end; nothing is lost where the first one is missing."""
    first = openmetrics.text(registry("one")) if with_first else b""
    text = openmetrics.joined(first, openmetrics.text(registry("two"))).decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}  # type: ignore[no-untyped-call]
    assert set(families) == ({"one", "two"} if with_first else {"two"})
    assert families["two"].samples[0].exemplar is not None
    assert text.count("# EOF") == 1
    assert text.endswith("# EOF\n")
