"""Photos that lie elsewhere: addresses that fsspec understands, as paths, and reading them in spite of a poor network.

An address may name a part of a file: a member of a tar by its place in it, or a row of a Parquet file with an `image`
column. So one photo is one address, whatever it lies in, and any can be read without the others.
"""

import contextlib
import functools
import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path, PosixPath
from typing import Any, TypeVar

from upcycle.errors import DataError, shown
from upcycle.row_groups import RowGroups

MOST_BYTES = 2**30
"""Bytes of the largest photo that is read."""
PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Seconds before each try after the first, where an address does not answer."""
_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]+):/+(.*)", re.DOTALL)
_SIGNED = re.compile(
    r"://[^/?#]*@|[?&](?:x-amz-|x-goog-|sig=|signature=|token=|key=|credential|policy=|sv=)", re.IGNORECASE
)
MEMBER = re.compile(r"(.*?\.tar)#(\d{1,15})\+(\d{1,15})/.+", re.DOTALL | re.IGNORECASE)
"""ARCHIVE.tar#START+SIZE/NAME: what a member is called decides nothing."""
ROW = re.compile(r"(.*\.parquet)#(\d{1,12})", re.DOTALL | re.IGNORECASE)
"""FILE.parquet#ROW."""
_Found = TypeVar("_Found")
_PACKAGES = {
    "s3": ("s3fs", "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile of ~/.aws"),
    "gs": ("gcsfs", "gcloud auth application-default login"),
    "hf": ("huggingface_hub", "HF_TOKEN, or hf auth login"),
    "az": ("adlfs", "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY"),
    "https": ("aiohttp", "an address that needs none"),
    "http": ("aiohttp", "an address that needs none"),
}
"""By protocol: what reads it, and where its credentials come from."""


_LIBRARIES = ("aiohttp", "aiobotocore", "botocore", "gcsfs", "google", "huggingface_hub", "httpx", "requests", "azure")
"""Those that raise errors of their own."""

_ABSENT = ("NoSuchBucket", "NoSuchKey", "RepositoryNotFoundError", "RevisionNotFoundError", "EntryNotFoundError")
"""Their errors of what is not there, where these have no status."""
ANSWERS = 30.0
"""Seconds that an answer may take, and that nothing may come of it."""


class Address(PosixPath):
    """`scheme://...` where a path is expected; what asks about its file asks the store that holds it.

    Its parts, name and relations are those of a path; it is absolute.
    """

    __slots__ = ()

    def __str__(self) -> str:
        text = super().__str__()
        found = _ADDRESS.fullmatch(text)
        if found is None:  # while the path is put together
            return text
        return f"{found[1]}:///{found[2]}" if found[1] == "file" else f"{found[1]}://{found[2]}"

    def __fspath__(self) -> str:
        return str(self)

    def is_absolute(self) -> bool:
        """True."""
        return True

    def absolute(self) -> "Address":
        """Itself."""
        return self

    def resolve(self, strict: bool = False) -> "Address":  # noqa: ARG002
        """Itself."""
        return self

    def expanduser(self) -> "Address":
        """Itself."""
        return self

    def relative_to(self, *other: Any, **options: Any) -> Path:  # type: ignore[override]
        """A plain path, as it has no scheme."""
        return Path(*super().relative_to(*other, **options).parts)

    def exists(self, **_: object) -> bool:
        """Whether there is a file, or a folder with something in it; DataError where that cannot be known."""
        return self._kind is not None

    def is_dir(self, **_: object) -> bool:
        """Whether it is a folder: over https there are none."""
        return self.scheme not in ("http", "https") and self._kind == "directory"

    def is_file(self, **_: object) -> bool:
        """Whether it is a file, or a part of one."""
        return self._kind == "file"

    @property
    def _kind(self) -> str | None:
        # not by the store's own `exists`, which says no as well where it does not answer
        whole = Address(part_of(str(self))[0])
        try:
            return str(asked(whole, lambda store, path: store.info(path))["type"])
        except FileNotFoundError:
            return None

    def read_bytes(self) -> bytes:
        """Its content."""
        return read(self)

    @property
    def name(self) -> str:
        """The last part, without what signs it."""
        return super().name.partition("?")[0]

    @property
    def scheme(self) -> str:
        """What is before the colon."""
        return str(self).partition(":")[0]


