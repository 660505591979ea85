"""`extproc verify`: every line and every body of the journal checked; what is wrong is named with file and line."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click

from extproc.cli import options, output
from extproc.fleet.span import EVERYTHING
from extproc.history import verify


@click.command
@click.argument("given", nargs=-1, metavar="[DIR|URL]...")
@options.journal_or_bucket
def command(given: Sequence[str], data_dirs: Sequence[Path], config_path: Path | None) -> None:
    """Check every line and every body of the journal.

    Checked are the checksum of each line, the SHA-256 of each body, that no line is missing, and that each exchange
    has exactly one terminal record. Each finding is a line on stdout: file, line, what is wrong. Exit code 1: there
    were findings. It works beside a running sidecar.

    \b
    Examples:
      extproc verify
      extproc verify /backup/data && echo intact
      extproc verify s3://recordings/production
    """
    url = next((str(each) for each in given if "://" in str(each)), options.bucket_url())
    if url is not None:
        if data_dirs or len(given) > 1:
            raise click.UsageError("One bucket at a time, and no directory beside it.")
        checked = options.fetched(url, EVERYTHING)
    else:
        checked = options.existing([*map(Path, given), *data_dirs], config_path)
    findings = 0
    try:
        with output.Progress("verifying") as report:
            for directory in checked:
                for finding in verify.verify(directory, report, growing=url is not None):
                    findings += 1
                    sys.stdout.write(f"{output.escape(str(finding))}\n")
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has seen enough, but it has seen a finding.
        click.get_current_context().exit(1)
    if findings:
        click.echo(f"{findings} {'thing is' if findings == 1 else 'things are'} wrong", err=True)
        click.get_current_context().exit(1)
    if output.is_terminal():
        click.echo("everything is as it was written")
