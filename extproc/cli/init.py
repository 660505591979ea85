"""`extproc init DIR`: the shipped Envoy configuration and settings, written out for editing; a unit for systemd."""

from __future__ import annotations

from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Final

import click

from extproc.cli import output, systemd
from extproc.config import Config
from extproc.envoy.config.files import shipped
from extproc.errors import ConfigError

SHIPPED: Final = ("envoy", "extproc.yaml")


def _write(source: Traversable, target: Path) -> list[Path]:
    if not source.is_dir():
        # "x": what somebody has edited is never overwritten, not even when it came into being this moment.
        with target.open("xb") as file:
            file.write(source.read_bytes())
        return [target]
    target.mkdir()
    children = sorted(source.iterdir(), key=lambda child: child.name)
    return [path for child in children for path in _write(child, target / child.name)]


def _write_unit(directory: Path) -> Path:
    target = directory / systemd.UNIT
    with target.open("x") as file:
        file.write(systemd.unit(directory, Config().drain_seconds))
    return target


@click.command
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option("with_unit", "--systemd", is_flag=True, help="Write DIR/extproc.service too, which runs `extproc serve`.")
def command(directory: Path, with_unit: bool) -> None:
    """Write the shipped Envoy configuration and settings out for editing.

    DIR/envoy/ and DIR/extproc.yaml are written; DIR is made when it is not there. Nothing is overwritten.

    \b
    Examples:
      extproc init .
      extproc init gateway && cd gateway && extproc up
      extproc init --systemd /etc/extproc && systemctl link /etc/extproc/extproc.service
    """
    for name in (*SHIPPED, systemd.UNIT) if with_unit else SHIPPED:
        if (directory / name).is_symlink() or (directory / name).exists():
            raise ConfigError(f"{directory / name}: is there already, and nothing is overwritten; name another DIR")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        written = [path for name in SHIPPED for path in _write(shipped(name), directory / name)]
        if with_unit:
            written.append(_write_unit(directory))
    except OSError as error:
        raise ConfigError(f"{error.filename or directory}: cannot be written: {error.strerror}") from error
    for path in written:
        click.echo(path)
    warning = systemd.warning() if with_unit else None
    if warning is not None:
        click.echo(f"extproc: {output.escape(warning)}", err=True)
