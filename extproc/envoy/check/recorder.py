"""What the recorder relies on in Envoy's configuration.

An error is what breaks it: traffic would be refused, hang, or pass without a word. A warning is what costs a promise
that somebody may give up on purpose (fail open, no access log), or what ends a long generation.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Final

from extproc import shell
from extproc.config import Config, size_text
from extproc.core import routing
from extproc.envoy.config import scope, xds
from extproc.envoy.config.files import BOOTSTRAP, PROTOCOL_OPTIONS, Documents
from extproc.envoy.config.findings import Finding
from extproc.envoy.config.source import get
from extproc.envoy.config.xds import Part

_ENVOYS_BUFFER_BYTES: Final = 1024 * 1024
_ENVOYS_WINDOW_BYTES: Final = 256 * 1024 * 1024
_ENVOYS_MESSAGE_SECONDS: Final = 0.2
_ENVOYS_ROUTE_SECONDS: Final = 15.0
_ENVOYS_BREAKER: Final = 1024
_LONG_SECONDS: Final = 60.0
_LOOPBACK: Final = ("127.", "::1", "localhost")

_HOLD: Final = {
    "request_header_mode": "SEND",
    "request_body_mode": "BUFFERED",
    "request_trailer_mode": "SEND",
    "response_header_mode": "SEND",
    "response_body_mode": "STREAMED",
    "response_trailer_mode": "SEND",
}
_SHOWN: Final = {**_HOLD, "request_body_mode": "STREAMED"}
_DEFAULTS: Final = {
    "request_header_mode": "SEND",
    "request_body_mode": "NONE",
    "request_trailer_mode": "SKIP",
    "response_header_mode": "SEND",
    "response_body_mode": "NONE",
    "response_trailer_mode": "SKIP",
}


def findings(documents: Documents, config: Config) -> Iterator[Finding]:
    """All of them, file by file."""
    yield from _admin(documents)
    recorded = False
    unrecorded = []
    for listener in xds.listeners(documents):
        for manager in xds.managers(listener):
            recorder = xds.recorder(manager)
            if recorder is not None:
                recorded = True
                yield from _recorder(recorder.at("typed_config"), config)
                yield from _limits(listener, manager, recorder, config)
                yield from _access_log(manager)
                yield from _order(recorder, manager)
                yield from _one_recorder(manager)
                yield from _switched_off(recorder, manager)
            else:
                unrecorded.append(manager.at("http_filters"))
    if not recorded:
        listeners = xds.document(documents, BOOTSTRAP).at("static_resources", "listeners")
        text = f"no listener has the filter {xds.RECORDER}: nothing would be recorded; {_FILTER_PLACE}"
        yield (unrecorded or [listeners])[0].warning(text)
    yield from _sidecar(documents)
    yield from _unrecorded(documents)
    yield from _routes(documents)
    yield from _asked_headers(documents)


_FILTER_PLACE: Final = (
    "as in the shipped envoy.yaml it would stand here, before the router, between extproc.outer and extproc.inner "
    "(`extproc init DIR` writes it out)"
)


def missing(documents: Documents) -> Iterator[Finding]:
    """Of a configuration that was not made for the recorder: what it lacks, each with the place where it would be."""
    clusters = xds.document(documents, BOOTSTRAP).at("static_resources", "clusters")
    if all(each.name != "extproc" for each in xds.clusters(documents)):
        yield clusters.error(
            "there is no cluster extproc, the recorder's address; as in the shipped envoy.yaml it would stand here "
            "(`extproc init DIR` writes it out)"
        )
    managers = [manager for listener in xds.listeners(documents) for manager in xds.managers(listener)]
    if not managers and any(xds.listeners(documents)):
        text = "no listener has an HTTP connection manager, into which the recorder's filter would go"
        yield xds.document(documents, BOOTSTRAP).at("static_resources", "listeners").error(text)
    for manager in managers:
        if xds.recorder(manager) is None:
            text = f"there is no filter {xds.RECORDER}: nothing would be recorded; {_FILTER_PLACE}"
            yield manager.at("http_filters").error(text)
        yield from _access_log(manager)


def _admin(documents: Documents) -> Iterator[Finding]:
    address = xds.document(documents, BOOTSTRAP).at("admin", "address", "socket_address", "address")
    if isinstance(address.value, str) and not address.value.startswith(_LOOPBACK):
        text = f"Envoy's admin interface on {address.value}: whoever reaches it can stop Envoy; use 127.0.0.1"
        yield address.error(text)


def _recorder(ext_proc: Part, config: Config) -> Iterator[Finding]:
    observing = get(ext_proc.value, "observability_mode") is True
    yield from _modes(ext_proc.at("processing_mode"))
    if observing:
        yield ext_proc.at("observability_mode").warning("observability_mode: nothing waits for a record (best effort)")
    else:
        yield from _gates(ext_proc, config)
    if get(ext_proc.value, "failure_mode_allow") is True:
        text = f"failure_mode_allow: what cannot be recorded passes; `{shell.command('reconcile')}` lists it"
        yield ext_proc.at("failure_mode_allow").warning(text)
    namespaces = ext_proc.each("metadata_options", "receiving_namespaces", "untyped")
    if all(each.value != "extproc" for each in namespaces):
        text = (
            "the exchange's id cannot come back; expected "
            "metadata_options: {receiving_namespaces: {untyped: [extproc]}}"
        )
        yield ext_proc.at("metadata_options").warning(text)


def _modes(mode: Part) -> Iterator[Finding]:
    for name, wanted in _SHOWN.items():
        value = get(mode.value, name) or _DEFAULTS[name]
        if value in ("DEFAULT", 0):
            value = _DEFAULTS[name]
        if value != wanted:
            yield mode.at(name).error(f"{name} is {value}; the recorder needs {wanted}")


def _gates(ext_proc: Part, config: Config) -> Iterator[Finding]:
    timeout = ext_proc.at("message_timeout")
    seconds = _seconds(timeout.value)
    seconds = _ENVOYS_MESSAGE_SECONDS if seconds is None else seconds
    if seconds <= config.gate_timeout_seconds:
        yield timeout.error(
            f"message_timeout is {seconds:g} s, and the recorder waits for its disk for up to "
            f"{config.gate_timeout_seconds:g} s (gate_timeout_seconds); expected more than that",
        )
    if config.hold_request_bytes and not _may_hold(ext_proc.value):
        text = (
            "requests are not held back until their record is durable; expected "
            "allow_mode_override with the allowed_override_modes of the shipped envoy.yaml, or hold_request_bytes: 0"
        )
        yield ext_proc.at("allow_mode_override").warning(text)


def _may_hold(ext_proc: Any) -> bool:
    if get(ext_proc, "allow_mode_override") is not True or get(
        ext_proc, "send_body_without_waiting_for_header_response"
    ):
        return False
    allowed = get(ext_proc, "allowed_override_modes")
    return not allowed or any({**_DEFAULTS, **each} == _HOLD for each in allowed if isinstance(each, dict))


def _limits(listener: Part, manager: Part, recorder: Part, config: Config) -> Iterator[Finding]:
    """A held request has to fit into what Envoy buffers, otherwise it is answered with 413."""
    if not _may_hold(get(recorder.value, "typed_config")):
        return
    connection = listener.at("per_connection_buffer_limit_bytes")
    window = manager.at("http2_protocol_options", "initial_stream_window_size")
    limits = ((connection, _ENVOYS_BUFFER_BYTES), (window, _ENVOYS_WINDOW_BYTES))
    too_small = [limit for limit, default in limits if _size(limit, default) <= config.hold_request_bytes]
    for host in _hosts(manager):
        yield from _limits_of_host(host, too_small, config.hold_request_bytes)


def _limits_of_host(host: Part, of_listener: list[Part], held: int) -> Iterator[Finding]:
    """A route's own limit counts before its virtual host's, and that before the listener's."""
    of_host = host.at("request_body_buffer_limit")
    for route in host.each("routes"):
        of_route = route.at("request_body_buffer_limit")
        own = next((limit for limit in (of_route, of_host) if limit.value is not None), None)
        too_small = of_listener if own is None else [own] if _size(own, 0) <= held else []
        for limit in too_small:
            size = _size(limit, _ENVOYS_BUFFER_BYTES)
            yield limit.error(
                f"{limit.path[-1]} is {size_text(size)}, and requests up to {size_text(held)} are held "
                "(hold_request_bytes): they would be answered with 413; raise the one or lower the other",
            )


