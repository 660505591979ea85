"""What the demo model says: tokens made from a seed and the request, the same ones each time.

A token here is a word with the space before it, or a piece of JSON. Requests are counted by the same rule, so that
usage adds up. Nothing in this module knows an API's shape, or waits.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import random
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

Json = Any
"""A value as `json.loads` gives it."""

LONGEST = 131_072
"""Tokens that fit into the demo model's context; what a request without a limit gets is far shorter."""

_WORDS = tuple(
    word
    for line in (
        "the a one each some engine wing cabin crew sensor signal pilot tower beacon runway cloud wind weather night",
        "morning altitude heading speed fuel pressure record log trace tape clock bearing map route field coast river",
        "mountain city light turns holds rises falls reads writes keeps shows crosses follows answers calls waits",
        "lands steady clear quiet bright early late low high north south slowly again together",
    )
    for word in line.split()
)


class BadRequestError(Exception):
    """The request is wrong in a way that a real server refuses; the text is for its author."""


@dataclasses.dataclass(frozen=True, slots=True)
class Tool:
    """A function that the request offers to the model."""

    name: str
    schema: Mapping[str, Json]


@dataclasses.dataclass(frozen=True, slots=True)
class Wish:
    """What a request asks of the model, whatever API it came by."""

    key: bytes
    """The request's own bytes: another request gets another answer."""
    prompt_tokens: int
    limit: int | None = None
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    reasoning: bool = False
    schema: Mapping[str, Json] | None = None
    """The answer is a JSON object of this schema."""
    tool: Tool | None = None
    """The answer is a call of this function."""


Part = Literal["reasoning", "content", "tool"]


@dataclasses.dataclass(frozen=True, slots=True)
class Said:
    """One answer: its tokens in order, each with the part of the answer that it belongs to."""

    tokens: tuple[tuple[Part, str], ...]
    finish: Literal["stop", "length", "tool"]
    stop_sequence: str | None = None
    tool: Tool | None = None
    call_id: str = ""

    def text(self, part: Part) -> str:
        return "".join(text for kind, text in self.tokens if kind == part)


def count(text: str) -> int:
    """The number of tokens in a text."""
    return len(re.findall(r"\w+|[^\w\s]", text))


def count_all(value: Json) -> int:
    """The tokens of all texts in a JSON value, however it nests; a number counts as one (a token id)."""
    stack, total = [value], 0
    while stack:
        match stack.pop():
            case str(text):
                total += count(text)
            case list(items):
                stack.extend(items)
            case dict(members):
                stack.extend(members.values())
            case int() | float():
                total += 1
    return total


def say(wish: Wish, seed: int, choice: int) -> Said:
    """The answer for one choice of a request."""
    digest = hashlib.sha256(b"%d/%d/" % (seed, choice) + wish.key).digest()
    rng = random.Random(digest)  # noqa: S311 - it picks words
    limit = LONGEST if wish.limit is None else max(1, min(wish.limit, LONGEST))
    tokens: list[tuple[Part, str]] = []
    if wish.reasoning:
        tokens += [("reasoning", text) for text in _prose(rng, rng.randint(6, 20))]
    if wish.tool is not None:
        arguments = json.dumps(example(wish.tool.schema, rng))
        tokens += [("tool", text) for text in _pieces(arguments)]
    elif wish.schema is not None:
        tokens += [("content", text) for text in _pieces(json.dumps(example(wish.schema, rng)))]
    elif wish.ignore_eos:
        tokens += [("content", text) for text in _prose(rng, max(0, limit - len(tokens)))]
    else:
        tokens += [("content", text) for text in _prose(rng, rng.randint(12, 60))]
    call_id = f"call_{digest.hex()[:24]}"
    cut = _stopped(tokens, wish.stop)
    if cut is not None and len(cut[0]) <= limit:
        return Said(tuple(cut[0]), "stop", cut[1])
    if len(tokens) > limit or (wish.ignore_eos and len(tokens) == limit):
        return Said(tuple(tokens[:limit]), "length", None, wish.tool, call_id)
    return Said(tuple(tokens), "tool" if wish.tool else "stop", None, wish.tool, call_id)


def _prose(rng: random.Random, length: int) -> list[str]:
    words = [" " + rng.choice(_WORDS) for _ in range(length)]
    if words:
        words[0] = words[0][1:].capitalize()
    return words


def _pieces(text: str) -> list[str]:
    return re.findall(r"\s*\w+|\s*[^\w\s]", text)


def _stopped(tokens: Sequence[tuple[Part, str]], stop: Sequence[str]) -> tuple[list[tuple[Part, str]], str] | None:
    """The tokens up to the first stop sequence in the content, without it, and which one it was."""
    text = "".join(text for part, text in tokens if part == "content")
    found = [(at, each) for each in stop if each and (at := text.find(each)) >= 0]
    if not found:
        return None
    room, sequence = min(found)
    kept: list[tuple[Part, str]] = []
    for part, token in tokens:
        if part != "content":
            kept.append((part, token))
        elif room > 0:
            kept.append((part, token[:room]))
            room -= len(token)
    return kept, sequence


def example(schema: Mapping[str, Json], rng: random.Random, depth: int = 0) -> Json:
    """A small value that fits a JSON schema, as far as its types, properties, enums and constants say."""
    if "const" in schema:
        return schema["const"]
    if isinstance(schema.get("enum"), list) and schema["enum"]:
        return rng.choice(schema["enum"])
    kind = schema.get("type", "object" if "properties" in schema else "string")
    if isinstance(kind, list):
        kind = kind[0] if kind else "string"
    match kind:
        case "object" if depth < 8:
            properties = schema.get("properties")
            members = properties.items() if isinstance(properties, dict) else ()
            return {name: example(each if isinstance(each, dict) else {}, rng, depth + 1) for name, each in members}
        case "array" if depth < 8:
            items = schema.get("items")
            return [example(items if isinstance(items, dict) else {}, rng, depth + 1) for _ in range(2)]
        case "integer":
            return rng.randint(0, 99)
        case "number":
            return rng.randint(0, 999) / 10
        case "boolean":
            return rng.random() < 0.5
        case "null":
            return None
    return rng.choice(_WORDS)
