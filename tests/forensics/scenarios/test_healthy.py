"""Hours in which nothing dies, and processes that somebody stops.

No incident is found in the hours, and nobody is accused of the stops.

An hour of simulated time passes in about a second: the exchanges are made, not waited for. A quick run takes ten
minutes of each.
"""

from __future__ import annotations

import os

import pytest
from support.simulated import HEALTHY, healthy, stop

from extproc.incidents.incident import incidents

SEEDS = range(int(os.environ.get("EXTPROC_TEST_SEEDS", "1")))
ALL = len(SEEDS) > 1
SECONDS = 3600 if ALL else 600
STOPS = ("frames", "cut", "500", "hang", "null", "keep-500", "memory", "freeze, cut")


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", HEALTHY)
def test_a_healthy_hour(kind: str, seed: int) -> None:
    """Bursts, deploys, cancels, refusals and scaling are no incident."""
    assert [(each.kind.value, each.evidence) for each in incidents(healthy(kind, seed, SECONDS).flights)] == []


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("how", STOPS)
def test_a_stop_accuses_nobody(how: str, seed: int) -> None:
    """Each of two is told, whatever it looks like, and no request is named."""
    found = incidents(stop(how, seed).flights)
    assert len(found) >= 2
    assert {each.verdict for each in found} == {"no_request"}