def is_address(text: str | Path) -> bool:
    """Whether a text is an address, or a path is one that has lost a slash."""
    if isinstance(text, Address):
        return True
    found = _ADDRESS.fullmatch(str(text))
    return found is not None and len(found[1]) > 1 and not Path(f"{found[1]}:").exists()


def place(text: str | Path) -> Path:
    """A path, or where it says so an address; DataError for one on Windows, whose paths have no such form."""
    if not is_address(text):
        return Path(text)
    if os.name == "nt":
        raise DataError(f"{shown(text)}: addresses are not read on Windows: give a folder or a file")
    return Address(str(text))


def has_secret(address: str) -> bool:
    """Whether an address holds a password or a signature, which no record may hold."""
    return _SIGNED.search(address) is not None


def inside(root: Path, path: str) -> Path:
    """A file below `root`, or where it has a place of its own, there."""
    return Address(path) if "://" in path and is_address(path) else root / path


# ---------------------------------------------------------------- stores


@functools.cache
def _store(scheme: str, pid: int) -> Any:  # noqa: ARG001  a forked process has its own
    import fsspec

    return fsspec.filesystem(scheme, **_patience(scheme))


def _patience(scheme: str) -> dict[str, Any]:
    """Options of a store that give up waiting: without them a lost answer stops a run for minutes."""
    if scheme in ("http", "https"):
        with contextlib.suppress(ImportError):  # told by who opens the store
            import aiohttp

            wait = aiohttp.ClientTimeout(total=None, sock_connect=ANSWERS, sock_read=ANSWERS)
            return {"client_kwargs": {"timeout": wait}}
    if scheme == "s3":
        return {"config_kwargs": {"connect_timeout": ANSWERS, "read_timeout": ANSWERS}}
    return {}


def store_of(address: Path) -> tuple[Any, str]:
    """fsspec's file system of an address, and the path that it has there; DataError where it cannot be had."""
    scheme = str(address).partition(":")[0]
    try:
        store = _store(scheme, os.getpid())
    except (ImportError, ValueError) as error:
        package = _PACKAGES.get(scheme, (f"what fsspec needs for {scheme}://", ""))[0]
        if isinstance(error, ValueError) and "not known" in str(error).lower():
            raise DataError(f"{shown(address)}: {scheme}:// is no protocol that fsspec knows") from None
        raise DataError(f"{shown(address)}: reading {scheme}:// needs {package}: pip install {package}") from None
    return store, store._strip_protocol(str(address))


def asked(address: Path, question: Callable[[Any, str], _Found]) -> _Found:
    """What a store answers, asked again where it does not; FileNotFoundError for what is not there.

    DataError, in one line, for refused credentials, and where the store does not answer within a minute.
    """
    store, path = store_of(address)
    for pause in (*PAUSES, None):
        try:
            return question(store, path)
        except Exception as raised:
            error = _cause(raised)
            if not _of_the_network(error):
                raise
            _explain(address, error)
            if pause is None:
                raise DataError(
                    f"{shown(address)} does not answer ({_reason(error)}): what is done is kept: resume with --resume"
                ) from error
            time.sleep(pause)
    raise AssertionError


def _cause(error: Exception) -> Exception:
    """What has failed, where a store says of any failure that a file is not there."""
    hidden = error.__cause__
    named = isinstance(error, FileNotFoundError) and isinstance(hidden, Exception)
    return hidden if named and _of_the_network(hidden) else error  # type: ignore[arg-type, return-value]


def _of_the_network(error: Exception) -> bool:
    """Whether a store or the way to it has failed: each store's library has its own kinds."""
    if isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError):
        return False
    return isinstance(error, OSError | EOFError | RuntimeError) or _library(error) in _LIBRARIES


def _library(error: Exception) -> str:
    return type(error).__module__.partition(".")[0]


def _status(error: Exception) -> int | None:
    """The status of the answer that an error is about, as HTTP has it; None where there is none."""
    answer = getattr(error, "response", None)
    if isinstance(answer, dict):  # botocore
        found = answer.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        names = ("status", "status_code", "code")
        found = next((value for name in names if (value := getattr(error, name, None)) is not None), None)
        found = getattr(answer, "status_code", None) if found is None else found
    return int(found) if str(found).isdecimal() else None


