"""`extproc inflight`: the exchanges that have begun and not ended, now, at a moment, or when the sidecar died."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path

import click

from extproc.cli import filters as chosen_by
from extproc.cli import listing, options, output, view
from extproc.history import deaths, now, reader
from extproc.history.filters import Filters
from extproc.history.join import Exchange


@click.command
@chosen_by.options
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
    found = output.chosen(_asked_for(directories, filters, crash=crash), chosen_by.test(filters, grep))
    past = crash or filters.between is not None
    if not listing.print_all(found, form, columns, default=view.LISTED if past else view.RUNNING):
        click.echo("nothing was in flight" if past else "nothing is in flight", err=True)


def _asked_for(directories: Sequence[Path], filters: Filters, *, crash: bool) -> Iterable[Exchange]:
    if crash:
        return deaths.at_crash(directories, lambda found: output.chosen(found, lambda _: True))
    if filters.between is None:
        return now.exchanges(directories)
    first, last = map(datetime.fromisoformat, filters.between)
    click.echo(
        f"in flight between {view.local_time(filters.between[0])} and {view.local_time(filters.between[1])}:", err=True
    )
    return reader.in_flight(directories, first, last)
