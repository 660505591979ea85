"""The Envoy configuration as documents: read from YAML, changed by `up`'s flags, written where Envoy watches.

A configuration directory holds envoy.yaml (the bootstrap), routes.yaml (RDS) and clusters.yaml (CDS); those that are
missing in it come from the shipped ones, and other YAML files in it are carried along. `overlay.yaml` holds what
differs in these three, where that is only a little (see `overlay`); an `extproc.yaml` beside them is the sidecar's and
not Envoy's. The flags change only what they are about, found by name: the listener `ingress`, the cluster `extproc`,
the cluster `llm`.
"""

from __future__ import annotations

import importlib.resources
import ipaddress
import os
import re
import ssl
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Final

import yaml

from extproc import fs
from extproc.config import FILE_NAME, host_and_port
from extproc.envoy.config import overlay, source
from extproc.envoy.config.findings import Finding, Level
from extproc.envoy.config.source import Place, Places, Source, SyntaxProblem, get
from extproc.errors import ConfigError

BOOTSTRAP: Final = "envoy.yaml"
ROUTES: Final = "routes.yaml"
CLUSTERS: Final = "clusters.yaml"
NAMES: Final = (BOOTSTRAP, ROUTES, CLUSTERS)
OVERLAY: Final = "overlay.yaml"
_HOMES: Final = {
    "type.googleapis.com/envoy.config.cluster.v3.Cluster": CLUSTERS,
    "type.googleapis.com/envoy.config.route.v3.RouteConfiguration": ROUTES,
}

MANAGER: Final = ".HttpConnectionManager"
"""How the type of an HTTP connection manager ends."""
PROTOCOL_OPTIONS: Final = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
"""The type of a cluster's HTTP options, and the name under which they stand."""

DEMO_HOSTS: Final = frozenset({"127.0.0.1", "localhost"})
DEMO_PORTS: Final = range(8001, 8010)
"""The endpoints that stand for demo backends in the files but envoy.yaml, wherever those really listen."""


class Documents(dict[str, Any]):
    """The parsed files by name, with the places of what is in them."""

    def __init__(self) -> None:
        super().__init__()
        self.places: dict[str, Places] = {}

    def add(self, name: str, read: Source) -> None:
        self[name] = read.value
        self.places[name] = read.places


def shipped(name: str = "envoy") -> Traversable:
    """A shipped file or directory: of the installed package, or of the checkout that holds this module."""
    packaged = importlib.resources.files("extproc") / "_shipped" / name
    if packaged.is_file() or packaged.is_dir():
        return packaged
    return Path(__file__).resolve().parents[3] / name


def read(directory: Path | None) -> Documents:
    """The documents of a directory over the shipped ones; None is the shipped ones alone. Raises ConfigError."""
    documents, problems = read_all(directory)
    if problems:
        raise problems[0]
    return documents


def read_all(directory: Path | None) -> tuple[Documents, list[SyntaxProblem]]:
    """What `read` gives, and every file that cannot be parsed. Raises ConfigError when one cannot be read at all."""
    return parsed(directory, contents(directory))


def contents(directory: Path | None) -> dict[str, bytes]:
    """The files of a directory that belong to the configuration, by name. Raises ConfigError."""
    if directory is None:
        return {}
    try:
        return {
            path.name: path.read_bytes() for path in sorted(directory.iterdir()) if is_read(path) and path.is_file()
        }
    except OSError as error:
        raise ConfigError(f"{error.filename or directory}: cannot be read: {error.strerror}") from None


def parsed(directory: Path | None, own: Mapping[str, bytes]) -> tuple[Documents, list[SyntaxProblem]]:
    """What `read_all` gives, of files whose contents were read already."""
    files = {name: ((shipped() / name).read_bytes(), name) for name in NAMES}
    files |= {name: (data, str(Path(directory or "") / name)) for name, data in own.items()}
    nodes: dict[str, yaml.MappingNode] = {}
    documents, problems = Documents(), []
    for name, (data, file) in files.items():
        try:
            nodes[name] = source.compose(data, file)
        except SyntaxProblem as problem:
            problems.append(problem)
    try:
        for name, node in _with_overlay(nodes).items():
            documents.add(name, source.build(node, files[name][1]))
    except SyntaxProblem as problem:
        problems.append(problem)
    return documents, problems


def _with_overlay(nodes: overlay.Nodes) -> overlay.Nodes:
    differences = nodes.get(OVERLAY)
    if differences is None:
        return nodes
    rest = {name: node for name, node in nodes.items() if name != OVERLAY}
    return overlay.lay(differences, rest, BOOTSTRAP, _HOMES)


def is_shipped(own: Mapping[str, bytes]) -> bool:
    """Whether these are the shipped files, or none, and so what is known to be right."""
    return all(name in NAMES and data == (shipped() / name).read_bytes() for name, data in own.items())


