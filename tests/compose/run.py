"""docker-compose.yml for real: built, started, used, looked at, killed, taken down. `make test-compose`."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

sys.path.insert(0, str(Path(__file__).parents[1]))

from support import jaeger
from support.raw import Connection

ROOT = Path(__file__).parents[2]
PROJECT = "extproctest"
SERVICES = ("config", "extproc", "envoy", "jaeger", "prometheus", "demo-1", "demo-2")
PACKAGES = ("python3", "python3-venv", "ca-certificates", "wget")
ENGINE_PACKAGES = ("docker.io", "docker-compose", "iptables", "debootstrap")
PATIENCE_SECONDS = 90.0

T = TypeVar("T")


class Skip(Exception):
    """No engine can run here; the text says why."""


def say(text: str) -> None:
    """One step."""
    print(f"test-compose: {text}", flush=True)


def run(*command: str, quiet: bool = True, **options: Any) -> str:
    """Run a command to its end; its output. Shows all of it when it fails."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, **options)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout[-4000:]}")
    if not quiet:
        print(done.stdout, end="")
    return str(done.stdout)


def until(ask: Callable[[], T | None], what: str) -> T:
    """The first answer that is not None or False."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        answer = ask()
        if answer is not None and answer is not False:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"never came: {what}")
        time.sleep(0.2)


# The engine ------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def engine(directory: Path) -> Iterator[None]:
    """A Docker engine: the one that runs, or one of our own. Raises Skip."""
    if _answers():
        say("using the Docker engine that runs here")
        install([package for package in ENGINE_PACKAGES if package in {"docker-compose", "debootstrap"}])
        yield
        return
    if os.geteuid() != 0:
        raise Skip("no Docker engine answers, and only root can start one")
    install(ENGINE_PACKAGES)
    socket = f"unix://{directory / 'docker.sock'}"
    os.environ["DOCKER_HOST"] = socket
    log = directory / "dockerd.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                *("dockerd", "-H", socket, "--data-root", str(directory / "data")),
                *("--exec-root", str(directory / "exec"), "--pidfile", str(directory / "dockerd.pid")),
            ],
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        until(lambda: _answers() or process.poll() is not None, "the engine's start")
        if process.poll() is not None:
            why = [line for line in log.read_text().splitlines() if "failed" in line or "rror" in line]
            raise Skip(f"a Docker engine cannot run here: {why[-1] if why else log.read_text()[-500:]}")
        say("started a Docker engine")
        yield
    finally:
        process.terminate()
        process.wait(60)


def install(packages: Sequence[str]) -> None:
    """What is lacking, from Debian's packages. Raises Skip where that is impossible."""
    programs = {"docker.io": "dockerd", "docker-compose": "docker-compose"}
    lacking = [package for package in packages if shutil.which(programs.get(package, package)) is None]
    if not lacking:
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise Skip(f"these are lacking, and cannot be installed: {', '.join(lacking)}")
    say(f"installing {', '.join(lacking)}")
    # RUNLEVEL: the packages are not to start services.
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    try:
        run("apt-get", "update", "-qq", env=env)
        run("apt-get", "install", "-qq", "-y", "--no-install-recommends", *lacking, env=env)
    except RuntimeError as error:
        raise Skip(f"{', '.join(lacking)} cannot be installed: {error}") from None


def _answers() -> bool:
    if shutil.which("docker") is None:
        return False
    return subprocess.run(["docker", "info"], capture_output=True, check=False).returncode == 0


# Stand-ins -------------------------------------------------------------------------------------------------


