"""Where an exchange stands in a trace: its parent, read from `traceparent` (W3C Trace Context, version 00).

Envoy's span for the ext_proc call comes in the gRPC metadata and is the parent when it is there; else a client's
own header, else the exchange is a root. Only ids are chosen here; spans are made from the journal.
"""

from __future__ import annotations

import re

import msgspec

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII)


class TraceContext(msgspec.Struct, frozen=True, gc=False):
    """The ids of one span and of its parent, in lower-case hexadecimal."""

    trace_id: str
    span_id: str
    parent_span_id: str | None = None
    trace_flags: int = 1
    """The parent's flags, so that its sampling decision holds; a root is sampled."""


def under(traceparent: str | None, new: TraceContext) -> TraceContext | None:
    """`new` as a child of the span that `traceparent` names; None when it is missing or malformed."""
    match = _TRACEPARENT.fullmatch(traceparent) if traceparent else None
    if match is None:
        return None
    version, trace_id, parent, flags, rest = match.groups()
    if version == "ff" or (version == "00" and rest) or not int(trace_id, 16) or not int(parent, 16):
        return None
    return TraceContext(trace_id, new.span_id, parent, int(flags, 16))
