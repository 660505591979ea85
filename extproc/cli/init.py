"""`extproc init DIR`: the shipped Envoy configuration and settings, written out for editing."""

from __future__ import annotations

import importlib.resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Final

import click

from extproc.errors import ConfigError

SHIPPED: Final = ("envoy", "extproc.yaml")


def shipped(name: str) -> Traversable:
    """A shipped file or directory: of the installed package, or of the checkout that holds this module."""
    packaged = importlib.resources.files("extproc") / "_shipped" / name
    if packaged.is_file() or packaged.is_dir():
        return packaged
    return Path(__file__).resolve().parents[2] / name


def _write(source: Traversable, target: Path) -> list[Path]:
    if not source.is_dir():
        # "x": what somebody has edited is never overwritten, not even when it came into being this moment.
        with target.open("xb") as file:
            file.write(source.read_bytes())
        return [target]
    target.mkdir()
    children = sorted(source.iterdir(), key=lambda child: child.name)
    return [path for child in children for path in _write(child, target / child.name)]


@click.command
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
def command(directory: Path) -> None:
    """Write the shipped Envoy configuration and settings out for editing.

    DIR/envoy/ and DIR/extproc.yaml are written; DIR is made when it is not there. Nothing is overwritten.

    \b
    Examples:
      extproc init .
      extproc init gateway && cd gateway && extproc up
    """
    for name in SHIPPED:
        if (directory / name).is_symlink() or (directory / name).exists():
            raise ConfigError(f"{directory / name}: is there already, and nothing is overwritten; name another DIR")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        written = [path for name in SHIPPED for path in _write(shipped(name), directory / name)]
    except OSError as error:
        raise ConfigError(f"{error.filename or directory}: cannot be written: {error.strerror}") from error
    for path in written:
        click.echo(path)
