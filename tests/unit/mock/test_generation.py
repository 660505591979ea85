"""What the demo model says."""

from __future__ import annotations

import dataclasses
import json
import random
from typing import Any

import pytest

from extproc.mock.generation import LONGEST, Tool, Wish, count, count_all, example, say

WISH = Wish(key=b"{}", prompt_tokens=3)


def wish(**changes: Any) -> Wish:
    """WISH with changes."""
    return dataclasses.replace(WISH, **changes)


def test_the_same_each_time() -> None:
    """Seed, request and choice decide; each of them makes a difference."""
    assert say(WISH, 0, 0) == say(WISH, 0, 0)
    others = [say(WISH, 1, 0), say(WISH, 0, 1), say(wish(key=b"[]"), 0, 0)]
    assert len({said.text("content") for said in [say(WISH, 0, 0), *others]}) == 4


def test_tokens_are_counted_by_one_rule() -> None:
    """As many tokens as `count` finds in the text."""
    said = say(WISH, 0, 0)
    assert count(said.text("content")) == len(said.tokens)
    assert count_all([{"text": "a b"}, ["c", 7], None]) == 4


@pytest.mark.parametrize("limit", [1, 5, 500, 10**9])
def test_limit(limit: int) -> None:
    """Never more than asked for, and the finish reason says when it was cut."""
    said = say(wish(limit=limit), 0, 0)
    assert len(said.tokens) <= limit
    assert said.finish == ("length" if limit <= 5 else "stop")


def test_ignore_eos() -> None:
    """Exactly as many as asked for."""
    said = say(wish(limit=300, ignore_eos=True), 0, 0)
    assert (len(said.tokens), said.finish) == (300, "length")
    assert len(say(wish(ignore_eos=True), 0, 0).tokens) == LONGEST


def test_stop_sequences() -> None:
    """The first one ends the text and is not part of it."""
    words = say(WISH, 0, 0).text("content").split()
    said = say(wish(stop=("not there", words[5], words[8])), 0, 0)
    assert (said.finish, said.stop_sequence) == ("stop", words[5])
    assert said.text("content").rstrip() == " ".join(words[:5])


def test_a_limit_before_the_stop_sequence() -> None:
    """What comes first counts."""
    word = say(WISH, 0, 0).text("content").split()[5]
    assert say(wish(stop=(word,), limit=3), 0, 0).finish == "length"


def test_a_tool_call() -> None:
    """Its arguments are JSON that fits the schema, in pieces."""
    tool = Tool("weather", {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}})
    said = say(wish(tool=tool, reasoning=True), 0, 0)
    arguments = json.loads(said.text("tool"))
    assert (said.finish, said.tool) == ("tool", tool)
    assert isinstance(arguments["city"], str)
    assert isinstance(arguments["days"], int)
    assert len([part for part, _ in said.tokens if part == "tool"]) > 3
    assert said.text("reasoning")


def test_json_answers() -> None:
    """With a schema the answer is a document that fits it."""
    schema = {"type": "object", "properties": {"a": {"type": "array", "items": {"type": "boolean"}}}}
    document = json.loads(say(wish(schema=schema), 0, 0).text("content"))
    assert [type(each) for each in document["a"]] == [bool, bool]


@pytest.mark.parametrize(
    ("schema", "kind"),
    [
        ({}, str),
        ({"type": "number"}, float),
        ({"type": ["integer", "null"]}, int),
        ({"type": []}, str),
        ({"type": "null"}, type(None)),
        ({"const": {"a": 1}}, dict),
        ({"enum": [1]}, int),
        ({"type": "object", "properties": 3}, dict),
        ({"properties": {"a": 7}}, dict),
        ({"type": "array", "items": 3}, list),
        ({"type": "unheard of"}, str),
    ],
)
def test_examples(schema: Any, kind: type) -> None:
    """Any schema gets some value, however odd it is."""
    assert isinstance(example(schema, random.Random(1)), kind)


def test_a_schema_that_never_ends() -> None:
    """Nesting is cut."""
    schema: dict[str, Any] = {"type": "array"}
    schema["items"] = schema
    assert json.dumps(example(schema, random.Random(1)))
