"""Of what the demo engine dies: rules in a small language, as `mock-llm --die-on` takes them.

    RULE       = REQUEST { ("then" | "beside") REQUEST }     the last request kills
    REQUEST    = TERM { "and" TERM }
    TERM       = ["not"] CONDITION
    CONDITION  = PARAMETER                                   it is there
               | PARAMETER ("=" | "!=" | ">" | ">=" | "<" | "<=" | "~") VALUE
               | PARAMETER "is" ("null" | "false" | "empty" | "negative" | "huge" | "text")
               | "@" FACT [OPERATOR VALUE]

A parameter is a path of names with dots; a list on the way is searched in all of its items. A value is JSON where it
is that, else a text; texts and lists are compared with `>` by their length, and `~` takes a regular expression. The
facts are those of `FACTS`. `A then B`: a request like A was begun (or cancelled) earlier in the life of this process;
`A beside B`: one like A is still running.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import operator as operators
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import Enum
from typing import Any, Final

Json = Any

FACTS: Final[Mapping[str, str]] = {
    "path": "the path of the request",
    "body": "its body, as text",
    "bytes": "the size of its body",
    "prompt": "the tokens of its prompt",
    "output": "the tokens that it has been given so far",
    "depth": "how deep its deepest schema is nested",
    "schema": "the bytes of its largest schema",
    "keyword": "a keyword in one of its schemas",
    "tokens": "all tokens in flight, its own among them",
    "running": "requests in flight, itself among them",
    "waited": "the seconds that it has waited for its turn",
    "oldest": "of those without a token, it came first",
    "number": "how many requests this process has begun, itself among them",
    "cancel": "its client has left before the end",
    "chance": "so often by chance, by the seed",
    "same": "this parameter has the value that it had in the earlier request",
}
KINDS: Final = ("null", "false", "empty", "negative", "huge", "text")

_HUGE_NUMBER: Final = 10**9
_HUGE_TEXT: Final = 10_000
_HUGE_LIST: Final = 1_000
_REMEMBERED: Final = 10_000
_SCHEMAS: Final = frozenset({"schema", "json_schema", "parameters", "input_schema", "guided_json", "json"})
_NAMED_BY_USERS: Final = frozenset({"properties", "$defs", "definitions", "patternProperties"})
_WORD: Final = re.compile(r'(?:"(?:[^"\\]|\\.)*"|\S)+')
_CONDITION: Final = re.compile(r"(@?[\w.\[\]$-]+)(?:(!=|>=|<=|=|>|<|~)(.*))?", re.DOTALL)


class Event(Enum):
    """When a rule is looked at: once a request has its turn, at each of its tokens, when its client has left."""

    BEGUN = "begun"
    OUTPUT = "output"
    CANCELLED = "cancelled"


@dataclasses.dataclass(slots=True)
class Asked:
    """One request, as rules see it. What changes while it runs is written by the server."""

    path: str
    raw: bytes
    body: Mapping[str, Json]
    prompt_tokens: int = 0
    id: str = ""
    output_tokens: int = 0
    waited: float = 0.0
    oldest: bool = False
    number: int = 0
    running: int = 1
    tokens: int = 0
    over: bool = False


class RuleError(ValueError):
    """A rule that cannot be read; the text says why."""


_Test = Callable[[Asked, Asked | None], bool]


@dataclasses.dataclass(frozen=True, slots=True)
class _Request:
    """What one request of a rule must be like, and when that is seen."""

    terms: tuple[_Test, ...]
    event: Event

    def fits(self, asked: Asked, earlier: Asked | None) -> bool:
        return all(term(asked, earlier) for term in self.terms)


@dataclasses.dataclass(frozen=True, slots=True)
class Rule:
    """A rule as it was read."""

    text: str
    requests: tuple[_Request, ...]
    beside: tuple[bool, ...]
    """For each request but the last: it must still be running when the next one comes."""


def parse(text: str, seed: int = 0) -> Rule:
    """Read a rule. `RuleError`: it is none."""
    words = _WORD.findall(text)
    if not words:
        raise RuleError("a rule must not be empty")
    groups: list[list[str]] = [[]]
    beside: list[bool] = []
    for word in words:
        if word in ("then", "beside"):
            groups.append([])
            beside.append(word == "beside")
        else:
            groups[-1].append(word)
    return Rule(text, tuple(_request(group, text, seed) for group in groups), tuple(beside))


class Watch:
    """Holds the requests of one process against its rules."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._rules = rules
        self._earlier: list[list[deque[Asked]]] = [
            [deque(maxlen=_REMEMBERED) for _ in rule.requests[1:]] for rule in rules
        ]
        self.of_output = any(each.event is Event.OUTPUT for rule in rules for each in rule.requests)
        """Whether it must be told of each token."""

    def sees(self, event: Event, asked: Asked) -> Rule | None:
        """The rule that is fulfilled by what has just happened to a request."""
        fulfilled = [
            rule
            for rule, earlier in zip(self._rules, self._earlier, strict=True)
            if _fulfils(rule, earlier, event, asked)
        ]
        return fulfilled[0] if fulfilled else None


