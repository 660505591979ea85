"""Real deaths of a real vLLM: what befell each backend is told rightly, at the right moment, and by whom.

What was done to each engine stands in `support.deaths`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime

import pytest
from support.deaths import EXPECTED, JOURNALS, flights, killers, ranks, truth

from extproc.incidents import evidence
from extproc.incidents.evidence import Flight
from extproc.incidents.incident import incidents


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
