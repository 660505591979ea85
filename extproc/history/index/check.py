"""The index held against the journal, which is the truth."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from extproc.history import reader
from extproc.history.index import row, schema
from extproc.history.index.query import Index
from extproc.history.index.tail import Tail
from extproc.history.join import Exchange


def differences(index: Index, tail: Tail, looked: Callable[[int], None] = lambda _: None) -> Iterator[str]:
    """What the index says otherwise than the journal, a line for each exchange. `looked` hears how many were read."""
    recent = {exchange["id"] for exchange in tail.ended}
    matched = 0
    for count, exchange in enumerate(reader.exchanges([index.directory]), 1):
        looked(count)
        if exchange.in_flight:
            continue
        stored = index.stored(exchange["id"])
        if stored is not None:
            matched += 1
            if difference := _difference(exchange, stored, index.words):
                yield f"{exchange['id']}: {difference}"
        elif exchange["id"] not in recent:
            yield f"{exchange['id']}: it is in the journal and not in the index"
    if more := index.count() - matched:
        yield f"the index has {more} exchanges that the journal has not"


def _difference(exchange: Exchange, stored: Any, words: dict[int, str]) -> str | None:
    """The first column that says something else."""
    expected = dict(zip(schema.COLUMNS, row.values(exchange, lambda text: text, 0, b""), strict=True))
    for name in schema.COLUMNS:
        found = stored[name]
        if name in schema.WORDS:
            found = None if found is None else words.get(found, "a word that is none")
        if name in ("segment", "positions"):
            continue
        if found != expected[name] and bool(stored["whole"]):
            return f"{name} is {found!r} in the index, and {expected[name]!r} in the journal"
    if sorted(stored["positions"]) != sorted(exchange.positions):
        return "its records stand elsewhere"
    return None
