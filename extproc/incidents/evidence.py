"""An exchange as the search for a backend's death sees it: when it began, gave bytes, ended, and how.

    flights = evidence.flights(exchange, body)   # none: it never reached a backend

Of one that waits for its answer nobody knows yet at which backend of its cluster it is: its upstream is empty.

Times are seconds since 1970. What is kept of an exchange is small, so that all of a journal fit into memory.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum
from typing import Any, Final, NamedTuple

from extproc.core.joined import NO_ERROR, NO_LLM, NO_REQUEST, NO_RESPONSE, ExchangeRequest, ExchangeResponse, Llm
from extproc.core.outcome import Outcome
from extproc.core.records import Attempt, Progress
from extproc.errors import JournalError
from extproc.history import bodies
from extproc.history.index import told
from extproc.history.join import Exchange
from extproc.incidents import atoms

Body = Callable[[Exchange, str], bytes | None]
"""The bytes of one direction (`request`, `response`) of an exchange, as far as they were recorded."""


class End(Enum):
    """How an exchange ended, as far as it says something of its backend."""

    GOOD = "good"
    BAD = "bad"
    """An error of the server, or a break."""
    REFUSED = "refused"
    """No connection to the backend."""
    DECLINED = "declined"
    """An error of the request: 4xx."""
    LEFT = "left"
    """The client went, or a time limit passed, while the backend was silent or not."""
    RUNNING = "running"
    OTHER = "other"
    """Nothing that the backend did."""


_ENDS: Final = {
    Outcome.OK: End.GOOD,
    Outcome.OK_CLIENT_LEFT_AFTER_TERMINAL: End.GOOD,
    Outcome.UPSTREAM_ERROR_FRAME: End.BAD,
    Outcome.UPSTREAM_RESET_BEFORE_HEADERS: End.BAD,
    Outcome.UPSTREAM_RESET_MID_STREAM: End.BAD,
    Outcome.UPSTREAM_TRUNCATED: End.BAD,
    Outcome.UPSTREAM_CONNECT_FAIL: End.REFUSED,
    Outcome.UPSTREAM_TIMEOUT: End.LEFT,
    Outcome.CLIENT_CANCEL_BEFORE_FIRST_BYTE: End.LEFT,
    Outcome.CLIENT_CANCEL_MID_STREAM: End.LEFT,
}
_RESETS: Final = frozenset({Outcome.UPSTREAM_RESET_BEFORE_HEADERS, Outcome.UPSTREAM_RESET_MID_STREAM})
_MESSAGE: Final = re.compile(rb'"message"\s*:\s*"((?:[^"\\]|\\.){0,300})')
_TAIL_BYTES: Final = 2048
NULL: Final = "null"
_NULL_BYTES: Final = 16
_NO_PROGRESS: Final = Progress()


@dataclass(frozen=True, slots=True)
class Flight:
    """One exchange."""

    id: str
    upstream: str
    """Empty while that is not known."""
    started: float
    end: End
    ended: float | None = None
    cluster: str | None = None
    model: str = ""
    outcome: str = ""
    status: int | None = None
    first_byte: float | None = None
    last_byte: float | None = None
    token: float | None = None
    """When its first token came; of an answer in one piece, when it came."""
    silence: tuple[float, float] | None = None
    """Its longest silence, between two pieces of its answer."""
    streamed: bool = False
    error: str = ""
    body: str = ""
    """The digest of its request."""
    size: int = 0
    fingerprint: str = ""
    path: str = ""
    client: str = ""
    trace: str = ""
    atoms: Mapping[str, str] | None = None
    """What its request asked for; None: that is not known."""

    @property
    def served(self) -> bool:
        """The backend has worked on it and lived: it gave a token, or a whole answer, or declined it."""
        return self.token is not None or self.end in (End.GOOD, End.DECLINED)

    @property
    def answered(self) -> float:
        """When one that was served first showed it."""
        return self.token if self.token is not None else self.ended or self.started

    @property
    def is_constrained(self) -> bool:
        """It constrains the form of its answer, by tools as well."""
        return told.constrains(self.atoms or ())

    @property
    def reset(self) -> bool:
        """It broke off, without a word from the backend."""
        return self.outcome in _RESETS

    def running_at(self, at: float) -> bool:
        """It had begun and not ended."""
        return self.started < at and (self.ended is None or self.ended >= at)

    def quiet_from(self) -> float | None:
        """When the last piece of its answer came that is no report of its end; None: it never gave one."""
        if self.last_byte is None or self.first_byte is None or self.outcome == Outcome.UPSTREAM_RESET_BEFORE_HEADERS:
            return None
        says_why = self.end is End.BAD and not self.reset
        if says_why and self.silence is not None and self.last_byte - self.silence[1] < _REPORT_SECONDS:
            return self.silence[0]
        return self.last_byte

    @property
    def only_greeted(self) -> bool:
        """It is a stream that has got headers at most, and perhaps a first word of the server's: an engine that hangs
        may be behind it."""
        if not self.streamed or self.token is not None or self.end in (End.GOOD, End.DECLINED):
            return False
        return self.last_byte is None or self.first_byte is None or self.last_byte - self.first_byte < _GREETING_SECONDS

    def signs(self) -> list[float]:
        """When its backend is known to have worked on it: at its first and its last piece, not at its headers, nor at a
        report of its end."""
        if self.end is End.REFUSED or self.only_greeted:
            return []
        first = None if self.streamed or self.end is End.BAD else self.first_byte
        last = self.quiet_from() if self.end is End.BAD else self.last_byte
        return [each for each in (first, self.token, last) if each is not None]


_REPORT_SECONDS: Final = 0.2
"""An error and its `[DONE]` come within this time."""
_GREETING_SECONDS: Final = 1.0


class Known(NamedTuple):
    """What an index keeps of an exchange's bodies, so that they need not be read again."""

    atoms: Mapping[str, str] | None
    message: str
    streamed: bool


