"""The settings: one frozen Config, read from extproc.yaml, EXTPROC_* variables and flags, checked once.

A later source overrides an earlier one: defaults, the file, the environment, the flags. Every mistake is a
ConfigError that names the place (`FILE:LINE`, the variable or the flag), what was expected, what was seen.

Values are read as text wherever they come from, so that `durability: off` in YAML is the word and not a
boolean, and a variable and a file mean the same by the same characters. Settings that end in `_bytes` take a
number of bytes or a number with KiB, MiB, GiB or TiB. Relative paths start at the working directory.
"""

# ruff: noqa: RUF009 - `_setting` is `dataclasses.field` with our metadata, not a shared default.
# ruff: noqa: PLC0415 - yaml is imported only when there is a file: it costs more than all the rest of this.

from __future__ import annotations

import dataclasses
import difflib
import ipaddress
import json
import logging
import math
import os
import re
import urllib.parse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from extproc.errors import ConfigError

if TYPE_CHECKING:
    import yaml

log = logging.getLogger("extproc.config")

FILE_NAME: Final = "extproc.yaml"
VARIABLE_PREFIX: Final = "EXTPROC_"

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB
TIB: Final = 1024 * GIB

ENVOY_MESSAGE_TIMEOUT_SECONDS: Final = 10.0
"""`message_timeout` of the shipped ext_proc filter: after it the error is Envoy's, and a plain 504."""

BUCKET_SCHEMES: Final = frozenset({"s3", "gs", "az", "file"})
"""Where segments can be shipped to."""

SHIPPED_SEGMENT_SECONDS: Final = 300.0
"""How old a segment gets where it is shipped, and nobody has said otherwise."""

SERVER: Final = r"[A-Za-z0-9._-]{1,40}=https?://[^\s,/=@]{1,250}"
"""A name and where it leads."""
_BLANK: Final = re.compile(r"[\s\x00-\x20]")

UNIX_PATH_BYTES: Final = 107
"""What fits into `sockaddr_un.sun_path`, without the zero at its end."""


