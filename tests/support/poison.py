"""What has killed engines, as public issues tell it: each row a request, how the engine died, and what is rare there.

The values are drawn anew for each seed, and `renamed` gives each parameter of a row another name, so that nothing that
is found depends on a word of this table.
"""

# ruff: noqa: E501 - a table, a row a line

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any, Final

from support.families import CHAT, Body, text

Change = Callable[[Random], Body]


@dataclass(frozen=True)
class Row:
    """One trigger."""

    name: str
    change: Change
    """What the killer has beside what others have."""
    how: str = "frames"
    """`frames`, `cut`, `500`, `hang`, `freeze`, `freeze, cut`, `memory`, `keep-500`, `keep-503`, `null`, `alone`."""
    path: str = CHAT
    stage: str = "arrival"
    """When it kills: on `arrival`, from the `queue`, after `tokens`, by its `cancel`, or `latched` after its end."""
    earlier: Change | None = None
    """An earlier request, served, without which it is harmless."""
    cancelled: bool = False
    """The earlier one was cancelled."""
    beside: int = 0
    """So many others of its kind run beside it, all of them guilty."""
    without: tuple[str, ...] = ()
    """Families that this deployment does not have."""
    families: tuple[str, ...] = ()
    """Families that it has."""
    deaths: int = 1
    """It takes so many deaths until it stands out."""
    usual: bool = False
    """A request like many others: it is named, if at all, with luck."""
    retried: bool = False
    """Its client's retries carry it on to the other backends."""


def _structured(inner: Body) -> Body:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": inner}}}


def _deep(random: Random) -> Body:
    schema: Body = {"type": "string"}
    for _ in range(random.randint(30, 120)):
        schema = {random.choice(["oneOf", "anyOf"]): [schema, {"type": "null"}]}
    return _structured({"type": "object", "properties": {"a": schema}})


def _object(**members: Body) -> Body:
    return {"type": "object", "properties": members}


def _tools(parameters: Body, **function: Any) -> Body:
    named = {"name": "look_up", "description": "Looks something up.", "parameters": parameters, **function}
    return {"tools": [{"type": "function", "function": named}]}


def _media(random: Random, kind: str = "image_url", size: int = 20_000, words: str = "") -> Body:
    data = "B" * random.randrange(size, 2 * size)
    inner = {"url": f"data:image/png;base64,{data}"} if kind == "image_url" else {"data": data, "format": "wav"}
    content = [{"type": "text", "text": words or text(random, 10)}, {"type": kind, kind: inner}]
    return {"messages": [{"role": "user", "content": content}]}


def _long(random: Random, words: int) -> Body:
    return {"messages": [{"role": "user", "content": text(random, 1) + " word" * words}]}


def _grammar(random: Random, twice: bool = False) -> str:
    rules = ["root ::= item | item root", f'item ::= "a{random.randrange(99)}" | "b"']
    return "\n".join(rules + rules[:1] * twice)


STRUCTURED: Final = ("extraction",)

