"""YAML with the place of everything in it; whatever is in a file, it is parsed or refused."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from support.configuration import PIECES, position, ways

from extproc.envoy.config import files, source
from extproc.envoy.config.source import Place, Pointer, SyntaxProblem

SHIPPED = {name: (files.shipped() / name).read_bytes() for name in files.NAMES}


def parsed(data: bytes | str) -> source.Source:
    """The value of a file `f`."""
    return source.parse(data.encode() if isinstance(data, str) else data, "f")


def refused(data: bytes | str) -> str:
    """What is said of a file `f`."""
    with pytest.raises(SyntaxProblem) as caught:
        parsed(data)
    return str(caught.value)


def file_of(data: bytes) -> str:
    """Parse a file `f`: nothing when it parses, else the file whose fault it is."""
    try:
        parsed(data)
    except SyntaxProblem as problem:
        return problem.place.file
    return ""


def at(value: Any, path: Pointer) -> Any:
    """What stands at a path."""
    for step in path:
        value = value[step]
    return value


# Places ----------------------------------------------------------------------------------------------------

STYLES = """\
block:
  name: one
  list:
  - first
  -   - nested
flow: {name: two, list: [a, {b: c}]}
quoted: "three"
folded: >-
  four
  five
base: &base {x: 1, y: 2}
alias: *base
merged:
  <<: *base
  y: 3
"empty": {}
"""


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ((), "block:"),
        (("block",), "name: one"),
        (("block", "name"), "one"),
        (("block", "list"), "- first"),
        (("block", "list", 0), "first"),
        (("block", "list", 1), "- nested"),
        (("block", "list", 1, 0), "nested"),
        (("flow",), "{name: two"),
        (("flow", "name"), "two"),
        (("flow", "list"), "[a"),
        (("flow", "list", 0), "a, {b"),
        (("flow", "list", 1), "{b"),
        (("flow", "list", 1, "b"), "c}"),
        (("quoted",), '"three"'),
        (("folded",), ">-"),
        (("base", "x"), "1, y"),
        (("alias",), "&base"),
        (("alias", "x"), "1, y"),
        (("merged", "x"), "1, y"),
        (("merged", "y"), "3"),
        (("empty",), "{}"),
    ],
)
def test_the_place_of_a_value(path: Pointer, text: str) -> None:
    """Where it begins, in every style; what an alias or a merge brings stands where it is written."""
    assert str(parsed(STYLES).places.of(path)) == f"f:{position(STYLES, STYLES.index(text))}"


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (("block",), "block"),
        (("block", "name"), "name: one"),
        (("flow", "list", 1, "b"), "b: c"),
        (("merged", "x"), "x: 1"),
        (("merged", "y"), "y: 3"),
        (("empty",), '"empty"'),
    ],
)
def test_the_place_of_a_name(path: Pointer, text: str) -> None:
    """That of the member's name, not of its value."""
    assert str(parsed(STYLES).places.of_name(path)) == f"f:{position(STYLES, STYLES.index(text))}"


def test_what_stands_nowhere_has_the_place_of_what_would_hold_it() -> None:
    """So a missing value is looked for where it would have to be written."""
    places = parsed("a:\n  b: {c: 1}\n").places
    assert str(places.of(("a", "b", "missing", 3, "x"))) == "f:2:6"
    assert str(places.of_name(("a", "b", "missing"))) == "f:2:6"
    assert str(source.Places("empty").of(("a",))) == "empty:1:1"


@pytest.mark.parametrize("name", files.NAMES)
def test_every_value_of_the_shipped_files_stands_at_its_place(name: str) -> None:
    """The text that begins there is the value."""
    read = source.parse(SHIPPED[name], name)
    lines = SHIPPED[name].decode().splitlines()
    for path in ways(read.value):
        value, place = at(read.value, path), read.places.of(path)
        if isinstance(value, str):
            assert lines[place.line - 1][place.column - 1 :].lstrip('"').startswith(value), (path, place)


# Values ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", files.NAMES)
def test_values_are_those_of_yaml(name: str) -> None:
    """The places cost nothing of what the file says."""
    assert source.parse(SHIPPED[name], name).value == yaml.safe_load(SHIPPED[name])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: {b: [1, 2.5, true, null, x]}", {"a": {"b": [1, 2.5, True, None, "x"]}}),
        ("1: x\ntrue: yy\n", {"1": "x", "true": "yy"}),
        ("a: 2026-11-21\n", {"a": "2026-11-21"}),
        ("a: 2026-13-45\n", {"a": "2026-13-45"}),
        ("a: [y, Off, tRUE, NULL, ~, '', 'y']\n", {"a": [True, False, "tRUE", None, None, "", "y"]}),
        ("a: [010, 08, 0x1f, +1, 1_0, 1:30, 2147483648]\n", {"a": [8, "08", 31, 1, "1_0", "1:30", "2147483648"]}),
        ("a: [1.50, 1e3, .inf, 1.5, '1.5']\n", {"a": ["1.50", "1e3", ".inf", 1.5, "1.5"]}),
        ("a: [!!bool maybe, !!int x, !mine x, !!str 5]\n", {"a": ["maybe", "x", "x", 5]}),
        ("a: &x {b: 1}\nc: {<<: *x, b: 2}\nd: {<<: [{b: 3}, *x], e: 4}\n",
         {"a": {"b": 1}, "c": {"b": 2}, "d": {"b": 3, "e": 4}}),
        ("a: &a {x: 1, y: 1}\nb: &b {<<: *a, x: 2}\nc: {<<: *b}\n",
         {"a": {"x": 1, "y": 1}, "b": {"x": 2, "y": 1}, "c": {"x": 2, "y": 1}}),
    ],
)  # fmt: skip
def test_values(text: str, value: Any) -> None:
    """As Envoy reads them: names are text, dates too, a mapping's own members count before merged ones."""
    assert parsed(text).value == value


