"""The whole check: what users get wrong, each with its place; and whatever stands in a file, it does not raise."""

from __future__ import annotations

import asyncio
import copy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.configuration import ODD_VALUES, altered, edit, position, shipped_copy, ways
from support.thorough import THOROUGH

from extproc.config import Config
from extproc.envoy.check import check
from extproc.envoy.check.check import CheckResult
from extproc.envoy.config import files
from extproc.envoy.config.files import Documents
from extproc.envoy.config.findings import Finding, Level
from extproc.envoy.config.source import Place, Pointer, get, parse
from extproc.envoy.process import binary
from extproc.envoy.publish import publish
from extproc.errors import ConfigError, StackError

SHIPPED = files.read(None)
ROUTES, CLUSTERS, BOOTSTRAP = files.ROUTES, files.CLUSTERS, files.BOOTSTRAP
PER_ROUTE = "type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute"
LIMIT = "type.googleapis.com/envoy.extensions.filters.http.body_size_limit.v3.BodySizeLimit"
DEFAULT = "- name: default\n      match: {prefix: /}"


def checked(directory: Path) -> CheckResult:
    """The report on a directory."""
    documents, problems = files.read_all(directory)
    return check.syntax(problems) if problems else check.check(documents, Config())


@pytest.fixture
def no_envoy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without the program."""

    def find() -> Path:
        raise StackError("there is no Envoy on this machine")

    monkeypatch.setattr(binary, "find", find)


def test_the_shipped_files_are_right() -> None:
    """Envoy says so too."""
    assert check.check(SHIPPED, Config()) == CheckResult([], envoy_asked=True)


# What users get wrong --------------------------------------------------------------------------------------

MISTAKES = [
    # YAML
    (ROUTES, 'domains: ["*"]', 'domains: ["*"', "routes:", "not YAML: did not find expected ',' or ']'"),
    (ROUTES, "    routes:", "\troutes:", "\troutes", "not YAML: found character that cannot start any token"),
    (CLUSTERS, "  type: STRICT_DNS", "  type: STRICT_DNS\n  type: EDS", "type: EDS",
     "type stands here a second time; first in line 6"),
    (ROUTES, "metadata: *upgrade", "metadata: *upgraed", "*upgraed", "not YAML: found undefined alias"),
    # Types
    (CLUSTERS, "connect_timeout: 5s", "conect_timeout: 5s", "conect_timeout",
     "Cluster has no conect_timeout; did you mean connect_timeout?"),
    (CLUSTERS, "connect_timeout: 5s", "connect_timeout: 5", "5\n",
     "expected a duration such as 5s or 0.25s, got 5"),
    (CLUSTERS, "LEAST_REQUEST", "LEAST_REQUESTS", "LEAST_REQUESTS", "expected LEAST_REQUEST, or "),
    (CLUSTERS, "port_value: 8001", "port_value: x", "x}", "expected a whole number, got 'x'"),
    (CLUSTERS, "thresholds:\n    - {max_c", "thresholds:\n      {max_cc", "max_cc",
     "CircuitBreakersThresholds has no max_cconnections; did you mean max_connections?"),
    (ROUTES, f"{DEFAULT}\n      route:", f"{DEFAULT}\n      rout:", "rout:", "Route has no rout; did you mean route?"),
    (ROUTES, DEFAULT, f"{DEFAULT}\n      redirect: {{}}", "cluster: llm",
     "route and redirect exclude each other: expected one of them"),
    (ROUTES, DEFAULT, "- name: 5\n      match: {prefix: /}", "5\n", 'expected a string, "5" in quotes, got 5'),
    (ROUTES, "virtual_hosts:", "virtual_host:", "virtual_host:",
     "RouteConfiguration has no virtual_host; did you mean virtual_hosts?"),
    (ROUTES, 'domains: ["*"]', "domains: {a: b}", "{a", "expected a string, got a mapping"),
    (ROUTES, f'"@type": {PER_ROUTE}', f'"@type": {PER_ROUTE[:-1]}', '"@type"',
     "there is no type envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRout here; did you mean ExtProcPerRoute?"),
    (BOOTSTRAP, "use_remote_address: true", "use_remote_address: yess", "yess",
     "expected true or false, got 'yess'"),
    # Names
    (ROUTES, f"{DEFAULT}\n      route:\n        cluster: llm", f"{DEFAULT}\n      route:\n        cluster: lm", "lm\n",
     "there is no cluster lm; did you mean llm?"),
    # What the recorder relies on
    (BOOTSTRAP, "message_timeout: 10s", "message_timeout: 5s", "5s\n",
     "message_timeout is 5 s, and the recorder waits for its disk for up to 8 s (gate_timeout_seconds)"),
    (BOOTSTRAP, "address: 127.0.0.1, port_value: 9901", "address: 0.0.0.0, port_value: 9901", "0.0.0.0",
     "Envoy's admin interface on 0.0.0.0: whoever reaches it can stop Envoy; use 127.0.0.1"),
    # What only Envoy knows
    (CLUSTERS, "port_value: 8001", "port_value: 80001", "80001",
     "Envoy refuses it: port_value: value must be less than or equal to 65535"),
    (CLUSTERS, "path: /health\n", "path: ''\n", "''\n", "Envoy refuses it: path: value length must be at least 1"),
    (CLUSTERS, "lb_policy: LEAST_REQUEST", "lb_policy: MY_RANDOM", "MY_RANDOM", "expected RANDOM, or "),
    (CLUSTERS, "lb_policy: LEAST_REQUEST", "lb_policy: 77", "77", "Envoy refuses it: lb_policy: value must be one of"),
    (ROUTES, DEFAULT, "- name: default\n      match: {}", "{}\n", "Envoy refuses it: path_specifier: is required"),
    (ROUTES, 'domains: ["*"]', "domains: []", "[]", "Envoy refuses it: domains: value must contain at least 1 item(s)"),
    (ROUTES, f"{DEFAULT}\n      route:\n        cluster: llm\n", f"{DEFAULT}\n      route:\n", "timeout: 0s",
     "Envoy refuses it: cluster_specifier: is required"),
    (BOOTSTRAP, "max_request_bytes: 104857600", "max_request_byte: 104857600", "max_request_byte:",
     "Envoy refuses it: no such field: 'max_request_byte'"),
    (BOOTSTRAP, "max_request_bytes: 104857600", "max_request_bytes: 100M", "100M",
     "Envoy refuses it: invalid number: '100M'"),
    (BOOTSTRAP, "healthy_panic_threshold: {value: 1}", "healthy_panic_threshold: {value: 101}", "101",
     "Envoy refuses it: value: value must be inside range [0, 100]"),
    (BOOTSTRAP, "stat_prefix: ingress", "stat_prefix: ''", "''\n", "Envoy refuses it: stat_prefix: value length"),
    (BOOTSTRAP, f'"@type": {LIMIT}', f'"@type": {LIMIT}s', '"@type"',
     "there is no type envoy.extensions.filters.http.body_size_limit.v3.BodySizeLimits here"),
]  # fmt: skip


@pytest.mark.parametrize(("file", "old", "new", "marker", "text"), MISTAKES)
def test_a_mistake(  # noqa: PLR0917 - a table of them
    tmp_path: Path, file: str, old: str, new: str, marker: str, text: str
) -> None:
    """It is the only error, with the place of what is wrong, and what was expected where that is known."""
    directory = shipped_copy(tmp_path / "envoy")
    edit(directory / file, old, new)
    written = (directory / file).read_text()
    at = written.index(marker, written.index(new))
    (error,) = checked(directory).errors
    assert str(error).startswith(f"{directory / file}:{position(written, at)}: error: {text}")


def test_a_name_that_another_file_has_no_more(tmp_path: Path) -> None:
    """The place is that of the name that leads nowhere."""
    directory = shipped_copy(tmp_path)
    edit(directory / ROUTES, "  name: ingress", "  name: egress")
    written = (directory / BOOTSTRAP).read_text()
    at = written.index("ingress", written.index("route_config_name"))
    (error,) = checked(directory).errors
    text = "no file has a RouteConfiguration ingress; did you mean egress?"
    assert str(error) == f"{directory / BOOTSTRAP}:{position(written, at)}: error: {text}"


def test_everything_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    """In the order of the files, and of the lines in them."""
    directory = shipped_copy(tmp_path)
    first = edit(directory / CLUSTERS, "type: STRICT_DNS", "typ: STRICT_DNS")
    second = edit(directory / CLUSTERS, "connect_timeout: 5s", "connect_timeout: 5")
    third = edit(directory / ROUTES, "virtual_hosts:", "virtual_host:")
    places = [str(each.place) for each in checked(directory).errors]
    column = "20"  # of the value behind `  connect_timeout: `
    assert places == [
        f"{directory / CLUSTERS}:{first}",
        f"{directory / CLUSTERS}:{second.partition(':')[0]}:{column}",
        f"{directory / ROUTES}:{third}",
    ]


def test_misspelt_names_are_told_together(tmp_path: Path) -> None:
    """Envoy itself stops at the first."""
    directory = shipped_copy(tmp_path)
    edit(directory / CLUSTERS, "lb_policy", "lb_polcy")
    edit(directory / ROUTES, "virtual_hosts", "virtual_host")
    report = checked(directory)
    assert report.envoy_asked
    assert [each.name for each in report.errors] == ["lb_polcy", "virtual_host"]


def test_broken_files_are_told_together(tmp_path: Path) -> None:
    """Nothing else is said while one cannot be parsed."""
    directory = shipped_copy(tmp_path)
    for name in (CLUSTERS, ROUTES):
        (directory / name).write_text("a: [\n")
    report = checked(directory)
    assert not report.envoy_asked
    assert [each.place.file for each in report.errors] == [str(directory / ROUTES), str(directory / CLUSTERS)]


def test_envoy_is_not_asked_about_what_is_wrong_anyhow(tmp_path: Path) -> None:
    """It would only say the same, and less clearly."""
    directory = shipped_copy(tmp_path)
    edit(directory / BOOTSTRAP, "message_timeout: 10s", "message_timeout: 5s")
    assert not checked(directory).envoy_asked


@pytest.mark.parametrize(
    ("file", "old", "new", "text"),
    [
        (BOOTSTRAP, "failure_mode_allow: false", "failure_mode_allow: true",
         "failure_mode_allow: what cannot be recorded passes"),
        (ROUTES, "envoy.filters.http.ext_proc:", "envoy.filters.http.ext_prc:",
         "there is no HTTP filter envoy.filters.http.ext_prc in envoy.yaml; did you mean envoy.filters.http.ext_proc?"),
    ],
)  # fmt: skip
def test_a_warning_is_no_error(tmp_path: Path, file: str, old: str, new: str, text: str) -> None:
    """Envoy is asked, and what it takes is fine."""
    directory = shipped_copy(tmp_path)
    edit(directory / file, old, new)
    report = checked(directory)
    assert (report.envoy_asked, report.errors) == (True, [])
    assert [each.text[: len(text)] for each in report.warnings] == [text]


def test_findings_from_elsewhere() -> None:
    """They stand among the others, and count."""
    more = Finding(Level.ERROR, Place("compose.yaml", 3, 4), "no")
    assert check.check(SHIPPED, Config(), [more]) == CheckResult([more], envoy_asked=False)


# Names that our copy of the message types lacks ------------------------------------------------------------


@pytest.mark.parametrize(
    ("new", "level"), [("conect_timeout: 5s", Level.ERROR), ("quantum_timeout_of_the_future: 5s", Level.WARNING)]
)
def test_without_envoy_a_near_miss_is_an_error(tmp_path: Path, no_envoy: None, new: str, level: Level) -> None:
    """A name like none that there is may be a new one."""
    directory = shipped_copy(tmp_path)
    edit(directory / CLUSTERS, "connect_timeout: 5s", new)
    report = checked(directory)
    (found,) = report.findings
    assert (found.level, report.envoy_asked) == (level, False)


def test_with_another_error_a_new_name_is_a_warning(tmp_path: Path) -> None:
    """Envoy is asked about it when the rest is right."""
    directory = shipped_copy(tmp_path)
    edit(directory / CLUSTERS, "connect_timeout: 5s", "quantum_timeout_of_the_future: 5s")
    edit(directory / ROUTES, "cluster: llm", "cluster: lm")
    report = checked(directory)
    assert [each.level for each in report.findings] == [Level.WARNING, Level.ERROR]
    edit(directory / ROUTES, "cluster: lm", "cluster: llm")
    (error,) = checked(directory).findings
    assert (error.level, error.text) == (Level.ERROR, "Cluster has no quantum_timeout_of_the_future")


def test_envoy_that_takes_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said, and is no reason to refuse what may be right."""
    monkeypatch.setattr(check, "_VALIDATE_SECONDS", 0.0)
    report = check.check(SHIPPED, Config())
    assert (report.errors, [each.text for each in report.warnings]) == (
        [],
        ["Envoy's own validation did not end within 0 s"],
    )


