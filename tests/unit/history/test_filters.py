"""Which exchanges are meant: each filter by itself, several together, and the forms in which they are written."""

from __future__ import annotations

from typing import Any

import pytest
from support.exchanges import made

from extproc.core.outcome import Outcome
from extproc.history.filters import Bounds, Filters, Param, check_outcome

EXCHANGE: dict[str, Any] = {
    "id": "01a21edc-9e30-7f36-8cf7-9c9a95bc22c7",
    "started_at": "2026-11-21T03:12:00.500000Z",
    "ended_at": "2026-11-21T03:12:02.500000Z",
    "duration_ms": 2000.0,
    "outcome": "upstream_reset_mid_stream",
    "status": 200,
    "method": "POST",
    "path": "/v1/chat/completions?a=1",
    "upstream": "10.0.0.7:8000",
    "cluster": "llm",
    "route": "default",
    "client": "[fd00::1]:40000",
    "key": "redacted:6523c6f4a1e9",
    "request_id": "7398a14e-d072-4fb5-9858-8331ce637b73",
    "llm": {
        "api": "chat.completions",
        "model": "gpt-oss-120b",
        "response_model": "openai/gpt-oss-120b",
        "response_id": "chatcmpl-1",
        "finish_reasons": ["stop", "length"],
        "usage": {"prompt_tokens": 90, "completion_tokens": 10},
        "ttft_ms": 120.5,
        "fingerprint": "769dce6a8063e14b",
        "params": {
            "stream": True, "max_tokens": 5, "temperature": 0.0, "stop": None, "a.b": "dotted",
            "response_format": {"type": "text"}, "tools": [],
        },
    },
}  # fmt: skip
RUNNING: dict[str, Any] = {**EXCHANGE, "ended_at": None, "duration_ms": None, "outcome": None, "status": None}
BARE: dict[str, Any] = dict.fromkeys(EXCHANGE) | {"id": EXCHANGE["id"], "started_at": EXCHANGE["started_at"]}


@pytest.mark.parametrize(
    ("filters", "holds"),
    [
        ({}, True),
        ({"since": "2026-11-21T03:12:00.500000Z"}, True),
        ({"since": "2026-11-21T03:12:00.500001Z"}, False),
        ({"until": "2026-11-21T03:12:00.500001Z"}, True),
        ({"until": "2026-11-21T03:12:00.500000Z"}, False),
        ({"between": ("2026-11-21T03:12:02.500000Z", "2026-11-21T03:13:00.000000Z")}, True),
        ({"between": ("2026-11-21T03:12:02.500001Z", "2026-11-21T03:13:00.000000Z")}, False),
        ({"between": ("2026-11-21T03:11:00.000000Z", "2026-11-21T03:12:00.500000Z")}, True),
        ({"between": ("2026-11-21T03:11:00.000000Z", "2026-11-21T03:12:00.499999Z")}, False),
        ({"outcomes": ("upstream_reset_mid_stream",)}, True),
        ({"outcomes": ("upstream_*",)}, True),
        ({"outcomes": ("ok", "class:upstream")}, True),
        ({"outcomes": ("class:c*",)}, False),
        ({"outcomes": ("in_flight",)}, False),
        ({"failed": True}, True),
        ({"statuses": ("200",)}, True),
        ({"statuses": ("2xx",)}, True),
        ({"statuses": ("5xx", "none")}, False),
        ({"models": ("gpt-oss-120b",)}, True),
        ({"models": ("openai/*",)}, True),
        ({"models": ("gpt-oss-?20b",)}, True),
        ({"models": ("gpt-oss",)}, False),
        ({"paths": ("/v1/chat/completions",)}, True),
        ({"paths": ("/v1/chat/completions?a=1",)}, True),
        ({"paths": ("/v1/chat/completions\\?a=1",)}, False),
        ({"paths": ("/v1/[a-z]*",)}, False),
        ({"methods": ("POST",)}, True),
        ({"methods": ("GET",)}, False),
        ({"upstreams": ("10.0.0.7:8000",)}, True),
        ({"upstreams": ("10.0.0.7",)}, True),
        ({"upstreams": ("10.0.0.*",)}, True),
        ({"upstreams": ("10.0.0.70", "10.0.0")}, False),
        ({"clusters": ("llm",)}, True),
        ({"routes": ("other", "def*")}, True),
        ({"clients": ("fd00::1",)}, True),
        ({"clients": ("[fd00::1]",)}, True),
        ({"clients": ("fd00::2",)}, False),
        ({"keys": ("redacted:6523c6f4a1e9",)}, True),
        ({"keys": ("6523c6f4a1e9",)}, True),
        ({"keys": ("6523",)}, False),
        ({"apis": ("chat.*",)}, True),
        ({"apis": ("chatxcompletions",)}, False),
        ({"min_duration_ms": 2000.0}, True),
        ({"min_duration_ms": 2000.1}, False),
        ({"min_ttft_ms": 120.0}, True),
        ({"min_ttft_ms": 121.0}, False),
        ({"finishes": ("length",)}, True),
        ({"finishes": ("tool_calls",)}, False),
        ({"tokens": Bounds(100, 100)}, True),
        ({"tokens": Bounds(101)}, False),
        ({"tokens": Bounds(None, 99)}, False),
        ({"params": (Param("max_tokens"),)}, True),
        ({"params": (Param("min_tokens"),)}, False),
        ({"params": (Param("min_tokens"), Param("stop"))}, True),
        ({"fingerprints": ("769dce",)}, True),
        ({"fingerprints": ("69dce",)}, False),
        ({"ids": ("01a21edc-9e30",)}, True),
        ({"ids": ("9a95bc22c7",)}, True),
        ({"ids": ("chatcmpl-1",)}, True),
        ({"ids": ("bc22c8",)}, False),
        ({"models": ("gpt*",), "statuses": ("5xx",)}, False),
        ({"models": ("gpt*",), "statuses": ("2xx",), "failed": True}, True),
    ],
)
def test_a_filter(filters: dict[str, Any], holds: bool) -> None:
    """Values of one kind are alternatives; kinds must all hold."""
    assert Filters(**filters).matches(made(EXCHANGE)) is holds


