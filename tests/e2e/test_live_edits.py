"""Edit, check, live: what is edited in Envoy's directory is served, and no request notices but by what was edited."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from support.recipes import Answer, Client
from support.stack import RunningStack, eventually
from support.traffic import PATH, Servers, Traffic, question, whole


@dataclasses.dataclass
class Setup:
    """What the files say. Requests go to the clusters by their weights."""

    clusters: dict[str, list[int]]
    """The ports of each cluster's servers."""
    weights: dict[str, int]
    mark: str = "none"
    """A response header of the route."""
    paths: dict[str, str] = dataclasses.field(default_factory=dict)
    """Further routes: path and cluster."""

    def files(self) -> dict[str, str]:
        """The texts of the files by name."""
        return {"clusters.yaml": self._clusters(), "routes.yaml": self._routes()}

    def _clusters(self) -> str:
        return "resources:\n" + "".join(
            CLUSTER.format(name=name, endpoints="".join(ENDPOINT.format(port=port) for port in ports))
            for name, ports in self.clusters.items()
        )

    def _routes(self) -> str:
        paths = "".join(ROUTE.format(path=path, cluster=cluster) for path, cluster in self.paths.items())
        weights = "".join(f"          - {{name: {name}, weight: {each}}}\n" for name, each in self.weights.items())
        return ROUTES.format(paths=paths, weights=weights, mark=self.mark)


CLUSTER = """\
- "@type": type.googleapis.com/envoy.config.cluster.v3.Cluster
  name: {name}
  type: STRICT_DNS
  connect_timeout: 5s
  lb_policy: LEAST_REQUEST
  health_checks:
  - {{timeout: 2s, interval: 5s, unhealthy_threshold: 2, healthy_threshold: 1, http_health_check: {{path: /health}}}}
  load_assignment:
    cluster_name: {name}
    endpoints:
    - lb_endpoints:
{endpoints}"""

ENDPOINT = """\
      - endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}
"""

ROUTE = """\
    - name: {path}
      match: {{path: {path}}}
      route: {{cluster: {cluster}, timeout: 0s, idle_timeout: 600s}}
      response_headers_to_add: [{{header: {{key: x-mark, value: {path}}}}}]
"""

ROUTES = """\
resources:
- "@type": type.googleapis.com/envoy.config.route.v3.RouteConfiguration
  name: ingress
  virtual_hosts:
  - name: all
    domains: ["*"]
    routes:
{paths}    - name: default
      match: {{prefix: /}}
      response_headers_to_add: [{{header: {{key: x-mark, value: "{mark}"}}}}]
      route:
        timeout: 0s
        idle_timeout: 600s
        weighted_clusters:
          clusters:
{weights}"""


# Editors ---------------------------------------------------------------------------------------------------

Editor = Callable[[Path, str, Traffic], None]


def in_place(path: Path, text: str, traffic: Traffic) -> None:
    """The file is emptied and written."""
    path.write_text(text)


def renamed(path: Path, text: str, traffic: Traffic) -> None:
    """A temporary file takes its place."""
    temporary = path.with_name(f".{path.name}.swp")
    temporary.write_text(text)
    temporary.rename(path)


def moved_away(path: Path, text: str, traffic: Traffic) -> None:
    """The old file becomes a backup, and for a while there is none."""
    path.rename(path.with_name(f"{path.name}~"))
    traffic.goes_on()
    path.write_text(text)


