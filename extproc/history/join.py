"""Records that belong together, as the one exchange that `extproc log --json` shows.

    parts = Parts(id, directory)
    parts.add(record)            # in any order; True for the record that ends it
    parts.exchange(now)          # what they say together

The word on an exchange comes from two sides: what passed, from our own records, and why it ended, from Envoy's
access entry, which follows within its flush interval, perhaps in another worker's segment. What Envoy says of the
upstream, the flags and the details is taken before what it said in mid-exchange. Where the recorder saw nothing of the
request, or nothing at all (see `alone.py`), the entry says that too. Where an entry has not come
`ACCESS_SECONDS` after the end, none will: `access_log` is `missing`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from extproc.core.llm import of_request, of_response
from extproc.core.outcome import class_of, decide
from extproc.core.record import moment_text, timestamp
from extproc.core.routing import credential
from extproc.history import alone
from extproc.history.position import RecordPosition

Record = Mapping[str, Any]

ACCESS_SECONDS: Final = 5
"""How long after its end an exchange waits for Envoy's access entry."""

JOINED: Final = frozenset({"request", "open", "response", "orphan", "late", "access"})
"""The types of records that belong to an exchange; an `access` record only where it names one."""

_IN_UTC: Final = re.compile(
    r"[0-9]{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12][0-9]|3[01])T(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]\.[0-9]{6}Z"
)
_LAST_SECOND: Final = 59.999999

_UUID7: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")


class Exchange(dict[str, Any]):
    """One exchange with the fields of `extproc log --json`. `records`: what they were made of, by type; `positions`:
    where these stand in its directory, in the order in which they were met."""

    __slots__ = ("directory", "positions", "records")

    def __init__(
        self,
        fields: Mapping[str, Any],
        directory: Path,
        records: Mapping[str, Record],
        positions: Sequence[RecordPosition] = (),
    ) -> None:
        super().__init__(fields)
        self.directory = directory
        self.records = records
        self.positions = positions

    @property
    def in_flight(self) -> bool:
        """It has no terminal record yet."""
        return self["outcome"] is None

    def body(self, direction: str) -> Mapping[str, Any] | None:
        """What its record says of a direction's body: the text, the bytes, or the name of a file."""
        record = self.records.get(direction) or (self.records.get("open") if direction == "request" else None)
        part = (record or {}).get(direction)
        field = part.get("body") if isinstance(part, dict) else None
        return field if isinstance(field, dict) else None


