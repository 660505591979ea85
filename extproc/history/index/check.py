"""The index held against the journal, which is the truth."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from extproc.history import reader
from extproc.history.index import row, schema, served, told
from extproc.history.index.query import Index
from extproc.history.index.tail import Tail
from extproc.history.join import Exchange


def differences(
    index: Index,
    tail: Tail,
    looked: Callable[[int], None] = lambda _: None,
    reader_of_bodies: told.Reader | None = None,
) -> Iterator[str]:
    """What the index says otherwise than the journal, a line for each exchange. `looked` hears how many were read;
    what bodies tell is compared where there is somebody who reads them."""
    recent = {exchange.id for exchange in tail.ended}
    matched = 0
    for count, exchange in enumerate(reader.exchanges([index.directory]), 1):
        looked(count)
        if exchange.in_flight:
            continue
        stored = index.stored(exchange.id)
        if stored is not None:
            matched += 1
            if difference := _difference(exchange, stored, index, reader_of_bodies):
                yield f"{exchange.id}: {difference}"
        elif exchange.id not in recent:
            yield f"{exchange.id}: it is in the journal and not in the index"
    if index.is_miscounted():
        yield "what backends have served is counted otherwise than its rows say"
    if more := index.count() - matched:
        yield f"the index has {more} exchanges that the journal has not"


def _difference(exchange: Exchange, stored: Any, index: Index, reader: told.Reader | None) -> str | None:
    """The first column that says something else."""
    heard = told.of(exchange, reader)
    kept = index.atoms(stored["asked"])
    bits = served.of(exchange, constrained=told.constrains(kept or ()))
    made = row.values(exchange, _Themselves(), (0, b""), heard, served=bits)
    expected = dict(zip(schema.COLUMNS, made, strict=True))
    for name in schema.COLUMNS if stored["whole"] else ():
        found = stored[name]
        if name in schema.WORDS:
            found = None if found is None else index.words.get(found, "a word that is none")
        if name in _ELSEWHERE or (name in _OF_BODIES and None in (found, reader)):
            continue
        if found != expected[name]:
            return f"{name} is {found!r} in the index, and {expected[name]!r} in the journal"
    if sorted(stored["positions"]) != sorted(exchange.positions):
        return "its records stand elsewhere"
    if reader is not None and kept is not None and kept != heard.atoms:
        return "what it asks for is something else in the journal"
    return None


class _Themselves(dict[str | None, int | str | None]):
    """Texts, as they stand for themselves."""

    def __missing__(self, text: str | None) -> str | None:
        return text if row.holds(text) else None


_ELSEWHERE: Final = frozenset({"segment", "positions", "asked"})
_OF_BODIES: Final = frozenset({"message", "conversation"})
