"""What only the bodies of an exchange tell, and the index keeps beside its row: what the request asks for, how the
backend failed.

The search for a backend's death counts what requests ask for (`incidents/atoms.py`), and must not read every body again
for that. Who makes the index says how it is read (`Reader`); an index that was made without one has nothing of it, and
whoever asks reads the exchange from the journal.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

from extproc.core import joined
from extproc.core.records import AnyRecord, Request, RequestLlm, Response
from extproc.history.join import Exchange

Atoms = Mapping[str, str]
"""What a request asks for: at each place, what stands there."""

MOST_CHARACTERS = 300
"""Of a message; of one that is longer nothing is kept."""


class Reader(Protocol):
    """Reads records with their bodies. Nothing is raised, whatever they hold."""

    def asked(self, request: Request, llm: RequestLlm | joined.Llm | None, directory: Path) -> Atoms:
        """`llm`: what the record says of a model's API, as it was written or read from the body."""
        ...

    def failed(self, response: Response, directory: Path) -> str:
        """The backend's words on its error, at the end of its answer; empty where there are none."""
        ...


class Told(NamedTuple):
    """Of one exchange; None where nobody has read it."""

    atoms: Atoms | None = None
    message: str | None = None

    def with_record(
        self, record: AnyRecord, llm: RequestLlm | joined.Llm | None, reader: Reader, directory: Path
    ) -> Told:
        """The same with what one more record tells."""
        match record:
            case Request():
                return self._replace(atoms=reader.asked(record, llm, directory))
            case Response():
                return self._replace(message=reader.failed(record, directory))
        return self


NOTHING = Told()


def of(exchange: Exchange, reader: Reader | None) -> Told:
    """What an exchange that has its bodies tells."""
    told = NOTHING
    if reader is not None:
        for record in exchange.records.values():
            told = told.with_record(record, exchange.llm, reader, exchange.directory)
    return told
