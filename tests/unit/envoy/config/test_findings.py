"""What a finding looks like, for people and for tools."""

from __future__ import annotations

import pytest

from extproc.envoy.config.findings import Finding, Level, dotted, meant
from extproc.envoy.config.source import Place

FOUND = Finding(Level.ERROR, Place("routes.yaml", 3, 7), "no", ("resources", 0, "name"), "name")


def test_a_line_for_people() -> None:
    """Place, level, text: as compilers write it."""
    assert str(FOUND) == "routes.yaml:3:7: error: no"


def test_the_fields_for_tools() -> None:
    """The members of `check --json`."""
    assert FOUND.fields() == {
        "level": "error",
        "file": "routes.yaml",
        "line": 3,
        "column": 7,
        "path": "resources[0].name",
        "message": "no",
    }


@pytest.mark.parametrize(
    ("path", "text"),
    [((), ""), (("a",), "a"), (("a", 0, "b", 1, 2, "c.d"), "a[0].b[1][2].c.d"), ((0, "a"), "[0].a")],
)
def test_dotted(path: tuple[str | int, ...], text: str) -> None:
    """A path as people write it."""
    assert dotted(path) == text


@pytest.mark.parametrize(
    ("name", "text"), [("lm", "; did you mean llm?"), ("llm-2", "; did you mean llm?"), ("zzz", ""), ("", "")]
)
def test_meant(name: str, text: str) -> None:
    """A near miss is named, nothing else."""
    assert meant(name, ["llm", "extproc"]) == text