ROWS: Final[tuple[Row, ...]] = (
    Row("json-object", lambda _: {"response_format": {"type": "json_object"}}),
    Row("json-object-alone", lambda _: {"response_format": {"type": "json_object"}}, "500", without=STRUCTURED),
    Row("text-format", lambda _: {"response_format": {"type": "text"}}),
    Row("text-format-queued", lambda _: {"response_format": {"type": "text"}}, stage="queue"),
    Row("invalid-schema", lambda _: {"guided_json": {"type": "objet", "properties": []}}, "cut"),
    Row("invalid-json-schema", lambda _: _structured({"type": "nonsense", "required": "a"}), "cut", without=STRUCTURED),
    Row("bad-regex", lambda random: {"guided_regex": f"fo{random.randrange(99)}o**"}, "cut"),
    Row(
        "grammar-after-grammar",
        lambda random: {"guided_grammar": _grammar(random, twice=True)},
        "cut",
        earlier=lambda random: {"guided_grammar": _grammar(random)},
    ),
    Row(
        "regex-after-schema",
        lambda random: {"structured_outputs": {"regex": rf"(?=a{random.randrange(99)})b"}},
        earlier=lambda _: {"structured_outputs": {"json": _object(a={"type": "string"})}},
    ),
    Row(
        "schema-not-compiled",
        lambda random: _structured(_object(a={"type": "string", "pattern": rf"^\p{{L}}{{{random.randint(100, 999)},}}$"})),
        families=STRUCTURED,
    ),
    Row("json-object-false", lambda _: {"structured_outputs": {"json_object": False}}),
    Row("json-empty", lambda _: {"structured_outputs": {"json": ""}}),
    Row("empty-choice", lambda _: {"guided_choice": []}),
    Row("sql-grammar", lambda random: {"guided_grammar": _grammar(random) + "\nstatement ::= root"}),
    Row("first-structured", lambda _: _structured(_object(a={"type": "string"})), without=STRUCTURED),
    Row("first-tool-choice", lambda _: {**_tools(_object()), "tool_choice": {"type": "function", "function": {"name": "look_up"}}}, without=("agent",)),
    Row("speculative-structured", lambda _: _structured(_object(a={"type": "integer"})), "cut", without=STRUCTURED),
    Row("tool-required", lambda _: {**_tools(_object(q={"type": "string"})), "tool_choice": "required"}, families=("agent",)),
    Row("tool-required-hang", lambda _: {**_tools(_object(q={"type": "string"})), "tool_choice": "required"}, "hang", families=("agent",)),
    Row("deep-schema-hang", _deep, "hang"),
    Row("deep-schema-freeze", _deep, "freeze"),
    Row("deep-schema-freeze-killed", _deep, "freeze, cut"),
    Row("logit-bias-beyond", lambda random: {"logit_bias": {str(random.randrange(150_000, 999_999)): -100}}),
    Row("stop-token-beyond", lambda random: {"stop_token_ids": [random.randrange(150_000, 400_000)], "min_tokens": 1}),
    Row("prompt-logprobs-long", lambda random: {"prompt_logprobs": 1, **_long(random, 6000)}, "memory"),
    Row("prompt-logprobs-negative", lambda _: {"prompt_logprobs": -1}),
    Row("prompt-logprobs-many", lambda _: {"prompt_logprobs": 10}),
    Row("empty-prompt", lambda random: {"prompt": random.choice(["", [""]])}, path="/v1/completions", families=("batch",)),
    Row("n-huge", lambda random: {"n": random.choice([10**9, 5 * 10**6])}, "freeze, cut"),
    Row("tool-pattern-malformed", lambda _: _tools(_object(q={"type": "string", "pattern": "([a"})), "cut", families=("agent",)),
    Row("tool-type-malformed", lambda _: _tools({"type": "something", "properties": {}}), "cut", families=("agent",)),
    Row("placeholder-in-text", lambda random: _media(random, words="what is <|image|> here"), families=("pictures",)),
    Row("tiny-image", lambda random: _media(random, size=40), families=("pictures",)),
    Row("first-image", _media, "cut"),
    Row("images-together", _media, beside=1),
    Row("repetition-penalty", lambda random: {"repetition_penalty": random.choice([1.05, 1.1, 1.3])}),
    Row("cancel", lambda _: {}, stage="cancel", usual=True),
    Row("cancel-of-session", lambda random: {"session_params": {"id": f"s{random.randrange(999)}"}}, stage="cancel"),
    Row("top-logprobs-huge", lambda _: {"logprobs": True, "top_logprobs": 10**9}, "cut"),
    Row("input-ids-beyond", lambda random: {"input_ids": [1, 2, random.randrange(2**31, 2**33)]}, "cut", path="/generate"),
    Row("recursive-grammar", lambda _: {"ebnf": 'root ::= root "a" | "b"'}, "cut"),
    Row("temperature-extreme", lambda _: {"temperature": 999999, "top_p": -1}, "cut"),
    Row("media-carried-on", lambda random: _media(random, words=text(random, 30)), "cut", retried=True, deaths=1),
    Row("audio", lambda random: _media(random, "input_audio", 80_000), "cut"),
    Row("session-embeds", lambda random: {"input_embeds": [[0.1] * 32], "session_params": {"id": f"s{random.randrange(99)}"}}, "cut", path="/generate", earlier=lambda random: {"session_params": {"id": f"s{random.randrange(99)}"}}),
    Row("session-after-cancel", lambda _: {"session_params": {"id": "s7", "offset": 1}}, "cut", earlier=lambda _: {"session_params": {"id": "s7"}}, cancelled=True),
    Row("grammar-free-lines", lambda random: {"ebnf": _grammar(random)}, "cut", stage="tokens"),
    Row("grammar-deep-output", lambda random: {"guided_grammar": _grammar(random)}, stage="tokens"),
    Row("two-modalities", lambda random: {"messages": _media(random)["messages"] + _media(random, "input_audio", 50_000)["messages"]}, "cut", families=("pictures",)),
    Row("transcription", lambda random: {"file": text(random, 50)}, "hang", path="/v1/audio/transcriptions"),
    Row("structured-desync", lambda _: {}, "frames", families=STRUCTURED, usual=True, deaths=4),
    Row("presence-penalty", lambda random: {"presence_penalty": random.choice([0.3, 1.5])}),
    Row("embeddings-window", lambda random: {"input": ["a"] * random.randrange(5_000, 7_000)}, path="/v1/embeddings", families=("embeddings",)),
    Row("big-image-long-prompt", lambda random: _media(random, size=400_000, words=text(random, 6000)), "memory", families=("pictures",)),
    Row("adapter", lambda random: {"model": f"adapter-{random.randrange(99)}"}),
    Row("image-exit-0", _media, "cut"),
    Row("text-only-completion", lambda random: {"prompt": text(random, 5)}, path="/v1/completions", without=("batch",)),
    Row("top-k-negative", lambda _: {"top_k": -1}, "null"),
    Row("too-long", lambda random: _long(random, 30_000), "null"),
    Row("beam-search", lambda random: {"use_beam_search": True, "n": 4, "stop_token_ids": [random.randrange(1000)]}, "500"),
    Row("tool-description", lambda random: _tools(_object(q={"type": "string", "description": text(random, 12)})), "cut", families=("agent",)),
    Row("lazy-grammar", lambda _: {"grammar": "root ::= any\nany ::= .*", "grammar_lazy": True}, "cut"),
    Row("text-after-image", lambda random: {"id_slot": 0, **_long(random, 20)}, "cut", earlier=lambda random: {"id_slot": 0, **_media(random)}),
    Row("tool-bounds", lambda _: _tools(_object(n={"anyOf": [{"type": "integer", "exclusiveMinimum": 0, "maximum": 2**53 - 1}, {"type": "null"}]})), "cut", families=("agent",)),
    Row("repeat-penalty-session", lambda random: {"repeat_penalty": random.choice([1.1, 1.2]), "messages": [{"role": "user", "content": text(random, 30)} for _ in range(9)]}, "cut"),
    Row("migration-request", lambda _: {"migration_request": {"protocol": 1, "remote_engine_id": "a"}}, "keep-503"),
    Row("engine-kept-alive", lambda _: {"structured_outputs": {"choice": []}}, "keep-500"),
    Row("killed-after-its-answer", lambda random: {"guided_grammar": _grammar(random)}, "cut", stage="latched"),
    Row("long-context", lambda random: _long(random, 20_000), "memory"),
    Row("echo-nothing", lambda _: {"prompt": "a", "echo": True, "max_tokens": 0}, path="/v1/completions", families=("batch",)),
    Row("message-without-content", lambda _: {"messages": []}, "cut"),
    Row("odd-bytes", lambda random: {"messages": [{"role": "user", "content": f"a\x00\ufffd{random.randrange(9)}\u200b"}]}, "cut"),
    Row("best-of-many", lambda random: {"best_of": random.randrange(500, 5000)}, "memory"),
)  # fmt: skip

