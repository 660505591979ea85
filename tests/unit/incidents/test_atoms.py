"""What a request asks for, as small facts: values on which engines stumble are told apart, texts are not kept."""

from __future__ import annotations

import json
import re
import string
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.incidents import atoms


def of(**params: Any) -> dict[str, str]:
    """The atoms of a chat request."""
    body = json.dumps({"model": "m", **params}).encode()
    return atoms.of("/v1/chat/completions?x=1", body, None, len(body))


def schema(value: Any) -> dict[str, str]:
    """Those of a request with a schema."""
    return of(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": value}})


S = "response_format.json_schema.schema"


@pytest.mark.parametrize(
    ("params", "place", "value"),
    [
        ({"stop": None}, "stop", "null"),
        ({"stop": ""}, "stop", "empty text"),
        ({"stop": []}, "stop", "empty list"),
        ({"logit_bias": {}}, "logit_bias", "empty object"),
        ({"structured_outputs": {"json_object": False}}, "structured_outputs.json_object", "false"),
        ({"response_format": {"type": "text"}}, "response_format.type", '"text"'),
        ({"temperature": 0}, "temperature", "0"),
        ({"temperature": 0.7}, "temperature", "between 0 and 1"),
        ({"temperature": 0.000_001}, "temperature", "10^-6"),
        ({"temperature": 999_999}, "temperature", "10^5"),
        ({"top_k": -1}, "top_k", "-1"),
        ({"top_p": -3.5}, "top_p", "negative"),
        ({"seed": 2**31}, "seed", "2^31 or more"),
        ({"seed": 2**70}, "seed", "2^64 or more"),
        ({"temperature": float("nan")}, "temperature", "not finite"),
        ({"temperature": float("-inf")}, "temperature", "not finite"),
        ({"logit_bias": {"191222": -100}}, "logit_bias largest", "10^5"),
        ({"logit_bias": {"--5": 1}}, "logit_bias.--5", "1"),
        ({"stop_token_ids": [-7, 3]}, "stop_token_ids smallest", "negative"),
        ({"messages": []}, "messages", "empty list"),
        ({"messages": [{"role": "user", "content": None}]}, "messages content null", "there"),
        ({"messages": [{"role": "user", "content": ""}]}, "messages text emptiness", "empty"),
        ({"messages": [{"role": "user", "content": "a <|image|> b"}]}, "messages text special token", "there"),
        ({"messages": [{"role": "user", "content": "a\x00"}]}, "messages text control characters", "there"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages text surrogate characters", "there"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 'messages part "image_url"', "there"),
        ({"prompt": [""]}, "prompt[] emptiness", "empty"),
        ({"prompt": [1, 2, 70_000]}, "prompt ids largest", "10^4"),
        ({"guided_regex": "foo**"}, "guided_regex validity", "no valid regex"),
        ({"guided_regex": "(a+)+"}, "guided_regex nested repetition", "there"),
        ({"guided_grammar": 'root ::= "a"\nroot ::= "b"'}, "guided_grammar rule", "twice"),
        ({"tools": [{"function": {"parameters": {"type": 5}}}]}, "tools[].function.parameters", "schema"),
    ],
)
def test_a_value_has_its_kind(params: dict[str, Any], place: str, value: str) -> None:
    """At its place."""
    assert of(**params)[place] == value


@pytest.mark.parametrize(
    ("value", "place", "kind"),
    [
        (False, S, "false"),
        ({}, S, "empty object"),
        ({"type": "object", "$ref": "#"}, f"{S} keyword $ref", "there"),
        ({"properties": {"a": {"pattern": "("}}}, f"{S} pattern validity", "no valid regex"),
        ({"type": "nonsense"}, f'{S} type "nonsense"', "there"),
        ({"maximum": 2**53 - 1}, f"{S} keyword maximum 2^31 or more", "there"),
        ({"items": {"items": {"items": {}}}}, f"{S} depth", "2^2"),
    ],
)
def test_a_schema_has_its_shape(value: Any, place: str, kind: str) -> None:
    """And what is unusual in it."""
    assert schema(value)[place] == kind


def test_two_schemas_of_one_shape_differ_by_their_digest_alone() -> None:
    """So that a new one of a usual shape is not unusual."""
    first, second = schema({"properties": {"a": {"type": "string"}}}), schema({"properties": {"b": {"type": "string"}}})
    assert {place for place in first if first[place] != second[place]} == {f"{S} digest"}


@pytest.mark.parametrize("depth", [100, 5_000, 200_000])
def test_depth_has_no_end(depth: int) -> None:
    """A document that no parser likes is an atom, too, and no error."""
    body = b'{"response_format":{"json_schema":' + b'{"items":' * depth + b"1" + b"}" * depth + b"}}"
    assert atoms.of("/", body, None, len(body))


def test_what_the_record_has_will_do_where_the_body_is_gone() -> None:
    """Its parameters, and how much the rest was."""
    params = {"response_format": {"bytes": 10_811, "sha256": "0a"}, "messages": {"count": 3, "bytes": 900}, "n": 0}
    found = atoms.of("/v1/chat/completions", None, params, 12_000)
    assert (found["response_format"], found["messages count"], found["n"]) == ("large", "2^1", "0")


def test_no_text_is_kept() -> None:
    """Neither of messages, nor of a schema, nor of tools: only kinds, places and digests."""
    secret = "the patient's name"
    tool = {"type": "function", "function": {"name": "f", "description": secret, "parameters": {"title": secret}}}
    messages = [{"role": "user", "content": secret}]
    response_format = {"json_schema": {"schema": {"description": secret}}}
    found = of(messages=messages, tools=[tool], stop=secret, response_format=response_format)
    assert secret not in repr(found)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)
_NAMES = st.sampled_from(
    ["messages", "prompt", "input", "tools", "response_format", "guided_json", "guided_regex", "logit_bias", "stop"]
) | st.text(string.ascii_letters + "[]. -", max_size=8)


@settings(max_examples=150)
@given(st.dictionaries(_NAMES, _JSON, max_size=5))
def test_no_request_is_an_error(document: dict[str, Any]) -> None:
    """Whatever a client sends has atoms, and the same ones always."""
    body = json.dumps(document).encode()
    assert atoms.of("/", body, None, len(body)) == atoms.of("/", body, None, len(body))


@given(st.binary(max_size=60))
def test_no_body_is_an_error(body: bytes) -> None:
    """JSON or not."""
    assert atoms.of("/", body, None, len(body))["size"]


@given(st.lists(st.tuples(st.sampled_from(["", " ", "\n", "\u2003", "\x1c", "  "]), st.integers(0, 700)), max_size=6))
def test_a_long_word(words: list[tuple[str, int]]) -> None:
    """Five hundred characters without a space, wherever they stand."""
    text = "".join(space + "x" * length for space, length in words)
    assert atoms.has_long_word(text) == (re.search(r"\S{500}", text) is not None)


@pytest.mark.parametrize(
    ("document", "place", "value"),
    [
        (b'{"temperature":NaN}', "temperature", "not finite"),
        (b'{"temperature":1e400}', "temperature", "not finite"),
        (b'{"stop":"\\ud800"}', "stop", "text of 2^0 with surrogate characters"),
        (b'\xef\xbb\xbf{"n":3}', "n", "10^0"),
        (b'{"n":%d}' % 2**70, "n", "2^64 or more"),
        (b'{"n":1,"n":null}', "n", "null"),
        (b"{", "n", "10^1"),
    ],
)
def test_what_servers_take_beyond_the_standard(document: bytes, place: str, value: str) -> None:
    """It is read as they read it; a body that is no JSON at all is told by what the record has of it."""
    assert atoms.of("/", document, {"n": 10}, 1)[place] == value


@pytest.mark.parametrize("member", ["tools", "messages", "logit_bias", "json_schema"])
def test_no_depth_is_too_much(member: str) -> None:
    """Nested around the depth that Python's own readers and writers can follow, nothing is raised."""
    for depth in range(800, 1050):
        body = b'{"%b":[%b1%b]}' % (member.encode(), b'{"x":[' * (depth // 2), b"]}" * (depth // 2))
        assert atoms.of("/", body, None, len(body))["size"]
