"""The parts of the package know only those below them: core and journal first, the commands last (`LAYERS`)."""

from __future__ import annotations

import ast
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import extproc
import extproc.core

PACKAGE = Path(extproc.__file__).parent

CORE = [
    "extproc.core",
    *(each.name for each in pkgutil.walk_packages(extproc.core.__path__, "extproc.core.")),
]

LAYERS = ["core", "journal", "history", "incidents", "telemetry", "follow", "service", "cli"]
"""Each may import itself and those before it; `config` and `errors` may be imported by all but the core."""

FOREIGN = ["grpc", "asyncio", "opentelemetry"]


def imports(path: Path) -> Iterator[str]:
    """The modules that a source file imports, anywhere in it, with their full names."""
    package = ["extproc", *path.relative_to(PACKAGE).parent.parts]
    for node in ast.walk(ast.parse(path.read_bytes(), path)):
        match node:
            case ast.Import(names=names):
                yield from (each.name for each in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                parts = package[: len(package) - level + 1] if level else []
                base = ".".join([*parts, *([module] if module else [])])
                yield from (f"{base}.{each.name}" for each in names)


def part(module: str) -> str | None:
    """The part of the package that a module belongs to, `core` for `extproc.core.sse`; None for others'."""
    names = module.split(".")
    return names[1] if names[0] == "extproc" and len(names) > 1 else None


@pytest.mark.parametrize("module", CORE)
def test_core_loads_no_transport(module: str) -> None:
    """A core module, imported alone, loads neither gRPC nor asyncio nor OpenTelemetry."""
    script = f"import sys, {module}; print([name for name in {FOREIGN} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=PACKAGE.parent, stdout=subprocess.PIPE, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("layer", LAYERS)
def test_imports_point_one_way(layer: str) -> None:
    """No module of a layer imports one of a layer above it."""
    above = LAYERS[LAYERS.index(layer) + 1 :]
    wrong = [
        f"{path.relative_to(PACKAGE)} imports {module}"
        for path in sorted((PACKAGE / layer).rglob("*.py"))
        for module in imports(path)
        if part(module) in above
    ]
    assert wrong == []


def test_core_imports_only_itself() -> None:
    """The core knows neither the settings nor the generated messages nor any other part of the package."""
    wrong = [
        f"{path.relative_to(PACKAGE)} imports {module}"
        for path in sorted((PACKAGE / "core").rglob("*.py"))
        for module in imports(path)
        if part(module) not in (None, "core")
    ]
    assert wrong == []
