"""Values held against Envoy's message types: what is wrong is told, what Envoy takes is not, and nothing raises."""

from __future__ import annotations

import dataclasses
import enum
import itertools
from typing import Any

import pytest
from envoy_data_plane.envoy.config.cluster import v3 as clusters
from support.configuration import altered, ways

from extproc.envoy.check import typed
from extproc.envoy.config import files, source
from extproc.envoy.config.findings import dotted

CLUSTER = "envoy.config.cluster.v3.Cluster"
ROUTE = "envoy.config.route.v3.Route"
HEADER = "envoy.config.core.v3.HeaderValue"
OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def typed_options(**fields: object) -> dict[str, object]:
    """HTTP protocol options of a cluster, as an Any."""
    return {"@type": typed.ANY_PREFIX + OPTIONS, **fields}


def type_of(file: str) -> str:
    """What a file holds."""
    return typed.BOOTSTRAP if file == files.BOOTSTRAP else typed.RESOURCES


def test_the_shipped_files_are_as_their_types_have_them() -> None:
    """Nothing is found in them."""
    documents = files.read(None)
    assert [each for name in documents for each in typed.mismatches(documents[name], type_of(name))] == []


@pytest.mark.parametrize("name", sorted(typed.NEWER))
def test_types_that_our_copy_lacks(name: str) -> None:
    """What is in them is Envoy's to judge, until a newer package has them."""
    assert typed._message(name) is None
    assert list(typed.mismatches({"@type": typed.ANY_PREFIX + name, "a": 1}, "google.protobuf.Any")) == []


def test_what_is_used_of_betterproto() -> None:
    """Names that its documentation does not promise: fields by name, their types, oneofs, maps, wrappers."""
    types: Any = clusters.Cluster._betterproto  # type: ignore[arg-type]
    fields = types.meta_by_field_name
    assert (fields["type"].group, fields["name"].group) == ("cluster_discovery_type", None)
    assert (fields["health_checks"].repeated, fields["name"].repeated) == (True, False)
    assert [fields[name].proto_type for name in ("name", "lb_policy", "connect_timeout")] == [
        "string",
        "enum",
        "message",
    ]
    assert issubclass(types.cls_by_field["lb_policy"], enum.IntEnum)
    options = "typed_extension_protocol_options"
    assert fields[options].map_meta[1].proto_type == "message"
    assert types.cls_by_field[f"{options}.value"].__name__ == "Any"
    assert fields["per_connection_buffer_limit_bytes"].unwrap().__name__ == "UInt32Value"
    assert fields["connect_timeout"].unwrap is not None
    assert dataclasses.is_dataclass(clusters.Cluster)


@pytest.mark.parametrize(
    ("type_name", "value"),
    [
        (CLUSTER, {}),
        (CLUSTER, {"name": None, "health_checks": None, "type": None, "cluster_type": {"name": "x"}}),
        (CLUSTER, {"connect_timeout": "0.000000001s"}),
        (CLUSTER, {"lb_policy": 1}),
        (CLUSTER, {"dns_lookup_family": "V4_PREFERRED"}),
        (CLUSTER, {"per_connection_buffer_limit_bytes": 0}),
        (CLUSTER, {"per_connection_buffer_limit_bytes": "32768"}),
        (CLUSTER, {"per_connection_buffer_limit_bytes": 32768.0}),
        (CLUSTER, {"per_connection_buffer_limit_bytes": 2**32 - 1}),
        (CLUSTER, {"lbPolicy": "random", "connect_timeout": {"seconds": 5}, "respect_dns_ttl": "yes"}),
        (CLUSTER, {"health_checks": {"timeout": "1s"}, "typed_extension_protocol_options": {"x": {}}}),
        (CLUSTER, {"common_lb_config": {"healthy_panic_threshold": {"value": 1}}}),
        (CLUSTER, {"common_lb_config": {"healthy_panic_threshold": {"value": "0.5"}}}),
        (CLUSTER, {"metadata": {"filter_metadata": {"a": {"b": [1, None, {"c": True}]}}}}),
        (CLUSTER, {"typed_extension_protocol_options": {"x": typed_options(explicit_http_config={})}}),
        (CLUSTER, {"typed_extension_protocol_options": {"x": {"@type": "a/google.protobuf.Struct", "value": 5}}}),
        (CLUSTER, {"typed_extension_protocol_options": {"x": {"@type": "a/xds.type.v3.TypedStruct", "any": 5}}}),
        (ROUTE, {"match": {"prefix": "/", "grpc": {}}, "route": {"cluster": "a", "timeout": "0s"}}),
        (ROUTE, {"match": {"connect_matcher": {}}, "redirect": {"response_code": "PERMANENT_REDIRECT"}}),
        (HEADER, {"key": "a", "raw_value": "aGk="}),
    ],
)
def test_right(type_name: str, value: Any) -> None:
    """Also in the other ways to write it that protobuf has: quoted numbers, null for nothing."""
    assert list(typed.mismatches(value, type_name)) == []


