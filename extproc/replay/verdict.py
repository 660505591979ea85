"""What a replay came to: whether the answer is as it was recorded, and the server alive.

The class of an answer is that of `extproc log`: whose doing an end was. Where the recorded exchange has no answer of
the server's own (its client left, Envoy answered, the recorder was stopped) there is nothing to compare with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from extproc.core.joined import Exchange
from extproc.replay.answer import Answer
from extproc.replay.target import Health, State


class Kind(Enum):
    """What became of the server, and of the answer."""

    AS_RECORDED = "as_recorded"
    OTHER_ANSWER = "other_answer"
    """Of another class; where the recorded one was the backend's failure: it was not met again."""
    BROKE = "broke"
    """The server lives, and its answer did not come to a good end."""
    HUNG = "hung"
    KILLED = "killed"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The kind, and the sentence that says why."""

    kind: Kind
    text: str

    @property
    def fine(self) -> bool:
        """As recorded, and the server is alive."""
        return self.kind is Kind.AS_RECORDED


def recorded_class(exchange: Exchange) -> str | None:
    """The class of the recorded answer; None where the server gave none."""
    outcome, kind = exchange.outcome or "", exchange.class_
    if outcome.startswith("client_cancel") or kind not in ("ok", "client", "limited", "upstream"):
        return None
    return kind


def judge(exchange: Exchange, answers: Sequence[Answer], state: State) -> Verdict:
    """The verdict on the answers to one recorded request. `state`: how the server is afterwards."""
    expected = recorded_class(exchange)
    was = exchange.outcome or "in flight"
    wrong = next((each for each in answers if not each.whole or each.kind != (expected or each.kind)), None)
    if wrong is None and expected is None:
        wrong = next((each for each in answers if each.is_failure), None)
    shown = (wrong or answers[-1]).text
    if state.health is not Health.ALIVE:
        kind = Kind.HUNG if state.health is Health.HUNG else Kind.KILLED
        return Verdict(kind, f"the target {state.fate}: {state.text}; the answer: {shown}")
    alive = f"the target is alive ({state.text})"
    if wrong is None:
        return Verdict(Kind.AS_RECORDED, f"{shown}, recorded {was}; {alive}")
    if wrong.kind == "ok" and expected == "upstream":
        return Verdict(
            Kind.OTHER_ANSWER, f"not reproduced: answered well ({shown}), recorded {expected} ({was}); {alive}"
        )
    if wrong.whole and expected is not None:
        text = f"another class of answer: {wrong.kind} ({shown}), recorded {expected} ({was}); {alive}"
        return Verdict(Kind.OTHER_ANSWER, text)
    return Verdict(Kind.BROKE, f"the answer is no good one: {shown}, recorded {was}; {alive}")