CONTROLS: Final[tuple[Row, ...]] = (
    Row("harmony-error", lambda _: {"ignore_eos": True}, "alone"),
    Row("min-tokens-with-schema", lambda _: {"min_tokens": 64, **_structured(_object())}, "alone"),
    Row("strict-tool", lambda _: _tools(_object(), strict=True), "alone"),
    Row("stream-that-hangs-alone", lambda random: {"guided_grammar": _grammar(random)}, "alone, hang"),
)
"""Requests that fail by themselves: the engine lives, and no incident may be told."""

_OTHER_NAMES: Final = {
    "response_format": "output_shape", "guided_regex": "match", "structured_outputs": "constraint", "logit_bias": "nudges",
    "guided_grammar": "language", "guided_json": "form", "guided_choice": "options", "stop_token_ids": "ending_ids",
    "prompt_logprobs": "explain_prompt", "repetition_penalty": "repeat_cost", "presence_penalty": "novelty", "top_k": "keep",
    "session_params": "dialogue", "migration_request": "handover", "ebnf": "syntax", "grammar": "syntax", "best_of": "tries",
    "input_embeds": "vectors", "id_slot": "lane", "use_beam_search": "beams", "top_logprobs": "explain", "min_tokens": "at_least",
}  # fmt: skip


def renamed(body: Body) -> Body:
    """The same with other names for its parameters."""
    raw = json.loads(json.dumps(body))
    return {_OTHER_NAMES.get(name, name): value for name, value in raw.items()}