@pytest.mark.parametrize(
    ("filters", "holds"),
    [
        ({"outcomes": ("in_flight",)}, True),
        ({"outcomes": ("*",)}, True),
        ({"outcomes": ("class:*",)}, False),
        ({"failed": True}, False),
        ({"statuses": ("none",)}, True),
        ({"between": ("2026-11-21T04:00:00.000000Z", "2026-11-21T04:00:00.000000Z")}, True),
        ({"min_duration_ms": 0.0}, False),
    ],
)
def test_one_in_flight(filters: dict[str, Any], holds: bool) -> None:
    """It has neither an end nor an outcome, and is in flight at every moment since it began."""
    assert Filters(**filters).matches(made(RUNNING)) is holds


@pytest.mark.parametrize("field", [name for name in Filters.__slots__ if name not in {"since", "until", "between"}])
def test_an_exchange_that_knows_nothing_matches_nothing(field: str) -> None:
    """And nothing is raised: no model, no status, no body that could be read."""
    values: dict[str, Any] = {
        "failed": True, "tokens": Bounds(0), "params": (Param("a"),), "min_duration_ms": 0.0, "min_ttft_ms": 0.0,
        "statuses": ("200",), "ids": ("ffffffff",), "outcomes": ("ok",), "paths": ("?*",), "fingerprints": ("0",),
    }  # fmt: skip
    assert not Filters(**{field: values.get(field, ("*",))}).matches(made(BARE))


@pytest.mark.parametrize("outcome", Outcome)
def test_failed_is_every_class_but_ok(outcome: Outcome) -> None:
    """A client that hung up has not had its answer."""
    exchange = {**EXCHANGE, "outcome": outcome.value}
    assert Filters(failed=True).matches(made(exchange)) is not Filters(outcomes=("class:ok",)).matches(made(exchange))


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("stream=true", True),
        ("stream=True", False),
        ("stream=1", False),
        ("max_tokens=5", True),
        ("max_tokens=5.0", False),
        ("temperature=0.0", True),
        ("stop=null", True),
        ("tools=[]", True),
        ("response_format", True),
        ("response_format.type=text", True),
        ("response_format.type=json*", False),
        ("response_format.schema", False),
        ('response_format={"type": "text"}', True),
        ("a.b=dotted", True),
        ("stop.type", False),
        ("max_tokens=", False),
        ("max_tokens={", False),
    ],
)
def test_a_parameter(text: str, holds: bool) -> None:
    """A value is JSON of the same type, or a glob for a text; empty, false and null are values."""
    assert Param.of(text).holds(EXCHANGE["llm"]["params"]) is holds


@pytest.mark.parametrize(
    ("pattern", "right"),
    [("ok", True), ("upstream_*", True), ("class:client", True), ("in_flight", True), ("fine", False),
     ("class:fine", False), ("upstream", False)],
)  # fmt: skip
def test_an_outcome_that_can_be(pattern: str, right: bool) -> None:
    """One that no exchange can have is a slip of the hand."""
    assert (check_outcome(pattern) is None) is right
