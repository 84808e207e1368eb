"""An export on the Hugging Face Hub."""

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
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    show, source = show or default_show(), expanded(folder)
    names = [*bundle.read_bundle(source).files, bundle.FILE]
    if name.count("/") != 1:
        raise ConfigError(f"{name!r} names no repository: give OWNER/NAME")
    api = HfApi(library_name="upcycle")
    try:
        address = api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=source, allow_patterns=names, commit_message="Add model")
    except HFValidationError as error:
        raise ConfigError(f"{name!r} names no repository: {error}") from None
    except (HfHubHTTPError, OSError) as error:
        raise StorageError(f"the Hub did not take {name}: {str(error).splitlines()[0]}") from None
    show.message(f"{source}: {', '.join(names)} are at {address}")
    return str(address)
