"""Journals of real deaths of a real vLLM, in tests/forensics/real, each with what was done to the engine.

Each directory is a journal (without the bodies that have files of their own) with its `truth.json`: what was done to
the engine, and which requests killed it. It died of a request in those named `k_`, froze in `h_`; in `l_` it was
killed, restarted or merely stressed.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from extproc.history import reader
from extproc.incidents import evidence
from extproc.incidents.evidence import Flight
from extproc.incidents.incident import Class, Incident

HERE = Path(__file__).parents[1] / "forensics" / "real"
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


@cache
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
