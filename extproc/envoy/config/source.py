"""YAML files, read with the place of everything in them.

A place is where a person has to look: file, line and column, both from 1. It is found by the path of a value in its
document, `("resources", 0, "name")`. Between a file and its value are YAML's nodes, which know where they stand: there
`overlay` lays one file over others.

What a scalar is, is Envoy's word and not PyYAML's: `y` and `off` are truth values, `010` is 8, but `1.10`, `1e3`,
`2020-01-01`, `1:30` and whole numbers beyond 32 bits are strings. Tags count for nothing.
"""

from __future__ import annotations

import dataclasses
import io
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import yaml

from extproc.errors import ConfigError

Pointer = tuple[str | int, ...]
"""The way to a value from the top of its document: names of members, and indexes in lists."""

_NODES_AT_MOST: Final = 200_000
"""An alias stands for all that it names: a few lines of them could be millions of values."""

_LOADER: Final[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_DEPTH_AT_MOST: Final = 100
"""The shipped files go 20 deep. libyaml's composer ends the process at some ten thousand."""

_MERGE: Final = "tag:yaml.org,2002:merge"
_STRING: Final = "tag:yaml.org,2002:str"


def _cases(*words: str) -> frozenset[str]:
    return frozenset(each for word in words for each in (word, word.capitalize(), word.upper()))


_NULLS: Final = _cases("null") | {"", "~"}
_TRUE: Final = _cases("y", "yes", "true", "on")
_FALSE: Final = _cases("n", "no", "false", "off")
_WHOLE: Final = re.compile(r"([+-]?)(0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*)")
_FRACTION: Final = re.compile(r"-?[0-9]{1,15}\.[0-9]{1,15}")
_SHORT: Final = range(-(2**31), 2**31)
_LONG: Final = range(-(2**63), 2**63)


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where something stands. As text `FILE:LINE:COLUMN`."""

    file: str
    line: int = 1
    column: int = 1

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


class Places:
    """The places of the values of one document, and of the names of its members."""

    def __init__(self, file: str) -> None:
        self._top = Place(file)
        self._values: dict[Pointer, Place] = {}
        self._names: dict[Pointer, Place] = {}
        self._stood: Mapping[Pointer, Pointer] = {}

    def add(self, path: Pointer, value: Place, name: Place | None = None) -> None:
        self._values[path] = value
        if name is not None:
            self._names[path] = name

    def moved(self, stood: Mapping[Pointer, Pointer]) -> Places:
        """These places for a value of another form: `stood` says of a path where that, with all in it, is here."""
        if not stood:
            return self
        places = Places(self._top.file)
        places._values, places._names = self._values, self._names
        places._stood = {new: self._here(old) for new, old in stood.items()}
        return places

    def _here(self, path: Pointer) -> Pointer:
        for end in range(len(path), -1, -1):
            if path[:end] in self._stood:
                return (*self._stood[path[:end]], *path[end:])
        return path

    def of(self, path: Pointer) -> Place:
        """The place of a value; of what holds it, when it stands in no file itself."""
        path = self._here(path)
        for end in range(len(path), -1, -1):
            place = self._values.get(path[:end])
            if place is not None:
                return place
        return self._top

    def of_name(self, path: Pointer) -> Place:
        """The place of a member's name."""
        return self._names.get(self._here(path)) or self.of(path)


@dataclasses.dataclass(frozen=True, slots=True)
class Source:
    """One file: the value in it, and where everything stands."""

    value: Any
    places: Places


class SyntaxProblem(ConfigError):
    """A file that is no YAML, or that says a thing twice."""

    def __init__(self, place: Place, text: str) -> None:
        super().__init__(f"{place}: {text}")
        self.place = place
        self.text = text


def parse(data: bytes, file: str) -> Source:
    """The value of one YAML document, which is a mapping. Raises SyntaxProblem."""
    return build(compose(data, file), file)


def build(node: yaml.MappingNode, file: str) -> Source:
    """The value of a document's node. Raises SyntaxProblem."""
    places = Places(file)
    try:
        return Source(_Builder(places).build(node, ()), places)
    except RecursionError:
        raise SyntaxProblem(Place(file), "nested too deeply, by aliases") from None


class _Named(io.BytesIO):
    """YAML's marks carry the name of what is read."""

    def __init__(self, data: bytes, name: str) -> None:
        super().__init__(data)
        self.name = name


def compose(data: bytes, file: str) -> yaml.MappingNode:
    """The node of one YAML document, which is a mapping. Raises SyntaxProblem."""
    try:
        _refuse_deep(data, file)
        node = yaml.compose(_Named(data, file), Loader=_LOADER)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Place(file) if mark is None else place_of_mark(mark, file)
        raise SyntaxProblem(place, f"not YAML: {error.problem or error.context}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SyntaxProblem(Place(file), f"not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(node, yaml.MappingNode):
        place = Place(file) if node is None else place_of_mark(node.start_mark)
        raise SyntaxProblem(place, "expected a mapping, as in the shipped file")
    mappings = _mappings(node)
    for mapping in mappings:
        _refuse_twice(mapping)
    written_out: set[int] = set()
    for mapping in mappings:
        _write_out(mapping, written_out)
    return node


def place_of_mark(mark: Any, file: str | None = None) -> Place:
    """Where YAML's mark points."""
    return Place(file or mark.name, mark.line + 1, mark.column + 1)


def _refuse_deep(data: bytes, file: str) -> None:
    """What would be endless, or ends the process, when nodes are made of it."""
    anchors: list[str | None] = []
    for event in yaml.parse(_Named(data, file), Loader=_LOADER):
        if isinstance(event, yaml.CollectionStartEvent):
            anchors.append(event.anchor)
            if len(anchors) > _DEPTH_AT_MOST:
                raise SyntaxProblem(place_of_mark(event.start_mark), f"nested more than {_DEPTH_AT_MOST} deep")
        elif isinstance(event, yaml.CollectionEndEvent):
            anchors.pop()
        elif isinstance(event, yaml.AliasEvent) and event.anchor in anchors:
            raise SyntaxProblem(place_of_mark(event.start_mark), f"the alias *{event.anchor} stands in what it names")


def _mappings(top: yaml.Node) -> list[yaml.MappingNode]:
    """Every mapping once, however many aliases name it."""
    found: dict[int, yaml.Node] = {}
    waiting: list[yaml.Node] = [top]
    while waiting:
        node = waiting.pop()
        if id(node) in found:
            continue
        found[id(node)] = node
        if isinstance(node, yaml.SequenceNode):
            waiting += node.value
        elif isinstance(node, yaml.MappingNode):
            waiting += (value for _, value in node.value)
    return [node for node in found.values() if isinstance(node, yaml.MappingNode)]


def _refuse_twice(mapping: yaml.MappingNode) -> None:
    """A name that stands twice in a mapping; YAML forbids it, and the parser would take the last without a word."""
    first: dict[str, yaml.Node] = {}
    for key, _ in mapping.value:
        if not isinstance(key, yaml.ScalarNode):
            raise SyntaxProblem(place_of_mark(key.start_mark), "expected a name before the colon")
        if key.value in first and key.tag != _MERGE:
            line = first[key.value].start_mark.line + 1
            text = f"{key.value} stands here a second time; first in line {line}"
            raise SyntaxProblem(place_of_mark(key.start_mark), text)
        first[key.value] = key


def _write_out(mapping: yaml.MappingNode, done: set[int]) -> None:
    """Put the members of what a `<<` names in its place. The mapping's own count before them, the first before others.

    PyYAML's own way writes each as often as it is named, which a few lines of names can make billions.
    """
    if id(mapping) in done:
        return
    done.add(id(mapping))
    merged: dict[str, tuple[yaml.Node, yaml.Node]] = {}
    own = {key.value: (key, value) for key, value in mapping.value if key.tag != _MERGE}
    for _, named in ((key, value) for key, value in mapping.value if key.tag == _MERGE):
        for each in named.value if isinstance(named, yaml.SequenceNode) else [named]:
            if not isinstance(each, yaml.MappingNode):
                raise SyntaxProblem(place_of_mark(each.start_mark), "expected a mapping, or a list of them, after <<")
            _write_out(each, done)
            merged = {key.value: (key, value) for key, value in each.value} | merged
    mapping.value = list((merged | own).values())


class _Builder:
    """Python's values from YAML's nodes. What is named by an alias becomes a value of its own each time."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._left = _NODES_AT_MOST

    def build(self, node: yaml.Node, path: Pointer, name: Place | None = None) -> Any:
        place = place_of_mark(node.start_mark)
        self._left -= 1
        if self._left < 0:
            raise SyntaxProblem(place, f"over {_NODES_AT_MOST} values, with those that aliases stand for")
        self._places.add(path, place, name)
        if isinstance(node, yaml.MappingNode):
            return {
                key.value: self.build(value, (*path, key.value), place_of_mark(key.start_mark))
                for key, value in node.value
            }
        if isinstance(node, yaml.SequenceNode):
            return [self.build(item, (*path, index)) for index, item in enumerate(node.value)]
        return scalar(node)


def scalar(node: Any) -> bool | int | float | str | None:
    """What Envoy reads there. A fraction is one for us where it can be written again as it was: to Envoy it is a
    string, of which it makes a number where one belongs."""
    text = str(node.value)
    if node.style and node.tag == _STRING:
        return text
    if text in _NULLS:
        return None
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    match = _WHOLE.fullmatch(text)
    if match is None:
        return float(text) if _FRACTION.fullmatch(text) and str(float(text)) == text else text
    digits = match[2]
    octal = digits.startswith("0") and digits.isdigit() and len(digits) > 1
    number = int(f"{match[1]}{digits}", 8 if octal else 0)
    if number not in _LONG:
        return text
    return number if number in _SHORT else str(number)


def find(value: Any, name: str, path: Pointer = ()) -> Iterator[tuple[Pointer, Any]]:
    """Every member of this name in a value, however deep, with its path; the outer ones first."""
    waiting: list[tuple[Pointer, Any]] = [(path, value)]
    while waiting:
        at, each = waiting.pop(0)
        match each:
            case dict():
                if name in each:
                    yield (*at, name), each[name]
                waiting.extend(((*at, key), item) for key, item in each.items())
            case list():
                waiting.extend(((*at, index), item) for index, item in enumerate(each))


def scalars(value: Any, path: Pointer = ()) -> Iterator[tuple[Pointer, Any]]:
    """Everything in a value that is no mapping and no list, with its path."""
    match value:
        case dict():
            for name, item in value.items():
                yield from scalars(item, (*path, name))
        case list():
            for index, item in enumerate(value):
                yield from scalars(item, (*path, index))
        case _:
            yield path, value


def get(value: Any, *path: str | int) -> Any:
    """What stands at a path in a value, or None."""
    for step in path:
        if isinstance(step, int):
            value = value[step] if isinstance(value, list) and step < len(value) else None
        else:
            value = value.get(step) if isinstance(value, dict) else None
    return value