def _hosts(manager: Part) -> Iterator[Part]:
    wanted = get(manager.value, "rds", "route_config_name")
    for configuration in xds.route_configurations(manager.documents):
        if configuration.name == wanted or configuration.path[:-1] == manager.path:
            yield from configuration.each("virtual_hosts")


def _size(limit: Part, default: int) -> int:
    size = _number(limit.value)
    return default if size is None else int(size)


def _access_log(manager: Part) -> Iterator[Finding]:
    for log in manager.each("access_log"):
        service = get(log.value, "typed_config", "common_config", "grpc_service", "envoy_grpc", "cluster_name")
        if service == "extproc":
            return
    text = "without Envoy's gRPC access log to the cluster extproc nobody can say why an exchange was cut off"
    yield manager.at("access_log").warning(text)


def _order(recorder: Part, manager: Part) -> Iterator[Finding]:
    """`content-length` survives ext_proc only between the two filters that carry it around."""
    names = [each.name for each in manager.each("http_filters")]
    at = int(recorder.path[-1])
    if "extproc.outer" not in names[:at] or "extproc.inner" not in names[at:]:
        text = (
            "ext_proc drops content-length: extproc.outer before it and extproc.inner behind it, as in the shipped "
            "envoy.yaml, would keep it"
        )
        yield recorder.warning(text)


