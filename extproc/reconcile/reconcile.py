"""What Envoy passed without the recorder, and why: Envoy's account of the requests held against the journal's.

    for entry, finding in reconcile(entries, journal): ...     # finding: None where the journal has the exchange

A request is recorded when the journal has any record of its exchange, however that ended. Every other one has exactly
one reason. It is a problem when a backend had it and no rule let it: `bypassed` is the operator's own choice, and what
is older than the journal cannot be told any more.

How it is known: the exchange's id in Envoy's entry comes from the recorder's first reply. Without it the recorder was
not asked, or did not answer; that it failed and the request went on is Envoy's own note (`failed_open`), and that it
failed and the request did not go on is in the details of Envoy's answer.
"""

from __future__ import annotations

import enum
import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from extproc.core.outcome import REFUSED_DETAILS, broke_off
from extproc.core.times import later
from extproc.reconcile.entries import Entry

BATCH: Final = 20_000
"""Entries that are looked up together: they are in memory, and each batch reads a part of the journal."""


class Reason(enum.StrEnum):
    """Why the journal has nothing of a request."""

    BYPASSED = "bypassed"
    FAILURE_MODE_ALLOW = "failure_mode_allow"
    SIDECAR_AWAY = "sidecar_away"
    GAP = "gap"
    REFUSED = "refused"
    MALFORMED_BODY = "malformed_body"
    ENDED_BEFORE_RECORDER = "ended_before_recorder"
    RECORD_MISSING = "record_missing"
    BEFORE_JOURNAL = "before_journal"
    UNEXPLAINED = "unexplained"


MEANING: Final[Mapping[Reason, str]] = {
    Reason.BYPASSED: "its route takes no recorder, and says why",
    Reason.FAILURE_MODE_ALLOW: "the recorder failed, and Envoy went on without it",
    Reason.SIDECAR_AWAY: "the recorder did not answer, or no sidecar was running",
    Reason.GAP: "the journal could not be written, and on_audit_failure let it pass",
    Reason.REFUSED: "the journal could not be written, and on_audit_failure refused it",
    Reason.MALFORMED_BODY: "its body was no HTTP, and Envoy closed before it heard the recorder",
    Reason.ENDED_BEFORE_RECORDER: "Envoy answered, or the client left, before the recorder's turn",
    Reason.RECORD_MISSING: "the recorder had it, and the journal has no record",
    Reason.BEFORE_JOURNAL: "it is older than what retention has left of the journal",
    Reason.UNEXPLAINED: "nothing says why; a route without the recorder must (extproc.bypass)",
}

_NO_PROBLEM: Final = frozenset({Reason.BYPASSED, Reason.BEFORE_JOURNAL})
_RECORDER_FAILED: Final = "ext_proc_error"
"""How Envoy's details of a request begin for which the recorder was asked in vain."""


@dataclass(frozen=True, slots=True)
class Unrecorded:
    """A request without a record."""

    entry: Entry
    reason: Reason

    @property
    def reached_backend(self) -> bool:
        """Whether a backend had any of it."""
        return reached_backend(self.entry)

    @property
    def problem(self) -> bool:
        """A backend has seen what the journal should have, and has not."""
        return self.reached_backend and self.reason not in _NO_PROBLEM


class Journal(Protocol):
    """The journal as it is asked here; `extproc.history.coverage` has the contract."""

    def known(self, names: Collection[str], first: str, last: str) -> set[str]: ...
    def since(self) -> str: ...
    def written_at(self, at: str) -> bool: ...
    def gap(self, first: str, last: str) -> str | None: ...


def reconcile(entries: Iterable[Entry], journal: Journal) -> Iterator[tuple[Entry, Unrecorded | None]]:
    """Each entry in its order, with what is to be said of it."""
    source = iter(entries)
    while batch := list(itertools.islice(source, BATCH)):
        names = {name: entry.started_at for entry in batch if (name := _name(entry)) is not None}
        known = journal.known(names.keys(), min(names.values()), max(names.values())) if names else set()
        since = journal.since()
        for entry in batch:
            recorded = _name(entry) in known
            yield entry, None if recorded else Unrecorded(entry, _reason(entry, journal, since))


def reached_backend(entry: Entry) -> bool:
    """Whether a backend had any of it: one was chosen, and the connection to it was not what failed."""
    if entry.upstream is None:
        return False
    return "UF" not in entry.response_flags or (entry.attempts or 1) > 1


def _name(entry: Entry) -> str | None:
    """What the journal would know the exchange by; None where it can have none."""
    if entry.id is not None:
        return entry.id
    # In best effort the recorder's replies are not heard, so Envoy has no id of any exchange.
    return None if entry.bypass or entry.failed_open or not reached_backend(entry) else entry.request_id


def _reason(entry: Entry, journal: Journal, since: str) -> Reason:
    details = entry.response_code_details or ""
    if entry.id is None and entry.bypass:
        return Reason.BYPASSED
    if entry.failed_open:
        return Reason.FAILURE_MODE_ALLOW
    if details.startswith(_RECORDER_FAILED):
        return Reason.SIDECAR_AWAY
    if REFUSED_DETAILS in details:
        return Reason.REFUSED
    return _without_id(entry, journal) if entry.id is None else _with_id(entry, journal, since)


def _without_id(entry: Entry, journal: Journal) -> Reason:
    if not reached_backend(entry):
        return Reason.MALFORMED_BODY if broke_off(entry.response_flags, entry.method) else Reason.ENDED_BEFORE_RECORDER
    if entry.failed_open is None and not journal.written_at(entry.started_at):
        return Reason.SIDECAR_AWAY
    return Reason.UNEXPLAINED


def _with_id(entry: Entry, journal: Journal, since: str) -> Reason:
    if entry.started_at < since:
        return Reason.BEFORE_JOURNAL
    ended_at = later(entry.started_at, (entry.duration_ms or 0) / 1000)
    if journal.gap(entry.started_at, ended_at) is not None:
        return Reason.GAP
    return Reason.RECORD_MISSING
