"""The exchanges of a journal for the search for a backend's death, out of its index as far as that tells enough.

    index = Indexer(directory, reader=Bodies())      # who makes the index keeps what bodies tell
    with Answers(directories) as asked:
        found = incident.incidents(flights(asked))   # the same as from a scan of all of the journal, sooner
    for each, times in kinds(index):                 # base rates without any of that, the tail left out:
        base.add(each, times)                        # (`rank.Base`; only what was served counts there)

Only what ended in a way that the columns cannot tell is read from the journal: orphans, errors whose message was not
kept, rows that are not whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from msgspec import structs

from extproc.core.joined import NO_LLM, ExchangeRequest, Llm
from extproc.core.outcome import Outcome
from extproc.core.records import Request, RequestDirection, RequestLlm, Response, ResponseDirection
from extproc.errors import JournalError
from extproc.history import bodies
from extproc.history.answers import Answers
from extproc.history.index.query import Found, Index
from extproc.history.join import Exchange
from extproc.incidents import atoms, evidence
from extproc.incidents.evidence import Flight, Known

_BEGINNING: Final = "1970-01-01T00:00:00.000000Z"
_NOTHING: Final[dict[str, Any]] = dict.fromkeys(Exchange.__struct_fields__)
_BEGUN: Final[dict[str, Any]] = {"id": "", "started_at": _BEGINNING, "upstream": "-"}
_ANY: Final = Exchange(**_NOTHING | _BEGUN | {"request": ExchangeRequest(bytes=0)})
_ORPHAN: Final = Outcome.SIDECAR_RESTART_ORPHAN.value


class Bodies:
    """Reads what the index keeps of bodies (`history/index/told.py`), as `evidence.flights` reads it from exchanges."""

    def asked(self, request: Request, llm: RequestLlm | Llm | None, directory: Path) -> atoms.Atoms:
        """The atoms of a request."""
        size = (request.request and request.request.bytes) or 0
        content = _body(request.request, directory) if size <= atoms.MOST_BYTES else None
        return atoms.of(request.path or "", content, llm and llm.params, size)

    def failed(self, response: Response, directory: Path) -> str:
        """The message at the end of an answer."""
        return evidence.message_of(_body(response.response, directory) or b"")


def _body(passed: RequestDirection | ResponseDirection | None, directory: Path) -> bytes | None:
    try:
        return None if passed is None or passed.body is None else b"".join(bodies.pieces_of(passed.body, directory))
    except JournalError:
        return None


def flights(asked: Answers) -> Iterator[Flight]:
    """What all exchanges say of their backends."""
    for found in asked.rows():
        known = _known(found)
        if known is not None:
            yield from evidence.flights(found.exchange, _unread, known)
        elif (exchange := asked.whole(found)) is not None:
            yield from evidence.flights(exchange, evidence.recorded_body)


def kinds(index: Index) -> Iterator[tuple[Flight, int]]:
    """What has rows in an index, counted: one that stands for all that asked for the same of a model and ended alike,
    without what each alone had (id, times, upstream, body), and how many there are."""
    for each in index.counts():
        first = 0.0 if each.had_token else None
        llm = structs.replace(NO_LLM, model=each.model, fingerprint=each.fingerprint, ttft_ms=first)
        found: Exchange = structs.replace(_ANY, outcome=each.outcome, status=each.status, llm=llm)
        for flight in evidence.flights(found, _unread, Known(each.atoms, "", streamed=False)):
            yield flight, each.times


def _known(found: Found) -> Known | None:
    """What is known of the bodies; None where the exchange must be read for it."""
    exchange = found.exchange
    if found.is_complete or exchange.outcome == _ORPHAN or (exchange.request and found.told.atoms is None):
        return None
    if found.told.message is None and exchange.class_ != "ok":
        return None
    return Known(found.told.atoms, found.told.message or "", found.streamed)


def _unread(_: Exchange, __: str) -> bytes | None:
    return None
