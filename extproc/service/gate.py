"""A reply that waits for the disk: opened once, by the journal's word or by the timer, whichever comes first.

The journal calls the gate from its thread, when the effects are durable or have failed; `Recorder.tick` gives it up
when the disk took too long. Whoever `claim`s it settles it. The journal's word on a gate that was given up still
counts: it says whether there is a record after all.
"""

from __future__ import annotations

from typing import Protocol

from extproc.core.events import Direction
from extproc.errors import JournalError


class Owner(Protocol):
    """The stream that waits. Both are called by any thread."""

    def settle(self, gate: Gate, error: JournalError | None) -> None:
        """The gate opens, or the policy applies. Called once for each gate."""
        ...

    def after_all(self, gate: Gate, error: JournalError) -> None:
        """A gate that was given up has no record."""
        ...


class Gate:
    """One reply, and what it waits for."""

    __slots__ = ("_claims", "_owner", "deadline", "direction", "has_record", "late", "reply", "settled")

    def __init__(self, owner: Owner, direction: Direction, reply: bytes, *, has_record: bool) -> None:
        self.direction = direction
        self.has_record = has_record
        """It waits for the direction's record. Bytes that could not be spooled are told with that, and so once."""
        self.reply = reply
        self.deadline = 0.0
        self.settled = False
        self.late = False
        """The disk did not answer in time; the record may be in the journal all the same."""
        self._owner = owner
        self._claims = [True]

    def give_up(self, error: JournalError) -> None:
        """The disk took too long; nothing happens where it has answered."""
        if self._claim():
            self.late = True
            self._owner.settle(self, error)

    def __call__(self, error: JournalError | None) -> None:
        """The journal's word, from its thread."""
        if self._claim():
            self._owner.settle(self, error)
        elif self.late and error is not None:
            self._owner.after_all(self, error)

    def _claim(self) -> bool:
        try:
            self._claims.pop()  # atomic: the journal's thread and the timer may both come
        except IndexError:
            return False
        self.settled = True
        return True
