"""What only the bodies of an exchange tell, and the index keeps beside its row: what the request asks for, how its
conversation began, how the backend failed.

The search for a backend's death counts what requests ask for (`incidents/atoms.py`), and must not read every body again
for that. Who makes the index says how it is read (`Reader`); an index that was made without one has nothing of it, and
whoever asks reads the exchange from the journal.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from extproc.core import joined
from extproc.core.outcome import decide, outcome_class
from extproc.core.records import Request, RequestLlm, Response
from extproc.history.join import Exchange

Atoms = Mapping[str, str]
"""What a request asks for: at each place, what stands there."""

CONSTRAINT: Final = re.compile(
    r"(response_format|structured_outputs|guided_|grammar|json_schema|regex|ebnf|tools|tool_choice|functions|text\.format)"
)
"""The places at which a request constrains the form of its answer."""
MOST_CHARACTERS = 300
"""Of a message; of one that is longer nothing is kept."""


def constrains(places: Iterable[str]) -> bool:
    """Whether one of these is such a place."""
    return any(map(_is_constraint, places))


@lru_cache(maxsize=4096)
def _is_constraint(place: str) -> bool:
    return CONSTRAINT.match(place) is not None


class Asked(NamedTuple):
    """Of a request."""

    atoms: Atoms
    conversation: bytes | None = None
    """`conversation.beginning`."""


class Reader(Protocol):
    """Reads records with their bodies. Nothing is raised, whatever they hold."""

    def asked(self, request: Request, llm: RequestLlm | joined.Llm | None, directory: Path) -> Asked:
        """`llm`: what the record says of a model's API, as it was written or read from the body."""
        ...

    def failed(self, response: Response, directory: Path) -> str:
        """The backend's words on its error, at the end of its answer; empty where there are none."""
        ...


class Told(NamedTuple):
    """Of one exchange; None where nobody has read it."""

    atoms: Atoms | None = None
    message: str | None = None
    conversation: bytes | None = None

    def having(self, asked: Asked) -> Told:
        """The same with what the request asks for."""
        return self._replace(atoms=asked.atoms, conversation=asked.conversation)


NOTHING = Told()


def may_have_failed(response: Response) -> bool:
    """Whether it is worth reading what the backend said of its error: by the answer alone, with its `llm`. One that
    nothing but Envoy's entry says to have failed is read from the journal by whoever asks."""
    return outcome_class(decide(response, None), response.status, response.grpc_status) != "ok"


def of(exchange: Exchange, reader: Reader | None) -> Told:
    """What an exchange that has its bodies tells."""
    if reader is None:
        return NOTHING
    request, response = exchange.records.get("request"), exchange.records.get("response")
    found = NOTHING
    if isinstance(request, Request):
        found = found.having(reader.asked(request, exchange.llm, exchange.directory))
    if not isinstance(response, Response) or exchange.class_ == "ok":
        return found
    return found._replace(message=reader.failed(response, exchange.directory))
