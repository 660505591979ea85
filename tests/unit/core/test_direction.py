"""One direction of an exchange."""

from __future__ import annotations

import pytest

from extproc.core.direction import DirectionContent
from extproc.core.events import Body, Direction
from extproc.core.head import Head
from extproc.core.stream import Input, State


def content(announced: int | None = None, length: int = 0) -> DirectionContent:
    """A direction whose headers announced so much and of which so much is here."""
    made = DirectionContent(Direction.REQUEST, 1000)
    made.head = Head([], content_length=announced)
    made.body.feed(b"x" * length)
    return made


CASES = [
    (content(), Body(Direction.REQUEST, b"", False, 0), Input.BODY, None),
    (content(), Body(Direction.REQUEST, b"", True, 0), Input.BODY_END, "end_of_stream"),
    (content(), Body(Direction.REQUEST, b"", False, 0, whole=True), Input.BODY_FULL, "end_of_stream"),
    (content(4, 3), Body(Direction.REQUEST, b"", False, 0), Input.BODY, None),
    (content(4, 4), Body(Direction.REQUEST, b"", False, 0), Input.BODY_FULL, "content_length"),
    (content(4, 5), Body(Direction.REQUEST, b"", False, 0), Input.BODY_FULL, "content_length"),
    (content(4, 4), Body(Direction.REQUEST, b"", True, 0), Input.BODY_END, "end_of_stream"),
]


@pytest.mark.parametrize(("at", "event", "input", "ended_by"), CASES)
def test_a_body_message_is_classified_once_its_bytes_are_counted(
    at: DirectionContent, event: Body, input: Input, ended_by: str | None
) -> None:
    """`end_of_stream` before the announced length, the announced length before nothing."""
    assert at.classify(event) == (input, ended_by)


@pytest.mark.parametrize(
    ("announced", "length", "ended_by", "state", "truncated"),
    [
        (None, 3, "end_of_stream", State.ENDED, False),
        (3, 3, "content_length", State.FULL, False),
        (4, 3, "end_of_stream", State.ENDED, True),
        (4, 0, "headers", State.ENDED, False),
        (None, 3, "closed", State.ABORTED, True),
    ],
)
def test_a_body_that_cannot_be_all_of_it_is_truncated(
    announced: int | None, length: int, ended_by: str, state: State, truncated: bool
) -> None:
    """Fewer bytes than announced, or a close in the middle; not a HEAD answer with a length and no body."""
    at = content(announced, length)
    at.stream.state = state
    at.end(ended_by)
    assert (at.ended_by, at.truncated) == (ended_by, truncated)
