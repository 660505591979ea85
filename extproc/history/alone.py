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
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from extproc.core.outcome import REFUSED_DETAILS, broke_off, recorder_failed

Record = Mapping[str, Any]

_START: Final = b'{"type":"access","id":null'
_FROM_UPSTREAM: Final = "via_upstream"
_SAID: Final = ("at", "started_at", "duration_ms", "client", "peer", "request_id", "method", "path", "status")


def may_be(line: bytes) -> bool:
    """Whether a journal's line is worth being decoded for `as_own`."""
    return line.startswith(_START)


def as_own(record: Record) -> Record:
    """The record of an exchange of its own, named by `id`, where this is one; else the record as it is."""
    return {**record, "id": _id(record), "alone": True} if _stands_alone(record) else record


def stands_alone(record: Record) -> bool:
    """Whether `as_own` has made an exchange of it."""
    return bool(record.get("alone"))


def is_of(entry: Record, request: Record) -> bool:
    """Whether an entry that stands alone is that of an exchange with this `request` or `open` record."""
    if not entry.get("request_id") or entry.get("request_id") != request.get("request_id"):
        return False
    unheard = (
        recorder_failed(entry)
        or broke_off(entry.get("response_flags"), entry.get("method"))
        or entry.get("status") is None
    )
    return unheard or bool(request.get("best_effort"))


def _stands_alone(record: Record) -> bool:
    if record.get("id") is not None or record.get("type") != "access" or record.get("bypass"):
        return False
    details = str(record.get("response_code_details") or "")
    ended_by_envoy = bool(details) and details != _FROM_UPSTREAM and REFUSED_DETAILS not in details
    return ended_by_envoy and not record.get("upstream") and not record.get("failed_open")


def _id(record: Record) -> str:
    began = f"{_milliseconds(record.get('started_at') or record.get('at')):012x}"
    said = hashlib.sha256(repr([record.get(name) for name in _SAID]).encode("utf-8", "surrogatepass")).hexdigest()
    return f"{began[:8]}-{began[8:]}-7{said[:3]}-8{said[3:6]}-{said[6:18]}"


def _milliseconds(at: Any) -> int:
    try:
        return max(0, int(datetime.fromisoformat(str(at)).timestamp() * 1000))
    except (ValueError, OverflowError):
        return 0
