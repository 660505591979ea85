"""The settings: sources and their order, every mistake with its place, the shipped file, the way to a worker."""

# ruff: noqa: E501 - the messages stand here whole.

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from extproc import config
from extproc.config import SETTINGS, Config
from extproc.envoy.config.files import shipped
from extproc.errors import ConfigError

# What was expected, in the words of the message.
URL = "http://HOST:PORT or https://HOST[:PORT], without a path or credentials"
SEGMENT = "a number of bytes from 4 KiB to 16 GiB, such as 65536 or 64 KiB"
HOLD = "a number of bytes from 0 to 64 MiB, such as 65536 or 64 KiB"
LISTEN = "unix:PATH (at most 107 bytes) or HOST:PORT, such as 127.0.0.1:50051 or [::1]:50051"
COUNT = "a whole number from 1 to 256"
PORT = "a whole number from 0 to 65535"


@pytest.fixture(autouse=True)
def empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test runs in a directory of its own, without an extproc.yaml."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read(text: str, environ: dict[str, str] | None = None, **flags: Any) -> Config:
    """The settings from this file, these variables and these flags."""
    Path("extproc.yaml").write_text(text, encoding="utf-8")
    return config.load(environ=environ or {}, overrides=flags)


def mistake(text: str | bytes, environ: dict[str, str] | None = None, **flags: Any) -> str:
    """The message for this file, these variables and these flags."""
    Path("extproc.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as raised:
        config.load(environ=environ or {}, overrides=flags)
    return str(raised.value)


# Sources ---------------------------------------------------------------------------------------------------


def test_without_any_source_the_defaults_hold() -> None:
    """No file, no variables, no flags: the defaults of the dataclass."""
    assert config.load(environ={}) == Config()


def test_the_file_of_the_working_directory_is_read() -> None:
    """extproc.yaml is used when it is there, without a flag."""
    assert read("workers: 3\n").workers == 3


def test_a_named_file_replaces_the_one_of_the_working_directory(tmp_path: Path) -> None:
    """--config names the only file that is read."""
    Path("extproc.yaml").write_text("workers: 3\nport: 1\n")
    other = tmp_path / "other.yaml"
    other.write_text("workers: 4\n")
    loaded = config.load(other, environ={})
    assert (loaded.workers, loaded.port) == (4, 8000)


def test_variables_override_the_file_and_flags_override_both() -> None:
    """Each source overrides the one before it, setting by setting."""
    loaded = read(
        "workers: 3\nport: 1\nadmin_port: 2\n",
        {"EXTPROC_PORT": "10", "EXTPROC_ADMIN_PORT": "20"},
        admin_port=30,
    )
    assert (loaded.workers, loaded.port, loaded.admin_port) == (3, 10, 30)


def test_a_flag_that_was_not_given_overrides_nothing() -> None:
    """None and an empty sequence are click's words for a flag that is absent."""
    loaded = read("port: 1\nbackends: [http://a:1]\n", port=None, backends=())
    assert (loaded.port, loaded.backends) == (1, ("http://a:1",))


def test_an_empty_file_and_one_of_comments_only_set_nothing() -> None:
    """The shipped file sets nothing."""
    assert read("") == read("# nothing\n") == Config()


def test_variables_of_others_with_our_prefix_are_left_alone() -> None:
    """Kubernetes sets EXTPROC_SERVICE_HOST for a service named extproc."""
    assert read("", {"EXTPROC_SERVICE_HOST": "10.0.0.1", "EXTPROC_PORT_50051_TCP": "x"}) == Config()


# Values ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("durability: off", "durability", "off"),
        ("durability: 'write'", "durability", "write"),
        ("segment_bytes: 1048576", "segment_bytes", 1048576),
        ("segment_bytes: 64 MiB", "segment_bytes", 64 * 1024 * 1024),
        ("segment_bytes: 64mib", "segment_bytes", 64 * 1024 * 1024),
        ("gate_timeout_seconds: 1.5", "gate_timeout_seconds", 1.5),
        ("data_dir: /var/lib/extproc", "data_dir", Path("/var/lib/extproc")),
        ("listen: '[::1]:50051'", "listen", "[::1]:50051"),
        ("listen:", "listen", None),
        ("listen: ~", "listen", None),
        ("free_space_floor_bytes: 0", "free_space_floor_bytes", 0),
        ("backends: [http://a:1, https://b]", "backends", ("http://a:1", "https://b")),
        ("backends: http://a:1, http://[::1]:2/", "backends", ("http://a:1", "http://[::1]:2")),
        ("backends:", "backends", ()),
        ("redact_headers:\n- X-Token\n- x-b\n", "redact_headers", ("x-token", "x-b")),
        ("redact_query: [Token]", "redact_query", ("Token",)),
        ("otlp: http://127.0.0.1:4317", "otlp", "http://127.0.0.1:4317"),
    ],
)
def test_values_from_the_file(text: str, name: str, value: object) -> None:
    """A value is read as its text says, whatever YAML would have made of it."""
    assert getattr(read(text), name) == value