def is_read(path: Path) -> bool:
    """Whether a file of this name belongs to the configuration: an editor's own files begin with a dot."""
    return path.suffix == ".yaml" and not path.name.startswith(".") and path.name != FILE_NAME


_OTHER_SUFFIXES: Final = frozenset({".yml", ".yaml", ".json", ".pb", ".pb_text", ".textproto"})


def strays(directory: Path | None) -> Iterator[Finding]:
    """What stands in a directory as if it were read, and is not; and that nothing there is."""
    if directory is None:
        return
    there = sorted(path for path in directory.iterdir() if path.is_file() and not path.name.startswith("."))
    read = [path.name for path in there if is_read(path)]
    instead = ", ".join(name for name in NAMES if name not in read)
    for path in there:
        if path.suffix.lower() in _OTHER_SUFFIXES and not is_read(path) and path.name != FILE_NAME:
            stands_in = f"; of the shipped files {instead} stand in" if instead and OVERLAY not in read else ""
            text = f"it is not read: only files that end in .yaml are{stands_in}"
            yield Finding(Level.WARNING, Place(str(path)), text)
    if not read:
        text = f"nothing here is read, only files that end in .yaml: the shipped {', '.join(NAMES)} stand in for all"
        yield Finding(Level.WARNING, Place(str(directory)), text)


# Changes ---------------------------------------------------------------------------------------------------


def set_ports(documents: Documents, *, port: int, admin_port: int) -> None:
    """The ports of the listener `ingress` (or the first one) and of Envoy's admin interface."""
    bootstrap = documents[BOOTSTRAP]
    listener = _listener(bootstrap)
    if listener is None:
        raise ConfigError(f"{BOOTSTRAP}: no listener; expected static_resources.listeners with one named ingress")
    try:
        listener["address"]["socket_address"]["port_value"] = port
    except (KeyError, TypeError):
        raise ConfigError(f"{BOOTSTRAP}: the listener has no socket_address, so --port cannot be applied") from None
    admin = _member(_member(bootstrap, "admin", {}), "address", {})
    if admin.get("pipe") is not None:
        return  # it has no port
    address = _member(admin, "socket_address", {})
    address |= {"address": address.get("address") or "127.0.0.1", "port_value": admin_port}


def guard_admin(documents: Documents, word: str) -> None:
    """Let Envoy's admin interface be read by everybody who reaches it, and stopped by those who know the word.

    A web page in a browser on this machine reaches it too, and may send a POST wherever it likes. A list of the user's
    own stays.
    """
    admin = _member(documents[BOOTSTRAP], "admin", {})
    if not admin.get("allow_paths"):
        ours = [{"exact": f"{path}?{word}"} for path in ADMIN_STOPS]
        admin["allow_paths"] = [{"safe_regex": {"regex": _ADMIN_READS}}, *ours]


ADMIN_STOPS: Final = ("/healthcheck/fail", "/drain_listeners")
"""What a stop asks Envoy for."""

_ADMIN_READS: Final = (
    r"/(certs|clusters|config_dump|contention|help|hot_restart_version|init_dump|listeners|memory|ready|reopen_logs"
    r"|runtime|server_info|stats|stats/prometheus|stats/recentlookups)?(\?.*)?"
)


def listener_host(documents: Documents) -> str:
    """The address on which the listener of `set_ports` listens."""
    address = get(_listener(documents[BOOTSTRAP]), "address", "socket_address", "address")
    return str(address or "0.0.0.0")  # noqa: S104 - Envoy's own default, and the check tells what else is wrong


def listener_scheme(documents: Documents) -> str:
    """What its clients speak: `https` where its filter chain has TLS, else `http`."""
    tls = get(_listener(documents[BOOTSTRAP]), "filter_chains", 0, "transport_socket")
    return "http" if tls is None else "https"


def _listener(bootstrap: Any) -> Any:
    """The listener `ingress`, else the first one; None where there is none."""
    listeners = next((each for each in _find(bootstrap, "listeners") if isinstance(each, list) and each), [])
    return next((each for each in listeners if get(each, "name") == "ingress"), get(listeners, 0))


def set_sidecar(documents: Documents, addresses: Sequence[str]) -> None:
    """One endpoint of the cluster `extproc` for each address, `unix:PATH` or `HOST:PORT`."""
    cluster = _cluster(documents[BOOTSTRAP], "extproc")
    if cluster is None:
        raise ConfigError(f"{BOOTSTRAP}: no cluster extproc in static_resources; the shipped file has it")
    endpoints = []
    for address in addresses:
        if address.startswith("unix:"):
            envoy_address: Any = {"pipe": {"path": str(Path(address.removeprefix("unix:")).absolute())}}
        else:
            host, port = host_and_port(address)
            envoy_address = {"socket_address": {"address": host, "port_value": port}}
        endpoints.append({"endpoint": {"address": envoy_address}})
    cluster["load_assignment"] = {"cluster_name": "extproc", "endpoints": [{"lb_endpoints": endpoints}]}


