"""Traffic as varied as that of many applications: a killer stands out in it, and a stop accuses nobody."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from support.worlds import World, suspects

KILLERS: list[dict[str, Any]] = [
    {"guided_choice": []},
    {"response_format": {"type": "text"}},
    {"top_k": -1},
    {"repetition_penalty": 1.05},
    {"logit_bias": {"999999": 1}},
    {"guided_regex": "a**"},
    {"min_tokens": 5, "stop_token_ids": [5]},
]


def request(random: Random) -> dict[str, Any]:
    """What one of many applications asks for: usual parameters often, others seldom, lengths of all kinds."""
    asked: dict[str, Any] = {"max_tokens": random.choice([16, 64, 256, 512, 1024])}
    for name, share, values in (
        ("temperature", 0.7, [0, 0.2, 0.7, 1]),
        ("top_p", 0.3, [0.9, 0.95]),
        ("presence_penalty", 0.1, [0.3, 0.5]),
        ("stop", 0.05, [["\n"], ["###", "END"]]),
        ("seed", 0.5, [random.randrange(10**9)]),
        ("user", 0.3, [f"user-{random.randrange(1000)}"]),
        ("response_format", 0.05, [{"type": "json_object"}]),
        ("response_format", 0.15, [formatted(random)]),
        ("tools", 0.1, [[tool(random)]]),
        ("logprobs", 0.01, [True]),
        ("n", 0.01, [2]),
    ):
        if random.random() < share:
            asked[name] = random.choice(values)
    words = "word " * (int(random.lognormvariate(4, 1.2)) + 1)
    asked["messages"] = [{"role": "user", "content": words}] * random.choice([1, 1, 1, 3, 5])
    return asked


def formatted(random: Random) -> dict[str, Any]:
    """A schema, one of many."""
    members = {f"f{random.randrange(20)}": {"type": random.choice(["string", "integer"])} for _ in range(3)}
    schema = {"type": "object", "properties": members}
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}


def tool(random: Random) -> dict[str, Any]:
    """A tool, one of several."""
    parameters = {"type": "object", "properties": {"q": {"type": "string"}}}
    return {"type": "function", "function": {"name": f"t{random.randrange(6)}", "parameters": parameters}}


def stopped(seed: int, at: float, clients: int) -> World:
    """A backend that serves clients until a moment, at which it reports an error to all that run."""
    world = World(seed)
    random = world.random
    for _ in range(clients):
        start = random.uniform(0, 2)
        while start < at:
            first, stream = start + random.uniform(0.1, 0.8), random.random() < 0.8
            end = first + random.uniform(1, 6)
            if end < at:
                world.add(start, end, first=first if stream else None, last=end, stream=stream, **request(random))
            else:
                end = at + random.uniform(0, 0.4)
                outcome, status = ("upstream_error_frame", 200) if stream else ("upstream_error_status", 500)
                token = first if stream and first < at else None
                world.add(start, end, outcome, status=status, first=token, stream=stream, **request(random))
            start = end + random.uniform(0, 0.3)
    world.refused(at + 3, at + 10)
    return world


WORLDS = [(seed, at, clients) for seed in range(4) for at, clients in ((15, 25), (40, 8), (60, 20))]


@pytest.mark.parametrize(("seed", "at", "clients"), WORLDS)
def test_a_stop_accuses_nobody(seed: int, at: float, clients: int) -> None:
    """However varied what ran was."""
    found = stopped(seed, at, clients).incidents()
    assert [(each.kind.value, each.verdict) for each in found] == [("stopped_or_killed", "no_request")]


@pytest.mark.parametrize("killer", KILLERS, ids=lambda killer: next(iter(killer)))
@pytest.mark.parametrize(("seed", "at", "clients"), WORLDS)
def test_a_killer_is_first(seed: int, at: float, clients: int, killer: dict[str, Any]) -> None:
    """It came within half a second before."""
    world = stopped(seed, at, clients)
    start = at - world.random.uniform(0.01, 0.5)
    id = world.add(start, at + 0.3, "upstream_error_status", status=500, **{**request(world.random), **killer})
    (found,) = world.incidents()
    assert (found.kind.value, suspects(found, 1)) == ("death", [id])
