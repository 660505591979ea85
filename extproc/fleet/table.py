"""The exchanges of one segment as Parquet: what the index knows of each, and where its bodies are.

The day and the host are in the object's name (`dt=`, `host=`), where every engine finds them as columns, and not in
the file. `COLUMNS` is the schema; docs/fleet.md shows it.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Final, cast

from extproc.errors import BucketError
from extproc.export import parquet
from extproc.export.flat import FIELDS, Field, cell
from extproc.fleet.bucket import MISSING
from extproc.fleet.pack import Entry
from extproc.history.join import Exchange

_NAMES: Final = frozenset({
    "id", "started_at", "ended_at", "duration_ms", "outcome", "class", "method", "path", "client", "key", "status",
    "grpc_status", "upstream", "cluster", "route", "attempts", "response_flags", "response_code_details", "request_id",
    "trace_id", "request_bytes", "request_sha256", "response_bytes", "response_sha256", "first_byte_ms",
    "last_byte_ms", "api", "model", "stream", "response_model", "finish_reasons", "tokens_in", "tokens_out", "ttft_ms",
    "fingerprint",
})  # fmt: skip
"""Of the columns of an export those that the index has."""

_OWN: Final = tuple(each for each in FIELDS if each.name in _NAMES)
_DIRECTIONS: Final = ("request", "response")
_PLACES: Final = (
    ("segment", "text"),
    *(
        (f"{direction}_{name}", kind)
        for direction in _DIRECTIONS
        for name, kind in (("pack", "text"), ("pack_offset", "integer"), ("pack_length", "integer"))
    ),
)
"""The segment that has the exchange's end, and of each body that has a file of its own the pack and its frame there."""

COLUMNS: Final[tuple[tuple[str, str], ...]] = (
    *((each.name, each.kind) for each in _OWN),
    *_PLACES,
)
"""Each column with its kind, in order."""


def require() -> None:
    """Raises BucketError where pyarrow is missing."""
    try:
        import pyarrow  # noqa: F401, PLC0415 - an extra
    except ImportError:
        raise BucketError(MISSING) from None


Packed = Mapping[str, tuple[str, Entry]]
"""Of a body file by its name the pack, and where it is in it."""


@dataclass(slots=True)
class Rows:
    """The rows of one segment, column by column."""

    columns: list[list[Any]] = field(default_factory=lambda: [[] for _ in _OWN])

    def add(self, exchange: Exchange) -> None:
        """Take an exchange in, which is not kept."""
        for column, each in zip(self.columns, _OWN, strict=True):
            column.append(_typed(each, exchange))

    def __len__(self) -> int:
        return len(self.columns[0])

    def to_parquet(self, segment: str, packed: Packed) -> bytes:
        """The file."""
        import pyarrow  # noqa: PLC0415 - an extra
        from pyarrow import parquet as files  # noqa: PLC0415

        places = [_place(segment, id, packed) for id in self.columns[0]]
        columns = [*self.columns, *([row[number] for row in places] for number in range(len(_PLACES)))]
        types = parquet.types(pyarrow)
        schema = pyarrow.schema([(name, types[kind]) for name, kind in COLUMNS])
        arrays = [pyarrow.array(column, kind) for column, kind in zip(columns, schema.types, strict=True)]
        sink = io.BytesIO()
        files.write_table(pyarrow.Table.from_arrays(arrays, schema=schema), cast(BinaryIO, sink), compression="zstd")
        return sink.getvalue()


def without(data: bytes, gone: Callable[[str], bool]) -> tuple[bytes, int]:
    """The file without the rows of these ids, and how many those were."""
    import pyarrow  # noqa: PLC0415
    from pyarrow import parquet as files  # noqa: PLC0415

    table = files.read_table(pyarrow.BufferReader(data))
    kept = [not gone(id) for id in table.column("id").to_pylist()]
    sink = io.BytesIO()
    files.write_table(table.filter(pyarrow.array(kept, pyarrow.bool_())), sink, compression="zstd")
    return sink.getvalue(), kept.count(False)


def _typed(each: Field, exchange: Exchange) -> Any:
    return parquet.typed(each, cell(each, exchange))


def _place(segment: str, id: str, packed: Packed) -> list[Any]:
    found: list[Any] = [segment]
    for direction in _DIRECTIONS:
        pack, entry = packed.get(f"{id}.{direction}", (None, None))
        found += [pack, entry and entry.offset, entry and entry.length]
    return found
