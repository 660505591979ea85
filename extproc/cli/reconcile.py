"""`extproc reconcile`: what Envoy passed without the recorder, with the reason for each request."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, Final

import click

from extproc.cli import options, output, view
from extproc.cli.output import Cell, Column, Row
from extproc.core.times import moment_text
from extproc.history.coverage import Coverage
from extproc.reconcile import entries as envoy
from extproc.reconcile.entries import JSON_FORMAT, REQUIRED, Entry, Unreadable
from extproc.reconcile.reconcile import MEANING, Reason, Unrecorded, reconcile

STDIN: Final = "-"
_NAMED: Final = 20
"""Unreadable lines that are named; the others are only counted."""

COLUMNS: Final = (
    Column("started", 14, fixed=True),
    Column("reason", 8),
    Column("backend", 7, fixed=True),
    Column("status", 6, right=True, fixed=True),
    Column("method", 4, worth=2),
    Column("path", 12),
    Column("upstream", 14, worth=3),
    Column("why", 8, worth=1),
    Column("id", 36, fixed=True, worth=4),
)


class _Account:
    """What was met so far."""

    def __init__(self) -> None:
        self.requests = 0
        self.recorded = 0
        self.reasons: Counter[Reason] = Counter()
        self.problems = 0
        self.unreadable = 0

    def take(self, finding: Unrecorded | None) -> None:
        self.requests += 1
        if finding is None:
            self.recorded += 1
        else:
            self.reasons[finding.reason] += 1
            self.problems += finding.problem

    @property
    def wrong(self) -> bool:
        """A backend had what was not recorded, or a part of the log cannot be vouched for."""
        return bool(self.problems or self.unreadable)

    def __str__(self) -> str:
        without = self.requests - self.recorded
        by = ", ".join(f"{count} {reason}" for reason, count in self.reasons.most_common())
        text = f"{self.requests} requests in Envoy's log: {self.recorded} recorded, {without} without us"
        text += f": {by}" if by else ""
        return text + (f"; {self.unreadable} lines could not be read" if self.unreadable else "")


def fields(finding: Unrecorded) -> dict[str, Any]:
    """A finding as an object."""
    entry = finding.entry
    return {
        "started_at": entry.started_at,
        "reason": finding.reason.value,
        "problem": finding.problem,
        "reached_backend": finding.reached_backend,
        "bypass": entry.bypass,
        "id": entry.id,
        "request_id": entry.request_id,
        "method": entry.method,
        "path": entry.path,
        "status": entry.status,
        "response_flags": list(entry.response_flags),
        "response_code_details": entry.response_code_details,
        "upstream": entry.upstream,
        "cluster": entry.cluster,
        "route": entry.route,
        "attempts": entry.attempts,
        "duration_ms": entry.duration_ms,
        "failed_open": entry.failed_open,
        "place": entry.place,
    }


def row(finding: Unrecorded, *, local: bool) -> Row:
    """A finding as a line of a table. `local`: the time on the reader's clock."""
    entry = finding.entry
    return (
        view.short_time(entry.started_at) if local else entry.started_at,
        Cell(finding.reason.value, "red" if finding.problem else "yellow"),
        "yes" if finding.reached_backend else "no",
        "" if entry.status is None else str(entry.status),
        entry.method or "",
        entry.path or "",
        entry.upstream or "",
        (entry.bypass if finding.reason is Reason.BYPASSED else entry.response_code_details) or "",
        entry.id or "",
    )


def _readable(log: Iterable[Entry | Unreadable], account: _Account, progress: output.Progress) -> Iterator[Entry]:
    """The entries; lines that are none are named."""
    for each in log:
        if isinstance(each, Entry):
            yield each
            continue
        account.unreadable += 1
        if account.unreadable <= _NAMED:
            progress.clear()
            click.echo(output.escape(f"{each.place}: {each.what}"), err=True)


def _within(entries: Iterable[Entry], since: datetime | None, until: datetime | None) -> Iterator[Entry]:
    first = "" if since is None else moment_text(since)
    last = "~" if until is None else moment_text(until)
    return (entry for entry in entries if first <= entry.started_at < last)


