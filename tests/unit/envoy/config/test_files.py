"""The Envoy files: what the program relies on in the shipped ones, and what `up`'s flags change."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from extproc.config import ENVOY_MESSAGE_TIMEOUT_SECONDS, Config
from extproc.envoy.config import files
from extproc.errors import ConfigError
from extproc.service.accesslog import BYPASS_TAG, ENCODING_TAG, FAILED_OPEN_TAG


def filters(documents: files.Documents) -> dict[str, Any]:
    """The HTTP filters' configurations by name, in their order."""
    listener = documents["envoy.yaml"]["static_resources"]["listeners"][0]
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    return {each["name"]: each["typed_config"] for each in manager["http_filters"]}


def cluster(documents: files.Documents, name: str) -> Any:
    """A cluster by name."""
    both = documents["envoy.yaml"]["static_resources"]["clusters"] + documents["clusters.yaml"]["resources"]
    return next(each for each in both if each["name"] == name)


def endpoints(documents: files.Documents, name: str) -> list[Any]:
    """The addresses of a cluster's endpoints."""
    assignment = cluster(documents, name)["load_assignment"]
    return [each["endpoint"]["address"] for group in assignment["endpoints"] for each in group["lb_endpoints"]]


@pytest.fixture
def documents() -> files.Documents:
    """The shipped files."""
    return files.read(None)


# The shipped files -----------------------------------------------------------------------------------------


def test_the_order_of_the_filters(documents: files.Documents) -> None:
    """The recorder stands between the two filters that carry content-length around it, and sees nothing compressed."""
    assert list(filters(documents)) == [
        "envoy.filters.http.compressor",
        "extproc.outer",
        "envoy.filters.http.ext_proc",
        "extproc.inner",
        "envoy.filters.http.local_ratelimit",
        "envoy.filters.http.body_size_limit",
        "envoy.filters.http.router",
    ]


def test_everything_is_shown_to_the_recorder(documents: files.Documents) -> None:
    """Bodies as they pass, trailers too, and the recorder waited for."""
    ext_proc = filters(documents)["envoy.filters.http.ext_proc"]
    shown = {
        "request_header_mode": "SEND",
        "request_body_mode": "STREAMED",
        "request_trailer_mode": "SEND",
        "response_header_mode": "SEND",
        "response_body_mode": "STREAMED",
        "response_trailer_mode": "SEND",
    }
    assert ext_proc["processing_mode"] == shown
    assert ext_proc["allowed_override_modes"] == [shown | {"request_body_mode": "BUFFERED"}]
    assert ext_proc["allow_mode_override"] is True
    assert ext_proc["failure_mode_allow"] is False
    assert ext_proc["observability_mode"] is False
    assert "timeout" not in ext_proc["grpc_service"]
    assert "send_body_without_waiting_for_header_response" not in ext_proc


def test_the_access_log_says_what_a_recorder_cannot(documents: files.Documents) -> None:
    """Why a route takes no recorder, and whether the recorder failed, which stands under the filter's own name."""
    listener = documents["envoy.yaml"]["static_resources"]["listeners"][0]
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    tags = manager["access_log"][0]["typed_config"]["common_config"]["custom_tags"]
    assert [tag["tag"] for tag in tags] == [BYPASS_TAG, ENCODING_TAG, FAILED_OPEN_TAG]
    (name,) = re.findall(r"%FILTER_STATE\(([a-z._]+):FIELD:failed_open\)%", tags[2]["value"])
    assert filters(documents)[name]["@type"].endswith(".ExternalProcessor")


def test_limits_agree_with_the_settings(documents: files.Documents) -> None:
    """What the settings' checks assume of Envoy is what the files say."""
    assert filters(documents)["envoy.filters.http.ext_proc"]["message_timeout"] == f"{ENVOY_MESSAGE_TIMEOUT_SECONDS:g}s"
    listener = documents["envoy.yaml"]["static_resources"]["listeners"][0]
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    assert listener["per_connection_buffer_limit_bytes"] > Config().hold_request_bytes
    assert manager["http2_protocol_options"]["initial_stream_window_size"] > Config().hold_request_bytes
    assert filters(documents)["envoy.filters.http.body_size_limit"]["max_request_bytes"] == 100 * 2**20


