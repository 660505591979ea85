"""The real deaths as others may have had them: class, killer and moment hold.

A killer that asks for something else must be found as well: what is rare is counted, and no parameter is known.
"""

from __future__ import annotations

import json
import os
from datetime import datetime
from random import Random
from typing import Any

import pytest
from support.deaths import EXPECTED, JOURNALS, flights, killers, ranks, truth
from support.variants import PARAMETERS, VARIANTS, of_another_parameter

from extproc.incidents.incident import incidents

SEEDS = range(int(os.environ.get("EXTPROC_TEST_SEEDS", "1")))
DEADLY = [name for name in JOURNALS if killers(name)]
KEEPS_ITS_MOMENT = ("twice as fast", "hardly warm", "queued", "two backends")
"""The others leave out the first bad end, or make a silence of what was none."""


def moments(name: str) -> list[float]:
    """When it was."""
    told = truth(name)
    at = [told["last_bytes_at"]] if "last_bytes_at" in told else told.get("first_bad_end_at", [])
    return [datetime.fromisoformat(each).timestamp() for each in at]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", JOURNALS)
def test_it_is_told_as_what_it_was(name: str, variant: str, seed: int) -> None:
    """None more, none less, of the same class, at the same moment, the killers among the first three."""
    changed, at = VARIANTS[variant](flights(name), killers(name), moments(name), Random(f"{name} {seed}"))
    found = incidents(changed)
    if variant == "cut at the death":
        found = found[: len(at)]  # what else befell it came later, or is cut in the middle
    assert [each.kind for each in found] == EXPECTED[name][: len(found)]
    assert len(found) == len(at if variant == "cut at the death" else EXPECTED[name])
    if killers(name):
        assert all((ranks(each, killers(name)) or [99])[0] <= 3 for each in found)
    if variant in KEEPS_ITS_MOMENT:
        assert [each.sighting.at for each in found[: len(at)]] == pytest.approx(at, abs=0.002)


@pytest.mark.parametrize("parameter", PARAMETERS, ids=lambda parameter: json.dumps(parameter)[:40])
@pytest.mark.parametrize("name", DEADLY)
def test_another_killer_is_found_as_well(name: str, parameter: dict[str, Any]) -> None:
    """First, whatever it asked for."""
    changed, _ = of_another_parameter(parameter)(flights(name), killers(name), (), Random(0))
    found = incidents(changed)
    assert [each.kind for each in found] == EXPECTED[name]
    assert [ranks(each, killers(name))[:1] for each in found] == [[1]] * len(found)
