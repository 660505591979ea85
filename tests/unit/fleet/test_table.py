"""The rows of what was shipped, as docs/fleet.md shows them and asks them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest
from support import bulk

from extproc.core.joined import NO_LLM
from extproc.fleet.bucket import Bucket, directory_url
from extproc.fleet.ship import Shipper
from extproc.fleet.table import COLUMNS
from extproc.history import filters, reader
from extproc.history.join import Exchange
from extproc.journal import recovery

END_NS = 1_795_000_000 * bulk.SECOND


def columns_table() -> str:
    """As it must stand in docs/fleet.md."""
    return "\n".join(["| column | kind |", "|---|---|", *(f"| `{name}` | {kind} |" for name, kind in COLUMNS)])


def page(checkout: Path) -> str:
    """The document."""
    return (checkout / "docs" / "fleet.md").read_text(encoding="utf-8")


def test_the_columns_are_documented(checkout: Path) -> None:
    """Each with its kind; on a difference the right table is printed."""
    match = re.search(r"<!-- columns: begin -->\n(.*?)\n?<!-- columns: end -->", page(checkout), re.DOTALL)
    assert match is not None
    assert match[1] == columns_table()


class Fleet:
    """Two machines that have shipped all they have, and DuckDB on that. `exchanges`: what the machines say."""

    def __init__(self, directory: Path, text: str) -> None:
        self.exchanges: list[tuple[str, Exchange]] = []
        for seed in range(2):
            machine = directory / f"machine-{seed}"
            machine.mkdir(mode=0o700)
            bulk.write(machine, 120 >> seed, end_ns=END_NS + seed * 86_400 * bulk.SECOND, seed=seed)
            recovery.recover(machine)
            bucket = Bucket.open(directory_url(directory / "bucket"))
            assert Shipper(machine, bucket).round().errors == []
            name = (machine / "host").read_text().strip()
            self.exchanges += [(name, each) for each in reader.exchanges([machine])]
        view, *self.questions = re.findall(r"```sql\n(.*?)```", text.partition("## Other engines")[0], re.DOTALL)
        self.connection = duckdb.connect()
        self.connection.execute("SET TimeZone = 'UTC'")
        self.connection.execute(view.replace("s3://recordings/production", str(directory / "bucket")))

    def answer(self, words: str, of: str = "exchanges", columns: str = "*") -> list[tuple[Any, ...]]:
        """That to the question of the document that has these words, asked of a table."""
        (question,) = (each for each in self.questions if words in each)
        some = next(each.id for _, each in self.exchanges)
        asked = question.strip().rstrip(";").replace("FROM exchanges", f"FROM {of}")
        question = f"SELECT {columns} FROM ({asked})"
        return self.connection.execute(question.replace("019ad3f2-6b1c-7c40-9d55-3f1d2a90c7e4", some)).fetchall()


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory, checkout: Path) -> Iterator[Fleet]:
    """Made once."""
    made = Fleet(tmp_path_factory.mktemp("fleet"), page(checkout))
    yield made
    made.connection.close()


def test_every_exchange_is_a_row_and_every_row_an_exchange(fleet: Fleet) -> None:
    """With the machine that has seen it, and what it says of itself."""
    rows = fleet.connection.execute(
        "SELECT host, id, outcome, status, upstream, tokens_out, ttft_ms, epoch_us(started_at) FROM exchanges"
    ).fetchall()
    said = [
        (host, each.id, each.outcome, each.status, each.upstream, filters.tokens(each)[1])
        for host, each in fleet.exchanges
    ]
    assert sorted((row[:6] for row in rows), key=lambda row: row[1]) == sorted(said, key=lambda row: row[1])
    assert all(row[7] > 0 for row in rows)


def test_errors_by_upstream_and_shape(fleet: Fleet) -> None:
    """As the document asks for them."""
    wrong = [(each.upstream, (each.llm or NO_LLM).fingerprint) for _, each in fleet.exchanges if _failed(each)]
    answer = fleet.answer("AS errors")
    assert {row[:2]: row[2] for row in answer}.items() <= Counter(wrong).items()
    assert answer[0][2] == max(Counter(wrong).values())


def _failed(exchange: Exchange) -> bool:
    return bool(exchange.class_ == "upstream")


def test_one_exchange(fleet: Fleet) -> None:
    """Where it is, and how it ended."""
    host, first = fleet.exchanges[0]
    ((found, _, segment, outcome, status, upstream),) = fleet.answer("WHERE id =")
    assert (found, outcome, status, upstream) == (host, first.outcome, first.status, first.upstream)
    assert segment.startswith(f"w{first.worker}-{first.boot_id}-")


DIED = "(SELECT * REPLACE (if(class = 'upstream', 'upstream_reset_mid_stream', outcome) AS outcome) FROM exchanges)"
"""As if every failure of these backends had been a death."""


def test_a_shape_that_several_backends_ended_with(fleet: Fleet) -> None:
    """Only those with more than one backend, the most first."""
    backends: dict[str | None, set[str | None]] = {}
    for _, each in fleet.exchanges:
        if _failed(each):
            backends.setdefault((each.llm or NO_LLM).fingerprint, set()).add(each.upstream)
    right = {shape: len(found) for shape, found in backends.items() if len(found) > 1}
    answer = fleet.answer("AS backends", DIED, "fingerprint, backends")
    assert dict(answer) == right != {}
    assert [row[1] for row in answer] == sorted(right.values(), reverse=True)


def test_tokens_by_key_and_day(fleet: Fleet) -> None:
    """Their sums are those of the machines."""
    answer = fleet.answer("AS tokens_out")
    assert sum(row[3] or 0 for row in answer) == sum(filters.tokens(each)[1] or 0 for _, each in fleet.exchanges)
    assert len({row[0] for row in answer}) == 2


def test_the_slowest_first_tokens(fleet: Fleet) -> None:
    """The ten that took longest, of all machines."""
    took = sorted((ttft for _, each in fleet.exchanges if (ttft := (each.llm or NO_LLM).ttft_ms)), reverse=True)
    assert [row[4] for row in fleet.answer("ttft_ms DESC")] == took[:10]