def set_directory(documents: Documents, directory: Path) -> None:
    """Point every watched file that is one of the documents to its place in `directory`."""
    for document in documents.values():
        for watched in _find(document, "path_config_source"):
            name = Path(str(watched.get("path"))).name if isinstance(watched, dict) else ""
            if name in documents:
                watched |= {"path": str(directory / name), "watched_directory": {"path": str(directory)}}


def set_tracing(documents: Documents, collector: str) -> None:
    """Let Envoy export its spans to an OTLP/gRPC collector (a URL). Tracing that is configured stays as it is."""
    url = urllib.parse.urlsplit(collector)
    bootstrap = documents[BOOTSTRAP]
    for manager in _find(bootstrap, "typed_config"):
        if str(get(manager, "@type")).endswith(MANAGER):
            _member(manager, "tracing", _tracing())
    clusters = _member(_member(bootstrap, "static_resources", {}), "clusters", [])
    if all(cluster.get("name") != _COLLECTOR for cluster in clusters):
        clusters.append(_collector(url))


_COLLECTOR: Final = "otlp"


def _tracing() -> dict[str, Any]:
    return {
        "provider": {
            "name": "envoy.tracers.opentelemetry",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig",
                "grpc_service": {"envoy_grpc": {"cluster_name": _COLLECTOR}, "timeout": "5s"},
                "service_name": "envoy",
            },
        },
        # Requests that bring no decision of their own. One that says `not sampled` stays so.
        "random_sampling": {"value": 100},
        # A span for each call of a backend, and its context in the `traceparent` that the backend gets: the spans of an
        # engine hang under the attempt that they belong to.
        "spawn_upstream_span": True,
        # In the place of Envoy's own, which hold host, path and query as they came, and whatever key is in them. The
        # recorder's span has the path, with marks. Envoy sets the latter two for gRPC; a tag cannot be taken away.
        "custom_tags": [
            {"tag": "http.url", "value": "%REQ(:SCHEME)%://%DOWNSTREAM_LOCAL_ADDRESS%"},
            {"tag": "grpc.path", "value": "%ROUTE_NAME%"},
            {"tag": "grpc.authority", "value": "%DOWNSTREAM_LOCAL_ADDRESS%"},
        ],
    }


