"""A part of a bucket as data directories, one for each host, for whoever reads a journal.

    with view.opened(bucket, Span(since, until), bodies=True) as directories: ...

What a question needs is fetched once, into a cache of bounded size, and linked from there into directories that have
the shape of a machine's own and nothing else in them; they go when the question has been answered. What is fetched has
the size that the listing says, and its own checksums: zstd's, each line's, each body's.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Final

from extproc import fs
from extproc.errors import BucketError
from extproc.fleet import pack
from extproc.fleet.bucket import Bucket, Found
from extproc.fleet.catalog import Catalog, Segment
from extproc.fleet.span import Span
from extproc.journal import lines
from extproc.journal.directory import BODIES, SEGMENTS, exchange_of
from extproc.journal.segment import Name

CACHE_BYTES: Final = 8 * 1024 * 1024 * 1024
"""What is kept of what was fetched; the least recently used goes first."""
_AT_ONCE: Final = 8
_VIEW: Final = "view-"
_LEFT_SECONDS: Final = 86_400


def cache_directory() -> Path:
    """Where fetched objects are kept: EXTPROC_CACHE, or the user's own cache directory."""
    named = os.environ.get("EXTPROC_CACHE")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "extproc"


@contextlib.contextmanager
def opened(
    bucket: Bucket, span: Span, *, bodies: bool, cache: Path | None = None, most_bytes: int = CACHE_BYTES
) -> Iterator[list[Path]]:
    """The data directories of all hosts, with what a question about this time needs. Raises BucketError, OSError."""
    root = cache or cache_directory()
    root.mkdir(0o700, parents=True, exist_ok=True)
    _remove_leftovers(root)
    kept = root / hashlib.sha256(bucket.url.encode()).hexdigest()[:16]
    kept.mkdir(0o700, exist_ok=True)
    chosen = Catalog(bucket).chosen(span, bodies=bodies)
    with tempfile.TemporaryDirectory(prefix=_VIEW, dir=root) as made:
        with ThreadPoolExecutor(_AT_ONCE) as fetchers:
            for _ in fetchers.map(lambda each: _place(bucket, each, kept, Path(made)), chosen):
                pass
        hosts = sorted({each.place.host for each in chosen})
        for host in hosts:
            _set_times(
                Path(made) / host, {each.place.stem: each.set_back_from for each in chosen if each.place.host == host}
            )
        yield [Path(made) / host for host in hosts]
    _shrink(kept, most_bytes)


def _place(bucket: Bucket, segment: Segment, kept: Path, made: Path) -> None:
    """Put a segment, and the bodies that were packed for it, into the directory of its host."""
    directory = made / segment.place.host
    for name in (SEGMENTS, BODIES):
        (directory / name).mkdir(0o700, parents=True, exist_ok=True)
    os.link(_fetched(bucket, segment.raw, kept), directory / SEGMENTS / str(segment.place.name))
    for found in segment.packs:
        data = _fetched(bucket, found, kept).read_bytes()
        for name, entry in pack.table_of(data).items():
            if exchange_of(name) is None:
                raise BucketError(f"{found.path}: a body by a name that is none: {name!r}")
            with os.fdopen(os.open(directory / BODIES / name, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:
                file.write(pack.body(data, entry))


def _fetched(bucket: Bucket, found: Found, kept: Path) -> Path:
    """An object as a file, of this very version."""
    version = hashlib.sha256(f"{found.path} {found.size} {found.version}".encode()).hexdigest()[:32]
    path = kept / version
    try:
        os.utime(path)
    except FileNotFoundError:
        data = bucket.read(found.path)
        if len(data) != found.size:
            raise BucketError(f"{found.path}: {len(data)} bytes came, and the bucket says {found.size}") from None
        with fs.directory(kept) as fd:
            _put(fd, path.name, data)
    return path


def _put(directory: int, name: str, data: bytes) -> None:
    """Whole or not at all, also where two fetch the same."""
    draft = f"{name}.{os.getpid()}.{time.monotonic_ns()}"
    with os.fdopen(os.open(draft, fs.NEW, 0o600, dir_fd=directory), "wb") as file:
        file.write(data)
    os.rename(draft, name, src_dir_fd=directory, dst_dir_fd=directory)


def _set_times(directory: Path, set_back_from: Mapping[str, str]) -> None:
    """A segment's file says when it was written last, whatever the clock did: readers pass over what is too old."""
    for name in filter(None, map(Name.parse, (path.name for path in (directory / SEGMENTS).iterdir()))):
        last = lines.last_record(directory, name)
        with contextlib.suppress(ValueError, OverflowError):
            latest = max(last.at if last else "", set_back_from.get(name.stem, ""))
            at = datetime.fromisoformat(latest).timestamp()
            os.utime(directory / SEGMENTS / str(name), (time.time(), at))


def _shrink(kept: Path, most_bytes: int) -> None:
    """Delete what has not been used for longest, beyond so many bytes."""
    files: Sequence[tuple[float, int, Path]] = sorted(_files(kept))
    total = sum(size for _, size, _ in files)
    for _, size, path in files:
        if total <= most_bytes:
            break
        path.unlink(missing_ok=True)
        total -= size


def _files(kept: Path) -> Iterator[tuple[float, int, Path]]:
    for path in kept.iterdir():
        with contextlib.suppress(FileNotFoundError):
            status = path.stat()
            yield status.st_atime, status.st_size, path


def _remove_leftovers(root: Path) -> None:
    """Directories of questions that were killed."""
    for path in root.glob(f"{_VIEW}*"):
        with contextlib.suppress(OSError):
            if path.stat().st_mtime < time.time() - _LEFT_SECONDS:
                shutil.rmtree(path, ignore_errors=True)