def _one_recorder(manager: Part) -> Iterator[Finding]:
    """Each gives Envoy the id of its own exchange under the same name, and the last one's would stand for both."""
    first, *others = [each for each in xds.ext_procs(manager) if _is_recorder(each)] or [manager]
    for other in others:
        text = (
            f"a second recorder in this chain; the first is at {first.place}. They overwrite each other's exchange id: "
            "expected one of them, with several endpoints in its cluster"
        )
        yield other.error(text)


def _switched_off(recorder: Part, manager: Part) -> Iterator[Finding]:
    """What is off in its chain has to be switched on by every route, and is only in those that are published here."""
    if get(recorder.value, "disabled") is True and not scope.has_its_routes(manager):
        text = (
            "the recorder is disabled, and the routes that would enable it are not in these files: they could pass "
            "unrecorded; expected no `disabled`"
        )
        yield recorder.at("disabled").error(text)


def _unrecorded(documents: Documents) -> Iterator[Finding]:
    """What leads past the recorder, or shows it less, without a word. A route may, and says why in its metadata."""
    recorders = [each for _, manager in scope.recorded(documents) if (each := xds.recorder(manager)) is not None]
    names = {each.name for each in recorders}
    for configuration in xds.route_configurations(documents):
        yield from _all_off(configuration, "route configuration", names)
        for host in configuration.each("virtual_hosts"):
            yield from _all_off(host, "virtual host", names)
            for route in host.each("routes"):
                yield from _route_off(route, names)


def _settings(holder: Part, names: set[str]) -> Iterator[Part]:
    """What is set there for the recorder, without the wrapping that says `on` or `off`."""
    for name in names:
        settings = holder.at(scope.SETTINGS, name)
        if settings.value is not None:
            yield settings


def _all_off(holder: Part, what: str, names: set[str]) -> Iterator[Finding]:
    for settings in _settings(holder, names):
        if scope.is_off(settings.value):
            text = f"the recorder is off for the whole {what}: it would pass unrecorded, and nothing would say why; "
            yield settings.error(f"{text}expected it off for single routes, with the reason in their metadata")
        yield from _overridden(settings)


