"""The parts of a configuration that checks and changes are about, each with its place.

Nothing here raises for a configuration of another shape: what is not there, or is something else, is not found.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, Final

from extproc.envoy.config import source
from extproc.envoy.config.files import BOOTSTRAP, MANAGER, Documents
from extproc.envoy.config.findings import Finding, Level
from extproc.envoy.config.source import Place, Pointer, get


@dataclasses.dataclass(frozen=True, slots=True)
class Part:
    """A value in one of the documents."""

    documents: Documents
    file: str
    path: Pointer
    value: Any

    @property
    def place(self) -> Place:
        return self.documents.places[self.file].of(self.path)

    @property
    def name(self) -> str:
        name = self.value.get("name") if isinstance(self.value, dict) else None
        return name if isinstance(name, str) else ""

    def at(self, *path: str | int) -> Part:
        """What stands further down. Where nothing does, a part with the value None, and the place of what is there."""
        return Part(self.documents, self.file, (*self.path, *path), get(self.value, *path))

    def each(self, *path: str | int) -> Iterator[Part]:
        """The items of a list further down."""
        items = get(self.value, *path)
        for index in range(len(items) if isinstance(items, list) else 0):
            yield self.at(*path, index)

    def error(self, text: str) -> Finding:
        """That this is wrong."""
        return Finding(Level.ERROR, self.place, text, self.path)

    def warning(self, text: str) -> Finding:
        """That this costs something."""
        return Finding(Level.WARNING, self.place, text, self.path)

    def found(self, name: str) -> Iterator[Part]:
        """Every member of this name further down."""
        for path, value in source.find(self.value, name, self.path):
            yield Part(self.documents, self.file, path, value)


def document(documents: Documents, file: str) -> Part:
    """A whole file."""
    return Part(documents, file, (), documents[file])


def everything(documents: Documents) -> Iterator[Part]:
    """All files, the bootstrap first."""
    return (document(documents, file) for file in documents)


def resources(documents: Documents, type_name: str) -> Iterator[Part]:
    """The xDS resources whose `@type` ends so, in all files."""
    for whole in everything(documents):
        for resource in whole.each("resources"):
            if str(get(resource.value, "@type")).endswith(type_name):
                yield resource


def clusters(documents: Documents) -> Iterator[Part]:
    """The clusters of the bootstrap and those of all files."""
    yield from document(documents, BOOTSTRAP).each("static_resources", "clusters")
    yield from resources(documents, ".Cluster")


def assignments(documents: Documents) -> dict[str, Part]:
    """The endpoints that stand apart from their clusters, by the name that clusters ask for them by."""
    found = resources(documents, ".ClusterLoadAssignment")
    return {str(get(each.value, "cluster_name")): each for each in found}


def asks_for(cluster: Part) -> str:
    """The name by which a cluster asks for endpoints that stand apart."""
    return str(get(cluster.value, "eds_cluster_config", "service_name") or cluster.name)


def listeners(documents: Documents) -> Iterator[Part]:
    """The listeners of the bootstrap and those of all files."""
    yield from document(documents, BOOTSTRAP).each("static_resources", "listeners")
    yield from resources(documents, ".Listener")


def managers(listener: Part) -> Iterator[Part]:
    """The HTTP connection managers of a listener."""
    for each in listener.found("typed_config"):
        if str(get(each.value, "@type")).endswith(MANAGER):
            yield each


def route_configurations(documents: Documents) -> Iterator[Part]:
    """Those of all files, and those that stand in a connection manager."""
    yield from resources(documents, ".RouteConfiguration")
    for listener in listeners(documents):
        for manager in managers(listener):
            if isinstance(get(manager.value, "route_config"), dict):
                yield manager.at("route_config")


def routes(documents: Documents) -> Iterator[Part]:
    """The routes of all virtual hosts."""
    for configuration in route_configurations(documents):
        for host in configuration.each("virtual_hosts"):
            yield from host.each("routes")


RECORDER: Final = "envoy.filters.http.ext_proc"
"""The usual name of the recorder's filter."""


def ext_procs(manager: Part) -> Iterator[Part]:
    """The ext_proc filters of a connection manager."""
    for each in manager.each("http_filters"):
        if str(get(each.value, "typed_config", "@type")).endswith(".ext_proc.v3.ExternalProcessor"):
            yield each


def recorder(manager: Part) -> Part | None:
    """The ext_proc filter of a connection manager that speaks to the cluster `extproc`; else its first one."""
    filters = list(ext_procs(manager))
    ours = (each for each in filters if sidecar_of(each) == "extproc")
    return next(ours, filters[0] if filters else None)


def sidecar_of(ext_proc: Part) -> str | None:
    """The cluster that an ext_proc filter speaks to."""
    name = get(ext_proc.value, "typed_config", "grpc_service", "envoy_grpc", "cluster_name")
    return name if isinstance(name, str) else None