POLICIES = "ROUND_ROBIN, LEAST_REQUEST, RING_HASH, RANDOM, MAGLEV, CLUSTER_PROVIDED, LOAD_BALANCING_POLICY_CONFIG"
DURATION = "expected a duration such as 5s or 0.25s"


@pytest.mark.parametrize(
    ("type_name", "value", "path", "text"),
    [
        (CLUSTER, 5, "", "expected a mapping (Cluster), got 5"),
        (CLUSTER, {"conect_timeout": "5s"}, "conect_timeout",
         "Cluster has no conect_timeout; did you mean connect_timeout?"),
        (CLUSTER, {"connectTimeouts": "5s"}, "connectTimeouts",
         "Cluster has no connectTimeouts; did you mean connect_timeout?"),
        (CLUSTER, {"zzz": 1}, "zzz", "Cluster has no zzz"),
        (CLUSTER, {"name": 5}, "name", 'expected a string, "5" in quotes, got 5'),
        (CLUSTER, {"name": True}, "name", 'expected a string, "true" in quotes, got true'),
        (CLUSTER, {"name": ["a"]}, "name", "expected a string, got a list"),
        (CLUSTER, {"name": {}}, "name", "expected a string, got a mapping"),
        (CLUSTER, {"connect_timeout": 5}, "connect_timeout", f"{DURATION}, got 5"),
        (CLUSTER, {"connect_timeout": "5"}, "connect_timeout", f"{DURATION}, got '5'"),
        (CLUSTER, {"connect_timeout": "5m"}, "connect_timeout", f"{DURATION}, got '5m'"),
        (CLUSTER, {"connect_timeout": "250ms"}, "connect_timeout", f"{DURATION}, got '250ms'"),
        (CLUSTER, {"connect_timeout": ".5s"}, "connect_timeout", f"{DURATION}, got '.5s'"),
        (CLUSTER, {"connect_timeout": {"second": 5}}, "connect_timeout", f"{DURATION}, got a mapping"),
        (CLUSTER, {"lb_policy": "LEAST_REQUESTS"}, "lb_policy",
         f"expected LEAST_REQUEST, or another of {POLICIES}, got 'LEAST_REQUESTS'"),
        (CLUSTER, {"lb_policy": "zzz"}, "lb_policy", f"expected one of {POLICIES}, got 'zzz'"),
        (CLUSTER, {"lb_policy": 77}, "lb_policy", f"expected one of {POLICIES}, got 77"),
        (CLUSTER, {"lb_policy": True}, "lb_policy", f"expected one of {POLICIES}, got true"),
        (CLUSTER, {"lb_policy": []}, "lb_policy", f"expected one of {POLICIES}, got a list"),
        (CLUSTER, {"per_connection_buffer_limit_bytes": -1}, "per_connection_buffer_limit_bytes",
         "expected a number from 0, got -1"),
        (CLUSTER, {"per_connection_buffer_limit_bytes": "-1"}, "per_connection_buffer_limit_bytes",
         "expected a number from 0, got '-1'"),
        (CLUSTER, {"per_connection_buffer_limit_bytes": "32 KiB"}, "per_connection_buffer_limit_bytes",
         "expected a whole number, got '32 KiB'"),
        (CLUSTER, {"per_connection_buffer_limit_bytes": 1.5}, "per_connection_buffer_limit_bytes",
         "expected a whole number, got 1.5"),
        (CLUSTER, {"per_connection_buffer_limit_bytes": float("inf")}, "per_connection_buffer_limit_bytes",
         "expected a whole number, got inf"),
        (CLUSTER, {"per_connection_buffer_limit_bytes": float("nan")}, "per_connection_buffer_limit_bytes",
         "expected a whole number, got nan"),
        (CLUSTER, {"per_connection_buffer_limit_bytes": True}, "per_connection_buffer_limit_bytes",
         "expected a whole number, got true"),
        (CLUSTER, {"common_lb_config": {"healthy_panic_threshold": 5}}, "common_lb_config.healthy_panic_threshold",
         "expected a mapping (Percent), got 5"),
        (CLUSTER, {"common_lb_config": {"healthy_panic_threshold": {"value": "x"}}},
         "common_lb_config.healthy_panic_threshold.value", "expected a number, got 'x'"),
        (CLUSTER, {"common_lb_config": {"healthy_panic_threshold": {"value": True}}},
         "common_lb_config.healthy_panic_threshold.value", "expected a number, got true"),
        (CLUSTER, {"respect_dns_ttl": "ja"}, "respect_dns_ttl", "expected true or false, got 'ja'"),
        (CLUSTER, {"respect_dns_ttl": 1}, "respect_dns_ttl", "expected true or false, got 1"),
        (CLUSTER, {"type": "STATIC", "cluster_type": {"name": "x"}}, "cluster_type",
         "cluster_type and type exclude each other: expected one of them"),
        (ROUTE, {"match": {"prefix": "/", "path": "/x"}}, "match.path",
         "path and prefix exclude each other: expected one of them"),
        (CLUSTER, {"health_checks": [{}, 5]}, "health_checks[1]", "expected a mapping (HealthCheck), got 5"),
        (CLUSTER, {"typed_extension_protocol_options": []}, "typed_extension_protocol_options",
         "expected a mapping, got a list"),
        (CLUSTER, {"typed_extension_protocol_options": {"x": {"a": 1}}}, "typed_extension_protocol_options.x",
         'expected a mapping with "@type": type.googleapis.com/..., got a mapping'),
        (CLUSTER, {"typed_extension_protocol_options": {"x": 5}}, "typed_extension_protocol_options.x",
         'expected a mapping with "@type": type.googleapis.com/..., got 5'),
        (CLUSTER, {"typed_extension_protocol_options": {"x": typed_options(explicit_http_cofig={})}},
         "typed_extension_protocol_options.x.explicit_http_cofig",
         "HttpProtocolOptions has no explicit_http_cofig; did you mean explicit_http_config?"),
        (CLUSTER, {"typed_extension_protocol_options": {"x": {"@type": typed.ANY_PREFIX + OPTIONS[:-1]}}},
         "typed_extension_protocol_options.x.@type",
         f"there is no type {OPTIONS[:-1]} here; did you mean HttpProtocolOptions?"),
        (HEADER, {"key": "a", "value": "x" * 100, "keys": 1}, "keys", "HeaderValue has no keys; did you mean key?"),
    ],
)  # fmt: skip
def test_wrong(type_name: str, value: Any, path: str, text: str) -> None:
    """Where, what is there, and what was expected."""
    (found,) = typed.mismatches(value, type_name)
    assert (dotted(found.path), found.text) == (path, text)


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ({"zzz": 1}, "zzz"),
        ({"name": 5}, ""),
        ({"lb_policy": "zzz"}, "zzz"),
        ({"lb_policy": "randoms"}, ""),
        ({"typed_extension_protocol_options": {"x": {"@type": "a/b.C"}}}, "b.C"),
        ({"typed_extension_protocol_options": {"x": typed_options(zzz=1)}}, "zzz"),
    ],
)
def test_names_that_another_envoy_may_know(value: Any, name: str) -> None:
    """An unknown field or type is told apart from a wrong value."""
    (found,) = typed.mismatches(value, CLUSTER)
    assert found.name == name


