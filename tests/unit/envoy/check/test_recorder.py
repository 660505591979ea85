"""What the recorder relies on: each finding, by an edit of the shipped files, which have none."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
from support.configuration import altered, edit, position, shipped_copy, way_to

from extproc.config import Config
from extproc.core import routing
from extproc.envoy.check import recorder
from extproc.envoy.config import files
from extproc.envoy.config.files import BOOTSTRAP, CLUSTERS, ROUTES, Documents

SHIPPED = files.read(None)
MANAGER = ("static_resources", "listeners", "ingress", "filter_chains", "*", "filters", "*", "typed_config")
EXT_PROC = (*MANAGER, "http_filters", "envoy.filters.http.ext_proc", "typed_config")
SIDECAR = ("static_resources", "clusters", "extproc")


def found(documents: Documents, **settings: Any) -> list[str]:
    """The findings as lines, without their places."""
    config = dataclasses.replace(Config(), **settings)
    return list(dict.fromkeys(f"{each.level}: {each.text}" for each in recorder.findings(documents, config)))


def without(file: str, *steps: str) -> Documents:
    """The shipped documents without one value."""
    return altered(SHIPPED, file, way_to(SHIPPED, file, *steps))


def with_value(value: object, file: str, *steps: str) -> Documents:
    """The shipped documents with another value, or one more."""
    return altered(SHIPPED, file, (*way_to(SHIPPED, file, *steps[:-1]), steps[-1]), value)


def test_the_shipped_files_have_none() -> None:
    """Whatever the settings that Envoy's buffers allow."""
    assert found(SHIPPED) == []
    assert found(SHIPPED, hold_request_bytes=0) == []


EDITS = [
    (BOOTSTRAP, "address: 127.0.0.1, port_value: 9901", "address: '::', port_value: 9901", "'::'",
     "error: Envoy's admin interface on ::: whoever reaches it can stop Envoy; use 127.0.0.1"),
    (BOOTSTRAP, "request_body_mode: STREAMED", "request_body_mode: BUFFERED", "BUFFERED",
     "error: request_body_mode is BUFFERED; the recorder needs STREAMED"),
    (BOOTSTRAP, "response_body_mode: STREAMED", "response_body_mode: FULL_DUPLEX_STREAMED", "FULL",
     "error: response_body_mode is FULL_DUPLEX_STREAMED; the recorder needs STREAMED"),
    (BOOTSTRAP, "request_header_mode: SEND", "request_header_mode: SKIP", "SKIP",
     "error: request_header_mode is SKIP; the recorder needs SEND"),
    (BOOTSTRAP, "response_header_mode: SEND", "response_header_mode: SKIP", "SKIP",
     "error: response_header_mode is SKIP; the recorder needs SEND"),
    (BOOTSTRAP, "request_trailer_mode: SEND", "request_trailer_mode: DEFAULT", "DEFAULT",
     "error: request_trailer_mode is SKIP; the recorder needs SEND"),
    (BOOTSTRAP, "observability_mode: false", "observability_mode: true", "true",
     "warning: observability_mode: nothing waits for a record (best effort)"),
    (BOOTSTRAP, "failure_mode_allow: false", "failure_mode_allow: true", "true",
     "warning: failure_mode_allow: what cannot be recorded passes; `extproc reconcile` lists it"),
    (BOOTSTRAP, "metadata_options: {receiving_namespaces: {untyped: [extproc]}}", "metadata_options: {}", "{}",
     "warning: the exchange's id cannot come back; expected metadata_options: {receiving_namespaces: "),
    (BOOTSTRAP, "message_timeout: 10s", "message_timeout: 8s", "8s",
     "error: message_timeout is 8 s, and the recorder waits for its disk for up to 8 s (gate_timeout_seconds); "),
    (BOOTSTRAP, "allow_mode_override: true", "allow_mode_override: false", "false",
     "warning: requests are not held back until their record is durable; expected "),
    (BOOTSTRAP, "per_connection_buffer_limit_bytes: 1048576", "per_connection_buffer_limit_bytes: 524288", "524288",
     "error: per_connection_buffer_limit_bytes is 512 KiB, and requests up to 512 KiB are held (hold_request_bytes): "),
    (BOOTSTRAP, "initial_stream_window_size: 1048576", "initial_stream_window_size: '65536'", "'65536'",
     "error: initial_stream_window_size is 64 KiB, and requests up to 512 KiB are held (hold_request_bytes): "),
    (BOOTSTRAP, "          - name: extproc.inner", "          - name: mine", None,
     "warning: ext_proc drops content-length: extproc.outer before it and extproc.inner behind it, as in the shipped "),
    (BOOTSTRAP, "max_requests: 100000, max_ret", "max_requests: 1024, max_ret", None,
     "warning: max_requests is 1024: the next exchange in flight would be refused; expected 100000"),
    (ROUTES, "    - name: default\n      match: {prefix: /}\n      route:",
     "    - name: default\n      match: {prefix: /}\n      route:\n        max_stream_duration: {}", None, ""),
    (ROUTES, "timeout: 0s", "timeout: 30s", "30s",
     "warning: route websocket ends each answer after 30 s; timeout: 0s lets a generation end by itself"),
    (ROUTES, "        timeout: 0s\n", "", None,
     "warning: route websocket ends each answer after 15 s, Envoy's default"),
    (ROUTES, "timeout: 0s", "timeout: 60s", None, ""),
]  # fmt: skip


