"""The operators' log: what a person on duty should know, one event a line, on stderr.

    logs.setup("worker 0", "auto")
    log.warning("a segment is left to recovery", extra={"exchange_id": id})

As JSON, a line holds `time` (RFC 3339, UTC), `level`, `event`, `component`, and what `extra` names: `exchange_id`,
`trace_id`, `span_id` and the like. On a terminal it is text. The same event comes at most `MAX_LINES` times within
`PERIOD_SECONDS`; the next line then says how many were left out. Never a body, never a credential: an exception is told
by its type and the places in our code, since its text may quote either.
"""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final, Literal

Format = Literal["auto", "json", "text"]

MAX_LINES: Final = 10
PERIOD_SECONDS: Final = 10.0
_MAX_EVENTS: Final = 1000

_OWN: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "left_out"}


def setup(component: str, form: Format) -> None:
    """Send all of this process's log to stderr. `component` names the process."""
    as_json = form == "json" or (form == "auto" and not sys.stderr.isatty())
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(component) if as_json else TextFormatter(component))
    handler.addFilter(RateLimit())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


def fields(record: logging.LogRecord) -> dict[str, Any]:
    """What the call has given by `extra`."""
    return {name: value for name, value in vars(record).items() if name not in _OWN}


def event(record: logging.LogRecord) -> str:
    """The event in words, with how many like it were left out before."""
    left_out = getattr(record, "left_out", 0)
    return record.getMessage() + (f" ({left_out} more like it were left out)" if left_out else "")


def place(error: BaseException) -> str:
    """Where an exception comes from: its type and the calls, without its text."""
    calls = traceback.extract_tb(error.__traceback__)
    return f"{type(error).__name__} at " + " < ".join(f"{call.name}:{call.lineno}" for call in reversed(calls))


class JsonFormatter(logging.Formatter):
    """One JSON object a line, ASCII only, so that nothing in it can pretend to be another line."""

    def __init__(self, component: str) -> None:
        super().__init__()
        self._component = component

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC)
        line: dict[str, Any] = {
            "time": f"{moment:%Y-%m-%dT%H:%M:%S.%f}Z",
            "level": record.levelname.lower(),
            "event": event(record),
            "component": self._component,
        }
        if record.exc_info and record.exc_info[1] is not None:
            line["error"] = place(record.exc_info[1])
        return json.dumps(line | fields(record), default=str)


class TextFormatter(logging.Formatter):
    """For a person: the component, the event, the fields."""

    def __init__(self, component: str) -> None:
        super().__init__()
        self._component = component

    def format(self, record: logging.LogRecord) -> str:
        parts = [f"extproc {self._component}:" if self._component else "extproc:", event(record)]
        if record.exc_info and record.exc_info[1] is not None:
            parts.append(f"({place(record.exc_info[1])})")
        parts += [f"{name}={value}" for name, value in fields(record).items()]
        return "".join(character if character.isprintable() else _visible(character) for character in " ".join(parts))


def _visible(character: str) -> str:
    return "\n" if character == "\n" else character.encode("unicode_escape").decode()


class RateLimit(logging.Filter):
    """Lets an event pass so many times a period. Events are told apart by their text before anything is filled in."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._seen: dict[tuple[str, str], list[float]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        key = (record.name, str(record.msg))
        now = self._clock()
        since, count = self._seen.get(key, (now, 0))
        if now - since >= PERIOD_SECONDS:
            record.left_out = max(0, int(count) - MAX_LINES)
            since, count = now, 0
        if len(self._seen) >= _MAX_EVENTS and key not in self._seen:
            self._seen.clear()
        self._seen[key] = [since, count + 1]
        return count < MAX_LINES
