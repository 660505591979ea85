"""The end_of_stream table: when a body begins, when it is over, and what can no longer change it.

An exchange has two directions, and both obey this one table. A direction is IDLE until its first message and
OPEN while it may bring more. It is over exactly once, in one of three ways:

* FULL: all announced bytes are here, but `end_of_stream` is not. Envoy often sends the last byte so and an empty
  end after it; the peer has everything by then, so the record must be made now and not at the end that follows.
* ENDED: by `end_of_stream` on headers or body, or by trailers.
* ABORTED: the stream closed first.

          HEADERS  HEADERS_END  BODY   BODY_FULL  BODY_END  TRAILERS  CLOSE
    IDLE      OPEN     ENDED        OPEN   FULL       ENDED     ENDED     IDLE
    OPEN      late     late         OPEN   FULL       ENDED     ENDED     ABORTED
    FULL      late     late         late   late       ENDED     ENDED     ENDED
    ENDED     late     late         late   late       late      late      ENDED
    ABORTED   late     late         late   late       late      late      ABORTED

`late` is not an error: Envoy really sends a second `end_of_stream` after bodies of more than a megabyte
(envoyproxy/envoy#46237), and a peer that processed such a message again is the reason this project exists.
A late message changes nothing and is processed by nobody; it is counted, and answered as Envoy expects.

The two directions interleave freely: an early answer starts before the request has ended, and never ends it.
A `Stream` lives on its exchange and nowhere else; nothing is looked up by an id that a client could choose.
"""

from __future__ import annotations

import enum

from extproc.core.events import Direction


class State(enum.IntEnum):
    """Where a direction stands."""

    IDLE = 0
    OPEN = 1
    FULL = 2
    ENDED = 3
    ABORTED = 4


class Input(enum.IntEnum):
    """What can happen to a direction. `X_END` is message X with `end_of_stream`."""

    HEADERS = 0
    HEADERS_END = 1
    BODY = 2
    BODY_FULL = 3
    BODY_END = 4
    TRAILERS = 5
    CLOSE = 6


LATE = None
"""The table's entry for a message that comes after the end of its direction, or headers that come twice."""

_IDLE, _OPEN, _FULL, _ENDED, _ABORTED = State

TABLE: tuple[tuple[State | None, ...], ...] = (
    # HEADERS HEADERS_END BODY  BODY_FULL BODY_END TRAILERS CLOSE
    (_OPEN, _ENDED, _OPEN, _FULL, _ENDED, _ENDED, _IDLE),
    (LATE, LATE, _OPEN, _FULL, _ENDED, _ENDED, _ABORTED),
    (LATE, LATE, LATE, LATE, _ENDED, _ENDED, _ENDED),
    (LATE, LATE, LATE, LATE, LATE, LATE, _ENDED),
    (LATE, LATE, LATE, LATE, LATE, LATE, _ABORTED),
)
"""`TABLE[state][input]`: the next state, or `LATE`."""


class Stream:
    """The state of one direction. `move` is the only way to change it."""

    __slots__ = ("began", "direction", "over", "state")

    def __init__(self, direction: Direction) -> None:
        self.direction = direction
        self.state = _IDLE
        self.began = False
        """A message of this direction has been seen."""
        self.over = False
        """The record of this direction has been made, or is being made now."""

    def move(self, input: Input) -> State | None:
        """Take one input. Returns the new state, or `LATE`, in which case nothing has changed."""
        state = TABLE[self.state][input]
        if state is not LATE and state is not self.state:
            self.state = state
            self.began = True
            self.over = state is not _OPEN
        return state

    def __repr__(self) -> str:
        return f"<{self.direction.value}, {self.state.name}>"
