"""The Envoy configuration as documents: read from YAML, changed by `up`'s flags, written where Envoy watches.

A configuration directory holds envoy.yaml (the bootstrap), routes.yaml (RDS) and clusters.yaml (CDS); those that are
missing in it come from the shipped ones, and other YAML files in it are carried along. The flags change only what
they are about, found by name: the listener `ingress`, the cluster `extproc`, the cluster `llm`.
"""

from __future__ import annotations

import importlib.resources
import ipaddress
import os
import ssl
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Final

import yaml

from extproc.config import host_and_port
from extproc.errors import ConfigError

BOOTSTRAP: Final = "envoy.yaml"
NAMES: Final = (BOOTSTRAP, "routes.yaml", "clusters.yaml")

DEMO_ADDRESSES: Final = (("127.0.0.1", 8001), ("127.0.0.1", 8002))
"""The endpoints that stand for the demo backends in clusters.yaml, wherever those really listen."""

Documents = dict[str, Any]
"""The parsed files by name."""


def shipped() -> Traversable:
    """The shipped Envoy configuration: of the installed package, or of the checkout that holds this module."""
    packaged = importlib.resources.files("extproc") / "_shipped" / "envoy"
    return packaged if packaged.is_dir() else Path(__file__).resolve().parents[2] / "envoy"


def read(directory: Path | None) -> Documents:
    """The documents of a directory over the shipped ones; None is the shipped ones alone."""
    documents: Documents = {name: _parsed((shipped() / name).read_bytes(), name) for name in NAMES}
    if directory is not None:
        try:
            paths = sorted(path for path in directory.iterdir() if path.suffix == ".yaml" and path.is_file())
            documents |= {path.name: _parsed(path.read_bytes(), str(path)) for path in paths}
        except OSError as error:
            raise ConfigError(f"{error.filename or directory}: cannot be read: {error.strerror}") from None
    return documents


def _parsed(data: bytes, place: str) -> Any:
    try:
        document = yaml.load(data, Loader=_LOADER)  # noqa: S506 - a safe loader, in C where there is one
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        raise ConfigError(f"{place}{line}: not YAML: {error.problem or error.context}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{place}: not YAML: {error}") from None
    if not isinstance(document, dict):
        raise ConfigError(f"{place}:1: a mapping, as in the shipped file, would be right")
    return document


_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


# Changes ---------------------------------------------------------------------------------------------------


def set_ports(documents: Documents, *, port: int, admin_port: int) -> None:
    """The ports of the listener `ingress` (or the first one) and of Envoy's admin interface."""
    bootstrap = documents[BOOTSTRAP]
    listeners = [each for each in _find(bootstrap, "listeners") if isinstance(each, list) and each]
    if not listeners:
        raise ConfigError(f"{BOOTSTRAP}: no listener; static_resources.listeners with one named ingress would be right")
    listener = next((each for each in listeners[0] if each.get("name") == "ingress"), listeners[0][0])
    try:
        listener["address"]["socket_address"]["port_value"] = port
    except (KeyError, TypeError):
        raise ConfigError(f"{BOOTSTRAP}: the listener has no socket_address, so --port cannot be applied") from None
    admin = bootstrap.setdefault("admin", {})
    address = admin.setdefault("address", {}).setdefault("socket_address", {"address": "127.0.0.1"})
    address["port_value"] = admin_port


def listener_host(documents: Documents) -> str:
    """The address on which the listener of `set_ports` listens."""
    listeners = next(each for each in _find(documents[BOOTSTRAP], "listeners") if isinstance(each, list) and each)
    listener = next((each for each in listeners if each.get("name") == "ingress"), listeners[0])
    return str(listener["address"]["socket_address"].get("address", "0.0.0.0"))  # noqa: S104 - Envoy's own default


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
        for source in _find(document, "path_config_source"):
            name = Path(str(source.get("path"))).name if isinstance(source, dict) else ""
            if name in documents:
                source |= {"path": str(directory / name), "watched_directory": {"path": str(directory)}}


def set_tracing(documents: Documents, collector: str) -> None:
    """Let Envoy export its spans to an OTLP/gRPC collector (a URL). Tracing that is configured stays as it is."""
    url = urllib.parse.urlsplit(collector)
    bootstrap = documents[BOOTSTRAP]
    managers = [each for each in _find(bootstrap, "typed_config") if str(each.get("@type")).endswith(_MANAGER)]
    for manager in managers:
        manager.setdefault("tracing", _tracing())
    clusters = bootstrap.setdefault("static_resources", {}).setdefault("clusters", [])
    if all(cluster.get("name") != _COLLECTOR for cluster in clusters):
        clusters.append(_collector(url))


_COLLECTOR: Final = "otlp"
_MANAGER: Final = ".HttpConnectionManager"


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
    }


def _collector(url: urllib.parse.SplitResult) -> dict[str, Any]:
    host, port = url.hostname or "", url.port or 4317
    address = {"socket_address": {"address": host, "port_value": port}}
    cluster: dict[str, Any] = {
        "name": _COLLECTOR,
        "type": "STRICT_DNS",
        "connect_timeout": "5s",
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
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


def demo_endpoints(documents: Documents) -> list[dict[str, Any]]:
    """The socket addresses in clusters.yaml that stand for demo backends."""
    addresses = (each for each in _find(documents["clusters.yaml"], "socket_address") if isinstance(each, dict))
    return [each for each in addresses if (each.get("address"), each.get("port_value")) in DEMO_ADDRESSES]


def set_demo_ports(documents: Documents, ports: Mapping[int, int]) -> None:
    """Replace the demo backends' ports of the file by those that they really have."""
    for address in demo_endpoints(documents):
        address["port_value"] = ports[address["port_value"]]


def set_backends(documents: Documents, urls: Sequence[str]) -> None:
    """Replace the endpoints of the cluster `llm`. https ones get TLS with SNI and the system's authorities."""
    cluster = _cluster(documents["clusters.yaml"], "llm")
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
        _rewrite_hosts(documents["routes.yaml"])


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


def _find(value: Any, name: str) -> Iterator[Any]:
    """Every member of this name in a document, however deep."""
    stack = [value]
    while stack:
        match stack.pop(0):
            case dict() as members:
                if name in members:
                    yield members[name]
                stack.extend(members.values())
            case list() as items:
                stack.extend(items)


# Writing ---------------------------------------------------------------------------------------------------


def write(documents: Documents, directory: Path) -> None:
    """Write all documents into a directory, each renamed into place: Envoy notices nothing else."""
    directory.mkdir(0o700, parents=True, exist_ok=True)
    for name, document in documents.items():
        temporary = directory / f".{name}.new"
        text = yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
        temporary.write_text(text, encoding="utf-8")
        temporary.rename(directory / name)


class _Dumper(yaml.SafeDumper):
    """Writes out what the file shares by anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True
