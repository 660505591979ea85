"""What a worker counts that stands in no record: it tells the supervisor, which adds up all workers, the dead ones too.

A worker sends its figures as JSON about once a second. Counters of one that died are kept, so that no total ever goes
back; what it counted in its last second is lost with it.
"""

from __future__ import annotations

from typing import Any, Self

import msgspec

from extproc.journal.timing import BUCKETS


class Times(msgspec.Struct, frozen=True):
    """Durations by bucket (`journal/timing.py`), and their sum in seconds."""

    counts: list[int] = msgspec.field(default_factory=lambda: [0] * (len(BUCKETS) + 1))
    sum: float = 0.0

    def __add__(self, other: Self) -> Times:
        counts = [ours + theirs for ours, theirs in zip(self.counts, other.counts, strict=True)]
        return Times(counts, self.sum + other.sum)


class Figures(msgspec.Struct, frozen=True):
    """One worker's figures, or those of several together."""

    in_flight: int = 0
    queue_depth: int = 0
    unaudited: int = 0
    refused: int = 0
    hold_failures: int = 0
    quarantine_shadowed: int = 0
    quarantine_refused: int = 0
    quarantine_routed: int = 0
    access_entries: int = 0
    access_entries_lost: int = 0
    access_malformed: int = 0
    sync: Times = Times()
    gate: Times = Times()

    def __add__(self, other: Self) -> Figures:
        return Figures(*(getattr(self, name) + getattr(other, name) for name in self.__struct_fields__))

    def counters_only(self) -> Figures:
        """What stays of a worker that has died: its counters, but nothing that was under way."""
        return msgspec.structs.replace(self, in_flight=0, queue_depth=0)

    def to_json(self) -> str:
        return msgspec.json.encode(self).decode()

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Raises msgspec.DecodeError for anything else."""
        return msgspec.json.decode(text, type=cls)


def of(recorder: Any, journal: Any) -> Figures:
    """What a worker's parts say now. Cheap: read by a thread of its own."""
    access_log = recorder.access_log
    return Figures(
        in_flight=recorder.in_flight,
        queue_depth=journal.queue_depth,
        unaudited=recorder.unaudited,
        refused=recorder.refused,
        hold_failures=recorder.holding.failures,
        quarantine_shadowed=recorder.guard.counts["shadow"],
        quarantine_refused=recorder.guard.counts["refuse"],
        quarantine_routed=recorder.guard.counts["route"],
        access_entries=access_log.entries,
        access_entries_lost=access_log.lost,
        access_malformed=access_log.malformed,
        sync=Times(**journal.sync_times.figures()),
        gate=Times(**recorder.gate_times.figures()),
    )