def test_everything_is_told_at_once() -> None:
    """Not only the first of it, and with the path that the whole has."""
    value: dict[str, Any] = {"name": 5, "zzz": 1, "health_checks": [{"timeout": 1}]}
    assert [each.path for each in typed.mismatches(value, CLUSTER, ("top", 3))] == [
        ("top", 3, "name"),
        ("top", 3, "zzz"),
        ("top", 3, "health_checks", 0, "timeout"),
    ]


def test_a_long_value_is_cut() -> None:
    """The line stays one that can be read."""
    (found,) = typed.mismatches({"connect_timeout": "x" * 1000}, CLUSTER)
    assert found.text == f"{DURATION}, got '{'x' * 60}'"


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", "x", "a/", typed.ANY_PREFIX, "envoy", "a..b", ".sys.exit", "\0.x", "é.x", " .x"),
        *("envoy.config.core.v3.", "envoy.config.core.v3.RoutingPriority", "envoy.config.core.v3.__name__"),
        *("envoy.config.core.v3.betterproto2", "envoy.config.core.v3.TYPE_CHECKING", "Address"),
    ],
)
def test_a_type_that_is_none(name: str) -> None:
    """Also an enum, a module, or whatever else Python finds under the name."""
    (found,) = typed.mismatches({"@type": name, "resources": 5}, "google.protobuf.Any")
    assert found.text.startswith("there is no type ")
    assert found.name == name.rpartition("/")[2]


