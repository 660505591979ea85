"""envoy/examples/prompt-prefix: prompts that begin alike go to the same server."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from support.exchanges import present
from support.recipes import Answer, Recipe
from support.servers import Servers, Stream

from extproc.core.records import Routing

LONG = "This is what a conversation begins with. " * 30
"""Longer than the 1024 bytes that are hashed."""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, servers: Servers) -> Iterator[Recipe]:
    """The recipe in front of them."""
    with Recipe("prompt-prefix", tmp_path_factory.mktemp("prefix"), backends=servers.ports) as running:
        yield running
        assert running.stop() == 0
        assert running.findings() == []


def said(*texts: str, **more: Any) -> dict[str, Any]:
    """A request with the messages of a conversation."""
    roles = ("user", "assistant")
    return {
        "model": "demo",
        "messages": [{"role": roles[n % 2], "content": text} for n, text in enumerate(texts)],
        **more,
    }


def ask(recipe: Recipe, body: Any, **headers: str) -> Answer:
    """One request on a new connection."""
    with recipe.client() as client:
        answer = client.ask(body=body, **headers)
    assert answer.status == 200
    return answer


def chunked(recipe: Recipe, body: dict[str, Any], **headers: str) -> Answer:
    """The same with a body whose length is not announced."""
    return ask(recipe, iter([json.dumps(body).encode()]), content_type="application/json", **headers)


def routing(recipe: Recipe, answer: Answer) -> Routing:
    """What the record says of it."""
    return present(recipe.settled(answer).routing)


def test_a_conversation_stays(recipe: Recipe) -> None:
    """From turn to turn, streamed or not, whatever stands before the messages."""
    turns = []
    for number in range(20):
        first = f"{number}: {LONG}"
        turns = [
            ask(recipe, said(first)),
            ask(recipe, said(first, "An answer.", "Another question")),
            ask(recipe, said(first, "An answer.", "Another question", stream=True)),
            ask(recipe, {"stream": True, "temperature": 0.5, **said(first, "An answer.", "What?", "So.", "And then?")}),
        ]
        assert len({answer.upstream for answer in turns}) == 1
    record = recipe.settled(turns[-1])
    assert (record.upstream, record.route, record.held) == (turns[-1].upstream, "default", True)
    assert record.routing == routing(recipe, turns[0])
    assert present(record.routing).by == "body"
    assert list(present(record.routing).set) == ["x-prompt-prefix"]


def test_other_prompts_are_spread(recipe: Recipe) -> None:
    """A third each of 240, within five deviations and a little for how even hashing is."""
    spread = recipe.spread(240, lambda client, number: client.ask(body=said(f"{number}: {LONG}")), clients=2)
    assert len(spread) == 3
    assert all(40 <= share <= 120 for share in spread.values()), spread


def test_an_answer_that_streams(recipe: Recipe, servers: Servers) -> None:
    """It passes event by event from the server that the prompt chose."""
    chosen = ask(recipe, said(LONG)).upstream
    stream = opened(recipe, servers, said(LONG, stream=True))
    assert stream.upstream == chosen
    assert stream.connection.read_chunk() == b"data: a\n\n"
    servers.end_streams()
    assert stream.rest().body == b"data: a\n\n"
    assert present(recipe.settled(stream.id).routing).by == "body"


def opened(recipe: Recipe, servers: Servers, body: dict[str, Any]) -> Stream:
    """A request whose answer has begun."""
    return servers.open_stream(recipe.port, json.dumps(body).encode(), "content-type: application/json\r\n")


def test_a_prompt_that_all_have_overruns_nobody(recipe: Recipe, servers: Servers) -> None:
    """Of 18 answers that run at once no server has more than one and a half times its share, and one more."""
    chosen = ask(recipe, said(LONG)).upstream
    streams = [opened(recipe, servers, said(LONG, stream=True)) for _ in range(18)]
    running = Counter(stream.upstream for stream in streams)
    assert streams[0].upstream == chosen
    assert max(running.values()) <= 10
    assert len(running) >= 2
    servers.end_streams()
    for stream in streams:
        stream.rest()
    assert ask(recipe, said(LONG)).upstream == chosen


def test_what_is_not_held_goes_anywhere(recipe: Recipe) -> None:
    """A chunked request, one that is larger than what is held, and one without a prompt; the record says why."""
    answers = [chunked(recipe, said(LONG)) for _ in range(40)]
    assert len({answer.upstream for answer in answers}) > 1
    assert routing(recipe, answers[0]) == Routing(by="headers", why="no content-length")
    large = ask(recipe, said("a" * 600_000))
    assert routing(recipe, large).by == "headers"
    assert "hold_request_bytes" in present(routing(recipe, large).why)
    assert routing(recipe, ask(recipe, b"no JSON")).why == "no JSON object"


def test_a_client_can_hash_by_itself(recipe: Recipe) -> None:
    """Its own `x-prompt-prefix` counts where the body was not read, and only there."""
    answers = [chunked(recipe, said(f"{number}"), x_prompt_prefix="mine") for number in range(20)]
    assert len({answer.upstream for answer in answers}) == 1
    chosen = {ask(recipe, said(f"{number}: {LONG}"), x_prompt_prefix="mine").upstream for number in range(40)}
    assert len(chosen) == 3