def test_ports_agree_with_the_settings(documents: files.Documents) -> None:
    """The files, used without `up`, have the ports and the socket that the settings have."""
    config = Config()
    bootstrap = documents["envoy.yaml"]
    listener = bootstrap["static_resources"]["listeners"][0]
    assert listener["address"]["socket_address"]["port_value"] == config.port
    assert bootstrap["admin"]["address"]["socket_address"] == {
        "address": "127.0.0.1",
        "port_value": config.envoy_admin_port,
    }
    assert endpoints(documents, "extproc") == [{"pipe": {"path": config.address().removeprefix("unix:")}}]


def test_no_breaker_cuts_in_early(documents: files.Documents) -> None:
    """Envoy's default of 1024 requests is raised on both sides."""
    for name in ("extproc", "llm"):
        (threshold,) = cluster(documents, name)["circuit_breakers"]["thresholds"]
        assert min(threshold.values()) >= 100_000


def test_routes_have_no_time_limit_and_no_retry(documents: files.Documents) -> None:
    """An answer may take an hour; a request that has killed one backend does not go to the next."""
    (host,) = documents["routes.yaml"]["resources"][0]["virtual_hosts"]
    for route in host["routes"]:
        assert (route["route"]["timeout"], route["route"]["idle_timeout"]) == ("0s", "600s")
        assert "retry_policy" not in route["route"]
    recorded = [route["name"] for route in host["routes"] if "typed_per_filter_config" not in route]
    assert recorded == ["default"]


# Reading ---------------------------------------------------------------------------------------------------


def test_missing_files_come_from_the_shipped_ones(tmp_path: Path, documents: files.Documents) -> None:
    """A directory holds only what differs, and may hold more."""
    (tmp_path / "routes.yaml").write_text("resources: []")
    (tmp_path / "more.yaml").write_text("resources: [1]")
    (tmp_path / "notes.txt").write_text("- : [")
    read = files.read(tmp_path)
    assert read["envoy.yaml"] == documents["envoy.yaml"]
    assert (read["routes.yaml"], read["more.yaml"]) == ({"resources": []}, {"resources": [1]})
    assert "notes.txt" not in read


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_who_may_read_what_is_written(tmp_path: Path, documents: files.Documents, umask: int, mode: int) -> None:
    """The umask says it, for Envoy's container has another user; also of a file that takes another one's place."""
    old = os.umask(umask)
    try:
        for _ in range(2):
            files.write(documents, tmp_path)
    finally:
        os.umask(old)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {mode}


def test_an_overlay_over_all_three(tmp_path: Path) -> None:
    """Over a user's own file where there is one, else over the shipped one; a value stands where it was written."""
    own = '{"@type": type.googleapis.com/envoy.config.cluster.v3.Cluster, name: llm, connect_timeout: 9s}'
    (tmp_path / "clusters.yaml").write_text(f"resources: [{own}]\n")
    (tmp_path / "overlay.yaml").write_text(
        "resources:\n- {name: llm, lb_policy: RANDOM}\n- {name: ingress, request_headers_to_remove: [x]}\n"
        "admin: {profile_path: /p}\n"
    )
    read = files.read(tmp_path)
    (cluster,), (routes,) = (read[name]["resources"] for name in ("clusters.yaml", "routes.yaml"))
    assert (cluster["connect_timeout"], cluster["lb_policy"]) == ("9s", "RANDOM")
    assert str(read.places["clusters.yaml"].of(("resources", 0, "lb_policy"))) == f"{tmp_path}/overlay.yaml:2:26"
    assert (routes["virtual_hosts"][0]["name"], routes["request_headers_to_remove"]) == ("all", ["x"])
    assert read["envoy.yaml"]["admin"]["profile_path"] == "/p"
    assert set(read) == {"envoy.yaml", "routes.yaml", "clusters.yaml"}


