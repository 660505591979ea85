"""The parts of a configuration, found wherever they stand; in another shape nothing is."""

from __future__ import annotations

import pytest

from extproc.envoy.config import files, source, xds
from extproc.envoy.config.files import Documents

SHIPPED = files.read(None)

INLINE = """\
static_resources:
  listeners:
  - name: a
    filter_chains:
    - filters:
      - typed_config:
          "@type": x.HttpConnectionManager
          route_config: {name: inline, virtual_hosts: [{name: h, routes: [{name: r}]}]}
          http_filters:
          - {name: first, typed_config: {"@type": e.ext_proc.v3.ExternalProcessor}}
          - name: ours
            typed_config:
              "@type": e.ext_proc.v3.ExternalProcessor
              grpc_service: {envoy_grpc: {cluster_name: extproc}}
"""


def documents(bootstrap: str) -> Documents:
    """Documents of one file."""
    made = Documents()
    made.add(files.BOOTSTRAP, source.parse(bootstrap.encode(), files.BOOTSTRAP))
    return made


def test_the_parts_of_the_shipped_files() -> None:
    """Of the bootstrap and of the other files."""
    assert [each.name for each in xds.clusters(SHIPPED)] == ["extproc", "llm"]
    assert [each.name for each in xds.listeners(SHIPPED)] == ["ingress"]
    assert [each.name for each in xds.route_configurations(SHIPPED)] == ["ingress"]
    assert [each.name for each in xds.routes(SHIPPED)] == ["websocket", "connect", "default"]


def test_parts_within_a_listener() -> None:
    """A route configuration may stand there, and the recorder is the filter that speaks to `extproc`."""
    inline = documents(INLINE)
    assert [each.name for each in xds.routes(inline)] == ["r"]
    (manager,) = [each for listener in xds.listeners(inline) for each in xds.managers(listener)]
    recorder = xds.recorder(manager)
    assert recorder is not None
    assert recorder.name == "ours"
    assert str(recorder.place) == "envoy.yaml:11:13"
    other = documents(INLINE.replace("cluster_name: extproc", "cluster_name: other"))
    (manager,) = [each for listener in xds.listeners(other) for each in xds.managers(listener)]
    recorder = xds.recorder(manager)
    assert recorder is not None
    assert recorder.name == "first"


def test_a_part_that_is_not_there() -> None:
    """It has the place of what would hold it."""
    missing = xds.document(SHIPPED, files.BOOTSTRAP).at("admin", "nothing", 3)
    assert (missing.value, missing.name, list(missing.each("x"))) == (None, "", [])
    assert missing.place == SHIPPED.places[files.BOOTSTRAP].of(("admin",))


@pytest.mark.parametrize(
    "text",
    ["a: 1", "static_resources:", "static_resources: []", "static_resources: {clusters: 5, listeners: {}}",
     "static_resources: {clusters: [5, null], listeners: [[]]}", "resources: 5", "resources: [1, {}, {'@type': 5}]"],
)  # fmt: skip
def test_another_shape(text: str) -> None:
    """Nothing raises."""
    shape = documents(text)
    found = (xds.clusters(shape), xds.listeners(shape), xds.route_configurations(shape), xds.routes(shape))
    assert all(each.name == "" for kind in found for each in kind)
    assert [list(xds.managers(each)) for each in xds.listeners(shape)] in ([], [[]])
