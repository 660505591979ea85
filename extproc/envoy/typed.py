"""A configuration held against Envoy's message types, as the package envoy-data-plane declares them.

`mismatches` walks a value beside its type and tells each name that the type does not have, each value that is of
another kind, each enum value that does not exist, two members of which one at most may be there. It goes into
`google.protobuf.Any` by its `@type`. The rules are protobuf's for JSON, which Envoy follows for YAML.
"""

from __future__ import annotations

import dataclasses
import datetime
import difflib
import enum
import importlib
import re
from collections.abc import Iterator
from typing import Any, Final

import envoy_data_plane

from extproc.envoy.findings import meant
from extproc.envoy.source import Path

ANY_PREFIX: Final = "type.googleapis.com/"
BOOTSTRAP: Final = "envoy.config.bootstrap.v3.Bootstrap"
RESOURCES: Final = "envoy.service.discovery.v3.DiscoveryResponse"
"""What a file of an xDS `path_config_source` holds."""

NEWER: Final = frozenset({"envoy.extensions.filters.http.body_size_limit.v3.BodySizeLimit"})
"""Types of Envoy 1.40 that envoy-data-plane 2.2 does not have. What is in them is left to Envoy's own validation."""

_DURATION: Final = re.compile(r"-?[0-9]{1,12}(\.[0-9]{1,9})?s")
_INTEGERS: Final = frozenset(
    {"int32", "int64", "uint32", "uint64", "sint32", "sint64", "fixed32", "fixed64", "sfixed32", "sfixed64"}
)
_UNSIGNED: Final = frozenset({"uint32", "uint64", "fixed32", "fixed64"})
_OPAQUE: Final = frozenset({"Struct", "Value", "ListValue", "Empty", "FieldMask"})


@dataclasses.dataclass(frozen=True, slots=True)
class Mismatch:
    """A value that is not as its type has it."""

    path: Path
    text: str
    name: str = ""
    """The field or the type that we do not know, if that is what is wrong. Another version of Envoy may know it."""


def mismatches(value: Any, type_name: str, path: Path = ()) -> Iterator[Mismatch]:
    """Everything in a value that a message of this type, `envoy.config.route.v3.Route`, cannot be read from."""
    message = _message(type_name)
    assert message is not None, type_name
    yield from _in_message(value, message, path)


def _message(type_name: str) -> Any:
    """The class of a message; None when the package has none of that name."""
    module, _, name = type_name.rpartition(".")
    try:
        found = getattr(importlib.import_module(f"{envoy_data_plane.__name__}.{module}"), name, None)
    except ImportError:
        return None
    return found if isinstance(found, type) and dataclasses.is_dataclass(found) else None  # enums are there, too


def _in_message(value: Any, message: Any, path: Path) -> Iterator[Mismatch]:
    if message.__module__.endswith("google.protobuf") and message.__name__ in _OPAQUE:
        return
    if message.__name__ == "Any" and message.__module__.endswith("google.protobuf"):
        yield from _in_any(value, path)
        return
    if not isinstance(value, dict):
        yield Mismatch(path, f"{_shown(value)}; a mapping ({message.__name__}) would be right")
        return
    # The one name of betterproto2 that is not documented; test_typed.py holds it to what is used here.
    types = message._betterproto  # noqa: SLF001
    known = {name.rstrip("_"): name for name in types.meta_by_field_name}
    chosen: dict[str, str] = {}
    for member, item in value.items():
        name = known.get(member)
        here = (*path, member)
        if name is None and _snake(member) in known:
            # Envoy would take it; those who look for it by its name here, and people who search, would not find it.
            yield Mismatch(here, f"{member}; {_snake(member)}, as Envoy's documentation has it, would be right")
            continue
        if name is None:
            if member != "@type":
                text = f"{message.__name__} has no {member}{meant(_snake(member), known)}"
                yield Mismatch(here, text, member)
            continue
        meta = types.meta_by_field_name[name]
        if item is None:
            continue
        if meta.group is not None:
            if meta.group in chosen:
                yield Mismatch(
                    here, f"{member} and {chosen[meta.group]} exclude each other: one of them would be right"
                )
            chosen[meta.group] = member
        yield from _in_field(item, meta, name, types, here)


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", name).lower()


