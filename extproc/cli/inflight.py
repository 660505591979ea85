"""`extproc inflight`: the exchanges that have begun and not ended, now, at a moment, or when the sidecar died."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import click

from extproc.cli import filters as chosen_by
from extproc.cli import listing, options, view
from extproc.history import deaths, now
from extproc.history.answers import Answers
from extproc.history.filters import Filters
from extproc.history.join import Exchange


@click.command
@chosen_by.options
@click.option("--at-crash", "crash", is_flag=True, help="In flight when the sidecar last died.")
@listing.options
@options.journal_or_bucket
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
    directories = options.existing(data_dirs, config_path, chosen_by.span(filters), bodies=grep is not None)
    past = crash or filters.between is not None
    with options.answers(directories) as asked:
        found = _asked_for(asked, directories, filters, grep, crash=crash, complete=form == "json")
        count = listing.print_all(found, form, columns, default=view.LISTED if past else view.RUNNING)
    if not count:
        click.echo("nothing was in flight" if past else "nothing is in flight", err=True)


def _asked_for(
    asked: Answers, directories: Sequence[Path], filters: Filters, grep: str | None, *, crash: bool, complete: bool
) -> Iterable[Exchange]:
    if crash or filters.between is None:
        found = deaths.at_crash(directories, asked) if crash else now.exchanges(directories, asked)
        return filter(chosen_by.test(filters, grep), found)
    first, last = map(view.local_time, filters.between)
    click.echo(f"in flight between {first} and {last}:", err=True)
    return asked.exchanges(filters, test=chosen_by.body_test(grep), running=True, complete=complete)
