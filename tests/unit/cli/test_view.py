"""An exchange in words."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest
from support.exchanges import made

from extproc.cli import view
from extproc.core.outcome import Outcome
from extproc.history.filters import IN_FLIGHT


@pytest.mark.parametrize("outcome", [*Outcome, IN_FLIGHT])
def test_every_outcome_has_a_meaning_and_a_colour(outcome: str) -> None:
    """No outcome is left to be guessed at."""
    exchange = made({"outcome": None if outcome == IN_FLIGHT else outcome})
    assert view.meaning(exchange) == view.MEANING[outcome]
    assert view.colour(exchange) in {"green", "yellow", "red", "cyan"}


@pytest.mark.parametrize(
    ("status", "colour", "words"), [(400, "yellow", "client"), (429, "yellow", "rate limit"), (500, "red", "error")]
)
def test_a_backends_error_says_whose_it_is(status: int, colour: str, words: str) -> None:
    """What the client did wrong does not look like a fault of the backend."""
    exchange = made({"outcome": "upstream_error_status", "status": status})
    assert view.colour(exchange) == colour
    assert words in view.meaning(exchange)


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [(None, ""), (0.25, "0.2 ms"), (999.9, "999.9 ms"), (1500, "1.50 s"), (59_000, "59.00 s"), (90_000, "1.5 min")],
)
def test_durations(milliseconds: float | None, text: str) -> None:
    """In the unit that suits them."""
    assert view.duration(milliseconds) == text


@pytest.mark.parametrize(
    ("usage", "text"),
    [
        ({"prompt_tokens": 9, "completion_tokens": 2}, "9/2"),
        ({"input_tokens": 9, "output_tokens": 0}, "9/0"),
        ({"prompt_tokens": 9}, "9/"),
        ({}, ""),
        (None, ""),
        ("many", ""),
    ],
)
def test_tokens(usage: Any, text: str) -> None:
    """By OpenAI's names or Anthropic's; whatever a backend sent."""
    assert view.tokens(made({"llm": {"usage": usage}})) == text


def test_an_exchange_of_which_nothing_is_known_still_has_a_row() -> None:
    """Every field may be missing or null."""
    assert len(view.row(made({"id": "x"}), view.COLUMNS, local=True)) == len(view.COLUMNS)
    assert len(view.row(made({"id": "x"}), view.COLUMNS, local=False)) == len(view.COLUMNS)


def test_times_of_today_are_short_and_others_have_their_date() -> None:
    """On the reader's clock."""
    now = datetime.now().astimezone()
    assert view.short_time(now.isoformat()) == f"{now:%H:%M:%S}.{now.microsecond // 1000:03d}"
    assert len(view.short_time("2025-11-21T03:12:00.000000Z")) == len("11-21 03:12:00")
    assert view.short_time("damaged") == view.short_time(None) == "?"
