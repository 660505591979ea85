"""A watch tells of what befalls backends once, a silence while it lasts and once more when it is over."""

from __future__ import annotations

import pytest
from support.played import played
from support.worlds import World

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
