"""Exchanges one under the other: what `log` and `inflight` print, as a table, as JSON or as CSV."""

from __future__ import annotations

import contextlib
import csv
import os
import shlex
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import click

from extproc.cli import output, view
from extproc.core.joined import Exchange

FORMS: Final = ("table", "wide", "json", "csv")


class Columns(click.ParamType[Any]):
    """Names of columns with commas between."""

    name = "columns"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """Refuse a name that is none."""
        names = tuple(name.strip() for name in value.split(",")) if isinstance(value, str) else tuple(value)
        for name in names:
            if name not in view.COLUMNS:
                self.fail(f"{name!r} is no column; expected some of {','.join(view.COLUMNS)}", param, ctx)
        return names


def options(command: Any) -> Any:
    """`-o`, `--json` and `--columns`."""
    for option in (
        click.option("--columns", type=Columns(), metavar="NAME,...", help="These columns: started,upstream,model,id."),
        click.option("--json", "as_json", is_flag=True, help="One JSON object a line: -o json."),
        click.option("-o", "--output", "form", type=click.Choice(FORMS), help="Form: table, wide, json or csv."),
    ):
        command = option(command)
    return command


def form_of(form: str | None, as_json: bool) -> str:
    """The one form that was asked for."""
    if as_json and form not in (None, "json"):
        raise click.UsageError("--json is -o json, and excludes other forms.")
    return "json" if as_json else form or "table"


def print_all(
    exchanges: Iterable[Exchange],
    form: str,
    columns: Sequence[str] | None = None,
    *,
    default: Sequence[str] = view.LISTED,
    at_once: bool = False,
) -> int:
    """Print exchanges as they come; their number. A long table on a terminal goes through the pager."""
    if form == "json":
        return print_lines(map(output.json_line, exchanges), at_once=at_once)
    names = tuple(columns or default)
    if form == "csv":
        return _print_csv(exchanges, names, at_once=at_once)
    local = output.is_terminal()
    wide = form == "wide" or columns is not None
    rows = (view.row(exchange, names, local=local, short=local and not wide) for exchange in exchanges)
    shown = [view.COLUMNS[name]._replace(worth=0) if wide else view.COLUMNS[name] for name in names]
    if wide:
        shown = [column._replace(fixed=True) for column in shown]
    if at_once or not local:
        return output.table(shown, rows, at_once=at_once)
    with pager():
        return output.table(shown, rows)


def print_lines(lines: Iterable[str], *, at_once: bool = False) -> int:
    """Print lines as they come; their number."""
    count = 0
    for line in lines:
        sys.stdout.write(line + "\n")
        if at_once:
            sys.stdout.flush()
        count += 1
    return count


def _print_csv(exchanges: Iterable[Exchange], names: Sequence[str], *, at_once: bool) -> int:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(names)
    count = 0
    for exchange in exchanges:
        row = view.row(exchange, names, local=False)
        writer.writerow([output.escape(output.text_of(cell)) for cell in row])
        if at_once:
            sys.stdout.flush()
        count += 1
    return count


@contextlib.contextmanager
def pager() -> Iterator[None]:
    """What is printed goes through $PAGER (`less -FRX`), where a person reads and nobody has said `PAGER=cat`."""
    command = shlex.split(os.environ.get("EXTPROC_PAGER") or os.environ.get("PAGER") or "less")
    if not command or command[0] == "cat" or not sys.stdin.isatty() or shutil.which(command[0]) is None:
        yield
        return
    import subprocess

    size = shutil.get_terminal_size()
    env = {"LESS": "FRX", **os.environ, "COLUMNS": str(size.columns), "LINES": str(size.lines)}
    sys.stdout.flush()
    terminal = os.dup(1)
    process = subprocess.Popen(command, stdin=subprocess.PIPE, env=env)
    assert process.stdin is not None
    os.dup2(process.stdin.fileno(), 1)
    os.environ["COLUMNS"] = str(size.columns)  # what is printed now is printed for a terminal
    try:
        with output.as_on_terminal():
            yield
            sys.stdout.flush()
    except BrokenPipeError:
        pass  # the reader has seen enough
    finally:
        os.dup2(terminal, 1)
        os.close(terminal)
        process.stdin.close()
        process.wait()
