from pathlib import Path

import pytest

from tests.reporting.pages import picture
from upcycle.reporting.html import LARGEST_THUMBNAIL, thumbnail
from upcycle.rundir import write_bytes


@pytest.mark.parametrize("name", ["../secret", "a" * 63 + "G", ""])
def test_only_a_content_hash_names_a_thumbnail(tmp_path: Path, name: str) -> None:
    write_bytes(tmp_path / f"{name}.jpg", picture(0))
    (tmp_path / "thumbnails").mkdir()
    assert thumbnail([tmp_path / "thumbnails"], name) is None


def test_a_thumbnail_that_is_too_large_for_one_is_left_out(tmp_path: Path) -> None:
    write_bytes(tmp_path / f"{'a' * 64}.jpg", bytes(LARGEST_THUMBNAIL + 1))
    write_bytes(tmp_path / f"{'b' * 64}.jpg", b"small")
    assert (None, "data:image/jpeg;base64,c21hbGw=") == (
        thumbnail([tmp_path], "a" * 64),
        thumbnail([tmp_path], "b" * 64),
    )


def test_a_link_in_a_strangers_run_directory_is_no_thumbnail(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    write_bytes(secret, b"secret")
    (tmp_path / f"{'c' * 64}.jpg").symlink_to(secret)
    assert thumbnail([tmp_path], "c" * 64) is None
