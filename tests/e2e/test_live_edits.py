"""Edit, check, live: what is edited in Envoy's directory is served, and no request notices but by what was edited."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.commands import PROGRAM
from support.parts import EnvoyPart, Part, free_port
from support.raw import Connection
from support.recipes import Answer, Client
from support.stack import RunningStack, eventually
from support.thorough import THOROUGH
from support.traffic import PATH, Servers, Traffic, question, whole

from extproc.history import reader


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
  connect_timeout: 30s
  lb_policy: LEAST_REQUEST
  health_checks:
  - {{timeout: 30s, interval: 5s, unhealthy_threshold: 2, healthy_threshold: 1, http_health_check: {{path: /health}}}}
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


RATE = 60.0
"""Requests a second: as many as a slow machine answers beside other tests."""


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
    traffic.goes_on(15)
    path.write_text(text)


def in_halves(path: Path, text: str, traffic: Traffic) -> None:
    """Half of its lines stand there for a while, which may be a whole file by chance, then the rest."""
    half = text.rindex("\n", 0, len(text) // 2)
    with path.open("w") as file:
        file.write(text[:half])
        file.flush()
        traffic.goes_on(15)
        file.write(text[half:])


EDITORS: tuple[Editor, ...] = (in_place, renamed, in_halves, in_place, renamed, moved_away, in_place)


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


def edits(turn: int, ports: list[int]) -> Iterator[Edit]:
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
        setup.clusters[f"new-{turn}"] = [fourth]
        setup.weights = {f"new-{turn}": 1}

    def rename(setup: Setup) -> None:
        setup.clusters[f"renamed-{turn}"] = setup.clusters.pop(f"new-{turn}")
        setup.weights = {f"renamed-{turn}": 1}

    def remove(setup: Setup) -> None:
        del setup.clusters[f"renamed-{turn}"]
        setup.weights = {"one": 1, "two": 1}

    path = f"/v1/turn-{turn}"
    yield Edit(weigh(one=1, two=0), r"routes\.yaml: .*weight: .* -> ", at(first, second))
    yield Edit(weigh(one=0, two=1), r"routes\.yaml: .*weight: .* -> ", at(third))
    yield Edit(serve("two", third, fourth), rf"clusters\.yaml: two: .*{fourth} added", at(fourth), always=False)
    yield Edit(serve("two", fourth), rf"clusters\.yaml: two: .*{third} removed", at(fourth))
    yield Edit(serve("two", third), rf"clusters\.yaml: two: .*{fourth} removed", at(third))
    yield Edit(add, rf"clusters\.yaml: new-{turn} added", at(fourth))
    yield Edit(rename, rf"clusters\.yaml: renamed-{turn} added", at(fourth))
    yield Edit(lambda setup: setup.paths.update({path: "one"}), rf"routes\.yaml: .*{path} added", marked(path), path)
    yield Edit(remove, rf"clusters\.yaml: renamed-{turn} removed", at(first, second, third))
    mark = f"mark-{turn}"
    yield Edit(lambda setup: setup.__setattr__("mark", mark), rf"routes\.yaml: .*{mark}", marked(mark))


# The tests -------------------------------------------------------------------------------------------------


def live(log: str) -> list[str]:
    """What a log has said of what is live."""
    events = [json.loads(line)["event"] for line in log.splitlines()]
    return [event for event in events if event.startswith("live: ")]


def ask(client: Client, path: str = PATH) -> Answer:
    """A request of the test's own, answered as it should be."""
    answer = client.ask(path=path, body=question(0))
    assert (answer.status, answer.body) == (200, whole(question(0))), answer
    return answer


def said(log: Callable[[], str], pattern: str, after: int = 0) -> None:
    """Wait for a line that says what is live, after the first so many."""
    eventually(
        lambda: any(re.search(pattern, event) for event in live(log())[after:]),
        f"{pattern} in the log; since then it says {live(log())[after:]}",
    )


def save(directory: Path, setup: Setup) -> None:
    """Write those files that differ, the routes first: whoever takes them one by one has a route without a cluster."""
    directory.mkdir(exist_ok=True)
    for name, text in reversed(setup.files().items()):
        path = directory / name
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    """Four LLM servers."""
    with Servers(4) as running:
        yield running


@pytest.fixture
def setup(servers: Servers) -> Setup:
    """Two clusters that share the requests."""
    first, second, third, _ = servers.ports
    return Setup({"one": [first, second], "two": [third]}, {"one": 1, "two": 1})


@pytest.fixture
def stack(tmp_path: Path, setup: Setup) -> Iterator[RunningStack]:
    """The stack on a directory that is edited."""
    save(tmp_path / "envoy", setup)
    with RunningStack(tmp_path, "--envoy-dir", tmp_path / "envoy", "--envoy-concurrency", "2") as running:
        yield running
        assert running.stop() == 0
        assert running.findings() == []


