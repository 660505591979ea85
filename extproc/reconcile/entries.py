"""What Envoy says of each request in its access log, from the journal's records or from a file of JSON lines.

    entry = of_record(record)                  # an `access` record
    for entry in read(file, "access.json"):    # an Entry, or Unreadable with its place

The file is what Envoy's file or stdout logger writes with a `json_format` of the keys of JSON_FORMAT, in any order and
among others. Those of REQUIRED must be there, `null` where there is nothing to say. Envoy's own log, which stands
between them in `run/envoy.log`, is passed over, and so is half a line at the end, which Envoy is just writing. Nothing
in a file raises; memory holds one line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, BinaryIO, Final

import msgspec

from extproc import shell
from extproc.core.records import Access
from extproc.core.times import moment_text

JSON_FORMAT: Final[Mapping[str, str]] = {
    "start_time": "%START_TIME%",
    "duration": "%DURATION%",
    "x_audit_id": "%DYNAMIC_METADATA(extproc:id)%",
    "request_id": "%REQ(X-REQUEST-ID)%",
    "method": "%REQ(:METHOD)%",
    "path": "%PATH(NQ)%",
    "response_code": "%RESPONSE_CODE%",
    "response_flags": "%RESPONSE_FLAGS%",
    "response_code_details": "%RESPONSE_CODE_DETAILS%",
    "upstream_host": "%UPSTREAM_HOST%",
    "upstream_cluster": "%UPSTREAM_CLUSTER%",
    "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
    "route_name": "%ROUTE_NAME%",
    "bypass": "%METADATA(ROUTE:extproc:bypass)%",
    "failed_open": "%FILTER_STATE(envoy.filters.http.ext_proc:FIELD:failed_open)%",
}
"""The keys that are read, each with what Envoy is to write there."""

REQUIRED: Final = ("start_time", "x_audit_id", "response_flags", "response_code_details", "upstream_host", "bypass")
"""Without these a line tells nothing."""

_LONGEST_LINE: Final = 1024 * 1024
"""More than Envoy's limits let a request make of it."""
_ENVOYS_OWN: Final = re.compile(rb"\[[0-9]{4}-[0-9]{2}-[0-9]{2}[ T]")
_RFC3339: Final = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2})(?:\.([0-9]{1,9}))?Z")
_TRUTH: Final = {"0": False, "1": True, "false": False, "true": True}


@dataclass(frozen=True, slots=True)
class Entry:
    """One request, as Envoy saw it. Texts that Envoy leaves empty are None."""

    started_at: str
    """RFC 3339 in UTC with microseconds."""
    duration_ms: float | None = None
    id: str | None = None
    request_id: str | None = None
    method: str | None = None
    path: str | None = None
    status: int | None = None
    response_flags: tuple[str, ...] = ()
    response_code_details: str | None = None
    upstream: str | None = None
    cluster: str | None = None
    route: str | None = None
    attempts: int | None = None
    bypass: str | None = None
    failed_open: bool | None = None
    place: str | None = None
    """File and line; None for a record of the journal."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A line that is no entry."""

    place: str
    what: str


def of_record(record: Access) -> Entry:
    """The entry in an `access` record."""
    return Entry(
        started_at=record.started_at or record.at,
        duration_ms=record.duration_ms,
        id=record.id,
        request_id=record.request_id,
        method=record.method,
        path=record.path or None,
        status=record.status,
        response_flags=tuple(record.response_flags or ()),
        response_code_details=record.response_code_details,
        upstream=record.upstream,
        cluster=record.cluster,
        route=record.route,
        attempts=record.attempts,
        bypass=record.bypass,
        failed_open=record.failed_open,
    )


# A file ----------------------------------------------------------------------------------------------------


def read(file: BinaryIO, name: str) -> Iterator[Entry | Unreadable]:
    """The entries of a log, and what is none of Envoy's making."""
    for number, raw, whole in _lines(file):
        text = raw.strip()
        if not text or _ENVOYS_OWN.match(text):
            continue
        place = f"{name}:{number}"
        try:
            yield _of_line(text, place)
        except ValueError as error:
            if whole:
                yield Unreadable(place, str(error))


def _lines(file: BinaryIO) -> Iterator[tuple[int, bytes, bool]]:
    """Each line with its number, and whether its end is there. Of one that is too long only the beginning."""
    number = 0
    while raw := file.readline(_LONGEST_LINE):
        number += 1
        rest = raw
        while len(rest) == _LONGEST_LINE and not rest.endswith(b"\n"):
            rest = file.readline(_LONGEST_LINE)
        yield number, raw, rest.endswith(b"\n")


def _of_line(text: bytes, place: str) -> Entry:
    try:
        fields = msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise ValueError(f"it is no JSON object: {error}") from error
    missing = [key for key in REQUIRED if key not in fields]
    if missing:
        raise ValueError(f"it lacks {', '.join(missing)}; `{shell.command('reconcile', '--help')}` has the json_format")
    return Entry(
        started_at=_moment(fields["start_time"]),
        duration_ms=_number(fields.get("duration")),
        id=_text(fields["x_audit_id"]),
        request_id=_text(fields.get("request_id")),
        method=_text(fields.get("method")),
        path=_text(fields.get("path")),
        status=_whole(fields.get("response_code")),
        response_flags=tuple(flags.split(",")) if (flags := _text(fields["response_flags"])) else (),
        response_code_details=_text(fields["response_code_details"]),
        upstream=_text(fields["upstream_host"]),
        cluster=_text(fields.get("upstream_cluster")),
        route=_text(fields.get("route_name")),
        attempts=_whole(fields.get("attempts")),
        bypass=_text(fields["bypass"]),
        failed_open=_TRUTH.get(str(fields.get("failed_open")).lower()),
        place=place,
    )


def _text(value: Any) -> str | None:
    """A value as text; None for what Envoy writes where there is nothing."""
    return None if value is None or value in ("", "-") else str(value)


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _whole(value: Any) -> int | None:
    """A count or a status; None for Envoy's 0, which stands for none."""
    number = _number(value)
    return int(number) if number is not None and 0 < number < 1_000_000 else None


def _moment(value: Any) -> str:
    """The time as it stands in records. Raises ValueError."""
    match = _RFC3339.fullmatch(str(value))
    if match is not None:
        return f"{match[1]}.{(match[2] or '').ljust(6, '0')[:6]}Z"
    try:
        return moment_text(datetime.fromisoformat(value))
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"its start_time is no time: {str(value)[:50]!r}") from None
