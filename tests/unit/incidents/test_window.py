"""A report made while it happens says what `extproc incidents` says of the whole journal at the same time, however much
of it lies before the window that the report looks at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
from support.journaled import Journaled
from support.poison import ROWS
from support.simulated import Played, again_and_again, healthy, play

from extproc.history.answers import Answers
from extproc.history.index.indexer import Indexer
from extproc.incidents import indexed, live
from extproc.incidents.detect import Sighting
from extproc.incidents.evidence import Flight
from extproc.incidents.incident import Incident, incidents
from extproc.incidents.indexed import Bodies
from extproc.incidents.kept import FILE_NAME, Kept, Report
from extproc.incidents.reporter import AGAIN_SECONDS, Reporter
from extproc.incidents.window import Reach

SHORT: Final = Reach(seconds=95.0, exchanges=30)
PATIENCE: Final = 60.0
HISTORY_SECONDS: Final = 300.0
STORIES: Final = ("deep-schema-hang", "deep-schema-freeze", "media-carried-on")


class Nobody:
    """Hears of incidents."""

    def found(self, found: Incident, report: Report, flights: Sequence[Flight]) -> None:
        """A new one."""

    def changed(self, found: Incident, report: Report, before: Report) -> None:
        """Another one by now."""

    def undelivered(self, report: Report) -> None:
        """Of before."""


def told(played: Played, data: Path) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Of each incident, as soon as it is sure: what the follower's reporter keeps of it, and what the whole journal
    says then."""
    journal, indexer = Journaled(data, played.flights, played.bodies), Indexer(data, reader=Bodies())
    kept = Kept(data / FILE_NAME, 0.0)
    for sighting in sorted((each.sighting for each in incidents(played.flights)), key=_over):
        journal.write_until(_over(sighting))
        while indexer.step():
            pass
        indexer.commit(now=True)
        report(data, kept, sighting)
        reported = kept.of(sighting.upstream, sighting.at)
        assert reported is not None
        yield reported.fields, whole(data, sighting).fields()
    indexer.close()
    assert indexer.failures == 0


def report(data: Path, kept: Kept, sighting: Sighting) -> None:
    """As the follower does it: those of the last minutes have been looked at again."""
    reporter = Reporter(data, kept, Nobody(), None, SHORT)
    for before in kept:
        if before.at > _over(sighting) - AGAIN_SECONDS[-1]:
            reporter.report(replace(sighting, upstream=before.upstream, at=before.at))
    reporter.report(sighting)
    reporter.close(PATIENCE)


def whole(data: Path, sighting: Sighting) -> Incident:
    """As the command does it."""
    with Answers([data]) as asked:
        found = incidents(list(indexed.flights(asked)))
    (one,) = (each for each in found if is_of(each.sighting, sighting))
    return one


def is_of(seen: Sighting, sighting: Sighting) -> bool:
    """Whether it is what was seen."""
    return seen.upstream == sighting.upstream and live.is_same(sighting.at, seen.at, seen.until)


def _over(sighting: Sighting) -> float:
    return max(live.sure_at(sighting), sighting.until) + 2


def later(each: Flight, seconds: float) -> Flight:
    """The same at another time."""

    def moved(at: float | None) -> float | None:
        return None if at is None else at + seconds

    return replace(
        each,
        started=each.started + seconds,
        ended=moved(each.ended),
        first_byte=moved(each.first_byte),
        last_byte=moved(each.last_byte),
        token=moved(each.token),
        silence=each.silence and (each.silence[0] + seconds, each.silence[1] + seconds),
    )


@pytest.mark.parametrize("name", STORIES)
def test_a_report_says_what_the_whole_journal_says(name: str, tmp_path: Path) -> None:
    """Whatever befell the backend, after some minutes in which clients came and left."""
    before = healthy("cancelling", 1, HISTORY_SECONDS)
    (row,) = (each for each in ROWS if each.name == name)
    played = play(row, 1)
    flights = [*before.flights, *(later(each, HISTORY_SECONDS + 20) for each in played.flights)]
    found = list(told(Played(flights, bodies={**before.bodies, **played.bodies}), tmp_path / "data"))
    assert len(found) >= 1
    for reported, printed in found:
        assert reported == printed


def test_what_lies_before_the_window_counts(tmp_path: Path) -> None:
    """A value that was served once, early on; deaths further apart than the window, which are a loop; and the very same
    request at another backend's death."""
    found = list(told(again_and_again(1, {"guided_choice": []}), tmp_path / "data"))
    for reported, printed in found:
        assert reported == printed
    assert [reported["class"] for reported, _ in found] == ["death", "death", "crash_loop", "death"]
    reasons = [reported["suspects"][0]["reasons"] for reported, _ in found]
    assert any("(1 of " in line for line in reasons[0])
    assert any("the very same request was waiting at 1 other death, on 10.0.0.1:8000" in line for line in reasons[-1])