def in_halves(path: Path, text: str, traffic: Traffic) -> None:
    """Half of it stands there for a while, then the rest."""
    with path.open("w") as file:
        file.write(text[: len(text) // 2])
        file.flush()
        traffic.goes_on()
        file.write(text[len(text) // 2 :])


EDITORS: tuple[Editor, ...] = (in_place, renamed, in_halves, moved_away)


# What is edited --------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Edit:
    """A change, what the log says of it, and whether an answer shows it."""

    change: Callable[[Setup], None]
    says: str
    shown: Callable[[Answer], bool]
    path: str = PATH
    always: bool = True
    """Every answer shows it from now on, not only one of them."""


def edits(round: int, ports: list[int]) -> Iterator[Edit]:
    """One of each kind, from a setup with the clusters `one` and `two` back to it."""
    first, second, third, fourth = ports

    def at(*ports: int) -> Callable[[Answer], bool]:
        return lambda answer: answer.upstream in {f"127.0.0.1:{port}" for port in ports}

    def weigh(**weights: int) -> Callable[[Setup], None]:
        return lambda setup: setup.__setattr__("weights", weights)

    def serve(name: str, *ports: int) -> Callable[[Setup], None]:
        return lambda setup: setup.clusters.__setitem__(name, list(ports))

    def marked(mark: str) -> Callable[[Answer], bool]:
        return lambda answer: answer.headers["x-mark"] == mark

    def add(setup: Setup) -> None:
        setup.clusters[f"new-{round}"] = [fourth]
        setup.weights = {f"new-{round}": 1}

    def rename(setup: Setup) -> None:
        setup.clusters[f"renamed-{round}"] = setup.clusters.pop(f"new-{round}")
        setup.weights = {f"renamed-{round}": 1}

    def remove(setup: Setup) -> None:
        del setup.clusters[f"renamed-{round}"]
        setup.weights = {"one": 1, "two": 1}

    path = f"/v1/round-{round}"
    yield Edit(weigh(one=1, two=0), r"routes\.yaml: .*weight: .* -> ", at(first, second))
    yield Edit(weigh(one=0, two=1), r"routes\.yaml: .*weight: .* -> ", at(third))
    yield Edit(serve("two", third, fourth), rf"clusters\.yaml: two: .*{fourth} added", at(fourth), always=False)
    yield Edit(serve("two", fourth), rf"clusters\.yaml: two: .*{third} removed", at(fourth))
    yield Edit(serve("two", third), rf"clusters\.yaml: two: .*{fourth} removed", at(third))
    yield Edit(add, rf"clusters\.yaml: new-{round} added", at(fourth))
    yield Edit(rename, rf"clusters\.yaml: renamed-{round} added", at(fourth))
    yield Edit(lambda setup: setup.paths.update({path: "one"}), rf"routes\.yaml: .*{path} added", marked(path), path)
    yield Edit(remove, rf"clusters\.yaml: renamed-{round} removed", at(first, second, third))
    mark = f"mark-{round}"
    yield Edit(lambda setup: setup.__setattr__("mark", mark), rf"routes\.yaml: .*{mark}", marked(mark))


# The tests -------------------------------------------------------------------------------------------------


def live(stack: RunningStack) -> list[str]:
    """What the log has said of what is live."""
    events = [json.loads(line)["event"] for line in stack.stderr().splitlines()]
    return [event for event in events if event.startswith("live: ")]


def ask(client: Client, path: str = PATH) -> Answer:
    """A request of the test's own, answered as it should be."""
    answer = client.ask(path=path, body=question(0))
    assert (answer.status, answer.body) == (200, whole(question(0))), answer
    return answer


def said(stack: RunningStack, pattern: str, after: int) -> None:
    """Wait for a line of the log, after the first so many."""
    eventually(
        lambda: any(re.search(pattern, event) for event in live(stack)[after:]),
        f"{pattern} in the log; since then it says {live(stack)[after:]}, {stack.stderr()[-500:]}",
    )


def test_fifty_edits_under_load(tmp_path: Path) -> None:
    """Weights, backends, clusters and routes, with every editor: each is live, and no request fails or is cut."""
    with Servers(4) as servers:
        first, second, third, _ = servers.ports
        setup = Setup({"one": [first, second], "two": [third]}, {"one": 1, "two": 1})
        envoy_dir = tmp_path / "envoy"
        envoy_dir.mkdir()
        for name, text in setup.files().items():
            (envoy_dir / name).write_text(text)
        number = 0
        with (
            RunningStack(tmp_path, "--envoy-dir", envoy_dir, "--envoy-concurrency", "2") as stack,
            Traffic(stack.port) as traffic,
        ):
            client = Client(stack.port)
            for round in range(5):
                for edit in edits(round, servers.ports):
                    before, told = setup.files(), len(live(stack))
                    edit.change(setup)
                    for name, text in reversed(setup.files().items()):
                        if text != before[name]:
                            EDITORS[number % len(EDITORS)](envoy_dir / name, text, traffic)
                    said(stack, edit.says, told)
                    eventually(lambda edit=edit: edit.shown(ask(client, edit.path)), f"edit {number}")  # type: ignore[misc]
                    if edit.always:
                        assert all(edit.shown(ask(client, edit.path)) for _ in range(3)), f"edit {number}"
                    number += 1
            assert number == 50
            client.close()
            assert traffic.end() == []
            assert traffic.finished > 50
            assert stack.stop() == 0
        assert stack.findings() == []
        exchanges = stack.exchanges()
        assert {exchange["outcome"] for exchange in exchanges} == {"ok"}
        assert len(exchanges) >= traffic.finished
