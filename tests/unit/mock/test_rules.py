"""The rules of which the demo engine dies."""

from __future__ import annotations

import json
from typing import Any

import pytest

from extproc.mock.rules import Asked, Event, RuleError, Watch, parse

DEEP = {"type": "object", "properties": {"pattern": {"type": "array", "items": {"type": "string", "minLength": 1}}}}


def asked(path: str = "/v1/chat/completions", **body: Any) -> Asked:
    """A request of a body, as it has its turn."""
    return Asked(path, json.dumps(body).encode(), body, number=1)


def kills(rule: str, *requests: Asked, event: Event = Event.BEGUN) -> bool:
    """Whether the last of several requests kills by a rule, and none before it."""
    watch = Watch([parse(rule)])
    killed = [watch.sees(event, each) is not None for each in requests]
    assert not any(killed[:-1])
    return killed[-1]


@pytest.mark.parametrize(
    ("rule", "body"),
    [
        ("logprobs", {"logprobs": None}),
        ("response_format.type=text", {"response_format": {"type": "text"}}),
        ("n>8", {"n": 9}),
        ("n>=9", {"n": 9}),
        ("temperature<0.1", {"temperature": 0}),
        ("prompt_logprobs=-1", {"prompt_logprobs": -1}),
        ("repetition_penalty!=1", {"repetition_penalty": 1.05}),
        ("prompt is empty", {"prompt": ""}),
        ("prompt is empty", {"prompt": ["a", ""]}),
        ("guided_choice is empty", {"guided_choice": []}),
        ("structured_outputs.json_object is false", {"structured_outputs": {"json_object": False}}),
        ("structured_outputs.json is null", {"structured_outputs": {"json": None}}),
        ("top_k is negative", {"top_k": -1}),
        ("seed is huge", {"seed": 2**40}),
        ("stop_token_ids is huge", {"stop_token_ids": [7, 2**33]}),
        ("prompt is huge", {"prompt": "a" * 10_000}),
        ("tool_choice is text", {"tool_choice": "required"}),
        ("stop_token_ids>128", {"stop_token_ids": list(range(129))}),
        ("tools.function.strict=true", {"tools": [{"function": {}}, {"function": {"strict": True}}]}),
        ("tools[].function.strict=true", {"tools": [{"function": {"strict": True}}]}),
        ("messages.content.type=image_url", {"messages": [{"content": [{"type": "text"}, {"type": "image_url"}]}]}),
        (r"guided_regex~\*\*", {"guided_regex": "foo**"}),
        ('user="a b then c"', {"user": "a b then c"}),
        (r"@body~a\s+b", {"prompt": "a  b"}),
        ("@path=/v1/chat/completions", {}),
        ("@bytes>10", {"user": "somebody"}),
        ("@depth>3", {"response_format": {"json_schema": {"schema": DEEP}}}),
        ("@schema>50", {"guided_json": DEEP}),
        ("@keyword=minLength", {"tools": [{"function": {"parameters": DEEP}}]}),
        ("stream=true and not tools", {"stream": True}),
        ("@chance=1", {}),
        ("@number=1", {}),
    ],
)
def test_what_kills(rule: str, body: dict[str, Any]) -> None:
    """Each condition holds for a request like it."""
    assert kills(rule, asked(**body))


@pytest.mark.parametrize(
    ("rule", "body"),
    [
        ("logprobs", {"top_logprobs": 1}),
        ("response_format.type=text", {"response_format": {"type": "json_object"}}),
        ("response_format.type=text", {"response_format": "text"}),
        ("n>8", {"n": 8}),
        ("n=1", {"n": True}),
        ("n>8", {"n": True}),
        ("seed is huge", {"seed": 10**8}),
        ("seed is negative", {"seed": "-1"}),
        ("structured_outputs.json is empty", {"structured_outputs": {"json": 0}}),
        ("@keyword=pattern", {"guided_json": DEEP}),
        ("@keyword=strict", {"response_format": {"json_schema": {"strict": True, "schema": DEEP}}}),
        ("@depth>0", {"messages": [{"content": [{"a": {}}]}]}),
        ("stream=true and not tools", {"stream": True, "tools": []}),
        ("@chance=0", {}),
        ("@output>0", {}),
        ("@cancel", {}),
        ("@oldest", {}),
    ],
)
def test_what_does_not_kill(rule: str, body: dict[str, Any]) -> None:
    """And not for another."""
    assert not kills(rule, asked(**body))