def build(directory: Path) -> dict[str, str]:
    """Our image, and a stand-in for each that cannot be pulled; the variables by which compose takes them."""
    base = build_base(directory / "base")
    say("building our image")
    run(
        *("docker", "build", "--network", "host", "--build-arg", f"PYTHON_IMAGE={base}"),
        *("--build-arg", "VERSION=0.0.0-test", "-t", "extproc:test", "."),
        cwd=ROOT,
        env={**os.environ, "DOCKER_BUILDKIT": "0"},
    )
    programs = {"ENVOY": ("envoy", _envoy()), "PROMETHEUS": ("prometheus", _prometheus())}
    if jaeger.go() is None:
        raise Skip("Go is missing, and Jaeger is built with it")
    say("building Jaeger, if it was not built before")
    programs["JAEGER"] = ("jaeger", jaeger.binary())
    variables = {"EXTPROC_IMAGE": "extproc:test"}
    for variable, (name, path) in programs.items():
        context = directory / name
        context.mkdir()
        shutil.copy(path, context / name)
        entry = "" if name == "envoy" else f'ENTRYPOINT ["/usr/bin/{name}"]\n'
        data = "RUN install -d -o 65534 -g 65534 /prometheus\n" if name == "prometheus" else ""
        (context / "Dockerfile").write_text(f"FROM {base}\nCOPY {name} /usr/bin/{name}\n{data}{entry}")
        run("docker", "build", "-t", f"standin-{name}", ".", cwd=context, env={**os.environ, "DOCKER_BUILDKIT": "0"})
        variables[f"{variable}_IMAGE"] = f"standin-{name}"
    return variables


def build_base(directory: Path) -> str:
    """Debian with Python, in the place of Python's image, with this machine's way to the package index."""
    directory.mkdir()
    root = directory / "root"
    say("making a Debian for the stand-ins")
    suite, mirror = _debian()
    try:
        run("debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", suite, str(root), mirror)
    except RuntimeError as error:
        raise Skip(f"a Debian cannot be made: {error}") from None
    with tarfile.open(directory / "root.tar", "w") as archive:
        archive.add(root, arcname=".")
    run("docker", "import", str(directory / "root.tar"), "standin-debian")
    lines = ["FROM standin-debian"]
    for number, (variable, path) in enumerate(_index_files().items()):
        shutil.copy(path, directory / f"file{number}")
        lines.append(f"COPY file{number} {path}")
        if variable:
            lines.append(f"ENV {variable}={path}")
    (directory / "Dockerfile").write_text("\n".join(lines) + "\n")
    (directory / ".dockerignore").write_text("root\nroot.tar\n")
    run("docker", "build", "-t", "standin-python", ".", cwd=directory, env={**os.environ, "DOCKER_BUILDKIT": "0"})
    return "standin-python"


