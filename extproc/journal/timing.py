"""Durations counted by buckets, cheaply enough for every sync and every gate."""

from __future__ import annotations

from bisect import bisect_left
from typing import Any, Final

BUCKETS: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds in seconds; what is longer counts in one more."""


class Times:
    """How long something took, so far. Written by one thread at a time, read by any."""

    __slots__ = ("counts", "sum")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS) + 1)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count one duration."""
        self.counts[bisect_left(BUCKETS, seconds)] += 1
        self.sum += seconds

    def figures(self) -> dict[str, Any]:
        """As plain values: the count of each bucket by itself, and the sum of all in seconds."""
        return {"counts": list(self.counts), "sum": round(self.sum, 6)}