def test_an_earlier_request() -> None:
    """`then`: the second kills only after one like the first, which need not be running any more."""
    rule = "structured_outputs then structured_outputs.regex"
    latch, trigger = asked(structured_outputs={"json": {}}), asked(structured_outputs={"regex": "("})
    latch.over = True
    assert kills(rule, latch, asked(), trigger)
    assert not kills(rule, asked(), trigger)
    assert not kills(rule, trigger)


def test_one_that_is_running() -> None:
    """`beside`: one like the first must be running still, whichever of them it is."""
    rule = "@body~image beside @body~image"
    first, second = (asked(messages=["image"], n=n) for n in range(2))
    assert kills(rule, first, second)
    first.over = True
    assert not kills(rule, first, second)
    watch = Watch([parse("user=a beside n=7")])
    over, running = asked(user="a"), asked(user="a")
    assert watch.sees(Event.BEGUN, running) is None
    assert watch.sees(Event.BEGUN, over) is None
    over.over = True
    assert watch.sees(Event.BEGUN, asked(n=7)) is not None


def test_the_same_value_as_before() -> None:
    """A session's second turn, and not another session's."""
    rule = "session_id then @same=session_id"
    assert kills(rule, asked(session_id="a"), asked(session_id="b"), asked(session_id="a"))
    assert not kills(rule, asked(session_id="a"), asked(session_id="b"))
    assert not kills(rule, asked(session_id="a"), asked())


def test_a_cancel() -> None:
    """Seen when the client leaves, and as the first of a pair."""
    assert kills("@cancel and session_id", asked(session_id=1), event=Event.CANCELLED)
    assert not kills("@cancel and session_id", asked(), event=Event.CANCELLED)
    watch = Watch([parse("@cancel then @same=session_id")])
    left = asked(session_id=1)
    assert watch.sees(Event.BEGUN, left) is None
    assert watch.sees(Event.CANCELLED, left) is None
    assert watch.sees(Event.BEGUN, asked(session_id=1)) is not None


def test_the_moment() -> None:
    """Facts that are not of the request's making."""
    busy = Asked("/", b"{}", {}, prompt_tokens=9, output_tokens=3, waited=2.5, oldest=True, running=4, tokens=99)
    for rule in ("@tokens>98", "@running=4", "@waited>2", "@oldest", "@prompt=9"):
        assert kills(rule, busy), rule
    assert kills("@output>=3", busy, event=Event.OUTPUT)
    assert Watch([parse("@output>=3")]).of_output
    assert not Watch([parse("@running=4")]).of_output


def test_chance_follows_the_seed() -> None:
    """About as often as was asked for, and the same each time."""

    def drawn(seed: int) -> list[bool]:
        watch = Watch([parse("@chance=0.2", seed)])
        return [watch.sees(Event.BEGUN, Asked("/", b"", {}, number=number)) is not None for number in range(500)]

    assert drawn(1) == drawn(1) != drawn(2)
    assert 60 < sum(drawn(1)) < 140


@pytest.mark.parametrize(
    "rule",
    [
        "", "then", "a then", "a and", "not", "a is odd", "@weather", "@tokens", "@cancel=1", "n>many", "n>true", "a b",
        "@chance=2", "@chance=often", "a~(", "=3",
    ],
)  # fmt: skip
def test_rules_that_are_none(rule: str) -> None:
    """Refused, with a text that says what is wrong."""
    with pytest.raises(RuleError, match=r"\w"):
        parse(rule)
