"""The time that ids tell of."""

from __future__ import annotations

import pytest
from support.journals import START_NS, id_of

from extproc.core.times import timestamp
from extproc.fleet.span import EVERYTHING, Span

SECOND = 1_000_000_000


@pytest.mark.parametrize(
    ("ids", "seconds"),
    [
        ([id_of(1)], (0, 1)),
        ([id_of(1, START_NS + 9 * SECOND), id_of(2)], (0, 10)),
        ([id_of(1).upper()], (0, 1)),
    ],
)
def test_ids_say_when_their_exchanges_began(ids: list[str], seconds: tuple[int, int]) -> None:
    """From the first to the last, which has milliseconds only."""
    since, until = (timestamp(START_NS + each * SECOND) for each in seconds)
    assert Span.of_ids(ids) == Span(since, until)


@pytest.mark.parametrize(
    "ids",
    [
        [],
        [""],
        ["5f8908"],
        [id_of(1)[-8:]],
        [id_of(1)[:-1]],
        [id_of(1), "5f8908"],
        [id_of(1).replace("-7", "-4", 1)],
        [id_of(1).replace("-", "")],
        ["01a1fbca-058c-746d-8c4e-43adff5f890*"],
        [f"{id_of(1)}\n"],
    ],
)
def test_what_is_no_whole_id_of_ours_says_nothing(ids: list[str]) -> None:
    """One such among others, and all there is has to be looked through."""
    assert Span.of_ids(ids) == EVERYTHING
