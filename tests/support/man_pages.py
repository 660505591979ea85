"""The manual pages, made of what click knows: `make docs` writes them into docs/man, and the wheel brings them along.

    for name, page in pages(): ...      # "extproc-log.1", roff

Macros of man(7) that groff and mandoc both know. A page has no date and no version: it changes when its command does.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click

from extproc.cli.main import COMMANDS, group

EXIT_STATUS: Final = (
    ("0", "fine"),
    ("1", "found a problem, or could not do it"),
    ("2", "wrong usage or configuration"),
)
_EXAMPLES: Final = re.compile(r"\x08\nExamples:\n(.*?)(?:\n\n|\Z)", re.DOTALL)


def pages() -> Iterator[tuple[str, str]]:
    """Each page's file name and its text: of the command itself, of each of its commands, and of theirs."""
    context = click.Context(group, info_name="extproc", help_option_names=["-h", "--help"])
    yield from _pages(context)


def _pages(context: click.Context) -> Iterator[tuple[str, str]]:
    command = context.command
    names = command.list_commands(context) if isinstance(command, click.Group) else []
    below = [child for name in names if (child := _child(context, name)) is not None]
    yield f"{_file_name(context)}.1", "".join(f"{line}\n" for line in _page(context, below))
    for child in below:
        yield from _pages(child)


def _child(context: click.Context, name: str) -> click.Context | None:
    assert isinstance(context.command, click.Group)
    command = context.command.get_command(context, name)
    return None if command is None or command.hidden else click.Context(command, info_name=name, parent=context)


def _page(context: click.Context, below: list[click.Context]) -> Iterator[str]:
    command = context.command
    text, examples = _parts(inspect.cleandoc(command.help or ""))
    yield f'.TH {_quoted(_file_name(context).upper())} 1 "" extproc'
    yield ".SH NAME"
    yield f"{escaped(_file_name(context))} \\- {escaped(_first_line(context))}"
    yield ".SH SYNOPSIS"
    yield f".B {escaped(context.command_path)}"
    yield escaped(" ".join(command.collect_usage_pieces(context)))
    yield ".SH DESCRIPTION"
    yield from _paragraphs(text)
    if below:
        yield ".SH COMMANDS"
        for child in below:
            yield from (".TP", f"\\fB{escaped(child.info_name or '')}\\fR", escaped(_first_line(child)))
    yield ".SH OPTIONS"
    for parameter in command.get_params(context):
        if (record := parameter.get_help_record(context)) is not None:
            yield from (".TP", f"\\fB{escaped(record[0])}\\fR", escaped(" ".join(record[1].split())))
    if examples:
        yield from (".SH EXAMPLES", ".EX", *map(escaped, examples), ".EE")
    yield ".SH EXIT STATUS"
    for code, words in EXIT_STATUS:
        yield from (".TP", code, escaped(words))
    yield from _see_also(context, below)


def _parts(text: str) -> tuple[str, list[str]]:
    """A help text without its examples, and those."""
    found = _EXAMPLES.search(text)
    if found is None:
        return text, []
    return text[: found.start()] + text[found.end() :], inspect.cleandoc(found[1]).splitlines()


def _paragraphs(text: str) -> Iterator[str]:
    for number, paragraph in enumerate(filter(None, (each.strip("\n") for each in text.split("\n\n")))):
        if number:
            yield ".PP"
        if paragraph.startswith("\b"):
            yield from (".EX", *map(escaped, paragraph.splitlines()[1:]), ".EE")
        else:
            yield from map(escaped, paragraph.splitlines())


def _see_also(context: click.Context, below: list[click.Context]) -> Iterator[str]:
    others = below if context.parent is None else [context.parent, *below]
    lines = [f".BR {escaped(_file_name(each))} (1)" for each in others]
    if lines:
        yield ".SH SEE ALSO"
        yield from [f"{line} ," for line in lines[:-1]] + lines[-1:]


def _first_line(context: click.Context) -> str:
    known = COMMANDS.get(context.info_name or "") if context.parent is not None else None
    text = known or inspect.cleandoc(context.command.help or "").partition("\n\n")[0]
    return " ".join(text.split()).rstrip(".")


def _file_name(context: click.Context) -> str:
    return context.command_path.replace(" ", "-")


def _quoted(text: str) -> str:
    return f'"{escaped(text)}"'


def escaped(line: str) -> str:
    """A line of text as roff takes it: a backslash, a hyphen that is a minus, and what would begin a request."""
    text = line.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{text}" if text.startswith((".", "'")) else text


if __name__ == "__main__":
    directory = Path(sys.argv[1])
    for old in directory.glob("*.1"):
        old.unlink()
    for name, page in pages():
        (directory / name).write_text(page)
