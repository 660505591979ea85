"""`extproc incidents`: deaths, hangs and freezes of backends, each with the requests that may have caused it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import click

from extproc.cli import options, output, view
from extproc.errors import ConfigError
from extproc.incidents import backends, html, incident, indexed, recent, report
from extproc.incidents.incident import Incident

_COLUMNS = (
    output.Column("ID", fixed=True),
    output.Column("AT", fixed=True),
    output.Column("CLASS", fixed=True),
    output.Column("SURE", right=True),
    output.Column("UPSTREAM", worth=1),
    output.Column("IN FLIGHT", right=True, worth=3),
    output.Column("FIRST SUSPECT", fixed=True, worth=2),
)


@click.command
@click.argument("id", required=False, metavar="[ID|last]")
@click.option("--since", type=options.Moment(), metavar="TIME", help="Only incidents at or after this time.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.option("--html", "target", type=click.Path(path_type=Path), metavar="FILE", help="One HTML file, to send.")
@click.option("--redact", is_flag=True, help="Leave out the values that a request alone had, for others to read.")
@options.journal_or_bucket
def command(
    id: str | None,
    since: datetime | None,
    as_json: bool,
    target: Path | None,
    redact: bool,
    data_dirs: Sequence[Path],
    config_path: Path | None,
) -> None:
    """Say when a backend died, hung or froze, and which request may have done it.

    Found in the journal alone, from its beginning on: what is rare is counted in it. An ID is enough by its
    beginning, or its end. A stop by a person can look exactly like a death; where nothing points to a request, none is
    named. TIME is RFC 3339, a date, a time of day (the last such), or an age: 30s, 10m, 2h, 1d.

    \b
    Examples:
      extproc incidents
      extproc incidents last
      extproc incidents last --redact --html incident.html
      extproc incidents --since 24h --json | jq -r '.suspects[0].exchange'
    """
    directories = options.existing(data_dirs, config_path)
    with options.answers(directories) as asked:
        flights = list(indexed.flights(asked))
        found = incident.incidents(flights, recent.known_until(directories, flights), backends.load(directories))
    if since is not None:
        found = [each for each in found if each.sighting.at >= since.timestamp()]
    if redact:
        found = [each.redacted() for each in found]
    if id is not None:
        found = [incident.named(found, id)]
    where = () if redact else options.where(data_dirs, config_path)
    if target is not None:
        _write(target, html.document(found, view.local_time, options.jaeger_url(config_path), where))
    elif as_json:
        for each in found:
            sys.stdout.write(output.json_line(each.fields()) + "\n")
    elif id is not None:
        for line in report.page(found[0], view.local_time, options.jaeger_url(config_path), where):
            sys.stdout.write(output.escape(line) + "\n")
    elif not output.table(_COLUMNS, map(_row, found)):
        click.echo("no incident", err=True)


def _write(target: Path, text: str) -> None:
    try:
        target.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{target}: {error.strerror}") from error


def _row(each: Incident) -> output.Row:
    suspect = each.suspects[0] if each.suspects else None
    return (
        each.id,
        view.local_time(each.at) if output.is_terminal() else each.at,
        output.Cell(each.kind.value, "red" if suspect else "yellow"),
        f"{each.sighting.confidence:.2f}",
        each.sighting.upstream,
        str(len(each.in_flight)),
        suspect.flight.id if suspect else "no request",
    )
