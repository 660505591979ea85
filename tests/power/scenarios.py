"""What a sidecar does to its disk, each as a program of its own, for strace to watch.

    scenarios.py NAME ROOT...

The data directory is `ROOT/data`. Each line of the standard output begins with the name of the root; what follows is

    key HEX        the key of the redaction marks is this one
    done TYPE ID   a record was acknowledged
    keep N         so many closed segments are kept from now on
    forget ID      retention may delete what there is of this exchange from now on
    given ID       the follower has given this exchange out
    kept           the follower has kept its position
    closed BOOT    the journal of this run was closed, and nothing was in flight
    ready          recovery is through
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.journals import START_NS, Waiter, access, appended, id_of, journal, request, response

from extproc.core.effects import Effect, Spool, SpoolEnd
from extproc.core.events import Direction
from extproc.core.records import AnyRecord
from extproc.follow import checkpoint
from extproc.follow import follower as follower_
from extproc.follow.follower import Follower
from extproc.history.join import Exchange
from extproc.journal import directory, lines, recovery, retention
from extproc.journal.lock import lock_directory
from extproc.journal.segment import OPEN
from extproc.journal.writer import Journal
from extproc.service import redaction_key


class Sidecar:
    """One run of a worker on `root/data`, and the client that hears what was acknowledged."""

    def __init__(self, root: Path, writer: Journal) -> None:
        self.root = root
        self.data = root / "data"
        self.writer = writer
        self._waiter = Waiter()
        self._submitted = 0

    def say(self, *words: str) -> None:
        """One line, in one write."""
        os.write(1, " ".join([self.root.name, *words, "\n"]).encode())

    def submit(self, type: str, number: int, *effects: Effect) -> None:
        """Have effects carried out, the last of which is the record of this type."""

        def done(error: Exception | None) -> None:
            if error is None:
                self.say("done", type, id_of(number))
            self._waiter(None)

        self._submitted += 1
        self.writer.submit(effects, done)

    def wait(self) -> None:
        """Until everything submitted has been answered."""
        self._waiter.wait(self._submitted)

    def requests(self, *numbers: int, body: bytes = b"{}") -> None:
        """Requests that come at once."""
        for number in numbers:
            self.submit("request", number, appended(request(number, body)))
        self.wait()

    def responses(self, *numbers: int, body: bytes = b"ok") -> None:
        """Answers that end at once."""
        for number in numbers:
            self.submit("response", number, appended(response(number, body)))
        self.wait()

    def spool(self, number: int, direction: Direction, *pieces: bytes, end: bool = True) -> None:
        """A body in a file, in pieces, and its record when it has ended."""
        for piece in pieces:
            self.submit("nothing", number, Spool(id_of(number), direction, [piece]))
        if end:
            make = request if direction is Direction.REQUEST else response
            record = make(number, b"".join(pieces), file=True)
            self.submit(direction.value, number, SpoolEnd(id_of(number), direction), appended(record))


@contextlib.contextmanager
def sidecar(root: Path, boot_id: str = "b1", **settings: Any) -> Iterator[Sidecar]:
    """The start of a supervisor and a worker, as `service` does it, and the end."""
    data = root / "data"
    directory.make(data)
    key = redaction_key.load(data)
    ticks = itertools.count(START_NS, 1_000_000)
    with lock_directory(data):
        recovery.recover(data)
        with journal(data, boot_id=boot_id, clock=lambda: next(ticks), **settings) as writer:
            run = Sidecar(root, writer)
            run.say("ready")
            run.say("key", key.hex())
            yield run


def rotating(root: Path) -> None:
    """Segments fill and are followed by others; one exchange is in flight all the time, to the end."""
    with sidecar(root, segment_bytes=4_000) as run:
        run.requests(0)
        for first in range(1, 25, 3):
            numbers = range(first, first + 3)
            run.requests(*numbers, body=b"x" * (first * 157 % 3_000))
            run.responses(*numbers)
        run.submit("open", 90, appended(request(90, type="open")))
        run.requests(91, body=b"y" * 9_000)
        run.wait()


def closing(root: Path) -> None:
    """A clean end: everything has ended, and the last segment gets its footer; then another run begins and ends."""
    for boot in range(5):
        with sidecar(root, f"b{boot}") as run:
            for number in range(boot * 10, boot * 10 + 5):
                run.requests(number, body=b"x" * 700)
                run.responses(number, body=b"y" * 500)
        run.say("closed", f"b{boot}")


def spooling(root: Path) -> None:
    """Bodies in files, several at once, one of them never to its end."""
    with sidecar(root, segment_bytes=6_000) as run:
        for first in (0, 10, 20):
            for number in range(first, first + 3):
                run.spool(number, Direction.REQUEST, b"%d" % number * 2_000, b"a" * 5_000, b"z" * (number * 97))
            run.requests(first + 5)
            run.wait()
            for number in range(first, first + 3):
                run.spool(number, Direction.RESPONSE, b"%d" % number * 1_000, b"b" * 4_096)
            run.responses(first + 5)
            run.spool(first + 6, Direction.REQUEST, b"never" * 1_500, end=False)
            run.wait()


def failing(root: Path) -> None:
    """Syncs that fail: the segment is cut back and set aside, and its last lines are written again in the next."""
    real, calls = os.fdatasync, itertools.count(1)

    def fdatasync(fd: int) -> None:
        if next(calls) % 4 == 0:
            raise OSError(5, "Input/output error")
        real(fd)

    os.fdatasync = fdatasync  # type: ignore[assignment]
    with sidecar(root, segment_bytes=5_000) as run:
        for first in range(0, 24, 2):
            run.requests(first, first + 1, body=b"x" * 600)
            run.responses(first)


def housekeeping(root: Path) -> None:
    """Closed segments are compressed, and the oldest deleted with their bodies, while others are written.

    Two exchanges never end, one of them with its body in a file.
    """
    with sidecar(root, segment_bytes=2_500) as run:
        run.requests(90)
        run.spool(91, Direction.REQUEST, b"for ever" * 200)
        run.wait()
        for first in range(0, 40, 4):
            run.requests(*range(first, first + 3), body=b"x" * 300)
            run.responses(*range(first, first + 3))
            run.spool(first + 3, Direction.REQUEST, b"%d" % first * 900)
            run.spool(first + 3, Direction.RESPONSE, b"%d" % first * 700)
            run.wait()
            _keep_house(run, keep=3)
        for _ in range(2):
            _keep_house(run, keep=1)


def _keep_house(run: Sidecar, keep: int) -> None:
    (series,) = lines.series(run.data)
    closed = [name for name in series.names if name.state != OPEN]
    run.say("keep", str(keep))
    for name in closed[:-keep]:
        ids = {line.record["id"] for line in lines.read_lines(run.data, name) if "id" in line.record}
        for id in sorted(ids - {id_of(90), id_of(91)}):
            run.say("forget", id)
    retention.apply_retention(run.data, days=0, segments=keep, bytes=0)


class _Consumer:
    """Done with everything as soon as it has it."""

    def __init__(self, run: Sidecar) -> None:
        self._run = run

    def exchange(self, exchange: Exchange) -> None:
        self._run.say("given", exchange.id)

    def record(self, record: AnyRecord) -> None:
        pass

    def sequence(self) -> int:
        return 0

    def flushed_to(self, sequence: int) -> bool:
        return True


def following(root: Path) -> None:
    """The follower reads what is written as it is written, synced or not, and keeps its position."""
    follower_.SAVE_SECONDS = 0.0  # type: ignore[misc]
    with sidecar(root, segment_bytes=4_000) as run, checkpoint.locked(run.data) as kept:
        follower = Follower(run.data, [_Consumer(run)], kept)
        run.requests(0)

        def step() -> None:
            follower.step()
            follower.step()  # the snapshot of the one is kept by the other
            run.say("kept")

        step()
        for first in range(1, 19, 3):
            numbers = range(first, first + 3)
            for number in numbers:
                run.submit("request", number, appended(request(number, b"x" * 400)))
                step()
            for number in numbers:
                run.submit("response", number, appended(response(number)))
                step()
                if number % 3:
                    run.submit("access", number, appended(access(number)))
            step()
            run.wait()
        follower.close(5.0)
        run.say("kept")


def recovering(root: Path) -> None:
    """The start after a crash, whatever it left, and one more exchange."""
    with sidecar(root, "after") as run:
        run.requests(80)
        run.responses(80)


if __name__ == "__main__":
    for each in sys.argv[2:]:
        globals()[sys.argv[1]](Path(each))
    os._exit(0)
