"""Twenty thousand exchanges: index and scan give the same, and so do the counts that no exchange is made for."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import bulk
from support.journals import START_NS

from extproc.history import tally
from extproc.history.answers import Answers
from extproc.history.filters import Filters
from extproc.history.index import check
from extproc.history.index.indexer import Indexer
from extproc.history.index.query import Index
from extproc.history.index.tail import Tail
from extproc.history.live_tables import LiveTables

EXCHANGES = 20_000
ORPHANS = 40


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_twenty_thousand(tmp_path: Path) -> None:
    """Each row says what the journal says, and what is counted by SQL is what is counted exchange by exchange."""
    data = tmp_path / "data"
    bulk.write(data, EXCHANGES, end_ns=START_NS, body_bytes=300)
    indexer = Indexer(data)
    while indexer.step():
        pass
    indexer.close()
    assert indexer.failures == 0
    with Index.open(data) as index:
        tail = Tail(index, LiveTables())
        assert index.count() + len(tail.ended) == EXCHANGES + ORPHANS
        assert list(check.differences(index, tail)) == []
    told: list[str] = []
    with Answers([data], told.append) as asked:
        for wanted in (Filters(), Filters(failed=True, upstreams=bulk.UPSTREAMS[:2])):
            groups, beside = asked.counted(wanted, "model")
            counted = list(tally.fields("model", tally.by("model", beside, groups)))
            assert groups
            assert counted == list(tally.fields("model", tally.by("model", asked.exchanges(wanted))))
    assert told == []
