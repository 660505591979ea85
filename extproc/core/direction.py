"""One direction of an exchange: where it stands, its head, its body, and its part of a record."""

from __future__ import annotations

from msgspec import UNSET, UnsetType

from extproc.core.body import BodyCapture
from extproc.core.events import Body as BodyEvent
from extproc.core.events import Direction
from extproc.core.head import Head
from extproc.core.records import Headers
from extproc.core.stream import Input, State, Stream

# Looked up once: a member of an enum costs more on its class than a call does (Python 3.11).
_BODY, _BODY_FULL, _BODY_END = Input.BODY, Input.BODY_FULL, Input.BODY_END
_ABORTED = State.ABORTED

NO_HEAD = Head([])
NO_SILENCE = (0, 0, 0)


class DirectionContent:
    """State and content of one direction. `first_at` and `last_at` are times as in events, 0 before the first."""

    __slots__ = ("body", "ended_by", "first_at", "head", "last_at", "silence", "stream", "trailers", "truncated")

    def __init__(self, direction: Direction, inline_body_bytes: int) -> None:
        self.stream = Stream(direction)
        self.head = NO_HEAD
        self.body = BodyCapture(inline_body_bytes)
        self.trailers: Head | None = None
        self.ended_by: str | None = None
        self.truncated = False
        self.first_at = 0
        self.last_at = 0
        self.silence = NO_SILENCE
        """The longest time between two pieces of the body: how long, when it began, after how many bytes."""

    def classify(self, event: BodyEvent) -> tuple[Input, str | None]:
        """Which input a body message is once its bytes are counted, and what it ends the direction by, if it does."""
        if event.end_of_stream:
            return _BODY_END, "end_of_stream"
        if event.whole:  # BUFFERED: the one message is the body; only trailers can follow it
            return _BODY_FULL, "end_of_stream"
        if self.has_all:
            return _BODY_FULL, "content_length"
        return _BODY, None

    @property
    def has_all(self) -> bool:
        """As many bytes are here as `content-length` announced."""
        announced = self.head.content_length
        return announced is not None and self.body.length >= announced

    def end(self, ended_by: str) -> None:
        """Note how the direction ended, and whether what is recorded of its body can be all of it."""
        self.ended_by = ended_by
        announced = self.head.content_length
        short = announced is not None and self.body.length < announced and ended_by != "headers"
        self.truncated |= short or self.stream.state is _ABORTED

    @property
    def recorded_trailers(self) -> Headers | UnsetType:
        """As they stand in a record."""
        return UNSET if self.trailers is None else self.trailers.fields
