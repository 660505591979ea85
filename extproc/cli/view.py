"""An exchange in words: what `log`, `show` and `inflight` say about one, and in which colour."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, Final

from extproc.cli.output import Cell, Column, Row
from extproc.core.joined import NO_LLM, Exchange
from extproc.core.outcome import Outcome
from extproc.core.times import moment
from extproc.history import filters
from extproc.history.filters import IN_FLIGHT

MEANING: Final[Mapping[str, str]] = {
    Outcome.OK: "the answer is complete",
    Outcome.OK_CLIENT_LEFT_AFTER_TERMINAL: "the answer is complete; the client hung up right after it",
    Outcome.CLIENT_CANCEL_BEFORE_FIRST_BYTE: "the client hung up before the answer began",
    Outcome.CLIENT_CANCEL_MID_STREAM: "the client hung up in the middle of the answer",
    Outcome.UPSTREAM_ERROR_STATUS: "the backend answered with an error",
    Outcome.UPSTREAM_ERROR_FRAME: "the backend's answer holds an error",
    Outcome.UPSTREAM_RESET_BEFORE_HEADERS: "the backend closed the connection without an answer",
    Outcome.UPSTREAM_RESET_MID_STREAM: "the backend closed the connection in the middle of the answer",
    Outcome.UPSTREAM_TRUNCATED: "the backend's answer stops too early",
    Outcome.UPSTREAM_TIMEOUT: "the backend did not answer in time",
    Outcome.UPSTREAM_CONNECT_FAIL: "Envoy could not connect to the backend",
    Outcome.LOCAL_REPLY: "Envoy answered by itself; no backend did",
    Outcome.REJECTED_BY_POLICY: "the sidecar refused the request",
    Outcome.RECORDER_FAILED: "the sidecar did not answer Envoy in time, or broke, and Envoy ended it for that",
    Outcome.SIDECAR_RESTART_ORPHAN: "it was in flight when the sidecar died",
    Outcome.PROXY_DRAIN: "it was still running when the sidecar was stopped",
    Outcome.UNKNOWN: "it was cut off; without Envoy's access entry there is no telling by whom",
    IN_FLIGHT: "it has not ended",
}

_REFUSED: Final[Mapping[str, str]] = {
    "client": "the backend would not have the request: the client's own mistake",
    "limited": "the backend asks the client to wait: a rate limit",
}
"""What a backend's error is where it is no fault of the backend, by class."""

_GREEN: Final = {Outcome.OK, Outcome.OK_CLIENT_LEFT_AFTER_TERMINAL}
_YELLOW: Final = {
    Outcome.CLIENT_CANCEL_BEFORE_FIRST_BYTE,
    Outcome.CLIENT_CANCEL_MID_STREAM,
    Outcome.PROXY_DRAIN,
    Outcome.UNKNOWN,
}


def outcome(exchange: Exchange) -> str:
    """The outcome, or that there is none yet."""
    return exchange.outcome or IN_FLIGHT


def meaning(exchange: Exchange) -> str:
    """What the outcome means, in a sentence."""
    state = outcome(exchange)
    refused = _REFUSED.get(exchange.class_ or "") if state == Outcome.UPSTREAM_ERROR_STATUS else None
    return refused or MEANING.get(state, "")


def colour(exchange: Exchange) -> str:
    """The terminal's colour for how an exchange ended."""
    state = outcome(exchange)
    if state == IN_FLIGHT:
        return "cyan"
    if state in _GREEN:
        return "green"
    return "yellow" if state in _YELLOW or exchange.class_ in _REFUSED else "red"


def local_time(timestamp: str | None) -> str:
    """A record's timestamp on the reader's clock, to the millisecond."""
    at = moment(timestamp)
    return f"{at.astimezone():%Y-%m-%d %H:%M:%S}.{at.microsecond // 1000:03d}" if at else "?"


def short_time(timestamp: str | None) -> str:
    """A record's timestamp on the reader's clock: the time of day, or for another day less of it and the date."""
    at = moment(timestamp)
    if at is None:
        return "?"
    at = at.astimezone()
    today = at.date() == datetime.now().astimezone().date()
    return f"{at:%H:%M:%S}.{at.microsecond // 1000:03d}" if today else f"{at:%m-%d %H:%M:%S}"


