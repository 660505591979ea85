"""overlay.yaml laid over the other files; whatever is in it, it is laid or refused."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.configuration import PIECES

from extproc.envoy.config import overlay, source
from extproc.envoy.config.source import Pointer, SyntaxProblem

CLUSTER, ROUTES = "type/Cluster", "type/Routes"
HOMES = {CLUSTER: "clusters", ROUTES: "routes"}


def laid(over: str, **files: str) -> dict[str, source.Source]:
    """An overlay `o` laid over files; the bootstrap is called `b`."""
    nodes = {name: source.compose(text.encode(), name) for name, text in files.items()}
    documents = overlay.lay(source.compose(over.encode(), "o"), nodes, "b", HOMES)
    return {name: source.build(node, name) for name, node in documents.items()}


def refused(over: str, **files: str) -> str:
    """What is said of an overlay `o`."""
    with pytest.raises(SyntaxProblem) as caught:
        laid(over, **files)
    return str(caught.value)


# One file --------------------------------------------------------------------------------------------------

FILTERS = "http_filters: [{name: a, x: 1}, {name: router}]\n"


@pytest.mark.parametrize(
    ("base", "over", "value"),
    [
        ("a: 1\n", "b: 2\n", {"a": 1, "b": 2}),
        ("a: 1\n", "a: 2\n", {"a": 2}),
        ("a: {b: 1, c: 1}\n", "a: {b: 2, d: 2}\n", {"a": {"b": 2, "c": 1, "d": 2}}),
        ("a: {b: {c: 1}}\n", "a: {b: 2}\n", {"a": {"b": 2}}),
        ("a: 1\n", "a: {b: 2}\n", {"a": {"b": 2}}),
        ("a: 1\nb: 1\n", "a: null\n", {"b": 1}),
        ("a: {b: 1}\n", "a: {b: ~}\n", {"a": {}}),
        ("a: 1\n", "b: null\n", {"a": 1}),
        ("a: [1, 2]\n", "a: [3]\n", {"a": [3]}),
        ("a: [{x: 1}]\n", "a: [{x: 2}]\n", {"a": [{"x": 2}]}),
        ("a: [{name: nn, x: 1}]\n", "a: [{x: 2}]\n", {"a": [{"x": 2}]}),
        ("a: [{x: 1}]\n", "a: [{name: nn, x: 2}]\n", {"a": [{"name": "nn", "x": 2}]}),
        ("a: [{name: nn, x: 1, y: 1}, {name: m}]\n", "a: [{name: nn, x: 2}]\n",
         {"a": [{"name": "nn", "x": 2, "y": 1}, {"name": "m"}]}),
        ("a: [{name: nn}]\n", "a: [{name: m}]\n", {"a": [{"name": "nn"}, {"name": "m"}]}),
        ("a: [{name: nn, x: 1}]\n", "a: [{name: nn, x: null}]\n", {"a": [{"name": "nn"}]}),
        ("a: [{name: nn}]\n", "a: [{name: m}, {name: m, x: 1}]\n",
         {"a": [{"name": "nn"}, {"name": "m"}, {"name": "m", "x": 1}]}),
        ("a: [{name: nn}, {name: nn}]\n", "a: [{name: m}]\n", {"a": [{"name": "m"}]}),
        ("a: []\n", "a: [{name: m}]\n", {"a": [{"name": "m"}]}),
        (FILTERS, "http_filters: [{name: b}, {name: c}]\n",
         {"http_filters": [{"name": "a", "x": 1}, {"name": "b"}, {"name": "c"}, {"name": "router"}]}),
        ("routes: [{name: a}, {name: rest}]\n", "routes: [{name: b}]\n",
         {"routes": [{"name": "a"}, {"name": "b"}, {"name": "rest"}]}),
        ("filters: [{name: manager}]\n", "filters: [{name: limit}]\n",
         {"filters": [{"name": "limit"}, {"name": "manager"}]}),
        (FILTERS, "http_filters: [{name: router, y: 1}, {name: a, x: 2}]\n",
         {"http_filters": [{"name": "a", "x": 2}, {"name": "router", "y": 1}]}),
        ("http_filters: []\n", "http_filters: [{name: b}]\n", {"http_filters": [{"name": "b"}]}),
        ("d: &x {a: 1}\ne: *x\n", "d: {a: 2}\n", {"d": {"a": 2}, "e": {"a": 1}}),
    ],
)  # fmt: skip
def test_what_is_laid_over_the_bootstrap(base: str, over: str, value: Any) -> None:
    """Only what differs is written in it."""
    assert laid(over, b=base)["b"].value == value


@pytest.mark.parametrize(
    ("path", "place"),
    [
        (("a",), "o:1:4"),
        (("a", "b"), "o:1:8"),
        (("a", "c"), "b:2:6"),
        (("l", 0, "name"), "o:3:10"),
        (("l", 0, "x"), "b:4:17"),
        (("l", 1, "x"), "o:4:16"),
        (("gone",), "o:1:1"),
    ],
)
def test_places(path: Pointer, place: str) -> None:
    """Each value stands in the file that it is from."""
    base = "a:\n  c: 1\nl:\n- {name: nn, x: 1}\ngone: 1\n"
    over = "a: {b: 2}\nl:\n- {name: nn}\n- {name: m, x: 3}\ngone: null\n"
    assert str(laid(over, b=base)["b"].places.of(path)) == place


def test_an_overlay_that_is_wrong_is_named() -> None:
    """Not the file that it is laid over."""
    assert refused("b: [\n", b="a: 1\n") == "o:2:1: not YAML: did not find expected node content"
    assert refused("- b\n", b="a: 1\n").startswith("o:1:1: expected a mapping")


# The files of resources ------------------------------------------------------------------------------------

FILES = {
    "b": "a: 1\n",
    "clusters": f'resources:\n- {{"@type": {CLUSTER}, name: llm, policy: A, ends: [1, 2]}}\n',
    "routes": f'resources:\n- {{"@type": {ROUTES}, name: ingress, routes: [{{name: rest, to: llm}}]}}\n',
}


def test_resources_go_to_their_files() -> None:
    """By their name, and new ones by their type; the bootstrap gets the rest."""
    over = f"""\
