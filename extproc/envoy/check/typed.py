"""A configuration held against Envoy's message types, as the package envoy-data-plane declares them.

`read` walks a value beside its type. It gives the value in the one form that is looked for everywhere here, whatever
form of it Envoy takes: `round_robin` and 1 for ROUND_ROBIN, "true" and "1" for true, one thing for a list of it,
lbPolicy for lb_policy, {seconds: 5} for 5s. And it tells each name that the type does not have, each value that is of
another kind, each enum value that does not exist, two members of which one at most may be there. It goes into
`google.protobuf.Any` by its `@type`. The rules are those of Envoy's own JSON parser, protobuf's at its most lenient;
`tests/unit/envoy/test_forms.py` has Envoy as their judge.
"""

from __future__ import annotations

import dataclasses
import difflib
import enum
import functools
import importlib
import math
import re
from collections.abc import Iterator
from typing import Any, Final

import envoy_data_plane
from envoy_data_plane.message_pool import default_message_pool

from extproc.envoy.config.findings import meant
from extproc.envoy.config.source import Pointer

ANY_PREFIX: Final = "type.googleapis.com/"
BOOTSTRAP: Final = "envoy.config.bootstrap.v3.Bootstrap"
RESOURCES: Final = "envoy.service.discovery.v3.DiscoveryResponse"
"""What a file of an xDS `path_config_source` holds."""

NEWER: Final = frozenset(
    {
        "envoy.extensions.config.validators.dynamic_modules.v3.DynamicModuleConfigValidator",
        "envoy.extensions.filters.http.ai_protocol_manager.v3.AiProtocolManagerPerRoute",
        "envoy.extensions.filters.http.aws_eventstream_parser.v3.AwsEventstreamParser",
        "envoy.extensions.filters.http.body_size_limit.v3.BodySizeLimit",
        "envoy.extensions.health_checkers.udp.v3.UdpHealthCheck",
        "envoy.extensions.http.ai_filters.request_info.v3.RequestInfo",
        "envoy.extensions.http.ai_filters.schema_validation.v3.SchemaValidation",
        "envoy.extensions.http.ai_filters.transcoder.v3.Transcoder",
        "envoy.extensions.http.early_header_mutation.dynamic_modules.v3.DynamicModuleEarlyHeaderMutation",
        "envoy.extensions.http.header_formatters.dynamic_modules.v3.DynamicModuleHeaderFormatter",
        "envoy.extensions.internal_redirect.filter_state.v3.FilterStateConfig",
        "envoy.extensions.matching.http.dynamic_modules.v3.DynamicModuleDataInput",
        "envoy.extensions.queue_policy.fifo.v3.FifoQueuePolicyConfig",
        "envoy.extensions.rate_limit_descriptors.jwt_claim.v3.Descriptor",
        "envoy.extensions.router.cluster_specifiers.dynamic_modules.v3.DynamicModuleClusterSpecifier",
        "envoy.extensions.router.cluster_specifiers.priority_group.v3.PriorityGroupClusterSpecifier",
        "envoy.extensions.router.route_specifiers.dynamic_modules.v3.DynamicModuleRouteSpecifier",
        "envoy.extensions.transport_sockets.tls.handshakers.dynamic_modules.v3.DynamicModuleTlsHandshaker",
        "envoy.extensions.watchdog.backtrace_action.v3.BacktraceActionConfig",
        "xds.type.matcher.v3.CelMatcher",
        "xds.type.matcher.v3.HttpAttributesCelMatchInput",
        "xds.type.matcher.v3.IPMatcher",
        "xds.type.matcher.v3.ServerNameMatcher",
    }
)
"""Types of Envoy 1.40 that envoy-data-plane 2.2 does not have. What is in them is left to Envoy's own validation."""

