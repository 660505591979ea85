"""`extproc erase`: a person's exchanges leave the journal, or a bucket, and a signed list says which."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

import click

from extproc import __version__, fs
from extproc.cli import options, output
from extproc.core.times import timestamp
from extproc.errors import ExtprocError
from extproc.fleet.span import EVERYTHING, Span

_LISTS = "erasures"


@click.command
@click.option("--key", metavar="MARK", help="Of requests with this credential: its mark, as `show` prints it.")
@click.option("--user", metavar="VALUE", help="Of requests that name this person: `user`, `metadata.user_id`.")
@click.option("--id", "id", metavar="ID", help="One exchange.")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@options.journal_or_bucket
def command(
    key: str | None,
    user: str | None,
    id: str | None,
    dry_run: bool,
    data_dirs: Sequence[Path],
    config_path: Path | None,
) -> None:
    """Take a person's exchanges out of the journal, or out of a bucket.

    Their records, bodies and rows are overwritten or deleted; in the place of each record stands one that says so and
    nothing else, which `verify` accepts. Exchanges that still run, or stand in a segment that is still being written,
    are left and named; exit code 1 says so: it is done again when the segment has been closed. A list of what went is
    written to `erasures/`, signed. The journal of each machine and the bucket are different places: each is asked for.

    \b
    Examples:
      extproc erase --user alice@example.com --dry-run
      extproc erase --key 5f0c9a1e2b7d4c68
      extproc erase --key 5f0c9a1e2b7d4c68 --from s3://recordings/production
    """
    from extproc.fleet.erase import By

    given = [each for each in (key, user, id) if each is not None]
    if len(given) != 1 or not given[0]:
        raise click.UsageError("One of --key, --user and --id says whose exchanges.")
    by = By(key=key, user=user, id=id)
    directories = options.existing(
        data_dirs, config_path, EVERYTHING if id is None else Span.of_ids([id]), bodies=False
    )
    left = _erase_shipped(by, directories, dry_run) if options.bucket_url() else _erase(by, directories, dry_run)
    if left:
        click.echo(f"{len(left)} left, in segments that are still being written: {', '.join(sorted(left))}", err=True)
        click.get_current_context().exit(1)


def _erase(by: Any, directories: Sequence[Path], dry_run: bool) -> set[str]:
    from extproc.fleet import erase, host, signed

    left: set[str] = set()
    for directory in directories:
        found = erase.find([directory], by)
        left |= found.left
        if dry_run:
            _say_ids(found.wanted.ids)
            continue
        try:
            said = erase.from_journal(directory, found)
        except sqlite3.Error as error:
            raise ExtprocError(f"{directory}: the index is in use, do it again: {error}") from error
        text = signed.sign(_fields(by, found, said) | {"host": host.name_of(directory)}, directory)
        path = directory / _LISTS
        path.mkdir(0o700, exist_ok=True)
        with fs.directory(path) as fd:
            fs.put(fd, _list_name(), text)
        _say(found.wanted.ids, said, path)
    return left


def _erase_shipped(by: Any, directories: Sequence[Path], dry_run: bool) -> set[str]:
    from extproc.fleet import erase, signed
    from extproc.fleet.names import ERASURES

    found = erase.find(directories, by)
    if dry_run:
        _say_ids(found.wanted.ids)
        return found.left
    bucket = options.opened_bucket()
    said = erase.from_bucket(bucket, directories, found)
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "extproc"
    home.mkdir(0o700, parents=True, exist_ok=True)
    bucket.create(f"{ERASURES}/{_list_name()}", signed.sign(_fields(by, found, said), home))
    _say(found.wanted.ids, said, Path(ERASURES))
    return found.left


def _fields(by: Any, found: Any, said: dict[str, Any]) -> dict[str, Any]:
    at = timestamp(time.time_ns())
    ids = {"ids": sorted(found.wanted.ids), "left": sorted(found.left)}
    return {"version": 1, "at": at, "extproc": __version__, "by": by.said(), **ids, **said}


def _list_name() -> str:
    return f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{os.urandom(4).hex()}.json"


def _say_ids(ids: AbstractSet[str]) -> None:
    for id in sorted(ids):
        click.echo(output.escape(id))
    click.echo(f"{len(ids)} exchanges would be erased", err=True)


def _say(ids: AbstractSet[str], said: dict[str, Any], where: Path) -> None:
    records = sum(each["records"] for each in said["segments"])
    click.echo(
        f"{len(ids)} exchanges erased: {records} records in {len(said['segments'])} segments, "
        f"{len(said['bodies'])} bodies; the list is in {where}"
    )
