"""An answer, judged as the recorder would have recorded it: its outcome and its class mean here what they mean there.

    listener = Listener(request, path)
    listener.head(200, headers)
    listener.body(piece)              # for each
    answer = listener.ended()         # or: broke(), fell_silent(), left()

A stream whose status is 200 and that holds an error is an error, and one that stops before its format ends is cut.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from extproc.core import outcome
from extproc.core.effects import Append, Effect
from extproc.core.events import Body, CloseReason, Direction, HeaderList, Headers
from extproc.core.exchange import ExchangeRecorder, RecorderSettings
from extproc.core.outcome import Outcome
from extproc.core.records import Access, Response
from extproc.core.redact import Redactor
from extproc.core.trace import TraceContext
from extproc.replay.request import Request

_SETTINGS: Final = RecorderSettings(Redactor(b"replay"))
_TRACE: Final = TraceContext("0" * 32, "0" * 16)
_WHOLE: Final = frozenset({Outcome.OK, Outcome.UPSTREAM_ERROR_STATUS})


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one request."""

    outcome: Outcome
    kind: str
    """The outcome's class."""
    status: int | None
    bytes: int
    seconds: float
    """From the first byte sent to the last one received."""
    error: str = ""
    """The server's own words, or the system's."""

    @property
    def whole(self) -> bool:
        """It came to its end, be it an error's, and no error came in the middle of it."""
        return self.outcome in _WHOLE

    @property
    def is_failure(self) -> bool:
        """The server failed, and not only by a word that the request is wrong, or that we left."""
        return self.kind not in ("ok", "client", "limited")

    @property
    def text(self) -> str:
        """For a person."""
        status = "" if self.status is None else f" {self.status}"
        return f"{self.outcome.value}{status}" + (f" ({self.error})" if self.error else "")


class Listener:
    """Hears one answer. Exactly one of the methods that end it is called."""

    def __init__(self, request: Request, target: str) -> None:
        self.bytes = 0
        self._began = time.monotonic()
        now = time.monotonic_ns()
        self._exchange = ExchangeRecorder(
            request.id, _SETTINGS, started_ns=time.time_ns(), started_at=now, trace=_TRACE, parent=None
        )
        self._record = Response(id="")
        # Only what decides how an answer is read: the rest of the request says nothing about it.
        names = [(":method", request.method.encode("utf-8", "replace")), (":path", target.encode())]
        self._take(self._exchange.receive(Headers(Direction.REQUEST, names, True, now)).effects)

    def head(self, status: int, headers: Iterable[tuple[str, str]]) -> None:
        """The status and the headers."""
        fields: HeaderList = [(":status", str(status).encode())]
        fields += [(name.lower(), value.encode("utf-8", "surrogateescape")) for name, value in headers]
        self._take(self._exchange.receive(Headers(Direction.RESPONSE, fields, False, time.monotonic_ns())).effects)

    def body(self, data: bytes) -> None:
        """A piece of the body."""
        self.bytes += len(data)
        self._take(self._exchange.receive(Body(Direction.RESPONSE, data, False, time.monotonic_ns())).effects)

    def ended(self) -> Answer:
        """The answer is over."""
        self._take(self._exchange.receive(Body(Direction.RESPONSE, b"", True, time.monotonic_ns())).effects)
        return self._answer()

    def broke(self, error: str) -> Answer:
        """The connection is gone."""
        return self._cut(f"upstream_reset_{'after' if self.bytes else 'before'}_response_started", error)

    def refused(self, error: str) -> Answer:
        """There never was a connection."""
        return self._cut("upstream_reset_before_response_started{connection_failure}", error)

    def fell_silent(self, error: str) -> Answer:
        """Nothing came any more, and nobody waits for it any longer."""
        return self._cut("stream_idle_timeout", error)

    def left(self) -> Answer:
        """We hung up, as the client had."""
        return self._cut("downstream_remote_disconnect", "")

    def _cut(self, details: str, error: str) -> Answer:
        self._take(self._exchange.close(CloseReason.CLOSED, time.monotonic_ns()))
        return self._answer(details, error)

    def _take(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Append) and isinstance(effect.record, Response):
                self._record = effect.record

    def _answer(self, details: str | None = None, error: str = "") -> Answer:
        decided = outcome.decide(self._record, None, Access(id=None, response_code_details=details))
        status, llm = self._record.status, self._record.llm
        said = None if llm is None or llm.error is None else llm.error.message
        return Answer(
            decided,
            outcome.outcome_class(decided, status),
            status,
            self.bytes,
            time.monotonic() - self._began,
            str(said or error),
        )
