"""Whichever way a journal is read, the same exchanges come of it, each once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.generated import Generated

from extproc.follow.follower import Follower
from extproc.history import feed, lookup, reader
from extproc.history.feed import Feed
from extproc.history.join import Exchange
from extproc.history.joiner import FOLLOWING, Joiner
from extproc.history.position import records_at

SEEDS = range(5)

Exchanges = dict[str, dict[str, Any]]


def by_id(exchanges: Iterator[Exchange] | list[Exchange]) -> Exchanges:
    """Their fields; each must come once."""
    found: Exchanges = {}
    for each in exchanges:
        assert each.id not in found
        found[each.id] = each.members()
    return found


def of_the_ended(directories: list[Path]) -> Exchanges:
    """What reading to the end finds, without what is in flight."""
    return by_id([each for each in reader.exchanges(directories) if not each.in_flight])


@pytest.fixture(params=SEEDS)
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Generated:
    """A journal that is still to be written."""
    return Generated(request.param, tmp_path)


class Following:
    """Follows all directories at once; killed and begun again every so often, with a checkpoint of some steps ago."""

    def __init__(self, directories: list[Path], *, restarts: bool) -> None:
        self.given: list[Exchange] = []
        self.joiner = Joiner(FOLLOWING)
        self._directories = directories
        self._restarts = restarts
        self._feed = Feed(directories, feed.everything, follow=True)
        self._steps = 0

    def step(self, now: str) -> None:
        """Read what is there. Everything has been read until `now`."""
        for found in self._feed.records():
            self.joiner.add(found)
        self.given += self.joiner.final(now)
        self._steps += 1
        if self._restarts and self._steps % 7 == 0:
            self._restart()

    def _restart(self) -> None:
        (directory,) = self._directories
        needed = self.joiner.positions()
        self._feed = Feed([directory], feed.from_checkpoint(self._feed.positions(directory)), follow=True)
        self.joiner = Joiner(FOLLOWING)
        found = list(records_at(directory, needed))
        assert len(found) == len(needed)
        self.joiner.restore(found)


def test_while_it_grows_and_afterwards(world: Generated) -> None:
    """Who follows it finds what who reads it later finds; also what is in flight."""
    following = Following(world.directories, restarts=False)
    world.play(following.step)
    following.step("~")
    assert by_id(following.given) == of_the_ended(world.directories)
    in_flight = [each.id for each in reader.exchanges(world.directories) if each.in_flight]
    assert [each.id for each in following.joiner.in_flight()] == in_flight


def test_with_many_restarts(world: Generated) -> None:
    """Who begins again from a checkpoint, at any moment, loses nothing and repeats nothing."""
    directory, _ = world.directories
    following = Following([directory], restarts=True)
    world.play(following.step)
    following.step("~")
    assert by_id(following.given) == of_the_ended([directory])


def test_a_damaged_journal(world: Generated) -> None:
    """All that is left of it comes, whole or in part, by either way."""
    world.play()
    world.damage()
    for directory in world.directories:
        gathered = Gathered()
        follower = Follower(directory, [gathered], None)
        while follower.step():
            pass
        follower.finish()
        assert by_id(gathered.exchanges) == of_the_ended([directory])


def test_an_exchange_by_its_positions(world: Generated) -> None:
    """Where its records stand is enough to have all of it again; and by its id it is found as the list has it."""
    world.play()
    for exchange in reader.exchanges(world.directories):
        again = lookup.at_positions(exchange.directory, exchange.positions)
        assert again is not None
        assert (again.members(), again.records) == (exchange.members(), exchange.records)
        assert [each.members() for each in lookup.find(world.directories, exchange.id)] == [exchange.members()]


class Gathered:
    """A consumer that keeps what it is given."""

    def __init__(self) -> None:
        self.exchanges: list[Exchange] = []

    def exchange(self, exchange: Exchange) -> None:
        """One more."""
        self.exchanges.append(exchange)

    def record(self, record: Any) -> None:
        """Of no exchange."""

    def sequence(self) -> int:
        """Nothing is waited for."""
        return 0

    def flushed_to(self, sequence: int) -> bool:
        """At once."""
        return True
