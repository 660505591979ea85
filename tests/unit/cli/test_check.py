"""`extproc check`: exit codes and what is printed; what is found is tested with the modules that find it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.commands import invoke, on_terminal, run
from support.configuration import edit, position, shipped_copy

from extproc.envoy.process import binary
from extproc.errors import StackError


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the shipped files in `envoy`."""
    monkeypatch.chdir(tmp_path)
    return shipped_copy(tmp_path / "envoy")


def test_nothing_wrong_is_exit_0(directory: Path) -> None:
    """Silent in a pipe, a word on a terminal."""
    assert (invoke("check").exit_code, invoke("check").output) == (0, "")
    assert on_terminal("check", cwd=directory.parent) == b"nothing is wrong\r\n"


def test_without_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shipped files are checked; one that is named has to be there."""
    monkeypatch.chdir(tmp_path)
    assert (invoke("check").exit_code, invoke("check").output) == (0, "")
    named = invoke("check", "--envoy-dir", "mine")
    assert named.exit_code == 2
    assert named.stderr.startswith("extproc: mine: there is no such directory; ")


def test_an_error_is_exit_1(directory: Path) -> None:
    """A line for each on stdout, with the path as it was given; how many on stderr."""
    place = edit(directory / "clusters.yaml", "connect_timeout", "conect_timeout")
    result = invoke("check")
    text = "Cluster has no conect_timeout; did you mean connect_timeout?"
    assert result.exit_code == 1
    assert (result.stdout, result.stderr) == (f"envoy/clusters.yaml:{place}: error: {text}\n", "1 error\n")
    (directory / "clusters.yaml").write_text("a: [\n")
    (directory / "routes.yaml").write_text("a: [\n")
    result = invoke("check", "--envoy-dir", directory)
    assert result.stdout.count(f"{directory}/") == 2
    assert result.stderr == "2 errors\n"


def test_a_warning_is_exit_0(directory: Path) -> None:
    """It is printed."""
    edit(directory / "envoy.yaml", "failure_mode_allow: false", "failure_mode_allow: true")
    result = invoke("check")
    assert (result.exit_code, result.stderr) == (0, "")
    assert ": warning: failure_mode_allow: what cannot be recorded passes" in result.stdout
    assert on_terminal("check", cwd=directory.parent).endswith(b"\r\nno errors\r\n")


def test_as_json(directory: Path) -> None:
    """One object a line, with the members that the help names."""
    line, column = edit(directory / "clusters.yaml", "connect_timeout", "conect_timeout").split(":")
    result = invoke("check", "--json")
    assert result.exit_code == 1
    (found,) = map(json.loads, result.stdout.splitlines())
    assert found == {
        "level": "error",
        "file": "envoy/clusters.yaml",
        "line": int(line),
        "column": int(column),
        "path": "resources[0].conect_timeout",
        "message": "Cluster has no conect_timeout; did you mean connect_timeout?",
    }


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("admin:\n", "admin: 5\nstats_flush_interval:\n"),
        ("listeners:\n  - name: ingress", "listeners:\n  -\n  - name: ingress"),
        ("typed_config:\n", "typed_config: 5\n        x:\n"),
        ("node: {id", "node: [{id"),
    ],
)
def test_files_of_any_shape(directory: Path, old: str, new: str) -> None:
    """They are findings like others."""
    edit(directory / "envoy.yaml", old, new)
    result = invoke("check")
    assert result.exit_code == 1
    assert result.stdout.startswith("envoy/envoy.yaml:")
    assert not isinstance(result.exception, AttributeError | TypeError)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("  listeners:\n", "  others:\n", "no listener; expected static_resources.listeners with one named ingress"),
        (
            "  - name: extproc\n",
            "  - name: other\n",
            "there is no cluster extproc, the recorder's address; as in the shipped",
        ),
    ],
)
def test_what_the_settings_need_is_not_there(directory: Path, old: str, new: str, said: str) -> None:
    """Settings that cannot be applied are exit 2, or a finding; the text says what was expected."""
    edit(directory / "envoy.yaml", old, new)
    result = invoke("check")
    assert result.exit_code in (1, 2)
    assert said in result.output


def test_the_settings_count(directory: Path) -> None:
    """Those of extproc.yaml and of the flags are held against the files."""
    (directory.parent / "extproc.yaml").write_text("hold_request_bytes: 2 MiB\n")
    result = invoke("check")
    assert result.exit_code == 1
    assert "requests up to 2 MiB are held (hold_request_bytes)" in result.stdout
    (directory.parent / "extproc.yaml").write_text("prot: 1\n")
    assert invoke("check").exit_code == 2
    other = directory.parent / "other.yaml"
    other.write_text("port: 8080\n")
    assert invoke("check", "--config", other, "--backend", "http://127.0.0.1:9").exit_code == 0


def test_a_backend_without_an_address_is_a_warning(directory: Path) -> None:
    """The name may be known where Envoy runs."""
    result = invoke("check", "--backend", "http://nowhere.invalid:1")
    assert result.exit_code == 0
    assert "warning: the name nowhere.invalid does not resolve on this machine" in result.stdout


def test_a_compose_file_beside_it(directory: Path) -> None:
    """It is looked at, too."""
    text = "services:\n  envoy: {command: [envoy, -c, /run/envoy/envoy.yaml]}\n"
    (directory.parent / "compose.yaml").write_text(text)
    result = invoke("check")
    assert result.exit_code == 1
    place = position(text, text.index("[envoy"))
    assert result.stdout.startswith(f"compose.yaml:{place}: error: Envoy is started without ")


def test_without_envoy_it_is_said(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Less is known, but nothing is wrong."""

    def find() -> Path:
        raise StackError("there is no Envoy on this machine")

    monkeypatch.setattr(binary, "find", find)
    result = invoke("check")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == "Envoy itself was not asked: there is no such program on this machine\n"


