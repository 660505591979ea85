"""`extproc status`: what the files of a data directory say of the recorder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.commands import invoke
from support.recorded import Recording, as_a_crash_leaves_it

from extproc.follow import checkpoint
from extproc.follow.follower import Follower
from extproc.history.index.indexer import Indexer
from extproc.journal.live import NOTHING, LiveTable
from extproc.journal.recovery import recover


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Where a journal is recorded."""
    return tmp_path / "data"


def status(data: Path, code: int) -> Any:
    """What it says to a program."""
    result = invoke("status", "--json", "--data-dir", data)
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


def test_a_recorder_that_runs(data: Path) -> None:
    """The worker, and what is in flight: by backend where it is known, else by cluster."""
    with Recording(data) as recording:
        recording.add()
        ids = [recording.add(answer=None) for _ in range(3)]
        table = LiveTable.create(data, 0, "b00t")
        for id, upstream in zip(ids, ("10.0.0.7:8000", None, "10.0.0.7:8000"), strict=True):
            slot = table.take()
            assert slot is not None
            slot.describe(NOTHING, 1, id, "POST", "/", upstream, "llm")
        found = status(data, 0)
        table.close()
    assert found["recording"] is True
    assert [(each["worker"], each["boot_id"]) for each in found["workers"]] == [(0, "b00t")]
    assert found["in_flight"] == {"10.0.0.7:8000": 2, "llm": 1}
    assert found["used_bytes"] > 1000
    assert found["free_bytes"] > 0
    assert found["bytes_a_day"] > found["used_bytes"]
    assert found["lasts_days"] >= 0
    assert found["oldest_record_at"] <= found["workers"][0]["recording_since"]
    assert (found["follower_behind_bytes"], found["last_death_at"]) == (None, None)


def test_one_that_has_been_stopped(data: Path) -> None:
    """Exit code 1, and the rest is told all the same."""
    with Recording(data) as recording:
        recording.add()
    found = status(data, 1)
    assert (found["recording"], found["workers"], found["in_flight"]) == (False, [], {})
    assert found["oldest_record_at"] is not None
    assert found["last_death_at"] is None


def test_a_death(data: Path, tmp_path: Path) -> None:
    """Seen before recovery, and afterwards."""
    with Recording(data) as recording:
        recording.add(answer=None)
        crashed = as_a_crash_leaves_it(data, tmp_path / "crashed")
    assert status(crashed, 1)["last_death_at"] is not None
    recover(crashed)
    assert status(crashed, 1)["last_death_at"] is not None


def test_the_follower(data: Path) -> None:
    """How far it is behind: nothing when it has read all, something when more has come."""
    with Recording(data) as recording, checkpoint.locked(data) as kept:
        follower = Follower(data, [], kept)
        recording.add()
        while follower.step():
            pass
        follower.close(5)
        before = status(data, 0)
        recording.add()
        after = status(data, 0)
    assert before["follower_behind_bytes"] == 0
    assert after["follower_behind_bytes"] > 0
    assert before["follower_seen_at"] is not None


def test_the_index(data: Path) -> None:
    """How much of the journal is not in it; null where there is none, and for a person in words."""
    with Recording(data) as recording:
        recording.add()
        assert status(data, 0)["index_behind_bytes"] is None
        assert "none: questions read the whole journal" in invoke("status", "--data-dir", data).stdout
        indexer = Indexer(data)
        assert indexer.behind_bytes > 0
        while indexer.step():
            pass
        assert indexer.behind_bytes == 0
        indexer.close()
        assert status(data, 0)["index_behind_bytes"] == 0
        recording.add()
        assert indexer.behind_bytes > 0
        assert status(data, 0)["index_behind_bytes"] > 0


def test_an_empty_directory(data: Path) -> None:
    """Nothing is there, and nothing is raised."""
    data.mkdir(0o700)
    found = status(data, 1)
    assert (found["used_bytes"], found["bytes_a_day"], found["lasts_days"]) == (0, None, None)


def test_a_person_reads_lines(data: Path) -> None:
    """The first thing that they want to know comes first."""
    with Recording(data) as recording:
        recording.add(answer=None)
        result = invoke("status", "--data-dir", data)
    assert result.exit_code == 0
    lines = dict(line.split(None, 1) for line in result.stdout.splitlines())
    assert lines["recording"].startswith("yes, workers 0 (pid ")
    stopped = invoke("status", "--data-dir", data)
    assert stopped.exit_code == 1
    assert "NO: no worker writes here" in stopped.stdout
