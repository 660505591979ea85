"""Several requests once more, in their order, overlap and timing; clients that left leave again.

    answers = play([Step(latch), Step(request, at=0.0), Step(other, at=0.4)], url, patience)

A step without a time comes first, and is waited for: it is one that had ended before the others began.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from extproc.replay.answer import Answer
from extproc.replay.request import Request
from extproc.replay.sender import Leave, Sending

_LOOK_SECONDS: Final = 0.1


@dataclass(frozen=True, slots=True)
class Step:
    """One request. `at`: seconds after the window's beginning; None: before it, and to its end."""

    request: Request
    at: float | None = None
    leave: Leave | None = None


def play(
    steps: Sequence[Step], url: str, still_alive: Callable[[], bool], patience: float, *, speed: float = 1.0
) -> list[Answer]:
    """Send them all; their answers in the order of the steps.

    Whenever one has been silent for `patience` seconds, `still_alive` says whether it is worth waiting on: where the
    server answers nobody, all are given up.
    """
    first = [Sending(step.request, url, leave=_faster(step.leave, speed)) for step in steps if step.at is None]
    for sending in first:
        sending.start()
        _wait([sending], still_alive, patience)
    timed = sorted((step.at, index) for index, step in enumerate(steps) if step.at is not None)
    began = time.monotonic()
    sendings: dict[int, Sending] = {}
    for at, index in timed:
        time.sleep(max(0.0, began + at / speed - time.monotonic()))
        sendings[index] = Sending(steps[index].request, url, leave=_faster(steps[index].leave, speed))
        sendings[index].start()
    _wait(list(sendings.values()), still_alive, patience)
    ended = iter(first)
    return [(next(ended) if step.at is None else sendings[index]).answer for index, step in enumerate(steps)]


def _faster(leave: Leave | None, speed: float) -> Leave | None:
    return None if leave is None else Leave(leave.bytes, None if leave.seconds is None else leave.seconds / speed)


def _wait(sendings: Sequence[Sending], still_alive: Callable[[], bool], patience: float) -> None:
    asked = time.monotonic()
    while running := [each for each in sendings if not each.wait(0)]:
        running[0].wait(_LOOK_SECONDS)
        if max(each.silent for each in running) < patience or time.monotonic() - asked < patience:
            continue
        if not still_alive():
            for each in running:
                each.give_up(f"no answer in {patience:g} s, and the server answers nobody")
        asked = time.monotonic()
