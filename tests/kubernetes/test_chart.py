"""deploy/helm/extproc as Helm renders it: of the right form for Kubernetes, and restricted, in each mode.

Behind `make test-kubernetes`, which builds Helm and fetches Envoy Gateway's schemas: both take minutes.
"""

from __future__ import annotations

import copy
import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import jsonschema
import kubernetes_validate
import pytest
import yaml
from support.envoys import refusal

HELM: Final = os.environ.get("EXTPROC_HELM", "")
CRDS: Final = os.environ.get("EXTPROC_GATEWAY_CRDS", "")
KUBERNETES: Final = ("1.31.0", "1.37.0")

if not HELM or not CRDS:
    pytest.skip("needs Helm and Envoy Gateway's schemas: make test-kubernetes", allow_module_level=True)

Manifest = dict[str, Any]

VALUES: Final[Mapping[str, Mapping[str, Any]]] = {
    "as shipped": {},
    "backends": {"backends": ["vllm.llm.svc.cluster.local.:8000", "https://api.example.com"]},
    "one replica": {"replicas": 1},
    "image by digest": {"image": {"digest": "sha256:" + "a" * 64}},
    "pull secrets": {"imagePullSecrets": [{"name": "registry"}]},
    "settings": {
        "settings": {"workers": 2, "hold_request_bytes": "1 MiB", "metric_models": ["a", "b"], "index": False}
    },
    "variables": {"env": [{"name": "AWS_REGION", "value": "eu-central-1"}]},
    "small": {"resources": {"requests": {"cpu": "100m"}}, "journal": {"size": "1Gi"}},
    "storage class": {"journal": {"storageClassName": "fast"}},
    "monitoring": {"monitoring": {"enabled": True, "labels": {"release": "prometheus"}}},
    "autoscaling": {"autoscaling": {"enabled": True, "maxReplicas": 5}},
    "no network policy": {"networkPolicy": {"enabled": False}},
    "network policy": {"networkPolicy": {"clients": [{"podSelector": {}}], "scrapers": [{"namespaceSelector": {}}]}},
    "load balancer": {"service": {"type": "LoadBalancer", "annotations": {"a": "b"}}},
    "own routes": {"envoy": {"files": {"overlay.yaml": "resources:\n- name: llm\n  lb_policy: ROUND_ROBIN\n"}}},
    "placed": {
        "nodeSelector": {"pool": "edge"},
        "tolerations": [{"key": "edge", "operator": "Exists"}],
        "affinity": {"podAntiAffinity": {}},
        "podAnnotations": {"a": "b"},
    },
    "short drain": {"drainSeconds": 30},
    "gateway": {"mode": "envoy-gateway"},
    "gateway, all of it": {
        "mode": "envoy-gateway",
        "gateway": {"name": "edge", "user": 1000, "bufferLimit": "50Mi"},
        "autoscaling": {"enabled": True},
        "monitoring": {"enabled": True},
        "imagePullSecrets": [{"name": "registry"}],
        "podAnnotations": {"a": "b"},
        "nodeSelector": {"pool": "edge"},
        "tolerations": [{"key": "edge", "operator": "Exists"}],
    },
    "istio": {"mode": "istio"},
    "istio, monitored": {"mode": "istio", "istio": {"selector": {"app": "gw"}}, "monitoring": {"enabled": True}},
}


def helm(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run Helm to its end."""
    return subprocess.run([HELM, *map(str, arguments)], capture_output=True, text=True, timeout=100, check=False)


@pytest.fixture(scope="module")
def chart(checkout: Path) -> Path:
    """Where the chart is."""
    return checkout / "deploy" / "helm" / "extproc"


@pytest.fixture(scope="module", params=list(VALUES))
def rendered(request: pytest.FixtureRequest, chart: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Manifest]:
    """What Helm makes of one file of values."""
    values = tmp_path_factory.mktemp("values") / "values.yaml"
    values.write_text(yaml.safe_dump(dict(VALUES[request.param])))
    linted = helm("lint", "--strict", "--values", values, chart)
    assert linted.returncode == 0, linted.stdout + linted.stderr
    done = helm("template", "llm", chart, "--namespace", "gateway", "--values", values)
    assert done.returncode == 0, done.stderr
    return [each for each in yaml.safe_load_all(done.stdout) if each]


def test_every_manifest_has_the_form_that_its_kind_asks_for(rendered: list[Manifest]) -> None:
    """Built-in kinds by the schemas of two versions of Kubernetes, Envoy Gateway's by its own; no unknown field."""
    for manifest in rendered:
        check(manifest)


def test_every_pod_is_restricted(rendered: list[Manifest]) -> None:
    """What the restricted Pod Security Standard asks for, in each container, whoever makes the pod."""
    for container in _containers(rendered):
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert context["runAsNonRoot"] is True
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert context["readOnlyRootFilesystem"] is True


def test_the_recorder_begins_before_envoy_and_ends_after_it(rendered: list[Manifest]) -> None:
    """It is a sidecar: an init container that is kept, and has been ready before Envoy starts."""
    for manifest in rendered:
        for pod in _pods(manifest):
            recorder = next(each for each in pod["initContainers"] if each["name"] == "extproc")
            assert recorder["restartPolicy"] == "Always"
            assert recorder["startupProbe"]["httpGet"]["path"] == "/readyz"


def test_a_mode_makes_only_its_own(chart: Path) -> None:
    """Their kinds."""
    kinds = {
        mode: {
            each["kind"] for each in yaml.safe_load_all(helm("template", "x", chart, "--set", f"mode={mode}").stdout)
        }
        for mode in ("envoy", "envoy-gateway", "istio")
    }
    assert kinds["envoy"] == {"ConfigMap", "Service", "StatefulSet", "PodDisruptionBudget", "NetworkPolicy"}
    assert kinds["envoy-gateway"] == {"EnvoyProxy", "Backend", "EnvoyExtensionPolicy", "ClientTrafficPolicy"}
    assert kinds["istio"] == {"EnvoyFilter"}


def test_the_configuration_is_that_of_the_repository(chart: Path, checkout: Path) -> None:
    """Byte for byte; a file of one's own takes the place of one, and an overlay is added."""
    manifests = list(yaml.safe_load_all(helm("template", "x", chart).stdout))
    data = next(each for each in manifests if each["kind"] == "ConfigMap")["data"]
    assert sorted(data) == ["clusters.yaml", "envoy.yaml", "routes.yaml"]
    for name, text in data.items():
        assert text.strip() == (checkout / "envoy" / name).read_text().strip()


def test_envoy_reads_what_istio_is_given(chart: Path, tmp_path: Path) -> None:
    """Put where Istio would put it: the filter before the router, the access log into the connection manager."""
    [patches] = yaml.safe_load_all(helm("template", "x", chart, "--set", "mode=istio").stdout)
    cluster, merged, inserted = (each["patch"]["value"] for each in patches["spec"]["configPatches"])
    router = {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}
    manager = {
        **merged["typed_config"],
        "stat_prefix": "gateway",
        "route_config": {"name": "gateway"},
        "http_filters": [inserted, {"name": "envoy.filters.http.router", "typed_config": router}],
    }
    listener = {
        "name": "gateway",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
        "filter_chains": [
            {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
        ],
    }
    bootstrap = {"static_resources": {"listeners": [listener], "clusters": [cluster]}}
    assert refusal(yaml.safe_dump(bootstrap), tmp_path) is None
    inserted["typed_config"]["message_timeouts"] = "1s"
    assert refusal(yaml.safe_dump(bootstrap), tmp_path) is not None


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ("mode=nginx", "mode"),
        ("replica=3", "replica"),
        ("image.digest=latest", "digest"),
        ("drainSeconds=soon", "drainSeconds"),
    ],
)
def test_wrong_values_are_refused(chart: Path, values: str, complaint: str) -> None:
    """With the name of the value."""
    done = helm("template", "x", chart, "--set", values)
    assert done.returncode != 0
    assert complaint in done.stderr