def _debian() -> tuple[str, str]:
    """The suite and the mirror that this machine's apt uses."""
    release = Path("/etc/os-release").read_text()
    suite = re.search(r"VERSION_CODENAME=(\w+)", release)
    files = [Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").glob("*")]
    text = "\n".join(path.read_text() for path in files if path.is_file())
    mirror = re.search(r"(?m)^(?:URIs: *|deb (?:\[.*?\] )?)(\S+/debian/?)(?:\s|$)", text)
    if suite is None or mirror is None:
        raise Skip("this is no Debian, whose packages the stand-ins are made of")
    return suite[1], mirror[1]


def _index_files() -> dict[str, str]:
    """What pip needs here to reach its index: a certificate, a configuration."""
    found = {name: os.environ[name] for name in ("PIP_CERT", "SSL_CERT_FILE") if os.environ.get(name)}
    if Path("/etc/pip.conf").is_file():
        found[""] = "/etc/pip.conf"
    return {name: path for name, path in found.items() if Path(path).is_file()}


def _envoy() -> Path:
    from extproc.envoy.process import binary  # noqa: PLC0415

    return binary.find()


def _prometheus() -> Path:
    install(["prometheus"])
    return Path(shutil.which("prometheus") or "/usr/bin/prometheus")


# The stack -------------------------------------------------------------------------------------------------


class Compose:
    """The project of docker-compose.yml under test."""

    def __init__(self, directory: Path, variables: dict[str, str]) -> None:
        # A copy, because it is edited.
        self.envoy_dir = shutil.copytree(ROOT / "envoy", directory / "edited")
        self.env = {
            **os.environ,
            **variables,
            "EXTPROC_PORT": "18000",
            "EXTPROC_ENVOY_DIR": str(self.envoy_dir),
        }

    def __call__(self, *arguments: str) -> str:
        return run("docker-compose", "-p", PROJECT, "--profile", "demo", *arguments, cwd=ROOT, env=self.env)

    def container(self, service: str) -> str:
        return self("ps", "-q", service).strip()

    def inspect(self, service: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(run("docker", "inspect", self.container(service)))[0]
        return found

    def inside(self, service: str, *command: str) -> str:
        return run("docker", "exec", self.container(service), *command)


def check(compose: Compose) -> None:
    """Everything that is promised of the deployment."""
    until(lambda: compose.inspect("envoy")["State"]["Health"]["Status"] == "healthy", "Envoy's health")
    say("sending a chat completion")
    id = ask()
    exchange = until(lambda: recorded(compose, id), "the record")
    assert (exchange["outcome"], exchange["status"]) == ("ok", 200), exchange
    say("reading its trace from Jaeger")
    services = until(lambda: trace_services(exchange["trace_id"]), "the trace")
    assert services == {"envoy", "extproc"}, services
    say("asking Prometheus")
    until(lambda: prometheus('sum(extproc_exchanges_total{outcome="ok"})') >= 1, "the metrics")
    say("looking at ports and hardening")
    check_ports(compose)
    for service in SERVICES:
        check_hardening(compose, service)
    say("editing the routes")
    check_edits(compose)
    say("killing the sidecar in mid-stream")
    check_restart(compose)


def ask() -> str:
    """One request through the published port; the id of its exchange."""
    body = {"model": "demo", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
    request = urllib.request.Request(
        "http://127.0.0.1:18000/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert json.load(answer)["usage"]["completion_tokens"] == 4
        return str(answer.headers["x-audit-id"])


def recorded(compose: Compose, id: str) -> dict[str, Any] | None:
    """The exchange as the sidecar's own commands show it."""
    lines = compose.inside("extproc", "extproc", "log", "--id", id, "--json").splitlines()
    return json.loads(lines[0]) if lines else None


def trace_services(trace_id: str) -> set[str] | None:
    """Who has spans in a trace, once there are three."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:16686/api/traces/{trace_id}", timeout=5) as answer:
            (trace,) = json.load(answer)["data"]
    except (urllib.error.HTTPError, ValueError, TypeError):
        return None
    if len(trace["spans"]) < 3:
        return None
    return {process["serviceName"] for process in trace["processes"].values()}


def prometheus(query: str) -> float:
    """The value of a query, 0 while there is none."""
    url = "http://127.0.0.1:9090/api/v1/query?" + urllib.parse.urlencode({"query": query})
    with urllib.request.urlopen(url, timeout=5) as answer:
        result = json.load(answer)["data"]["result"]
    return float(result[0]["value"][1]) if result else 0.0


def check_ports(compose: Compose) -> None:
    """One port for everybody, the UIs on loopback, nobody's admin."""
    published: dict[str, list[str]] = {}
    for service in SERVICES:
        bindings = compose.inspect(service)["NetworkSettings"]["Ports"] or {}
        published[service] = sorted(
            {f"{each['HostIp']}:{each['HostPort']}" for ports in bindings.values() for each in ports or ()}
        )
    assert {port.rpartition(":")[2] for port in published.pop("envoy")} == {"18000"}
    assert published.pop("jaeger") == ["127.0.0.1:16686"]
    assert published.pop("prometheus") == ["127.0.0.1:9090"]
    assert not any(published.values()), published
    for address, port in (("extproc", 9464), ("envoy", 9901)):
        # Envoy's admin is on its container's loopback: not even a neighbour reaches it.
        script = f"import socket; socket.create_connection(('{address}', {port}), 3)"
        reached = True
        try:
            compose.inside("demo-1" if address == "envoy" else "extproc", "python3", "-c", script)
        except RuntimeError:
            reached = False
        assert reached is (address == "extproc"), f"{address}:{port}"


def check_hardening(compose: Compose, service: str) -> None:
    """Each line of it, as the engine has applied it; and it is healthy."""
    until(lambda: compose.inspect(service)["State"]["Health"]["Status"] == "healthy", f"the health of {service}")
    found = compose.inspect(service)
    host = found["HostConfig"]
    user = found["Config"]["User"].partition(":")[0]
    assert user not in {"", "0", "root"}, service
    assert host["ReadonlyRootfs"] is True, service
    assert host["CapDrop"] == ["ALL"], service
    assert not host["CapAdd"], service
    assert not host["Privileged"], service
    assert any("no-new-privileges" in each for each in host["SecurityOpt"]), service
    assert host["Memory"] > 0, service
    assert host["PidsLimit"] == 256, service
    assert {"Name": "core", "Soft": 0, "Hard": 0} in host["Ulimits"], service
    assert "/tmp" in host["Tmpfs"], service
    assert host["RestartPolicy"]["Name"] == "on-failure", service


def check_edits(compose: Compose) -> None:
    """An edit is live without a restart; one that is wrong is named, and what was live goes on."""
    routes = compose.envoy_dir / "routes.yaml"
    text = routes.read_text()
    header = "      response_headers_to_add: [{header: {key: x-edited, value: here}}]\n"
    routes.write_text(text.replace("    - name: default\n", "    - name: default\n" + header))
    until(lambda: _header("x-edited") == "here", "the edit")
    routes.write_text(text.replace("name: default", "nane: default"))
    until(lambda: "Route has no nane; did you mean name?" in compose("logs", "config"), "the complaint")
    assert _header("x-edited") == "here"
    routes.write_text(text)
    until(lambda: _header("x-edited") is None, "the edit that puts it back")


def _header(name: str) -> str | None:
    with urllib.request.urlopen("http://127.0.0.1:18000/v1/models", timeout=30) as answer:
        value: str | None = answer.headers[name]
    return value


def check_restart(compose: Compose) -> None:
    """Killed with a stream open, it comes back, and the stream is an orphan."""
    before = compose.inspect("extproc")["RestartCount"]
    pid = compose.inspect("extproc")["State"]["Pid"]
    with Connection.to(18000) as client:
        body = b'{"model":"demo","stream":true,"max_tokens":2000,"messages":[{"role":"user","content":"x"}]}'
        head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % len(body)
        client.send(head + body)
        id = client.read_head().get("x-audit-id")
        client.read_chunk()
        os.kill(pid, 9)  # not `docker kill`, after which an engine restarts nothing
        until(lambda: compose.inspect("extproc")["RestartCount"] > before, "the restart")
    until(lambda: compose.inspect("extproc")["State"]["Health"]["Status"] == "healthy", "its health")
    assert id is not None
    exchange = until(lambda: recorded(compose, id), "the orphan")
    assert exchange["outcome"] == "sidecar_restart_orphan", exchange["outcome"]
    until(_passes, "a request after the restart")


def _passes() -> bool:
    try:
        return bool(ask())
    except OSError:
        return False


def main() -> int:
    """All of it. 0 also when it had to be skipped, which it says."""
    with tempfile.TemporaryDirectory(prefix="extproc-compose-", ignore_cleanup_errors=True) as name:
        directory = Path(name)
        try:
            with engine(directory):
                compose = Compose(directory, build(directory))
                try:
                    say("starting the stack")
                    compose("up", "-d", "--no-build", *SERVICES)
                    check(compose)
                except BaseException:
                    with contextlib.suppress(RuntimeError):
                        print(compose("ps"), compose("logs", "--tail", "40"))
                    raise
                finally:
                    say("taking everything down")
                    compose("down", "--volumes", "--timeout", "10")
        except Skip as reason:
            say(f"SKIPPED: {reason}")
            return 0
    say("passed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
