"""What people call an exchange by: our id, or one that Envoy or the model server knows it by.

Ours may be given whole, by its beginning, or by its end. The others are given whole: `x-request-id`, the id in the
response, or what stands in the engine's own log. vLLM makes the last two of the first, with the kind of request
before it, and in its log with the number of a choice or prompt and a few random digits around it:

    chatcmpl-7398a14e-d072-4fb5-9858-8331ce637b73               a chat
    1_chatcmpl-7398a14e-d072-4fb5-9858-8331ce637b73-9d3f0c2b    its second choice
    cmpl-7398a14e-d072-4fb5-9858-8331ce637b73-0                 the first prompt of a completion
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Self

from extproc.core.joined import NO_LLM, Exchange
from extproc.core.llm import response_llm
from extproc.core.records import AnyRecord, Response, id_of
from extproc.journal.flight import type_and_id

SHORTEST: Final = 6
"""Fewer characters of an id's random end, or of an id that is not ours, name too many exchanges."""

_ID: Final = re.compile(r"[!#-\[\]-~]+")
"""Characters that JSON does not escape."""
_CHOICE: Final = re.compile(r"\A[0-9]+_")
_KIND: Final = re.compile(r"\A[A-Za-z]+[-_]")
_RANDOM: Final = re.compile(r"-[0-9a-f]{8}\Z")
_NUMBER: Final = re.compile(r"[-_][0-9]+\Z")


@dataclass(frozen=True, slots=True)
class Identifier:
    """One text, and the ids that it may stand for."""

    own: str
    """Ours, or its beginning or end."""
    others: frozenset[str]
    """Envoy's or the model server's."""
    core: bytes
    """What is common to `others`: a line without it has none of them in clear. Empty when there are none."""

    @classmethod
    def of(cls, text: str) -> Self:
        """What a person has typed or copied."""
        text = text.strip()
        others = sorted(_meanings(text), key=len) if len(text) >= SHORTEST and _ID.fullmatch(text) else []
        return cls(text.lower(), frozenset(others), others[0].encode() if others else b"")

    def begins(self, id: str) -> bool:
        """Whether an id of ours begins so."""
        return id.startswith(self.own)

    def is_ours(self, id: str) -> bool:
        """Whether an id of ours is this one, or begins or ends so."""
        return self.begins(id) or (len(self.own) >= SHORTEST and id.endswith(self.own))

    def names(self, exchange: Exchange) -> bool:
        """Whether it is this exchange's, by any of its ids."""
        by_others = exchange.request_id, (exchange.llm or NO_LLM).response_id
        return self.is_ours(exchange.id) or not self.others.isdisjoint(by_others)

    def may_name(self, line: bytes) -> bool:
        """Whether a journal's line is worth being decoded for `names_record`. Quick: it is asked of every line."""
        if self.core and self.core in line:
            return True
        type, id = type_and_id(line)
        return self.is_ours(id) or (bool(self.core) and type == "response" and b'"base64":"' in line)

    def names_record(self, record: AnyRecord) -> bool:
        """Whether it is the exchange's to which this record belongs, as far as the record tells."""
        if self.is_ours(str(id_of(record))) or getattr(record, "request_id", None) in self.others:
            return True
        llm = response_llm(record) if isinstance(record, Response) and self.others else None
        return llm is not None and llm.response_id in self.others


def _meanings(text: str) -> Iterator[str]:
    """The text itself, and what is left of it without the parts that an engine's log has beside an id."""
    for before in (text, _CHOICE.sub("", text)):
        for without_random in (before, _RANDOM.sub("", before)):
            for id in (without_random, _NUMBER.sub("", without_random)):
                yield from filter(None, (id, _KIND.sub("", id)))
