"""What all commands print with: escaped text, tables, progress.

Everything that came from a client or a backend goes through `escape` before it is printed, terminal or not: a
prompt may hold escape sequences that clear a screen, retitle a window or paste text, and control characters
that reorder what a reader sees. `show --body` and `replay` into a pipe are the exceptions: they are asked for
the exact bytes.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, Final, NamedTuple, Self, TypeVar

import click

PROGRESS_AFTER_SECONDS: Final = 2.0
PROGRESS_EVERY_SECONDS: Final = 0.5

T = TypeVar("T")

_UNSAFE: Final = (
    "\x00-\x1f\x7f-\x9f"  # C0, DEL, C1: among them ESC, and CSI as one character
    "\u2028\u2029"  # line and paragraph separator: a line end for some programs
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # they change the direction of the text around them
    "\u206a-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f"  # invisible: deprecated format, BOM, tags
    "\ud800-\udfff"  # lone surrogates cannot be encoded
)
_UNSAFE_IN_LINE: Final = re.compile(f"[{_UNSAFE}]")
_UNSAFE_IN_TEXT: Final = re.compile("(?![\n\t])" + f"[{_UNSAFE}]")
_SHORT: Final = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def _escaped(match: re.Match[str]) -> str:
    character = match[0]
    if character in _SHORT:
        return _SHORT[character]
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def escape(text: str) -> str:
    """Data for one line: every control character, line break and direction mark as a visible escape."""
    return text if text.isprintable() else _UNSAFE_IN_LINE.sub(_escaped, text)  # nothing unsafe is printable


def escape_text(text: str) -> str:
    """Data for several lines: like `escape`, but line feeds and tabs stay."""
    return _UNSAFE_IN_TEXT.sub(_escaped, text)


_paged: Final[list[bool]] = []


def is_terminal() -> bool:
    """Whether a person reads stdout, perhaps through a pager."""
    return bool(_paged) or sys.stdout.isatty()


@contextlib.contextmanager
def as_on_terminal() -> Iterator[None]:
    """What is printed meanwhile is for a terminal, though stdout is a pager's pipe."""
    _paged.append(True)
    try:
        yield
    finally:
        _paged.pop()


def json_line(value: Any) -> str:
    """One line of JSON, ASCII only: safe for a terminal, and for every reader of lines."""
    from extproc.core.record import json_line

    return json_line(value)


# Tables ----------------------------------------------------------------------------------------------------


class Column(NamedTuple):
    """A column's title, and how it may be squeezed into a narrow terminal."""

    title: str
    width: int = 0
    """At least this wide, so that rows printed one at a time stand under each other."""
    right: bool = False
    fixed: bool = False
    """Never cut: an id that is cut is of no use."""
    worth: int = 0
    """Where the terminal is too narrow for all of them, those of the highest number are left out first."""


class Cell(NamedTuple):
    """A value with a colour for terminals."""

    text: str
    style: str = ""


Row = Sequence[Cell | str]

_BATCH_ROWS: Final = 500
_GAP: Final = 2
_NARROWEST: Final = 4


def table(columns: Sequence[Column], rows: Iterable[Row], *, at_once: bool = False) -> int:
    """Print rows as they come: tables on a terminal, else lines with tabs between. Returns their number.

    A long table is cut into several, so that memory does not grow with it. `at_once` prints each row alone.
    """
    if not is_terminal():
        return _plain(rows, at_once=at_once)
    count = 0
    batch: list[Row] = []
    for row in rows:
        batch.append(row)
        if len(batch) == (1 if at_once else _BATCH_ROWS):
            _print_table(columns, batch, header=not (at_once and count))
            count += len(batch)
            batch = []
    if batch:
        _print_table(columns, batch, header=True)
    return count + len(batch)


def _plain(rows: Iterable[Row], *, at_once: bool) -> int:
    count = 0
    for row in rows:
        sys.stdout.write("\t".join([escape(text_of(cell)) for cell in row]) + "\n")
        if at_once:
            sys.stdout.flush()
        count += 1
    return count


def text_of(cell: Cell | str) -> str:
    """What it says, whatever its colour."""
    return cell if isinstance(cell, str) else cell.text


