"""What has changed in a configuration, in words: `clusters.yaml: llm: lb_policy: RANDOM -> LEAST_REQUEST`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from extproc.core import secret_names
from extproc.envoy.config.source import get

_SHOWN: Final = 80


def between(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """A line for each difference, file by file."""
    lines = []
    for file in sorted({*old, *new}):
        if file not in old or file not in new:
            lines.append(f"{file}: {'removed' if file in old else 'added'}")
        else:
            lines += [f"{file}: {line}" for line in _between(old[file], new[file], "")]
    return lines


def _between(old: Any, new: Any, where: str) -> Iterator[str]:
    if old == new:
        return
    match old, new:
        case dict(), dict():
            for name in {**old, **new}:
                yield from _members(old, new, name, where)
        case list(), list():
            before, after = _by_label(old), _by_label(new)
            for label in {**before, **after}:
                yield from _members(before, after, label, where)
            if list(before) != list(after) and before.keys() == after.keys():
                yield f"{where}another order"
        case _:
            yield f"{where}{_shown(old)} -> {_shown(new)}"


_SECRET: Final = frozenset({"inline_string", "inline_bytes", "password"})
"""Members that may hold a key: that they have changed is said, and no more."""


def _secret(holder: dict[str, Any], name: str) -> bool:
    key = holder.get("key") or holder.get("header_name")
    return name in _SECRET or (isinstance(key, str) and secret_names.is_secret(key) and name == "value")


def _members(old: dict[str, Any], new: dict[str, Any], name: str, where: str) -> Iterator[str]:
    if name not in new:
        yield f"{where}{name} removed"
    elif name not in old:
        plain = not isinstance(new[name], dict | list) and not _secret(new, name)
        yield f"{where}{name} added{f': {_shown(new[name])}' if plain else ''}"
    elif old[name] != new[name] and _secret(new, name):
        yield f"{where}{name} changed"
    else:
        # What holds one thing only says nothing of its own: resources, virtual_hosts, routes, route.
        silent = name in _SILENT
        yield from _between(old[name], new[name], where if silent else f"{where}{name}: ")


_SILENT: Final = frozenset({"resources", "virtual_hosts", "routes", "route", "clusters", "endpoints", "lb_endpoints"})


def _by_label(items: list[Any]) -> dict[str, Any]:
    labelled: dict[str, Any] = {}
    for index, item in enumerate(items):
        label = _label(item) or f"[{index}]"
        labelled[label if label not in labelled else f"{label} [{index}]"] = item
    return labelled


def _label(item: Any) -> str | None:
    for member in ("name", "cluster_name"):
        name = get(item, member)
        if isinstance(name, str):
            return name
    address = get(item, "endpoint", "address", "socket_address")
    if isinstance(address, dict):
        return f"{address.get('address')}:{address.get('port_value')}"
    path = get(item, "endpoint", "address", "pipe", "path")
    return path if isinstance(path, str) else None


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    text = " ".join(str(value).split())
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
