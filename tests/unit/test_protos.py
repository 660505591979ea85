"""Our declarations of Envoy's messages agree with Envoy's, and the generated modules with our declarations.

The judge is envoy-data-plane: generated from Envoy's own files by another compiler, for another runtime.
Every message, field and enum value below is found by walking our descriptors, so that a new one is compared
as soon as it is declared.
"""

from __future__ import annotations

import dataclasses
import datetime
import subprocess
import sys
import typing
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import betterproto2
import pytest
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.data.accesslog import v3 as entries
from envoy_data_plane.envoy.extensions.filters.http.ext_proc import v3 as filters
from envoy_data_plane.envoy.service.accesslog import v3 as access_logs
from envoy_data_plane.envoy.service.ext_proc import v3 as service
from envoy_data_plane.envoy.type import v3 as types
from envoy_data_plane.google.protobuf import Struct
from google.protobuf import json_format, message_factory, struct_pb2, unknown_fields, wrappers_pb2
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message

from extproc._proto import access_log_pb2, ext_proc_pb2

PROTOS = Path(__file__).parents[2] / "protos"
GENERATED = Path(ext_proc_pb2.__file__).parent

Field = Any
"""A FieldDescriptor. Its stubs make optional what is certain once the type of the field is known."""

FILES: list[Any] = [ext_proc_pb2.DESCRIPTOR, access_log_pb2.DESCRIPTOR]


def with_nested(messages: Iterable[Descriptor]) -> Iterator[Descriptor]:
    """These messages and those declared in them; the entries of maps are no messages of their own."""
    for message in messages:
        if not message.GetOptions().map_entry:
            yield message
            yield from with_nested(message.nested_types)


MESSAGES: list[Descriptor] = [each for file in FILES for each in with_nested(file.message_types_by_name.values())]
ENUMS: list[EnumDescriptor] = [
    *(enum for message in MESSAGES for enum in message.enum_types),
    *(enum for file in FILES for enum in file.enum_types_by_name.values()),
]
MEMBERS: list[Field] = [member for message in MESSAGES for group in message.oneofs for member in group.fields]

KINDS = {
    FieldDescriptor.TYPE_BOOL: betterproto2.TYPE_BOOL,
    FieldDescriptor.TYPE_BYTES: betterproto2.TYPE_BYTES,
    FieldDescriptor.TYPE_ENUM: betterproto2.TYPE_ENUM,
    FieldDescriptor.TYPE_MESSAGE: betterproto2.TYPE_MESSAGE,
    FieldDescriptor.TYPE_STRING: betterproto2.TYPE_STRING,
    FieldDescriptor.TYPE_UINT32: betterproto2.TYPE_UINT32,
    FieldDescriptor.TYPE_UINT64: betterproto2.TYPE_UINT64,
}

DETAILS: dict[str, Any] = {"text": "Grüße", "number": -1.5, "list": [True, None, {"deep": {}}]}
MOMENT = datetime.datetime(2026, 11, 21, 3, 12, tzinfo=datetime.UTC)
DURATION = datetime.timedelta(seconds=3, microseconds=250_000)


def by_name(descriptor: Any) -> str:
    """A descriptor's name as the test's id."""
    return str(descriptor.full_name.removeprefix("extproc.wire."))


def envoys(descriptor: Descriptor | EnumDescriptor) -> Any:
    """Envoy's class for a message or an enum of ours, which has the same name, joined when nested."""
    name = by_name(descriptor)
    wanted = name.replace(".", "").lower()  # the other compiler writes HTTPAccessLogEntry as HttpAccessLogEntry
    modules = (service, filters, core, types, access_logs, entries)
    found = [getattr(module, each) for module in modules for each in dir(module) if each.lower() == wanted]
    if name == "HttpStatus.StatusCode":  # ours is nested, so that its values need no prefix
        return types.StatusCode
    return next(filter(None, found))


def metadata(field: Field) -> betterproto2.FieldMetadata:
    """What envoy-data-plane knows about Envoy's field of this name."""
    fields = {each.name: each for each in dataclasses.fields(envoys(field.containing_type))}
    return betterproto2.FieldMetadata.get(fields[field.name])


def is_map(field: Field) -> bool:
    """Whether a repeated field stands for a map."""
    return bool(field.message_type and field.message_type.GetOptions().map_entry)


def named(annotation: Any) -> set[str]:
    """The names of the classes in a type annotation."""
    inner = typing.get_args(annotation)
    return set().union(*map(named, inner)) if inner else {getattr(annotation, "__name__", "")}