def _print_table(columns: Sequence[Column], rows: Sequence[Row], *, header: bool) -> None:
    width = shutil.get_terminal_size().columns
    cells = [[_clean(cell) for cell in row] for row in rows]
    natural = _natural_widths(columns, cells)
    shown = _shown(columns, natural, width)
    kept = [columns[index] for index in shown]
    cells = [[row[index] for index in shown] for row in cells]
    widths = _squeezed(kept, [natural[index] for index in shown], width)
    if header:
        cells.insert(0, [Cell(column.title, "bold") for column in kept])
    for line in cells:
        sys.stdout.write(_line(kept, line, widths) + "\n")
    sys.stdout.flush()


def _clean(cell: Cell | str) -> Cell:
    return Cell(escape(text_of(cell)), "" if isinstance(cell, str) else cell.style)


def _natural_widths(columns: Sequence[Column], rows: Sequence[Sequence[Cell]]) -> list[int]:
    """As wide as the widest cell."""
    from rich.cells import cell_len

    return [
        max(column.width, len(column.title), *(cell_len(row[index].text) for row in rows))
        for index, column in enumerate(columns)
    ]


def _shown(columns: Sequence[Column], natural: Sequence[int], width: int) -> list[int]:
    """The columns for which there is room, by what they are worth; those worth the most are there in any case."""
    shown: list[int] = []
    used = -_GAP
    for index in sorted(range(len(columns)), key=lambda index: columns[index].worth):
        column = columns[index]
        used += _GAP + (natural[index] if column.fixed else min(natural[index], max(column.width, _NARROWEST)))
        if used > width and column.worth:
            break
        shown.append(index)
    return sorted(shown)


def _squeezed(columns: Sequence[Column], natural: Sequence[int], width: int) -> list[int]:
    """What does not fit is taken from the widest column that may be cut."""
    widths = list(natural)
    flexible = [index for index, column in enumerate(columns) if not column.fixed]
    while sum(widths) + _GAP * (len(widths) - 1) > width:
        widest = max(flexible, key=widths.__getitem__, default=None)
        if widest is None or widths[widest] <= _NARROWEST:
            break
        widths[widest] -= 1
    return widths


def _line(columns: Sequence[Column], cells: Sequence[Cell], widths: Sequence[int]) -> str:
    from rich.cells import cell_len, set_cell_size

    parts = []
    for column, cell, width in zip(columns, cells, widths, strict=True):
        missing = width - cell_len(cell.text)
        text = cell.text if missing >= 0 else set_cell_size(cell.text, width - 1) + "\u2026"
        padding = " " * missing
        if cell.style:
            text = styled(text, **{"bold": True} if cell.style == "bold" else {"fg": cell.style})
        parts.append(padding + text if column.right else text + padding)
    return (" " * _GAP).join(parts).rstrip()


def styled(text: str, **style: Any) -> str:
    """Colour for a terminal, nothing for a pipe; `text` is escaped already."""
    # https://no-color.org: present and not empty.
    return click.style(text, **style) if is_terminal() and not os.environ.get("NO_COLOR") else text


# Progress --------------------------------------------------------------------------------------------------


def announce(line: str) -> None:
    """Print what a program that goes on has to say; whoever reads it, or nobody does, it goes on."""
    with contextlib.suppress(OSError):
        click.echo(line)


class Progress:
    """Says on stderr how far long work is: from the second second on, to a terminal only, at most twice a second.

    A context manager; called with the state as often as one likes. `clear` makes room for a line of output.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._interested = sys.stderr.isatty()
        self._due = time.monotonic() + PROGRESS_AFTER_SECONDS
        self._shown = False

    def __call__(self, state: str) -> None:
        if self._interested and time.monotonic() >= self._due:
            self._due = time.monotonic() + PROGRESS_EVERY_SECONDS
            self._shown = True
            sys.stderr.write(f"\r\x1b[K{self._what}: {escape(state)}")
            sys.stderr.flush()

    def clear(self) -> None:
        """Take the line away."""
        if self._shown:
            self._shown = False
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.clear()


def chosen(exchanges: Iterable[T], test: Callable[[T], bool]) -> Iterator[T]:
    """Those exchanges that pass the test, with progress while the journal is read."""
    with Progress("reading the journal") as progress:
        for number, exchange in enumerate(exchanges, 1):
            progress(f"{number} exchanges")
            if test(exchange):
                progress.clear()
                yield exchange