@pytest.mark.parametrize(
    ("variable", "text", "name", "value"),
    [
        ("EXTPROC_DURABILITY", "off", "durability", "off"),
        ("EXTPROC_BACKENDS", "http://a:1,http://b:2", "backends", ("http://a:1", "http://b:2")),
        (
            "EXTPROC_BACKENDS",
            "gpu7:8000,https://b,[::1]:1",
            "backends",
            ("http://gpu7:8000", "https://b", "http://[::1]:1"),
        ),
        ("EXTPROC_BACKENDS", "", "backends", ()),
        ("EXTPROC_OTLP", "", "otlp", None),
        ("EXTPROC_HOLD_REQUEST_BYTES", "1 KiB", "hold_request_bytes", 1024),
    ],
)
def test_values_from_variables(variable: str, text: str, name: str, value: object) -> None:
    """A variable means the same as the same characters in the file; a list is separated by commas."""
    assert getattr(read("", {variable: text}), name) == value


# Mistakes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("workers: 2\nworker: 3\n", "extproc.yaml:2: 'worker' is no setting; did you mean workers?"),
        (
            "hold-request-bytes: 3\n",
            "extproc.yaml:1: 'hold-request-bytes' is no setting; did you mean hold_request_bytes?",
        ),
        ("\n\nzebra: 1\n", "extproc.yaml:3: 'zebra' is no setting; docs/settings.md lists all settings"),
        ("[1]: 1\n", "extproc.yaml:1: '' is no setting; docs/settings.md lists all settings"),
        (
            "port: 1\nworkers: 2\nport: 3\n",
            "extproc.yaml:3: port stands twice, first on line 1; leave one of them out",
        ),
        (
            "workers: 0\n",
            f"extproc.yaml:1: workers: expected {COUNT}, got '0'",
        ),
        (
            "workers: two\n",
            f"extproc.yaml:1: workers: expected {COUNT}, got 'two'",
        ),
        (
            "workers: 2.0\n",
            f"extproc.yaml:1: workers: expected {COUNT}, got '2.0'",
        ),
        ("workers:\n", f"extproc.yaml:1: workers: expected {COUNT}, got no value"),
        (
            "workers: [1]\n",
            f"extproc.yaml:1: workers: expected {COUNT}, got a list",
        ),
        (
            "workers: {a: 1}\n",
            f"extproc.yaml:1: workers: expected {COUNT}, got a mapping",
        ),
        (
            "port: 65536\n",
            f"extproc.yaml:1: port: expected {PORT}, got '65536'",
        ),
        (
            "transport: uvloop\n",
            "extproc.yaml:1: transport: expected one of http2, aio, got 'uvloop'",
        ),
        (
            "durability: yes\n",
            "extproc.yaml:1: durability: expected one of fsync, write, off, got 'yes'",
        ),
        (
            "on_audit_failure: ignore\n",
            "extproc.yaml:1: on_audit_failure: expected one of deny, allow, got 'ignore'",
        ),
        (
            "hold_request_bytes: 65 MiB\n",
            f"extproc.yaml:1: hold_request_bytes: expected {HOLD}, got '65 MiB'",
        ),
        (
            "segment_bytes: 64 MB\n",
            f"extproc.yaml:1: segment_bytes: expected {SEGMENT}, got '64 MB'",
        ),
        (
            "gate_timeout_seconds: 10\n",
            "extproc.yaml:1: gate_timeout_seconds: expected a number of seconds from 0.1 to 9.5, got '10'",
        ),
        (
            "drain_seconds: nan\n",
            "extproc.yaml:1: drain_seconds: expected a number of seconds from 0 to 3600, got 'nan'",
        ),
        ("data_dir: ''\n", "extproc.yaml:1: data_dir: expected a path, got ''"),
        (
            "listen: localhost\n",
            f"extproc.yaml:1: listen: expected {LISTEN}, got 'localhost'",
        ),
        (
            "backends:\n- http://a:1\n- gpu7:8000\n",
            f"extproc.yaml:3: backends: expected {URL}, got 'gpu7:8000'",
        ),
        (
            "backends: [http://a:1/v1]\n",
            f"extproc.yaml:1: backends: expected {URL}, got 'http://a:1/v1'",
        ),
        (
            "backends: [[http://a:1]]\n",
            f"extproc.yaml:1: backends: each item is plain text: expected {URL}",
        ),
        (
            "redact_headers: [a b]\n",
            "extproc.yaml:1: redact_headers: expected header names, such as x-internal-token, got 'a b'",
        ),
        ("- workers\n", "extproc.yaml:1: expected lines such as `name: value`"),
        ("workers\n", "extproc.yaml:1: expected lines such as `name: value`"),
        ("workers: 1\n  port: 2\n", "extproc.yaml:2: not YAML: mapping values are not allowed here"),
        ("workers: 'x\n", "extproc.yaml:2: not YAML: found unexpected end of stream"),
        ("workers: 1\n---\nport: 1\n", "extproc.yaml:2: not YAML: but found another document"),
    ],
)
def test_a_wrong_line_is_named(text: str, message: str) -> None:
    """File and line, what was seen, what was expected."""
    assert mistake(text) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "port: 1\nmemory_bytes: 1 MiB\n",
            "extproc.yaml:2: memory_bytes is no setting any more: it never had an effect; leave it out",
        ),
        (
            "hold_total_bytes: 1000\n",
            "extproc.yaml:1: hold_total_bytes (1000) is less than hold_request_bytes (512 KiB); expected at least the same",
        ),
        (
            "retention_bytes: 1 MiB\n",
            "extproc.yaml:1: retention_bytes (1 MiB) is less than one segment, segment_bytes (64 MiB); expected at least the same, or 0 for no limit",
        ),
        ("port: 9464\n", "extproc.yaml:1: admin_port and port are both 9464; each needs its own port"),
        (
            "tls_certificate: a.pem\n",
            "extproc.yaml:1: tls_certificate is set without tls_private_key; TLS needs both",
        ),
        (
            "tls_private_key: a.key\n",
            "extproc.yaml:1: tls_private_key is set without tls_certificate; TLS needs both",
        ),
        (
            "tls_client_ca: ca.pem\n",
            "extproc.yaml:1: tls_client_ca is set without tls_certificate and tls_private_key",
        ),
        (
            "tls_certificate: a\ntls_private_key: b\nlisten: unix:x.sock\n",
            "extproc.yaml:3: listen is a Unix socket, and TLS is configured; TLS needs HOST:PORT",
        ),
        (
            "workers: 4\nlisten: 127.0.0.1:65533\n",
            "extproc.yaml:2: listen: 4 workers need ports up to 65535 from 65533 on",
        ),
        (
            "listen: 0.0.0.0:50051\n",
            "extproc.yaml:1: listen: '0.0.0.0:50051' is not on loopback, and prompts would cross the network in the clear; use 127.0.0.1:PORT, unix:PATH, or tls_certificate and tls_private_key",
        ),
    ],
)
def test_settings_that_contradict_each_other(text: str, message: str) -> None:
    """The place is that of a setting somebody wrote, never of a default."""
    assert mistake(text) == message


