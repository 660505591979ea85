"""Which requests are held back, and what is learnt where Envoy's buffers are smaller than that."""

from __future__ import annotations

import logging
from time import monotonic

import pytest

from extproc.service.holding import STALLED_SECONDS, Holding

LONG_AGO = -STALLED_SECONDS


def test_up_to_the_limits() -> None:
    """Of one request, and of all together; what has come makes room."""
    holding = Holding(100, 250)
    assert [holding.take(size) for size in (None, 0, 101, 100, 100, 51, 50)] == [0, 0, 0, 100, 100, 0, 50]
    holding.release(100)
    assert holding.take(100) == 100


def test_a_size_that_was_refused_is_not_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    """Smaller ones are held as before; the log names the size and the cure."""
    holding = Holding(500_000, 10_000_000)
    with caplog.at_level(logging.WARNING):
        holding.was_refused(40_000)
    assert (holding.take(40_000), holding.take(39_999), holding.failures) == (0, 39_999, 1)
    (record,) = caplog.records
    assert "40000 bytes" in record.getMessage()
    assert "per_connection_buffer_limit_bytes" in record.getMessage()


def test_requests_that_stall_are_no_chance_when_they_are_two() -> None:
    """Neither is one that was left at once, nor one as small as one that came."""
    holding = Holding(500_000, 10_000_000)
    holding.came(30_000)
    began = monotonic()
    holding.was_left(50_000, began)
    holding.was_left(30_000, began + LONG_AGO)
    holding.was_left(90_000, began + LONG_AGO)
    assert (holding.failures, holding.take(90_000)) == (0, 90_000)
    holding.was_left(60_000, began + LONG_AGO)
    assert (holding.failures, holding.take(60_000), holding.take(59_999)) == (1, 0, 59_999)
