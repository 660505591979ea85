"""What is shipped to deploy: compose, Prometheus, Grafana. The programs themselves judge where they can."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.prometheus import program

from extproc.cli.main import COMMANDS, group
from extproc.config import SETTINGS
from extproc.telemetry.metrics import Metrics

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "prometheus"


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    """docker-compose.yml."""
    document: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return document


@pytest.fixture(scope="module")
def dashboard() -> dict[str, Any]:
    """The dashboard."""
    document: dict[str, Any] = json.loads((ROOT / "deploy" / "grafana" / "extproc.json").read_text())
    return document


# Prometheus ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", ["check rules rules.yml", "check config prometheus.yml", "test rules rules_test.yml"])
def test_promtool_agrees(words: str) -> None:
    """Rules and configuration are right, and each alert fires where it should and only there."""
    done = subprocess.run(
        [program("promtool"), *words.split()], cwd=RULES, capture_output=True, text=True, check=False, timeout=150
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_both_cases() -> None:
    """One that fires, one that does not; and each says what to do."""
    rules = [rule for each in yaml.safe_load((RULES / "rules.yml").read_text())["groups"] for rule in each["rules"]]
    cases = yaml.safe_load((RULES / "rules_test.yml").read_text())["tests"]
    tried = {
        (each["alert_rule_test"][0]["alertname"], bool(each["alert_rule_test"][0]["exp_alerts"])) for each in cases
    }
    assert tried == {(rule["alert"], fires) for rule in rules for fires in (True, False)}
    for rule in rules:
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert set(rule["annotations"]) == {"summary", "description"}


# Grafana ---------------------------------------------------------------------------------------------------


def test_the_dashboard_is_tidy(dashboard: dict[str, Any]) -> None:
    """Each panel has its own id and its own place, within the grid, with a title and a unit."""
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
        assert panel["title"]
        if panel["type"] != "row":
            assert panel["description"]
            assert panel["fieldConfig"]["defaults"]["unit"]
            assert panel["datasource"]["uid"] == "${datasource}"
    rows = [panel["title"] for panel in panels if panel["type"] == "row"]
    assert rows == ["Overview", "Latency", "Tokens", "Backends", "Integrity", "Journal"]


def test_model_and_backend_can_be_chosen(dashboard: dict[str, Any]) -> None:
    """Each variable offers the values of a label that is there, all of them at first, and the queries go by it."""
    families = set(re.findall(r"(?m)^# TYPE (\w+) ", Metrics((), {}).text().decode()))
    queries = {each["name"]: each for each in dashboard["templating"]["list"] if each["type"] == "query"}
    assert set(queries) == {"model", "backend"}
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    for name, variable in queries.items():
        match = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"])
        assert match is not None
        assert match[1] in families or match[1].removesuffix("_count") in families
        assert (variable["multi"], variable["includeAll"], variable["allValue"]) == (True, True, ".*")
        assert any(f'{match[2]}=~"${name}"' in expression for expression in asked)
    for expression in asked:
        for metric, selector in re.findall(r"\b(gen_ai_\w+|extproc_upstream_\w+)(\{[^}]*\})?\[", expression):
            assert ("$model" if metric.startswith("gen_ai") else "$backend") in selector, expression


def test_there_is_a_way_from_a_metric_to_a_trace(dashboard: dict[str, Any], compose: dict[str, Any]) -> None:
    """Exemplars are kept, asked for and lead to Jaeger; an outcome leads to its traces there."""
    sources = {
        each["uid"]: each
        for file in (ROOT / "deploy" / "grafana" / "provisioning" / "datasources").iterdir()
        for each in yaml.safe_load(file.read_text())["datasources"]
    }
    (destination,) = sources["prometheus"]["jsonData"]["exemplarTraceIdDestinations"]
    assert destination["name"] == "trace_id"
    assert sources[destination["datasourceUid"]]["type"] == "jaeger"
    assert "--enable-feature=exemplar-storage" in compose["services"]["prometheus"]["command"]
    shown = [target for panel in dashboard["panels"] for target in panel.get("targets", ()) if target.get("exemplar")]
    assert {"extproc_exchange_duration_seconds_bucket", "extproc_first_token_seconds_bucket"} <= {
        name for target in shown for name in re.findall(r"\b\w+_bucket\b", target["expr"])
    }
    (link,) = next(panel for panel in dashboard["panels"] if panel["title"] == "Outcomes")["fieldConfig"]["defaults"][
        "links"
    ]
    panes = json.loads(link["url"].partition("panes=")[2])
    assert panes["j"]["datasource"] == "${jaeger}"
    assert panes["j"]["queries"][0]["tags"] == "extproc.outcome=${__field.labels.outcome}"
    assert "jaeger" in {each["name"] for each in dashboard["templating"]["list"]}


def test_metrics_are_asked_for_by_their_names(dashboard: dict[str, Any]) -> None:
    """Whatever the dashboard and the rules name and the follower counts, it counts under that name."""
    text = Metrics((), {}).text().decode()
    families = set(re.findall(r"(?m)^# TYPE (\w+) ", text))
    asked = re.findall(r"\b(?:extproc|gen_ai)_\w+", json.dumps(dashboard) + (RULES / "rules.yml").read_text())
    for name in asked:
        if name.startswith("gen_ai_") and name.endswith(("_bucket", "_sum", "_count")):
            assert name.rpartition("_")[0] in families


# Compose ---------------------------------------------------------------------------------------------------


def services(compose: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each service by its name."""
    yield from compose["services"].items()


