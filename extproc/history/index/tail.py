"""What has not reached the index: what ended in the last second, and what has not ended.

    tail = Tail(index, tables)
    tail.ended          # exchanges that are in no row, by the time at which they started
    tail.in_flight      # and those that have no end, oldest first

The journal is read from the index's checkpoint on, just as a scan of all of it would have read on there.
"""

from __future__ import annotations

from typing import Final

from extproc.history import reader
from extproc.history.feed import Feed, from_checkpoint
from extproc.history.index.query import Index
from extproc.history.index.store import Unusable
from extproc.history.join import Exchange
from extproc.history.joiner import FINITE, Joiner
from extproc.history.live_tables import LiveTables
from extproc.history.position import records_at

MOST_BYTES: Final = 64 * 1024 * 1024
"""An index that is so far behind is of no use: it is being made, or nobody has kept it for a while."""


class Tail:
    """Of the journal behind one index. Raises Unusable when that is too long."""

    def __init__(self, index: Index, tables: LiveTables) -> None:
        directory, checkpoint = index.directory, index.checkpoint
        feed, joiner = Feed([directory], from_checkpoint(checkpoint.series)), Joiner(FINITE)
        if feed.behind_bytes() > MOST_BYTES:
            raise Unusable("it is being made, or nobody has kept it for a while")
        joiner.restore(records_at(directory, checkpoint.pending))
        ended: list[Exchange] = []
        for found in feed.records():
            joiner.add(found)
            ended += joiner.final(joiner.read_until)
        ended += joiner.ended()
        # What came after the end of an exchange that has its row begins none anew.
        self.ended = sorted((each for each in ended if not index.has(each.id)), key=lambda each: each.started_at)
        running = (reader.unfinished(parts, tables) for parts in joiner.in_flight())
        self.in_flight = [each for each in running if not index.has(each.id)]
