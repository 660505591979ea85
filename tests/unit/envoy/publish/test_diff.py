"""What has changed, in words."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from extproc.envoy.config import files
from extproc.envoy.publish import diff

CLUSTER = "resources: [{name: llm, lb_policy: RANDOM, load_assignment: {endpoints: [{lb_endpoints: [%s]}]}}]"


def endpoint(address: str, port: int, more: str = "") -> str:
    """An endpoint as clusters.yaml has it."""
    return f"{{endpoint: {{address: {{socket_address: {{address: {address}, port_value: {port}}}}}}}{more}}}"


def between(old: str, new: str) -> list[str]:
    """The changes from one clusters.yaml to another."""
    return diff.between({"c.yaml": yaml.safe_load(old)}, {"c.yaml": yaml.safe_load(new)})


@pytest.mark.parametrize(
    ("old", "new", "lines"),
    [
        ("a: 1", "a: 1", []),
        ("a: 1", "a: 2", ["a: 1 -> 2"]),
        ("a: true", "a: false", ["a: true -> false"]),
        ("a: {b: {c: x}}", "a: {b: {c: y}}", ["a: b: c: x -> y"]),
        ("a: 1", "{a: 1, b: 2}", ["b added: 2"]),
        ("a: 1", "{a: 1, b: {c: 2}}", ["b added"]),
        ("a: 1", "{a: 1, b: [2]}", ["b added"]),
        ("{a: 1, b: 2}", "a: 1", ["b removed"]),
        ("a: {b: 1}", "a: 5", ["a: {'b': 1} -> 5"]),
        ("a: [1, 2]", "a: [1, 3]", ["a: [1]: 2 -> 3"]),
        ("a: [1]", "a: [1, 2]", ["a: [1] added: 2"]),
        ("a: [1, 2]", "a: [1]", ["a: [1] removed"]),
        ("a: [{name: x, v: 1}, {name: y}]", "a: [{name: y}, {name: x, v: 2}]", ["a: x: v: 1 -> 2", "a: another order"]),
        ("a: [{name: x}, {name: y}]", "a: [{name: y}, {name: x}]", ["a: another order"]),
        ("a: [{name: x}]", "a: [{name: x}, {name: y}]", ["a: y added"]),
        ("a: [{name: x}, {name: x, v: 1}]", "a: [{name: x}, {name: x, v: 2}]", ["a: x [1]: v: 1 -> 2"]),
        ("resources: [{name: llm, p: 1}]", "resources: [{name: llm, p: 2}]", ["llm: p: 1 -> 2"]),
        ("resources: [{name: llm}]", "resources: []", ["llm removed"]),
        ("resources: [{cluster_name: llm, p: 1}]", "resources: [{cluster_name: llm, p: 2}]", ["llm: p: 1 -> 2"]),
        (
            "virtual_hosts: [{name: all, routes: [{name: r, route: {cluster: a}}]}]",
            "virtual_hosts: [{name: all, routes: [{name: r, route: {cluster: b}}]}]",
            ["all: r: cluster: a -> b"],
        ),
        (
            CLUSTER % endpoint("a", 1),
            CLUSTER % endpoint("a", 2),
            ["llm: load_assignment: [0]: a:1 removed", "llm: load_assignment: [0]: a:2 added"],
        ),
        (
            CLUSTER % endpoint("a", 1),
            CLUSTER % endpoint("a", 1, ", load_balancing_weight: 3"),
            ["llm: load_assignment: [0]: a:1: load_balancing_weight added: 3"],
        ),
        (
            CLUSTER % "{endpoint: {address: {pipe: {path: /a}}}}",
            CLUSTER % "{endpoint: {address: {pipe: {path: /b}}}}",
            ["llm: load_assignment: [0]: /a removed", "llm: load_assignment: [0]: /b added"],
        ),
        ("a: 1", f"a: {'x' * 100}", [f"a: 1 -> {'x' * 80}..."]),
        ("a: 1", "a: 'x\n\n  y'", ["a: 1 -> x y"]),
    ],
)
def test_between(old: str, new: str, lines: list[str]) -> None:
    """Things by their name, whatever their place; endpoints by their address."""
    assert between(old, new) == [f"c.yaml: {line}" for line in lines]


def test_files_that_come_and_go() -> None:
    """By name, and not what is in them."""
    assert diff.between({"a.yaml": {"x": 1}, "b.yaml": {}}, {"b.yaml": {"y": 1}, "c.yaml": {"x": 1}}) == [
        "a.yaml: removed",
        "b.yaml: y added: 1",
        "c.yaml: added",
    ]


def test_nothing_between_the_shipped_files() -> None:
    """Read twice, they are the same."""
    assert diff.between(files.read(None), files.read(None)) == []


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(0, 3) | st.sampled_from(["x", "y"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["name", "a", "endpoint", "resources"]), inner, max_size=3)
    ),
    max_leaves=10,
)


@given(VALUES, VALUES)
def test_a_difference_is_always_told(old: Any, new: Any) -> None:
    """Whatever the values are; and where there is none, nothing is."""
    assert bool(diff.between({"f": {"v": old}}, {"f": {"v": new}})) is (old != new)


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ({"inline_string": "sk-1"}, {"inline_string": "sk-2"}, "inline_string changed"),
        ({}, {"inline_string": "sk-2"}, "inline_string added"),
        (
            {"header": {"key": "Authorization", "value": "sk-1"}},
            {"header": {"key": "Authorization", "value": "sk-2"}},
            "header: value changed",
        ),
        ({"header": {"key": "x-a", "value": "1"}}, {"header": {"key": "x-a", "value": "2"}}, "header: value: 1 -> 2"),
    ],
)
def test_a_key_is_not_told(old: Any, new: Any, line: str) -> None:
    """That it has changed is."""
    assert diff.between({"a.yaml": old}, {"a.yaml": new}) == [f"a.yaml: {line}"]
