"""A reply that waits for the disk."""

from __future__ import annotations

import threading

import pytest

from extproc.core.events import Direction
from extproc.errors import JournalError
from extproc.service.gate import Gate

FAILED = JournalError("the disk is full")
TOO_LATE = JournalError("no answer")


class Owner:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, JournalError | None]] = []

    def settle(self, gate: Gate, error: JournalError | None) -> None:
        self.told.append(("settled", error))

    def after_all(self, gate: Gate, error: JournalError) -> None:
        self.told.append(("no record", error))


@pytest.mark.parametrize("word", [None, FAILED])
def test_the_journals_word_opens_it(word: JournalError | None) -> None:
    """Durable or failed; the timer that comes later has nothing to say."""
    owner = Owner()
    gate = Gate(owner, Direction.REQUEST, b"reply", has_record=True)
    gate(word)
    gate.give_up(TOO_LATE)
    assert owner.told == [("settled", word)]
    assert (gate.settled, gate.late) == (True, False)


@pytest.mark.parametrize(("word", "more"), [(None, []), (FAILED, [("no record", FAILED)])])
def test_the_journals_word_after_the_timer_says_whether_there_is_a_record(
    word: JournalError | None, more: list[tuple[str, JournalError | None]]
) -> None:
    """It is given up once, and what did not come to the disk after all is told."""
    owner = Owner()
    gate = Gate(owner, Direction.REQUEST, b"reply", has_record=True)
    gate.give_up(TOO_LATE)
    assert gate.late
    gate(word)
    assert owner.told == [("settled", TOO_LATE), *more]


def test_it_is_settled_once_whoever_comes_first() -> None:
    """The journal's thread and the timer may come at the same moment."""
    for _ in range(200):
        owner = Owner()
        gate = Gate(owner, Direction.REQUEST, b"reply", has_record=True)
        both = threading.Barrier(2)

        def journal(gate: Gate = gate, both: threading.Barrier = both) -> None:
            both.wait()
            gate(None)

        thread = threading.Thread(target=journal)
        thread.start()
        both.wait()
        gate.give_up(TOO_LATE)
        thread.join()
        assert [what for what, _ in owner.told] == ["settled"]
