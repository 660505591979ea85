"""Parquet, for DuckDB, Spark, pandas and their like: the columns of `flat`, with their types.

It takes pyarrow, which is not installed with extproc: it is larger than everything else together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, BinaryIO, Final

from extproc.errors import ExtprocError
from extproc.export.bodies import Note, raw
from extproc.export.flat import BODIES, FIELDS, Field, cell, output_of
from extproc.history.join import Exchange

ROWS: Final = 5_000
GROUP_BYTES: Final = 32 * 1024 * 1024
"""A row group ends with so many rows, or so much text and bodies: it is in memory."""

MISSING: Final = (
    "Parquet needs pyarrow, which is not installed here: pip install 'extproc[parquet]', or pip install pyarrow"
)


def write(exchanges: Iterable[Exchange], sink: BinaryIO, *, bodies: bool, note: Note) -> int:
    """Write one file. Raises ExtprocError where pyarrow is missing."""
    try:
        import pyarrow  # noqa: PLC0415 - an extra
        from pyarrow import parquet  # noqa: PLC0415
    except ImportError:
        raise ExtprocError(MISSING) from None
    schema = pyarrow.schema(_columns(pyarrow, bodies=bodies))
    count = 0
    with parquet.ParquetWriter(pyarrow.PythonFile(_Counted(sink), mode="w"), schema, compression="zstd") as writer:
        for rows in _groups(_row(exchange, bodies=bodies, note=note) for exchange in exchanges):
            writer.write_table(pyarrow.Table.from_pylist(rows, schema))
            count += len(rows)
    return count


class _Counted:
    """A sink that knows how much went into it: a pipe cannot say where it stands, and Parquet has to know."""

    closed = False

    def __init__(self, sink: BinaryIO) -> None:
        self._sink = sink
        self._written = 0

    def write(self, data: Any) -> int:
        self._sink.write(data)
        self._written += len(data)
        return len(data)

    def tell(self) -> int:
        return self._written

    def flush(self) -> None:
        self._sink.flush()

    def close(self) -> None:
        """The sink is somebody else's."""


def types(pyarrow: Any) -> Mapping[str, Any]:
    """The type of each kind of column."""
    return {
        "text": pyarrow.string(),
        "integer": pyarrow.int64(),
        "number": pyarrow.float64(),
        "truth": pyarrow.bool_(),
        "time": pyarrow.timestamp("us", tz="UTC"),
    }


def _columns(pyarrow: Any, *, bodies: bool) -> list[tuple[str, Any]]:
    by_kind = types(pyarrow)
    columns = [(field.name, by_kind[field.kind]) for field in FIELDS]
    if bodies:
        columns += [(f"{each}_body", pyarrow.large_binary()) for each in BODIES] + [("output", pyarrow.large_string())]
    return columns


def _row(exchange: Exchange, *, bodies: bool, note: Note) -> dict[str, Any]:
    row = {field.name: typed(field, cell(field, exchange)) for field in FIELDS}
    if bodies:
        row |= {f"{each}_body": raw(exchange, each, note) for each in BODIES} | {"output": output_of(exchange)}
    return row


def typed(field: Field, value: Any) -> Any:
    """A cell as a column of its type takes it."""
    if field.kind != "time" or value is None:
        return value
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return None
    return moment.astimezone(UTC) if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _groups(rows: Iterable[Mapping[str, Any]]) -> Iterable[list[Mapping[str, Any]]]:
    group: list[Mapping[str, Any]] = []
    size = 0
    for row in rows:
        group.append(row)
        size += sum(len(value) for value in row.values() if isinstance(value, str | bytes))
        if len(group) >= ROWS or size >= GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group