def test_every_service_is_hardened(compose: dict[str, Any]) -> None:
    """The same lines for all, and a user without rights."""
    for name, service in services(compose):
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["ulimits"] == {"core": 0}, name
        assert service["pids_limit"], name
        assert service["mem_limit"], name
        assert service["tmpfs"], name
        assert not {"privileged", "cap_add", "network_mode", "pid", "ipc", "devices"} & set(service), name
        assert re.fullmatch(r"[1-9][0-9]*:[1-9][0-9]*", service["user"]), name
        assert service["healthcheck"] if name != "extproc" else True, name


def test_images_are_pinned(compose: dict[str, Any]) -> None:
    """By a version, never `latest`."""
    for name, service in services(compose):
        default = re.fullmatch(r"\$\{[A-Z_]+:-(.+)\}", service["image"])
        assert default is not None, name
        assert re.search(r":v?[0-9]+\.[0-9]+\.[0-9]+$", default[1]), name


def test_ports(compose: dict[str, Any]) -> None:
    """One for everybody; those of the UIs on loopback; no admin."""
    ports = {name: service.get("ports", []) for name, service in services(compose)}
    assert ports.pop("envoy") == ["${EXTPROC_PORT:-8000}:8000"]
    for name in ("jaeger", "prometheus", "grafana"):
        (port,) = ports.pop(name)
        assert port.startswith("127.0.0.1:"), name
    assert not any(ports.values())
    assert "9464:" not in json.dumps(compose)
    assert "9901:" not in json.dumps(compose["services"]["envoy"].get("ports"))


def test_what_is_mounted_exists(compose: dict[str, Any]) -> None:
    """Each file of the checkout read-only, each volume declared."""
    for name, service in services(compose):
        for mount in service.get("volumes", ()):
            source, *rest = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", mount).split(":")
            if source.startswith("."):
                assert (ROOT / source).exists(), (name, source)
                assert rest[-1] == "ro", (name, source)
            else:
                assert source in compose["volumes"], (name, source)


def test_settings_and_commands_are_ours(compose: dict[str, Any]) -> None:
    """Every variable is a setting, every command one that the program has."""
    known = {setting.variable for setting in SETTINGS.values()}
    for name, service in services(compose):
        variables = {each for each in service.get("environment", {}) if each.startswith("EXTPROC_")}
        assert variables <= known, name
        if "extproc:" in service["image"]:
            command, *arguments = service.get("command", ["serve"])
            assert command in COMMANDS, name
            context = group.make_context("extproc", [command, "--help"], resilient_parsing=True)
            found = group.get_command(context, command)
            assert found is not None
            found.make_context(command, list(arguments), resilient_parsing=True)


def test_healthy_in_order(compose: dict[str, Any]) -> None:
    """Envoy after the sidecar, the sidecar after its configuration and the collector."""
    waits = {
        name: {other: each["condition"] for other, each in service.get("depends_on", {}).items()}
        for name, service in services(compose)
    }
    assert waits["envoy"] == {"extproc": "service_healthy"}
    assert waits["extproc"] == {"config": "service_healthy", "jaeger": "service_healthy"}
    assert compose["services"]["extproc"]["restart"] == "on-failure"


def test_the_image(checkout: Path) -> None:
    """By hash, without what builds it, as nobody in particular, with a health check and a version."""
    text = (checkout / "Dockerfile").read_text()
    wanted = ("--require-hashes", "--only-binary :all:", "USER 10001:10001", "HEALTHCHECK", "image.version")
    assert [line for line in wanted if line not in text] == []
    final = text.split("FROM ${PYTHON_IMAGE}")[-1]
    assert "pip" not in final
    assert "apt-get" not in text
