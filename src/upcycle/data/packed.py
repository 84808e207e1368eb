"""Folders whose photos are not laid out in classes: larger files hold them, or lists of their own as the Hub has."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from upcycle.data.archives import PARQUET, TARS, has_images, list_archives
from upcycle.data.folders import SPLITS, key, walk
from upcycle.data.formats import ENDINGS
from upcycle.data.listing import Layout, ListedFile, Listing
from upcycle.data.table import list_manifest
from upcycle.errors import DataError, shown
from upcycle.remote import Address, below, place

_MOST_FOLDERS = 100
"""Folders below DATA in which lists and larger files are looked for."""
METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")


def metadata_in(files: Sequence[str]) -> list[str]:
    """The files that list the photos of their folder, as the Hub has them."""
    return [name for name in files if PurePosixPath(name).name in METADATA]


def inside_folder(listing: Listing, folder: str, split: str) -> Iterator[ListedFile]:
    """The rows of a folder's list as paths below the root; DataError for one that leads out of the folder."""
    for row in listing.rows:
        path = PurePosixPath(row.path)
        if path.is_absolute() or ".." in path.parts or place(row.path) != Path(row.path):
            raise DataError(f"{shown(folder or '.')}: {shown(row.path)} leads out of the folder: mend its list")
        yield row._replace(path=f"{folder}/{row.path}" if folder else row.path, split=row.split or split)


def list_packed(data: Path, layout: Layout, cache: Path) -> Listing | None:
    """The photos of a folder of tars, of Parquet files, or with the Hub's list of its own; None for any other."""
    top = _names(data)
    if top is None:
        return None
    ours = [
        name for name in top if name.lower().endswith((*TARS, *PARQUET)) and PurePosixPath(name).name not in METADATA
    ]
    if (
        ours
        and not _holds_photos(data, top)
        and (any(name.lower().endswith(TARS) for name in ours) or has_images(data / ours[0]))
    ):
        return list_archives(data, ours, layout, cache)
    lists = metadata_in(top)
    if not lists:
        return None
    own = replace(layout, columns={"path": "file_name", **layout.columns})
    try:
        found = [(str(PurePosixPath(name).parent), list_manifest(data / name, own)) for name in lists]
    except DataError:
        if _holds_photos(data, top, in_folders=True):  # a list of something else, beside classes
            return None
        raise
    folders = [("" if folder == "." else folder, listing) for folder, listing in found]
    rows = [row for folder, one in folders for row in inside_folder(one, folder, SPLITS.get(key(folder), ""))]
    excluded = [file for _, one in folders for file in one.excluded]
    return Listing(
        data,
        layout,
        rows,
        excluded,
        classes=frozenset(row.label for row in rows),
        splits=frozenset(row.split for row in rows) - {""},
        notes=tuple(note for _, one in folders for note in one.notes),
    )


def _holds_photos(data: Path, names: Sequence[str], *, in_folders: bool = False) -> bool:
    """Whether there is a photo anywhere below a folder, or in a folder in it that has no list of its own."""
    if isinstance(data, Address):
        found = (PurePosixPath(name) for name in names)
    else:
        found = (PurePosixPath(folder, name) for folder, files in walk(data).files.items() for name in files)
    photos = (path for path in found if path.name.lower().endswith(ENDINGS))
    listed = {str(PurePosixPath(name).parent) for name in metadata_in(names)} if in_folders else set()
    return any(not in_folders or (len(path.parts) > 1 and str(path.parent) not in listed) for path in photos)


def _names(data: Path) -> list[str] | None:
    """The files of a folder and of those right in it, where some may hold photos or list them; None where none does."""
    if isinstance(data, Address):
        found = [path for path, _ in below(data)]
        wanted = (*TARS, *PARQUET, *METADATA)
        return found if any(path.lower().endswith(wanted) for path in found) else None
    top = sorted(os.scandir(data), key=lambda entry: entry.name)
    folders = [entry for entry in top if entry.is_dir() and not entry.name.startswith(".")]
    if len(folders) > _MOST_FOLDERS:
        folders = []
    inside = [f"{folder.name}/{name}" for folder in folders for name in _packed_names(Path(folder.path))]
    names = [entry.name for entry in top if entry.is_file()] + inside
    return names if any(name.lower().endswith((*TARS, *PARQUET, *METADATA)) for name in names) else None


def _packed_names(folder: Path) -> list[str]:
    """The files of a folder that may hold photos or list them."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        return sorted(
            one.name for one in entries if one.name.lower().endswith((*TARS, *PARQUET)) or one.name in METADATA
        )
    return []
