"""Where the recorder's filter is on: for what has a route, which is all that a backend can get.

What Envoy's codec refuses (too many headers, two lengths, no HTTP at all) has no route. Envoy's answer to it, 431, 400,
426, would wait for the recorder while the codec closes the connection, and never arrive. So in what is published the
filter is `disabled` in its chain, and every RouteConfiguration switches it on, for all that is within.

That is done at each publication, never in the files that people edit, and so that no routes lead past the recorder:

- The switch is put into every RouteConfiguration of every file, those that somebody wrote before there was one too,
  whatever the chains are like: an Envoy may be running on an older bootstrap.
- The filter is left on in its chain, for everything, where the routes are not in these files (ADS, scoped routes, hosts
  on demand), where it has another name than the usual one, or shares that with another.
- What switches it off again, in a virtual host or a route, is an error, but for a route that says why in its metadata
  (`reliance`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from extproc.envoy.config import xds
from extproc.envoy.config.files import Documents
from extproc.envoy.config.source import get
from extproc.envoy.config.xds import RECORDER, Part

SETTINGS: Final = "typed_per_filter_config"
_FILTER_CONFIG: Final = "type.googleapis.com/envoy.config.route.v3.FilterConfig"


def set_scope(documents: Documents) -> None:
    """Switch the recorder off for what has no route, where every route is in these documents."""
    for _, manager in recorded(documents):
        recorder = xds.recorder(manager)
        if recorder is not None and _may_be_narrowed(manager, recorder):
            recorder.value["disabled"] = True
    for configuration in xds.route_configurations(documents):
        settings = configuration.value.get(SETTINGS)
        if isinstance(settings, dict | None):
            # An empty `config` is Envoy's way to say `on`.
            configuration.value[SETTINGS] = {RECORDER: {"@type": _FILTER_CONFIG, "config": {}}} | (settings or {})


def recorded(documents: Documents) -> Iterator[tuple[Part, Part]]:
    """The listeners and HTTP connection managers that have a recorder."""
    for listener in xds.listeners(documents):
        for manager in xds.managers(listener):
            if xds.recorder(manager) is not None:
                yield listener, manager


def has_its_routes(manager: Part) -> bool:
    """Whether all routes of a connection manager are in these documents."""
    configurations = list(_configurations(manager))
    return bool(configurations) and all(get(each.value, "vhds") is None for each in configurations)


def _configurations(manager: Part) -> Iterator[Part]:
    if isinstance(get(manager.value, "route_config"), dict):
        yield manager.at("route_config")
        return
    file = get(manager.value, "rds", "config_source", "path_config_source", "path")
    for configuration in xds.resources(manager.documents, ".RouteConfiguration"):
        if configuration.file == Path(str(file)).name and configuration.name == get(
            manager.value, "rds", "route_config_name"
        ):
            yield configuration


def _may_be_narrowed(manager: Part, recorder: Part) -> bool:
    names = [each.name for each in manager.each("http_filters")]
    observing = get(recorder.value, "typed_config", "observability_mode") is True
    return (
        names.count(RECORDER) == 1
        and recorder.name == RECORDER
        and xds.sidecar_of(recorder) == "extproc"
        and not observing
        and has_its_routes(manager)
    )


def is_off(settings: Any) -> bool:
    """Whether the settings of a route, or of what holds it, switch the recorder off."""
    return get(settings, "disabled") is True or get(settings, "config", "disabled") is True
