"""What is wrong with a configuration: each thing with its place, what was expected, and what was seen."""

from __future__ import annotations

import dataclasses
import difflib
import enum
from collections.abc import Iterable

from extproc.envoy.config.source import Place, Pointer


class Level(enum.StrEnum):
    """ERROR: not published. WARNING: published, and said."""

    ERROR = "error"
    WARNING = "warning"


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong."""

    level: Level
    place: Place
    text: str
    path: Pointer = ()
    name: str = ""
    """A field or type that our copy of Envoy's messages does not have; a newer Envoy may."""

    def __str__(self) -> str:
        return f"{self.place}: {self.level}: {self.text}"

    def fields(self) -> dict[str, str | int]:
        """For tools: the JSON members of `check --json`."""
        return {
            "level": self.level.value,
            "file": self.place.file,
            "line": self.place.line,
            "column": self.place.column,
            "path": dotted(self.path),
            "message": self.text,
        }


def dotted(path: Pointer) -> str:
    """A path as people write it: `resources[0].name`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")


def meant(name: str, known: Iterable[str]) -> str:
    """`; did you mean NAME?` for a near miss, else nothing."""
    close = difflib.get_close_matches(name, list(known), 1, 0.6)
    return f"; did you mean {close[0]}?" if close else ""
