"""Exchanges for other programs: JSON lines, CSV, Parquet, HAR and OpenAI's batch input, one module each.

    export.WRITERS["har"](exchanges, sink, bodies=True, note=print)

Each writer takes exchanges as they come and writes them as they come, so that memory holds one of them (Parquet: one
row group), whatever the journal's size; it returns how many it has written. What cannot be written of one exchange,
such as a body whose file is gone, is told to `note`, and ends nothing. Credentials stay what they are in the journal:
marks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import BinaryIO, Final, Protocol

from extproc.export import batch, flat, har, jsonl, parquet
from extproc.history.join import Exchange


class Writer(Protocol):
    """How a format is written. Raises ExtprocError where it cannot be written here at all."""

    def __call__(
        self, exchanges: Iterable[Exchange], sink: BinaryIO, *, bodies: bool, note: Callable[[str], None]
    ) -> int: ...


WRITERS: Final[Mapping[str, Writer]] = {
    "jsonl": jsonl.write,
    "parquet": parquet.write,
    "csv": flat.write,
    "har": har.write,
    "openai-batch": batch.write,
}
"""By the name of the format."""
