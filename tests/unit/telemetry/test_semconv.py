"""The table of names, in both of its modes, and the tokens that a server counted."""

from __future__ import annotations

from typing import Any

import pytest

from extproc.telemetry import semconv


@pytest.mark.parametrize(
    ("value", "latest"),
    [
        (None, False),
        ("", False),
        ("http", False),
        ("gen_ai_latest_experimental", True),
        ("http/dup, gen_ai_latest_experimental", True),
        ("gen_ai_latest_experimental2", False),
    ],
)
def test_the_newest_names_are_asked_for(value: str | None, latest: bool) -> None:
    """By one of a comma-separated list, exactly."""
    assert semconv.is_latest({} if value is None else {semconv.OPT_IN: value}) is latest


def test_both_modes_name_every_metric() -> None:
    """And the newest ones are other names."""
    old, new = semconv.metric_names(False), semconv.metric_names(True)
    assert (old.token_usage, new.token_usage) == ("gen_ai.client.token.usage", None)
    for field in ("duration", "time_to_first_chunk", "time_per_output_chunk"):
        assert getattr(old, field) != getattr(new, field)


@pytest.mark.parametrize(
    "buckets",
    [
        semconv.DURATION_BUCKETS,
        semconv.TIME_TO_FIRST_TOKEN_BUCKETS,
        semconv.TIME_PER_TOKEN_BUCKETS,
        semconv.TOKEN_BUCKETS,
    ],
    ids=["duration", "first", "per", "tokens"],
)
def test_buckets_grow(buckets: tuple[float, ...]) -> None:
    """Or they would be no buckets."""
    assert list(buckets) == sorted(set(buckets))


def test_durations_reach_minutes() -> None:
    """A generation may take ten of them."""
    assert semconv.DURATION_BUCKETS[-1] > 600
    assert (semconv.TOKEN_BUCKETS[0], semconv.TOKEN_BUCKETS[-1]) == (1, 67108864)


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}, {"input": 9, "output": 2}),
        (
            {
                "prompt_tokens": 9,
                "completion_tokens": 5,
                "prompt_tokens_details": {"cached_tokens": 4},
                "completion_tokens_details": {"reasoning_tokens": 3},
            },
            {"input": 9, "output": 5, "cache_read": 4, "reasoning": 3},
        ),
        ({"input_tokens": 9, "output_tokens": 2}, {"input": 9, "output": 2}),
        (
            # Anthropic counts cached tokens beside the others; the conventions among them.
            {"input_tokens": 3, "output_tokens": 2, "cache_read_input_tokens": 10, "cache_creation_input_tokens": 5},
            {"input": 18, "output": 2, "cache_read": 10, "cache_write": 5},
        ),
        (
            # A gateway that adds Anthropic's counts to OpenAI's, which have the cached ones in them.
            {"prompt_tokens": 9, "completion_tokens": 2, "input_tokens": 5, "cache_read_input_tokens": 4}
            | {"cache_creation_input_tokens": 0, "prompt_tokens_details": {"cached_tokens": 4}},
            {"input": 9, "output": 2, "cache_read": 4, "cache_write": 0},
        ),
        (
            {"input_tokens": 9, "output_tokens": 2, "input_tokens_details": {"cached_tokens": 4}},
            {"input": 9, "output": 2, "cache_read": 4},
        ),
        (
            {"prompt_tokens": 9, "completion_tokens": 2, "prompt_cache_hit_tokens": 4},
            {"input": 9, "output": 2, "cache_read": 4},
        ),
        ({"tokens_evaluated": 9, "tokens_predicted": 2}, {"input": 9, "output": 2}),
        ({"prompt_eval_count": 9, "eval_count": 2}, {"input": 9, "output": 2}),
        ({"prompt_n": 5, "predicted_n": 2, "cache_n": 4}, {"input": 9, "output": 2, "cache_read": 4}),
        ({"prompt_tokens": 0}, {"input": 0}),
        ({"prompt_tokens": None, "completion_tokens": "2"}, {}),
        ({"prompt_tokens": True, "completion_tokens": -1, "prompt_tokens_details": []}, {}),
        (None, {}),
        ("none", {}),
    ],
)
def test_tokens_as_the_server_counted_them(usage: Any, expected: dict[str, int]) -> None:
    """OpenAI's names, Anthropic's, llama.cpp's and Ollama's; nothing is counted twice, nothing is invented."""
    assert semconv.usage(usage) == expected
    assert semconv.usage(None) == {}
