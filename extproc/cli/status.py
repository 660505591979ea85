"""`extproc status`: whether it is recording, what is in flight, how long the disk lasts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import msgspec

from extproc.cli import options, output, view
from extproc.history import status
from extproc.history.status import Status


def _follower(directory: Path) -> tuple[int | None, float | None]:
    """How much of the journal the follower has not read, and when it last kept its position."""
    from extproc.follow import checkpoint
    from extproc.history import feed
    from extproc.history.feed import Feed

    path = directory / checkpoint.DIRECTORY / checkpoint.FILE_NAME
    kept = checkpoint.load(path)
    if kept is None:
        return None, None
    return Feed([directory], feed.from_checkpoint(kept.series)).behind_bytes(), path.stat().st_mtime


def _size(size: int | None) -> str:
    if size is None:
        return "?"
    amount = float(size)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "bytes" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"


def describe(found: Status) -> Iterator[tuple[str, str]]:
    """What a person is told, a line each."""
    workers = ", ".join(
        f"{each.worker} (pid {each.pid}, since {view.local_time(each.recording_since)})" for each in found.workers
    )
    yield "recording", f"yes, workers {workers}" if found.recording else "NO: no worker writes here"
    running = ", ".join(f"{count} on {where}" for where, count in found.in_flight.items())
    silent = f", {found.silent} of them silent" if found.silent else ""
    yield "in flight", (running or "nothing") + silent
    rate = "" if found.bytes_a_day is None else f", {_size(found.bytes_a_day)} a day"
    yield "disk", f"{_size(found.used_bytes)} used{rate}"
    lasts = "" if found.lasts_days is None else f": {found.lasts_days} days at that rate, if nothing were deleted"
    yield "room", f"{_size(found.free_bytes)}{lasts}"
    yield "oldest", view.local_time(found.oldest_record_at) if found.oldest_record_at else "no record"
    yield "follower", _follower_text(found)
    behind = found.index_behind_bytes
    yield "index", "none: questions read the whole journal" if behind is None else f"{_size(behind)} behind"
    yield "last death", view.local_time(found.last_death_at) if found.last_death_at else "none"


def _follower_text(found: Status) -> str:
    if found.follower_behind_bytes is None:
        return "none has run here"
    return f"{_size(found.follower_behind_bytes)} behind, seen {view.local_time(found.follower_seen_at)}"


@click.command
@click.option("--json", "as_json", is_flag=True, help="One JSON object a directory.")
@options.journal_directories
def command(as_json: bool, data_dirs: Sequence[Path], config_path: Path | None) -> None:
    """Say how the recorder is: is it recording, what is in flight where, how long the disk lasts.

    Exit code 1: it is not recording. Read from the files of the data directory, also where nothing runs.

    \b
    Examples:
      extproc status
      extproc status --json | jq .lasts_days
    """
    from extproc import config

    directories = options.existing(data_dirs, config_path)
    floor = config.load(config_path).free_space_floor_bytes
    recording = True
    for directory in directories:
        with options.answers([directory]) as asked:
            found = status.of(directory, asked, floor, *_follower(directory))
        recording = recording and found.recording
        if as_json:
            click.echo(output.json_line(msgspec.to_builtins(found)))
        else:
            _print(directory, found)
    if not recording:
        click.get_current_context().exit(1)


def _print(directory: Path, found: Status) -> None:
    pairs: Any = [("directory", str(directory)), *describe(found)]
    for name, text in pairs:
        style = {"fg": "red"} if name == "recording" and not found.recording else {}
        click.echo(f"{output.styled(f'{name:<11}', dim=True)} {output.styled(output.escape(text), **style)}")
