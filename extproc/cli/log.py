"""`extproc log`: exchanges, newest last, filtered; also as they end, as JSON, and in OpenResty's form."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click

from extproc.cli import filters as chosen_by
from extproc.cli import listing, options, output
from extproc.cli.output import Column
from extproc.cli.tally import COLUMNS, print_csv, rows
from extproc.core.times import moment
from extproc.errors import JournalError
from extproc.history import bodies, tally
from extproc.history.answers import Answers
from extproc.history.filters import IN_FLIGHT, Filters
from extproc.history.join import Exchange

_LONGEST = timedelta(hours=1)
"""How long ago an exchange may have started to be waited for by --follow, so that little has to be read."""


def _ending(directories: Sequence[Path], filters: Filters) -> Iterator[Exchange]:
    """Exchanges as they end, from `since` on, else from now on."""
    now = datetime.now(UTC)
    with Answers(directories) as asked:
        for exchange in asked.ending(filters, now - _LONGEST):
            ended_at = moment(exchange.ended_at)
            if filters.since or ended_at is None or ended_at >= now:
                yield exchange


# Forms -----------------------------------------------------------------------------------------------------


def openresty_line(exchange: Exchange, body: bytes) -> str:
    """`[YYYY-MM-DD HH:MM:SS] | uri | raw body`, in local time; what would break the line or a terminal escaped."""
    started = moment(exchange.started_at)
    at = f"{started.astimezone():%Y-%m-%d %H:%M:%S}" if started else "?"
    text = body.decode("utf-8", "backslashreplace")
    return f"[{at}] | {output.escape(exchange.path or '')} | {output.escape(text)}"


def _print_schema(context: click.Context, _: click.Parameter, asked: bool) -> None:
    if asked:
        from extproc.cli import schema

        click.echo(json.dumps(schema.schema(), indent=2))
        context.exit()


@click.command
@chosen_by.options
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Only the last N.")
@click.option("--all", "everything", is_flag=True, help="Exchanges in flight, too.")
@click.option("--follow", "-f", is_flag=True, help="Go on, and print each exchange as it ends.")
@click.option("--by", "key", type=click.Choice(list(tally.KEYS)), help="Count them: errors and latency for each value.")
@listing.options
@click.option("--format", "layout", type=click.Choice(["openresty"]), help="'[time] | uri | raw body', a line each.")
@click.option("--schema", is_flag=True, callback=_print_schema, expose_value=False, help="A JSON Schema of --json.")
@options.journal_or_bucket
def command(
    filters: Filters,
    grep: str | None,
    limit: int | None,
    everything: bool,
    follow: bool,
    key: str | None,
    form: str | None,
    as_json: bool,
    columns: Sequence[str] | None,
    layout: str | None,
    data_dirs: Sequence[Path],
    config_path: Path | None,
) -> None:
    """List exchanges, newest last.

    A filter may be given more than once: any one of its values is enough, and in texts * and ? match. TIME is RFC 3339
    (2026-11-21T03:12:00Z), a date, a time of day (the last such), or an age: 30s, 10m, 2h, 1d. Without an offset it is
    local time.

    On a terminal the list is a table in local time, with the columns that there is room for (-o wide: all of them), and
    of an id its end, which every command takes. In a pipe it is a line each, tabs between: started (UTC), outcome,
    status, method, path, model, upstream, milliseconds, tokens in/out, id. With --by: the value, exchanges, share,
    errors, their share, milliseconds at p50, p90 and p99, those to the first token, and `retried`: attempts that
    failed, at that upstream, and that another one followed.

    \b
    Examples:
      extproc log --since 10m
      extproc log --failed --since 03:00
      extproc log --outcome 'upstream_*' --upstream 10.0.0.7 --since 1h
      extproc log --param response_format.type=text --limit 20 --json
      extproc log --follow --outcome class:upstream
      extproc log --since 1h --by upstream
    """
    form = listing.form_of(form, as_json)
    _refuse(form, columns, limit, follow=follow, counting=key is not None, layout=layout)
    if follow and options.bucket_url() is not None:
        raise click.UsageError("--follow and --from exclude each other.")
    with_bodies = grep is not None or layout is not None
    directories = options.existing(data_dirs, config_path, chosen_by.span(filters), bodies=with_bodies)
    running = everything or IN_FLIGHT in filters.outcomes
    if follow:
        matches = chosen_by.test(filters, grep)
        _print_all(filter(matches, _ending(directories, filters)), form, columns, layout=layout, follow=True)
        return
    in_bodies = chosen_by.body_test(grep)
    complete = form == "json" or layout is not None
    with options.answers(directories) as asked:
        if key and limit is None:
            counted, beside = asked.counted(filters, key, test=in_bodies, running=running)
            _print_counts(key, tally.by(key, beside, counted), form)
            return
        if key:
            found = asked.exchanges(filters, test=in_bodies, limit=limit, running=running)
            _print_counts(key, tally.by(key, found), form)
            return
        found = asked.exchanges(filters, test=in_bodies, limit=limit, running=running, complete=complete)
        _print_all(found, form, columns, layout=layout, follow=False)


def _refuse(
    form: str, columns: Sequence[str] | None, limit: int | None, *, follow: bool, counting: bool, layout: str | None
) -> None:
    """Options that exclude each other."""
    if layout and (form != "table" or columns):
        raise click.UsageError("--format excludes --json, -o and --columns.")
    if follow and limit is not None:
        raise click.UsageError("--follow and --limit exclude each other.")
    if counting and (follow or layout):
        raise click.UsageError("--by excludes --follow and --format.")


def _print_all(
    exchanges: Iterable[Exchange], form: str, columns: Sequence[str] | None, *, layout: str | None, follow: bool
) -> None:
    try:
        count = _print(exchanges, form, columns, layout=layout, follow=follow)
    except KeyboardInterrupt:
        if not follow:
            raise
        return
    if not count and output.is_terminal():
        click.echo("no exchange matches", err=True)


def _print(
    exchanges: Iterable[Exchange], form: str, columns: Sequence[str] | None, *, layout: str | None, follow: bool
) -> int:
    if layout == "openresty":
        return listing.print_lines(_openresty_lines(exchanges), at_once=follow)
    return listing.print_all(exchanges, form, columns, at_once=follow)


def _print_counts(key: str, tallies: Mapping[str, tally.Tally], form: str) -> None:
    if form == "json":
        listing.print_lines(map(output.json_line, tally.fields(key, tallies)))
    elif form == "csv":
        print_csv(key, tallies)
    else:
        output.table((Column(key, 12), *COLUMNS), rows(tallies, local=output.is_terminal()))


def _openresty_lines(exchanges: Iterable[Exchange]) -> Iterator[str]:
    for exchange in exchanges:
        try:
            body = bodies.whole(exchange, "request") or b""
        except JournalError as error:  # of this exchange alone
            click.echo(f"{exchange.id}: {error}", err=True)
            body = b""
        yield openresty_line(exchange, body)
