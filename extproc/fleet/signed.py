"""The list of what an erasure took out, signed, so that it can be shown later and nobody can have written it since.

    {"version": 1, "at": ..., "by": ..., "ids": [...], "segments": [...], ..., "public_key": ..., "signature": ...}

The signature is Ed25519 over the list without `signature`, as JSON with sorted names and nothing between. The key is
made at the first erasure, 0600, beside what it signs for: `erasure.key` of the data directory. Whoever knows its public
half, which every list repeats, can check a list with any implementation of Ed25519; `check` does.
"""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from extproc import fs
from extproc.errors import JournalError

KEY_NAME: Final = "erasure.key"
_BYTES: Final = 32


def sign(fields: Mapping[str, Any], directory: Path) -> bytes:
    """The list as it is kept. The key is that of a directory. Raises JournalError where that cannot be read or made."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415 - rarely needed

    key = Ed25519PrivateKey.from_private_bytes(_key(directory))
    public = base64.b64encode(key.public_key().public_bytes_raw()).decode("ascii")
    complete = {**fields, "public_key": public}
    signature = base64.b64encode(key.sign(_signed(complete))).decode("ascii")
    return json.dumps({**complete, "signature": signature}, indent=1).encode("ascii") + b"\n"


def check(text: bytes, public_key: str | None = None) -> bool:
    """Whether a list is as it was signed, and by this key where one is given."""
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey  # noqa: PLC0415

    try:
        fields = json.loads(text)
        signature = base64.b64decode(fields.pop("signature"), validate=True)
        if public_key not in (None, fields["public_key"]):
            return False
        key = Ed25519PublicKey.from_public_bytes(base64.b64decode(fields["public_key"], validate=True))
        key.verify(signature, _signed(fields))
    except (InvalidSignature, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False
    return True


def _signed(fields: Mapping[str, Any]) -> bytes:
    return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode("ascii")


def _key(directory: Path) -> bytes:
    path = directory / KEY_NAME
    try:
        key = fs.once(path, lambda: secrets.token_bytes(_BYTES))
    except OSError as error:
        raise JournalError(f"{path}: {error.strerror}") from error
    if len(key) != _BYTES:
        raise JournalError(f"{path}: has {len(key)} bytes, not {_BYTES}")
    return key
