"""An object store, in what is asked of it here.

    bucket = Bucket.open("s3://recordings/production", endpoint=None)
    bucket.create(path, data)            # made now, or there already with the same content; Conflict with another
    bucket.read(path)
    for each in bucket.objects("v1/raw"): each.path, each.size
    bucket.replace(path, data, version)  # what was read, and only that
    bucket.delete(path)

All raise BucketError, in one line. Credentials, region and endpoint come from the environment, as the SDKs take them.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import urlsplit

from extproc.config import BUCKET_SCHEMES
from extproc.errors import BucketError, ConfigError, Conflict

if TYPE_CHECKING:
    from obstore.store import ObjectStore

MISSING: Final = (
    "a bucket needs obstore and pyarrow, which are not installed here: pip install 'extproc[fleet]', "
    "or pip install obstore pyarrow"
)
_CONNECT_SECONDS: Final = 5
_REQUEST_SECONDS: Final = 300.0
_RETRY_SECONDS: Final = 30
_RETRIES: Final = 4
_LONGEST: Final = 300
_FOR_DEVELOPERS: Final = "\n\nDebug source:"
_MEASURED: Final = re.compile(
    r" in [0-9.]+[nµm]?s(?:, after \d+ retries, max_retries: \d+, retry_timeout: \S+ *)?(?= - )"
)
"""How long the library has tried: another time in each error."""


@dataclass(frozen=True, slots=True)
class Found:
    """An object as it is listed."""

    path: str
    size: int
    version: str | None
    """The store's tag of this content, for `replace`."""


class Bucket:
    """One bucket, or a part of it under a prefix. Used by any number of threads."""

    def __init__(self, store: ObjectStore, url: str) -> None:
        self.url = url
        self._store = store

    @classmethod
    def open(
        cls,
        url: str,
        endpoint: str | None = None,
        *,
        retries: int = _RETRIES,
        request_seconds: float = _REQUEST_SECONDS,
    ) -> Self:
        """The bucket of a URL. Nothing is asked of it yet. Raises ConfigError, and BucketError without the library.

        `request_seconds`: how long one request may take, from its beginning to the last byte of its answer.
        """
        parts = urlsplit(url)
        if parts.scheme not in BUCKET_SCHEMES:
            raise ConfigError(f"{url}: expected s3://BUCKET/PREFIX, gs://, az:// or file:///DIRECTORY")
        try:
            from obstore.store import from_url  # noqa: PLC0415 - an extra
        except ImportError:
            raise BucketError(MISSING) from None
        try:
            return cls(from_url(url, **_options(parts.scheme, endpoint, retries, request_seconds)), url)
        except Exception as error:  # noqa: BLE001 - whatever the library finds wrong with it
            raise ConfigError(f"{url}: {_line(error)}") from None

    def create(self, path: str, data: bytes) -> bool:
        """Make an object. False where it is there already, with this content. Raises Conflict where it has another."""
        import obstore  # noqa: PLC0415
        from obstore.exceptions import AlreadyExistsError, PreconditionError  # noqa: PLC0415

        try:
            with _told(path, AlreadyExistsError, PreconditionError):
                obstore.put(self._store, path, data, mode="create", use_multipart=False)
        except (AlreadyExistsError, PreconditionError):
            found = self.read(path)
            if found == data:
                return False
            raise Conflict(
                f"{path}: the bucket has something else under this name (SHA-256 {_sha256(found)}, and here it is "
                f"{_sha256(data)}); nothing is overwritten"
            ) from None
        return True

    def replace(self, path: str, data: bytes, version: str | None) -> None:
        """Put this in the place of what was read as this version, where the store can tell them apart."""
        import obstore  # noqa: PLC0415

        conditional: Any = (
            {"e_tag": version} if version is not None and not self.url.startswith("file:") else "overwrite"
        )
        with _told(path):
            obstore.put(self._store, path, data, mode=conditional, use_multipart=False)

    def read(self, path: str) -> bytes:
        """All of an object."""
        return self.read_version(path)[0]

    def read_version(self, path: str) -> tuple[bytes, str | None]:
        """All of an object, and which version of it that was."""
        import obstore  # noqa: PLC0415

        with _told(path):
            got = obstore.get(self._store, path)
            return bytes(got.bytes()), got.meta["e_tag"]

    def start_of(self, path: str, most: int) -> bytes:
        """The first bytes of an object, as many as there are up to `most`."""
        import obstore  # noqa: PLC0415

        with _told(path):
            return bytes(obstore.get_range(self._store, path, start=0, length=most))

    def has(self, path: str) -> bool:
        """Whether there is such an object."""
        import obstore  # noqa: PLC0415

        try:
            with _told(path, FileNotFoundError):
                obstore.head(self._store, path)
        except FileNotFoundError:
            return False
        return True

    def objects(self, prefix: str) -> Iterator[Found]:
        """The objects under a prefix, in no order."""
        import obstore  # noqa: PLC0415

        with _told(prefix):
            for batch in obstore.list(self._store, prefix=prefix, chunk_size=1000):
                for each in batch:
                    yield Found(each["path"], each["size"], each["e_tag"])

    def folders(self, prefix: str) -> list[str]:
        """The names of the folders right under a prefix, sorted."""
        import obstore  # noqa: PLC0415

        with _told(prefix):
            found = obstore.list_with_delimiter(self._store, prefix=prefix)["common_prefixes"]
        return sorted(path.rstrip("/").rpartition("/")[2] for path in found)

    def delete(self, path: str) -> None:
        """Take an object out; one that is gone already is none of our business."""
        import obstore  # noqa: PLC0415

        with contextlib.suppress(FileNotFoundError), _told(path, FileNotFoundError):
            obstore.delete(self._store, path)


def _options(scheme: str, endpoint: str | None, retries: int, request_seconds: float) -> dict[str, Any]:
    if scheme == "file":
        return {"mkdir": True}
    named = endpoint or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    seconds = timedelta(seconds=1)
    options: dict[str, Any] = {
        "client_options": {
            "connect_timeout": _CONNECT_SECONDS * seconds,
            "timeout": request_seconds * seconds,
            "allow_http": bool(named and named.startswith("http://")),
        },
        "retry_config": {"max_retries": retries, "retry_timeout": _RETRY_SECONDS * seconds},
    }
    return options | ({"endpoint": named} if named and scheme == "s3" else {})


@contextlib.contextmanager
def _told(path: str, *expected: type[Exception]) -> Iterator[None]:
    """What a store raises as one of ours, but for what the caller expects."""
    from obstore.exceptions import BaseError  # noqa: PLC0415

    try:
        yield
    except expected:
        raise
    except (BaseError, OSError, NotImplementedError, ValueError) as error:
        raise BucketError(f"{path}: {_line(error)}") from error


def _line(error: BaseException) -> str:
    """What a store has answered: the same words each time, so that who says it once knows it again."""
    text = str(error).partition(_FOR_DEVELOPERS)[0].strip() or type(error).__name__
    said = ": ".join(match[1] for name in ("Code", "Message") if (match := re.search(f"<{name}>([^<]*)</", text)))
    if said:
        text = f"{text.partition('<')[0]}{said}"
    text = " ".join(_MEASURED.sub("", text).split())
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "..."


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def directory_url(path: Path) -> str:
    """The URL of a directory of this machine as a bucket."""
    return path.absolute().as_uri()
