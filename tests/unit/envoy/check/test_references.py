"""Names by which the parts of a configuration refer to each other, each finding with its place."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from extproc.envoy.check import references
from extproc.envoy.config import files, source
from extproc.envoy.config.files import Documents

BOOTSTRAP = """\
static_resources:
  listeners:
  - name: ingress
    filter_chains:
    - filters:
      - name: hcm
        typed_config:
          "@type": type.googleapis.com/x.HttpConnectionManager
          rds:
            route_config_name: ingress
            config_source: {path_config_source: {path: routes.yaml}}
          http_filters:
          - {name: ext_proc, typed_config: {grpc_service: {envoy_grpc: {cluster_name: extproc}}}}
          - {name: router}
  clusters:
  - name: extproc
"""
ROUTES = """\
resources:
- "@type": type.googleapis.com/x.RouteConfiguration
  name: ingress
  virtual_hosts:
  - name: all
    domains: ["*"]
    routes:
    - {name: default, route: {cluster: llm}}
"""
CLUSTERS = """\
resources:
- {"@type": type.googleapis.com/x.Cluster, name: llm}
"""


SMALL = (BOOTSTRAP, ROUTES, CLUSTERS)
"""Three files of the smallest shape that has every reference."""


def documents(*texts: str) -> Documents:
    """The small files, the first of them replaced by these."""
    made = Documents()
    for name, text in zip(files.NAMES, (*texts, *SMALL[len(texts) :]), strict=True):
        made.add(name, source.parse(text.encode(), name))
    return made


def found(*texts: str) -> list[str]:
    """The findings on these files, as lines: what stands at the place takes that of its column."""
    lines = {name: text.splitlines() for name, text in zip(files.NAMES, (*texts, *SMALL[len(texts) :]), strict=True)}
    shown = []
    for each in references.findings(documents(*texts)):
        place = each.place
        word = re.split(r"[\s,:}\]]", lines[place.file][place.line - 1][place.column - 1 :])[0]
        shown.append(f"{place.file}:{place.line} {word}: {each.level}: {each.text}")
    return sorted(shown)


def test_nothing_to_find() -> None:
    """In the shipped files, nor in the small ones of these tests."""
    assert list(references.findings(files.read(None))) == []
    assert found() == []


def route(action: str, name: str = "second") -> str:
    """The routes with one more in line 9."""
    return f"{ROUTES}    - {{name: {name}, route: {{{action}}}}}\n"


def cluster(name: str, more: str = "") -> str:
    """The clusters with one more in line 3."""
    return f'{CLUSTERS}- {{"@type": type.googleapis.com/x.Cluster, name: {name}{more}}}\n'


AGGREGATE = (
    ', cluster_type: {typed_config: {"@type": a/envoy.extensions.clusters.aggregate.v3.ClusterConfig, clusters: [%s]}}'
)


@pytest.mark.parametrize(
    ("texts", "lines"),
    [
        ((BOOTSTRAP, ROUTES.replace("llm", "lm")), [
            "clusters.yaml:2 llm: warning: nothing uses the cluster llm; a route in routes.yaml would",
            "routes.yaml:8 lm: error: there is no cluster lm; did you mean llm?",
        ]),
        ((BOOTSTRAP, route("cluster: zzz")), ["routes.yaml:9 zzz: error: there is no cluster zzz"]),
        ((BOOTSTRAP, route("weighted_clusters: {clusters: [{name: llm}, {name: zzz}]}")),
         ["routes.yaml:9 zzz: error: there is no cluster zzz"]),
        ((BOOTSTRAP, route("cluster: llm, request_mirror_policies: [{cluster: zzz}]")),
         ["routes.yaml:9 zzz: error: there is no cluster zzz"]),
        ((BOOTSTRAP.replace("cluster_name: extproc", "cluster_name: exproc"),),
         ["envoy.yaml:13 exproc: error: there is no cluster exproc; did you mean extproc?"]),
        ((BOOTSTRAP.replace("{name: router}", "{name: router, x: {http_uri: {uri: a, cluster: zzz}}}"),),
         ["envoy.yaml:14 zzz: error: there is no cluster zzz"]),
        ((BOOTSTRAP.replace("{name: router}", "{name: router, remote_jwks: {uri: {cluster: zzz}}}"),),
         ["envoy.yaml:14 zzz: error: there is no cluster zzz"]),
        ((BOOTSTRAP, ROUTES, cluster("all", AGGREGATE % "llm, zzz")), [
            "clusters.yaml:3 all: warning: nothing uses the cluster all; a route in routes.yaml would",
            "clusters.yaml:3 zzz: error: there is no cluster zzz",
        ]),
        ((BOOTSTRAP, ROUTES, cluster("spare")),
         ["clusters.yaml:3 spare: warning: nothing uses the cluster spare; a route in routes.yaml would"]),
        ((BOOTSTRAP, ROUTES, cluster("llm")),
         ["clusters.yaml:3 llm: error: a second cluster llm; the first is at clusters.yaml:2:50"]),
        ((BOOTSTRAP, ROUTES, cluster("extproc")),
         ["clusters.yaml:3 extproc: error: a second cluster extproc; the first is at envoy.yaml:16:11"]),
        ((BOOTSTRAP.replace("  clusters:", "  - name: ingress\n  clusters:"),),
         ["envoy.yaml:15 ingress: error: a second listener ingress; the first is at envoy.yaml:3:11"]),
        ((BOOTSTRAP, ROUTES + "  - {name: all, domains: [a.example]}\n"),
         ["routes.yaml:9 all: error: a second virtual host all; the first is at routes.yaml:5:11"]),
        ((BOOTSTRAP, ROUTES + '  - {name: more, domains: [a.example, "*"]}\n'),
         ["routes.yaml:9 \"*\": error: the domain * stands here a second time; first at routes.yaml:6:15"]),
        ((BOOTSTRAP, route("cluster: llm", "default")),
         ["routes.yaml:9 default: warning: a second route default; the first is at routes.yaml:8:14"]),
        ((BOOTSTRAP.replace("route_config_name: ingress", "route_config_name: ingres"),),
         ["envoy.yaml:10 ingres: error: no file has a RouteConfiguration ingres; did you mean ingress?"]),
        ((BOOTSTRAP, ROUTES + "    typed_per_filter_config: {ext_prc: {}}\n"),
         ["routes.yaml:9 ext_prc: warning: there is no HTTP filter ext_prc in envoy.yaml; did you mean ext_proc?"]),
        ((BOOTSTRAP.replace("path: routes.yaml", "path: /no/s.yaml"),),
         ["envoy.yaml:11 /no/s.yaml: error: there is no file /no/s.yaml, neither here nor beside envoy.yaml"]),
    ],
)  # fmt: skip
def test_findings(texts: tuple[str, ...], lines: list[str]) -> None:
    """Each where the name stands, with the near miss if there is one."""
    assert found(*texts) == lines


@pytest.mark.parametrize(
    "action",
    [
        "cluster: other",
        "weighted_clusters: {clusters: [{name: llm, weight: 1}, {name: other, weight: 1}]}",
        "cluster: llm, request_mirror_policies: [{cluster: other}]",
    ],
)
def test_a_route_uses_a_cluster(action: str) -> None:
    """As its target, one of several, or for a copy of its traffic."""
    assert found(BOOTSTRAP, route(action), cluster("other")) == []


@pytest.mark.parametrize(
    ("bootstrap", "routes"),
    [
        (BOOTSTRAP.replace("{name: router}", "{name: authz, server_uri: {uri: a, cluster: other}}"), ROUTES),
        (BOOTSTRAP, route("cluster_header: x-model")),
        (BOOTSTRAP.replace("{name: router}", "{name: x, typed_config: {collector_cluster: other}}"), ROUTES),
        (BOOTSTRAP + "stats_sinks: [{name: x, typed_config: {tcp_cluster_name: other}}]\n", ROUTES),
        (BOOTSTRAP, ROUTES + "    request_mirror_policies: [{cluster: other}]\n"),
        (BOOTSTRAP.replace("{name: router}", "{name: lua, x: 'h:httpCall(\"other\", {})'}"), ROUTES),
    ],
)
def test_what_may_use_a_cluster(bootstrap: str, routes: str) -> None:
    """A filter that we know nothing of, a route that takes the name from the request, a tracer, a sink, a mirror."""
    assert found(bootstrap, routes, cluster("other")) == []


def test_an_aggregate_cluster_uses_its_members() -> None:
    """They are named nowhere else."""
    both = cluster("all", AGGREGATE % "llm, spare") + cluster("spare").removeprefix(CLUSTERS)
    assert found(BOOTSTRAP, ROUTES.replace("cluster: llm", "cluster: all"), both) == []


@pytest.mark.parametrize("name", ["extproc", "otlp"])
def test_our_own_clusters_need_no_user(name: str) -> None:
    """`up` knows them by name."""
    without = BOOTSTRAP.replace("cluster_name: extproc", "cluster_name: llm").replace("- name: extproc", "- name: x")
    assert f"uses the cluster {name}" not in "\n".join(found(without, ROUTES, cluster(name)))


def test_listeners_without_names() -> None:
    """Envoy gives each a name of its own."""
    assert found(BOOTSTRAP.replace("  clusters:", "  - stat_prefix: a\n  - stat_prefix: b\n  clusters:")) == []


def test_routes_without_names_and_without_clusters() -> None:
    """They are not taken for seconds, nor for references."""
    more = "    - {direct_response: {status: 404}}\n    - {redirect: {}}\n    - {route: {cluster_header: x-model}}\n"
    assert found(BOOTSTRAP, ROUTES + more) == []


def test_a_route_configuration_within_the_listener() -> None:
    """It is read like one in routes.yaml."""
    inline = "route_config: {name: in, virtual_hosts: [{name: all, domains: [a], routes: [{route: {cluster: zzz}}]}]}"
    (line,) = found(BOOTSTRAP.replace("          http_filters", f"          {inline}\n          http_filters"))
    assert line.startswith("envoy.yaml:12 zzz")
    assert line.endswith("error: there is no cluster zzz")


def test_a_watched_file_elsewhere(tmp_path: Path) -> None:
    """One that is there is as good as one of the directory's own."""
    path = tmp_path / "secrets.yaml"
    path.touch()
    assert found(BOOTSTRAP.replace("path: routes.yaml", f"path: {path}")) == []