resources:
- {{name: llm, ends: [3]}}
- {{name: ingress, routes: [{{name: new, to: small}}, {{name: rest, tries: 2}}]}}
- {{"@type": {CLUSTER}, name: small}}
c: 2
"""
    documents = laid(over, **FILES)
    assert documents["b"].value == {"a": 1, "c": 2}
    assert documents["clusters"].value["resources"] == [
        {"@type": CLUSTER, "name": "llm", "policy": "A", "ends": [3]},
        {"@type": CLUSTER, "name": "small"},
    ]
    assert documents["routes"].value["resources"] == [
        {
            "@type": ROUTES,
            "name": "ingress",
            "routes": [{"name": "new", "to": "small"}, {"name": "rest", "to": "llm", "tries": 2}],
        },
    ]
    places = documents["clusters"].places
    assert str(places.of(("resources", 0, "ends", 0))) == "o:2:22"
    assert str(places.of(("resources", 0, "policy"))) == "clusters:2:46"


def test_what_an_overlay_does_not_name_stays() -> None:
    """Value and place."""
    documents = laid("resources: [{name: llm, policy: B}]\n", **FILES)
    assert (documents["b"].value, str(documents["b"].places.of(()))) == ({"a": 1}, "b:1:1")
    assert str(documents["routes"].places.of(("resources",))) == "routes:2:1"
    assert documents["clusters"].value["resources"][0]["policy"] == "B"


@pytest.mark.parametrize("over", ["resources: []\n", "resources: [{name: llm}]\n", "b: null\n"])
def test_an_overlay_that_changes_nothing(over: str) -> None:
    """Everything is as without it."""
    assert {name: each.value for name, each in laid(over, **FILES).items()} == {
        name: each.value for name, each in laid("{}\n", **FILES).items()
    }


@pytest.mark.parametrize(
    ("item", "said"),
    [
        ("{name: lm}", "there is no resource lm; did you mean llm?"),
        ("{policy: B}", "a resource without a name"),
        ("5", "a resource without a name"),
        ("[]", "a resource without a name"),
        ('{"@type": type/Other, name: x}', "there is no resource x"),
    ],
)
def test_a_resource_without_a_home_is_refused(item: str, said: str) -> None:
    """Its place, and what was expected."""
    text = f"o:2:3: {said} (a new one needs its @type: type/Cluster, or type/Routes)"
    assert refused(f"resources:\n- {item}\n", **FILES) == text


@pytest.mark.parametrize("resources", ["5", "{name: llm}", "null"])
def test_resources_are_a_list(resources: str) -> None:
    """Anything else is refused."""
    assert refused(f"resources: {resources}\n", **FILES) == "o:1:12: expected a list of resources"


def test_over_a_file_that_is_wrong() -> None:
    """One that is missing has no resources, and neither has one whose resources are none."""
    assert "no resource llm" in refused("resources: [{name: llm}]\n", b="a: 1\n", clusters="resources: 5\n")
    only = laid(f'resources: [{{"@type": {CLUSTER}, name: x}}]\n', clusters="resources: 5\n")
    assert only["clusters"].value == {"resources": [{"@type": CLUSTER, "name": "x"}]}


@given(st.lists(PIECES, max_size=25), st.lists(PIECES, max_size=25))
def test_any_pieces_of_yaml_are_laid_or_refused(pieces: list[str], over: list[str]) -> None:
    """Nothing else is raised, whatever stands in them."""
    with contextlib.suppress(SyntaxProblem):
        laid(" ".join(over), b=" ".join(pieces), clusters=" ".join(pieces))
