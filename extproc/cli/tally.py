"""What `extproc log --by` prints of exchanges that were counted."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Mapping
from typing import Final

from extproc.cli import view
from extproc.cli.output import Cell, Column, Row
from extproc.history.tally import Tally, percentiles

COLUMNS: Final = (
    Column("exchanges", 9, right=True, fixed=True),
    Column("share", 6, right=True, fixed=True),
    Column("errors", 6, right=True, fixed=True),
    Column("of them", 7, right=True, worth=2),
    Column("p50", 8, right=True, fixed=True),
    Column("p90", 8, right=True, worth=1),
    Column("p99", 8, right=True, fixed=True),
    Column("first token", 11, right=True, worth=4),
    Column("retried", 7, right=True, worth=3),
)


def print_csv(name: str, tallies: Mapping[str, Tally]) -> None:
    """The same as `rows`, comma separated and with a heading."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow((name, *(column.title for column in COLUMNS)))
    for row in rows(tallies, local=False):
        writer.writerow([cell if isinstance(cell, str) else cell.text for cell in row])


def rows(tallies: Mapping[str, Tally], *, local: bool) -> Iterator[Row]:
    """Each tally as a line of a table whose first column is the key. `local`: with units, for a person."""
    total = sum(tally.count for tally in tallies.values())
    for value, tally in tallies.items():
        times = [*percentiles(tally.durations).values(), percentiles(tally.first_tokens)["p50"]]
        shown = [view.duration(time) if local else ("" if time is None else str(time)) for time in times]
        yield (
            value,
            str(tally.count),
            f"{100 * tally.count / total:.1f}%",
            Cell(str(tally.errors), "red" if tally.errors else ""),
            f"{100 * tally.errors / max(tally.count, 1):.1f}%",
            *shown,
            str(tally.failed_attempts),
        )