def test_what_an_alias_names_becomes_a_value_of_its_own() -> None:
    """Changing the one leaves the other as it is."""
    value = parsed("a: &x {b: 1}\nc: *x\n").value
    value["a"]["b"] = 2
    assert value["c"] == {"b": 1}


# Refusals --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "f:1:1: expected a mapping, as in the shipped file"),
        ("# nothing\n", "f:1:1: expected a mapping, as in the shipped file"),
        ("\n- a\n", "f:2:1: expected a mapping, as in the shipped file"),
        ("a: 1\nb: {\n", "f:3:1: not YAML: did not find expected node content"),
        ("a: b: c\n", "f:1:5: not YAML: mapping values are not allowed in this context"),
        ("a:\n\t- b\n", "f:2:1: not YAML: found character that cannot start any token"),
        ("a: 1\n---\nb: 2\n", "f:2:1: not YAML: but found another document"),
        ("a: *x\n", "f:1:4: not YAML: found undefined alias"),
        ("a: 1\nb: 2\na: 3\n", "f:3:1: a stands here a second time; first in line 1"),
        ("x: [{b: 1,\n  b: 1}]\n", "f:2:3: b stands here a second time; first in line 1"),
        ("x: &x {b: 1, b: 1}\ny: {<<: *x}\n", "f:1:14: b stands here a second time; first in line 1"),
        ("{[a]: 1}\n", "f:1:2: expected a name before the colon"),
        ("a: {<<: 5}\n", "f:1:9: expected a mapping, or a list of them, after <<"),
        ("a: &x [*x]\n", "f:1:8: the alias *x stands in what it names"),
        ("a: &x {b: {c: *x}}\n", "f:1:15: the alias *x stands in what it names"),
        ("a: &x {<<: *x}\n", "f:1:12: the alias *x stands in what it names"),
        ("a: \0\n", "f:1:1: not YAML: unacceptable character #x0000: control characters are not allowed"),
    ],
)  # fmt: skip
def test_refused(text: str, said: str) -> None:
    """With the place, and why."""
    assert refused(text).startswith(said)


@pytest.mark.parametrize("data", [b"a: \xff\xfe\n", b"\xff\xfea\n", b"a: \xed\xa0\x80\n"])
def test_bytes_that_are_no_text(data: bytes) -> None:
    """A file of another encoding is refused like other damage."""
    assert refused(data).startswith("f:1:1: ")


@pytest.mark.parametrize("opening", ["[", "{a: ", "- "])
def test_nesting_has_a_limit(opening: str) -> None:
    """YAML's parser would end the process."""
    assert "nested more than 100 deep" in refused("x:\n " + opening * 50_000)


BOMB = "a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12))
MERGE_BOMB = "a0: &a0 {x: 1}\n" + "".join(
    f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 10)}]}}\n" for i in range(1, 12)
)
CHAIN = "a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i} {{x: *a{i - 1}}}\n" for i in range(1, 3000))


def test_aliases_of_aliases_have_a_limit() -> None:
    """Twelve lines could stand for a hundred billion values."""
    assert "over 200000 values, with those that aliases stand for" in refused(BOMB)
    assert refused(CHAIN) == "f:1:1: nested too deeply, by aliases"


def test_merges_of_merges_are_written_out_once() -> None:
    """What is merged from a hundred billion sides is still one member."""
    value = parsed(MERGE_BOMB).value
    assert len(value) == 12
    assert all(each == {"x": 1} for each in value.values())


@pytest.mark.parametrize("name", files.NAMES)
def test_a_file_cut_anywhere_parses_or_is_refused(name: str) -> None:
    """An editor's half-written file is one of these."""
    data = SHIPPED[name]
    outcomes = [file_of(data[:end]) for end in range(0, len(data), max(1, len(data) // 150))]
    assert set(outcomes) == {"", "f"}


@given(st.binary(max_size=60))
def test_any_bytes_parse_or_are_refused(data: bytes) -> None:
    """Nothing else is raised, whatever the file holds."""
    assert file_of(data) in ("", "f")


@given(st.lists(PIECES, max_size=25))
def test_any_pieces_of_yaml_parse_or_are_refused(pieces: list[str]) -> None:
    """Also those that no person would write."""
    assert file_of(" ".join(pieces).encode()) in ("", "f")


# Finding ---------------------------------------------------------------------------------------------------


def test_find() -> None:
    """Every member of a name, the outer ones first, each with its path."""
    value = {"x": {"n": 1, "deep": [{"n": 2}]}, "n": {"n": 3}}
    assert list(source.find(value, "n", ("top",))) == [
        (("top", "n"), {"n": 3}),
        (("top", "x", "n"), 1),
        (("top", "n", "n"), 3),
        (("top", "x", "deep", 0, "n"), 2),
    ]


def test_places_are_in_order() -> None:
    """By file, line and column."""
    assert sorted([Place("b"), Place("a", 2), Place("a", 1, 5), Place("a", 1, 2)]) == [
        Place("a", 1, 2),
        Place("a", 1, 5),
        Place("a", 2),
        Place("b"),
    ]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("a", 1, "b"), 2),
        (("a", 0), 1),
        (("a", 5), None),
        (("a", "b"), None),
        ((0,), None),
        (("a", 1, "b", "c"), None),
        (("z",), None),
        ((), {"a": [1, {"b": 2}]}),
    ],
)
def test_get(path: tuple[str | int, ...], value: Any) -> None:
    """What is not there is None."""
    assert source.get({"a": [1, {"b": 2}]}, *path) == value