_DURATION: Final = re.compile(r"-?[0-9]{1,12}(\.[0-9]{1,9})?s")
_WHOLE: Final = re.compile(r"[+-]?[0-9]{1,20}")
_HEX: Final = re.compile(r"[+-]?0[xX][0-9a-fA-F]{1,16}")
_FRACTION: Final = re.compile(
    r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,4})?|[+-]?(inf|infinity|nan)", re.IGNORECASE
)
_BITS: Final = {
    **dict.fromkeys(("int32", "sint32", "sfixed32"), (-(2**31), 2**31)),
    **dict.fromkeys(("int64", "sint64", "sfixed64"), (-(2**63), 2**63)),
    **dict.fromkeys(("uint32", "fixed32"), (0, 2**32)),
    **dict.fromkeys(("uint64", "fixed64"), (0, 2**64)),
}
_WRAPPED: Final = {
    **{
        f"{name}Value": name.lower()
        for name in ("Int32", "Int64", "UInt32", "UInt64", "Bool", "String", "Float", "Double")
    },
    "BytesValue": "bytes",
}
_NOTHING: Final = {"bool": False, "string": "", "bytes": ""}
_TRUTH: Final = {
    **dict.fromkeys(("true", "t", "yes", "y", "1"), True),
    **dict.fromkeys(("false", "f", "no", "n", "0"), False),
}
_SHORT: Final = range(-(2**31), 2**31)
_OPAQUE: Final = frozenset({"Struct", "Value", "ListValue", "Empty", "FieldMask"})


@dataclasses.dataclass(frozen=True, slots=True)
class Mismatch:
    """A value that is not as its type has it."""

    path: Pointer
    text: str
    name: str = ""
    """The field, the type or the enum value that we do not know, if that is what is wrong. Another version of Envoy
    may know it."""


@dataclasses.dataclass(slots=True)
class Reading:
    """A value in the form that is looked for, and everything in it that a message of its type cannot be read from."""

    value: Any = None
    mismatches: list[Mismatch] = dataclasses.field(default_factory=list)
    stood: dict[Pointer, Pointer] = dataclasses.field(default_factory=dict)
    """Where what is at a path of the value stood in the one that was read, where that differs."""


def read(value: Any, type_name: str, path: Pointer = ()) -> Reading:
    """A value read as a message of this type, `envoy.config.route.v3.Route`."""
    message = _message(type_name)
    assert message is not None, type_name
    reading = Reading()
    reading.value = _Walk(reading).message(value, message, path)
    return reading


def mismatches(value: Any, type_name: str, path: Pointer = ()) -> Iterator[Mismatch]:
    """Everything in a value that a message of this type cannot be read from."""
    yield from read(value, type_name, path).mismatches


@functools.cache
def _message(type_name: str) -> Any:
    """The class of a message by the name that Envoy has for it; None when the package has none of that name."""
    parts = type_name.split(".")
    package = next((end for end, part in enumerate(parts) if part[:1].isupper()), len(parts))
    try:
        importlib.import_module(".".join((envoy_data_plane.__name__, *parts[:package])))
    except (ImportError, ValueError):
        return None
    return default_message_pool.url_to_type.get(f"{ANY_PREFIX}{type_name}")


@functools.cache
def _known(message: Any) -> dict[str, str]:
    """The members of a message by the two names that each has, with that in Envoy's documentation."""
    names = [name.rstrip("_") for name in message._betterproto.meta_by_field_name]  # noqa: SLF001
    return {**{_camel(name): name for name in names}, **{name: name for name in names}}


@functools.cache
def _fields(message: Any) -> dict[str, tuple[Any, Any, Any]]:
    """Of each member what is known of it, the class of its values, and that of the values of a map."""
    # The one name of betterproto2 that is not documented; test_typed.py holds it to what is used here.
    types = message._betterproto  # noqa: SLF001
    return {
        name.rstrip("_"): (meta, types.cls_by_field[name], types.cls_by_field.get(f"{name}.value"))
        for name, meta in types.meta_by_field_name.items()
    }


def _camel(name: str) -> str:
    return re.sub(r"_([a-z0-9])", lambda match: match[1].upper(), name)


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", name).lower()


