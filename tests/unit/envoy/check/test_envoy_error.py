"""What Envoy says when it refuses, read: the reason, and the place. That it says it so, test_check.py asks it."""

from __future__ import annotations

import pytest
from support.configuration import way_to

from extproc.envoy.check import envoy_error
from extproc.envoy.config import files, xds
from extproc.envoy.config.files import BOOTSTRAP, CLUSTERS, ROUTES
from extproc.envoy.config.source import Pointer

SHIPPED = files.read(None)
HEAD = "[2026-11-21 08:03:15.980][4189][critical][main] [source/server/config_validation/server.cc:76] "
BEGINNING = "error initializing configuration 'envoy.yaml': "
USUAL = "[2026-11-21 08:03:15.980][4189][info][main] [source/server/server.cc:1] statically linked extensions:\n"
MANAGER = way_to(
    SHIPPED,
    BOOTSTRAP,
    *("static_resources", "listeners", "ingress", "filter_chains", "*", "filters", "*", "typed_config"),
)
ORIGINS = {
    ("static_resources", "clusters", 1): next(xds.resources(SHIPPED, ".Cluster")),
    (*MANAGER, "route_config"): next(xds.resources(SHIPPED, ".RouteConfiguration")),
}
"""Where the cluster `llm` and the routes are from."""


def constraint(*steps: str) -> str:
    """A violated constraint, as Envoy says it of each message on the way."""
    between = ": embedded message failed validation | caused by "
    return f"Proto constraint validation failed ({between.join(steps)})"


DEEP = constraint("AValidationError.B", "BValidationError.C: no")
REQUIRED = constraint("RouteValidationError.Route", 'field: "a_b", reason: is required')
TOP = "static_resources.listeners[0].filter_chains[0].filters[0].typed_config.<any>"
JSON = (
    f"Unable to parse JSON as proto (INVALID_ARGUMENT: invalid JSON in envoy.config.bootstrap.v3.Bootstrap @ {TOP}."
    "%s: message google.protobuf.UInt64Value, near 1:8257 (offset 8256): %s): {\"overload_manager\": {}}"
)  # fmt: skip


@pytest.mark.parametrize(
    ("stderr", "said", "reason"),
    [
        ("", "it does not say why", "it does not say why"),
        (USUAL, "it does not say why", "it does not say why"),
        (f"{USUAL}{HEAD}{BEGINNING}missing ): (\n", "missing ): (", "missing ): ("),
        (
            f"{HEAD}{BEGINNING}Invalid duration: Expected positive duration: goo.gle/debugstr   \nseconds: -1\n\n",
            "Invalid duration: Expected positive duration: seconds: -1",
            "Invalid duration: Expected positive duration: seconds: -1",
        ),
        (
            f'{HEAD}{BEGINNING}goo.gle/debugproto\nnode {{\n  id: "x"\n}}\n: {DEEP}\n',
            DEEP,
            "c: no",
        ),
        (
            HEAD + REQUIRED,
            REQUIRED,
            "a_b: is required",
        ),
        (
            constraint("SocketAddressValidationError.PortValue: value must be less than or equal to 65535"),
            constraint("SocketAddressValidationError.PortValue: value must be less than or equal to 65535"),
            "port_value: value must be less than or equal to 65535",
        ),
        (JSON % ("a", "invalid number: 'x'"), JSON % ("a", "invalid number: 'x'"), "invalid number: 'x'"),
        ("x" * 2000, "x" * 2000, "x" * 500),
    ],
)
def test_the_reason(stderr: str, said: str, reason: str) -> None:
    """Without what Envoy always says, without a copy of the configuration, and only the last cause."""
    assert envoy_error.said(stderr) == said
    assert envoy_error.reason(said) == reason


@pytest.mark.parametrize(
    ("said", "file", "steps"),
    [
        (JSON % ("http_filters[1]", "x"), BOOTSTRAP, (*MANAGER, "http_filters", 1)),
        (JSON % ("http_filters[1].typed_config.<any>", "x"), BOOTSTRAP, (*MANAGER, "http_filters", 1, "typed_config")),
        (JSON % ("route_config.virtual_hosts[0].routes[2].route", "x"), ROUTES,
         ("resources", 0, "virtual_hosts", 0, "routes", 2, "route")),
        (constraint("BootstrapValidationError.Admin", "AdminValidationError.Address: no"), BOOTSTRAP,
         ("admin", "address")),
        (constraint("BootstrapValidationError.StaticResources", "StaticResourcesValidationError.Clusters[0]",
                    "ClusterValidationError.Type: no"), BOOTSTRAP, ("static_resources", "clusters", 0, "type")),
        (constraint("BootstrapValidationError.StaticResources", "StaticResourcesValidationError.Clusters[1]",
                    "ClusterValidationError.HealthChecks[0]", "HealthCheckValidationError.Timeout: no"),
         CLUSTERS, ("resources", 0, "health_checks", 0, "timeout")),
        (constraint("HttpConnectionManagerValidationError.StatPrefix: no"), BOOTSTRAP, (*MANAGER, "stat_prefix")),
        (constraint("HttpConnectionManagerValidationError.RouteConfig", "RouteConfigurationValidationError.VirtualHosts"
                    "[0]", "VirtualHostValidationError.Domains: no"), ROUTES,
         ("resources", 0, "virtual_hosts", 0, "domains")),
        ("cluster: no such thing for cluster: 'llm' at all", CLUSTERS, ("resources", 0)),
        ("something about route 'websocket'", ROUTES, ("resources", 0, "virtual_hosts", 0, "routes", 0)),
        ("Only unique names for virtual hosts: all", ROUTES, ("resources", 0, "virtual_hosts", 0)),
        ("unknown enum value: 'KEEP_UNCHANGED'", BOOTSTRAP, (*MANAGER, "path_with_escaped_slashes_action")),
        ("missing ): (", BOOTSTRAP, ()),
        ("small llms and extproc-2, extproc.x", BOOTSTRAP, ()),
        (constraint("NoSuchMessageValidationError.Field: no"), BOOTSTRAP, ()),
    ],
)  # fmt: skip
def test_the_place(said: str, file: str, steps: Pointer) -> None:
    """That of the path, in the file where it is written; else of the thing that is named; else the top."""
    assert envoy_error.place_of(said, SHIPPED, ORIGINS) == SHIPPED.places[file].of(steps)


def test_the_place_of_a_field_that_does_not_exist() -> None:
    """Its name is what is wrong."""
    place = envoy_error.place_of(JSON % ("http_filters[0]", "no such field: 'name'"), SHIPPED, ORIGINS)
    assert place == SHIPPED.places[BOOTSTRAP].of_name((*MANAGER, "http_filters", 0, "name"))
