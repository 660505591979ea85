"""What is gathered from a response, dialect aside."""

from __future__ import annotations

from typing import Any

import pytest

from extproc.core.dialects.answer import MAX_CHOICES, ResponseSummary
from extproc.core.records import LlmError


def test_the_last_usage_counts() -> None:
    """Usage is never summed; null and what is no object change nothing; zero is a value."""
    answer = ResponseSummary()
    given: list[Any] = [{"prompt_tokens": 5}, {"prompt_tokens": 0}, None, 7, [], {"x": "y" * 5000}]
    for usage in given:
        answer.use(usage)
    assert answer.usage == {"prompt_tokens": 0}


def test_finish_reasons_by_index() -> None:
    """Each choice has its last reason, or None; an index out of all reason is ignored."""
    answer = ResponseSummary()
    for index, reason in ((2, "stop"), (0, None), (2, "length"), (-1, "x"), (MAX_CHOICES, "x")):
        answer.choice(index, reason)
    assert answer.finish_reasons == [None, None, "length"]


@pytest.mark.parametrize("index", [None, "x", True, [], float("nan"), 1.5])
def test_an_index_that_is_no_number(index: Any) -> None:
    """A choice without an index is known by its position."""
    answer = ResponseSummary()
    assert answer.choice(index, "stop", position=1) == 1
    assert answer.finish_reasons == [None, "stop"]


@pytest.mark.parametrize("index", [1, 1.0, "1"], ids=repr)
def test_an_index_in_any_form(index: Any) -> None:
    """Servers send it as a number, and as a text."""
    assert ResponseSummary().choice(index) == 1


@pytest.mark.parametrize("reason", ["", " ", "null", "None", "undefined", None, 7, [], {}], ids=repr)
def test_what_is_no_finish_reason(reason: Any) -> None:
    """An empty reason is none, and replaces none."""
    answer = ResponseSummary()
    answer.choice(0, reason)
    before = answer.is_finished
    answer.choice(0, "stop")
    answer.choice(0, reason)
    assert (before, answer.is_finished, answer.finish_reasons) == (False, True, ["stop"])


def test_a_usage_that_says_nothing_replaces_none() -> None:
    """A last chunk full of nulls takes nothing back."""
    answer = ResponseSummary()
    for usage in ({"prompt_tokens": None}, {"prompt_tokens": 5}, {"prompt_tokens": None, "total_tokens": None}, {}):
        answer.use(usage)
    assert answer.usage == {"prompt_tokens": 5}


def test_the_first_identity_and_the_first_error_count() -> None:
    """An id, a model and an error are taken once."""
    answer = ResponseSummary()
    for name in (None, "", 7, "a", "b"):
        answer.identify(name, name)
    answer.fail({"error": {"type": "first"}})
    answer.fail({"error": {"type": "second"}})
    assert (answer.response_id, answer.response_model) == ("a", "a")
    assert answer.error == LlmError(type="first")