def flights(exchange: Exchange, body: Body, known: Known | None = None) -> list[Flight]:
    """What an exchange says of its backends: the one that it ended at, and those at which Envoy had tried before."""
    last = _last(exchange, body, known)
    if last is None:
        return []
    found: list[Flight] = []
    reached = last.started
    for attempt in exchange.failed_attempts or ():
        started = seconds(attempt.started_at) or reached
        ended = started + (attempt.duration_ms or 0) / 1000
        reached = max(reached, ended)
        outcome = _outcome_of(attempt)
        if attempt.upstream and outcome is not None:
            found.append(
                replace(
                    last,
                    upstream=attempt.upstream,
                    cluster=attempt.cluster,
                    started=started,
                    ended=ended,
                    end=_ENDS.get(outcome, End.BAD),
                    outcome=outcome.value,
                    status=attempt.status,
                    first_byte=None,
                    last_byte=None,
                    token=None,
                    silence=None,
                    error="",
                )
            )
    return [*found, replace(last, started=reached)]


def _outcome_of(attempt: Attempt) -> Outcome | None:
    """How an attempt ended that Envoy did not leave at that; None: by nothing that the backend did."""
    flags = set(attempt.response_flags or ())
    if "UF" in flags:
        return Outcome.UPSTREAM_CONNECT_FAIL
    if flags & {"UC", "UR", "UPE"}:
        return Outcome.UPSTREAM_RESET_BEFORE_HEADERS
    if flags & {"UT", "SI"}:
        return Outcome.UPSTREAM_TIMEOUT
    return Outcome.UPSTREAM_ERROR_STATUS if (attempt.status or 0) >= 500 else None