ODD: tuple[Any, ...] = (None, True, 5, float("inf"), "x", [], {})


@pytest.mark.parametrize("file", files.NAMES)
def test_nothing_raises(file: str) -> None:
    """Whatever stands in the place of any one value of the shipped files. Each gets the half of what is odd."""
    documents = files.read(None)
    cases = list(itertools.product(ways(documents[file]), ODD))[::2]
    found = [list(typed.mismatches(altered(documents, file, *case)[file], type_of(file))) for case in cases]
    assert 0 < sum(map(bool, found)) < len(found)


@pytest.mark.parametrize(
    ("value", "form", "path", "stood"),
    [
        ({"lbPolicy": "random"}, {"lb_policy": "RANDOM"}, ("lb_policy",), ("lbPolicy",)),
        ({"lb_policy": "3"}, {"lb_policy": "RANDOM"}, ("lb_policy",), ("lb_policy",)),
        ({"respect_dns_ttl": "1"}, {"respect_dns_ttl": True}, (), ()),
        ({"connect_timeout": {"seconds": "5", "nanos": 250_000_000}}, {"connect_timeout": "5.25s"}, (), ()),
        (
            {"per_connection_buffer_limit_bytes": {"value": "0x10"}},
            {"per_connection_buffer_limit_bytes": 16},
            ("per_connection_buffer_limit_bytes",),
            ("per_connection_buffer_limit_bytes", "value"),
        ),
        (
            {"healthChecks": {"timeout": "1s"}},
            {"health_checks": [{"timeout": "1s"}]},
            ("health_checks", 0, "timeout"),
            ("healthChecks", "timeout"),
        ),
        (
            {"health_checks": [[{"timeout": "1s"}], {"timeout": "2s"}]},
            {"health_checks": [{"timeout": "1s"}, {"timeout": "2s"}]},
            ("health_checks", 0, "timeout"),
            ("health_checks", 0, 0, "timeout"),
        ),
        ({"name": 1.5}, {"name": "1.5"}, (), ()),
    ],
)
def test_in_one_form(value: Any, form: Any, path: source.Pointer, stood: source.Pointer) -> None:
    """What is looked for by one name and one value is found, whatever form was written; and where it stands."""
    reading = typed.read(value, CLUSTER)
    assert (reading.value, reading.mismatches) == (form, [])
    assert typed.read(form, CLUSTER).value == form
    places = source.Places("f")
    places.add(stood, source.Place("f", 7, 8))
    assert places.moved(reading.stood).of(path) == source.Place("f", 7, 8)