@pytest.mark.parametrize(("file", "old", "new", "marker", "text"), EDITS)
def test_an_edit(  # noqa: PLR0917 - a table of them
    tmp_path: Path, file: str, old: str, new: str, marker: str | None, text: str
) -> None:
    """What it breaks or costs is said, where it stands."""
    directory = shipped_copy(tmp_path)
    edit(directory / file, old, new)
    documents = files.read(directory)
    assert [line[: len(text)] for line in found(documents)] == ([text] if text else [])
    if marker is not None:
        written = (directory / file).read_text()
        (place, *_) = [each.place for each in recorder.findings(documents, Config())]
        assert str(place) == f"{directory / file}:{position(written, written.index(marker, written.index(new)))}"


@pytest.mark.parametrize(
    ("documents", "texts"),
    [
        (with_value("127.0.0.9", BOOTSTRAP, "admin", "address", "socket_address", "address"), []),
        (with_value("::1", BOOTSTRAP, "admin", "address", "socket_address", "address"), []),
        (without(BOOTSTRAP, "admin"), []),
        (
            without(BOOTSTRAP, *EXT_PROC, "processing_mode"),
            [
                "error: request_body_mode is NONE; the recorder needs STREAMED",
                "error: request_trailer_mode is SKIP; the recorder needs SEND",
                "error: response_body_mode is NONE; the recorder needs STREAMED",
                "error: response_trailer_mode is SKIP; the recorder needs SEND",
            ],
        ),
        (
            without(BOOTSTRAP, *EXT_PROC, "message_timeout"),
            ["error: message_timeout is 0.2 s, and the recorder waits for its disk for up to 8 s"],
        ),
        (without(BOOTSTRAP, *EXT_PROC, "metadata_options"), ["warning: the exchange's id cannot come back"]),
        (without(BOOTSTRAP, *EXT_PROC, "allowed_override_modes"), []),
        (with_value([{}], BOOTSTRAP, *EXT_PROC, "allowed_override_modes"), ["warning: requests are not held back"]),
        (
            with_value(True, BOOTSTRAP, *EXT_PROC, "send_body_without_waiting_for_header_response"),
            ["warning: requests are not held back"],
        ),
        (with_value("10s", BOOTSTRAP, *EXT_PROC, "grpc_service", "timeout"), []),
        (
            without(BOOTSTRAP, *MANAGER, "access_log"),
            ["warning: without Envoy's gRPC access log"],
        ),
        (without(BOOTSTRAP, *MANAGER, "http_filters", "extproc.outer"), ["warning: ext_proc drops content-length"]),
        (
            without(BOOTSTRAP, *MANAGER, "http_filters", "envoy.filters.http.ext_proc"),
            ["warning: no listener has the filter envoy.filters.http.ext_proc: nothing would be recorded"],
        ),
        (
            without(BOOTSTRAP, *SIDECAR, "typed_extension_protocol_options"),
            ["error: the cluster extproc speaks gRPC; expected http2_protocol_options for it"],
        ),
        (
            without(BOOTSTRAP, *SIDECAR, "circuit_breakers"),
            [
                "warning: max_requests is 1024: the next exchange in flight would be refused",
                "warning: max_connections is 1024: the next exchange in flight would be refused",
                "warning: max_pending_requests is 1024: the next exchange in flight would be refused",
            ],
        ),
        (without(BOOTSTRAP, "static_resources", "listeners", "ingress", "per_connection_buffer_limit_bytes"), []),
        (without(CLUSTERS, "resources", "llm", "circuit_breakers"), []),
    ],
)
def test_what_is_altered(documents: Documents, texts: list[str]) -> None:
    """Envoy's own defaults count where nothing is written."""
    assert [line[: len(text)] for line, text in zip(found(documents), texts, strict=True)] == texts


@pytest.mark.parametrize(
    ("settings", "texts"),
    [
        ({"gate_timeout_seconds": 9.5}, []),
        ({"gate_timeout_seconds": 10.0}, ["error: message_timeout is 10 s, and the recorder waits for its disk"]),
        ({"hold_request_bytes": 1024 * 1024 - 1}, []),
        (
            {"hold_request_bytes": 1024 * 1024},
            [
                "error: per_connection_buffer_limit_bytes is 1 MiB, and requests up to 1 MiB are held",
                "error: initial_stream_window_size is 1 MiB, and requests up to 1 MiB are held",
            ],
        ),
    ],
)
def test_settings_against_the_shipped_files(settings: dict[str, Any], texts: list[str]) -> None:
    """Each is compared with what Envoy has."""
    assert [line[: len(text)] for line, text in zip(found(SHIPPED, **settings), texts, strict=True)] == texts


