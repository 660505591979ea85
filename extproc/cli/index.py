"""`extproc index`: the index of a journal made, made anew, or held against the journal."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click

from extproc.cli import options, output
from extproc.errors import ExtprocError, JournalError
from extproc.history.index import check, store
from extproc.history.index.indexer import Indexer
from extproc.history.index.query import Index
from extproc.history.index.store import Unusable
from extproc.history.index.tail import Tail
from extproc.history.live_tables import LiveTables
from extproc.incidents.indexed import Bodies

_SHOWN: Final = 10
"""Differences that are printed; all are counted."""
_WAIT_SECONDS: Final = 15.0
"""How long it may take until a follower has begun with what was deleted."""


@click.command
@click.option("--check", "checked", is_flag=True, help="Compare it with the journal; exit code 1 when they differ.")
@click.option("--rebuild", is_flag=True, help="Delete it first.")
@options.journal_directories
def command(checked: bool, rebuild: bool, data_dirs: Sequence[Path], config_path: Path | None) -> None:
    """Make the index of the journal, or compare it with the journal.

    `up` and `serve` keep `index.sqlite` in the data directory by themselves. This is for a journal that nobody follows,
    such as a copy, and for doubts. Where a follower runs, it does the work.

    \b
    Examples:
      extproc index --data-dir copy-of-data
      extproc index --check
      extproc index --rebuild
    """
    differ = False
    for directory in options.existing(data_dirs, config_path):
        if rebuild or not checked:
            _make(directory, rebuild=rebuild)
        if checked:
            differ = _differs(directory) or differ
    if differ:
        raise click.exceptions.Exit(1)


def _make(directory: Path, *, rebuild: bool) -> None:
    from extproc.follow import checkpoint

    began = time.monotonic()
    try:
        with checkpoint.locked(directory), output.Progress("indexing") as progress:
            if rebuild:
                store.delete(directory)
            count = _index(directory, progress)
    except JournalError:
        if rebuild:
            store.delete(directory)
        _wait_for_follower(directory)
        return
    click.echo(f"{directory}: {count} exchanges added in {time.monotonic() - began:.1f} s, {_size(directory)}")


def _index(directory: Path, progress: output.Progress) -> int:
    indexer = Indexer(directory, reader=Bodies())
    while indexer.step():
        progress(f"{indexer.exchanges} exchanges, {indexer.behind_bytes // 1_000_000} MB to read")
    indexer.commit(now=True)
    count = indexer.exchanges
    indexer.close()
    if indexer.failures:
        raise ExtprocError(f"{store.path_of(directory)} cannot be written")
    return count


def _wait_for_follower(directory: Path) -> None:
    """Until the follower that runs here has brought the index up to date."""
    until = time.monotonic() + _WAIT_SECONDS
    with output.Progress("indexing, by the follower that runs here") as progress:
        while True:
            try:
                with Index.open(directory) as index:
                    Tail(index, LiveTables())
                    click.echo(f"{directory}: {index.count()} exchanges, kept by the follower, {_size(directory)}")
                    return
            except Unusable as error:
                progress(str(error))
                if time.monotonic() > until and not store.path_of(directory).exists():
                    raise ExtprocError(f"{directory}: the follower that runs here keeps no index") from None
            time.sleep(0.2)


def _size(directory: Path) -> str:
    return f"{store.path_of(directory).stat().st_size / 1e6:.1f} MB"


def _differs(directory: Path) -> bool:
    """Compare, and print what differs."""
    count = 0
    try:
        with output.Progress("comparing") as progress, Index.open(directory) as index:
            tail = Tail(index, LiveTables())
            for text in check.differences(index, tail, lambda n: progress(f"{n} exchanges"), Bodies()):
                count += 1
                if count <= _SHOWN:
                    progress.clear()
                    click.echo(f"{directory}: {output.escape(text)}")
            rows = index.count()
    except Unusable as error:
        click.echo(f"{directory}: the index cannot be used: {output.escape(str(error))}")
        return True
    said = f"{count} differences" if count else "as the journal has them"
    click.echo(f"{directory}: {rows} exchanges in the index, {said}")
    return bool(count)
