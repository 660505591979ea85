"""What the types of records say of their fields: for docs/records.md and for the JSON Schema.

The words are those of the types' own docstrings: that of a field stands below it, and says when it is null, or the
docstring of its type does: "A field is null where ...".
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import types
import typing
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

import msgspec

_NULL = re.compile(r"(?:^|(?<=[.:] ))Null ((?:where|while|without|for|but) .*?)\.(?= |$)")
_NULL_OF_TYPE = re.compile(r"A field is null (where .*?)\.(?= |$)", re.DOTALL)
_NAMES = {str: "string", int: "integer", float: "number", bool: "boolean", Any: "any"}
_TIMES = frozenset({"at", "from", "to"})
_BYTES = frozenset({"bytes", "silence_at_byte"})


class Field(NamedTuple):
    """A member of a JSON object."""

    name: str
    type: str
    """In JSON's words; the parts by their types' names."""
    unit: str
    """Empty where it has none."""
    null: str
    """When it is null; empty where it never is."""
    text: str
    """What else there is to say."""
    may_be_left_out: bool


def described_fields(kind: type[msgspec.Struct]) -> list[Field]:
    """The members of a type in their order. Raises ValueError for one that may be null and does not say when."""
    docs = _docs(kind)
    return [
        _described(kind, field, docs.get(field.name, "")) for field in msgspec.structs.fields(kind) if field.encode_name
    ]


def parts_of(kind: Any) -> list[type[msgspec.Struct]]:
    """A type and those of its parts, each once, in the order in which they are met."""
    found: dict[type[msgspec.Struct], None] = {}
    _add_parts(kind, found)
    return list(found)


def doc_of(kind: type[msgspec.Struct]) -> str:
    """What a type says of itself."""
    return " ".join(inspect.getdoc(kind).split()) if kind.__doc__ else ""  # type: ignore[union-attr]


def _add_parts(kind: Any, found: dict[type[msgspec.Struct], None]) -> None:
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        if kind not in found:
            found[kind] = None
            for field in msgspec.structs.fields(kind):
                _add_parts(field.type, found)
        return
    for inner in typing.get_args(kind):
        _add_parts(inner, found)


def _described(kind: type[msgspec.Struct], field: msgspec.structs.FieldInfo, text: str) -> Field:
    alternatives = typing.get_args(field.type) if isinstance(field.type, types.UnionType) else (field.type,)
    is_left_out = msgspec.UnsetType in alternatives or kind.__struct_config__.omit_defaults
    null, said = "", _NULL.search(text)
    if types.NoneType in alternatives and not kind.__struct_config__.omit_defaults:
        of_type = _NULL_OF_TYPE.search(" ".join(doc_of(each) for each in kind.__mro__[:-1]))
        if said is None and of_type is None:
            raise ValueError(f"{kind.__name__}.{field.name} does not say when it is null")
        null = said[1] if said is not None else of_type[1] if of_type is not None else ""
    rest = " ".join(_NULL.sub("", text).split())
    return Field(field.encode_name, _type(field.type), _unit(field.encode_name, field.type), null, rest, is_left_out)


def _type(kind: Any) -> str:
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        left = [each for each in typing.get_args(kind) if each not in (types.NoneType, msgspec.UnsetType)]
        return " or ".join(map(_type, left))
    inner = typing.get_args(kind)
    match typing.get_origin(kind):
        case origin if origin is list:
            return f"list of {_type(inner[0])}"
        case origin if origin is dict:
            return "object" if inner[1] is Any else f"object of {_type(inner[1])}"
        case origin if origin is tuple:
            return f"[{', '.join(map(_type, inner))}]"
    return _NAMES.get(kind) or str(kind.__name__)


def _unit(name: str, kind: Any) -> str:
    if name.endswith("_ms"):
        return "milliseconds"
    if (name in _BYTES or name.endswith("_bytes")) and "integer" in _type(kind) and "object" not in _type(kind):
        return "bytes"
    return "RFC 3339, UTC" if name in _TIMES or name.endswith("_at") else ""


def _docs(kind: type) -> Mapping[str, str]:
    """The docstrings of a type's fields, its own before those of the types that it extends."""
    found: dict[str, str] = {}
    for each in reversed(kind.__mro__):
        found |= _module_docs(each.__module__).get(each.__name__, {})
    return found


@cache
def _module_docs(module: str) -> Mapping[str, Mapping[str, str]]:
    """By type and field."""
    if not module.startswith("extproc."):
        return {}
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    return {node.name: dict(_field_docs(node)) for node in tree.body if isinstance(node, ast.ClassDef)}


def _field_docs(node: ast.ClassDef) -> typing.Iterator[tuple[str, str]]:
    for before, after in zip(node.body, node.body[1:], strict=False):
        match before, after:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                yield name, " ".join(text.split())
