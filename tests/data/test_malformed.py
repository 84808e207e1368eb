"""Files from real folders' worst corners: pixels of the right shape, or one line that says why not."""

import os
import resource
import time
from pathlib import Path

import numpy as np
import pytest

from tests.data.malformed import corpus, picture, stored
from upcycle.data import decode
from upcycle.data.frames import open_cache
from upcycle.data.index import index_images
from upcycle.data.preprocessing import Decoding
from upcycle.errors import DataError, DecodeError

SIDE = 32
KNOWN_GOOD = ("in ", "PNG of", "animated", "palette", "ICC junk", "EXIF", "behind it", "comment", "thumbnail")


def outcome(data: bytes) -> str:
    """ "pixels", or the reason there are none; anything else than these is raised."""
    try:
        width, height = decode.header(data)[:2]
        pixels = decode.load_image(data, Decoding(SIDE, "bilinear"))
    except DecodeError as error:
        return str(error)
    assert decode.target_size(width, height, SIDE)[::-1] == pixels.shape[:2]
    assert (3, np.uint8) == (pixels.shape[2], pixels.dtype)
    return "pixels"


def test_every_file_of_the_corpus_is_decoded_or_refused_in_one_line_within_bounds() -> None:
    files = corpus()
    assert len(files) >= 300
    before, decoded = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0
    for what, data in files:
        began = time.process_time()
        found = outcome(data)
        assert time.process_time() - began < 20, what
        assert 1 == len(found.splitlines()), what
        assert len(found) < 500, what
        decoded += found == "pixels"
        if any(words in what for words in KNOWN_GOOD):
            assert found == "pixels", f"{what}: {found}"
    assert 80 < decoded < 250
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2_000_000  # kB


def test_a_folder_of_the_whole_corpus_is_scanned_and_decoded_to_the_end(tmp_path: Path) -> None:
    names = ["with space", "new\nline", "emoji 🐜", "quote'\"", "-rf", "a" * 251]
    for label in ("ants", "bees"):
        (tmp_path / "data" / label).mkdir(parents=True)
        for number, name in enumerate(names):
            (tmp_path / "data" / label / f"{name}.jpg").write_bytes(stored(picture(40 + number, 30), "JPEG"))
    for number, (_, content) in enumerate(corpus()):
        if len(content) < 10**6:  # the wrong ending more often than not
            (tmp_path / "data" / "ants" / f"{number}.{('jpg', 'png', 'webp')[number % 3]}").write_bytes(content)
    os.mkfifo(tmp_path / "data" / "bees" / "pipe.jpg")
    (tmp_path / "data" / "bees" / "circle").symlink_to(tmp_path / "data" / "bees", target_is_directory=True)
    (tmp_path / "data" / "bees" / "self.png").symlink_to("self.png")
    (tmp_path / "data" / "bees" / "folder.png").mkdir()
    index = index_images(tmp_path / "data")
    built, failures = open_cache(index, Decoding(SIDE, "bilinear"), root=tmp_path / "cache")
    used = index.without(failures)
    assert len(used) == len(built.without(failures))
    assert {f"bees/{name}.jpg" for name in names} <= {used.path(at) for at in range(len(used))}
    reasons = {file.path: file.reason for file in used.quarantined}
    said = "a broken link, or not a regular file"
    assert [said, said] == [reasons["bees/pipe.jpg"], reasons["bees/self.png"]]
    assert len(reasons) > 100


@pytest.mark.parametrize("how", ["gone", "another"])
def test_a_file_that_vanishes_or_changes_between_scan_and_read_ends_in_one_line(tmp_path: Path, how: str) -> None:
    for label in ("ants", "bees"):
        (tmp_path / label).mkdir()
        for number in range(3):
            (tmp_path / label / f"{number}.png").write_bytes(stored(picture(20 + number, 20), "PNG"))
    index = index_images(tmp_path)
    if how == "gone":
        index.file(1).unlink()
    else:
        index.file(1).write_bytes(stored(picture(9, 9), "PNG"))
    with pytest.raises(DataError, match=r"(cannot be read any more|changed since it was scanned).*: run again$"):
        open_cache(index, Decoding(SIDE, "bilinear"), root=tmp_path / "cache")