def duration(milliseconds: float | None) -> str:
    """A duration in the unit that suits it."""
    if milliseconds is None:
        return ""
    if milliseconds < 1000:
        return f"{milliseconds:.1f} ms"
    return f"{milliseconds / 1000:.2f} s" if milliseconds < 60_000 else f"{milliseconds / 60_000:.1f} min"


def tokens(exchange: Exchange) -> str:
    """Tokens in and out as the backend counted them."""
    sent, got = filters.tokens(exchange)
    return "" if sent is None and got is None else f"{'' if sent is None else sent}/{'' if got is None else got}"


def short_id(id: str) -> str:
    """The end of an id, 48 random bits: of a million exchanges two have the same once in 560 journals."""
    return id.rpartition("-")[2] or id


def _text(value: Any) -> str:
    return "" if value is None else str(value)


COLUMNS: Final[Mapping[str, Column]] = {
    "started": Column("started", 12, fixed=True),
    "outcome": Column("outcome", 11, fixed=True),
    "status": Column("status", 6, right=True, fixed=True, worth=1),
    "method": Column("method", 4, worth=7),
    "path": Column("path", 12, worth=5),
    "model": Column("model", 8, worth=2),
    "upstream": Column("upstream", 14, worth=3),
    "took": Column("took", 8, right=True, worth=4),
    "tokens": Column("tokens", 7, right=True, worth=6),
    "id": Column("id", 12, fixed=True),
    "state": Column("state", 9, fixed=True),
    "silent": Column("silent", 8, right=True, fixed=True),
    "received": Column("received", 9, right=True, worth=4),
    "cluster": Column("cluster", 8, worth=5),
    "route": Column("route", 8, worth=6),
    "client": Column("client", 14, worth=6),
    "key": Column("key", 12, worth=6),
    "api": Column("api", 8, worth=6),
}
"""The columns of a list by their names; those of no worth are never left out."""

LISTED: Final = ("started", "outcome", "status", "method", "path", "model", "upstream", "took", "tokens", "id")
"""What `log` shows."""
RUNNING: Final = ("started", "state", "silent", "upstream", "cluster", "model", "path", "received", "id")
"""What `inflight` shows of what is in flight now."""


def row(exchange: Exchange, names: Iterable[str] = LISTED, *, local: bool, short: bool = False) -> Row:
    """One exchange as a line of a table. `local`: times on the reader's clock and with units, for a person; `short`:
    the end of its id."""
    return [_CELLS[name](exchange, local, short) for name in names]


def _started(exchange: Exchange, local: bool, _: bool) -> str:
    return short_time(exchange.started_at) if local else _text(exchange.started_at)


def _silent(exchange: Exchange, local: bool, _: bool) -> str:
    silent = getattr(exchange, "silent_ms", None)
    return duration(silent) if local else _text(silent)


def _state(exchange: Exchange, *_: bool) -> Cell:
    state = _text(getattr(exchange, "state", None))
    return Cell(state, {"silent": "red", "waiting": "yellow"}.get(state, ""))


def _plain(name: str) -> Callable[[Exchange, bool, bool], str]:
    return lambda exchange, *_: _text(getattr(exchange, name))


def _took(exchange: Exchange, local: bool, _: bool) -> str:
    took = exchange.duration_ms
    return duration(took) if local else _text(took)


_CELLS: Final[Mapping[str, Callable[[Exchange, bool, bool], Cell | str]]] = {
    "started": _started,
    "outcome": lambda exchange, *_: Cell(outcome(exchange), colour(exchange)),
    **{name: _plain(name) for name in ("status", "method", "path", "upstream", "cluster", "route", "client", "key")},
    "model": lambda exchange, *_: filters.model(exchange),
    "api": lambda exchange, *_: _text((exchange.llm or NO_LLM).api),
    "state": _state,
    "silent": _silent,
    "received": lambda exchange, *_: _text(getattr(exchange, "response_bytes", None)),
    "took": _took,
    "tokens": lambda exchange, *_: tokens(exchange),
    "id": lambda exchange, _, short: short_id(exchange.id) if short else exchange.id,
}