def _last(exchange: Exchange, body: Body, known: Known | None) -> Flight | None:
    upstream = exchange.upstream
    started = seconds(exchange.started_at)
    if (not upstream and exchange.outcome is not None) or started is None:
        return None
    answer, request, llm = exchange.response or NO_RESPONSE, exchange.request or NO_REQUEST, exchange.llm or NO_LLM
    progress, end = exchange.progress or _NO_PROGRESS, _end(exchange)
    answered = end is not End.REFUSED
    first = _after(started, answer.first_byte_ms) if answered else None
    last = _after(started, answer.last_byte_ms) if answered else None
    if end is End.GOOD and _says_nothing(exchange, answer, llm, body, known):
        end = End.BAD
    has_words = end is End.BAD and exchange.outcome not in _RESETS
    says_what = end not in (End.REFUSED, End.OTHER) and exchange.request is not None
    if known is None:
        events = "event-stream" in (answer.content_type or "")
        error = _error(exchange, answer, llm, body) if has_words else ""
        asked = _atoms(exchange, request, llm, body) if says_what else None
    else:
        events, error, asked = known.streamed, known.message if has_words else "", known.atoms if says_what else None
    token = _after(started, llm.ttft_ms)
    if end is End.GOOD and token is None:
        token = last
    return Flight(
        id=exchange.id,
        upstream=upstream or "",
        cluster=exchange.cluster,
        model=llm.model or "",
        started=started,
        ended=seconds(exchange.ended_at),
        end=end,
        outcome=exchange.outcome or "",
        status=exchange.status,
        first_byte=first if first is not None else _after(started, progress.first_byte_ms),
        last_byte=last if last is not None else _last_piece(started, progress),
        token=token if token is not None else _after(started, progress.first_token_ms),
        silence=_silence(started, answer) or _silence(started, progress),
        streamed=events or bool(llm.stream),
        error=error,
        body=request.sha256 or "",
        size=request.bytes or 0,
        fingerprint=llm.fingerprint or "",
        path=(exchange.path or "").partition("?")[0],
        client=exchange.client or "",
        trace=exchange.trace_id or "",
        atoms=asked,
    )


def _end(exchange: Exchange) -> End:
    outcome = exchange.outcome
    if outcome is None:
        return End.RUNNING
    if outcome == Outcome.UPSTREAM_ERROR_STATUS:
        return End.BAD if (exchange.status or 0) >= 500 else End.DECLINED
    try:
        return _ENDS.get(Outcome(outcome), End.OTHER)
    except ValueError:
        return End.OTHER


def _says_nothing(exchange: Exchange, answer: ExchangeResponse, llm: Llm, body: Body, known: Known | None) -> bool:
    """Whether the whole answer of an LLM's API is `null`, as when its server fails under it and returns nothing."""
    if not llm.api or not 0 < (answer.bytes or 0) <= _NULL_BYTES:
        return False
    return (known.message if known is not None else last_message(body(exchange, "response") or b"")) == NULL


def _last_piece(started: float, progress: Progress) -> float | None:
    """When the last piece of an unfinished answer came, its headers included."""
    return seconds(progress.last_chunk_at) if progress.response_chunks else _after(started, progress.first_byte_ms)


def _silence(started: float, said: ExchangeResponse | Progress) -> tuple[float, float] | None:
    began, lasted = _after(started, said.silence_at_ms), said.max_silence_ms
    return (began, began + lasted / 1000) if began is not None and lasted is not None else None


def _error(exchange: Exchange, answer: ExchangeResponse, llm: Llm, body: Body) -> str:
    """The message of an error of the backend's own."""
    message = (llm.error or NO_ERROR).message
    if message or not answer.bytes:
        return str(message or "")
    return last_message(body(exchange, "response") or b"")


def last_message(body: bytes) -> str:
    """The last message of an error in an answer of which nobody knows the form; `NULL` for one that is only that."""
    if len(body) <= _NULL_BYTES and body.strip() == b"null":
        return NULL
    found = _MESSAGE.findall(body[-_TAIL_BYTES:]) if b'"message"' in body[-_TAIL_BYTES:] else ()
    return found[-1].decode("utf-8", "replace") if found else ""


def _atoms(exchange: Exchange, request: ExchangeRequest, llm: Llm, body: Body) -> Mapping[str, str]:
    content = body(exchange, "request") if (request.bytes or 0) <= atoms.MOST_BYTES else None
    return atoms.of(exchange.path or "", content, llm.params, request.bytes or 0)


def _after(started: float, milliseconds: float | None) -> float | None:
    return started + milliseconds / 1000 if milliseconds is not None else None


def seconds(text: Any) -> float | None:
    """RFC 3339 as seconds since 1970; None for anything else."""
    try:
        return datetime.fromisoformat(text).timestamp() if text else None
    except (TypeError, ValueError):
        return None


def recorded_body(exchange: Exchange, direction: str) -> bytes | None:
    """The bytes of a body in the journal; None where they are gone, or were not kept."""
    try:
        return bodies.whole(exchange, direction)
    except JournalError:
        return None
