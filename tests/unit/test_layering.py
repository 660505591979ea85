"""The rooms of the package know only those before them: core and journal first, the commands last (`CHAINS`)."""

from __future__ import annotations

import ast
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import extproc
import extproc.core

PACKAGE = Path(extproc.__file__).parent

CORE = [
    "extproc.core",
    *(each.name for each in pkgutil.walk_packages(extproc.core.__path__, "extproc.core.")),
]

CHAINS = [
    "core <- journal <- history <- incidents <- telemetry <- follow <- service <- service.sidecar <- up <- cli",
    "core <- envoy.config <- envoy.process <- envoy.check <- envoy.publish <- up <- cli",
    "core <- journal <- history <- reconcile <- cli",
    "core <- journal <- history <- export <- fleet <- cli",
    "core <- journal <- history <- incidents <- quarantine <- follow <- service <- cli",
    "core <- journal <- history <- export <- page <- cli",
    "core <- journal <- history <- incidents <- quarantine <- page <- cli",
    "core <- journal <- history <- incidents <- replay <- page <- cli",
    "core <- load <- cli",
    "mock <- cli",
]
"""A package imports itself and what stands before it in one of these chains."""

FOUNDATIONS = {"_proto", "config", "errors", "fs", "logs", "processes", "shell"}
"""What all but the core and the demo backend may import. They import nothing but each other."""

ALONE = {"core", "mock"}

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


def packages() -> Iterator[str]:
    """Every package, `service` and `service.sidecar` for two of them."""
    for path in sorted(PACKAGE.rglob("__init__.py")):
        yield ".".join(path.parent.relative_to(PACKAGE).parts)


def room(module: str) -> str | None:
    """The room that a module of ours is in: `core` for `extproc.core.sse`, `config` for itself; None for others'."""
    name = module.removeprefix("extproc.")
    if name == module:
        return None
    rooms = [each for each in (*CHAIN_NAMES, *FOUNDATIONS) if name == each or name.startswith(f"{each}.")]
    return max(rooms, key=len, default=None)


def names_of(chain: str) -> list[str]:
    """The rooms of a chain, in its order."""
    return chain.split(" <- ")


CHAIN_NAMES = {name for chain in CHAINS for name in names_of(chain)}


def allowed(name: str) -> set[str]:
    """The rooms that one may import."""
    before = {each for chain in CHAINS if name in (names := names_of(chain)) for each in names[: names.index(name) + 1]}
    return before if name in ALONE else before | FOUNDATIONS


def sources(name: str) -> Iterator[Path]:
    """The source files of a room, without those of another within it."""
    path = PACKAGE.joinpath(*name.split("."))
    for each in sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]:
        if room(".".join(["extproc", *each.relative_to(PACKAGE).with_suffix("").parts])) == name:
            yield each


@pytest.mark.parametrize("module", CORE)
def test_core_loads_no_transport(module: str) -> None:
    """A core module, imported alone, loads neither gRPC nor asyncio nor OpenTelemetry."""
    script = f"import sys, {module}; print([name for name in {FOREIGN} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=PACKAGE.parent, stdout=subprocess.PIPE, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", sorted(CHAIN_NAMES | FOUNDATIONS - {"_proto"}))
def test_imports_point_one_way(name: str) -> None:
    """No module imports one of a room that does not stand before its own."""
    may = allowed(name) if name in CHAIN_NAMES else FOUNDATIONS
    files = list(sources(name))
    assert files
    wrong = [
        f"{path.relative_to(PACKAGE)} imports {module}"
        for path in files
        for module in imports(path)
        if (its := room(module)) is not None and its not in may
    ]
    assert wrong == []


def test_every_package_has_its_place() -> None:
    """A new package is put into a chain: nothing is outside of the rule."""
    known = CHAIN_NAMES | FOUNDATIONS
    lost = [name for name in packages() if name and not any(f"{name}.".startswith(f"{each}.") for each in known)]
    assert [name for name in lost if not any(each.startswith(f"{name}.") for each in known)] == []


def test_no_circles() -> None:
    """No modules import one another, not even for their types."""
    names = {
        ".".join(["extproc", *path.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(".__init__"): path
        for path in PACKAGE.rglob("*.py")
    }

    def module_of(imported: str) -> str:
        return imported if imported in names else imported.rpartition(".")[0]

    graph = {name: {module_of(each) for each in imports(path)} - {name} for name, path in names.items()}
    assert "extproc.core.stream" in graph["extproc.core.exchange"]
    list(TopologicalSorter(graph).static_order())  # raises CycleError, with the circle's names