def test_an_overlay_that_is_wrong(tmp_path: Path) -> None:
    """Said once, with its place, beside what else is wrong."""
    (tmp_path / "overlay.yaml").write_text("resources: [{name: lm}]\n")
    (tmp_path / "more.yaml").write_text("a: [\n")
    _, problems = files.read_all(tmp_path)
    assert [str(each.place) for each in problems] == [f"{tmp_path}/more.yaml:2:1", f"{tmp_path}/overlay.yaml:1:13"]


@pytest.mark.parametrize("text", ["a: [\n", "a: b: c\n", "\x00", "- a\n", "", "a: &x [*y]\n"])
def test_files_that_are_none(tmp_path: Path, text: str) -> None:
    """The error names the file."""
    (tmp_path / "routes.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"routes\.yaml"):
        files.read(tmp_path)


# The flags -------------------------------------------------------------------------------------------------


def test_ports(documents: files.Documents) -> None:
    """The listener's and the admin interface's."""
    files.set_ports(documents, port=1, admin_port=2)
    bootstrap = documents["envoy.yaml"]
    assert bootstrap["static_resources"]["listeners"][0]["address"]["socket_address"]["port_value"] == 1
    assert bootstrap["admin"]["address"]["socket_address"] == {"address": "127.0.0.1", "port_value": 2}
    assert files.listener_host(documents) == "0.0.0.0"
    assert files.listener_scheme(documents) == "http"


def test_only_the_listener_called_ingress_gets_the_port(documents: files.Documents) -> None:
    """A user's further listeners stay as they are."""
    other = {"name": "other", "address": {"socket_address": {"address": "127.0.0.1", "port_value": 7}}}
    listeners = documents["envoy.yaml"]["static_resources"]["listeners"]
    listeners.insert(0, other)
    files.set_ports(documents, port=1, admin_port=2)
    assert [each["address"]["socket_address"]["port_value"] for each in listeners] == [7, 1]


@pytest.mark.parametrize("listeners", [[], [{"name": "ingress", "address": {"pipe": {"path": "x"}}}]])
def test_without_a_listener_with_a_port(documents: files.Documents, listeners: Any) -> None:
    """The error says what is missing."""
    documents["envoy.yaml"]["static_resources"]["listeners"] = listeners
    with pytest.raises(ConfigError, match=r"envoy\.yaml"):
        files.set_ports(documents, port=1, admin_port=2)


def test_one_endpoint_for_each_worker(documents: files.Documents) -> None:
    """Sockets become absolute: Envoy may run elsewhere."""
    files.set_sidecar(documents, ["unix:run/a.sock", "127.0.0.1:50051", "[::1]:50052"])
    assert endpoints(documents, "extproc") == [
        {"pipe": {"path": str(Path("run/a.sock").absolute())}},
        {"socket_address": {"address": "127.0.0.1", "port_value": 50051}},
        {"socket_address": {"address": "::1", "port_value": 50052}},
    ]


def test_without_the_cluster_of_the_sidecar(documents: files.Documents) -> None:
    """Nothing would be recorded, so it is an error."""
    documents["envoy.yaml"]["static_resources"]["clusters"] = []
    with pytest.raises(ConfigError, match="no cluster extproc"):
        files.set_sidecar(documents, ["unix:a"])


def test_watched_files_move_with_the_documents(tmp_path: Path, documents: files.Documents) -> None:
    """Every reference to one of the files points to where they are written; others stay."""
    documents["more.yaml"] = {"a": [{"path_config_source": {"path": "/etc/clusters.yaml"}}]}
    documents["more.yaml"]["b"] = {"path_config_source": {"path": "/etc/secrets.yaml"}}
    files.set_directory(documents, tmp_path)
    text = yaml.safe_dump(dict(documents))
    assert text.count(f"path: {tmp_path}/clusters.yaml") == 2
    assert text.count(f"path: {tmp_path}/routes.yaml") == 1
    assert documents["more.yaml"]["b"] == {"path_config_source": {"path": "/etc/secrets.yaml"}}


def test_backends(documents: files.Documents) -> None:
    """The endpoints of `llm` are replaced, its balancing and health checks stay."""
    before = cluster(documents, "llm").copy()
    files.set_backends(documents, ["http://gpu1:8000", "http://10.0.0.7", "http://[::1]:9"])
    assert [each["socket_address"] for each in endpoints(documents, "llm")] == [
        {"address": "gpu1", "port_value": 8000},
        {"address": "10.0.0.7", "port_value": 80},
        {"address": "::1", "port_value": 9},
    ]
    after = cluster(documents, "llm")
    assert {name for name in before if after[name] != before[name]} == {"load_assignment"}
    assert "auto_host_rewrite" not in yaml.safe_dump(documents["routes.yaml"])


def test_https_backends(documents: files.Documents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TLS with SNI and the name checked, for these endpoints only; the host header becomes theirs."""
    authorities = tmp_path / "ca.pem"
    authorities.touch()
    monkeypatch.setenv("SSL_CERT_FILE", str(authorities))
    files.set_backends(documents, ["https://api.example.com", "https://10.0.0.7:8443", "http://gpu1:8000"])
    llm = cluster(documents, "llm")
    named, by_address = llm["transport_socket_matches"]
    context = named["transport_socket"]["typed_config"]
    assert context["sni"] == "api.example.com"
    assert context["common_tls_context"]["validation_context"] == {
        "trusted_ca": {"filename": str(authorities)},
        "match_typed_subject_alt_names": [{"san_type": "DNS", "matcher": {"exact": "api.example.com"}}],
    }
    assert "sni" not in by_address["transport_socket"]["typed_config"]
    first, second, third = llm["load_assignment"]["endpoints"][0]["lb_endpoints"]
    assert first["endpoint"]["address"]["socket_address"]["port_value"] == 443
    assert first["metadata"]["filter_metadata"]["envoy.transport_socket_match"] == named["match"]
    assert second["metadata"]["filter_metadata"]["envoy.transport_socket_match"] == by_address["match"]
    assert "metadata" not in third
    assert yaml.safe_dump(documents["routes.yaml"]).count("auto_host_rewrite: true") == 3


def test_demo_backends(documents: files.Documents) -> None:
    """The demo addresses stand for the demo backends, wherever they are; what else a user wrote stays."""
    group = cluster(documents, "llm")["load_assignment"]["endpoints"][0]["lb_endpoints"]
    group[0]["load_balancing_weight"] = 3
    group.append({"endpoint": {"address": {"socket_address": {"address": "gpu", "port_value": 8001}}}})
    assert files.demo_ports(documents) == [8001, 8002]
    files.set_demo_ports(documents, {8001: 40001, 8002: 40002})
    assert [each["socket_address"]["port_value"] for each in endpoints(documents, "llm")] == [40001, 40002, 8001]
    assert group[0]["load_balancing_weight"] == 3
    assert files.demo_ports(documents) == []


def test_demo_backends_in_other_files(documents: files.Documents) -> None:
    """Of endpoints in a file of their own too, and by the name of this machine; nothing in the bootstrap is one."""
    documents["endpoints.yaml"] = {"x": {"socket_address": {"address": "localhost", "port_value": 8003}}}
    documents["envoy.yaml"]["admin"]["address"]["socket_address"] = {"address": "127.0.0.1", "port_value": 8004}
    assert files.demo_ports(documents) == [8001, 8002, 8003]


def test_written_files_are_what_was_read(tmp_path: Path, documents: files.Documents) -> None:
    """Renamed into place, without anchors, private."""
    files.write(documents, tmp_path / "run")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == sorted(documents)
    for name, document in documents.items():
        text = (tmp_path / "run" / name).read_text(encoding="utf-8")
        assert yaml.safe_load(text) == document
        assert "&" not in text.replace("&&", "")
    assert (tmp_path / "run").stat().st_mode & 0o777 == 0o700
