"""A power cut at every moment of a sidecar's life: whatever the disk was left with, nothing acknowledged is lost.

The real code runs under strace (`scenarios.py`), `support/disk.py` makes the states that a crash may leave behind, and
in each one the start after it must go well. EXTPROC_TEST_POWER_CUTS says how many states of each scenario are tried.
"""

from __future__ import annotations

import collections
import dataclasses
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pytest
from support import syscalls
from support.disk import Disk, State, fingerprint
from support.journals import appended, id_of, journal, request, response, write

from extproc.core.records import AnyRecord
from extproc.follow import checkpoint
from extproc.follow.follower import Follower
from extproc.history import verify
from extproc.history.join import Exchange
from extproc.history.verify import Defect
from extproc.journal import lines, recovery, retention
from extproc.journal.segment import CLOSED, COMPRESSED, OPEN, Name
from extproc.service import redaction_key

STATES: Final = int(os.environ.get("EXTPROC_TEST_POWER_CUTS", "200"))
LEAST: Final = 300
"""Of each of seven scenarios, where more are asked for."""
SCENARIOS: Final = Path(__file__).with_name("scenarios.py")
SEED: Final = 20_26


@pytest.fixture
def disk() -> Iterator[Path]:
    """A directory in memory, where there is one: a sync costs nothing there."""
    memory = Path("/dev/shm")
    parent = memory if os.access(memory, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="power-", dir=parent) as path:
        yield Path(path)


