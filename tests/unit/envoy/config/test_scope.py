"""Where the recorder is on: off for what has no route only where every route switches it on."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from support.configuration import way_to

from extproc.config import Config
from extproc.envoy.check import recorder
from extproc.envoy.config import files, scope, xds
from extproc.envoy.config.files import BOOTSTRAP, ROUTES, Documents
from extproc.envoy.config.xds import RECORDER

ON = {RECORDER: {"@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "config": {}}}
MANAGER = ("static_resources", "listeners", "ingress", "filter_chains", "*", "filters", "*", "typed_config")


def manager_of(documents: Documents) -> Any:
    """The connection manager of the shipped listener."""
    value: Any = documents[BOOTSTRAP]
    for step in way_to(documents, BOOTSTRAP, *MANAGER):
        value = value[step]
    return value


def filter_of(documents: Documents) -> Any:
    """The recorder's filter."""
    return next(each for each in manager_of(documents)["http_filters"] if "ext_proc" in str(each.get("typed_config")))


def inline(documents: Documents) -> None:
    """The routes in the connection manager."""
    manager = manager_of(documents)
    del manager["rds"]
    manager["route_config"] = {k: v for k, v in documents[ROUTES]["resources"].pop().items() if k != "@type"}


def elsewhere(documents: Documents) -> None:
    """The routes from a server."""
    manager_of(documents)["rds"]["config_source"] = {"ads": {}}


def another_file(documents: Documents) -> None:
    """The routes from a file that is none of these."""
    manager_of(documents)["rds"]["config_source"]["path_config_source"]["path"] = "/etc/r.yaml"


def on_demand(documents: Documents) -> None:
    """The virtual hosts from a server."""
    documents[ROUTES]["resources"][0]["vhds"] = {"config_source": {"ads": {}}}


def scoped(documents: Documents) -> None:
    """The routes by the scope of a request."""
    manager = manager_of(documents)
    del manager["rds"]
    manager["scoped_routes"] = {"name": "a"}


def renamed(documents: Documents) -> None:
    """The filter under another name."""
    filter_of(documents)["name"] = "recorder"


def twice(documents: Documents) -> None:
    """Another ext_proc under the same name."""
    other = copy.deepcopy(filter_of(documents))
    other["typed_config"]["grpc_service"]["envoy_grpc"]["cluster_name"] = "llm"
    del other["typed_config"]["metadata_options"]
    manager_of(documents)["http_filters"].insert(0, other)


def observing(documents: Documents) -> None:
    """A recorder for which nothing waits."""
    filter_of(documents)["typed_config"]["observability_mode"] = True


@pytest.mark.parametrize(
    ("change", "disabled"),
    [
        (lambda documents: None, True),
        (inline, True),
        (elsewhere, False),
        (another_file, False),
        (on_demand, False),
        (scoped, False),
        (renamed, False),
        (twice, False),
        (observing, False),
    ],
)
def test_off_only_where_every_route_is_in_hand(change: Callable[[Documents], None], disabled: bool) -> None:
    """Where one could come from elsewhere it stays on for everything; the switch is in all routes in any case."""
    documents = files.read(None)
    change(documents)
    scope.set_scope(documents)
    (ours,) = [each for each in manager_of(documents)["http_filters"] if "extproc" in str(each.get("typed_config"))
               and "ExternalProcessor" in str(each)]  # fmt: skip
    assert ours.get("disabled", False) == disabled
    for configuration in xds.route_configurations(documents):
        assert configuration.value[scope.SETTINGS] == ON
    assert not [each for each in recorder.findings(documents, Config()) if each.level == "error"]


def test_routes_of_no_listener_are_switched_on_too() -> None:
    """An Envoy may run on an older bootstrap, in which a listener has them."""
    documents = files.read(None)
    documents[ROUTES]["resources"].append({**copy.deepcopy(documents[ROUTES]["resources"][0]), "name": "other"})
    documents[BOOTSTRAP]["static_resources"]["listeners"] = []
    scope.set_scope(documents)
    assert [each[scope.SETTINGS] for each in documents[ROUTES]["resources"]] == [ON, ON]


def test_what_somebody_has_set_stays() -> None:
    """Settings for the recorder switch it on as well."""
    documents = files.read(None)
    own = {"@type": "type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute", "overrides": {}}
    documents[ROUTES]["resources"][0][scope.SETTINGS] = {RECORDER: own, "other": {}}
    scope.set_scope(documents)
    assert documents[ROUTES]["resources"][0][scope.SETTINGS] == {RECORDER: own, "other": {}}


FILTER = "type.googleapis.com/envoy.config.route.v3.FilterConfig"
PER_ROUTE = "type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute"
OFF = [
    {"@type": FILTER, "disabled": True},
    {"@type": FILTER, "config": {"@type": PER_ROUTE, "disabled": True}},
    {"@type": PER_ROUTE, "disabled": True},
]


def errors(documents: Documents) -> list[str]:
    """What `reliance` refuses."""
    return [each.text for each in recorder.findings(documents, Config()) if each.level == "error"]


@pytest.mark.parametrize("off", OFF)
@pytest.mark.parametrize("disabled", [True, False])
def test_what_leads_past_the_recorder_is_refused(off: Any, *, disabled: bool) -> None:
    """A whole route configuration or virtual host never may; a route may that says why."""
    for holder in ("configuration", "host", "route"):
        documents = files.read(None)
        configuration = documents[ROUTES]["resources"][0]
        (host,) = configuration["virtual_hosts"]
        route = host["routes"][-1]
        {"configuration": configuration, "host": host, "route": route}[holder][scope.SETTINGS] = {RECORDER: off}
        if disabled:
            scope.set_scope(documents)
        (error,) = errors(documents)
        assert "pass" in error
        route["metadata"] = {"filter_metadata": {"extproc": {"bypass": "health"}}}
        assert bool(errors(documents)) == (holder != "route")


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        ({"grpc_service": {"envoy_grpc": {"cluster_name": "llm"}}}, "another server takes the recorder's place"),
        ({"processing_mode": {"request_body_mode": "NONE"}}, "request_body_mode is NONE; the recorder needs STREAMED"),
    ],
)
def test_settings_of_a_route_that_keep_something_from_the_recorder(overrides: Any, text: str) -> None:
    """As little as in the filter itself."""
    documents = files.read(None)
    route = documents[ROUTES]["resources"][0]["virtual_hosts"][0]["routes"][-1]
    route[scope.SETTINGS] = {RECORDER: {"@type": PER_ROUTE, "overrides": overrides}}
    assert any(error.startswith(text) for error in errors(documents))


def test_a_filter_that_nothing_here_can_switch_on_is_refused() -> None:
    """Somebody has written `disabled` where the routes come from elsewhere."""
    documents = files.read(None)
    elsewhere(documents)
    filter_of(documents)["disabled"] = True
    (error,) = errors(documents)
    assert "they could pass unrecorded" in error
