"""What Envoy says when it refuses a configuration: the reason out of its log, and the place of what it is about.

Envoy names no line. It names, as the case may be, the path in the whole

    invalid JSON in ... @ static_resources.listeners[0].filter_chains[0]...: no such field: 'max_request_byte'

or the way through its messages, after a copy of the outermost of them

    Proto constraint validation failed (ClusterValidationError.HealthChecks[0]: embedded message failed validation |
    caused by HealthCheckValidationError.Timeout: value is required)

or a value, or the name of a cluster, a route or a virtual host; or nothing of all this.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

from extproc.envoy.config import source, xds
from extproc.envoy.config.files import BOOTSTRAP, Documents
from extproc.envoy.config.source import Place, Pointer, get
from extproc.envoy.config.xds import Part

Origins = Mapping[Pointer, Part]
"""What stands at a path of the bootstrap that Envoy got, and is from elsewhere: routes, and clusters."""

_USUAL: Final = re.compile(r"^\[[^\]]*\]\[[0-9]+\]\[(?:info|debug|trace|warning)\]")
_HEAD: Final = re.compile(r"^\[[^\]]*\]\[[0-9]+\]\[\w+\]\[\w+\] \[[^\]]*\] ")
_BEGINNING: Final = re.compile(r"^error initializing (?:config|configuration) '[^']*': ")
_CONSTRAINT: Final = "Proto constraint validation failed "
_DUMP: Final = re.compile(r"goo\.gle/\w+\s*")
_REQUIRED: Final = re.compile(r'field: "(\w+)", reason: ')
_UNREADABLE: Final = re.compile(r"\(offset [0-9]+\): (.*?)\)(?:: \{| has unknown fields)")
_NO_FIELD: Final = re.compile(r"no such field: '([^']+)'")
_STEP: Final = re.compile(r"(\w+)ValidationError\.(\w+)(?:\[(\w+)\])?: ")
_JSON_PATH: Final = re.compile(r" @ ([\w.<>\[\]]+): ")
_QUOTED: Final = re.compile(r"['\"]([^'\"]+)['\"]")
_SHOWN: Final = 500


def said(stderr: str) -> str:
    """What it says, on one line, without the copy of the configuration."""
    lines = [_HEAD.sub("", line) for line in stderr.splitlines() if line and not _USUAL.match(line)]
    line = _BEGINNING.sub("", " ".join(" ".join(lines).split())) or "it does not say why"
    before, constraint, after = line.rpartition(_CONSTRAINT)
    return constraint + after if constraint else _DUMP.sub("", before + after)


def reason(said: str) -> str:
    """The last cause of all that it says: `port_value: value must be less than or equal to 65535`."""
    if said.startswith(_CONSTRAINT):
        cause = said.removeprefix(_CONSTRAINT)[1:-1].rpartition(" | caused by ")[2]
        cause = _STEP.sub(lambda step: f"{_snake(step[2])}: ", _REQUIRED.sub(r"\1: ", cause))
    else:
        unreadable = _UNREADABLE.search(said)
        cause = unreadable[1] if unreadable else said
    return cause[:_SHOWN]


def place_of(said: str, documents: Documents, origins: Origins) -> Place:
    """The place of what it is about; the top of the bootstrap when it does not tell."""
    for part in (*_by_path(said, documents, origins), *_by_steps(said, documents, origins)):
        places, field = documents.places[part.file], _NO_FIELD.search(said)
        return places.of_name((*part.path, field[1])) if field else part.place
    for part in (*_by_name(said, documents), *_by_value(said, documents)):
        return part.place
    return documents.places[BOOTSTRAP].of(())


def _by_path(said: str, documents: Documents, origins: Origins) -> Iterator[Part]:
    if found := _JSON_PATH.search(said):
        steps = re.findall(r"\[([0-9]+)\]|([A-Za-z_]\w*)", found[1].replace("<any>", ""))
        yield _origin(tuple(int(index) if index else name for index, name in steps), documents, origins)


def _by_steps(said: str, documents: Documents, origins: Origins) -> Iterator[Part]:
    chain = _STEP.findall(said)
    if not chain:
        return
    steps: list[str | int] = []
    for _, field, index in chain:
        steps.append(_snake(field))
        steps += [int(index) if index.isdigit() else index] if index else []
    tops = [top.path for top in _messages(chain[0][0], documents)]
    found = [_origin((*top, *steps), documents, origins) for top in tops]
    yield from sorted(found, key=lambda each: each.value is None)[:1]


def _snake(field: str) -> str:
    return re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", field).lower()


def _messages(name: str, documents: Documents) -> Iterator[Part]:
    """The messages of a type within the bootstrap."""
    whole = xds.document(documents, BOOTSTRAP)
    if name == "Bootstrap":
        yield whole
    for each in whole.found("typed_config"):
        if str(get(each.value, "@type")).endswith(f".{name}"):
            yield each


def _origin(path: Pointer, documents: Documents, origins: Origins) -> Part:
    for end in range(len(path), 0, -1):
        if path[:end] in origins:
            return origins[path[:end]].at(*path[end:])
    return xds.document(documents, BOOTSTRAP).at(*path)


def _by_name(said: str, documents: Documents) -> Iterator[Part]:
    hosts = (host for each in xds.route_configurations(documents) for host in each.each("virtual_hosts"))
    for part in (*xds.clusters(documents), *xds.routes(documents), *hosts):
        if part.name and re.search(rf"(?<![\w.-]){re.escape(part.name)}(?![\w.-])", said):
            yield part


def _by_value(said: str, documents: Documents) -> Iterator[Part]:
    quoted = set(_QUOTED.findall(said))
    for whole in xds.everything(documents):
        for path, value in source.scalars(whole.value):
            if value in quoted:
                yield whole.at(*path)
