"""Exchanges as the search for deaths sees them, written as the journal that would have shown them so.

    journal = Journaled(directory, flights, bodies)      # bodies: of the requests, by their digests
    journal.write_until(at)                              # what was recorded until a moment, behind what is there

A flight that is read back from it need not be the same to the last bit, but it began, gave tokens and ended then, and
so.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from support.bulk import Series

from extproc.core.times import timestamp
from extproc.incidents.evidence import End, Flight

_ACCESS_SECONDS: Final = 0.25
_RESET: Final = "upstream_reset_before_response_started{connection_termination}"
_REFUSED: Final = "upstream_reset_before_response_started{connection_failure}"
_CUT: Final = "upstream_reset_after_response_started{connection_termination}"
_STREAM: Final = "text/event-stream"

Fields = dict[str, Any]


class Journaled:
    """One worker writes it."""

    def __init__(self, directory: Path, flights: Iterable[Flight], bodies: Mapping[str, bytes]) -> None:
        (directory / "segments").mkdir(mode=0o700, parents=True)
        events = (
            (at, f"{number:06d} {fields['type']}", fields)
            for number, each in enumerate(flights)
            for at, fields in _records(each, _id(number, each.started), bodies[each.body])
        )
        self._coming = [*events]
        heapq.heapify(self._coming)
        self._series = Series(directory, 0, "b00t")

    def write_until(self, at: float) -> None:
        """Write what was recorded before a moment, in a segment of its own."""
        while self._coming and self._coming[0][0] < at:
            self._series.add(heapq.heappop(self._coming)[2])
        self._series.end(closed=True)


def _id(number: int, started: float) -> str:
    milliseconds = f"{int(started * 1000):012x}"
    return f"{milliseconds[:8]}-{milliseconds[8:]}-7000-8000-{number:012x}"


def _records(each: Flight, id: str, body: bytes) -> Iterator[tuple[float, Fields]]:
    began = {"id": id, "started_at": _text(each.started), "method": "POST", "path": each.path}
    yield each.started, {"type": "request", **began, "at": _text(each.started), **_request(each, body)}
    if each.ended is None:
        return
    over = {"at": _text(each.ended), "ended_at": _text(each.ended), "duration_ms": _after(each, each.ended)}
    yield each.ended, {"type": "response", **began, **over, **_response(each)}
    at = each.ended + _ACCESS_SECONDS
    yield at, {"type": "access", **began, "at": _text(at), "duration_ms": over["duration_ms"], **_access(each)}


def _request(each: Flight, body: bytes) -> Fields:
    return {
        "client": each.client,
        "request": {
            "bytes": len(body),
            "sha256": each.body,
            "chunks": 1,
            "ended_by": "end_of_stream",
            "truncated": False,
            "content_type": "application/json",
            "headers": [["content-type", "application/json"]],
            "body": {"text": body.decode()},
        },
        "llm": None,
    }


def _response(each: Flight) -> Fields:
    outcome, ended_by = each.outcome, "end_of_stream"
    if outcome in ("upstream_reset_mid_stream", "upstream_truncated", "client_cancel_mid_stream"):
        ended_by = "closed"
    details = {"upstream_reset_before_headers": _RESET, "upstream_connect_fail": _REFUSED}.get(outcome, "via_upstream")
    said = {"status": each.status, "upstream": each.upstream, "response_code_details": details, "closed": None}
    if each.end is End.OTHER:
        return {**said, "closed": "drain", "response": None, "llm": None}
    if outcome == "client_cancel_before_first_byte":
        return {**said, "closed": "cancelled", "response": None, "llm": None}
    streamed = each.streamed and each.status == 200
    answer: Fields = {
        "bytes": 100,
        "sha256": None,
        "chunks": 9,
        "ended_by": ended_by,
        "truncated": False,
        "content_type": _STREAM if streamed else "application/json",
        "headers": [],
        "body": None,
        "first_byte_ms": _after(each, each.first_byte),
        "last_byte_ms": _after(each, each.last_byte),
    }
    if each.silence is not None:
        began, over = each.silence
        answer |= {"silence_at_ms": _after(each, began), "max_silence_ms": round((over - began) * 1000, 3)}
    llm = {
        "api": "chat.completions",
        "done": ended_by == "end_of_stream",
        "error": {"message": each.error or "failed"} if outcome == "upstream_error_frame" else None,
        "ttft_ms": _after(each, each.token) if streamed else None,
    }
    return {**said, "closed": "closed" if ended_by == "closed" else None, "response": answer, "llm": llm}


def _access(each: Flight) -> Fields:
    flags, details = {
        "upstream_reset_before_headers": (["UC"], _RESET),
        "upstream_connect_fail": (["UF"], _REFUSED),
        "upstream_reset_mid_stream": (["UC"], _CUT),
        "client_cancel_mid_stream": (["DC"], "downstream_remote_disconnect"),
        "client_cancel_before_first_byte": (["DC"], "downstream_remote_disconnect"),
    }.get(each.outcome, ([], "via_upstream"))
    said = {"status": each.status, "response_flags": flags, "response_code_details": details}
    return {**said, "upstream": each.upstream, "cluster": each.cluster, "route": "all", "attempts": 1}


def _text(at: float) -> str:
    return timestamp(round(at * 1e6) * 1000)


def _after(each: Flight, at: float | None) -> float | None:
    return None if at is None else round((at - each.started) * 1000, 3)
