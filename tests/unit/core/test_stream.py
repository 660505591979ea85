"""The end_of_stream table."""

from __future__ import annotations

import itertools

import pytest

from extproc.core import stream
from extproc.core.events import Direction
from extproc.core.stream import LATE, TABLE, Input, State, Stream

ALL = list(itertools.product(State, Input))


def table_of_the_docstring() -> dict[tuple[State, Input], State | None]:
    """The table as a reader of the module sees it."""
    lines = [line.split() for line in (stream.__doc__ or "").splitlines()]
    start = next(index for index, words in enumerate(lines) if words[:2] == ["HEADERS", "HEADERS_END"])
    inputs = [Input[word] for word in lines[start]]
    return {
        (State[state], input): LATE if word == "late" else State[word]
        for state, *words in lines[start + 1 : start + 1 + len(State)]
        for input, word in zip(inputs, words, strict=True)
    }


def test_the_table_is_the_one_in_the_docstring() -> None:
    """The theory at the top of the module and the table below it say the same, entry by entry."""
    assert {(state, input): TABLE[state][input] for state, input in ALL} == table_of_the_docstring()


@pytest.mark.parametrize("direction", Direction)
@pytest.mark.parametrize(("state", "input"), ALL)
def test_a_late_input_changes_nothing(state: State, input: Input, direction: Direction) -> None:
    """Every (state, input) either moves to the table's state or is late and leaves the state alone."""
    stream = Stream(direction)
    stream.state = state
    moved = stream.move(input)
    assert stream.state is (state if moved is LATE else moved)


def test_a_direction_ends_at_most_once() -> None:
    """In any sequence of up to five inputs, `over` turns true at most once and never turns back."""
    for inputs in itertools.product(Input, repeat=5):
        stream = Stream(Direction.REQUEST)
        seen = []
        for input in inputs:
            stream.move(input)
            seen.append(stream.over)
        assert seen == sorted(seen), inputs


def test_a_close_of_a_direction_that_never_began_leaves_it_idle() -> None:
    """A direction without a message has no record, also after the stream closed."""
    stream = Stream(Direction.RESPONSE)
    assert stream.move(Input.CLOSE) is State.IDLE
    assert (stream.began, stream.over) == (False, False)
