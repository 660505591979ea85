"""Which requests go on with one another, whichever API they are for."""

from __future__ import annotations

from typing import Any

import pytest

from extproc.history.conversation import beginning, messages, relation

SYSTEM = {"role": "system", "content": "Be kind."}
HELLO = {"role": "user", "content": "Hello"}
MARKED = {"role": "user", "content": [{"type": "text", "text": "Hello", "cache_control": {"type": "ephemeral"}}]}
ANSWER = {"role": "assistant", "content": "Hi!"}
MORE = {"role": "user", "content": "More"}


def nested(depth: int) -> dict[str, Any]:
    """Lists in lists."""
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return {"role": "user", "content": value}


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"messages": [SYSTEM, HELLO]}, [SYSTEM, HELLO]),
        ({"input": [HELLO]}, [HELLO]),
        (
            {"contents": [{"role": "user", "parts": [{"text": "Hello"}]}]},
            [{"role": "user", "parts": [{"text": "Hello"}]}],
        ),
        ({"input": "Hello"}, ()),
        ({"input": ["Hello"]}, ()),
        ({"messages": []}, ()),
        ({"messages": {"role": "user"}}, ()),
        ([HELLO], ()),
        (None, ()),
    ],
)
def test_what_a_request_says(document: Any, expected: Any) -> None:
    """Messages are where each API has them; what is no list of objects is none."""
    assert messages(document) == expected


def test_a_beginning_goes_up_to_the_first_message_of_a_user() -> None:
    """What comes after it does not matter, what stands before it does, and a mark for a cache does not."""
    own = beginning([SYSTEM, HELLO])
    assert own is not None
    assert own == beginning([SYSTEM, HELLO, ANSWER, MORE]) == beginning([SYSTEM, MARKED])
    assert len({own, beginning([HELLO]), beginning([SYSTEM, MORE])}) == 3


@pytest.mark.parametrize("said", [[], [SYSTEM], [{"role": "user", "content": "\ud800"}], [nested(100_000)]])
def test_what_has_no_beginning(said: Any) -> None:
    """Nobody has said anything yet, or it has no form that could be compared."""
    assert beginning(said) is None


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ([SYSTEM, HELLO], "earlier"),
        ([SYSTEM, MARKED], "earlier"),
        ([SYSTEM, HELLO, ANSWER], "same"),
        ([SYSTEM, HELLO, ANSWER, MORE], "later"),
        ([SYSTEM, HELLO, MORE], "branch"),
        ([SYSTEM, HELLO, MORE, MORE], "branch"),
    ],
)
def test_what_another_is_to_it(other: Any, expected: str) -> None:
    """Of system, user and assistant: what is a part of it, what it is a part of, and what differs."""
    assert relation([SYSTEM, HELLO, ANSWER], other) == expected


def test_what_cannot_be_compared_parts_ways() -> None:
    """However deeply it is nested."""
    assert relation([nested(100_000)], [nested(100_000)]) == "branch"
