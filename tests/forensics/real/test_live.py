"""Real deaths, as the follower sees them while they happen: the same as from the whole journal, within seconds."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.commands import invoke
from support.played import as_seen, played

from extproc.config import Config
from extproc.follow import process
from extproc.follow.follower import Follower
from extproc.history import reader
from extproc.incidents import evidence
from extproc.incidents.detect import Sighting
from extproc.incidents.incident import Incident, incidents
from extproc.incidents.kept import FILE_NAME, Kept
from extproc.incidents.live import is_same
from extproc.telemetry.metrics import Metrics

HERE = Path(__file__).parent
JOURNALS = sorted(path.name for path in HERE.iterdir() if (path / "truth.json").exists())
EMPTY = {"version": 1, "since": 0, "reports": []}


def of(found: Iterable[Incident], seen: Sighting) -> Incident:
    """The one that was seen."""
    (one,) = (
        each
        for each in found
        if each.sighting.upstream == seen.upstream and is_same(seen.at, each.sighting.at, each.sighting.until)
    )
    return one


def gist(found: Incident) -> tuple[str, str, str | None]:
    """What nobody may be told wrongly in the first place."""
    return found.id, found.kind.value, found.suspects[0].flight.id if found.suspects else None


@pytest.mark.parametrize("name", JOURNALS)
def test_what_is_told_while_it_happens_holds(name: str) -> None:
    """Each incident once, none that is none, with the moment, the class and the first suspect of the whole journal, at
    most 10 s after the last that it broke. A silence as a hang while it lasts, within 10 s, and once more when it is
    over."""
    every = [
        flight for each in reader.exchanges([HERE / name]) for flight in evidence.flights(each, evidence.recorded_body)
    ]
    whole = incidents(every)
    seen = list(played([replace(each, atoms=None) for each in every]))
    assert len([sighting for _, sighting in seen if not sighting.lasts]) == len(whole)
    for now, sighting in seen:
        known = [*(each for each in every if each.ended is not None and each.ended <= now), *as_seen(every, now)]
        told, last = of(incidents(known, now), sighting), of(whole, sighting)
        assert gist(told) == (gist(last) if not sighting.lasts else (last.id, "hang", gist(last)[2]))
        assert now - (sighting.at if sighting.lasts else max(sighting.until, sighting.at)) <= 10


def reported(directory: Path) -> list[dict[str, Any]]:
    """What a follower that reads a journal from its beginning keeps of it."""
    (directory / "follow").mkdir(mode=0o700)
    position = directory / "follow" / "position.json"
    position.with_name(FILE_NAME).write_text(json.dumps(EMPTY))
    config = Config(data_dir=directory)
    watcher = process.watching(config, Metrics((), {}), None, position)
    follower = Follower(directory, [], None, watcher=watcher)
    while follower.step():
        pass
    follower.finish()
    follower.step()
    follower.close(60.0)
    return [each.fields for each in sorted(Kept(position.with_name(FILE_NAME), 0.0), key=lambda each: each.at)]


@pytest.mark.parametrize("name", ["h_freeze_then_kill", "k_fleet_sdk_retry", "k_regex_bad_stream", "l_500_burst"])
def test_a_follower_reports_what_the_command_prints(name: str, tmp_path: Path) -> None:
    """Field by field, of the same journal."""
    shutil.copytree(HERE / name, tmp_path / "data")
    printed = invoke("incidents", "--json", "--data-dir", tmp_path / "data").stdout.splitlines()
    assert reported(tmp_path / "data") == [json.loads(line) for line in printed]