def filled(message: Descriptor, member: Field | None = None) -> tuple[Message, Any]:
    """One message with every field set: ours and Envoy's, made from the same values.

    Of each oneof the first member is set, or `member` where that is one of them.
    """
    ours: dict[str, Any] = {}
    theirs: dict[str, Any] = {}
    for field in message.fields:
        chosen = field.containing_oneof and field.containing_oneof.fields[0]
        if member is not None and member.containing_oneof == field.containing_oneof:
            chosen = member
        if chosen in (None, field):
            ours[field.name], theirs[field.name] = value(field)
    return message_factory.GetMessageClass(message)(**ours), envoys(message)(**theirs)


def value(field: Field) -> tuple[Any, Any]:
    """A value that is not the field's default: for our constructor, and for Envoy's."""
    if is_map(field):
        ours, theirs = value(field.message_type.fields_by_name["value"])
        return {"name.space": ours}, {"name.space": theirs}
    match field.type:
        case FieldDescriptor.TYPE_MESSAGE:
            ours, theirs = message_value(field.message_type)
        case FieldDescriptor.TYPE_ENUM:
            number = field.enum_type.values[-1].number
            ours, theirs = number, envoys(field.enum_type)(number)
        case FieldDescriptor.TYPE_BOOL:
            ours = theirs = True
        case FieldDescriptor.TYPE_BYTES:
            ours = theirs = b"\x00\xff\n" + field.name.encode()
        case FieldDescriptor.TYPE_STRING:
            ours = theirs = "ü " + field.name
        case _:
            ours = theirs = 2**32 - 1
    return ([ours, ours], [theirs, theirs]) if field.is_repeated else (ours, theirs)


def message_value(message: Descriptor) -> tuple[Any, Any]:
    """The same for a field that holds a message."""
    match message.full_name:
        case "google.protobuf.Struct":
            struct = struct_pb2.Struct()
            struct.update(DETAILS)
            return struct, Struct.from_dict(DETAILS)
        case "google.protobuf.Duration":
            return DURATION, DURATION
        case "google.protobuf.Timestamp":
            return MOMENT, MOMENT
        case "google.protobuf.UInt32Value":
            return wrappers_pb2.UInt32Value(value=7), 7
        case _:
            return filled(message)


def plain(message: Message) -> dict[str, Any]:
    """Our message as plain values, the fields that are set only."""
    found: dict[str, Any] = {}
    for field, content in message.ListFields():
        if is_map(field):
            found[field.name] = {
                key: plain_message(content[key]) if isinstance(content[key], Message) else content[key]
                for key in content
            }
        elif field.message_type is None:
            found[field.name] = list(content) if field.is_repeated else content
        elif field.is_repeated:
            found[field.name] = [plain(each) for each in content]
        else:
            found[field.name] = plain_message(content)
    return found


def plain_message(message: Message) -> Any:
    """The same for a message that may be one of the well-known ones."""
    match message.DESCRIPTOR.full_name:
        case "google.protobuf.Struct":
            return json_format.MessageToDict(message)
        case "google.protobuf.Duration":
            return message.ToTimedelta()  # type: ignore[attr-defined]
        case "google.protobuf.Timestamp":
            return message.ToDatetime(datetime.UTC)  # type: ignore[attr-defined]
        case "google.protobuf.UInt32Value":
            return message.value  # type: ignore[attr-defined]
        case _:
            return plain(message)


def envoys_plain(message: Any) -> dict[str, Any]:
    """Envoy's message as the same plain values."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(message):
        content = getattr(message, field.name)
        if message.is_set(field.name):
            found[field.name] = envoys_value(content)
    return found


def envoys_value(content: Any) -> Any:
    """The same for one value."""
    match content:
        case list():
            return [envoys_value(each) for each in content]
        case dict():
            return {key: envoys_value(each) for key, each in content.items()}
        case Struct():
            return content.to_dict()
        case betterproto2.Message():
            return envoys_plain(content)
        case _:
            return content


def numbers_of_unknown(message: Message) -> set[int]:
    """The numbers of the fields that were read without being declared."""
    unknown: Any = unknown_fields.UnknownFieldSet(message)
    return {each.field_number for each in unknown}


def test_generated_modules_are_current(tmp_path: Path) -> None:
    """`make proto` would change nothing: the generated modules are those of the declarations."""
    names = sorted(path.name for path in PROTOS.glob("*.proto"))
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-Iextproc/_proto={PROTOS}"]
    outputs = [f"--python_out={tmp_path}", f"--pyi_out={tmp_path}"]
    subprocess.run([*command, *outputs, *(f"extproc/_proto/{name}" for name in names)], check=True)
    fresh = {path.name: path.read_bytes() for path in (tmp_path / "extproc" / "_proto").iterdir()}
    shipped = {path.name: path.read_bytes() for path in GENERATED.glob("*_pb2.py*")}
    assert fresh == shipped


def test_nothing_is_registered_under_a_name_of_envoys() -> None:
    """File and package carry our name in the process-wide pool, so that no other package's messages clash."""
    assert ext_proc_pb2.DESCRIPTOR.name == "extproc/_proto/ext_proc.proto"
    assert ext_proc_pb2.DESCRIPTOR.package == "extproc.wire"


