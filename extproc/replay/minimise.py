"""The smallest request that still kills, as a function of "does this document kill?".

    smallest = minimise(document, kills, hints=["response_format"], most_kills=12)

What does not kill costs a moment, what does costs a restart. So it begins at the small end: the model and one word,
and one of the request's own members beside them, those that the evidence names first. Only where no member or two do
it, the whole request is taken apart: members are dropped by halves. What is left is made smaller value by value:
dropped, set to its default, halved; structure before texts, and the messages last.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations, islice
from typing import Any, Final

Document = Mapping[str, Any]
Kills = Callable[[Document], bool]

WORD: Final = "Hi"
CONTENT: Final[Mapping[str, Any]] = {
    "messages": [{"role": "user", "content": WORD}],
    "prompt": WORD,
    "input": WORD,
}
"""What the model is to read, at its smallest. A request has one of these, and is none without it."""
_KEPT: Final = ("model", *CONTENT)
_MOST_PAIRS: Final = 45
_SHORT: Final = 24


class _SpentError(Exception):
    """There were as many kills as it was allowed."""


class _Budget:
    """Asks, never twice the same, and counts what killed."""

    def __init__(self, kills: Kills, most: int) -> None:
        self._kills = kills
        self._left = most
        self._known: dict[str, bool] = {}

    def kills(self, document: Document) -> bool:
        key = json.dumps(document, sort_keys=True)
        if key not in self._known:
            if self._left <= 0:
                raise _SpentError
            self._known[key] = self._kills(document)
            self._left -= self._known[key]
        return self._known[key]


def minimise(document: Document, kills: Kills, hints: Sequence[str] = (), most_kills: int = 12) -> Document:
    """The smallest document found, the given one at worst. `hints`: members that the evidence names, in order."""
    budget = _Budget(kills, most_kills)
    best: list[Document] = [document]
    try:
        best[0] = _from_the_small_end(document, budget, hints) or _fewer_members(document, budget)
        for smaller in iter(lambda: _smaller(best[0], budget), None):
            best[0] = smaller
    except _SpentError:
        pass
    return best[0]


def _from_the_small_end(document: Document, budget: _Budget, hints: Sequence[str]) -> Document | None:
    """The smallest request of this kind with none, one or two of the document's own members; None: these are not
    enough."""
    base = _base(document)
    others = [name for name in dict.fromkeys([*hints, *document]) if name in document and name not in _KEPT]
    own = [name for name in document if name in CONTENT and document[name] != CONTENT[name]]
    singles = [(), *((name,) for name in others), *((name,) for name in own)]
    pairs = islice(combinations([*others, *own], 2), _MOST_PAIRS)
    for names in (*singles, *pairs):
        small = _with(base, document, names)
        if budget.kills(small):
            return small
    return None


def _base(document: Document) -> Document:
    return {name: CONTENT.get(name, document[name]) for name in document if name in _KEPT}


def _with(base: Document, document: Document, names: Sequence[str]) -> Document:
    """The base and some members, in the document's own order."""
    return {name: document[name] if name in names else base[name] for name in document if name in names or name in base}


def _fewer_members(document: Document, budget: _Budget) -> Document:
    """The document without the members that it kills without: by halves, quarters, ..., one by one."""
    names = [name for name in document if name not in _KEPT]
    size = max(len(names) // 2, 1)
    while names:
        for start in range(0, len(names), size):
            rest = names[:start] + names[start + size :]
            if budget.kills(_only(document, rest)):
                names = rest
                break
        else:
            if size == 1:
                break
            size = (size + 1) // 2
            continue
        size = max(min(size, len(names) // 2), 1)
    return _only(document, names)


def _only(document: Document, names: Sequence[str]) -> Document:
    return {name: value for name, value in document.items() if name in _KEPT or name in names}


def _smaller(document: Document, budget: _Budget) -> Document | None:
    """The document with one value smaller, so that it still kills; None: there is no such."""
    return next((each for each in smaller_documents(document) if budget.kills(each)), None)


def smaller_documents(document: Document) -> Iterator[Document]:
    """Every document that is one step smaller: structure first, then texts and numbers, the content last."""
    structure = [name for name in document if name not in _KEPT]
    content = [name for name in document if name in CONTENT]
    for steps in (_less_structure, _less_text):
        for name in structure:
            yield from ({**document, name: each} for each in steps(document[name]))
    for name in content:
        if document[name] != CONTENT[name]:
            yield {**document, name: CONTENT[name]}
            for steps in (_less_structure, _less_text):
                yield from ({**document, name: each} for each in steps(document[name]))


def _less_structure(value: Any) -> Iterator[Any]:
    """A value without a half, a quarter, ... of its members or items, or with less in one of them."""
    match value:
        case dict():
            for some in _parts(list(value)):
                yield {key: inner for key, inner in value.items() if key not in some}
            yield from ({**value, key: each} for key, inner in value.items() for each in _less_structure(inner))
        case list():
            for some in _parts(range(len(value))):
                yield [inner for index, inner in enumerate(value) if index not in some]
            for index, inner in enumerate(value):
                yield from ([*value[:index], each, *value[index + 1 :]] for each in _less_structure(inner))


def _parts(items: Sequence[Any]) -> Iterator[set[Any]]:
    """What to leave out: halves, quarters, ..., single ones; never everything, which is another kind of value."""
    size = (len(items) + 1) // 2
    while size and len(items) > 1:
        yield from (set(items[start : start + size]) for start in range(0, len(items), size))
        size = size // 2


def _less_text(value: Any) -> Iterator[Any]:
    """A value with a number in it halved, or a text cut at either end."""
    match value:
        case bool() | None:
            return
        case int() if abs(value) > 1:
            yield from dict.fromkeys((1, int(value / 2)))
        case str() if len(value) > _SHORT:
            for share in (2, 4, 8):
                yield from (value[: len(value) - len(value) // share], value[len(value) // share :])
        case dict():
            yield from ({**value, key: each} for key, inner in value.items() for each in _less_text(inner))
        case list():
            for index, inner in enumerate(value):
                yield from ([*value[:index], each, *value[index + 1 :]] for each in _less_text(inner))


def masked(document: Document) -> Document:
    """The document with every letter and digit of what the model reads as an x: its length and its bytes stay."""
    return {name: _masked(value) if name in CONTENT else value for name, value in document.items()}


_STRUCTURAL: Final = frozenset({"role", "type", "id", "name", "tool_call_id"})


def _masked(value: Any) -> Any:
    match value:
        case str():
            return "".join("x" if each.isascii() and each.isalnum() else each for each in value)
        case list():
            return [_masked(each) for each in value]
        case dict():
            return {key: inner if key in _STRUCTURAL else _masked(inner) for key, inner in value.items()}
    return value
