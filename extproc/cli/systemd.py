"""The unit with which systemd runs `extproc serve`: restricted to its journal and its socket."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

UNIT: Final = "extproc.service"

_TEXT: Final = """\
# Written by `extproc init --systemd`.
#
#     systemctl link {unit}
#     systemctl enable --now extproc
#
# The journal is in /var/lib/extproc: `extproc log --data-dir /var/lib/extproc`, as root. Envoy connects to
# /run/extproc/extproc.sock; its unit needs `SupplementaryGroups=extproc` and `After=extproc.service` for that.

[Unit]
Description=extproc, a flight recorder for LLM traffic behind Envoy
After=network.target
Before=envoy.service

[Service]
Type=notify
ExecStart={command}
Environment=EXTPROC_DATA_DIR=%S/extproc EXTPROC_LISTEN=unix:%t/extproc/extproc.sock
DynamicUser=yes
User=extproc
StateDirectory=extproc
StateDirectoryMode=0750
RuntimeDirectory=extproc
RuntimeDirectoryMode=0750

# A worker that dies is started again by its supervisor; this is for the supervisor.
Restart=always
RestartSec=1
WatchdogSec=30
# The supervisor ends its workers in order, within drain_seconds of the settings.
KillMode=mixed
TimeoutStopSec={stop_seconds:g}
LimitNOFILE=1048576
OOMScoreAdjust=-500

NoNewPrivileges=yes
CapabilityBoundingSet=
LockPersonality=yes
PrivateDevices=yes
PrivateTmp=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHome={protect_home}
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
ProtectSystem=strict
RemoveIPC=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM
UMask=0077

[Install]
WantedBy=multi-user.target
"""

_HOMES: Final = (Path("/home"), Path("/root"), Path("/run/user"))


def unit(directory: Path, drain_seconds: float) -> str:
    """The unit's text, for the settings in `directory` and the program that this process runs."""
    settings = (directory / "extproc.yaml").resolve()
    command = [*_program(), "serve", "--config", str(settings)]
    return _TEXT.format(
        unit=directory.resolve() / UNIT,
        command=" ".join(map(_quoted, command)),
        stop_seconds=drain_seconds + 20,
        protect_home="read-only" if _is_at_home(settings) or _is_at_home(Path(sys.executable)) else "yes",
    )


def warning() -> str | None:
    """Why the service might not be able to run this program, in words for its operator."""
    if not _is_at_home(Path(sys.executable)):
        return None
    return (
        f"{sys.executable} is in a home directory, which the service's own user can often not read; "
        "install extproc for everybody, such as with: pipx install --global extproc"
    )


def _is_at_home(path: Path) -> bool:
    return any(path.is_relative_to(home) for home in _HOMES)


def _program() -> list[str]:
    """The command beside this interpreter, or else the interpreter with the module, the current directory left out."""
    script = Path(sys.executable).with_name("extproc")
    return [str(script)] if script.is_file() else [sys.executable, "-P", "-m", "extproc"]


def _quoted(word: str) -> str:
    """One word of a command line of systemd's (systemd.service(5)), in which `%` and `$` have a meaning."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"' if any(each in word for each in " \t'\"\\;") else escaped
