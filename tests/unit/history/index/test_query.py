"""How the index is asked: what a question costs must not grow with what it is not about."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from support import bulk
from support.journals import START_NS

from extproc.core.times import timestamp
from extproc.history.filters import Filters
from extproc.history.index.indexer import Indexer
from extproc.history.index.query import Index

MIDDLE, LATER = timestamp(START_NS - 40 * bulk.SECOND), timestamp(START_NS - 30 * bulk.SECOND)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with an index."""
    data = tmp_path_factory.mktemp("query") / "data"
    bulk.write(data, 600, end_ns=START_NS)
    indexer = Indexer(data)
    while indexer.step():
        pass
    indexer.close()
    return data


@pytest.mark.parametrize(
    ("wanted", "newest_first"),
    [
        (Filters(), True),
        (Filters(since=LATER), False),
        (Filters(since=LATER, upstreams=(bulk.UPSTREAMS[3],)), False),
        (Filters(upstreams=(bulk.UPSTREAMS[3],)), True),
        (Filters(between=(MIDDLE, MIDDLE)), False),
        (Filters(between=(MIDDLE, LATER), models=(bulk.MODELS[1],)), False),
    ],
)
def test_a_question_reads_only_what_it_is_about(directory: Path, wanted: Filters, newest_first: bool) -> None:
    """Each table that is looked through is looked through by an index, or by the numbers of its rows."""
    asked: list[str] = []
    with Index.open(directory) as index:
        index._database.set_trace_callback(asked.append)
        assert list(index.rows(wanted, newest_first=newest_first))
    database = sqlite3.connect(f"{directory}/index.sqlite")
    of_rows = [each for each in asked if "FROM exchanges" in each]
    steps = [step for each in of_rows for *_, step in database.execute(f"EXPLAIN QUERY PLAN {each}")]
    database.close()
    assert of_rows
    assert [step for step in steps if "exchanges" in step and "USING" not in step] == []
