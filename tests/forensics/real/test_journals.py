"""Real deaths of a real vLLM: what befell each backend is told rightly, at the right moment, and by whom.

Each directory is a journal (without the bodies that have files of their own) with its `truth.json`: what was done to
the engine, and which requests killed it. It died of a request in those named `k_`, froze in `h_`; in `l_` it was
killed, restarted or merely stressed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from extproc.history import reader
from extproc.incidents import evidence
from extproc.incidents.evidence import Flight
from extproc.incidents.incident import Class, Incident, incidents

HERE = Path(__file__).parent
JOURNALS = sorted(path.name for path in HERE.iterdir() if (path / "truth.json").exists())

EXPECTED = {
    "h_freeze_then_kill": [Class.HANG],
    "k_crashloop": [Class.DEATH, Class.DEATH, Class.CRASH_LOOP],
    "k_fleet_sdk_retry": [Class.DEATH, Class.DEATH],
    "k_queued": [Class.DEATH],
    "k_regex_bad_stream": [Class.DEATH],
    "k_response_format_text": [Class.DEATH],
    "l_400_burst": [],
    "l_500_burst": [],
    "l_cancel_burst": [],
    "l_sigkill_api": [Class.STOPPED_OR_KILLED],
    "l_sigkill_engine": [Class.STOPPED_OR_KILLED],
    "l_sigterm_restart": [Class.STOPPED_OR_KILLED],
    "slow_first_compile": [],
}


def flights(name: str) -> list[Flight]:
    """A journal's exchanges."""
    every = reader.exchanges([HERE / name])
    return [flight for each in every for flight in evidence.flights(each, evidence.recorded_body)]


def truth(name: str) -> dict[str, Any]:
    """What was done to the engine."""
    found: dict[str, Any] = json.loads((HERE / name / "truth.json").read_text())
    return found


def killers(name: str) -> set[str]:
    """The requests that it died of."""
    return {each["id"] for each in truth(name)["killers"]}


def ranks(incident: Incident, guilty: set[str]) -> list[int]:
    """The places at which the guilty are named."""
    return [rank for rank, each in enumerate(incident.suspects, 1) if each.flight.id in guilty]


def without_messages(found: Sequence[Flight]) -> list[Flight]:
    """No engine's message is known."""
    return [replace(each, error="") for each in found]


def elsewhere(found: Sequence[Flight]) -> list[Flight]:
    """Other backends, models and paths, in another year."""
    year = 86_400.0 * 365

    def later(at: float | None) -> float | None:
        return None if at is None else at + year

    return [
        replace(
            each,
            upstream=f"gpu-{each.upstream}",
            model=each.model and "another/model",
            error=each.error.replace("EngineCore", "Core"),
            started=each.started + year,
            ended=later(each.ended),
            first_byte=later(each.first_byte),
            last_byte=later(each.last_byte),
            token=later(each.token),
        )
        for each in found
    ]


def without_refusals(found: Sequence[Flight]) -> list[Flight]:
    """Nobody tried again."""
    return [each for each in found if each.end is not evidence.End.REFUSED]


CHANGES = [list, without_messages, elsewhere, without_refusals]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("name", JOURNALS)
def test_what_it_was(name: str, change: Callable[[Sequence[Flight]], list[Flight]]) -> None:
    """The classes are right, also where no engine's message, name or refused connection helps; none is invented."""
    assert [each.kind for each in incidents(change(flights(name)))] == EXPECTED[name]


@pytest.mark.parametrize("name", [name for name in JOURNALS if EXPECTED[name]])
def test_when_it_was(name: str) -> None:
    """The moment is the first bad end, or, after a silence, the last byte: to the millisecond."""
    told = truth(name)
    moments = [told["last_bytes_at"]] if "last_bytes_at" in told else told["first_bad_end_at"]
    found = [each.sighting.at for each in incidents(flights(name))]
    assert found[: len(moments)] == pytest.approx([datetime.fromisoformat(at).timestamp() for at in moments], abs=0.002)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("name", [name for name in JOURNALS if killers(name)])
def test_who_it_was(name: str, change: Callable[[Sequence[Flight]], list[Flight]]) -> None:
    """The killer is named first at each death."""
    assert [ranks(each, killers(name))[:1] for each in incidents(change(flights(name)))] == [[1]] * len(EXPECTED[name])


@pytest.mark.parametrize("name", [name for name in JOURNALS if killers(name)])
def test_nobody_is_named_in_a_killers_place(name: str) -> None:
    """The same death without the request that it was of: a process that was killed, and no other request is accused."""
    found = incidents([each for each in flights(name) if each.id not in killers(name)])
    assert {each.verdict for each in found} == {"no_request"}


@pytest.mark.parametrize("name", JOURNALS)
def test_the_order_of_reading_does_not_matter(name: str) -> None:
    """The same exchanges give the same incidents, whoever reads them."""
    there = flights(name)
    assert [each.fields() for each in incidents(there)] == [each.fields() for each in incidents(reversed(there))]
