"""Who may have caused a death: what was never served stands out, what is new each time does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.worlds import JSON_SCHEMA, SCHEMA, World, suspects

from extproc.incidents import rank
from extproc.incidents.incident import Incident

FRAME = "upstream_error_frame"
STATUS = "upstream_error_status"
UNCONNECTED = "upstream_reset_before_headers"


def world(seed: int = 1) -> World:
    """A backend that has served for half a minute, and dies at second 30 with ten streams."""
    made = World(seed)
    made.traffic(0, 30, count=12)
    made.streams(26, 30, FRAME)
    made.refused(33, 40)
    return made


def killed_by(seed: int = 1, *, since: float = 29.8, **request: Any) -> tuple[Incident, str]:
    """What is told of a death by one request, with two harmless ones that waited, too."""
    made = world(seed)
    made.add(29.7, 30.2, FRAME, seed=made.random.randrange(10**6, 10**9))
    killer = made.add(since, 30.4, STATUS, status=500, **request)
    made.add(29.9, 30.3, FRAME, seed=made.random.randrange(10**6, 10**9), **JSON_SCHEMA)
    (found,) = made.incidents()
    return found, killer


def formatted(schema: Any) -> dict[str, Any]:
    """A request's response format."""
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "person", "schema": schema}}}


@pytest.mark.parametrize(
    "request_",
    [
        {"response_format": {"type": "text"}},
        {"structured_outputs": {"json_object": False}},
        {"guided_choice": []},
        {"guided_regex": "foo**"},
        {"stop": ""},
        {"top_k": -1},
        {"n": 10**9},
        {"logit_bias": {"191222": -100}},
        {"stop_token_ids": [151_645], "min_tokens": 1},
        {"repetition_penalty": 1.05},
        {"messages": []},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}]},
        {"messages": [{"role": "user", "content": "word " * 20_000}]},
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]},
        {"path": "/v1/embeddings", "messages": ..., "input": ["a"] * 6_000},
        {"path": "/v1/completions", "messages": ..., "prompt": ""},
        formatted({**SCHEMA, "properties": {"name": {"type": "string", "pattern": "(a+)+$"}}}),
        formatted({"oneOf": [SCHEMA, {"anyOf": [SCHEMA]}]}),
        {"something_that_no_rule_knows": 5},
    ],
)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_one_that_asked_for_what_was_never_served_is_first(request_: dict[str, Any], seed: int) -> None:
    """Whatever it is."""
    found, killer = killed_by(seed, **request_)
    assert (found.kind.value, suspects(found, 1)) == ("death", [killer])


def test_the_same_request_long_in_the_queue_is_first() -> None:
    """It waited for half the world's time."""
    found, killer = killed_by(since=15.0, structured_outputs={"json_object": False})
    assert suspects(found, 1) == [killer]


def test_a_value_that_is_new_each_time_accuses_nobody() -> None:
    """Seeds, users and schemas of one's own are new in every request."""
    made = World()
    for number in range(60):
        own = formatted({"type": "object", "properties": {f"field{number}": {"type": "string"}}})
        made.add(number / 3, number / 3 + 2, first=number / 3 + 0.2, user=f"user-{number}", seed=number * 7919, **own)
    made.streams(
        26, 30, FRAME, user="somebody", **formatted({"type": "object", "properties": {"x": {"type": "string"}}})
    )
    made.add(
        29.9,
        30.2,
        FRAME,
        user="nobody",
        seed=4711,
        **formatted({"type": "object", "properties": {"y": {"type": "string"}}}),
    )
    made.refused(33, 40)
    (found,) = made.incidents()
    assert (found.kind.value, found.verdict) == ("stopped_or_killed", "no_request")