MISTAKES: Final = [
    (("StatefulSet", ("spec", "template", "spec", "containers", 0, "imagePull")), "Always"),
    (("StatefulSet", ("spec", "replicas")), "two"),
    (("Service", ("spec", "ports", 0, "port")), "http"),
    (("EnvoyProxy", ("spec", "provider", "kubernetes", "envoyDeployment", "initContainer")), []),
    (("EnvoyExtensionPolicy", ("spec", "extProc", 0, "processingMode", "request", "body")), "STREAMED"),
    (("ClientTrafficPolicy", ("spec", "connection", "bufferLimits")), "1Mi"),
]


@pytest.mark.parametrize(("where", "wrong"), MISTAKES)
def test_a_planted_mistake_is_found(chart: Path, where: tuple[str, tuple[str | int, ...]], wrong: object) -> None:
    """Otherwise the check of forms would show nothing."""
    kind, path = where
    mode = "envoy" if kind in {"StatefulSet", "Service"} else "envoy-gateway"
    manifests = yaml.safe_load_all(helm("template", "x", chart, "--set", f"mode={mode}").stdout)
    manifest = next(each for each in manifests if each["kind"] == kind)
    check(manifest)
    spoilt = copy.deepcopy(manifest)
    inner: Any = spoilt
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = wrong
    with pytest.raises((kubernetes_validate.ValidationError, jsonschema.ValidationError)):
        check(spoilt)


# The forms ---------------------------------------------------------------------------------------------------


def check(manifest: Manifest) -> None:
    """Raises ValidationError of one of the two libraries."""
    group = manifest["apiVersion"].partition("/")[0]
    if group == "gateway.envoyproxy.io":
        jsonschema.validate(manifest, _crd(manifest["kind"]))
    elif group not in {"monitoring.coreos.com", "networking.istio.io"}:
        for version in KUBERNETES:
            kubernetes_validate.validate(manifest, version, strict=True)


def _crd(kind: str) -> dict[str, Any]:
    for file in sorted(Path(CRDS).glob("gateway.envoyproxy.io_*.yaml")):
        text = file.read_text()
        # The files are templates of a chart; what is one in them stands on lines of its own.
        plain = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("{{"))
        for document in yaml.safe_load_all(plain):
            if document and document["spec"]["names"]["kind"] == kind:
                schema: dict[str, Any] = document["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
                _make_strict(schema)
                return schema
    raise AssertionError(f"no schema of {kind}")


def _make_strict(schema: Any) -> None:
    """Allow no property but those that it names, at any depth."""
    for inner in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        _make_strict(inner)
    if not isinstance(schema, dict):
        return
    named = schema.get("type") == "object" and isinstance(schema.get("properties"), dict)
    open_ended = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
    if named and not open_ended and "metadata" not in schema["properties"]:
        schema["additionalProperties"] = False
    if schema.get("x-kubernetes-int-or-string"):
        schema.pop("type", None)


def _pods(manifest: Manifest) -> Iterator[Manifest]:
    if manifest["kind"] == "StatefulSet":
        yield manifest["spec"]["template"]["spec"]
    elif manifest["kind"] == "EnvoyProxy":
        yield manifest["spec"]["provider"]["kubernetes"]["envoyDeployment"]


def _containers(manifests: list[Manifest]) -> Iterator[Manifest]:
    for manifest in manifests:
        for pod in _pods(manifest):
            yield from [*pod.get("containers", ()), *pod.get("initContainers", ())]