@pytest.mark.timeout(300)  # tens of edits, each waited for, beside the requests of RATE on any machine
def test_edits_under_load(stack: RunningStack, servers: Servers, setup: Setup) -> None:
    """Weights, backends, clusters and routes, with every editor: each is live, and no request fails or is cut."""
    number, turns = 0, 5 if THOROUGH else 2
    with Client(stack.port) as client, Traffic(stack.port, rate=RATE) as traffic:
        for turn in range(turns):
            for edit in edits(turn, servers.ports):
                before, told, editor = setup.files(), len(live(stack.stderr())), EDITORS[number % len(EDITORS)]
                edit.change(setup)
                for name, text in reversed(setup.files().items()):
                    if text != before[name]:
                        editor(stack.directory / "envoy" / name, text, traffic)
                # What stood there for a while may have been live for a while, and the rest is then another change.
                said(stack.stderr, "." if editor is in_halves else edit.says, told)
                eventually(lambda edit=edit: edit.shown(ask(client, edit.path)), f"edit {number}")  # type: ignore[misc]
                if edit.always:
                    assert all(edit.shown(ask(client, edit.path)) for _ in range(3)), f"edit {number}"
                number += 1
        assert traffic.end() == []
    assert number == 10 * turns
    assert stack.stop() == 0
    exchanges = stack.exchanges()
    assert {exchange.outcome for exchange in exchanges} == {"ok"}
    assert len(exchanges) >= traffic.finished
    assert "not published" not in stack.stderr()


@pytest.mark.parametrize(
    ("name", "slip", "message"),
    [
        ("clusters.yaml", ("lb_policy", "lb_polcy"), r"envoy/clusters\.yaml:6:3: error: .*lb_polcy.*lb_policy"),
        ("clusters.yaml", ("LEAST_REQUEST", "["), r"envoy/clusters\.yaml:\d+:\d+: error: not YAML"),
        ("routes.yaml", ("{name: two", "{name: tow"), r"envoy/routes\.yaml:17:20: error: there is no cluster tow"),
        ("routes.yaml", ("weight: 1", "weight: many"), r"envoy/routes\.yaml:16:33: error: .*many"),
    ],
)
def test_a_broken_edit(stack: RunningStack, setup: Setup, name: str, slip: tuple[str, str], message: str) -> None:
    """It is refused with file, line and column, traffic goes on as before, and the next good edit is live."""
    path = stack.directory / "envoy" / name
    with Client(stack.port) as client, Traffic(stack.port, rate=RATE) as traffic:
        path.write_text(path.read_text().replace(*slip, 1))
        eventually(lambda: "not published; what was live goes on" in stack.stderr(), "the refusal")
        assert re.search(message, stack.stderr()), stack.stderr()
        assert ask(client).headers["x-mark"] == "none"
        traffic.goes_on()
        assert live(stack.stderr()) == []
        setup.mark = "mended"
        save(stack.directory / "envoy", setup)
        said(stack.stderr, r"routes\.yaml: .*none -> mended")
        eventually(lambda: ask(client).headers["x-mark"] == "mended", "the next edit")
        assert traffic.end() == []


def test_a_request_that_is_held_for_a_cluster_that_goes(stack: RunningStack, setup: Setup) -> None:
    """Its route was chosen, and its body is still coming, when the cluster is removed: it is answered all the same."""
    body = json.dumps(question(1)).encode()
    with Connection.to(stack.port) as client:
        client.send(b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % len(body))
        eventually(
            lambda: stack.envoy_stat("http.ingress.ext_proc.streams_started") == 1, "the request at the recorder"
        )
        setup.clusters["three"] = setup.clusters.pop("one")
        del setup.clusters["two"]
        setup.weights = {"three": 1}
        save(stack.directory / "envoy", setup)
        said(stack.stderr, r"clusters\.yaml: one removed")
        client.send(body)
        assert client.read_message().body == whole(question(1))
    eventually(lambda: stack.envoy_stat("cluster_manager.active_clusters") == 2, "the end of the clusters one and two")


@pytest.mark.slow
def test_publishing_alone(tmp_path: Path, servers: Servers, setup: Setup) -> None:
    """For an Envoy that cannot be asked: no request fails, and what was edited while nobody watched is live later."""
    save(tmp_path / "envoy", setup)
    port = free_port()
    sidecar = ("--data-dir", tmp_path / "data")
    publish = (*PROGRAM, "publish", *sidecar, "--envoy-dir", tmp_path / "envoy", "--to", tmp_path / "live", "--watch")
    ports = {"EXTPROC_PORT": port, "EXTPROC_ENVOY_ADMIN_PORT": 0}
    fourth = servers.ports[3]

    def shows_new() -> bool:
        return ask(client).upstream == f"127.0.0.1:{fourth}"

    with Part(tmp_path, "serve", *PROGRAM, "serve", *sidecar, "--admin-port", "0") as serving:
        serving.wait_for("ready ")
        with Part(tmp_path, "publish", *publish, **ports) as publishing:
            publishing.wait_for("envoy.yaml")
            with (
                EnvoyPart(tmp_path, tmp_path / "live" / "envoy.yaml", "--disable-hot-restart"),
                Traffic(port, rate=RATE) as traffic,
                Client(port) as client,
            ):
                setup.clusters["new"], setup.weights = [fourth], {"new": 1}
                save(tmp_path / "envoy", setup)
                said(publishing.stderr, r"clusters\.yaml: new added")
                eventually(shows_new, "the new cluster")
                assert publishing.stop() == 0
                setup.clusters["renamed"], setup.weights = setup.clusters.pop("new"), {"renamed": 1}
                save(tmp_path / "envoy", setup)
                with Part(tmp_path, "again", *publish, **ports) as again:
                    said(again.stderr, r"clusters\.yaml: renamed added")
                    assert all(shows_new() for _ in range(3))
                    setup.mark = "edited"
                    save(tmp_path / "envoy", setup)
                    said(again.stderr, r"routes\.yaml: .*none -> edited")
                    eventually(lambda: ask(client).headers["x-mark"] == "edited", "an edit after the restart")
                    assert traffic.end() == []
                    assert again.stop() == 0
        assert serving.stop() == 0
    assert {exchange.outcome for exchange in reader.exchanges([tmp_path / "data"])} == {"ok"}