@pytest.mark.parametrize(
    ("environ", "flags", "message"),
    [
        (
            {"EXTPROC_WORKERS": "none"},
            {},
            f"EXTPROC_WORKERS: workers: expected {COUNT}, got 'none'",
        ),
        (
            {"EXTPROC_WORKER": "2"},
            {},
            "EXTPROC_WORKER: there is no such setting; did you mean EXTPROC_WORKERS?",
        ),
        (
            {"EXTPROC_PORT": "tcp://10.0.0.1:50051"},
            {},
            f"EXTPROC_PORT: port: expected {PORT}, got 'tcp://10.0.0.1:50051'",
        ),
        ({}, {"workers": 0}, f"--workers: workers: expected {COUNT}, got '0'"),
        (
            {},
            {"backends": ("ftp://a",)},
            f"--backend: backends: expected {URL}, got 'ftp://a'",
        ),
        ({}, {"port": 9901}, "--port: envoy_admin_port and port are both 9901; each needs its own port"),
    ],
)
def test_a_wrong_variable_or_flag_is_named(environ: dict[str, str], flags: dict[str, Any], message: str) -> None:
    """The place of a value that came from no file is the variable or the flag."""
    assert mistake("", environ, **flags) == message


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    """A named file must exist; the one of the working directory need not."""
    with pytest.raises(ConfigError, match=r"^nowhere\.yaml: cannot be read: No such file or directory$"):
        config.load("nowhere.yaml", environ={})
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        config.load(tmp_path, environ={})


def test_a_dangling_link_in_the_working_directory_is_no_missing_file(tmp_path: Path) -> None:
    """Settings that somebody meant to have are never silently replaced by the defaults."""
    (tmp_path / "extproc.yaml").symlink_to("gone.yaml")
    with pytest.raises(ConfigError, match=r"^extproc\.yaml: cannot be read"):
        config.load(environ={})