def test_types_alone() -> None:
    """Before settings are applied: only what is surely of another type."""
    assert list(check.types(SHIPPED).findings) == []
    wrong = check.types(altered(SHIPPED, BOOTSTRAP, ("admin",), "x"))
    assert [each.text for each in wrong.errors if not each.name] == ["expected a mapping (Admin), got 'x'"]


# Anything at all -------------------------------------------------------------------------------------------


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Envoy takes everything, but what it would be given is made."""

    def refusal(documents: Documents) -> None:
        check._standing(documents)

    monkeypatch.setattr(check, "_refusal", refusal)


def published(documents: Documents) -> list[Finding]:
    """What is found on the way that a publication goes."""
    config = Config(backends=("http://a:1",))
    report = check.types(documents)
    if not report.errors:
        try:
            asyncio.run(publish.settings_of(config, "http://jaeger:4317", Path("/run/envoy"))(documents))
        except ConfigError as error:
            return [Finding(Level.ERROR, Place(BOOTSTRAP), str(error))]
        report = check.check(documents, config)
    return list(report.findings)


EVERYWHERE = [(file, way) for file in files.NAMES for way in ways(SHIPPED[file])]


ODD: list[Any] = [None, "x", {}, [None], True, [], {"name": "x"}, float("inf"), 5]


@pytest.mark.parametrize(("number", "value"), list(enumerate(ODD)))
def test_any_one_value_replaced(fast: None, number: int, value: Any) -> None:
    """Whatever one is replaced by, something is found, or nothing; nothing is raised. Each has its share."""
    share = 3 if THOROUGH else len(ODD)
    found = [len(published(altered(SHIPPED, file, way, value))) for file, way in EVERYWHERE[number % share :: share]]
    assert 0 < sum(map(bool, found)) < len(found)


def test_any_one_value_deleted(fast: None) -> None:
    """The same of what is missing, at some of the places."""
    found = [len(published(altered(SHIPPED, file, way))) for file, way in EVERYWHERE[:: 2 if THOROUGH else 6]]
    assert 0 < sum(map(bool, found)) < len(found)


TYPES = [(file, way[:-1]) for file, way in EVERYWHERE if way[-1] == "@type"]
WITHIN = {(file, top): [way for where, way in EVERYWHERE if where == file and way[: len(top)] == top and way != top]
          for file, top in TYPES}  # fmt: skip


@given(st.sampled_from(TYPES).flatmap(lambda top: st.tuples(st.just(top), st.sampled_from(WITHIN[top]))), st.data())
def test_a_value_of_an_unknown_type_replaced(where: tuple[tuple[str, Pointer], Pointer], data: st.DataObject) -> None:
    """What our copy of the types does not know is held against none, and may be anything."""
    (file, top), way = where
    value = data.draw(st.sampled_from(ODD_VALUES))
    documents = altered(SHIPPED, file, way, value) if way[-1] != "@type" else SHIPPED
    name = str(get(documents[file], *top, "@type")).rpartition(".")[2]
    documents = altered(documents, file, (*top, "@type"), f"type.googleapis.com/of.the.future.{name}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(check, "_refusal", lambda documents: None)
        published(documents)


def with_endpoints(endpoint: str) -> Documents:
    """The shipped files, with the endpoints of `llm` in a file of their own: this one, in line 6, column 17."""
    documents = files.read(None)
    cluster = documents[CLUSTERS]["resources"][0]
    del cluster["load_assignment"]
    source = {"path_config_source": {"path": "envoy/endpoints.yaml", "watched_directory": {"path": "envoy"}}}
    cluster |= {"type": "EDS", "eds_cluster_config": {"eds_config": source}}
    text = f"""\