def test_a_request_with_tokens_is_all_but_acquitted() -> None:
    """The engine lived with it; a waiting one with less to be said of it stands before it."""
    made = world()
    odd = made.add(27, 30.3, FRAME, first=27.5, top_k=-1)
    waiting = made.add(29.9, 30.4, STATUS, status=500, guided_choice=[])
    (found,) = made.incidents()
    assert suspects(found, 1) == [waiting]
    assert all(each.score < 0.05 for each in found.suspects if each.flight.id == odd)


def test_what_came_after_the_moment_is_no_suspect() -> None:
    """It is a retry, mostly."""
    made = world()
    killer = made.add(29.9, 30.2, STATUS, status=500, guided_choice=[])
    again = made.add(30.3, 30.5, STATUS, status=500, guided_choice=[])
    (found,) = made.incidents()
    assert suspects(found, 1) == [killer]
    assert again not in suspects(found, 100)


def test_a_retry_that_meets_a_second_backend_says_so() -> None:
    """The same body was waiting at both deaths."""
    made = world()
    made.traffic(0, 33, upstream="gpu-2:8000")
    made.streams(29, 33, FRAME, upstream="gpu-2:8000")
    one = made.add(29.9, 30.2, STATUS, status=500, presence_penalty=1.5)
    two = made.add(32.4, 33.2, STATUS, status=500, presence_penalty=1.5, upstream="gpu-2:8000")
    made.refused(36, 40, upstream="gpu-2:8000")
    first, second = made.incidents()
    assert [suspects(first, 1), suspects(second, 1)] == [[one], [two]]
    assert "the very same request was waiting at 1 other death, on gpu-1:8000" in second.suspects[0].reasons


def test_a_retry_of_envoys_is_a_suspect_at_each_backend_that_it_met() -> None:
    """One exchange, which Envoy took from the backend that it killed to the next one."""
    made = world()
    made.traffic(0, 33, upstream="gpu-2:8000")
    made.streams(29, 33, FRAME, upstream="gpu-2:8000")
    tried = [(29.9, 30.1, "gpu-1:8000", "UC")]
    killer = made.add(29.9, 33.3, STATUS, status=500, upstream="gpu-2:8000", failed_attempts=tried, guided_choice=[])
    made.refused(36, 40, upstream="gpu-2:8000")
    assert [(each.sighting.upstream, suspects(each, 1)) for each in made.incidents()] == [
        ("gpu-1:8000", [killer]),
        ("gpu-2:8000", [killer]),
    ]


def test_several_deaths_are_intersected() -> None:
    """A text that killed twice, with nothing unusual in its parameters but itself."""
    made = World()
    text = [{"role": "user", "content": "The one text"}]
    killers = []
    for at in (30, 90):
        made.traffic(at - 30, at)
        made.streams(at - 4, at, FRAME)
        made.add(at - 0.15, at + 0.2, FRAME, seed=made.random.randrange(10**6, 10**9))
        killers.append(made.add(at - 0.1, at + 0.3, STATUS, status=500, messages=text))
        made.refused(at + 2, at + 20)
    assert [suspects(each, 1) for each in made.incidents()] == [[killers[0]], [killers[1]]]


def test_a_pair_names_the_earlier_one() -> None:
    """A regex that was served, once, and another that kills after it."""
    made = World()
    latch = made.add(0.5, 2, first=0.9, structured_outputs={"regex": "^a$"})
    made.traffic(0, 30, count=12)
    made.streams(26, 30, FRAME)
    killer = made.add(29.8, 30.4, STATUS, status=500, structured_outputs={"regex": "a**"})
    made.refused(33, 40)
    (found,) = made.incidents()
    assert found.suspects[0].flight.id == killer
    assert found.suspects[0].latch is not None
    assert found.suspects[0].latch.id == latch