def _in_field(value: Any, meta: Any, name: str, types: Any, path: Path) -> Iterator[Mismatch]:
    if meta.map_meta is not None:
        if not isinstance(value, dict):
            yield Mismatch(path, f"{_shown(value)}; a mapping would be right")
            return
        for key, item in value.items():
            yield from _in_value(item, meta.map_meta[1], types.cls_by_field[f"{name}.value"], (*path, key))
    elif meta.repeated:
        if not isinstance(value, list):
            yield Mismatch(path, f"{_shown(value)}; a list would be right")
            return
        for index, item in enumerate(value):
            yield from _in_value(item, meta, types.cls_by_field[name], (*path, index))
    else:
        yield from _in_value(value, meta, types.cls_by_field[name], path)


def _in_value(value: Any, meta: Any, kind: Any, path: Path) -> Iterator[Mismatch]:
    if meta.proto_type == "message" and meta.unwrap is None:
        yield from _in_message(value, kind, path)
        return
    # A google.protobuf.UInt32Value is written as its number, and unwrapped it would pass for a signed one.
    unsigned = meta.proto_type in _UNSIGNED or (meta.unwrap is not None and meta.unwrap().__name__.startswith("UInt"))
    wanted = _wanted(value, meta.proto_type, kind, unsigned=unsigned)
    if wanted is not None:
        yield Mismatch(path, f"{_shown(value)}; {wanted} would be right")


def _wanted(value: Any, proto_type: str, kind: Any, *, unsigned: bool) -> str | None:
    """What would be right in the place of this value; None when it is."""
    if proto_type == "enum":
        return _wanted_enum(value, kind)
    if kind is datetime.timedelta:
        return None if isinstance(value, str) and _DURATION.fullmatch(value) else "a duration, such as 5s or 0.25s,"
    if kind is datetime.datetime:
        return None if isinstance(value, str) else "a time, such as 2026-11-21T03:12:00Z,"
    if proto_type == "bool" or kind is bool:
        return None if isinstance(value, bool) else "true or false"
    if proto_type in _INTEGERS or kind is int:
        return _wanted_integer(value, unsigned=unsigned)
    if proto_type in ("float", "double") or kind is float:
        fine = (isinstance(value, int | float) and not isinstance(value, bool)) or _is_number(value)
        return None if fine else "a number"
    if isinstance(value, str):
        return None
    return "a string" if isinstance(value, dict | list) else f'a string, "{_plain(value)}" in quotes,'


def _wanted_integer(value: Any, *, unsigned: bool) -> str | None:
    if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,19}", value):
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        return "a whole number"
    return "a number from 0" if unsigned and value < 0 else None


def _wanted_enum(value: Any, kind: type[enum.IntEnum]) -> str | None:
    names = list(kind.__members__)
    if isinstance(value, int) and not isinstance(value, bool):
        return None if value in [member.value for member in kind] else f"one of {', '.join(names)}"
    # The package has left out of its names what they share: UNSPECIFIED for FOO_UNSPECIFIED.
    if isinstance(value, str) and any(value == name or value.endswith(f"_{name}") for name in names):
        return None
    close = difflib.get_close_matches(str(value).upper(), names, 1)
    return f"{close[0]}, or another of {', '.join(names)}," if close else f"one of {', '.join(names)}"


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return not isinstance(value, bool)


def _in_any(value: Any, path: Path) -> Iterator[Mismatch]:
    if not isinstance(value, dict) or not isinstance(value.get("@type"), str):
        yield Mismatch(path, f'{_shown(value)}; a mapping with "@type": {ANY_PREFIX}... would be right')
        return
    url = value["@type"]
    type_name = url.rpartition("/")[2]
    if type_name in NEWER or type_name.startswith(
        ("google.protobuf.", "xds.type.v3.TypedStruct", "udpa.type.v1.TypedStruct")
    ):
        return
    message = _message(type_name)
    if message is None:
        yield Mismatch((*path, "@type"), f"there is no type {type_name} here{_meant_type(type_name)}", type_name)
        return
    yield from _in_message(value, message, path)


def _meant_type(type_name: str) -> str:
    module, _, name = type_name.rpartition(".")
    try:
        names = [
            each for each in dir(importlib.import_module(f"{envoy_data_plane.__name__}.{module}")) if each[0].isupper()
        ]
    except ImportError:
        return ""
    return meant(name, names)


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "there is a mapping"
    if isinstance(value, list):
        return "there is a list"
    return f"there is {_plain(value)[:60]!r}" if isinstance(value, str) else f"there is {_plain(value)}"
