"""What a replay came to, from the recorded outcome, the answers and the server's health."""

from __future__ import annotations

from typing import Any

import pytest
from support.exchanges import made

from extproc.core.outcome import Outcome, outcome_class
from extproc.replay.answer import Answer
from extproc.replay.target import Health, State
from extproc.replay.verdict import Kind, judge


def answer(outcome: Outcome, status: int | None = 200) -> Answer:
    """One that ended so."""
    return Answer(outcome, outcome_class(outcome, status), status, 10, 0.1)


OK = answer(Outcome.OK)
REFUSED = answer(Outcome.UPSTREAM_ERROR_STATUS, 400)
FAILED = answer(Outcome.UPSTREAM_ERROR_STATUS, 500)
FRAME = answer(Outcome.UPSTREAM_ERROR_FRAME)
CUT = answer(Outcome.UPSTREAM_TRUNCATED)
RECORDED: dict[str, dict[str, Any]] = {
    "ok": {"outcome": "ok", "status": 200},
    "400": {"outcome": "upstream_error_status", "status": 400},
    "500": {"outcome": "upstream_error_status", "status": 500},
    "frame": {"outcome": "upstream_error_frame", "status": 200},
    "cancelled": {"outcome": "client_cancel_mid_stream", "status": 200},
    "in flight": {"outcome": None},
}


@pytest.mark.parametrize(
    ("recorded", "answers", "health", "kind"),
    [
        ("ok", [OK], Health.ALIVE, Kind.AS_RECORDED),
        ("ok", [OK], Health.DEAD, Kind.KILLED),
        ("ok", [OK], Health.HUNG, Kind.HUNG),
        ("ok", [REFUSED], Health.ALIVE, Kind.OTHER_ANSWER),
        ("ok", [FAILED], Health.ALIVE, Kind.OTHER_ANSWER),
        ("ok", [FRAME], Health.ALIVE, Kind.BROKE),
        ("ok", [CUT], Health.ALIVE, Kind.BROKE),
        ("ok", [OK, OK, REFUSED], Health.ALIVE, Kind.OTHER_ANSWER),
        ("400", [REFUSED], Health.ALIVE, Kind.AS_RECORDED),
        ("400", [OK], Health.ALIVE, Kind.OTHER_ANSWER),
        ("500", [FAILED], Health.ALIVE, Kind.AS_RECORDED),
        ("500", [FAILED], Health.DEAD, Kind.KILLED),
        ("frame", [FRAME], Health.ALIVE, Kind.BROKE),
        ("frame", [FRAME], Health.DEAD, Kind.KILLED),
        ("frame", [OK], Health.ALIVE, Kind.OTHER_ANSWER),
        ("cancelled", [OK], Health.ALIVE, Kind.AS_RECORDED),
        ("cancelled", [FAILED], Health.ALIVE, Kind.BROKE),
        ("in flight", [OK], Health.ALIVE, Kind.AS_RECORDED),
    ],
)
def test_the_verdict(recorded: str, answers: list[Answer], health: Health, kind: Kind) -> None:
    """0 only for a whole answer of the recorded class from a server that lives."""
    verdict = judge(made(RECORDED[recorded]), answers, State(health, "why"))
    assert verdict.kind is kind
    assert verdict.fine is (kind is Kind.AS_RECORDED)
    assert "why" in verdict.text


@pytest.mark.parametrize("recorded", ["frame", "500"])
def test_a_failure_that_is_not_met_again_is_told_as_such(recorded: str) -> None:
    """One that was only near when the backend died is answered well elsewhere: no fault of the server's there."""
    verdict = judge(made(RECORDED[recorded]), [OK], State(Health.ALIVE, "why"))
    assert verdict.text.startswith("not reproduced: answered well (ok 200), recorded upstream")