@pytest.mark.parametrize("message", MESSAGES, ids=by_name)
def test_fields_are_envoys(message: Descriptor) -> None:
    """Every field has the number, the type and the cardinality of Envoy's field of that name."""
    hints = typing.get_type_hints(envoys(message))
    field: Field
    for field in message.fields:
        theirs = metadata(field)
        assert field.number == theirs.number, field.full_name
        assert (field.containing_oneof and field.containing_oneof.name) == theirs.group, field.full_name
        if is_map(field):
            assert theirs.map_meta is not None, field.full_name
            key, content = field.message_type.fields
            assert [KINDS[key.type], KINDS[content.type]] == [each.proto_type for each in theirs.map_meta]
            if content.message_type is not None:
                assert content.message_type.name in named(hints[field.name]), field.full_name
            continue
        assert theirs.map_meta is None, field.full_name
        assert KINDS[field.type] == theirs.proto_type, field.full_name
        assert field.is_repeated == bool(theirs.repeated), field.full_name
        assert field.has_presence == bool(theirs.optional), field.full_name
        if theirs.unwrap is not None:
            assert field.message_type.name == theirs.unwrap().__name__, field.full_name
        elif field.message_type is not None:
            assert envoys_name(field) in named(hints[field.name]), field.full_name
        elif field.enum_type is not None:
            assert envoys(field.enum_type).__name__ in named(hints[field.name]), field.full_name


def envoys_name(field: Field) -> str:
    """The name of Envoy's class for the message in this field."""
    message = field.message_type
    return str(message.name if message.file.package == "google.protobuf" else envoys(message).__name__)


@pytest.mark.parametrize("enum", ENUMS, ids=by_name)
def test_enum_values_are_envoys(enum: EnumDescriptor) -> None:
    """Every value of an enum has the number of Envoy's value of that name."""
    theirs = envoys(enum)
    names = {each.name: each.number for each in enum.values}
    assert names == {each.name: each.value for each in theirs if each.name in names}


def test_modes_are_complete() -> None:
    """Of the modes that Envoy may name in `protocol_config`, none is missing."""
    modes = ext_proc_pb2.ProcessingMode.BodySendMode
    assert dict(modes.items()) == {each.name: each.value for each in filters.ProcessingModeBodySendMode}


@pytest.mark.parametrize("message", MESSAGES, ids=by_name)
def test_ours_is_read_by_envoy(message: Descriptor) -> None:
    """What we encode says the same, field by field, to the other implementation."""
    ours, theirs = filled(message)
    read = envoys(message).parse(ours.SerializeToString())
    assert envoys_plain(read) == envoys_plain(theirs) == plain(ours)


@pytest.mark.parametrize("message", MESSAGES, ids=by_name)
def test_envoys_is_read_by_us(message: Descriptor) -> None:
    """What the other implementation encodes says the same to us, and nothing of it is unknown."""
    ours, theirs = filled(message)
    read = type(ours).FromString(bytes(theirs))
    assert read == ours
    assert numbers_of_unknown(read) == set()


@pytest.mark.parametrize("member", MEMBERS, ids=by_name)
def test_oneof_members_agree(member: Field) -> None:
    """Each member of each oneof goes both ways and is the one that is then set."""
    ours, theirs = filled(member.containing_type, member)
    read = type(ours).FromString(bytes(theirs))
    assert read == ours
    assert member.containing_oneof is not None
    assert read.WhichOneof(member.containing_oneof.name) == member.name
    assert envoys_plain(type(theirs).parse(ours.SerializeToString())) == plain(ours)


@pytest.mark.parametrize("message", MESSAGES, ids=by_name)
def test_unknown_fields_are_tolerated(message: Descriptor) -> None:
    """A field that only a newer Envoy knows changes nothing, wherever it stands, and is kept."""
    ours, _ = filled(message)
    varint, text = b"\xd0\x3e\x01", b"\xda\x3e\x03new"  # fields 1002 and 1003
    read = type(ours).FromString(varint + ours.SerializeToString() + text)
    assert plain(read) == plain(ours)
    assert numbers_of_unknown(read) == {1002, 1003}
    assert type(ours).FromString(read.SerializeToString()) == read


def test_unknown_enum_values_are_tolerated() -> None:
    """A body mode and a status that we have no name for arrive as their numbers."""
    mode = ext_proc_pb2.ProtocolConfiguration.FromString(b"\x08\x63")
    assert mode.request_body_mode == 99
    status = types.HttpStatus(code=types.StatusCode.Locked)
    assert ext_proc_pb2.HttpStatus.FromString(bytes(status)).code == 423
