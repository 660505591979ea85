"""Each incident is reported once, also across restarts, and none is lost."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from extproc.history.index.indexer import Indexer
from extproc.incidents.detect import Kind, Life, Sighting
from extproc.incidents.evidence import Flight
from extproc.incidents.incident import Incident
from extproc.incidents.indexed import Bodies
from extproc.incidents.kept import FILE_NAME, MOST, Kept, Report
from extproc.incidents.reporter import Reporter

JOURNAL = Path(__file__).parents[2] / "forensics" / "real" / "k_fleet_sdk_retry"
PATIENCE = 60.0


class Audience:
    """Notes what it is told; nothing is delivered before the test says so."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, str]] = []

    def found(self, found: Incident, report: Report, flights: Sequence[Flight]) -> None:
        """A new one."""
        self.heard.append(("found", report.id))

    def changed(self, found: Incident, report: Report, before: Report) -> None:
        """Another one by now."""
        self.heard.append(("changed", report.id))

    def undelivered(self, report: Report) -> None:
        """Of before."""
        self.heard.append(("undelivered", report.id))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A journal with two deaths, of which nothing was reported."""
    shutil.copytree(JOURNAL, tmp_path / "data")
    kept(tmp_path / "data", since=0)
    return tmp_path / "data"


def kept(data: Path, since: float) -> None:
    """As a follower leaves it that has reported nothing."""
    (data / FILE_NAME).write_text(json.dumps({"version": 1, "since": since, "reports": []}))


def run(data: Path, catch_up_from: float | None = 0.0) -> tuple[list[tuple[str, str]], Kept]:
    """What a start of a reporter has to say, and what it keeps."""
    audience, file = Audience(), Kept(data / FILE_NAME, 1.0)
    Reporter(data, file, audience, catch_up_from).close(PATIENCE)
    return audience.heard, file


def test_what_nobody_came_to_report_is_reported_at_the_next_start(data: Path) -> None:
    """Each once: a further start has nothing to say that was delivered."""
    heard, file = run(data)
    assert [word for word, _ in heard] == ["found", "found"]
    for report in file:
        file.delivered(report.id)
    assert run(data)[0] == []


def test_what_was_not_delivered_is_delivered_at_the_next_start(data: Path) -> None:
    """And found no second time."""
    (_, first), (_, second) = run(data)[0]
    assert run(data)[0] == [("undelivered", first), ("undelivered", second)]


def test_what_was_before_the_first_start_is_not_reported(data: Path) -> None:
    """An old journal is no news."""
    kept(data, since=4_000_000_000)
    assert run(data)[0] == []
    kept(data, since=0)
    assert run(data, catch_up_from=None)[0] == []


def test_a_changed_suspect_is_told(data: Path) -> None:
    """What was reported under an id stays under it."""
    _, file = run(data)
    (first, *_) = sorted(file, key=lambda each: each.at)
    file.put(Report(first.id, first.upstream, first.at, first.until, {**first.fields, "suspects": []}, {}, True))
    assert ("changed", first.id) in run(data)[0]


def test_a_hang_that_ended_between_two_starts_is_told(data: Path) -> None:
    """However long before its beginning was."""
    _, file = run(data)
    (first, *_) = sorted(file, key=lambda each: each.at)
    lasting = {**first.fields, "class": "hang", "ended_at": None}
    file.put(Report(first.id, first.upstream, first.at, first.until, lasting, {}, True))
    assert run(data, catch_up_from=first.at + 3600)[0][-1] == ("changed", first.id)


def test_a_damaged_file_is_begun_anew(data: Path) -> None:
    """What came before is not reported again."""
    run(data)
    (data / FILE_NAME).write_text("{")
    file = Kept(data / FILE_NAME, 4_000_000_000.0)
    assert (file.since, list(file)) == (4_000_000_000.0, [])
    assert Kept(data / FILE_NAME, 1.0).since == 4_000_000_000.0


def test_only_the_last_reports_are_kept(tmp_path: Path) -> None:
    """The file stays small."""
    file = Kept(tmp_path / FILE_NAME, 0.0)
    for number in range(MOST + 5):
        file.put(Report(f"i-{number}", "a:1", 1e6 * number, 1e6 * number, {}, {}))
    assert [each.id for each in Kept(tmp_path / FILE_NAME, 0.0)] == [f"i-{number}" for number in range(5, MOST + 5)]


def test_without_an_index_the_last_exchanges_have_to_do(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Which is said once, however often it is looked; with one nothing is said, and the reports are the same."""
    first, file = run(data)
    reporter = Reporter(data, file, Audience(), None)
    for report in [*file, *file]:
        reporter.report(sighting(report))
    reporter.close(PATIENCE)
    assert len([each for each in caplog.records if "without the index" in each.message]) == 2  # of two reporters
    without = [each.fields for each in file]
    caplog.clear()
    indexer = Indexer(data, reader=Bodies())
    while indexer.step():
        pass
    indexer.close()
    kept(data, since=0)
    again, file = run(data)
    assert (again, [each.fields for each in file]) == (first, without)
    assert [each for each in caplog.records if each.name == "extproc.incidents"] == []


def sighting(report: Report) -> Sighting:
    """What was seen, as far as a reporter goes by it."""
    return Sighting(Kind.DEATH, report.upstream, None, report.at, report.until, 1.0, (), (), Life(None))
