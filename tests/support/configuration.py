"""Envoy configurations for a test: the shipped files as a user edits them, and documents with one value altered."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from hypothesis import strategies as st

from extproc.envoy.config import files
from extproc.envoy.config.files import Documents
from extproc.envoy.config.source import Pointer

ODD_VALUES: Final[tuple[Any, ...]] = (
    *(None, True, 5, -1.5, float("inf"), "x", "", [], {}),
    *([None], ["x"], [{}], {"x": None}, {"name": "x"}, {"@type": "x"}),
)
"""What somebody might write where something else belongs."""

PIECES: Final = st.sampled_from("ab:-,?[]{}~'\"|>#%@1\n") | st.sampled_from(
    ("&x", "*x", "<<", "!!int", "!!bool", "!!null", "!!set", ".inf", "---", "...", ": ", "\n- ")
)
"""Of YAML, in no order that a person would write."""


def shipped_copy(directory: Path) -> Path:
    """The shipped files in a directory of their own, as `extproc init` writes them."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in files.NAMES:
        (directory / name).write_bytes((files.shipped() / name).read_bytes())
    return directory


def edit(path: Path, old: str, new: str) -> str:
    """Replace a text that stands in a file, where it stands first. Returns the place as `LINE:COLUMN`."""
    text = path.read_text(encoding="utf-8")
    at = text.index(old)
    path.write_text(text[:at] + new + text[at + len(old) :], encoding="utf-8")
    return position(text, at)


def position(text: str, at: int) -> str:
    """An offset in a text as `LINE:COLUMN`, both from 1."""
    return f"{text.count(chr(10), 0, at) + 1}:{at - text.rfind(chr(10), 0, at)}"


def ways(value: Any, way: Pointer = ()) -> Iterator[Pointer]:
    """The paths of everything in a value, without its own."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, item in items:
        yield (*way, step)
        yield from ways(item, (*way, step))


def altered(documents: Documents, file: str, way: Pointer, *value: Any) -> Documents:
    """Documents with one value replaced; without it, when no other is given."""
    changed = Documents()
    changed.update(pickle.loads(pickle.dumps(dict(documents))))  # a fifth of what copy.deepcopy takes
    changed.places = documents.places
    at = changed[file]
    for step in way[:-1]:
        at = at[step]
    if value:
        at[way[-1]] = copy.deepcopy(value[0])
    else:
        del at[way[-1]]
    return changed


def way_to(documents: Documents, file: str, *steps: str) -> Pointer:
    """The path of a value. A step into a list is the name of one of its things; `*` is its first."""
    at, way = documents[file], ()  # type: tuple[Any, Pointer]
    for step in steps:
        key = _step(at, step)
        at, way = at[key], (*way, key)
    return way


def _step(at: Any, step: str) -> str | int:
    if isinstance(at, list):
        return 0 if step == "*" else next(index for index, each in enumerate(at) if each.get("name") == step)
    return step