def _findings(
    entries: Iterable[Entry], coverage: Coverage, account: _Account, progress: output.Progress
) -> Iterator[Unrecorded]:
    for _, finding in reconcile(entries, coverage):
        account.take(finding)
        progress(f"{account.requests} requests")
        if finding is not None:
            progress.clear()
            yield finding


def _print(findings: Iterable[Unrecorded], *, as_json: bool) -> None:
    if not as_json:
        output.table(COLUMNS, (row(finding, local=output.is_terminal()) for finding in findings))
        return
    for finding in findings:
        sys.stdout.write(output.json_line(fields(finding)) + "\n")


_HELP: Final = f"""Compare Envoy's access log with the journal: what passed without us.

Listed is each request of Envoy's log of which the journal has no record, and why. With ACCESS_LOG the log is that file
(- is stdin), else the entries that Envoy has sent to the sidecar. Only the file tells all of a time when no sidecar was
there: of its entries for the sidecar Envoy then keeps the last few. TIME is as in `extproc log`, and is when a request
began.

\b
Reasons:
{chr(10).join(f"  {reason:<22} {MEANING[reason]}" for reason in Reason)}

Exit code 1: a backend had a request that was not recorded, other than {Reason.BYPASSED} or {Reason.BEFORE_JOURNAL}, or
a line of the file could not be read. In a pipe each is a line, tabs between: started (UTC), reason, whether a backend
had it, status, method, path, upstream, why (the rule's word, or Envoy's details), id. The sum is on stderr.

The file is what Envoy writes with this json_format, one object a line; it stands ready in the shipped envoy.yaml. Other
keys do no harm; {", ".join(REQUIRED[:-1])} and {REQUIRED[-1]} must be there.

\b
{chr(10).join(f"  {key}: {operator!r}".replace("'", '"') for key, operator in JSON_FORMAT.items())}

\b
Examples:
  extproc reconcile --since 1d
  extproc reconcile /var/log/envoy/access.json && echo all of it is recorded
  zcat access.json.gz | extproc reconcile - --json
"""


@click.command(help=_HELP)
@click.argument(
    "access_log",
    required=False,
    metavar="[ACCESS_LOG]",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path),
)
@click.option("--since", type=options.Moment(), metavar="TIME", help="Begun at this time or later.")
@click.option("--until", type=options.Moment(), metavar="TIME", help="Begun before this time.")
@click.option(
    "--reason",
    "reasons",
    type=click.Choice([reason.value for reason in Reason]),
    multiple=True,
    metavar="REASON",
    help="List only these; counted are all.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@options.journal_directories
def command(
    access_log: Path | None,
    since: datetime | None,
    until: datetime | None,
    reasons: Sequence[str],
    as_json: bool,
    data_dirs: Sequence[Path],
    config_path: Path | None,
) -> None:
    """What `_HELP` says."""
    directories = options.existing(data_dirs, config_path)
    account = _Account()
    try:
        with ExitStack() as stack:
            progress = stack.enter_context(output.Progress("reconciling"))
            coverage = Coverage(directories, lambda name: progress(f"{account.requests} requests, reading {name}"))
            if access_log is None:
                entries: Iterable[Entry] = map(envoy.of_record, coverage.accesses(since))
            else:
                entries = _readable(envoy.read(_open(access_log, stack), str(access_log)), account, progress)
            found = _findings(_within(entries, since, until), coverage, account, progress)
            _print((each for each in found if not reasons or each.reason in reasons), as_json=as_json)
        sys.stdout.flush()
    except BrokenPipeError:
        if not account.wrong:
            raise
        # The reader has seen enough, but it has seen a problem.
        click.get_current_context().exit(1)
    click.echo(str(account), err=True)
    if not account.requests and access_log is None:
        click.echo("the journal has no entry of Envoy's: the access_log of envoy/envoy.yaml sends them", err=True)
    if account.wrong:
        click.get_current_context().exit(1)


def _open(path: Path, stack: ExitStack) -> BinaryIO:
    return sys.stdin.buffer if str(path) == STDIN else stack.enter_context(path.open("rb"))
