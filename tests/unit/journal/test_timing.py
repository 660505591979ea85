"""Durations by buckets."""

from __future__ import annotations

import pytest

from extproc.journal.timing import BUCKETS, Times


@pytest.mark.parametrize(
    ("seconds", "bucket"),
    [
        (0.0, 0),
        (BUCKETS[0], 0),
        (BUCKETS[0] * 1.01, 1),
        (1.0, BUCKETS.index(1.0)),
        (10.0, len(BUCKETS) - 1),
        (11.0, len(BUCKETS)),
    ],
)
def test_the_bucket_of_a_duration(seconds: float, bucket: int) -> None:
    """An upper bound belongs to its bucket, as Prometheus has it; what is longer than all counts in the last."""
    times = Times()
    times.observe(seconds)
    assert times.counts.index(1) == bucket
    assert times.figures() == {"counts": times.counts, "sum": pytest.approx(seconds, abs=1e-6)}