def test_what_only_one_had_asked_for_just_before_is_no_precedent() -> None:
    """The pair that kills: the first of its kind was served, seconds before, and is named as the earlier one."""
    made = World()
    made.traffic(0, 110, count=12)
    made.streams(106, 110, FRAME)
    latch = made.add(104, 104.6, first=104.2, id_slot=0, seed=7)
    killer = made.add(109.8, 110.3, FRAME, id_slot=0, seed=8)
    made.refused(113, 120)
    (found,) = made.incidents()
    assert suspects(found, 1) == [killer]
    assert found.suspects[0].latch is not None
    assert found.suspects[0].latch.id == latch


def test_what_was_asked_for_now_and_then_is_a_precedent() -> None:
    """The same, where others had lived with it long before."""
    made = World()
    made.traffic(0, 110, count=12)
    for at in (10, 20, 30, 40):
        made.add(at, at + 0.6, first=at + 0.2, id_slot=0, seed=at)
    made.streams(106, 110, FRAME)
    made.add(109.8, 110.3, FRAME, id_slot=0, seed=8)
    made.refused(113, 120)
    (found,) = made.incidents()
    assert found.verdict == "no_request"


def test_a_cancel_just_before_is_among_the_suspects() -> None:
    """Engines have died of an abort; where clients hardly ever leave, that one stands out."""
    made = world()
    left = made.add(28, 29.95, "client_cancel_mid_stream", first=28.4, last=29.9)
    (found,) = made.incidents()
    assert suspects(found, 1) == [left]


def test_a_cancel_where_clients_often_leave_accuses_nobody() -> None:
    """One is always just before."""
    made = world()
    for number in range(60):
        made.add(number / 2, number / 2 + 0.4, "client_cancel_mid_stream", first=number / 2 + 0.2)
    (found,) = made.incidents()
    assert found.verdict == "no_request"


def test_what_had_tokens_is_found_when_it_was_there_at_many_deaths() -> None:
    """A shape that hardly anybody asks for, in flight each time."""
    made = World()
    killers = []
    for at in (30, 90, 150, 210):
        made.traffic(at - 30, at, count=20)
        made.streams(at - 4, at, FRAME)
        killers.append(made.add(at - 3, at + 0.1, FRAME, first=at - 2, top_k=at))
        made.refused(at + 2, at + 20)
    made.traffic(240, 300, count=20)
    assert [suspects(each, 1) for each in made.incidents()] == [[killer] for killer in killers]


def test_one_request_alone_is_suspected_for_its_moment() -> None:
    """Nothing else was there, it had just come, and it is like others: the moment speaks, a little."""
    made = World()
    for number in range(5):
        made.add(number * 60, number * 60 + 2, first=number * 60 + 0.3)
    made.add(300, 300.2, UNCONNECTED, status=503, guided_choice=[])
    made.refused(302, 310)
    (found,) = made.incidents()
    assert (found.kind.value, len(found.suspects)) == ("death", 1)


def test_the_reason_says_how_often_it_was_served() -> None:
    """With what, never, and of how many."""
    found, _ = killed_by(response_format={"type": "text"})
    first = found.suspects[0]
    assert any(
        line.startswith('response_format.type "text": never before on this model (0 of ') for line in first.reasons
    )
    assert "no token yet, waiting 0.2 s" in first.reasons


def test_scores_are_shares_of_one() -> None:
    """All suspects and nobody together."""
    found, _ = killed_by(guided_choice=[])
    total = found.ranking.nobody + sum(each.score for each in found.ranking.suspects)
    assert total == pytest.approx(1, abs=0.02)
    assert [each.weight for each in found.ranking.suspects] == sorted(
        (each.weight for each in found.ranking.suspects), reverse=True
    )


def test_every_place_has_a_weight() -> None:
    """The table ends with what fits all."""
    assert rank.WEIGHTS[-1][0] == ".*"


def test_the_weights_in_the_document_are_those_of_the_code(checkout: Path) -> None:
    """Line by line, as `rank.tables` gives them."""
    lines = (checkout / "docs" / "forensics.md").read_text().splitlines()
    assert [line for table in rank.tables() for line in table if line not in lines] == []
