"""A watch tells of what befalls backends once, a silence while it lasts and once more when it is over."""

from __future__ import annotations

import pytest
from support.played import played
from support.worlds import START, World

Told = list[tuple[str, bool, float]]


def told(world: World) -> Told:
    """Of each sighting: what was seen, whether it lasts, and how long after its moment it was told."""
    return [
        (sighting.kind.value, sighting.lasts, round(now - sighting.at, 1)) for now, sighting in played(world.flights())
    ]


def silent(lasted: float | None, *, ends: float = 120) -> World:
    """Streams that fall silent at second 30 and go on after so long, or never, until their clients leave."""
    world = World()
    world.traffic(0, 30)
    for number in range(6):
        first = 27.4 + number / 10
        if lasted is None:
            world.add(27 + number / 10, ends + number / 10, "client_cancel_mid_stream", first=first, last=30)
        else:
            world.add(27 + number / 10, ends + number / 10, first=first, silence=(30, 30 + lasted))
    return world


@pytest.mark.parametrize(
    ("lasted", "kinds"),
    [(6, [("freeze", False)]), (7.9, [("freeze", False)]), (30, [("hang", True), ("freeze", False)])],
)
def test_a_freeze_is_told_within_ten_seconds(lasted: float, kinds: list[tuple[str, bool]]) -> None:
    """Long before its streams end: one that lasts for longer as a hang, which is corrected when it is over."""
    found = told(silent(lasted))
    assert [(kind, lasts) for kind, lasts, _ in found] == kinds
    assert found[0][2] <= 10
    assert found[-1][2] <= lasted + 3


def test_a_hang_is_told_once_while_it_lasts() -> None:
    """Within ten seconds, however long that is, and whoever leaves."""
    (found,) = told(silent(None))
    assert found[:2] == ("hang", True)
    assert found[2] <= 10


def test_a_hang_is_over_when_the_backend_answers_anybody() -> None:
    """The streams that hung are gone by then."""
    world = silent(None, ends=50)
    world.traffic(70, 90)
    assert [each[:2] for each in told(world)] == [("hang", True), ("hang", False)]


def test_a_short_silence_is_nothing() -> None:
    """Nor one of a few streams, beside one that goes on."""
    assert told(silent(4.5)) == []
    world = silent(None)
    world.add(27, 100, first=27.2, last=99, silence=(40, 40.1))
    assert told(world) == []


def test_what_is_forgotten_makes_no_incident_of_what_was_none() -> None:
    """Three streams that were silent by chance, of which the pauses before are out of sight a quarter of an hour later,
    when something else is to be looked at."""
    world = World()
    world.traffic(0, 60)
    world.add(60, 95, first=61, silence=(70, 70.5), seed=1)
    for number, pause in enumerate([(65, 80), (105, 118.5), (106, 118), (107, 119)]):
        world.add(pause[0] - 4, pause[1] + 6, first=pause[0] - 3, silence=pause, seed=number)
    for number in range(3):
        world.add(101 + number / 10, 103.5, first=102, seed=number)
    world.add(1000, 1000.1, "upstream_error_status", status=500)
    assert list(played(world.flights(), step=2.0, since=START + 95)) == []