def _route_off(route: Part, names: set[str]) -> Iterator[Finding]:
    weighted = route.each("route", "weighted_clusters", "clusters")
    says_why = isinstance(get(route.value, "metadata", "filter_metadata", "extproc", "bypass"), str)
    for holder in (route, *weighted):
        for settings in _settings(holder, names):
            if scope.is_off(settings.value) and not says_why:
                text = (
                    "this route passes unrecorded, and nothing says why: metadata: {filter_metadata: {extproc: "
                    "{bypass: REASON}}} beside it would"
                )
                yield settings.error(text)
            yield from _overridden(settings)


def _overridden(settings: Part) -> Iterator[Finding]:
    """Settings of a route that take the recorder's place, or keep a part of the traffic from it."""
    wrapped = settings.at("config") if get(settings.value, "config") is not None else settings
    overrides = wrapped.at("overrides")
    cluster = overrides.at("grpc_service", "envoy_grpc", "cluster_name")
    if isinstance(get(overrides.value, "grpc_service"), dict) and cluster.value != "extproc":
        yield cluster.error("another server takes the recorder's place here: what passes is not recorded")
    mode = overrides.at("processing_mode")
    if isinstance(mode.value, dict):
        yield from _modes(mode)


def _is_recorder(ext_proc: Part) -> bool:
    namespaces = ext_proc.each("typed_config", "metadata_options", "receiving_namespaces", "untyped")
    return xds.sidecar_of(ext_proc) == "extproc" or any(each.value == "extproc" for each in namespaces)


def _sidecar(documents: Documents) -> Iterator[Finding]:
    for cluster in xds.clusters(documents):
        if cluster.name != "extproc":
            continue
        options = cluster.at("typed_extension_protocol_options", PROTOCOL_OPTIONS)
        explicit = get(options.value, "explicit_http_config")
        if not isinstance(explicit, dict) or "http2_protocol_options" not in explicit:
            yield cluster.error("the cluster extproc speaks gRPC; expected http2_protocol_options for it")
        thresholds = list(cluster.each("circuit_breakers", "thresholds"))
        for name in ("max_requests", "max_connections", "max_pending_requests"):
            sizes = (_number(get(each.value, name)) for each in thresholds)
            size = next((each for each in sizes if each is not None), _ENVOYS_BREAKER)
            if size <= _ENVOYS_BREAKER:
                text = f"{name} is {size:g}: the next exchange in flight would be refused; expected 100000"
                yield cluster.at("circuit_breakers").warning(text)


def _routes(documents: Documents) -> Iterator[Finding]:
    for route in xds.routes(documents):
        action = route.at("route")
        if not isinstance(action.value, dict) or get(route.value, "match", "grpc") is not None:
            continue
        timeout = action.at("timeout")
        seconds = _seconds(timeout.value)
        seconds = _ENVOYS_ROUTE_SECONDS if seconds is None else seconds
        if 0 < seconds < _LONG_SECONDS:
            name = f"route {route.name}" if route.name else "this route"
            default = "" if timeout.value else ", Envoy's default"
            text = f"{name} ends each answer after {seconds:g} s{default}; timeout: 0s lets a generation end by itself"
            yield timeout.warning(text)


def _asked_headers(documents: Documents) -> Iterator[Finding]:
    """What routes ask of the recorder (see `core.routing`), which would only be a line in its log."""
    for whole in xds.everything(documents):
        for metadata in (*whole.found("grpc_initial_metadata"), *whole.found("initial_metadata")):
            for entry in metadata.each():
                if get(entry.value, "key") == routing.METADATA:
                    try:
                        routing.parse(str(get(entry.value, "value") or ""))
                    except ValueError as error:
                        yield entry.at("value").error(f"{routing.METADATA}: {error}")


def _seconds(duration: Any) -> float | None:
    if not isinstance(duration, str) or not duration.endswith("s"):
        return None
    try:
        return float(duration[:-1])
    except ValueError:
        return None


def _number(value: Any) -> float | None:
    """A number, which may stand in quotes."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