def _fulfils(rule: Rule, earlier: Sequence[deque[Asked]], event: Event, asked: Asked) -> bool:
    """Whether a request is the last one of a rule; one that is like an earlier one is remembered."""
    for index, request in reversed(list(enumerate(rule.requests))):
        if request.event is not event:
            continue
        candidates: Iterable[Asked | None] = [None]
        if index:
            beside = rule.beside[index - 1]
            candidates = [each for each in earlier[index - 1] if each is not asked and not (beside and each.over)]
        if not any(request.fits(asked, each) for each in candidates):
            continue
        if index == len(rule.requests) - 1:
            return True
        earlier[index].append(asked)
    return False


# Reading -----------------------------------------------------------------------------------------------------------


def _request(words: Sequence[str], rule: str, seed: int) -> _Request:
    terms: list[_Test] = []
    event = Event.BEGUN
    for term in _split(words, "and"):
        wanted = term[:1] != ["not"]
        test, when = _condition(term if wanted else term[1:], rule, seed)
        terms.append(test if wanted else _not(test))
        event = when if when is not Event.BEGUN else event
    return _Request(tuple(terms), event)


def _split(words: Sequence[str], between: str) -> Iterator[list[str]]:
    group: list[str] = []
    for word in words:
        if word == between:
            yield group
            group = []
        else:
            group.append(word)
    yield group


def _not(test: _Test) -> _Test:
    return lambda asked, earlier: not test(asked, earlier)


def _condition(words: Sequence[str], rule: str, seed: int) -> tuple[_Test, Event]:
    match words:
        case [name, "is", kind] if kind in KINDS and not name.startswith("@"):
            return _there(name, lambda value: _is(kind, value)), Event.BEGUN
        case [word] if (found := _CONDITION.fullmatch(word)) is not None:
            name, operator, value = found[1], found[2] or "", found[3] or ""
            if name.startswith("@"):
                return _fact(name[1:], operator, value, rule, seed)
            return _there(name, _comparison(operator, value)), Event.BEGUN
    raise RuleError(f"cannot read {' '.join(words)!r} in {rule!r}")


def _there(name: str, test: Callable[[Json], bool]) -> _Test:
    names = [each.removesuffix("[]") for each in name.split(".")]
    return lambda asked, _: any(test(value) for value in values(asked.body, names))


def values(document: Json, names: Sequence[str]) -> Iterator[Json]:
    """What stands at a path, in all items of the lists on the way and at its end, and the list at its end itself."""
    if isinstance(document, list):
        if not names:
            yield document
        for item in document:
            yield from values(item, names)
    elif not names:
        yield document
    elif isinstance(document, dict) and names[0] in document:
        yield from values(document[names[0]], names[1:])


def _comparison(operator: str, text: str) -> Callable[[Json], bool]:
    wanted = _value(text)
    match operator:
        case "":
            return lambda _: True
        case "=":
            return lambda value: _equal(value, wanted)
        case "!=":
            return lambda value: not _equal(value, wanted)
        case "~":
            try:
                pattern = re.compile(wanted if isinstance(wanted, str) else text)
            except re.error as error:
                raise RuleError(f"{text!r} is no regular expression: {error}") from None
            return lambda value: isinstance(value, str) and pattern.search(value) is not None
    if isinstance(wanted, bool) or not isinstance(wanted, int | float):
        raise RuleError(f"{operator} needs a number, not {text!r}")
    limit: float = wanted
    compare = _COMPARE[operator]
    return lambda value: (size := _size(value)) is not None and compare(size, limit)


_COMPARE: Final[Mapping[str, Callable[[float, float], bool]]] = {
    ">": operators.gt,
    ">=": operators.ge,
    "<": operators.lt,
    "<=": operators.le,
}


