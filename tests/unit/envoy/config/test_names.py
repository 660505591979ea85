"""Backends that nobody will reach."""

from __future__ import annotations

from pathlib import Path

from extproc.envoy.config import files, names

CLUSTERS = """resources:
- "@type": type.googleapis.com/envoy.config.cluster.v3.Cluster
  name: llm
  type: STRICT_DNS
  load_assignment:
    cluster_name: llm
    endpoints:
    - lb_endpoints:
      - endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 8001}}}
      - endpoint: {address: {socket_address: {address: localhost, port_value: 8001}}}
      - endpoint: {address: {socket_address: {address: nowhere.invalid, port_value: 8001}}}
- "@type": type.googleapis.com/envoy.config.cluster.v3.Cluster
  name: empty
  type: STATIC
  load_assignment: {cluster_name: empty}
- "@type": type.googleapis.com/envoy.config.cluster.v3.Cluster
  name: elsewhere
  type: EDS
- "@type": type.googleapis.com/envoy.config.cluster.v3.Cluster
  name: by-name
  cluster_type: {name: envoy.clusters.dns}
  load_assignment:
    cluster_name: by-name
    endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: other.invalid, port_value: 1}}}}]}]
"""


def test_what_cannot_be_reached_is_named(tmp_path: Path) -> None:
    """A name without an address, and a cluster without endpoints; not one whose endpoints come from elsewhere."""
    (tmp_path / "clusters.yaml").write_text(CLUSTERS)
    found = [(each.place.line, each.text.partition(":")[0]) for each in names.findings(files.read(tmp_path))]
    assert found == [
        (15, "the cluster empty has no endpoints"),
        (11, "the name nowhere.invalid does not resolve on this machine"),
        (24, "the name other.invalid does not resolve on this machine"),
    ]


def test_the_shipped_files_have_none() -> None:
    """Their backends are on this machine."""
    assert list(names.findings(files.read(None))) == []


def test_what_envoy_is_to_resolve(tmp_path: Path) -> None:
    """The endpoints of clusters by name, each with what Envoy shows it as."""
    named = CLUSTERS.replace(
        "{address: {socket_address: {address: l", "{hostname: me, address: {socket_address: {address: l"
    )
    (tmp_path / "clusters.yaml").write_text(named)
    mine = {each for each in names.to_resolve(files.read(tmp_path)) if each.cluster in ("llm", "by-name")}
    assert mine == {
        ("llm", "127.0.0.1", "127.0.0.1"),
        ("llm", "localhost", "me"),
        ("llm", "nowhere.invalid", "nowhere.invalid"),
        ("by-name", "other.invalid", "other.invalid"),
    }
