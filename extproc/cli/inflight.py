"""`extproc inflight`: the exchanges that had begun and not ended at a moment, or when the sidecar died."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import click

from extproc.cli import filters, listing, options, output, view
from extproc.core.outcome import Outcome
from extproc.history import now
from extproc.history.filters import Filters
from extproc.history.grep import Grep
from extproc.journal import lines, reader, segment
from extproc.journal.join import Exchange

TOGETHER: Final = timedelta(seconds=10)
"""Workers that are found dead within this time died of the same thing."""


def at_crash(directories: Sequence[Path]) -> list[Exchange]:
    """What was in flight when the sidecar last died, oldest first.

    Nobody writes at the moment of death. It is seen afterwards: by recovery, which gives each exchange that it finds
    an `orphan` record, or, while no sidecar has started again, by a segment that nobody is writing.
    """
    orphans: list[Exchange] = []
    abandoned: list[Exchange] = []
    live = now.live_series(directories)
    for exchange in output.chosen(reader.exchanges(directories), _hit):
        if not exchange.in_flight:
            orphans = _latest([*orphans, exchange])
        elif (exchange.directory, exchange["worker"], exchange["boot_id"]) not in live:
            abandoned.append(exchange)
    if abandoned:
        return abandoned
    return orphans if _nothing_after(directories, orphans) else []


def _hit(exchange: Exchange) -> bool:
    return exchange.in_flight or exchange["outcome"] == Outcome.SIDECAR_RESTART_ORPHAN


def _latest(orphans: list[Exchange]) -> list[Exchange]:
    """Those that were found together with the last one."""
    found = [(view.moment(exchange["ended_at"]), exchange) for exchange in orphans]
    last = max(at for at, _ in found if at is not None)
    return [exchange for at, exchange in found if at is not None and at >= last - TOGETHER]


def _nothing_after(directories: Sequence[Path], orphans: Sequence[Exchange]) -> bool:
    """Whether no death was found after these orphans: one that hit nothing would have left none."""
    last = max((at for each in orphans if (at := view.moment(each["ended_at"]))), default=None)
    if last is None:
        return True
    return not any(at > last + TOGETHER for at in _deaths(directories, last.timestamp()))


def _deaths(directories: Sequence[Path], after: float) -> Iterator[datetime]:
    """When recovery closed a series that had no end of its own, for series touched after this time."""
    for directory in directories:
        for series in lines.series(directory):
            name = series.names[-1]
            try:
                touched = (directory / "segments" / str(name)).stat().st_mtime
            except FileNotFoundError:
                continue
            if touched >= after and (at := _recovered_at(directory, name)):
                yield at


def _recovered_at(directory: Path, name: segment.Name) -> datetime | None:
    last = None
    for line in lines.read_lines(directory, name):
        last = line
    if last is None or last.record.get("type") != "end" or not last.record.get("recovered"):
        return None
    return view.moment(last.record.get("at"))


@click.command
@filters.options
@click.option("--at-crash", "crash", is_flag=True, help="In flight when the sidecar last died.")
@listing.options
@options.journal_directories
def command(
    filters: Filters,
    grep: str | None,
    crash: bool,
    form: str | None,
    as_json: bool,
    columns: Sequence[str] | None,
    data_dirs: Sequence[Path],
    config_path: Path | None,
) -> None:
    """List what is in flight: now, at a moment, or when the sidecar died.

    TIME is RFC 3339 (2026-11-21T03:12:00Z), a date, a time of day (the last such), or an age: 30s, 10m, 2h, 1d. Without
    an offset it is local time. A time is as long as it is precise: 03:12 is that minute. Columns and filters are those
    of `extproc log`.

    \b
    Examples:
      extproc inflight
      extproc inflight --at 03:12
      extproc inflight --at 2026-11-21T03:12:07Z --window 5s --json
      extproc inflight --at-crash --upstream 10.0.0.7
    """
    form = listing.form_of(form, as_json)
    if crash and filters.between is not None:
        raise click.UsageError("--at and --at-crash exclude each other.")
    directories = options.existing(data_dirs, config_path)
    searched = Grep(grep) if grep is not None else None

    def matches(exchange: Exchange) -> bool:
        return filters.matches(exchange) and (searched is None or searched.finds(exchange))

    found = output.chosen(_asked_for(directories, filters, crash=crash), matches)
    past = crash or filters.between is not None
    if not listing.print_all(found, form, columns, default=view.LISTED if past else view.RUNNING):
        click.echo("nothing was in flight" if past else "nothing is in flight", err=True)


def _asked_for(directories: Sequence[Path], filters: Filters, *, crash: bool) -> Iterable[Exchange]:
    if crash:
        return at_crash(directories)
    if filters.between is None:
        return now.exchanges(directories)
    first, last = map(datetime.fromisoformat, filters.between)
    click.echo(
        f"in flight between {view.local_time(filters.between[0])} and {view.local_time(filters.between[1])}:", err=True
    )
    return reader.in_flight(directories, first, last)
