"""What one part of a configuration says of another: names that lead nowhere, that stand twice, that nobody uses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from extproc.envoy.config import source, xds
from extproc.envoy.config.files import Documents
from extproc.envoy.config.findings import Finding, Level, meant
from extproc.envoy.config.source import get
from extproc.envoy.config.xds import Part

_OURS: Final = frozenset({"extproc", "otlp"})
"""Clusters that `up` and `publish` know by name."""


def findings(documents: Documents) -> Iterator[Finding]:
    """All of them, in no order."""
    clusters = list(xds.clusters(documents))
    used = list(_cluster_references(documents))
    yield from _missing(used, {each.name for each in clusters})
    if not any(map(_by_request, xds.routes(documents))):
        names = [each.name for each in clusters]
        yield from _unused(clusters, {str(each.value) for each in used} | _other_uses(documents, names))
    yield from _twice(clusters, "cluster")
    yield from _twice(xds.listeners(documents), "listener")
    for configuration in xds.route_configurations(documents):
        hosts = list(configuration.each("virtual_hosts"))
        yield from _twice(hosts, "virtual host")
        yield from _domains_twice(hosts)
        for host in hosts:
            yield from _twice(host.each("routes"), "route", Level.WARNING)
    yield from _route_configurations(documents)
    yield from _endpoints(documents)
    yield from _filter_names(documents)
    yield from _watched_files(documents)
    yield from _secrets(documents)


def _cluster_references(documents: Documents) -> Iterator[Part]:
    """Every place where a cluster is named."""
    for route in xds.routes(documents):
        yield from _named(route.at("route", "cluster"))
        for weighted in route.each("route", "weighted_clusters", "clusters"):
            yield from _named(weighted.at("name"))
        for mirror in route.each("route", "request_mirror_policies"):
            yield from _named(mirror.at("cluster"))
    for whole in xds.everything(documents):
        for service in whole.found("envoy_grpc"):
            yield from _named(service.at("cluster_name"))
        for uri in (*whole.found("http_uri"), *whole.found("uri")):
            yield from _named(uri.at("cluster"))
    for cluster in xds.clusters(documents):
        aggregate = cluster.at("cluster_type", "typed_config")
        if str(get(aggregate.value, "@type")).endswith(".aggregate.v3.ClusterConfig"):
            for member in aggregate.each("clusters"):
                yield from _named(member)


def _named(part: Part) -> Iterator[Part]:
    if isinstance(part.value, str) and part.value:
        yield part


def _missing(used: Iterable[Part], known: set[str]) -> Iterator[Finding]:
    for each in used:
        if each.value not in known:
            text = f"there is no cluster {each.value}{meant(each.value, known)}"
            yield each.error(text)


def _by_request(route: Part) -> bool:
    """Whether a route takes the name of its cluster from the request."""
    names = ("cluster_header", "cluster_specifier_plugin", "inline_cluster_specifier_plugin")
    return any(get(route.value, "route", name) is not None for name in names)


def _other_uses(documents: Documents, clusters: Iterable[str]) -> set[str]:
    """The clusters whose names stand anywhere else as a value, or in quotes within one: tracers, sinks of statistics,
    mirrors, scripts, filters that we do not know."""
    texts = {
        value
        for whole in xds.everything(documents)
        for path, value in source.scalars(whole.value)
        if isinstance(value, str) and path[-1] not in _OWN_NAMES and not _OF_ENDPOINTS.intersection(path)
    }
    scripts = [text for text in texts if any(quote in text for quote in "\"'")]
    return {
        name
        for name in clusters
        if name in texts or any(f'"{name}"' in each or f"'{name}'" in each for each in scripts)
    }


_OWN_NAMES: Final = frozenset({"name", "stat_prefix", "alt_stat_name", "hostname", "@type"})
_OF_ENDPOINTS: Final = frozenset({"load_assignment", "eds_cluster_config"})


def _unused(clusters: Iterable[Part], used: set[str]) -> Iterator[Finding]:
    for cluster in clusters:
        if cluster.name not in used | _OURS:
            text = f"nothing uses the cluster {cluster.name}; a route in routes.yaml would"
            yield Finding(Level.WARNING, cluster.at("name").place, text, cluster.path)


def _twice(things: Iterable[Part], what: str, level: Level = Level.ERROR) -> Iterator[Finding]:
    first: dict[str, Part] = {}
    for thing in (each for each in things if each.name):
        if thing.name in first:
            text = f"a second {what} {thing.name}; the first is at {first[thing.name].at('name').place}"
            yield Finding(level, thing.at("name").place, text, thing.path)
        first.setdefault(thing.name, thing)


def _domains_twice(hosts: Iterable[Part]) -> Iterator[Finding]:
    first: dict[str, Part] = {}
    for host in hosts:
        for domain in host.each("domains"):
            name = str(domain.value)
            if name in first:
                text = f"the domain {name} stands here a second time; first at {first[name].place}"
                yield domain.error(text)
            first.setdefault(name, domain)


def _route_configurations(documents: Documents) -> Iterator[Finding]:
    known = {each.name for each in xds.resources(documents, ".RouteConfiguration")}
    for listener in xds.listeners(documents):
        for manager in xds.managers(listener):
            name = manager.at("rds", "route_config_name")
            if isinstance(name.value, str) and name.value not in known:
                text = f"no file has a RouteConfiguration {name.value}{meant(name.value, known)}"
                yield name.error(text)


def _endpoints(documents: Documents) -> Iterator[Finding]:
    """A cluster that gets its endpoints from a file which has none for it would wait for them, and then have none."""
    known = xds.assignments(documents)
    for cluster in xds.clusters(documents):
        source = cluster.at("eds_cluster_config")
        path = get(source.value, "eds_config", "path_config_source", "path")
        name = xds.asks_for(cluster)
        if isinstance(path, str) and Path(path).name in documents and name not in known:
            text = f"no file has a ClusterLoadAssignment {name}{meant(name, known)}"
            yield source.error(text)


def _filter_names(documents: Documents) -> Iterator[Finding]:
    """`typed_per_filter_config` for a filter that is not in the chain is ignored by Envoy, without a word."""
    managers = [manager for listener in xds.listeners(documents) for manager in xds.managers(listener)]
    known = {each.name for manager in managers for each in manager.each("http_filters")}
    known.add(xds.RECORDER)  # put in at publication, for an Envoy that runs on an older bootstrap
    for configuration in xds.route_configurations(documents):
        for settings in configuration.found("typed_per_filter_config"):
            for name in settings.value if isinstance(settings.value, dict) else ():
                if name not in known:
                    place = documents.places[settings.file].of_name((*settings.path, name))
                    text = f"there is no HTTP filter {name} in envoy.yaml{meant(name, known)}"
                    yield Finding(Level.WARNING, place, text, (*settings.path, name))


def _watched_files(documents: Documents) -> Iterator[Finding]:
    for whole in xds.everything(documents):
        for watched in whole.found("path_config_source"):
            path = get(watched.value, "path")
            if isinstance(path, str) and Path(path).name not in documents and not Path(path).is_file():
                text = f"there is no file {path}, neither here nor beside {whole.file}"
                yield Finding(Level.ERROR, watched.at("path").place, text, watched.path)


def _secrets(documents: Documents) -> Iterator[Finding]:
    """Files with keys, tokens and the like. Envoy looks into them only when it runs, and one that is empty is a 401."""
    for whole in xds.everything(documents):
        for secret in whole.found("generic_secret"):
            named = secret.at("secrets")
            several = named.value if isinstance(named.value, dict) else ()
            for each in (secret.at("secret"), *(named.at(name) for name in several)):
                file = each.at("filename")
                if isinstance(file.value, str):
                    yield from _secret(file, file.value)


def _secret(file: Part, name: str) -> Iterator[Finding]:
    try:
        is_empty = not Path(name).read_bytes().strip()
    except OSError as error:
        yield file.error(f"{name} cannot be read: {error.strerror}")
    else:
        if is_empty:
            yield file.error(f"{name} is empty; expected the secret")
