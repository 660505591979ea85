"""Every request of Envoy's log is recorded or has one reason why not, and only some of them are a problem."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from extproc.reconcile import reconcile as module
from extproc.reconcile.entries import Entry
from extproc.reconcile.reconcile import MEANING, Reason, Unrecorded, reconcile

AT = "2026-11-21T03:12:00.000000Z"
ID = "019aa3f2-0000-7000-8000-000000000001"
REACHED = Entry(started_at=AT, upstream="10.0.0.7:8000", status=200, response_code_details="via_upstream")
ANSWERED = Entry(started_at=AT, status=400, response_flags=("DPE",), response_code_details="http1.codec_error")
"""By Envoy itself."""


@dataclass
class FakeJournal:
    """Holds these exchanges, since this time, and has this gap."""

    holds: Collection[str] = ()
    begins: str = "2026-11-20T00:00:00.000000Z"
    running: bool = True
    gap_between: tuple[str, str] | None = None
    asked: list[tuple[set[str], str, str]] = field(default_factory=list)

    def known(self, names: Collection[str], first: str, last: str) -> set[str]:
        """Remembers what it was asked."""
        self.asked.append((set(names), first, last))
        return set(names) & set(self.holds)

    def since(self) -> str:
        return self.begins

    def written_at(self, at: str) -> bool:
        return self.running

    def gap(self, first: str, last: str) -> str | None:
        within = self.gap_between is not None and first <= self.gap_between[1] and last >= self.gap_between[0]
        return "passed unrecorded: disk full" if within else None


def finding(entry: Entry, **journal: Any) -> Unrecorded | None:
    """What is said of one entry."""
    ((_, found),) = reconcile([entry], FakeJournal(**journal))
    return found


def test_a_recorded_request_is_no_finding() -> None:
    """By its id; in best effort, where Envoy has none, by Envoy's own."""
    assert finding(replace(REACHED, id=ID), holds=[ID]) is None
    assert finding(replace(REACHED, request_id="r-1"), holds=["r-1"]) is None
    assert finding(replace(REACHED, id=ID, bypass="upgrade", failed_open=True), holds=[ID]) is None


@pytest.mark.parametrize(
    ("entry", "journal", "reason", "problem"),
    [
        (replace(REACHED, bypass="upgrade"), {}, Reason.BYPASSED, False),
        (replace(REACHED, bypass="upgrade", request_id="r-1"), {"holds": ["r-1"]}, Reason.BYPASSED, False),
        (replace(REACHED, failed_open=True), {}, Reason.FAILURE_MODE_ALLOW, True),
        (replace(REACHED, failed_open=True), {"running": False}, Reason.FAILURE_MODE_ALLOW, True),
        (replace(REACHED, failed_open=True, id=ID), {}, Reason.FAILURE_MODE_ALLOW, True),
        (replace(ANSWERED, failed_open=True), {}, Reason.FAILURE_MODE_ALLOW, False),
        (replace(ANSWERED, response_code_details="ext_proc_error_gRPC_error_14{}"), {}, Reason.SIDECAR_AWAY, False),
        (
            replace(REACHED, id=ID, response_code_details="ext_proc_error_gRPC_error_13{}"),
            {},
            Reason.SIDECAR_AWAY,
            True,
        ),
        (REACHED, {"running": False}, Reason.SIDECAR_AWAY, True),
        (replace(REACHED, id=ID), {"gap_between": (AT, AT)}, Reason.GAP, True),
        (replace(REACHED, id=ID), {"gap_between": ("2026-11-21T03:12:00.500000Z", "~")}, Reason.RECORD_MISSING, True),
        (
            replace(REACHED, id=ID, duration_ms=600.0),
            {"gap_between": ("2026-11-21T03:12:00.500000Z", "~")},
            Reason.GAP,
            True,
        ),
        (replace(ANSWERED, id=ID, response_code_details="extproc_not_recorded"), {}, Reason.REFUSED, False),
        (ANSWERED, {}, Reason.ENDED_BEFORE_RECORDER, False),
        (ANSWERED, {"running": False}, Reason.ENDED_BEFORE_RECORDER, False),
        (replace(ANSWERED, method="POST", path="/v1"), {}, Reason.MALFORMED_BODY, False),
        (replace(ANSWERED, method="POST", response_flags=("DC",)), {}, Reason.ENDED_BEFORE_RECORDER, False),
        (replace(REACHED, response_flags=("UF",), attempts=1), {}, Reason.ENDED_BEFORE_RECORDER, False),
        (replace(REACHED, id=ID), {}, Reason.RECORD_MISSING, True),
        (replace(REACHED, id=ID, bypass="health"), {}, Reason.RECORD_MISSING, True),
        (replace(ANSWERED, id=ID), {}, Reason.RECORD_MISSING, False),
        (replace(REACHED, id=ID), {"begins": "2026-11-21T03:12:00.000001Z"}, Reason.BEFORE_JOURNAL, False),
        (replace(REACHED, id=ID), {"begins": AT}, Reason.RECORD_MISSING, True),
        (replace(REACHED, id=ID), {"begins": ""}, Reason.RECORD_MISSING, True),
        (REACHED, {}, Reason.UNEXPLAINED, True),
        (replace(REACHED, failed_open=False), {"running": False}, Reason.UNEXPLAINED, True),
    ],
)
def test_the_reason(entry: Entry, journal: dict[str, Any], reason: Reason, problem: bool) -> None:
    """Each kind of request without a record, and whether it is a problem."""
    found = finding(entry, **journal)
    assert found is not None
    assert (found.reason, found.problem) == (reason, problem)


@pytest.mark.parametrize(
    ("entry", "reached"),
    [
        (ANSWERED, False),
        (REACHED, True),
        (replace(REACHED, response_flags=("UC",)), True),
        (replace(REACHED, response_flags=("UF",), attempts=1), False),
        (replace(REACHED, response_flags=("UF", "URX"), attempts=2), True),
    ],
)
def test_whether_a_backend_had_it(entry: Entry, reached: bool) -> None:
    """A connection that failed brought nothing there; of several attempts only the last is known to have failed so."""
    assert Unrecorded(entry, Reason.UNEXPLAINED).reached_backend is reached


def test_every_reason_has_its_meaning() -> None:
    """For `--help`."""
    assert list(MEANING) == list(Reason)


def test_the_journal_is_asked_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each with the times between which its exchanges began; what has no name is not looked for."""
    monkeypatch.setattr(module, "BATCH", 2)
    times = [f"2026-11-21T03:12:0{second}.000000Z" for second in (3, 1, 2, 5, 4)]
    log = [replace(REACHED, started_at=at, id=f"id-{number}") for number, at in enumerate(times)]
    journal = FakeJournal(holds=["id-0", "id-3"])
    result = list(reconcile([*log[:4], ANSWERED, log[4]], journal))
    assert [entry for entry, _ in result] == [*log[:4], ANSWERED, log[4]]
    assert [found is None for _, found in result] == [True, False, False, True, False, False]
    assert journal.asked == [
        ({"id-0", "id-1"}, times[1], times[0]),
        ({"id-2", "id-3"}, times[2], times[3]),
        ({"id-4"}, times[4], times[4]),
    ]


def test_nothing_to_look_for() -> None:
    """The journal is not read for entries that it cannot know."""
    journal = FakeJournal()
    assert len(list(reconcile([ANSWERED, replace(REACHED, bypass="health")], journal))) == 2
    assert journal.asked == []
