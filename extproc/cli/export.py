"""`extproc export`: exchanges for other programs, in their formats."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Final

import click

from extproc import export
from extproc.cli import filters as chosen_by
from extproc.cli import options, output
from extproc.errors import ExtprocError
from extproc.history.filters import IN_FLIGHT, Filters

_NOT_FOR_A_TERMINAL: Final = frozenset({"parquet", "csv"})
"""Bytes, and texts of clients as they are."""


@click.command
@chosen_by.options
@click.option("--format", "layout", type=click.Choice(list(export.WRITERS)), required=True, help="What to write.")
@click.option("--bodies", is_flag=True, help="With the bodies, and the answer put together.")
@click.option(
    "-O", "--output", "target", type=click.Path(path_type=Path), metavar="FILE", help="Where to; stdout otherwise."
)
@options.journal_or_bucket
def command(
    filters: Filters,
    grep: str | None,
    layout: str,
    bodies: bool,
    target: Path | None,
    data_dirs: Sequence[Path],
    config_path: Path | None,
) -> None:
    """Write exchanges for other programs: JSON lines, Parquet, CSV, HAR, OpenAI's batch input.

    \b
    jsonl         an object a line, with the fields of `extproc log --json`;
                  --bodies: those of `extproc show --json`
    csv, parquet  a row each, the whole exchange as JSON in the last column;
                  Parquet needs pyarrow (pip install 'extproc[parquet]')
    har           HAR 1.2, for a browser's network panel or mitmproxy
    openai-batch  the requests alone, to be run again elsewhere; --bodies goes
                  without saying

    The filters are those of `extproc log`. FILE is there whole or not at all, for its owner alone. Credentials are no
    more in it than in the journal; prompts are. Exit code 1: it was written, but a body was gone; stderr says which.

    \b
    Examples:
      extproc export --since 1d --format jsonl --bodies -O yesterday.jsonl
      extproc export --failed --format har --bodies -O failed.har
      extproc export --model llama-3 --format openai-batch -O prompts.jsonl
      extproc export --format parquet -O all.parquet
    """
    directories = options.existing(data_dirs, config_path, chosen_by.span(filters), bodies=bodies or grep is not None)
    if target is None and layout in _NOT_FOR_A_TERMINAL and output.is_terminal():
        raise click.UsageError(f"--format {layout} is nothing for a terminal: -O FILE.")
    notes: list[str] = []

    def note(text: str) -> None:
        notes.append(text)
        click.echo(f"extproc: {output.escape(text)}", err=True)

    in_bodies, running = chosen_by.body_test(grep), IN_FLIGHT in filters.outcomes
    with options.answers(directories) as asked, _sink(target) as sink:
        wanted = asked.exchanges(filters, test=in_bodies, running=running, complete=True)
        count = export.WRITERS[layout](wanted, sink, bodies=bodies, note=note)
    if target is not None or not count:
        click.echo(f"{count} exchanges" + (f" in {output.escape(str(target))}" if target else ""), err=True)
    if notes and layout != "openai-batch":
        raise click.exceptions.Exit(1)


@contextlib.contextmanager
def _sink(target: Path | None) -> Iterator[BinaryIO]:
    """Where the bytes go. A file appears under its name when all of it is on disk."""
    if target is None:
        sys.stdout.flush()
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    try:
        if _is_no_file(target):
            with target.open("wb") as file:
                yield file
            return
        with _replacement(target) as file:
            yield file
    except OSError as error:
        raise ExtprocError(f"{target}: {error.strerror}") from error


def _is_no_file(target: Path) -> bool:
    """A pipe or a device, which nothing may take the place of."""
    return target.exists() and not stat.S_ISREG(target.stat().st_mode) and not target.is_dir()


@contextlib.contextmanager
def _replacement(target: Path) -> Iterator[BinaryIO]:
    target = target.resolve()  # of a link, what it points to
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