class Parts:
    """The records of one exchange that were met so far."""

    __slots__ = (
        "access",
        "directory",
        "id",
        "late",
        "opened",
        "orphan",
        "positions",
        "protocol",
        "request",
        "response",
        "seen",
    )

    def __init__(self, id: str, directory: Path) -> None:
        self.id = id
        self.directory = directory
        self.positions: list[RecordPosition] = []
        """Where the records stand, of those that stand in this directory."""
        self.opened: Record | None = None
        self.request: Record | None = None
        self.response: Record | None = None
        self.orphan: Record | None = None
        self.late: Record | None = None
        self.access: Record | None = None
        self.protocol: Record | None = None
        self.seen: Mapping[str, Any] | None = None
        """What the table of exchanges in flight says of it: `LiveExchange.fields`."""

    def add(self, record: Record, position: RecordPosition | None = None) -> bool:
        """Take a record in. True when it is the one that ends the exchange."""
        if position is not None:
            self.positions.append(position)
        self.protocol = record.get("protocol") or self.protocol
        match record["type"]:
            case "open":
                self.opened = record if self.opened is None or "request" in record else self.opened
            case "request":
                self.request = self.request or record
            case "late":
                self.late = record
            case "access":
                if self.access is None or alone.stands_alone(self.access):
                    self.access = record
                return self.is_alone
            case "response" if not self.over:
                self.response = record
                return True
            case "orphan" if not self.over:
                self.orphan = record
                return True
        return False

    def take_over(self, other: Parts) -> None:
        """Take in the entry that stood alone and is of this exchange."""
        if other.access is not None:
            self.add(other.access)
            if other.directory == self.directory:
                self.positions += other.positions

    @property
    def over(self) -> bool:
        """It has its terminal record."""
        return self.response is not None or self.orphan is not None or self.is_alone

    @property
    def is_alone(self) -> bool:
        """Envoy's entry is all that there is."""
        return self.access is not None and alone.stands_alone(self.access) and not self._recorded

    @property
    def complete(self) -> bool:
        """Nothing is expected any more."""
        return self.over and self.access is not None

    @property
    def began(self) -> bool:
        """There is a record of its own, not only what others say of it."""
        return self._recorded or self.is_alone

    @property
    def _recorded(self) -> bool:
        return any(each is not None for each in (self.request, self.opened, self.response, self.orphan))

    @property
    def started_at(self) -> str:
        """When its request came; what of it only Envoy has seen began by Envoy's clock."""
        if self.request is None and self.opened is None and (self.access or {}).get("started_at"):
            seen = str((self.response or {}).get("started_at") or "~")
            return min(seen, str((self.access or {})["started_at"]))
        for record in (self.request, self.opened, self.response):
            if record is not None and "started_at" in record:
                return str(record["started_at"])
        return started_by_id(self.id) or str((self.orphan or self.opened or self.access or {}).get("at", ""))

    @property
    def ended_at(self) -> str | None:
        """When it ended, by its terminal record; None while it is in flight."""
        if self.is_alone and self.access is not None:
            return later(self.started_at, (self.access.get("duration_ms") or 0) / 1000)
        ended_at = self.response.get("ended_at") if self.response is not None else (self.orphan or {}).get("at")
        return None if ended_at is None else str(ended_at)

    def exchange(self, now: str | None = None) -> Exchange:
        """What the records say together. `now`, RFC 3339: an entry that has not come yet may still be expected."""
        begun, response, orphan = self.request or self.opened or {}, self.response or {}, self.orphan or {}
        access = self.access or {}
        first = begun or response or orphan or access
        seen = begun or {name: access.get(name) or None for name in _REQUEST_LINE}
        known = orphan or self.seen or {}
        llm = of_request(self.request or self.opened), of_response(self.response)
        if self.response is not None:
            response = {**self.response, "llm": llm[1]}
        ended_at = self.ended_at
        request = _direction(begun.get("request"), _REQUEST_FIELDS, self.late, "request")
        if request is not None and request["ended_by"] is None and self.orphan is not None:
            request["ended_by"] = "orphan"
        answer = _direction(response.get("response"), _RESPONSE_FIELDS, self.late, "response")
        earlier_ms = _milliseconds(self.started_at, response.get("started_at")) or 0.0
        if answer is not None and earlier_ms:
            answer |= {name: _later_by(answer[name], earlier_ms) for name in _TIMES_SINCE_START}
        fields = {
            "id": self.id,
            "started_at": self.started_at,
            "ended_at": ended_at,
            "duration_ms": _later_by(response.get("duration_ms"), earlier_ms)
            if "duration_ms" in response
            else _milliseconds(self.started_at, ended_at),
            "outcome": decide(response or None, self.orphan, self.access).value if self.over else None,
            "method": seen.get("method") or response.get("method"),
            "path": seen.get("path") or response.get("path"),
            "authority": seen.get("authority"),
            "scheme": seen.get("scheme"),
            "client": seen.get("client"),
            "status": response.get("status", access.get("status") if self.is_alone else known.get("status")),
            "upstream": access.get("upstream") or response.get("upstream") or known.get("upstream"),
            "cluster": access.get("cluster") or response.get("cluster") or known.get("cluster"),
            "route": access.get("route") or response.get("route"),
            "response_flags": access.get("response_flags", response.get("response_flags")),
            "response_code_details": access.get("response_code_details") or response.get("response_code_details"),
            "request_id": seen.get("request_id"),
            "trace_id": begun.get("trace_id"),
            "span_id": begun.get("span_id"),
            "worker": first.get("worker"),
            "boot_id": first.get("boot_id"),
            "seq": first.get("seq"),
            "request": request,
            "response": answer,
            "llm": _llm(*llm),
            "protocol": {"late": {}, "duplicate_end_of_stream": 0} | dict(self.protocol or {}),
            "grpc_status": response.get("grpc_status"),
            "parent_span_id": begun.get("parent_span_id"),
            "held": begun.get("held"),
            "best_effort": begun.get("best_effort"),
            "routing": begun.get("routing"),
            "attempts": access.get("attempts"),
            "failed_attempts": access.get("failed_attempts"),
            "access_log": self._access_log(ended_at, now),
            "envoy": {name: access.get(name) for name in _ENVOY_FIELDS} if access else None,
            "integrity": _integrity(request, answer, access),
            "progress": known.get("progress"),
            "key": credential((request or {}).get("headers") or ()),
        }
        fields["class"] = class_of(fields) if self.over else None
        return Exchange(fields, self.directory, self._records(), self.positions)

    def _access_log(self, ended_at: str | None, now: str | None) -> str:
        if self.access is not None:
            return "received"
        late = ended_at is not None and (now is None or now > later(ended_at, ACCESS_SECONDS))
        return "missing" if late else "pending"

    def _records(self) -> dict[str, Record]:
        every = (self.request, self.opened, self.response, self.orphan, self.late, self.access)
        return {str(record["type"]): record for record in every if record is not None}


