"""An export on the Hugging Face Hub."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from upcycle.bundle import description as bundle
from upcycle.config import expanded
from upcycle.errors import ConfigError, StorageError
from upcycle.reporting.progress import Display, default_show


def push(folder: Path | str, name: str, *, private: bool = True, show: Display | None = None) -> str:
    """Upload an export, as `upcycle export` wrote it, to the repository OWNER/NAME; returns its address.

    The token is huggingface_hub's own: HF_TOKEN, or what `hf auth login` stored. ExportError for a folder that is no
    export, StorageError where the Hub refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError

    show, source = show or default_show(), expanded(folder)
    names = [*bundle.read_bundle(source).files, bundle.FILE]
    if len([part for part in name.split("/") if part]) != 2 or name.count("/") != 1:
        raise ConfigError(f"{name!r} names no repository: give OWNER/NAME")
    api = HfApi(library_name="upcycle")
    show.message(f"uploading {source} to {name}, {sum((source / one).stat().st_size for one in names) / 1e6:.0f} MB")
    try:
        with _no_bars():
            address = api.create_repo(name, private=private, exist_ok=True)
            api.upload_folder(repo_id=name, folder_path=source, allow_patterns=names, commit_message="Add model")
    except HFValidationError as error:
        raise ConfigError(f"{name!r} names no repository: {_first_line(error)}") from None
    except Exception as error:  # of an HTTP library that is another from version to version, or of the uploader
        raise StorageError(f"the Hub did not take {name}: {_first_line(error)}{_advice(error)}") from None
    show.message(f"{source}: {', '.join(names)} are at {address}")
    return str(address)


@contextlib.contextmanager
def _no_bars() -> Iterator[None]:
    """Without huggingface_hub's progress bars, which an error would leave on its line."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


def _first_line(error: BaseException) -> str:
    """The first line of an error, and of what caused it."""
    lines = (line.strip() for line in str(error).splitlines())
    first = next(filter(None, lines), type(error).__name__)
    return first if error.__cause__ is None else f"{first} ({_first_line(error.__cause__)})"


def _advice(error: BaseException) -> str:
    """What helps where the Hub knows no user, or not one who may write there."""
    if getattr(getattr(error, "response", None), "status_code", None) in (401, 403):
        return "; set HF_TOKEN to a token that may write there, or run hf auth login"
    return ""