def _collector(url: urllib.parse.SplitResult) -> dict[str, Any]:
    host, port = url.hostname or "", url.port or 4317
    address = {"socket_address": {"address": host, "port_value": port}}
    cluster: dict[str, Any] = {
        "name": _COLLECTOR,
        "type": "STRICT_DNS",
        "connect_timeout": "5s",
        "typed_extension_protocol_options": {
            PROTOCOL_OPTIONS: {
                "@type": f"type.googleapis.com/{PROTOCOL_OPTIONS}",
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        },
        "load_assignment": {
            "cluster_name": _COLLECTOR,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
    }
    if url.scheme == "https":
        cluster["transport_socket"] = _tls(host, alpn="h2")
    return cluster


def demo_ports(documents: Documents) -> list[int]:
    """The ports that stand for demo backends."""
    return sorted({address["port_value"] for address in _demo_addresses(documents)})


def set_demo_ports(documents: Documents, ports: Mapping[int, int]) -> None:
    """Replace the demo backends' ports of the file by those that they really have."""
    for address in _demo_addresses(documents):
        address["port_value"] = ports.get(address["port_value"], address["port_value"])


def _demo_addresses(documents: Documents) -> list[dict[str, Any]]:
    found = (_find(document, "socket_address") for name, document in documents.items() if name != BOOTSTRAP)
    addresses = [each for addresses in found for each in addresses if isinstance(each, dict)]
    return [each for each in addresses if each.get("address") in DEMO_HOSTS and each.get("port_value") in DEMO_PORTS]


def set_backends(documents: Documents, urls: Sequence[str]) -> None:
    """Replace the endpoints of the cluster `llm`. https ones get TLS with SNI and the system's authorities."""
    cluster = _cluster(documents[CLUSTERS], "llm")
    if cluster is None:
        raise ConfigError("clusters.yaml: no cluster llm, so --backend has nothing to replace; the shipped file has it")
    backends = [urllib.parse.urlsplit(url) for url in urls]
    cluster["type"] = "STRICT_DNS"
    for superseded in ("eds_cluster_config", "cluster_type"):
        cluster.pop(superseded, None)
    endpoints = [_endpoint(backend) for backend in backends]
    cluster["load_assignment"] = {"cluster_name": "llm", "endpoints": [{"lb_endpoints": endpoints}]}
    secure = {_authority(backend): backend for backend in backends if backend.scheme == "https"}
    if secure:
        cluster["transport_socket_matches"] = [
            {"name": name, "match": {"backend": name}, "transport_socket": _tls(backend.hostname or "")}
            for name, backend in secure.items()
        ]
        _rewrite_hosts(documents[ROUTES])


def _endpoint(backend: urllib.parse.SplitResult) -> dict[str, Any]:
    port = backend.port or (443 if backend.scheme == "https" else 80)
    authority = _authority(backend)
    endpoint: dict[str, Any] = {
        "endpoint": {
            "hostname": authority,
            "address": {"socket_address": {"address": backend.hostname, "port_value": port}},
        }
    }
    if backend.scheme == "https":
        endpoint["metadata"] = {"filter_metadata": {"envoy.transport_socket_match": {"backend": authority}}}
    return endpoint


def _authority(backend: urllib.parse.SplitResult) -> str:
    host = backend.hostname or ""
    shown = f"[{host}]" if ":" in host else host
    return shown if backend.port is None else f"{shown}:{backend.port}"


def _tls(host: str, alpn: str = "http/1.1") -> dict[str, Any]:
    validation: dict[str, Any] = {
        "trusted_ca": {"filename": _authorities()},
        "match_typed_subject_alt_names": [
            {"san_type": "IP_ADDRESS" if _is_address(host) else "DNS", "matcher": {"exact": host}}
        ],
    }
    context: dict[str, Any] = {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        "common_tls_context": {"alpn_protocols": [alpn], "validation_context": validation},
    }
    if not _is_address(host):
        context["sni"] = host
    return {"name": "envoy.transport_sockets.tls", "typed_config": context}


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


_AUTHORITIES: Final = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)


def _authorities() -> str:
    """The system's file of certificate authorities; SSL_CERT_FILE names another one."""
    paths = ssl.get_default_verify_paths()
    for path in (os.environ.get(paths.openssl_cafile_env), paths.cafile, *_AUTHORITIES):
        if path and Path(path).is_file():
            return path
    raise ConfigError("no file of certificate authorities on this machine for an https backend; set SSL_CERT_FILE")


def _rewrite_hosts(routes: Any) -> None:
    # A server on the internet chooses its site by the host header, which here names the gateway.
    for action in _find(routes, "route"):
        if isinstance(action, dict) and action.get("cluster") == "llm":
            action.setdefault("auto_host_rewrite", True)


def _cluster(document: Any, name: str) -> dict[str, Any] | None:
    for list_name in ("clusters", "resources"):
        for clusters in _find(document, list_name):
            for cluster in clusters if isinstance(clusters, list) else ():
                if isinstance(cluster, dict) and cluster.get("name") == name:
                    return cluster
    return None


def _member(holder: dict[str, Any], name: str, default: Any) -> Any:
    """A member; the default, which is put there, where there is none. One that is null is none."""
    if holder.get(name) is None:
        holder[name] = default
    return holder[name]


def _find(value: Any, name: str) -> Iterator[Any]:
    return (found for _, found in source.find(value, name))


# Writing ---------------------------------------------------------------------------------------------------


def write(documents: Mapping[str, Any], directory: Path) -> None:
    """Write all documents into a directory, each renamed into place: Envoy notices nothing else.

    Who may read them is the umask's affair: an Envoy in a container of its own runs as another user.
    """
    directory.mkdir(0o700, parents=True, exist_ok=True)
    with fs.directory(directory) as handle:
        for name, document in documents.items():
            fs.put(handle, name, text(document).encode(), mode=0o666)


def text(document: Any) -> str:
    """A document as YAML, with what an alias stood for written out. Every reader reads it as what it is: a string is
    in quotes, but for words that no version of YAML, and no reader of it, takes for anything else."""
    written = yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=_NO_FOLDING)
    # A backslash stands in quotes only, and begins an escape. To yaml-cpp this one is a byte that is no UTF-8.
    return _ESCAPE.sub(lambda escape: r"\x85" if escape[1] == "N" else escape[0], str(written))


_ESCAPE: Final = re.compile(r"\\(.)")
_NO_FOLDING: Final = 1 << 24
_A_WORD: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*")
_NO_STRINGS: Final = frozenset(
    {"y", "n", "yes", "no", "on", "off", "true", "false", "null", "none", "nan", "inf", "infinity"}
)
"""In any case; the last four to no reader that is known, but to many people."""


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_string(dumper: Any, value: str) -> yaml.ScalarNode:
    plain = _A_WORD.fullmatch(value) and value.lower() not in _NO_STRINGS
    node: yaml.ScalarNode = dumper.represent_scalar("tag:yaml.org,2002:str", value, style=None if plain else '"')
    return node


_Dumper.add_representer(str, _represent_string)
