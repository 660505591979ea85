"""Requests of which Envoy's access entry is all that there is: it ended them before the recorder had a say.

No route matched, the request was no HTTP, the recorder did not answer in time: Envoy's answer is then the only one,
and its entry names no exchange. `as_own` makes an exchange of it, with an id of its own: a UUIDv7 of the time at which
the request began and of what the entry says, the same one each time that the entry is read, or written again.

The recorder may have had the request all the same, with an id that Envoy never heard: where the recorder hung, where
the request broke off at once, and wherever Envoy does not wait for it (`best_effort`). `is_of` tells whether an entry
is that exchange's; it then belongs to it. They have Envoy's request id in common. A client may have chosen that, so
where the exchange's own entry comes, that one counts.
"""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Final

from msgspec import structs

from extproc.core.outcome import REFUSED_DETAILS, broke_off, recorder_failed
from extproc.core.records import Access, AnyRecord, Open, Request

_START: Final = b'{"type":"access","id":null'
_FROM_UPSTREAM: Final = "via_upstream"
_SAID: Final = ("at", "started_at", "duration_ms", "client", "peer", "request_id", "method", "path", "status")


def may_be(line: bytes) -> bool:
    """Whether a journal's line is worth being decoded for `as_own`."""
    return line.startswith(_START)


def as_own(record: AnyRecord) -> AnyRecord:
    """The record of an exchange of its own, named by `id`, where this is one; else the record as it is."""
    if isinstance(record, Access) and _stands_alone(record):
        return structs.replace(record, id=_id(record), alone=True)
    return record


def stands_alone(record: AnyRecord) -> bool:
    """Whether `as_own` has made an exchange of it."""
    return isinstance(record, Access) and record.alone is True


def is_of(entry: Access, request: Request | Open) -> bool:
    """Whether an entry that stands alone is that of an exchange with this `request` or `open` record."""
    if not entry.request_id or entry.request_id != request.request_id:
        return False
    unheard = recorder_failed(entry) or broke_off(entry.response_flags, entry.method) or entry.status is None
    return unheard or bool(request.best_effort)


def _stands_alone(entry: Access) -> bool:
    if entry.id is not None or entry.bypass:
        return False
    details = entry.response_code_details or ""
    ended_by_envoy = bool(details) and details != _FROM_UPSTREAM and REFUSED_DETAILS not in details
    return ended_by_envoy and not entry.upstream and not entry.failed_open


def _id(entry: Access) -> str:
    began = f"{_milliseconds(entry.started_at or entry.at):012x}"
    said = hashlib.sha256(repr([getattr(entry, name) for name in _SAID]).encode("utf-8", "surrogatepass")).hexdigest()
    return f"{began[:8]}-{began[8:]}-7{said[:3]}-8{said[3:6]}-{said[6:18]}"


def _milliseconds(at: str) -> int:
    try:
        return max(0, int(datetime.fromisoformat(at).timestamp() * 1000))
    except (ValueError, OverflowError):
        return 0