def test_without_overrides_nothing_has_to_fit() -> None:
    """What is not held is not buffered."""
    documents = with_value(False, BOOTSTRAP, *EXT_PROC, "allow_mode_override")
    assert found(documents, hold_request_bytes=0) == []


ALL_ROUTES = ("resources", "ingress", "virtual_hosts", "all", "routes")


@pytest.mark.parametrize(
    ("names", "limit", "wrong"),
    [
        (("websocket", "connect", "default"), 4 * 2**20, []),
        (("websocket", "connect"), 4 * 2**20, ["per_connection_buffer_limit_bytes", "initial_stream_window_size"]),
        (("websocket", "connect", "default"), 1024, ["request_body_buffer_limit"]),
    ],
)
def test_a_limit_of_the_routes_own(names: tuple[str, ...], limit: int, wrong: list[str]) -> None:
    """It counts before the listener's."""
    documents = SHIPPED
    for name in names:
        way = way_to(documents, ROUTES, *ALL_ROUTES, name)
        documents = altered(documents, ROUTES, (*way, "request_body_buffer_limit"), limit)
    lines = found(documents, hold_request_bytes=2 * 2**20)
    assert [line.split()[1] for line in lines] == wrong


def test_a_limit_of_the_virtual_hosts_own() -> None:
    """It counts for those of its routes that have none."""
    way = way_to(SHIPPED, ROUTES, "resources", "ingress", "virtual_hosts", "all")
    documents = altered(SHIPPED, ROUTES, (*way, "request_body_buffer_limit"), 4 * 2**20)
    assert found(documents, hold_request_bytes=2 * 2**20) == []


@pytest.mark.parametrize("match", [{"prefix": "/", "grpc": {}}])
def test_routes_of_grpc_and_redirects_have_no_time_limit(match: object) -> None:
    """Nor have those that lead nowhere."""
    way = way_to(SHIPPED, ROUTES, *ALL_ROUTES, "default")
    assert found(altered(SHIPPED, ROUTES, way, {"match": match, "route": {"cluster": "llm"}})) == []
    assert found(altered(SHIPPED, ROUTES, way, {"match": {"prefix": "/"}, "redirect": {}})) == []


@pytest.mark.parametrize(("value", "wrong"), [("x-model, x-prompt-prefix=512", False), ("x-modle", True), ("", False)])
def test_headers_that_a_route_asks_for(value: str, wrong: bool) -> None:
    """What the recorder could not read is told before it would be a line in its log."""
    way = (*way_to(SHIPPED, BOOTSTRAP, *EXT_PROC, "grpc_service"), "initial_metadata")
    documents = altered(SHIPPED, BOOTSTRAP, way, [{"key": "x-other"}, {"key": routing.METADATA, "value": value}])
    assert any(line.startswith(f"error: {routing.METADATA}: expected ") for line in found(documents)) is wrong


def test_a_second_listener_without_a_recorder() -> None:
    """It is its owner's own affair."""
    listeners = SHIPPED[BOOTSTRAP]["static_resources"]["listeners"]
    documents = altered(SHIPPED, BOOTSTRAP, ("static_resources", "listeners"), [*listeners, {"name": "other"}])
    assert found(documents) == []


def with_filters(change: str, *, at: int) -> Documents:
    """The shipped documents with a second ext_proc in the chain, made from ours."""
    documents = files.read(None)
    way = way_to(documents, BOOTSTRAP, *MANAGER, "http_filters")
    chain = documents[BOOTSTRAP]
    for step in way:
        chain = chain[step]
    (ours,) = (each for each in chain if each["name"] == "envoy.filters.http.ext_proc")
    second = copy.deepcopy(ours)
    if change == "another cluster":
        second["typed_config"]["grpc_service"]["envoy_grpc"]["cluster_name"] = "llm"
    elif change == "another cluster and namespace":
        second["typed_config"]["grpc_service"]["envoy_grpc"]["cluster_name"] = "llm"
        del second["typed_config"]["metadata_options"]
    elif change == "another name":
        second["name"] = "envoy.filters.http.ext_proc/2"
    chain.insert(at, second)
    return documents


@pytest.mark.parametrize("change", ["another cluster", "another name", "no other at all"])
@pytest.mark.parametrize("at", [2, -1])
def test_two_recorders_in_a_chain(change: str, at: int) -> None:
    """Each would write its exchange's id over the other's, whatever they are called and wherever they lead."""
    errors = [line for line in found(with_filters(change, at=at)) if line.startswith("error: a second recorder")]
    assert len(errors) == 1


@pytest.mark.parametrize("at", [0, 1, 2, -1])
def test_another_ext_proc_is_no_recorder(at: int) -> None:
    """Also under the usual name, before ours or behind it: ours stands between its two filters."""
    assert found(with_filters("another cluster and namespace", at=at)) == []
