"""What workers count, added up."""

from __future__ import annotations

import msgspec
import pytest

from extproc.service.sidecar.figures import Figures, Times

ONE = Figures(1, 2, 3, 4, 5, 9, 10, 11, 6, 7, 8, Times([1] * 17, 0.5), Times([2] * 17, 1.5))


def test_all_workers_as_one() -> None:
    """Number by number, bucket by bucket."""
    both = ONE + ONE
    assert (both.in_flight, both.queue_depth, both.access_entries_lost) == (2, 4, 14)
    assert (both.sync.counts, both.sync.sum) == ([2] * 17, 1.0)
    assert sum([ONE, ONE], Figures()) == both


def test_of_a_worker_that_died() -> None:
    """Its counters stay, and nothing of it is under way."""
    assert ONE.counters_only() == msgspec.structs.replace(ONE, in_flight=0, queue_depth=0)


def test_over_the_pipe() -> None:
    """One line of JSON each way."""
    assert "\n" not in ONE.to_json()
    assert Figures.from_json(ONE.to_json()) == ONE
    with pytest.raises(msgspec.DecodeError):
        Figures.from_json("{")