def test_what_is_printed_is_escaped(directory: Path) -> None:
    """A file may hold anything, and its name too."""
    (directory / "more\x1b[2J.yaml").write_text('resources: "\\e[2J"\n')
    result = invoke("check")
    assert result.exit_code == 1
    assert "\x1b" not in result.output


def test_in_a_process_of_its_own(directory: Path) -> None:
    """The exit code and the streams are the program's."""
    edit(directory / "routes.yaml", "cluster: llm", "cluster: lm")
    done = run("check", cwd=directory.parent)
    assert done.returncode == 1
    assert done.stdout.startswith(b"envoy/routes.yaml:")
    assert done.stderr == b"1 error\n"


def test_a_misspelt_part_that_settings_need(tmp_path: Path) -> None:
    """It is told with its place, and not only that there is no listener."""
    directory = shipped_copy(tmp_path / "envoy")
    edit(directory / "envoy.yaml", "  listeners:", "  listners:")
    done = invoke("check", "--envoy-dir", directory)
    assert done.exit_code == 1
    assert "error: BootstrapStaticResources has no listners; did you mean listeners?" in done.stdout


STATIC = """\
static_resources:
  listeners:
  - name: web
    address: {socket_address: {address: 127.0.0.1, port_value: 8080}}
    filter_chains:
      filters:
        name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: web
          route_config:
            virtual_hosts: {name: all, domains: "*", routes: {match: {prefix: /}, route: {cluster: gpu, timeout: 0s}}}
          http_filters:
            name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
  clusters:
  - name: gpu
    load_assignment:
      cluster_name: gpu
      endpoints: {lb_endpoints: {endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 8001}}}}}
"""


def test_a_configuration_without_the_recorder(directory: Path) -> None:
    """Each thing that is missing is an error or a warning of its own, with the place where it would be."""
    (directory / "envoy.yaml").write_text(STATIC)
    result = invoke("check")
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert [(line.split(" ")[0], line.split(" ")[1], line.split("; ")[0].split(" ", 2)[2]) for line in lines] == [
        (
            "envoy/envoy.yaml:9:11:",
            "warning:",
            "without Envoy's gRPC access log to the cluster extproc nobody can say why an exchange was cut off",
        ),
        (
            "envoy/envoy.yaml:14:13:",
            "error:",
            "there is no filter envoy.filters.http.ext_proc: nothing would be recorded",
        ),
        ("envoy/envoy.yaml:17:3:", "error:", "there is no cluster extproc, the recorder's address"),
    ]


def test_files_that_are_not_read(directory: Path) -> None:
    """They are named, with what stands in for them; so is a directory in which nothing is read."""
    (directory / "clusters.yaml").rename(directory / "clusters.yml")
    (directory / "more.json").write_text("{}")
    result = invoke("check")
    text = "warning: it is not read: only files that end in .yaml are; of the shipped files clusters.yaml stand in"
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [f"envoy/{name}:1:1: {text}" for name in ("clusters.yml", "more.json")]
    for path in directory.iterdir():
        path.unlink()
    result = invoke("check")
    assert result.stdout.startswith(
        "envoy:1:1: warning: nothing here is read, only files that end in .yaml: the shipped"
    )