class _Walk:
    """One value beside its type. Each method gives what it was given in the form that is looked for."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading

    def _wrong(self, path: Pointer, text: str, name: str = "") -> None:
        self._reading.mismatches.append(Mismatch(path, text, name))

    def _was(self, path: Pointer) -> Pointer:
        """Where what is at a path now stood."""
        stood = self._reading.stood
        end = next((end for end in range(len(path), 0, -1) if path[:end] in stood), 0)
        return (*stood[path[:end]], *path[end:]) if end else path

    def message(self, value: Any, message: Any, path: Pointer) -> Any:
        package, name = message.__module__, message.__name__
        if package.endswith("google.protobuf") and name in _OPAQUE:
            if name == "Struct" and not isinstance(value, dict):
                self._wrong(path, f"expected a mapping, got {_shown(value)}")
            return value
        if package.endswith("google.protobuf") and name == "Any":
            return self._any(value, path)
        if not isinstance(value, dict):
            self._wrong(path, f"expected a mapping ({name}), got {_shown(value)}")
            return value
        return self._members(value, message, path)

    def _members(self, value: dict[str, Any], message: Any, path: Pointer) -> dict[str, Any]:
        known, fields = _known(message), _fields(message)
        chosen: dict[str, str] = {}
        made: dict[str, Any] = {}
        for member, item in value.items():
            name = known.get(member)
            if name is None:
                made[member] = item
                if member != "@type":
                    text = f"{message.__name__} has no {member}{meant(_snake(member), fields)}"
                    self._wrong((*path, member), text, member)
                continue
            here = (*path, name)
            if name != member:
                self._reading.stood[here] = (*self._was(path), member)
            if item is None:
                made[name] = None
                continue
            meta, kind, of_map = fields[name]
            if meta.group is not None:
                if meta.group in chosen and chosen[meta.group] != name:
                    text = f"{member} and {chosen[meta.group]} exclude each other: expected one of them"
                    self._wrong(here, text)
                chosen[meta.group] = name
            made[name] = self._field(item, meta, kind, of_map, here)
        return made

    def _field(self, value: Any, meta: Any, kind: Any, of_map: Any, path: Pointer) -> Any:
        if meta.map_meta is not None:
            if not isinstance(value, dict):
                self._wrong(path, f"expected a mapping, got {_shown(value)}")
                return value
            return {key: self._value(item, meta.map_meta[1], of_map, (*path, key)) for key, item in value.items()}
        if not meta.repeated:
            return self._value(value, meta, kind, path)
        items = list(_flat(value))
        was = self._was(path)
        stood = {(*path, index): (*was, *way) for index, (_, way) in enumerate(items) if way != (index,)}
        self._reading.stood |= stood
        return [self._value(item, meta, kind, (*path, index)) for index, (item, _) in enumerate(items)]

    def _value(self, value: Any, meta: Any, kind: Any, path: Pointer) -> Any:
        if meta.proto_type == "message" and meta.unwrap is None:
            # Of a list or a map; Envoy reads nothing as a message with nothing in it.
            return self.message({} if value is None else value, kind, path)
        if value is None:
            return value
        proto_type = meta.proto_type
        if meta.unwrap is not None:
            # A google.protobuf.UInt32Value is written as its number, or whole.
            wrapper = meta.unwrap().__name__
            proto_type = _WRAPPED.get(wrapper, wrapper)
            if isinstance(value, dict) and wrapper in _WRAPPED and value.keys() <= {"value"}:
                self._reading.stood[path] = (*self._was(path), *value)
                value = value.get("value", _NOTHING.get(proto_type, 0))
        made, wanted = _scalar(value, proto_type, kind)
        if wanted is not None:
            unknown = proto_type == "enum" and not isinstance(value, bool | list | dict) and wanted.startswith("one of")
            self._wrong(path, f"expected {wanted}, got {_shown(value)}", str(value) if unknown else "")
        return made

    def _any(self, value: Any, path: Pointer) -> Any:
        if value == {}:
            return value  # nothing, and so of no type
        if not isinstance(value, dict) or not isinstance(value.get("@type"), str):
            self._wrong(path, f'expected a mapping with "@type": {ANY_PREFIX}..., got {_shown(value)}')
            return value
        type_name = value["@type"].rpartition("/")[2]
        if type_name in NEWER or type_name.startswith(
            ("google.protobuf.", "xds.type.v3.TypedStruct", "udpa.type.v1.TypedStruct")
        ):
            return value
        message = _message(type_name)
        if message is None:
            text = f"there is no type {type_name} here{_meant_type(type_name)}"
            self._wrong((*path, "@type"), text, type_name)
            return value
        return self.message(value, message, path)


def _flat(value: Any, way: Pointer = ()) -> Iterator[tuple[Any, Pointer]]:
    """The items of a list, and where each stands in it. A value is a list of one, and lists in it are nothing more."""
    if not isinstance(value, list):
        yield value, way
        return
    for index, item in enumerate(value):
        yield from _flat(item, (*way, index))


def _scalar(value: Any, proto_type: str, kind: Any) -> tuple[Any, str | None]:
    """A value in its form, and what was expected in its place where it is none."""
    if proto_type == "enum":
        return _enum(value, kind)
    if proto_type == "Duration":
        return _duration(value)
    if proto_type == "Timestamp":
        fine = isinstance(value, str | dict)
        return value, None if fine else "a time such as 2026-11-21T03:12:00Z"
    if proto_type == "bool":
        truth = value if isinstance(value, bool) else _TRUTH.get(value.lower()) if isinstance(value, str) else None
        return (value, "true or false") if truth is None else (truth, None)
    if proto_type in _BITS:
        return _integer(value, *_BITS[proto_type])
    if proto_type in ("float", "double"):
        number = _whole(value)
        made = value if number is None or number not in _SHORT else number
        return made, None if _is_number(value) else "a number"
    return _string(value)


def _string(value: Any) -> tuple[Any, str | None]:
    if isinstance(value, float) and math.isfinite(value):
        return str(value), None  # which Envoy's YAML reads as a string
    if isinstance(value, str):
        return value, None
    return value, "a string" if isinstance(value, dict | list) else f'a string, "{_plain(value)}" in quotes'


def _duration(value: Any) -> tuple[Any, str | None]:
    wanted = "a duration such as 5s or 0.25s"
    if isinstance(value, dict) and value.keys() <= {"seconds", "nanos"}:
        seconds, no_seconds = _integer(value.get("seconds") or 0, *_BITS["int64"])
        nanos, no_nanos = _integer(value.get("nanos") or 0, *_BITS["int32"])
        if no_seconds or no_nanos:
            return value, wanted
        fraction = f".{int(nanos):09d}".rstrip("0") if int(nanos) > 0 else ""
        return f"{seconds}{fraction}s", None
    return value, None if isinstance(value, str) and _DURATION.fullmatch(value) else wanted


def _integer(value: Any, least: int, end: int) -> tuple[Any, str | None]:
    number = _whole(value)
    if number is None:
        return value, "a whole number"
    if number < least:
        return value, "a number from 0" if least == 0 else f"a number from {least}"
    if number >= end:
        return value, f"a number up to {end - 1}"
    # To Envoy's YAML a longer one is a string, and so it is read again here.
    return (number if number in _SHORT else value), None


def _whole(value: Any) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, str) and _WHOLE.fullmatch(value):
        return int(value)
    if isinstance(value, str) and _HEX.fullmatch(value):
        return int(value, 16)
    if isinstance(value, str) and _FRACTION.fullmatch(value):
        value = float(value)
    return int(value) if isinstance(value, float) and value.is_integer() else None


def _is_number(value: Any) -> bool:
    if isinstance(value, str):
        text = value.strip()
        return _FRACTION.fullmatch(text) is not None or _HEX.fullmatch(text) is not None
    return isinstance(value, int | float) and not isinstance(value, bool)


def _enum(value: Any, kind: type[enum.IntEnum]) -> tuple[Any, str | None]:
    names = _names(kind)
    number = int(value) if isinstance(value, str) and _WHOLE.fullmatch(value.strip()) else value
    if isinstance(number, int) and number not in _SHORT:
        return value, f"a value of {', '.join(names)}"
    if isinstance(number, int) and not isinstance(number, bool) and number in names.values():
        return next(name for name, each in names.items() if each == number), None
    if isinstance(value, str) and (name := {each.lower(): each for each in names}.get(value.lower())):
        return name, None
    short = [member.name for member in kind]
    close = difflib.get_close_matches(str(value).upper(), [*names, *short], 1)
    shown = ", ".join(names)
    return value, f"{close[0]}, or another of {shown}" if close else f"one of {shown}"


@functools.cache
def _names(kind: Any) -> dict[str, int]:
    """The names of an enum's values, as Envoy has them. The package leaves out what they share: FOO_UNSPECIFIED is its
    UNSPECIFIED."""
    return {member.proto_name or name: member.value for name, member in kind.__members__.items()}


def _meant_type(type_name: str) -> str:
    package, _, name = type_name.rpartition(".")
    _message(type_name)  # which loads the types beside it
    prefix = f"{ANY_PREFIX}{package}."
    names = [url.removeprefix(prefix) for url in default_message_pool.url_to_type if url.startswith(prefix)]
    return meant(name, names)


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    return repr(_plain(value)[:60]) if isinstance(value, str) else _plain(value)
