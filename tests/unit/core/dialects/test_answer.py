"""What is gathered from a response, dialect aside."""

from __future__ import annotations

from typing import Any

import pytest

from extproc.core.dialects.answer import MAX_CHOICES, MAX_TEXT, Answer, error_of


@pytest.mark.parametrize(
    ("body", "error_type", "code"),
    [
        ({"error": {"message": "m", "type": "T", "param": None, "code": 400}}, "T", 400),
        ({"object": "error", "message": "m", "type": "T", "code": "c"}, "T", "c"),
        ({"type": "error", "error": {"type": "overloaded_error", "message": "m"}}, "overloaded_error", None),
        ({"error": {"error": {"type": "T"}}}, "T", None),
        ({"error": "text"}, None, None),
        ({"detail": "text"}, None, None),
        ({"error": {"type": 7, "code": [1]}}, None, None),
        ({"error": {"type": "x" * 1000, "code": 10**100}}, "x" * MAX_TEXT, None),
        (None, None, None),
    ],
)
def test_shapes_of_errors(body: Any, error_type: str | None, code: str | int | None) -> None:
    """Type and code are found in every shape that servers send; nothing else is kept."""
    assert error_of(body) == {"type": error_type, "code": code}


def test_the_last_usage_counts() -> None:
    """Usage is never summed; null and what is no object change nothing; zero is a value."""
    answer = Answer()
    given: list[Any] = [{"prompt_tokens": 5}, {"prompt_tokens": 0}, None, 7, [], {"x": "y" * 5000}]
    for usage in given:
        answer.use(usage)
    assert answer.usage == {"prompt_tokens": 0}


def test_finish_reasons_by_index() -> None:
    """Each choice has its last reason, or None; an index out of all reason is ignored."""
    answer = Answer()
    for index, reason in (
        (2, "stop"),
        (0, None),
        (2, "length"),
        (-1, "x"),
        (MAX_CHOICES, "x"),
        (True, "x"),
        ("0", "x"),
    ):
        answer.choice(index, reason)
    assert answer.finish_reasons == [None, None, "length"]


def test_the_first_identity_and_the_first_error_count() -> None:
    """An id, a model and an error are taken once."""
    answer = Answer()
    for name in (None, "", 7, "a", "b"):
        answer.identify(name, name)
    answer.fail({"error": {"type": "first"}})
    answer.fail({"error": {"type": "second"}})
    assert (answer.response_id, answer.response_model) == ("a", "a")
    assert answer.error == {"type": "first", "code": None}
