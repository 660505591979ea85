"""overlay.yaml: what differs from the other files, where that is only a little.

    nodes = overlay.lay(node, nodes, "envoy.yaml", {"type.googleapis.com/...Cluster": "clusters.yaml", ...})

Its `resources` are laid over those of the same name in the files of resources; a new one says by its `@type` to which
of them it belongs. Everything else is laid over the bootstrap. A mapping is laid over a mapping member by member; a
list over a list of things with a `name`, thing by thing. New things come at the list's end, but a new HTTP filter
before the last one, which has to be the router, a new network filter before the connection manager likewise, and a new
route before the last one, which takes what is left. Anything else takes the place of what was there. A member that is
null is taken away.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import yaml

from extproc.envoy.config.findings import meant
from extproc.envoy.config.source import SyntaxProblem, place_of_mark

Nodes = Mapping[str, yaml.MappingNode]
"""Documents by the names of their files."""

_RESOURCES: Final = "resources"
_LAST_STAYS: Final = frozenset({"filters", "http_filters", "routes"})
_NULL: Final = "tag:yaml.org,2002:null"


def lay(overlay: yaml.MappingNode, nodes: Nodes, bootstrap: str, homes: Mapping[str, str]) -> Nodes:
    """The documents with what the overlay says. `homes` has the file of each type of resource. Raises SyntaxProblem,
    also for a resource of which it cannot be told to which file it belongs."""
    laid = dict(nodes)
    try:
        for name, differences in _apart(overlay, nodes, bootstrap, homes).items():
            if name in laid and differences.value:
                laid[name] = _laid_over_mapping(laid[name], differences)
    except RecursionError:
        raise SyntaxProblem(place_of_mark(overlay.start_mark), "nested too deeply, by aliases") from None
    return laid


def _apart(
    overlay: yaml.MappingNode, nodes: Nodes, bootstrap: str, homes: Mapping[str, str]
) -> dict[str, yaml.MappingNode]:
    """What the overlay has for each file."""
    rest = [(key, value) for key, value in overlay.value if key.value != _RESOURCES]
    apart = {bootstrap: _like(overlay, rest)}
    for key, resources in overlay.value:
        if key.value == _RESOURCES:
            for name, items in _by_home(resources, nodes, homes).items():
                listed = yaml.SequenceNode(resources.tag, items, resources.start_mark, resources.end_mark)
                apart[name] = _like(overlay, [(key, listed)])
    return apart


def _by_home(resources: yaml.Node, nodes: Nodes, homes: Mapping[str, str]) -> dict[str, list[yaml.Node]]:
    """The resources for each file."""
    if not isinstance(resources, yaml.SequenceNode):
        raise SyntaxProblem(place_of_mark(resources.start_mark), "expected a list of resources")
    known = {name: file for file in homes.values() for name in _names(nodes.get(file))}
    items: dict[str, list[yaml.Node]] = {}
    for resource in resources.value:
        type, name = _text(resource, "@type"), _text(resource, "name")
        home = homes.get(type or "") or known.get(name or "")
        if home is None:
            missing = f"there is no resource {name}{meant(name, known)}" if name else "a resource without a name"
            text = f"{missing} (a new one needs its @type: {', or '.join(homes)})"
            raise SyntaxProblem(place_of_mark(resource.start_mark), text)
        items.setdefault(home, []).append(resource)
    return items


def _names(document: yaml.Node | None) -> list[str]:
    """Those of a file's resources."""
    resources = _member(document, _RESOURCES)
    found = (_text(each, "name") for each in resources.value) if isinstance(resources, yaml.SequenceNode) else ()
    return [name for name in found if name]


# One node over another -------------------------------------------------------------------------------------


def _laid_over_mapping(base: yaml.MappingNode, overlay: yaml.MappingNode) -> yaml.MappingNode:
    members = {key.value: (key, value) for key, value in base.value}
    for key, value in overlay.value:
        if value.tag == _NULL:
            members.pop(key.value, None)
        elif key.value in members:
            members[key.value] = (key, _laid_over(members[key.value][1], value, key.value))
        else:
            members[key.value] = (key, value)
    return _like(overlay, list(members.values()))


def _laid_over(base: yaml.Node, overlay: yaml.Node, member: str) -> yaml.Node:
    if isinstance(base, yaml.MappingNode) and isinstance(overlay, yaml.MappingNode):
        return _laid_over_mapping(base, overlay)
    if isinstance(base, yaml.SequenceNode) and isinstance(overlay, yaml.SequenceNode):
        named = {name: item for item in base.value if (name := _text(item, "name")) is not None}
        if len(named) == len(base.value) and all(_text(item, "name") is not None for item in overlay.value):
            return _things_laid_over(base, named, overlay, member)
    return overlay


def _things_laid_over(
    base: yaml.SequenceNode, named: dict[str, yaml.Node], overlay: yaml.SequenceNode, member: str
) -> yaml.SequenceNode:
    things = dict(named)
    new: list[yaml.Node] = []
    for item in overlay.value:
        name = _text(item, "name") or ""
        if name in things:
            things[name] = _laid_over(things[name], item, "")
        else:
            new.append(item)
    last = len(things) - 1 if member in _LAST_STAYS else len(things)
    order = list(things.values())
    return yaml.SequenceNode(base.tag, [*order[:last], *new, *order[last:]], base.start_mark, base.end_mark)


def _like(node: yaml.MappingNode, members: list[tuple[yaml.Node, yaml.Node]]) -> yaml.MappingNode:
    """A mapping that stands where the node does."""
    return yaml.MappingNode(node.tag, members, node.start_mark, node.end_mark)


def _member(node: yaml.Node | None, name: str) -> yaml.Node | None:
    if not isinstance(node, yaml.MappingNode):
        return None
    return next((value for key, value in node.value if key.value == name), None)


def _text(node: yaml.Node, name: str) -> str | None:
    """A member of a mapping, as text."""
    value = _member(node, name)
    return None if value is None else str(value.value)