@pytest.mark.parametrize("data", [b"workers: \xff\n", b"workers: \x00\n", b"\x80\x04N."])
def test_a_file_that_is_no_text_is_named(data: bytes) -> None:
    """Bytes that are not UTF-8 text are a mistake like any other."""
    assert re.match(r"extproc\.yaml: not YAML: ", mistake(data))


def test_a_file_nested_without_end_is_a_mistake_like_any_other() -> None:
    """The YAML parser's own recursion limit does not reach the user as a traceback."""
    assert mistake("[" * 100_000) == "extproc.yaml: nested too deeply; the file is a flat list of `name: value`"


def test_a_long_or_hostile_value_is_shown_short_and_escaped() -> None:
    """An error message is one line without control characters, whatever the file holds."""
    message = mistake('workers: "\\e[31m' + "x" * 1000 + '"\n')
    assert len(message) < 200
    assert message.isprintable()


# The rest --------------------------------------------------------------------------------------------------


def test_the_shipped_file_shows_every_setting_with_its_default() -> None:
    """With every `# name: value` line of extproc.yaml taken out of its comment, the result is the defaults."""
    text = shipped_file().read_text(encoding="utf-8")
    shown = dict(re.findall(r"(?m)^# ([a-z_]+): (.*)$", text))
    assert set(shown) == set(SETTINGS)
    examples = {name for name, setting in SETTINGS.items() if setting.default in (None, ())}
    loaded = read("".join(f"{name}: {value}\n" for name, value in shown.items() if name not in examples))
    assert loaded == Config()
    for name in examples - {"tls_certificate", "tls_private_key", "tls_client_ca"}:
        assert getattr(read(f"{name}: {shown[name]}\n"), name) not in (None, ())


def test_the_shipped_file_sets_nothing() -> None:
    """Whoever copies it changes nothing by that."""
    assert config.load(shipped_file(), environ={}) == Config()


def shipped_file() -> Path:
    """Where the shipped extproc.yaml is, installed or in the checkout."""
    return Path(str(shipped("extproc.yaml")))


def test_json_carries_every_setting_to_a_worker() -> None:
    """What a worker reads from its standard input equals what the supervisor has."""
    config_ = read(
        "backends: [http://a:1]\ndata_dir: d\nlisten: 127.0.0.1:1\ntls_certificate: c\ntls_private_key: k\ntls_client_ca: a\nredact_headers: [a]\nredact_query: [b]\nmetric_models: [m]\npage_replay_to: [a=http://b:1]\npage_token_file: t\nfree_space_floor_bytes: 5\ndrain_seconds: 1.5\n"
    )
    assert "\n" not in config_.to_json()
    assert Config.from_json(config_.to_json()) == config_
    assert Config.from_json(Config().to_json().encode()) == Config()


@pytest.mark.parametrize(
    ("listen", "worker", "address"),
    [
        (None, 0, "unix:d/run/extproc.sock"),
        (None, 2, "unix:d/run/extproc.sock.2"),
        ("unix:/run/x", 0, "unix:/run/x"),
        ("unix:/run/x", 1, "unix:/run/x.1"),
        ("127.0.0.1:5000", 3, "127.0.0.1:5003"),
        ("[::1]:5000", 1, "[::1]:5001"),
        ("localhost:0", 1, "localhost:0"),
        ("[::1]:0", 1, "[::1]:0"),
    ],
)
def test_each_worker_has_its_own_address(listen: str | None, worker: int, address: str) -> None:
    """Worker N > 0 adds .N to a path and N to a port; port 0 stays any free one."""
    assert Config(listen=listen, data_dir=Path("d")).address(worker) == address


def test_a_derived_socket_path_that_is_too_long_says_what_to_do() -> None:
    """The system cuts nothing off: a long data directory needs a socket elsewhere."""
    with pytest.raises(ConfigError, match=r"longer than the 107 bytes .* set listen to a shorter one"):
        Config(data_dir=Path("d" * 120)).address()


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_is_documented_in_a_line(name: str) -> None:
    """A meaning, a default that can be shown, a variable and a flag."""
    setting = SETTINGS[name]
    assert setting.meaning
    assert "\n" not in setting.meaning + setting.shown_default
    assert "|" not in setting.meaning
    assert setting.variable == "EXTPROC_" + name.upper()


def test_a_former_value_is_taken_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """What a configuration of an earlier version names goes on under its new name."""
    assert read("workers: 2\ntransport: completion_queue\n").transport == "http2"
    assert "extproc.yaml:2: transport: there is no completion_queue any more, and http2 is taken" in caplog.text