@dataclasses.dataclass(frozen=True, slots=True)
class Kind:
    """What a value may be: `parse` raises ValueError for text that is none; `wanted` says what would be."""

    parse: Callable[[str], Any]
    wanted: str
    many: bool = False
    optional: bool = False
    former: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Values of earlier versions, and those that are taken in their place."""


@dataclasses.dataclass(frozen=True, slots=True)
class Setting:
    """One setting as the documentation shows it."""

    name: str
    default: Any
    shown_default: str
    meaning: str
    kind: Kind

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return VARIABLE_PREFIX + self.name.upper()

    @property
    def flag(self) -> str:
        """The flag that sets it, in the commands that have one."""
        return "--backend" if self.name == "backends" else "--" + self.name.replace("_", "-")


# Kinds -----------------------------------------------------------------------------------------------------


def _integer(low: int, high: int) -> Kind:
    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,18}", text):
            raise ValueError
        value = int(text)
        if not low <= value <= high:
            raise ValueError
        return value

    return Kind(parse, f"a whole number from {low} to {high}")


def _seconds(low: float, high: float, *, optional: bool = False) -> Kind:
    def parse(text: str) -> float:
        value = float(text)
        if not (math.isfinite(value) and low <= value <= high):
            raise ValueError
        return value

    return Kind(parse, f"a number of seconds from {low:g} to {high:g}", optional=optional)


def size_text(size: int) -> str:
    """A size as the settings write it: `64 KiB`, or plain bytes where no unit divides it."""
    for unit, factor in (("TiB", TIB), ("GiB", GIB), ("MiB", MIB), ("KiB", KIB)):
        if size and size % factor == 0:
            return f"{size // factor} {unit}"
    return str(size)


_UNITS: Final = {"": 1, "kib": KIB, "mib": MIB, "gib": GIB, "tib": TIB}


def _size(low: int, high: int, *, optional: bool = False) -> Kind:
    def parse(text: str) -> int:
        match = re.fullmatch(r"([0-9]{1,18})\s*([A-Za-z]*)", text)
        if match is None or match[2].lower() not in _UNITS:
            raise ValueError
        value = int(match[1]) * _UNITS[match[2].lower()]
        if not low <= value <= high:
            raise ValueError
        return value

    wanted = f"a number of bytes from {size_text(low)} to {size_text(high)}, such as 65536 or 64 KiB"
    return Kind(parse, wanted, optional=optional)


def _choice(*names: str, former: Mapping[str, str] | None = None) -> Kind:
    def parse(text: str) -> str:
        if text not in names:
            raise ValueError
        return text

    return Kind(parse, f"one of {', '.join(names)}", former=former or {})


def _boolean() -> Kind:
    def parse(text: str) -> bool:
        if text.lower() not in _TRUTHS:
            raise ValueError
        return _TRUTHS[text.lower()]

    return Kind(parse, "true or false")


_TRUTHS: Final = {
    **dict.fromkeys(("true", "yes", "on", "1"), True),
    **dict.fromkeys(("false", "no", "off", "0"), False),
}


def _path(*, optional: bool = False) -> Kind:
    def parse(text: str) -> Path:
        if not text or "\0" in text:
            raise ValueError
        return Path(text)

    return Kind(parse, "a path", optional=optional)


def _listen() -> Kind:
    def parse(text: str) -> str:
        if text.startswith("unix:"):
            if not 0 < len(os.fsencode(text.removeprefix("unix:"))) <= UNIX_PATH_BYTES:
                raise ValueError
            return text
        host_and_port(text)
        return text

    wanted = f"unix:PATH (at most {UNIX_PATH_BYTES} bytes) or HOST:PORT, such as 127.0.0.1:50051 or [::1]:50051"
    return Kind(parse, wanted, optional=True)


def _url(wanted: str, *, many: bool = False, optional: bool = False) -> Kind:
    def parse(text: str) -> str:
        url = urllib.parse.urlsplit(text)
        _ = url.port  # raises ValueError for a port that is none
        if url.scheme not in ("http", "https") or not url.hostname or "@" in url.netloc:
            raise ValueError
        if url.path not in ("", "/") or url.query or url.fragment or _BLANK.search(text):
            raise ValueError
        return text.rstrip("/")

    return Kind(parse, wanted, many=many, optional=optional)


def _bucket() -> Kind:
    def parse(text: str) -> str:
        url = urllib.parse.urlsplit(text)
        if url.scheme not in BUCKET_SCHEMES or "@" in url.netloc or url.query or url.fragment or _BLANK.search(text):
            raise ValueError
        if not (url.path.startswith("/") if url.scheme == "file" else url.netloc):
            raise ValueError
        return text.rstrip("/")

    return Kind(
        parse, "s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX or file:///DIRECTORY", optional=True
    )


def _endpoint() -> Kind:
    def parse(text: str) -> str:
        url = urllib.parse.urlsplit(text)
        _ = url.port  # raises ValueError for a port that is none
        if url.scheme not in ("http", "https") or not url.hostname or "@" in url.netloc or url.fragment:
            raise ValueError
        if re.search(r"[^\x21-\x7e]", text):
            raise ValueError
        return text

    return Kind(parse, "http://HOST[:PORT]/PATH or https://HOST[:PORT]/PATH, without credentials", optional=True)


def _address() -> Kind:
    def parse(text: str) -> str:
        return str(ipaddress.ip_address(text))

    return Kind(parse, "an IP address, such as 127.0.0.1 or ::1")


def _names(wanted: str, pattern: str, *, lower: bool) -> Kind:
    def parse(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError
        return text.lower() if lower else text

    return Kind(parse, wanted, many=True)


# The settings ----------------------------------------------------------------------------------------------


def _setting(default: Any, kind: Kind, meaning: str, shown_default: str | None = None) -> Any:
    return dataclasses.field(default=default, metadata={"kind": kind, "meaning": meaning, "shown": shown_default})


@dataclasses.dataclass(frozen=True, slots=True)
class Config:
    """Every setting, checked. Made by `load` or `from_json`."""

    listen: str | None = _setting(
        None,
        _listen(),
        "Where the sidecar (`serve`) listens for Envoy: `unix:PATH` or `HOST:PORT`. Worker N > 0 adds `.N` "
        "to the path or N to the port. TCP is for loopback only, unless TLS is configured",
        "unix:<data_dir>/run/extproc.sock",
    )
    data_dir: Path = _setting(
        Path("data"), _path(), "Directory of the journal: segments, bodies, the key of the redaction marks"
    )
    workers: int = _setting(1, _integer(1, 256), "Worker processes, each with its own address and segments")
    transport: Literal["http2", "aio"] = _setting(
        "http2",
        _choice("http2", "aio", former={"completion_queue": "http2"}),
        "The gRPC server: `http2`, our own, or `aio`, grpcio's, at many times the cost (with uvloop where "
        "`extproc[aio]` is installed). With TLS it is always `aio`",
    )
    durability: Literal["fsync", "write", "off"] = _setting(
        "fsync",
        _choice("fsync", "write", "off"),
        "What an acknowledged record survives: `fsync` a loss of power, `write` a `kill -9`, `off` nothing "
        "(for measuring only)",
    )
    on_audit_failure: Literal["deny", "allow"] = _setting(
        "deny",
        _choice("deny", "allow"),
        "When the journal cannot be written: `deny` answers 503 before the backend is reached, `allow` lets "
        "traffic pass unrecorded and counts the gap",
    )
    quarantine_mode: Literal["off", "shadow", "refuse", "route"] = _setting(
        "shadow",
        _choice("off", "shadow", "refuse", "route"),
        "What happens to a request in quarantine (`extproc quarantine`) until a command says otherwise: it is only "
        "counted, refused with 422, or sent on with the header `x-quarantine`",
    )
    quarantine_repeats: Literal["off", "shadow", "refuse", "route"] = _setting(
        "off",
        _choice("off", "shadow", "refuse", "route"),
        "What happens to a body that was a likely suspect of a backend's death and comes again within a minute, as a "
        "client's retry carries it on to the next backend",
    )
    webhook_url: str | None = _setting(
        None,
        _endpoint(),
        "Where the follower posts what befalls a backend, as `extproc incidents --json` has it. docs/forensics.md has "
        "the receiver's part",
    )
    webhook_secret_file: Path | None = _setting(
        None,
        _path(optional=True),
        "File with the secret that signs what is posted. `EXTPROC_WEBHOOK_SECRET` stands in where this is not set",
        "none: not signed",
    )
    webhook_redact: bool = _setting(
        True, _boolean(), "Values that clients sent, such as a regular expression, are left out of what is posted"
    )
    probe_seconds: int = _setting(
        0,
        _integer(0, 86_400),
        "How often the follower asks the backends what they are (engine, version, arguments, since when), for "
        "`extproc incidents`. Over plain HTTP only: backends behind TLS are not asked. docs/forensics.md has what it "
        "asks. 0: never",
    )
    set_audit_id: bool = _setting(
        False,
        _boolean(),
        "The recorder itself sets `x-audit-id` on answers, for an Envoy whose configuration does not; see "
        "docs/kubernetes.md",
    )
    hold_request_bytes: int = _setting(
        512 * KIB,
        _size(0, 64 * MIB),
        "Requests with a `content-length` up to this are held back whole until their record is durable; "
        "larger and chunked ones stream, and only their end waits. Below what Envoy buffers (`extproc check` compares "
        "the two): 1 MiB, or a route's `request_body_buffer_limit`. 0 holds none",
    )
    hold_total_bytes: int = _setting(
        64 * MIB,
        _size(0, TIB),
        "Limit for all held bodies together, for each worker; beyond it requests stream",
    )
    inline_body_bytes: int = _setting(
        64 * KIB,
        _size(0, 16 * MIB),
        "Bodies up to this stand in the record; larger ones in a file of their own",
    )
    open_record_bytes: int = _setting(
        64 * KIB, _size(1, TIB), "A request still unfinished after this much body gets an `open` record"
    )
    open_record_ms: int = _setting(
        200,
        _integer(1, 600_000),
        "A request still unfinished after this many milliseconds gets an `open` record",
    )
    gate_timeout_seconds: float = _setting(
        8.0,
        _seconds(0.1, 9.5),
        "How long a reply waits for the disk before `on_audit_failure` applies; below Envoy's "
        f"`message_timeout` of {ENVOY_MESSAGE_TIMEOUT_SECONDS:g} s",
    )
    drain_seconds: float = _setting(
        10.0,
        _seconds(0.0, 3600.0),
        "How long running exchanges may go on after SIGTERM; the rest end as `proxy_drain`",
    )
    segment_bytes: int = _setting(
        64 * MIB,
        _size(4 * KIB, 16 * GIB),
        "A segment is closed and a new one begun at this size, and each day",
    )
    segment_seconds: float | None = _setting(
        None,
        _seconds(0.0, 86_400.0, optional=True),
        "The same for one with records that is so old, so that what is shipped is young. 0: whatever its age",
        "300 with `ship_to`, else 0",
    )
    retention_days: int = _setting(30, _integer(0, 36_500), "Closed segments older than this are deleted. 0: no limit")
    retention_segments: int = _setting(
        0, _integer(0, 10_000_000), "At most this many closed segments are kept. 0: no limit"
    )
    retention_bytes: int = _setting(
        20 * GIB,
        _size(0, 1024 * TIB),
        "The oldest closed segments beyond this total are deleted. 0: no limit",
    )
    free_space_floor_bytes: int | None = _setting(
        None,
        _size(0, TIB, optional=True),
        "With less free space than this the journal counts as full",
        "the smaller of 256 MiB and 5 % of the file system",
    )
    ship_to: str | None = _setting(
        None,
        _bucket(),
        "`serve` ships closed segments there, for all machines together (`extproc ship`, docs/fleet.md); credentials "
        "and the endpoint come from the environment, as the cloud's own tools take them. Takes `extproc[fleet]`",
        "none: nothing is shipped",
    )
    retention_after_ship: bool = _setting(
        False,
        _boolean(),
        "`retention_days` and `retention_segments` wait until a segment has been shipped. `retention_bytes` does not: "
        "the disk comes first",
    )
    index: bool = _setting(
        True,
        _boolean(),
        "The follower keeps `<data_dir>/index.sqlite`, with which `log`, `show` and the like answer at once. Without "
        "it they read the whole journal",
    )
    redact_headers: tuple[str, ...] = _setting(
        (),
        _names("header names, such as x-internal-token", r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", lower=True),
        "More headers whose values are never written, beyond those whose names say that they carry a credential, such "
        "as `authorization`, `cookie`, `x-api-key`, `x-acme-token`",
    )
    redact_query: tuple[str, ...] = _setting(
        (),
        _names("names of query parameters, such as door", r"[^&=#\s,]+", lower=False),
        "More query parameters whose values are never written, beyond those whose names say that they carry a "
        "credential, such as `key`, `access_token`, `sig`, `client_secret`",
    )
    tls_certificate: Path | None = _setting(
        None, _path(optional=True), "PEM certificate chain of the sidecar, for a TCP `listen`"
    )
    tls_private_key: Path | None = _setting(None, _path(optional=True), "PEM private key to `tls_certificate`")
    tls_client_ca: Path | None = _setting(
        None,
        _path(optional=True),
        "PEM certificates that may sign Envoy's client certificate; then one is required",
    )
    max_connections: int = _setting(
        4096,
        _integer(1, 1_000_000),
        "gRPC connections at once, for each worker; fewer where open files (`ulimit -Hn`) are few. Beyond it new ones "
        "are refused, Envoy's too: let nobody but Envoy connect",
    )
    max_streams: int = _setting(100_000, _integer(1, 10_000_000), "Exchanges at once, for each worker")
    port: int = _setting(8000, _integer(0, 65535), "`up`: port of Envoy's listener. 0: any free one")
    admin_port: int = _setting(
        9464, _integer(0, 65535), "Port of `/healthz`, `/readyz` and `/metrics`. 0: any free one"
    )
    admin_host: str = _setting(
        "127.0.0.1",
        _address(),
        "Address of that port. Anything but loopback only in a network that is private to the deployment",
    )
    envoy_admin_port: int = _setting(
        9901, _integer(0, 65535), "`up`: port of Envoy's own admin interface, on loopback. 0: any free one"
    )
    backends: tuple[str, ...] = _setting(
        (),
        _url("http://HOST:PORT or https://HOST[:PORT], without a path or credentials", many=True),
        "`up`: the LLM servers, which replace the endpoints of the cluster `llm`. None: two demo backends",
    )
    envoy_dir: Path = _setting(
        Path("envoy"),
        _path(),
        "`up`: directory of the Envoy configuration; the shipped files stand in for those it lacks",
    )
    envoy_concurrency: int = _setting(
        0, _integer(0, 1024), "`up`: Envoy's worker threads. 0: Envoy's own default, one for each core"
    )
    otlp: str | None = _setting(
        None,
        _url("http://HOST:PORT or https://HOST[:PORT], such as http://127.0.0.1:4317", optional=True),
        "OTLP/gRPC collector for Envoy's and our spans. `OTEL_EXPORTER_OTLP_ENDPOINT` stands in where this is not set",
        "none: no spans",
    )
    jaeger_url: str = _setting(
        "http://127.0.0.1:16686",
        _url("http://HOST:PORT or https://HOST[:PORT]"),
        "Where a person opens Jaeger, for the link in `extproc show`",
    )
    metric_models: tuple[str, ...] = _setting(
        (),
        _names("names of models, such as gpt-oss-120b", r"[^\s,]{1,200}", lower=False),
        "Models that always have a label of their own in the metrics. Of all others the first 50 seen get one, "
        "the rest are `other`",
    )
    page: Literal["up", "on", "off"] = _setting(
        "up",
        _choice("up", "on", "off"),
        "Whose page (`extproc page`) is started with it: `up`'s, `serve`'s as well (`on`), or nobody's (`off`)",
    )
    page_port: int = _setting(9465, _integer(0, 65535), "Port of the page. 0: any free one")
    page_host: str = _setting(
        "127.0.0.1", _address(), "Address of the page. Anything but loopback only with `page_token_file`"
    )
    page_token_file: Path | None = _setting(
        None,
        _path(optional=True),
        "Lines of `NAME:TOKEN`: who may read the page. Then each reading of a prompt is noted",
    )
    page_replay_to: tuple[str, ...] = _setting(
        (),
        _names("NAME=URL of test servers, such as gpu-test=http://gpu-test:8000", SERVER, lower=False),
        "Test servers to which the page may send a recorded request again, for whoever has a token",
    )
    log_format: Literal["auto", "json", "text"] = _setting(
        "auto",
        _choice("auto", "json", "text"),
        "The operators' log on stderr: JSON lines or text; `auto` is text on a terminal and JSON elsewhere",
    )

    def address(self, worker: int = 0) -> str:
        """Where one worker listens: `unix:PATH` or `HOST:PORT`."""
        if self.listen is None or self.listen.startswith("unix:"):
            path = str(self.data_dir / "run" / "extproc.sock") if self.listen is None else self.listen[5:]
            path += f".{worker}" if worker else ""
            if len(os.fsencode(path)) > UNIX_PATH_BYTES:
                raise ConfigError(
                    f"the socket's path is longer than the {UNIX_PATH_BYTES} bytes that the system allows: "
                    f"{path}; set listen to a shorter one, such as unix:/run/extproc/extproc.sock"
                )
            return "unix:" + path
        host, port = host_and_port(self.listen)
        number = port + worker if port else 0
        return f"[{host}]:{number}" if ":" in host else f"{host}:{number}"

    @property
    def close_segments_after_seconds(self) -> float:
        """How old a segment may get; 0 where its age does not matter."""
        if self.segment_seconds is not None:
            return self.segment_seconds
        return SHIPPED_SEGMENT_SECONDS if self.ship_to is not None else 0.0

    def replace(self, **changes: Any) -> Config:
        """The same settings with some changed; not checked again."""
        return dataclasses.replace(self, **changes)

    def to_json(self) -> str:
        """One line of JSON that `from_json` turns back into an equal Config."""
        return json.dumps(dataclasses.asdict(self), default=os.fspath)

    @staticmethod
    def from_json(text: str | bytes) -> Config:
        """The Config that `to_json` wrote; not checked again."""
        return msgspec.json.decode(text, type=Config, dec_hook=lambda kind, value: kind(value))


def _shown(name: str, default: Any) -> str:
    if isinstance(default, tuple) or default is None:
        return "none"
    if name.endswith("_bytes"):
        return size_text(default)
    if isinstance(default, bool):
        return str(default).lower()
    return f"{default:g}" if isinstance(default, float) else str(default)


SETTINGS: Final[Mapping[str, Setting]] = {
    field.name: Setting(
        field.name,
        field.default,
        field.metadata["shown"] or _shown(field.name, field.default),
        field.metadata["meaning"],
        field.metadata["kind"],
    )
    for field in dataclasses.fields(Config)
}


# Reading ---------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class _Given:
    """A value and the place it came from, in the words of an error message."""

    value: Any
    place: str


def load(
    path: Path | str | None = None,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Config:
    """The settings. Without `path`, extproc.yaml of the working directory is read when there is one.

    `environ` defaults to the process's own. `overrides` are the flags by setting name; None and an empty
    sequence mean that the flag was not given.
    """
    given: dict[str, _Given] = {}
    if path is not None or os.path.lexists(FILE_NAME):
        given |= _from_file(Path(path if path is not None else FILE_NAME))
    given |= _from_environ(os.environ if environ is None else environ)
    given |= _from_flags(overrides or {})
    config = Config(**{name: each.value for name, each in given.items()})
    _cross_check(config, given)
    return config


def _parse(setting: Setting, text: str, place: str) -> Any:
    text = text.strip()
    if text in setting.kind.former:
        taken = setting.kind.former[text]
        log.warning("%s: %s: there is no %s any more, and %s is taken", place, setting.name, text, taken)
        text = taken
    try:
        return setting.kind.parse(text)
    except ValueError:
        raise ConfigError(f"{place}: {setting.name}: expected {setting.kind.wanted}, got {_seen(text)}") from None


def _parse_list(setting: Setting, text: str, place: str) -> tuple[Any, ...]:
    return tuple(_parse(setting, part, place) for part in text.split(",") if part.strip())


def _with_schemes(setting: Setting, text: str) -> str:
    """In a variable a backend may be HOST:PORT, as compose files and shells have it."""
    if setting.name != "backends":
        return text
    parts = (part.strip() for part in text.split(","))
    return ",".join(part if "://" in part or not part else f"http://{part}" for part in parts)


def _seen(text: str) -> str:
    return ascii(text if len(text) <= 80 else text[:77] + "...")


def listen_address(text: str, place: str) -> str:
    """Check an address, as for `listen`. Raises ConfigError, which names the place."""
    return str(_parse(SETTINGS["listen"], text, place))


def _from_environ(environ: Mapping[str, str]) -> dict[str, _Given]:
    given = {}
    by_variable = {setting.variable: setting for setting in SETTINGS.values()}
    for variable, text in sorted(environ.items()):
        if not variable.startswith(VARIABLE_PREFIX):
            continue
        setting = by_variable.get(variable)
        if setting is None:
            # Others use the prefix too (Kubernetes does, for a service of that name): only a slip is wrong.
            if close := difflib.get_close_matches(variable, by_variable, 1, 0.9):
                raise ConfigError(f"{variable}: there is no such setting; did you mean {close[0]}?")
            continue
        if setting.kind.many:
            given[setting.name] = _Given(_parse_list(setting, _with_schemes(setting, text), variable), variable)
        elif setting.kind.optional and not text.strip():
            given[setting.name] = _Given(None, variable)
        else:
            given[setting.name] = _Given(_parse(setting, text, variable), variable)
    return given


def _from_flags(flags: Mapping[str, Any]) -> dict[str, _Given]:
    given = {}
    for name, value in flags.items():
        setting = SETTINGS[name]
        if value is None or value in ((), []):
            continue
        if setting.kind.many:
            texts = [value] if isinstance(value, str) else value
            parsed: Any = tuple(_parse(setting, str(text), setting.flag) for text in texts)
        else:
            parsed = _parse(setting, str(value), setting.flag)
        given[name] = _Given(parsed, setting.flag)
    return given


def _from_file(path: Path) -> dict[str, _Given]:
    import yaml

    given: dict[str, _Given] = {}
    for key, node in _pairs(path):
        place = f"{path}:{key.start_mark.line + 1}"
        setting = SETTINGS.get(key.value) if isinstance(key, yaml.ScalarNode) else None
        if setting is None:
            raise ConfigError(f"{place}: {_unknown(key.value if isinstance(key, yaml.ScalarNode) else '')}")
        if setting.name in given:
            first = given[setting.name].place.rpartition(":")[2]
            raise ConfigError(f"{place}: {setting.name} stands twice, first on line {first}; leave one of them out")
        given[setting.name] = _Given(_from_node(setting, node, path), place)
    return given


def _pairs(path: Path) -> list[tuple[yaml.Node, yaml.Node]]:
    import yaml

    try:
        with path.open("rb") as file:
            root = yaml.compose(file, Loader=yaml.SafeLoader)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        raise ConfigError(f"{path}{line}: not YAML: {error.problem or error.context}") from None
    except yaml.reader.ReaderError as error:
        raise ConfigError(f"{path}: not YAML: {error.reason} at byte {error.position}; UTF-8 text is right") from None
    except RecursionError:
        raise ConfigError(f"{path}: nested too deeply; the file is a flat list of `name: value`") from None
    if root is None:
        return []
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError(f"{path}:{root.start_mark.line + 1}: expected lines such as `name: value`")
    return root.value  # type: ignore[no-any-return]


_GONE: Final = {"memory_bytes": "it never had an effect; leave it out"}


def _unknown(name: str) -> str:
    if name in _GONE:
        return f"{name} is no setting any more: {_GONE[name]}"
    close = difflib.get_close_matches(name.replace("-", "_").lower(), SETTINGS, 1)
    hint = f"did you mean {close[0]}?" if close else "docs/settings.md lists all settings"
    return f"{_seen(name)} is no setting; {hint}"


def _from_node(setting: Setting, node: yaml.Node, path: Path) -> Any:
    import yaml

    place = f"{path}:{node.start_mark.line + 1}"
    if isinstance(node, yaml.ScalarNode):
        if node.tag == "tag:yaml.org,2002:null":
            if setting.kind.many:
                return ()
            if setting.kind.optional:
                return None
            raise ConfigError(f"{place}: {setting.name}: expected {setting.kind.wanted}, got no value")
        if setting.kind.many:
            return _parse_list(setting, node.value, place)
        return _parse(setting, node.value, place)
    if isinstance(node, yaml.SequenceNode) and setting.kind.many:
        return tuple(_item(setting, item, path) for item in node.value)
    shape = "a list" if isinstance(node, yaml.SequenceNode) else "a mapping"
    many = "a list of " if setting.kind.many else ""
    raise ConfigError(f"{place}: {setting.name}: expected {many}{setting.kind.wanted}, got {shape}")


def _item(setting: Setting, node: yaml.Node, path: Path) -> Any:
    import yaml

    place = f"{path}:{node.start_mark.line + 1}"
    if not isinstance(node, yaml.ScalarNode):
        raise ConfigError(f"{place}: {setting.name}: each item is plain text: expected {setting.kind.wanted}")
    return _parse(setting, node.value, place)


# Checks of settings against each other ---------------------------------------------------------------------


def _cross_check(config: Config, given: Mapping[str, _Given]) -> None:
    def wrong(names: tuple[str, ...], text: str) -> ConfigError:
        """Names the place of the first of these that somebody set: defaults do not contradict each other."""
        place = next(given[name].place for name in names if name in given)
        return ConfigError(f"{place}: {text}")

    if config.hold_total_bytes < config.hold_request_bytes:
        raise wrong(
            ("hold_total_bytes", "hold_request_bytes"),
            f"hold_total_bytes ({size_text(config.hold_total_bytes)}) is less than hold_request_bytes "
            f"({size_text(config.hold_request_bytes)}); expected at least the same",
        )
    if 0 < config.retention_bytes < config.segment_bytes:
        raise wrong(
            ("retention_bytes", "segment_bytes"),
            f"retention_bytes ({size_text(config.retention_bytes)}) is less than one segment, segment_bytes "
            f"({size_text(config.segment_bytes)}); expected at least the same, or 0 for no limit",
        )
    if config.retention_after_ship and config.ship_to is None:
        raise wrong(("retention_after_ship",), "retention_after_ship is set without ship_to, so it would wait for ever")
    _check_ports(config, wrong)
    _check_listen(config, wrong)


_Wrong = Callable[[tuple[str, ...], str], ConfigError]


def _check_ports(config: Config, wrong: _Wrong) -> None:
    ports: dict[int, str] = {}
    for name in ("port", "admin_port", "envoy_admin_port"):
        port = getattr(config, name)
        if port and port in ports:
            raise wrong((name, ports[port]), f"{name} and {ports[port]} are both {port}; each needs its own port")
        ports[port] = name


def _check_listen(config: Config, wrong: _Wrong) -> None:
    certificate, key = config.tls_certificate, config.tls_private_key
    if (certificate is None) != (key is None):
        have, lack = ("tls_private_key", "tls_certificate") if certificate is None else _TLS_PAIR
        raise wrong((have, lack), f"{have} is set without {lack}; TLS needs both")
    if config.tls_client_ca is not None and certificate is None:
        raise wrong(("tls_client_ca",), "tls_client_ca is set without tls_certificate and tls_private_key")
    if config.listen is None or config.listen.startswith("unix:"):
        if certificate is not None and config.listen is not None:
            raise wrong(("listen",), "listen is a Unix socket, and TLS is configured; TLS needs HOST:PORT")
        return
    host, port = host_and_port(config.listen)
    if port and port + config.workers - 1 > 65535:
        raise wrong(("listen", "workers"), f"listen: {config.workers} workers need ports up to 65535 from {port} on")
    if certificate is None and not is_loopback(host):
        raise wrong(
            ("listen",),
            f"listen: {_seen(config.listen)} is not on loopback, and prompts would cross the network "
            "in the clear; use 127.0.0.1:PORT, unix:PATH, or tls_certificate and tls_private_key",
        )


_TLS_PAIR: Final = ("tls_certificate", "tls_private_key")


def host_and_port(text: str) -> tuple[str, int]:
    """`HOST:PORT` or `[IPV6]:PORT` in its parts; ValueError for anything else."""
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.%a-z]+)\]|([0-9A-Za-z.-]+)):([0-9]{1,5})", text)
    if match is None or int(match[3]) > 65535:
        raise ValueError(text)
    return match[1] or match[2], int(match[3])


def near_host(host: str) -> str:
    """Where a program on this machine reaches what listens on this host: an address of all is none to connect to."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - nothing listens here


def in_url(host: str) -> str:
    """A host as a URL has it."""
    return f"[{host}]" if ":" in host else host


def is_loopback(host: str) -> bool:
    """Whether nobody outside this machine reaches a listener on this host."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