_REQUEST_FIELDS: Final = ("bytes", "sha256", "chunks", "ended_by", "truncated", "content_type", "headers")
_SILENCE_FIELDS: Final = ("max_silence_ms", "silence_at_ms", "silence_at_byte")
_RESPONSE_FIELDS: Final = (*_REQUEST_FIELDS, *_SILENCE_FIELDS, "first_byte_ms", "last_byte_ms")
_TIMES_SINCE_START: Final = ("silence_at_ms", "first_byte_ms", "last_byte_ms")
_REQUEST_LINE: Final = ("method", "path", "authority", "scheme", "client", "request_id")
"""What Envoy's entry has of a request of which the recorder saw nothing."""
_LLM_FIELDS: Final = (
    "api",
    "model",
    "stream",
    "params",
    "response_model",
    "response_id",
    "finish_reasons",
    "usage",
    "ttft_ms",
    "output_chars",
    "fingerprint",
)
_ENVOY_FIELDS: Final = (
    "started_at",
    "duration_ms",
    "times_ms",
    "request_bytes",
    "response_bytes",
    "request_headers_bytes",
    "response_headers_bytes",
    "http_version",
    "peer",
    "tls",
    "connection_termination_details",
    "upstream_failure",
)
_WHOLE: Final = frozenset({"headers", "end_of_stream", "content_length", "trailers"})


def _direction(part: Any, names: Sequence[str], late: Record | None, direction: str) -> dict[str, Any] | None:
    if not isinstance(part, dict):
        return None
    fields = {name: part.get(name) for name in names}
    trailers = part.get("trailers") or ((late or {}).get("trailers") or {}).get(direction)
    lost = {"body_lost": True} if part.get("body_lost") else {}
    return fields | ({"trailers": trailers} if trailers else {}) | lost


def _llm(request: Any, response: Any) -> dict[str, Any] | None:
    if not request and not response:
        return None
    both = {**(request or {}), **(response or {})}
    fields = {name: both.get(name) for name in _LLM_FIELDS}
    errors = [part["parse_error"] for part in (request, response) if part and part.get("parse_error")]
    if both.get("error"):
        fields["error"] = both["error"]
    return fields | ({"parse_error": "; ".join(errors)} if errors else {})


def _integrity(request: Any, response: Any, access: Record) -> list[dict[str, Any]]:
    """Where Envoy has counted other bytes than we have digested.

    Only directions that ended whole can be compared, and an answer only where nothing broke on its way: of one that
    was cut off, or that Envoy has compressed, it counts what left for the client, and we what came from the backend.
    """
    findings = []
    whole = not access.get("response_flags") and not _compressed_by_envoy(response, access)
    for direction, part, envoy in (
        ("request", request, access.get("request_bytes")),
        ("response", response, access.get("response_bytes") if whole else None),
    ):
        if part is None or envoy is None or part["ended_by"] not in _WHOLE or part["truncated"]:
            continue
        if part["bytes"] != envoy:
            findings.append({"direction": direction, "envoy": envoy, "recorded": part["bytes"]})
    return findings


def _compressed_by_envoy(response: Any, access: Record) -> bool:
    encoding = access.get("encoding")
    headers = (response or {}).get("headers") or ()
    return encoding is not None and all(header[:2] != ["content-encoding", encoding] for header in headers)


# Times ---------------------------------------------------------------------------------------------------------


def started_by_id(id: str) -> str:
    """When an exchange began, RFC 3339, by its id: a UUIDv7 begins with its milliseconds. Empty for another id."""
    if _UUID7.fullmatch(id) is None:
        return ""
    return timestamp(int(id.replace("-", "")[:12], 16) * 1_000_000)


def later(at: str, seconds: float) -> str:
    """A moment so much later, as text that sorts; the same text where it is no moment."""
    if seconds >= 0 and _IN_UTC.fullmatch(at) and (second := float(at[17:26]) + seconds) < _LAST_SECOND:
        return f"{at[:17]}{second:09.6f}Z"  # for each record, and mostly within the minute
    try:
        moment = datetime.fromisoformat(at) + timedelta(seconds=seconds)
    except (ValueError, OverflowError):
        return at
    return moment_text(moment)


def _later_by(milliseconds: Any, more: float) -> Any:
    return round(milliseconds + more, 3) if isinstance(milliseconds, int | float) else milliseconds


def _milliseconds(started_at: str, ended_at: str | None) -> float | None:
    if not started_at or not ended_at:
        return None
    try:
        span = datetime.fromisoformat(ended_at) - datetime.fromisoformat(started_at)
    except (ValueError, TypeError):
        return None
    return max(0.0, round(span.total_seconds() * 1000, 3))
