"""Hours in which nothing dies, and processes that somebody stops.

No incident is found in the hours, and nobody is accused of the stops.

An hour of simulated time passes in about a second: the exchanges are made, not waited for. A quick run takes ten
minutes of each.
"""

from __future__ import annotations

import os

import pytest
from support import quiet
from support.played import played
from support.simulated import HEALTHY, healthy, quiet_hang, stop

from extproc.incidents.incident import incidents

SEEDS = range(int(os.environ.get("EXTPROC_TEST_SEEDS", "1")))
ALL = len(SEEDS) > 1
SECONDS = 3600 if ALL else 600
QUIET_SECONDS = 10
"""The last byte may be so much before a hang."""
STOPS = ("frames", "cut", "500", "hang", "null", "keep-500", "memory", "freeze, cut")


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", HEALTHY)
def test_a_healthy_hour(kind: str, seed: int) -> None:
    """Bursts, deploys, cancels, refusals and scaling are no incident."""
    assert [(each.kind.value, each.evidence) for each in incidents(healthy(kind, seed, SECONDS).flights)] == []


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", quiet.KINDS)
def test_a_quiet_hour_while_it_passes(kind: str, seed: int) -> None:
    """Though nobody gets a byte for minutes, nothing is told that would have to be taken back."""
    seen = played(healthy(kind, seed, SECONDS).flights, step=2.0)
    assert [(each.kind.value, each.evidence) for _, each in seen] == []


@pytest.mark.parametrize("seed", SEEDS)
def test_a_hang_in_a_quiet_hour(seed: int) -> None:
    """It is told, once while it lasts and from the journal, as the same."""
    quiet_hour = quiet_hang(seed)
    (found,) = incidents(quiet_hour.flights)
    assert (found.kind.value, found.sighting.lasts) == ("hang", True)
    assert abs(found.sighting.at - quiet_hour.moments[0]) < QUIET_SECONDS
    ((_, seen),) = played(quiet_hour.flights, step=2.0)
    assert (seen.kind.value, seen.lasts, seen.at) == ("hang", True, found.sighting.at)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("how", STOPS)
def test_a_stop_accuses_nobody(how: str, seed: int) -> None:
    """Each of two is told, whatever it looks like, and no request is named."""
    found = incidents(stop(how, seed).flights)
    assert len(found) >= 2
    assert {each.verdict for each in found} == {"no_request"}
