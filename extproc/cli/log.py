"""`extproc log`: exchanges, newest last, filtered; also as they end, as JSON, and in OpenResty's form."""

from __future__ import annotations

import collections
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click

from extproc.cli import options, output, tally, view
from extproc.cli.output import Column
from extproc.cli.tally import KEYS
from extproc.cli.view import IN_FLIGHT
from extproc.core.outcome import Outcome
from extproc.core.record import moment_text
from extproc.journal import reader
from extproc.journal.identifier import Identifier
from extproc.journal.join import Exchange

_LONGEST = timedelta(hours=1)
"""How long ago an exchange may have started to be waited for by --follow, so that little has to be read."""

Test = Callable[[Exchange], bool]


class Status(click.ParamType[str]):
    """`502`, `5xx`, or `none` for exchanges without an answer."""

    name = "status"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Check the form."""
        if not re.fullmatch(r"[1-9][0-9]{2}|[1-9]xx|none", str(value).lower()):
            self.fail(f"{value!r} is no status; 502, 5xx or none would be right", param, ctx)
        return str(value).lower()


def tests(
    outcomes: Sequence[str], statuses: Sequence[str], models: Sequence[str], paths: Sequence[str], ids: Sequence[str]
) -> list[Test]:
    """One test for each kind of filter that was given; within a kind, any one value is enough."""
    found: list[Test] = []
    if outcomes:
        found.append(lambda exchange: view.outcome(exchange) in outcomes)
    if statuses:
        found.append(lambda exchange: any(_has_status(exchange, status) for status in statuses))
    if models:
        found.append(lambda exchange: any(_has_model(exchange, model) for model in models))
    if paths:
        found.append(lambda exchange: any(_has_path(exchange, path) for path in paths))
    if ids:
        identifiers = [Identifier.of(id) for id in ids]
        found.append(lambda exchange: any(identifier.names(exchange) for identifier in identifiers))
    return found


def _has_status(exchange: Exchange, wanted: str) -> bool:
    status = exchange.get("status")
    if wanted == "none" or status is None:
        return wanted == "none" and status is None
    return str(status) == wanted or (wanted.endswith("xx") and str(status)[0] == wanted[0])


def _has_model(exchange: Exchange, wanted: str) -> bool:
    llm = exchange.get("llm") or {}
    names = (llm.get("model"), llm.get("response_model"))
    return any(_matches(name, wanted) for name in names if isinstance(name, str))


def _has_path(exchange: Exchange, wanted: str) -> bool:
    path = str(exchange.get("path") or "")
    return _matches(path, wanted) or _matches(path.partition("?")[0], wanted)


def _matches(text: str, pattern: str) -> bool:
    """Whether the text is the pattern, in which * stands for any text and ? for any character."""
    # Not fnmatch: brackets are ordinary characters of a path.
    expression = re.escape(pattern).replace(r"\*", ".*").replace(r"\?", ".")
    return re.fullmatch(expression, text, re.DOTALL) is not None


def _named(
    directories: Sequence[Path], ids: Sequence[str], since: datetime | None, until: datetime | None
) -> list[Exchange]:
    """The exchanges with these ids that started between two times, in the order of the list."""
    found = {exchange["id"]: exchange for id in ids for exchange in reader.find(directories, id)}
    first, last = (None if moment is None else moment_text(moment) for moment in (since, until))
    return sorted(
        (each for each in found.values() if (first or "") <= each["started_at"] < (last or "~")),
        key=lambda each: (each.in_flight, each["started_at"]),
    )


def _last(exchanges: Iterable[Exchange], limit: int | None) -> Iterable[Exchange]:
    return exchanges if limit is None else collections.deque(exchanges, maxlen=limit)


def _ending(directories: Sequence[Path], since: datetime | None, until: datetime | None) -> Iterator[Exchange]:
    """Exchanges as they end, from `since` on, else from now on."""
    now = datetime.now(UTC)
    for exchange in reader.exchanges(directories, since=since or now - _LONGEST, until=until, follow=True):
        ended_at = view.moment(exchange["ended_at"])
        if since or ended_at is None or ended_at >= now:
            yield exchange


# Forms -----------------------------------------------------------------------------------------------------


def openresty_line(exchange: Exchange, body: bytes) -> str:
    """`[YYYY-MM-DD HH:MM:SS] | uri | raw body`, in local time; what would break the line or a terminal escaped."""
    started = view.moment(exchange.get("started_at"))
    at = f"{started.astimezone():%Y-%m-%d %H:%M:%S}" if started else "?"
    text = body.decode("utf-8", "backslashreplace")
    return f"[{at}] | {output.escape(str(exchange.get('path') or ''))} | {output.escape(text)}"


def _print_lines(lines: Iterable[str], *, at_once: bool) -> int:
    count = 0
    for line in lines:
        sys.stdout.write(line + "\n")
        if at_once:
            sys.stdout.flush()
        count += 1
    return count


@click.command
@click.option("--since", type=options.Moment(), metavar="TIME", help="Started at this time or later.")
@click.option("--until", type=options.Moment(), metavar="TIME", help="Started before this time.")
@click.option(
    "--outcome",
    "outcomes",
    type=click.Choice([*(outcome.value for outcome in Outcome), IN_FLIGHT]),
    multiple=True,
    metavar="OUTCOME",
    help="Ended so: ok, upstream_error_status, sidecar_restart_orphan, unknown, ...",
)
@click.option(
    "--status", "statuses", type=Status(), multiple=True, metavar="STATUS", help="HTTP status: 502, 5xx, or none."
)
@click.option("--model", "models", multiple=True, metavar="MODEL", help="Model asked for or answering; * and ? match.")
@click.option("--path", "paths", multiple=True, metavar="PATH", help="Path, with or without its query; * and ? match.")
@click.option("--id", "ids", multiple=True, metavar="ID", help="An id, as `extproc show` takes it.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Only the last N.")
@click.option("--all", "everything", is_flag=True, help="Exchanges in flight, too.")
@click.option("--follow", "-f", is_flag=True, help="Go on, and print each exchange as it ends.")
@click.option("--by", "key", type=click.Choice(list(KEYS)), help="Count them: errors and latency for each value.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.option("--format", "form", type=click.Choice(["openresty"]), help="'[time] | uri | raw body', a line each.")
@options.journal_directories
def command(
    since: datetime | None,
    until: datetime | None,
    outcomes: Sequence[str],
    statuses: Sequence[str],
    models: Sequence[str],
    paths: Sequence[str],
    ids: Sequence[str],
    limit: int | None,
    everything: bool,
    follow: bool,
    key: str | None,
    as_json: bool,
    form: str | None,
    data_dirs: Sequence[Path],
    config_path: Path | None,
) -> None:
    """List exchanges, newest last.

    A filter may be given more than once: any one of its values is enough. TIME is RFC 3339 (2026-11-21T03:12:00Z),
    a date, a time of day (the last such), or an age: 30s, 10m, 2h, 1d. Without an offset it is local time.

    On a terminal the list is a table in local time. In a pipe it is a line each, tabs between: started (UTC),
    outcome, status, method, path, model, upstream, milliseconds, tokens in/out, id. With --by: the value, exchanges,
    share, errors, their share, milliseconds at p50, p90 and p99, those to the first token, and `retried`: attempts that
    failed, at that upstream, and that another one followed.

    \b
    Examples:
      extproc log --since 10m
      extproc log --status 5xx --status none --since 03:00
      extproc log --model 'llama*' --limit 20 --json
      extproc log --follow --outcome upstream_error_status
      extproc log --since 1h --by upstream
    """
    if as_json and form:
        raise click.UsageError("--json and --format exclude each other.")
    if follow and limit is not None:
        raise click.UsageError("--follow and --limit exclude each other.")
    if key and (follow or form):
        raise click.UsageError("--by excludes --follow and --format.")
    everything = everything or IN_FLIGHT in outcomes
    directories = options.existing(data_dirs, config_path)
    wanted = tests(outcomes, statuses, models, paths, ids)

    def matches(exchange: Exchange) -> bool:
        return (everything or not exchange.in_flight) and all(test(exchange) for test in wanted)

    if follow:
        chosen: Iterable[Exchange] = filter(matches, _ending(directories, since, until))
    else:
        found: Iterable[Exchange] = (
            _named(directories, ids, since, until) if ids else reader.exchanges(directories, since=since, until=until)
        )
        chosen = _last(output.chosen(found, matches), limit)
    if key:
        _print_counts(key, chosen, as_json=as_json)
        return
    try:
        count = _print(chosen, as_json=as_json, form=form, follow=follow)
    except KeyboardInterrupt:
        if not follow:
            raise
        return
    if not count and output.is_terminal():
        click.echo("no exchange matches", err=True)


def _print(exchanges: Iterable[Exchange], *, as_json: bool, form: str | None, follow: bool) -> int:
    if as_json:
        return _print_lines(map(output.json_line, exchanges), at_once=follow)
    if form == "openresty":
        return _print_lines(_openresty_lines(exchanges), at_once=follow)
    rows = (view.row(exchange, local=output.is_terminal()) for exchange in exchanges)
    return output.table(view.COLUMNS, rows, at_once=follow)


def _print_counts(key: str, exchanges: Iterable[Exchange], *, as_json: bool) -> None:
    tallies = tally.by(key, exchanges)
    if as_json:
        _print_lines(map(output.json_line, tally.fields(key, tallies)), at_once=False)
    else:
        output.table((Column(key, 12), *tally.COLUMNS), tally.rows(tallies, local=output.is_terminal()))


def _openresty_lines(exchanges: Iterable[Exchange]) -> Iterator[str]:
    for exchange in exchanges:
        yield openresty_line(exchange, reader.body(exchange, "request") or b"")