resources:
- "@type": type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment
  cluster_name: llm
  endpoints:
  - lb_endpoints:
    - endpoint: {endpoint}
"""
    documents.add("endpoints.yaml", parse(text.encode(), "endpoints.yaml"))
    return documents


@pytest.mark.parametrize(
    ("endpoint", "place", "text"),
    [
        ("{adress: {}}", "endpoints.yaml:6:18", "Endpoint has no adress; did you mean address?"),
        ("{address: {socket_address: {address: gpu7, port_value: 1}}}", "envoy.yaml:11:1", "malformed IP address"),
        ("{address: {socket_address: {address: 127.0.0.1, port_value: 99999}}}", "endpoints.yaml:6:77", "port_value"),
    ],
)
def test_endpoints_in_a_file_of_their_own(endpoint: str, place: str, text: str) -> None:
    """Envoy would read them only when it runs, and is shown them all the same."""
    report = check.check(with_endpoints(endpoint), Config())
    (error,) = report.errors
    assert text in error.text
    assert place == str(error.place)


def test_a_name_in_a_file_that_envoy_is_not_shown() -> None:
    """That Envoy has nothing against the rest does not make it right."""
    documents = files.read(None)
    text = b'resources:\n- "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret\n  nam: key\n'
    documents.add("secrets.yaml", parse(text, "secrets.yaml"))
    report = check.check(documents, Config())
    assert report.envoy_asked
    assert [str(each) for each in report.errors] == ["secrets.yaml:3:3: error: Secret has no nam; did you mean name?"]


def test_documents_are_not_changed() -> None:
    """Not even where Envoy is asked, which gets a copy with other paths in it."""
    documents = with_endpoints("{address: {socket_address: {address: 127.0.0.1, port_value: 8001}}}")
    before = copy.deepcopy(dict(documents))
    assert check.check(documents, Config()).envoy_asked
    assert documents == before
