"""How the index is asked: what a question costs must not grow with what it is not about."""

from __future__ import annotations

from pathlib import Path
from typing import Self

import pytest
from support import bulk
from support.journals import START_NS

from extproc.core.times import timestamp
from extproc.history.filters import Filters
from extproc.history.identifier import Identifier
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
    with Index.open(directory) as index, Steps(index) as steps:
        assert list(index.rows(wanted, newest_first=newest_first))
    assert steps.of_rows
    assert [step for step in steps.of_rows if "USING" not in step] == []


@pytest.mark.parametrize("wanted", [Filters(), Filters(failed=True), Filters(since=LATER, outcomes=("class:ok",))])
def test_a_histogram_by_outcome_reads_no_row(directory: Path, wanted: Filters) -> None:
    """An index has all that it takes."""
    with Index.open(directory) as index, Steps(index) as steps:
        assert index.histogram(wanted, 10_000_000)
    by_index = [step for step in steps.of_rows if "COVERING INDEX by_outcome" in step]
    assert by_index
    assert [step for step in steps.of_rows if step not in by_index and "INDEX not_whole" not in step] == []


def test_what_nothing_has_is_not_looked_for(directory: Path) -> None:
    """A word that no row has chooses none, and no row is read for that."""
    with Index.open(directory) as index, Steps(index) as steps:
        assert list(index.rows(Filters(models=("nobody's",)), newest_first=True)) == []
    assert [step for step in steps.of_rows if "by_time" in step and "COVERING" not in step] == []


def test_another_name_is_found_by_its_index(directory: Path) -> None:
    """An id that others gave a request leads to it without a look at all rows."""
    with Index.open(directory) as index:
        (found, *_) = index.rows(Filters())
        name = found.exchange.request_id
        assert name
        with Steps(index) as steps:
            assert [each.id for each in index.named(Identifier.of(name))] == [found.exchange.id]
    assert any("by_request_id" in step for step in steps.of_rows)
    assert [step for step in steps.of_rows if step.startswith("SCAN")] == []


class Steps:
    """How SQLite goes about what is asked of an index meanwhile: the steps that touch exchanges."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._asked: list[str] = []
        self.of_rows: list[str] = []

    def __enter__(self) -> Self:
        self._index._database.set_trace_callback(self._asked.append)
        return self

    def __exit__(self, *_: object) -> None:
        self._index._database.set_trace_callback(None)
        of_rows = [each for each in self._asked if "FROM exchanges" in each]
        steps = [step for each in of_rows for *_, step in self._index.select(f"EXPLAIN QUERY PLAN {each}")]
        self.of_rows = [step for step in steps if "exchanges" in step]
