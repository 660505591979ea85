"""The table of a stream's life, against its own picture and against RFC 9113."""

from __future__ import annotations

import re

import pytest

from extproc.service.http2 import states
from extproc.service.http2.states import TABLE, Fault, Input, State


def test_the_picture_is_the_table() -> None:
    """The docstring draws each state and input as the code has them."""
    assert states.__doc__ is not None
    head, *rows = re.findall(r"(?m)^    ( +HEADERS .*|[A-Z_]+ +\S.*)$", states.__doc__)
    assert head.split() == [each.name for each in Input]
    drawn = {row.split()[0]: row.split()[1:] for row in rows}
    assert drawn == {
        state.name: [each.name if isinstance(each, State) else each.name.lower() for each in TABLE[state]]
        for state in State
    }


@pytest.mark.parametrize("state", State)
def test_every_state_answers_every_input(state: State) -> None:
    """There is no hole in the table."""
    assert len(TABLE[state]) == len(Input)


@pytest.mark.parametrize("state", [State.ENDED, State.RESET, State.LEFT, State.FORGOTTEN])
def test_what_is_closed_stays_closed(state: State) -> None:
    """No input opens a stream again."""
    closed = {State.ENDED, State.RESET, State.LEFT, State.FORGOTTEN}
    assert all(next_ in closed for next_ in TABLE[state] if isinstance(next_, State))


def test_an_end_stream_ends_the_client_s_side() -> None:
    """After END_STREAM nothing of the client's may follow but WINDOW_UPDATE and RST_STREAM."""
    for input in (Input.HEADERS_END, Input.DATA_END):
        after = TABLE[State.OPEN][input]
        assert after is State.HALF_CLOSED
        assert {TABLE[after][each] for each in (Input.HEADERS, Input.DATA, Input.DATA_END)} == {Fault.LATE}
