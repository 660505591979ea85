"""Which request killed the server, proved on another one: the search on a real target, and the smallest killer.

    proof = prove(material, target, Tries(path), Wishes(), report)

The target dies in this, again and again, and has to come back each time: `Target.bring_back` sees to that, before the
next try. A target that fails a request that is known to be good proves nothing, and nothing is tried on it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from extproc.replay import material as materials
from extproc.replay import minimise, search, window
from extproc.replay.answer import Answer
from extproc.replay.material import Material
from extproc.replay.request import Request
from extproc.replay.search import Attempt, Found, How, Result
from extproc.replay.target import State, Target
from extproc.replay.tries import Tries
from extproc.replay.window import Step

PROVEN: Final = "proven"
FLAKY: Final = "flaky"
"""It kills, but not each time."""
NOT_PROVEN: Final = "not_proven"
BROKEN: Final = "broken_target"
"""The target fails what is known to be good."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """How thorough it is to be."""

    confirm: int = 1
    """How often what kills is tried; what kills now and then is looked for in as many rounds."""
    speed: float = 1.0
    minimal: bool = True
    most_kills: int = 12
    """So many deaths of the target are worth a smaller request."""
    redact: bool = False


@dataclass(frozen=True, slots=True)
class Proof:
    """What came of a search."""

    verdict: str
    why: str
    found: Found | None
    tries: int
    restarts: int
    """How often the target died, and so had to be started again."""
    minimal: Mapping[str, Any] | None = None
    """The smallest document that kills, after the latch where there is one."""
    request: Request | None = None
    """With that as its body."""

    @property
    def latch(self) -> str | None:
        """The earlier request without which the killer is harmless."""
        attempt = self.found.attempt if self.found else None
        return attempt.ids[0] if attempt and attempt.how is How.IN_TURN and len(attempt.ids) == 2 else None

    @property
    def killers(self) -> tuple[str, ...]:
        """The exchanges that are needed, without the latch."""
        if self.found is None:
            return ()
        return self.found.attempt.ids[1:] if self.latch else self.found.attempt.ids

    def fields(self) -> dict[str, Any]:
        """What `--bisect --json` prints."""
        found = self.found
        return {
            "verdict": self.verdict,
            "why": self.why,
            "killers": list(self.killers),
            "latch": self.latch,
            "how": found.attempt.how.value if found else None,
            "killed": {"times": found.kills, "of": found.tries} if found else None,
            "tries": self.tries,
            "restarts": self.restarts,
            "minimal": self.minimal,
        }


def prove(material: Material, target: Target, tries: Tries, wishes: Wishes, report: Callable[[str], None]) -> Proof:
    """Search, then make the killer smaller."""
    bench = _Bench(material, target, tries, wishes.speed, report)
    state = target.state()
    if not state.alive and (tries.known_tries or target.restartable):
        report(f"the target {state.fate}: {state.text}")
        state = target.bring_back()
    if not state.alive or (target.known_good is not None and not state.known_good):
        return Proof(BROKEN, f"the target fails before anything was tried: {state.text}", None, 0, 0)
    report(f"the target is alive: {state.text}")
    bench.state = state
    rounds = max(wishes.confirm, 1)
    found = search.search(material.suspects, material.window, bench.make, rounds=rounds, confirm=wishes.confirm)
    if found is None:
        bench.close()
        return Proof(
            NOT_PROVEN, "nothing that was tried killed the target", None, tries.count, tries.kills + tries.restarts
        )
    verdict = PROVEN if found.kills == found.tries else FLAKY
    report(f"{verdict}: {_text(found.attempt)} killed the target in {found.kills} of {found.tries} tries")
    smallest = _smallest(found, material, bench, wishes) if wishes.minimal else None
    bench.close()
    why = f"{_text(found.attempt)} killed the target in {found.kills} of {found.tries} tries"
    if smallest is None:
        return Proof(verdict, why, found, tries.count, tries.kills + tries.restarts)
    request, document = smallest
    return Proof(verdict, why, found, tries.count, tries.kills + tries.restarts, document, request)


def _text(attempt: Attempt) -> str:
    ids = ", ".join(attempt.ids) if len(attempt.ids) <= 4 else f"{len(attempt.ids)} requests"
    return ids if len(attempt.ids) == 1 else f"{ids} ({attempt.how.value})"


def _smallest(
    found: Found, material: Material, bench: _Bench, wishes: Wishes
) -> tuple[Request, minimise.Document] | None:
    """The killer with the smallest body, and that; None where it is no JSON, or where several have to overlap."""
    if found.attempt.how is How.AS_RECORDED:
        bench.report("several requests that overlap are not made smaller")
        return None
    *before, last = found.attempt.ids
    request = material.steps[last].request
    document = materials.document_of(request)
    if document is None:
        return None
    steps = [material.steps[id] for id in before]

    def kills(smaller: minimise.Document) -> bool:
        return bench.kills(steps, request.with_document(smaller), plain=set(smaller) <= {"model", *minimise.CONTENT})

    small = minimise.minimise(document, kills, material.hints.get(last, ()), wishes.most_kills)
    if small != document and not bench.killed_fresh(request.with_document(small)):
        bench.report("once more, on a fresh server")
        fresh = kills(small) and (bench.killed_fresh(request.with_document(small)) or kills(small))
        small = small if fresh else document
    if wishes.redact:
        masked = minimise.masked(small)
        if masked != small and bench.kills(steps, request.with_document(masked)):
            small = masked
    return request.with_document(small), small


class _Bench:
    """Makes attempts on a target, which is brought back before the next one when it has died."""

    def __init__(
        self, material: Material, target: Target, tries: Tries, speed: float, report: Callable[[str], None]
    ) -> None:
        self.report = report
        self.state: State | None = None
        self._material = material
        self._target = target
        self._tries = tries
        self._speed = speed
        self._before: list[Attempt] = []
        self._impure = False
        """The process has seen something since its start that may matter."""
        self._fresh_kills: set[bytes] = set()

    def make(self, attempt: Attempt) -> Result:
        """An attempt of the search."""
        steps = [self._material.steps[id] for id in attempt.ids]
        if attempt.how is How.AS_RECORDED:
            first = min((step.at for step in steps if step.at is not None), default=0.0)
            steps = [Step(each.request, each.at and max(each.at - first, 0.0), each.leave) for each in steps]
        else:
            steps = [Step(each.request, None, each.leave) for each in steps]
        key = self._tries.key(self._parts(steps))
        known = self._tries.known(key)
        if known is not None:
            self.report(f"try {self._tries.count}: {_text(attempt)}: {known[1]} (remembered)")
            return known[0]
        restarted = attempt.fresh and self._renew()
        before = tuple(self._before)
        sent, said, killed = self._send(steps, in_turn=attempt.how is How.IN_TURN)
        result = Result(killed, before, sent if killed else None)
        self._tries.made(key, result, said, restarted=restarted)
        self._before = [] if killed else [*self._before, attempt]
        self._impure = not killed
        self.report(f"try {self._tries.count}: {_text(attempt)}: {said}")
        return result

    def _renew(self) -> bool:
        """Let the next attempt have a fresh server, if that is in our hands; whether that took a restart."""
        if not self._before or not self._target.restartable or self.state is None or not self.state.alive:
            return False
        renewed = self._target.renew()
        if renewed is None:
            return False
        self.state, self._before, self._impure = renewed, [], False
        return True

    def kills(self, latches: Sequence[Step], request: Request, *, plain: bool = False) -> bool:
        """Whether a request kills after these. `plain`: it cannot leave anything behind."""
        steps = [*(Step(each.request, None, each.leave) for each in latches), Step(request)]
        key = self._tries.key(self._parts(steps))
        known = self._tries.known(key)
        shown = f"{len(request.body)} bytes"
        if known is not None:
            self.report(f"try {self._tries.count}: {shown}: {known[1]} (remembered)")
            if known[0].killed and not known[0].before:
                self._fresh_kills.add(request.body)
            return known[0].killed
        pure = not self._impure
        _, said, killed = self._send(steps, in_turn=True)
        self._tries.made(key, Result(killed, () if pure else (Attempt(()),)), said)
        if killed and pure:
            self._fresh_kills.add(request.body)
        self._impure = not killed and (self._impure or not plain)
        self._before = []
        self.report(f"try {self._tries.count}: {shown}: {said}")
        return killed

    def killed_fresh(self, request: Request) -> bool:
        """Whether it killed a server that had seen nothing before but what leaves nothing behind."""
        return request.body in self._fresh_kills

    def close(self) -> None:
        """Leave the target as it was found, where that is in our hands."""
        if self.state is not None and not self.state.alive and self._target.restartable:
            self.state = self._target.bring_back()

    def _parts(self, steps: Sequence[Step]) -> list[bytes]:
        parts = [self._target.url.encode(), b"%g" % self._speed]
        for step in steps:
            head = [step.request.method, repr(step.request.target), repr(step.request.headers), step.at, step.leave]
            parts += [json.dumps(head, default=repr).encode(), step.request.body]
        return parts

    def _send(self, steps: Sequence[Step], *, in_turn: bool) -> tuple[int, str, bool]:
        """Send the steps. How many were sent, what was seen, whether the target is dead now."""
        if self.state is None or not self.state.alive:
            self.state = self._target.bring_back()
            self._before, self._impure = [], False
        alive = self.state
        groups = [[step] for step in steps] if in_turn else [list(steps)]
        sent = 0
        answers: list[Answer] = []
        for number, group in enumerate(groups, 1):
            sent += len(group)
            answers = window.play(
                group, self._target.url, self._still_alive, self._target.patience.answer, speed=self._speed
            )
            if number == len(groups) or any(each.is_failure for each in answers):
                self.state = self._target.after(alive, answers)
                if not self.state.alive:
                    return sent, f"it {self.state.fate}: {self.state.text}", True
        return sent, f"survived ({_answers(answers)})", False

    def _still_alive(self) -> bool:
        return self._target.state().alive


def _answers(answers: Sequence[Answer]) -> str:
    counts: dict[str, int] = {}
    for each in answers:
        counts[each.outcome.value] = counts.get(each.outcome.value, 0) + 1
    if len(answers) == 1:
        return answers[0].text
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
