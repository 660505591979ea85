"""The smallest request, on servers that are functions: each kill is counted, as it costs a restart."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from extproc.replay.minimise import CONTENT, Document, masked, minimise, smaller_documents

REQUEST: Mapping[str, Any] = {
    "model": "m",
    "messages": [{"role": "system", "content": "Be brief. " * 20}, {"role": "user", "content": "What is a record?"}],
    "stream": True,
    "temperature": 0.7,
    "max_tokens": 800,
    "stop": ["a", "b"],
    "response_format": {"type": "text"},
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}],
    "user": "somebody",
}
BASE = {"model": "m", "messages": CONTENT["messages"]}


class Server:
    """Counts."""

    def __init__(self, rule: Callable[[Document], bool]) -> None:
        self.rule = rule
        self.kills = 0
        self.tries = 0

    def __call__(self, document: Document) -> bool:
        self.tries += 1
        killed = self.rule(document)
        self.kills += killed
        return killed


def test_one_member_that_the_evidence_names_costs_one_kill() -> None:
    """Nothing but the model, a word, and that member is left."""
    server = Server(lambda document: document.get("response_format") == {"type": "text"})
    assert minimise(REQUEST, server, ["response_format"]) == {**BASE, "response_format": {"type": "text"}}
    assert server.kills == 1


def test_one_member_that_nobody_named_costs_one_kill_too() -> None:
    """What does not kill is free."""
    server = Server(lambda document: "temperature" in document)
    assert minimise(REQUEST, server, ["response_format"]) == {**BASE, "temperature": 0.7}
    assert server.kills == 1


def test_two_members_that_kill_together() -> None:
    """Both stay, and no others."""
    server = Server(lambda document: "stop" in document and "user" in document)
    assert set(minimise(REQUEST, server)) == {*BASE, "stop", "user"}


def test_many_members_that_kill_together() -> None:
    """The others go, by halves."""
    needed = {"stop", "user", "tools", "stream"}
    server = Server(lambda document: needed <= set(document))
    assert set(minimise(REQUEST, server)) == needed | set(BASE)
    assert server.kills <= 12


def test_a_text_that_kills_is_cut_down_to_what_it_needs() -> None:
    """The content comes last, and stays where it is the killer."""
    text = "harmless " * 40 + "poison" + " harmless" * 40
    request = {**REQUEST, "messages": [{"role": "user", "content": "first"}, {"role": "user", "content": text}]}
    small = minimise(request, Server(lambda document: "poison" in str(document["messages"])), most_kills=40)
    assert set(small) == set(BASE)
    (message,) = small["messages"]
    assert "poison" in message["content"]
    assert len(message["content"]) < 60


def test_a_schema_is_cut_down_by_its_structure() -> None:
    """What is left of it is what kills."""
    properties = {f"p{number}": {"type": "string", "description": "harmless"} for number in range(20)}
    properties["bad"] = {"type": "string", "pattern": "(?=x)"}
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    request = {**REQUEST, "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}}
    small = minimise(request, Server(lambda document: "(?=x)" in str(document)), ["response_format"], most_kills=60)
    assert small["response_format"]["json_schema"]["schema"]["properties"] == {"bad": {"pattern": "(?=x)"}}


def test_the_budget_ends_it_with_what_is_known_by_then() -> None:
    """Each kill is a restart of somebody's server."""
    server = Server(lambda document: "temperature" in document and len(str(document)) > 100)
    small = minimise(REQUEST, server, most_kills=2)
    assert server.kills == 2
    assert server.rule(small)


def test_what_never_kills_again_is_left_as_it_was() -> None:
    """A flaky one cannot be minimised."""
    assert minimise(REQUEST, Server(lambda _: False)) == REQUEST


def test_the_same_document_is_never_tried_twice() -> None:
    """Each try is a request to a server."""
    seen: list[str] = []

    def kills(document: Document) -> bool:
        seen.append(str(document))
        return len(document) > 6

    minimise(REQUEST, kills, most_kills=30)
    assert len(seen) == len(set(seen))


def test_every_smaller_document_is_smaller() -> None:
    """So that it comes to an end."""
    for each in smaller_documents(REQUEST):
        assert _weight(each) < _weight(REQUEST), each


def _weight(document: Document) -> int:
    text = str(document)
    return len(text) + sum(map(int, re.findall(r"[0-9]+", text)))


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        ([{"role": "user", "content": "Call me: 555-12 é"}], [{"role": "user", "content": "xxxx xx: xxx-xx é"}]),
        ("plain text", "xxxxx xxxx"),
    ],
)
def test_masked_texts_keep_their_length_and_their_odd_characters(content: Any, shown: Any) -> None:
    """Only what a person wrote is hidden; what the roles are is not."""
    assert masked({"model": "m", "messages": content}) == {"model": "m", "messages": shown}