@pytest.mark.slow
@pytest.mark.timeout(120 + STATES // 10)
@pytest.mark.parametrize("name", ["rotating", "closing", "spooling", "failing", "housekeeping", "following"])
def test_a_power_cut_at_any_moment(disk: Path, name: str) -> None:
    """Recovery goes through, `verify` finds nothing, and each acknowledged record is there once."""
    states = sampled(distinct(ran(disk, name, disk / "run")), STATES)
    assert len(states) >= min(STATES, LEAST)
    judge(disk, states)


@pytest.mark.slow
@pytest.mark.timeout(120 + STATES // 10)
def test_a_power_cut_during_recovery(disk: Path) -> None:
    """The start after a power cut may itself be cut off, at any moment: the next one finds all that there was."""
    before: dict[Path, State] = {}
    for name in ("rotating", "spooling", "failing", "housekeeping"):
        for state in sampled(distinct(ran(disk, name, disk / name)), 8):
            root = disk / f"again-{len(before)}"
            before[root] = dataclasses.replace(state, said=(*state.said, *torn(disk, state)))
            state.write(root)
    events = syscalls.trace([sys.executable, str(SCENARIOS), "recovering", *map(str, before)], disk / "trace")
    states = [
        after(first, each)
        for root, first in before.items()
        for each in distinct(Disk(root, first.files).states(events, SEED))
    ]
    assert len(states) >= min(STATES, LEAST)
    judge(disk, sampled(states, STATES))


def torn(disk: Path, state: State) -> list[list[str]]:
    """What recovery sets aside in this state: that is not to be lost either, wherever it is cut off."""
    root = state.write(disk / "torn")
    recovery.recover(root / "data")
    found = [["torn", path.name, path.read_bytes().hex()] for path in (root / "data" / "segments").glob("*.torn")]
    shutil.rmtree(root)
    return found


def after(first: State, second: State) -> State:
    """What the second power cut left: what was not sure after the first one has not become so since."""
    sure = {
        path: min(length, first.sure.get(path, first.sure.get(f"{path}.open", length)))
        for path, length in second.sure.items()
    }
    how = f"{second.how}; before that: {first}"
    return State(second.moment, second.after, how, second.files, sure, (*first.said, *second.said))


def ran(disk: Path, name: str, root: Path) -> Iterator[State]:
    """The states that a scenario may leave behind."""
    root.mkdir()
    events = syscalls.trace([sys.executable, str(SCENARIOS), name, str(root)], disk / "trace")
    return Disk(root).states(events, SEED)


def distinct(states: Iterator[State]) -> list[State]:
    """Each once, at the moment when most had been promised."""
    return list({fingerprint(state): state for state in states}.values())


def sampled(states: Sequence[State], count: int) -> list[State]:
    """So many of them, the same ones each time."""
    if len(states) <= count:
        return list(states)
    return random.Random(SEED).sample(states, count)


def judge(disk: Path, states: Sequence[State]) -> None:
    """Start in each of these states. The first few in which something is wrong fail the test."""
    found: list[str] = []
    for number, state in enumerate(states):
        root = state.write(disk / "state")
        try:
            wrong = _Start(root, state, goes_on=number % 10 == 0).wrong()
        except Exception as error:
            error.add_note(str(state))
            raise
        shutil.rmtree(root)
        if wrong:
            found.append(f"{wrong} -- {state}")
            if len(found) == 5:
                break
    assert not found, "\n\n".join(found)


class _Start:
    """The start after a power cut, and what it finds."""

    def __init__(self, root: Path, state: State, *, goes_on: bool) -> None:
        self.data = root / "data"
        self.state = state
        self.goes_on = goes_on
        self.said: dict[str, list[list[str]]] = collections.defaultdict(list)
        for word, *rest in state.said:
            self.said[word].append(rest)

    def wrong(self) -> list[str]:
        """Nothing, if all is well."""
        promised = self.said["done"]
        if not self.data.exists():
            return ["there is no data directory"] if promised else []
        problems = list(self.open_again())
        damaged = dict(self.damaged())
        recovery.recover(self.data)
        again = recovery.recover(self.data)
        problems += [f"recovery had more to do: {again}"] if again.segments or again.torn else []
        if self.goes_on:
            self.go_on()
        problems += self.missing(promised)
        problems += self.torn_ends_that_are_gone()
        problems += [str(each) for each in self.findings() if not self.is_legal(each, damaged)]
        if promised and redaction_key.load(self.data).hex() != self.said["key"][0][0]:
            problems.append("the key of the redaction marks is another one")
        if self.said["kept"]:
            problems += self.not_given()
        return problems

    def findings(self) -> list[Defect]:
        """What `verify` says. Without `segments` there was no journal yet.

        A deletion that was cut short may have taken bodies whose segment is still there: the next round takes it.
        """
        if not (self.data / "segments").exists():
            return []
        found = list(verify.verify(self.data))
        if not self.said["forget"]:
            return found
        gone = tuple(f"exchange {id}: " for (id,) in self.said["forget"])
        wrong = [each for each in found if not (each.what.startswith(gone) and "No such file" in each.what)]
        retention.apply_retention(self.data, days=0, segments=int(self.said["keep"][-1][0]), bytes=0)
        return wrong + list(verify.verify(self.data))

    def go_on(self) -> None:
        """Another run writes on."""
        with journal(self.data, boot_id="next") as writer:
            assert write(writer, appended(request(99))) is None
            assert write(writer, appended(response(99))) is None

    def missing(self, promised: Sequence[Sequence[str]]) -> Iterator[str]:
        """The acknowledged records that are not there, or more than once."""
        there = collections.Counter((record["type"], record.get("id")) for record in self.records())
        gone = {id for (id,) in self.said["forget"]}
        for type, id in promised:
            if type != "nothing" and there[type, id] != 1 and not (id in gone and there[type, id] == 0):
                yield f"{there[type, id]} {type} records of {id}"

    def open_again(self) -> Iterator[str]:
        """Segments that a journal had closed."""
        closed = {boot_id for (boot_id,) in self.said["closed"]}
        for series in lines.series(self.data):
            yield from (f"{name} was closed" for name in series.names if name.state == OPEN and name.boot_id in closed)

    def torn_ends_that_are_gone(self) -> Iterator[str]:
        """What an earlier recovery cut off must be somewhere."""
        for name, data in self.said["torn"]:
            path = self.data / "segments" / name
            if not path.exists() or path.read_bytes().hex() != data:
                yield f"{name} is gone"

    def records(self) -> Iterator[Mapping[str, Any]]:
        """All good ones."""
        for series in lines.series(self.data):
            for name in series.names:
                yield from (line.record for line in lines.read_lines(self.data, name) if line.damage is None)

    def damaged(self) -> Iterator[tuple[str, int]]:
        """Of each segment from which byte on damage is nobody's loss: it has holes in what was never synced."""
        for series in lines.series(self.data):
            for name in series.names:
                path = next(
                    path
                    for path in (f"data/segments/{name.stem}{state}" for state in (str(name.state), CLOSED, OPEN))
                    if path in self.state.sure
                )
                sure = self.state.sure[path]
                bad = [line for line in lines.read_lines(self.data, name) if line.damage is not None]
                if name.state != COMPRESSED and bad and all(line.end > sure for line in bad):
                    yield name.stem, bad[0].number

    def is_legal(self, finding: Defect, damaged: Mapping[str, int]) -> bool:
        """Whether it follows from such damage."""
        name = Name.parse(finding.file.name)
        first = damaged.get(name.stem) if name is not None else None
        return first is not None and finding.line is not None and finding.line >= first

    def not_given(self) -> Iterator[str]:
        """The exchanges that the follower gave to nobody, neither before nor after."""
        given = {id for (id,) in self.said["given"]}

        class Consumer:
            """Hears the rest."""

            def exchange(self, exchange: Exchange) -> None:
                given.add(exchange.id)

            def record(self, record: AnyRecord) -> None:
                pass

            def sequence(self) -> int:
                return 0

            def flushed_to(self, sequence: int) -> bool:
                return True

        with checkpoint.locked(self.data) as kept:
            if checkpoint.load(kept) is None:
                yield "the follower's position is lost"
                return
            follower = Follower(self.data, [Consumer()], kept)
            while follower.step():
                pass
            follower.finish()
        for id in sorted({str(record["id"]) for record in self.records() if record["type"] in {"request", "orphan"}}):
            if id not in given and id != id_of(99):
                yield f"the follower has given {id} to nobody"