def _value(text: str) -> Json:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _equal(value: Json, wanted: Json) -> bool:
    return bool(value == wanted) and isinstance(value, bool) == isinstance(wanted, bool)


def _size(value: Json) -> float | None:
    if isinstance(value, bool) or value is None:
        return None
    return value if isinstance(value, int | float) else len(value)


def _is(kind: str, value: Json) -> bool:
    match kind:
        case "null":
            return value is None
        case "false":
            return value is False
        case "empty":
            return isinstance(value, str | list | dict) and not value
        case "text":
            return isinstance(value, str)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number:
        return bool(value < 0 if kind == "negative" else abs(value) >= _HUGE_NUMBER)
    if kind == "negative":
        return False
    return isinstance(value, str | list) and len(value) >= (_HUGE_TEXT if isinstance(value, str) else _HUGE_LIST)


# Facts -------------------------------------------------------------------------------------------------------------


def _fact(name: str, operator: str, text: str, rule: str, seed: int) -> tuple[_Test, Event]:
    if name not in FACTS:
        raise RuleError(f"there is no fact @{name}; there are {', '.join('@' + each for each in FACTS)}")
    if name in ("oldest", "cancel"):
        if operator:
            raise RuleError(f"@{name} takes no value")
        return (lambda asked, _: asked.oldest or name == "cancel"), Event.CANCELLED if name == "cancel" else Event.BEGUN
    if not operator:
        raise RuleError(f"@{name} needs an operator and a value")
    if name == "chance":
        return _by_chance(_share(text), rule, seed), Event.BEGUN
    if name == "same":
        return _same(text), Event.BEGUN
    test = _comparison(operator, text)
    event = Event.OUTPUT if name == "output" else Event.BEGUN
    return (lambda asked, _: any(test(value) for value in _facts(name, asked))), event


def _facts(name: str, asked: Asked) -> Iterator[Json]:
    match name:
        case "path":
            yield asked.path
        case "body":
            yield asked.raw.decode("utf-8", "replace")
        case "bytes":
            yield len(asked.raw)
        case "prompt":
            yield asked.prompt_tokens
        case "output":
            yield asked.output_tokens
        case "depth":
            yield max((_depth(each) for each in schemas(asked.body)), default=0)
        case "schema":
            yield max((len(json.dumps(each)) for each in schemas(asked.body)), default=0)
        case "keyword":
            for each in schemas(asked.body):
                yield from _keywords(each)
        case _:
            yield getattr(asked, name)


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise RuleError(f"@chance needs a number from 0 to 1, not {text!r}")
    return share


def _by_chance(share: float, rule: str, seed: int) -> _Test:
    def test(asked: Asked, _: Asked | None) -> bool:
        drawn = hashlib.sha256(f"{seed} {rule} {asked.number}".encode() + asked.raw).digest()
        return int.from_bytes(drawn[:8], "big") < share * 2**64

    return test


def _same(name: str) -> _Test:
    names = name.split(".")

    def test(asked: Asked, earlier: Asked | None) -> bool:
        before = list(values(earlier.body, names)) if earlier is not None else []
        return bool(before) and before == list(values(asked.body, names))

    return test


def schemas(document: Json) -> Iterator[Mapping[str, Json]]:
    """The JSON schemas in a request, by the names of the members that hold them."""
    stack = [document]
    while stack:
        node = stack.pop()
        if isinstance(node, list):
            stack.extend(node)
        elif isinstance(node, dict):
            for key, inner in node.items():
                if key in _SCHEMAS and isinstance(inner, dict) and not isinstance(inner.get("schema"), dict):
                    yield inner
                else:
                    stack.append(inner)


def _depth(document: Json) -> int:
    deepest, stack = 0, [(1, document)]
    while stack:
        depth, node = stack.pop()
        if isinstance(node, dict | list):
            deepest = max(deepest, depth)
            stack.extend((depth + 1, inner) for inner in (node.values() if isinstance(node, dict) else node))
    return deepest


def _keywords(schema: Json) -> Iterator[str]:
    stack: list[tuple[Json, bool]] = [(schema, True)]
    while stack:
        node, keywords = stack.pop()
        if isinstance(node, list):
            stack.extend((each, True) for each in node)
        elif isinstance(node, dict):
            if keywords:
                yield from node
            stack.extend((inner, not keywords or key not in _NAMED_BY_USERS) for key, inner in node.items())