def _explain(address: Path, error: Exception) -> None:
    """DataError for what no further try changes, FileNotFoundError for what is not there."""
    status, scheme = _status(error), str(address).partition(":")[0]
    if status in (401, 403) or isinstance(error, PermissionError) or "Credential" in type(error).__name__:
        how = _PACKAGES.get(scheme, ("", "the credentials of that store"))[1]
        raise DataError(f"{shown(address)} refuses to be read ({_reason(error)}): give {how}") from error
    if status in (404, 410) or type(error).__name__ in _ABSENT:
        raise FileNotFoundError(shown(address)) from error


def _reason(error: Exception) -> str:
    lines = str(error).splitlines()
    return shown(lines[0] if lines and lines[0] else type(error).__name__)[:200]


def part_of(text: str) -> tuple[str, int, int | None]:
    """The file that an address means, and where in it what is meant begins and how long it is, None for all of it."""
    if found := MEMBER.fullmatch(text):
        return found[1], int(found[2]), int(found[3])
    return (found[1] if (found := ROW.fullmatch(text)) else text), 0, None


def stamp(address: Path) -> tuple[int, int] | None:
    """Size in bytes of an address's file, and a number that is another one once its content is; None without such."""
    return _stamp(part_of(str(address))[0], int(time.monotonic() // 60))


@functools.lru_cache(maxsize=10_000)
def _stamp(file: str, minute: int) -> tuple[int, int] | None:  # noqa: ARG001  parts of one file ask for the same
    try:
        facts = asked(Address(file), lambda store, path: store.info(path))
    except (DataError, FileNotFoundError):
        return None
    mark = next(
        (facts[name] for name in ("ETag", "etag", "blob_id", "md5Hash", "mtime", "LastModified") if facts.get(name)),
        None,
    )
    if mark is None or facts.get("size") is None:
        return None
    return int(facts["size"]), int.from_bytes(hashlib.sha256(str(mark).encode()).digest()[:7], "big")


def read(address: Path) -> bytes:
    """The bytes of a photo; FileNotFoundError, ValueError of a damaged Parquet file, or DataError in one line."""
    if found := ROW.fullmatch(str(address)):
        return _row(address, found[1], int(found[2]))
    name, start, size = part_of(str(address))

    def content(store: Any, path: str) -> bytes:
        if size is not None:
            data: bytes = store.cat_file(path, start=start, end=start + min(size, MOST_BYTES + 1))
            if len(data) != min(size, MOST_BYTES + 1):
                raise EOFError(f"{len(data)} of {size} bytes")
            return data
        return bytes(store.cat_file(path))

    data = asked(Address(name), content)
    if len(data) > MOST_BYTES:
        raise DataError(f"{shown(address)} is larger than {MOST_BYTES // 2**30} GiB")
    return data


def _row(address: Path, file: str, row: int) -> bytes:
    data = asked(Address(file), lambda *_: ROWS.image(file, row))
    if data is None:
        raise FileNotFoundError(shown(address))
    return data


def below(address: Path) -> Iterator[tuple[str, int]]:
    """Path below `address`, with "/", and size of every file there, in order; one row for a file itself."""
    if str(address).startswith("http"):
        raise DataError(f"{shown(address)}: https lists no folder: give a manifest, a Parquet file or a tar")

    def listed(store: Any, path: str) -> list[tuple[str, int]]:
        found = store.find(path, detail=True)
        prefix = len(path.rstrip("/")) + 1
        rows = ((name[prefix:], int(facts.get("size") or 0)) for name, facts in found.items())
        return sorted((name, size) for name, size in rows if name)

    yield from asked(address, listed)


# ---------------------------------------------------------------- rows of Parquet


def parquet_file(address: Path) -> Any:
    """A Parquet file, local or not, opened; pyarrow's errors for one that is none."""
    from pyarrow import parquet

    if not isinstance(address, Address):
        return parquet.ParquetFile(address)
    return asked(address, lambda store, path: parquet.ParquetFile(store.open(path, "rb")))


ROWS = RowGroups(lambda name: parquet_file(Address(name)))
"""The rows of this process."""
