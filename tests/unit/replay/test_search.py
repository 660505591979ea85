"""The search for the culprit, on servers that are functions: what kills them is known, and each death is counted."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest

from extproc.replay.search import MOST_PAIRS, Attempt, Candidate, Found, How, Result, plan, search

Rule = Callable[[Sequence[str], bool], bool]
"""Whether a process dies that has had these requests, the last ones together or not."""

WINDOW = [f"r{number}" for number in range(12)]


class Server:
    """Dies by a rule about all that its process has seen, and is fresh afterwards."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.deaths = 0
        self.made: list[Attempt] = []
        self._seen: list[str] = []
        self._before: list[Attempt] = []

    def make(self, attempt: Attempt) -> Result:
        """Let it have the requests of an attempt."""
        self.made.append(attempt)
        before = tuple(self._before)
        self._before.append(attempt)
        overlap = attempt.how is How.AS_RECORDED
        for number in [len(attempt.ids)] if overlap else range(1, len(attempt.ids) + 1):
            if self.rule([*self._seen, *attempt.ids[:number]], overlap):
                self.deaths += 1
                self._seen, self._before = [], []
                return Result(True, before, number)
        self._seen += attempt.ids
        return Result(False, before)


def one(id: str) -> Rule:
    """A single request kills."""
    return lambda seen, _: id in seen


def latched(latch: str, trigger: str) -> Rule:
    """It kills only after another, on the same process."""
    return lambda seen, _: latch in seen and trigger in seen[seen.index(latch) :]


def together(*ids: str) -> Rule:
    """They kill only when they overlap."""
    return lambda seen, overlap: overlap and set(ids) <= set(seen)


def test_a_single_request_is_found_at_once_when_it_ranks_first() -> None:
    """One death, one attempt."""
    server = Server(one("r7"))
    found = search([Candidate("r7"), Candidate("r1")], WINDOW, server.make)
    assert found == Found(Attempt(("r7",)), 1, 1)
    assert (server.deaths, len(server.made)) == (1, 1)


def test_suspects_are_tried_alone_in_the_order_of_their_rank() -> None:
    """What does not kill costs no restart; what does, after others, is tried once more on the fresh server."""
    server = Server(one("r7"))
    found = search([Candidate("r1"), Candidate("r2"), Candidate("r7")], WINDOW, server.make)
    assert found == Found(Attempt(("r7",)), 2, 2)
    assert [attempt.ids for attempt in server.made] == [("r1",), ("r2",), ("r7",), ("r7",)]


def test_a_latched_one_is_acquitted_alone_and_found_with_its_latch() -> None:
    """The latch that the ranking names comes before any other."""
    server = Server(latched("early", "r7"))
    found = search([Candidate("r7", "early"), Candidate("r1")], WINDOW, server.make)
    assert found is not None
    assert found.attempt == Attempt(("early", "r7"))
    assert server.deaths == 2


def test_a_latch_that_nobody_named_is_found_among_those_tried_before() -> None:
    """A request that seems to kill alone is not blamed alone."""
    server = Server(latched("r2", "r7"))
    found = search([Candidate("r1"), Candidate("r2"), Candidate("r3"), Candidate("r7")], WINDOW, server.make)
    assert found is not None
    assert found.attempt == Attempt(("r2", "r7"))


@pytest.mark.parametrize("ids", [("r10", "r11"), ("r3", "r9"), ("r0", "r5", "r11")])
def test_those_that_kill_only_together_are_found_in_the_window(ids: tuple[str, ...]) -> None:
    """As they overlapped, without the others."""
    found = search([Candidate("r1"), Candidate("r2")], WINDOW, Server(together(*ids)).make)
    assert found is not None
    assert found.attempt == Attempt(ids, How.AS_RECORDED)


def test_a_pair_outside_of_the_ranking_is_tried_last() -> None:
    """In turn, where overlap does not do it."""

    def rule(seen: Sequence[str], overlap: bool) -> bool:
        return not overlap and "r4" in seen and seen[-1] == "r1"

    found = search([Candidate("r1")], WINDOW, Server(rule).make)
    assert found is not None
    assert found.attempt.ids[-1] == "r1"
    assert "r4" in found.attempt.ids


def test_nothing_that_kills_is_an_answer() -> None:
    """After the whole plan, in each of the rounds; no attempt is made twice in a round."""
    server = Server(lambda *_: False)
    assert search([Candidate("r1", "r0"), Candidate("r2")], WINDOW, server.make, rounds=2) is None
    assert len(server.made) == 2 * len(list(plan([Candidate("r1", "r0"), Candidate("r2")], WINDOW)))
    assert len(set(server.made)) * 2 == len(server.made)
    assert len(server.made) < 2 * (2 + 1 + 4 + MOST_PAIRS)


def test_a_flaky_one_is_told_with_how_often_it_killed() -> None:
    """k of n, and several rounds until it shows."""
    odds = iter([False, True, False, True, True])
    server = Server(lambda seen, _: next(odds))
    assert search([Candidate("r7")], ["r7"], server.make, rounds=5, confirm=4) == Found(Attempt(("r7",)), 3, 4)


@pytest.mark.parametrize("seed", range(40))
def test_any_latch_and_trigger_are_found_whatever_the_ranking(seed: int) -> None:
    """What is found kills a fresh server, and nothing in it can be left out."""
    chance = random.Random(seed)
    latch, trigger = chance.sample(WINDOW, 2)
    suspects = [Candidate(id) for id in chance.sample(WINDOW, len(WINDOW))]
    found = search(suspects, WINDOW, Server(latched(latch, trigger)).make)
    assert found is not None
    assert found.attempt.ids == (latch, trigger)
